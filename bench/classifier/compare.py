"""Herd's classifier beside fastText's: quality on the same texts kept back, time, and whether each reads the other's file.

    pip install fasttext-wheel "numpy<2"
    python3 bench/classifier/compare.py target/release/herd runs/quickstart [--rounds 3]

Texts are the paragraphs of the run's documents of at least 200 characters; the label is the document's domain. A fifth of
the documents is kept back whole. Both train in turns with the same shape (dimension 32, 8 epochs, pairs of words, 2^18
rows, words that occur twice) on one thread and on two.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import tempfile
import time

import fasttext

fasttext.FastText.eprint = lambda *_: None
arguments = argparse.ArgumentParser()
arguments.add_argument("herd")
arguments.add_argument("run")
arguments.add_argument("--rounds", type=int, default=3)
options = arguments.parse_args()

train, test = [], []
rows = subprocess.run(
    [options.herd, "data", "sample", options.run, "-n", "100000000", "--columns", "id,text,domain"],
    check=True, capture_output=True, text=True,
).stdout
for row in map(json.loads, rows.splitlines()):
    kept_back = int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 5 == 0
    for paragraph in row["text"].split("\n"):
        if len(paragraph) >= 200:
            (test if kept_back else train).append((" ".join(paragraph.split()), row["domain"]))
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "train.jsonl").write_text("".join(json.dumps({"text": t, "label": l}) + "\n" for t, l in train))
(folder / "train.txt").write_text("".join(f"__label__{l} {t}\n" for t, l in train))
size = sum(len(t.encode()) for t, _ in train)
print(json.dumps({"train": len(train), "test": len(test), "megabytes": round(size / 1e6, 2)}))


def accuracy(model):
    right = sum(model.predict(t)[0][0] == f"__label__{l}" for t, l in test)
    return round(right / len(test), 4)


for round_ in range(options.rounds):
    for threads in (1, 2):
        path = folder / "herd.bin"
        start = time.perf_counter()
        out = subprocess.run(
            [options.herd, "data", "train-classifier", path, folder / "train.jsonl", "--held-out", "0", "--epochs", "8",
             "--learning-rate", "0.5", "--threads", str(threads), "--json", "--quiet"],
            check=True, capture_output=True, text=True,
        )
        whole = time.perf_counter() - start
        seconds = json.loads(out.stdout)["seconds"]
        ours = fasttext.load_model(str(path))
        start = time.perf_counter()
        theirs = fasttext.train_supervised(
            str(folder / "train.txt"), dim=32, epoch=8, lr=0.5, wordNgrams=2, bucket=1 << 18, minCount=2, minn=0, maxn=0,
            thread=threads, verbose=0,
        )
        their_seconds = time.perf_counter() - start
        print(json.dumps({
            "round": round_, "threads": threads,
            "herd": {"seconds": round(seconds, 3), "with_start": round(whole, 3), "accuracy": accuracy(ours)},
            "fasttext": {"seconds": round(their_seconds, 3), "accuracy": accuracy(theirs)},
        }))
