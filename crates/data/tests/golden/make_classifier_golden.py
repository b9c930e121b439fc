"""Makes what the tests of classifiers and of language identification compare with, by the original fastText.

    pip install fasttext-wheel "numpy<2"        (0.9.2 here)
    python3 make_classifier_golden.py HANDBOOK

HANDBOOK is a folder of texts, one subfolder or file per language; lines of them become the test of lid.176.
"""

import json
import pathlib
import sys

import fasttext

fasttext.FastText.eprint = lambda *_: None
here = pathlib.Path(__file__).parent
crate = here.parent.parent

prose = [l.strip() for l in (crate / "tests/prose.txt").read_text().splitlines() if len(l) > 60]
code = [l.strip() for f in ["src/hash.rs", "src/lines.rs", "src/funnel.rs"] for l in (crate / f).read_text().splitlines()]
code = [l for l in code if len(l) > 30 and not l.startswith("//")]
both = here / "classifier.txt"
both.write_text("".join(f"__label__prose {l}\n" for l in prose) + "".join(f"__label__code {l}\n" for l in code))

texts = prose[::5] + code[::7] + ["", "naïve 東京 Straße", "__label__prose in the text", "two\nlines of\ttext\u00a0here"]
for name, arguments in {
    "softmax": dict(loss="softmax", minn=2, maxn=4, wordNgrams=3, bucket=400, dim=6),
    "hierarchical": dict(loss="hs", minn=0, maxn=0, wordNgrams=2, bucket=300, dim=5),
    "one_versus_all": dict(loss="ova", minn=0, maxn=0, wordNgrams=1, bucket=0, dim=5),
}.items():
    model = fasttext.train_supervised(str(both), thread=1, epoch=8, lr=0.5, minCount=2, seed=1, verbose=0, **arguments)
    model.save_model(str(here / f"classifier.{name}.bin"))
    with open(here / f"classifier.{name}.jsonl", "w") as out:
        for text in texts:
            labels, scores = model.predict(text.replace("\n", " "), k=-1)
            pairs = {l.removeprefix("__label__"): round(float(p), 6) for l, p in zip(labels, scores)}
            out.write(json.dumps({"text": text, "probabilities": pairs}, ensure_ascii=False) + "\n")
both.unlink()

lid = fasttext.load_model(str(crate / "assets/lid.176.ftz"))
with open(here / "languages.jsonl", "w") as out:
    for file in sorted(pathlib.Path(sys.argv[1]).rglob("*.txt")):
        lines = [l.strip() for l in file.read_text(errors="ignore").splitlines() if 20 < len(l.strip()) < 300]
        for line in lines[:: max(1, len(lines) // 12)][:12]:
            labels, scores = lid.predict(line)
            row = {"text": line, "language": labels[0].removeprefix("__label__"), "score": round(float(scores[0]), 5)}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
