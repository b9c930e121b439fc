#!/usr/bin/env python3
"""Scores main-text extraction on annotated pages, beside trafilatura and resiliparse.

    score.py --data FOLDER [--extract PROGRAM] [--peers] [--halves] [--json]

FOLDER holds `article-extraction/` (ground-truth.json and html/*.html.gz: full bodies, MIT, Scrapinghub 2020) and
`trafilatura/` (evaldata.json and html/*.html.gz: strings that must be and must not be in the text). PROGRAM prints a
JSON object per file (`cargo build --release -p herd-data --example extract`). Peers: `pip install trafilatura resiliparse`.

Measures. Article bodies: precision and recall of 4-word shingles per page (multisets), their means, F1 of the means.
Strings: true and false positives over all pages, as trafilatura's own evaluation counts them. Halves: the pages by the
parity of their names' MD5; rules are made while looking at the even ones only, and the odd ones tell whether they hold.
Herd is at fault (exit status 1) below the least F1 and precision of MINIMUM.
"""

import argparse
import gzip
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

MINIMUM = {"article-extraction": {"f1": 0.978, "precision": 0.965}, "trafilatura": {"f1": 0.92, "precision": 0.9}}
WORD = re.compile(r"\w+", re.UNICODE)


def shingles(text, n=4):
    words = WORD.findall(text or "")
    if len(words) < n:
        return Counter([tuple(words)] if words else [])
    return Counter(zip(*(words[i:] for i in range(n))))


def body_score(truth, texts):
    precisions, recalls, pages = [], [], []
    for name, page in truth.items():
        wanted, got = shingles(page["articleBody"]), shingles(texts.get(name, ""))
        both = sum((wanted & got).values())
        precision = both / sum(got.values()) if got else 0.0
        recall = both / sum(wanted.values()) if wanted else 1.0
        pages.append((2 * precision * recall / (precision + recall) if both else 0.0, precision, recall, name))
        if got:
            precisions.append(precision)
        if wanted:
            recalls.append(recall)
    p, r = statistics.mean(precisions), statistics.mean(recalls)
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r), "pages": sorted(pages)}


def string_score(truth, texts):
    tp = fn = fp = tn = 0
    pages = []
    for page in truth.values():
        text = texts.get(page["file"], "") or ""
        missing = [s for s in page["with"] if s not in text]
        extra = [s for s in page["without"] if s in text]
        tp, fn = tp + len(page["with"]) - len(missing), fn + len(missing)
        fp, tn = fp + len(extra), tn + len(page["without"]) - len(extra)
        pages.append((len(missing) + len(extra), page["file"], missing, extra))
    p, r = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r), "accuracy": (tp + tn) / (tp + tn + fp + fn), "pages": sorted(pages, key=lambda x: -x[0])}


def half(name):
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 2


def load(folder):
    truth = json.loads(next(folder.glob("*.json")).read_text())
    pages = {}
    for path in sorted((folder / "html").glob("*.gz")):
        pages[path.name.removesuffix(".gz")] = gzip.decompress(path.read_bytes())
    return truth, pages


def herd(program, pages):
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for n, (name, body) in enumerate(pages.items()):
            path = Path(folder) / f"{n}.html"
            path.write_bytes(body)
            names[str(path)] = name
        out = subprocess.run([program, *names], check=True, capture_output=True, text=True).stdout
    found = [json.loads(line) for line in out.splitlines()]
    return {names[f["file"]]: f["text"] for f in found}, statistics.mean(f["milliseconds"] for f in found)


def peer(extract, pages):
    texts, seconds = {}, 0.0
    for name, body in pages.items():
        started = time.perf_counter()
        try:
            texts[name] = extract(body) or ""
        except Exception as error:  # a peer that fails on a page scores nothing there
            print(f"{name}: {error}", file=sys.stderr)
            texts[name] = ""
        seconds += time.perf_counter() - started
    return texts, 1000 * seconds / len(pages)


def peers():
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    return {
        "trafilatura": lambda b: trafilatura.extract(b, include_comments=False),
        "trafilatura fast": lambda b: trafilatura.extract(b, include_comments=False, fast=True),
        "resiliparse": lambda b: extract_plain_text(bytes_to_str(b, detect_encoding(b)), main_content=True),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--extract", default="target/release/examples/extract")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--worst", type=int, default=0, help="show the worst pages")
    parser.add_argument("--halves", action="store_true", help="also score the two halves of each set by themselves")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name, score in (("article-extraction", body_score), ("trafilatura", string_score)):
        truth, pages = load(arguments.data / name)
        if name == "article-extraction":
            pages = {k.removesuffix(".html"): v for k, v in pages.items()}
        extractors = {"herd": lambda pages: herd(arguments.extract, pages)}
        if arguments.peers:
            extractors |= {k: (lambda pages, f=f: peer(f, pages)) for k, f in peers().items()}
        for who, run in extractors.items():
            texts, milliseconds = run(pages)
            parts = [None] if not arguments.halves else [None, 0, 1]
            for part in parts[1:]:
                chosen = {k: v for k, v in truth.items() if half(v.get("file", k)) == part}
                result = score(chosen, texts)
                result.pop("pages")
                label = f"{who}, {'odd' if part else 'even'} half"
                rows.append({"data": name, "extractor": label, **result, "milliseconds": milliseconds})
            result = score(truth, texts)
            for page in result.pop("pages")[: arguments.worst if who == "herd" else 0]:
                print("  ", page)
            rows.append({"data": name, "extractor": who, **result, "milliseconds": milliseconds})
    if arguments.json:
        print(json.dumps(rows))
    for row in [] if arguments.json else rows:
        print(f"{row['data']:20} {row['extractor']:28} F1 {row['f1']:.4f}  P {row['precision']:.4f}  R {row['recall']:.4f}  {row['milliseconds']:.2f} ms")
    low = [row for row in rows if row["extractor"] == "herd" and any(row[k] < v for k, v in MINIMUM[row["data"]].items())]
    for row in low:
        print(f"{row['data']}: below the minimum {MINIMUM[row['data']]}", file=sys.stderr)
    sys.exit(bool(low))


if __name__ == "__main__":
    main()
