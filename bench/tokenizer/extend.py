"""Extends cl100k_base by 28,000 tokens of other languages, as Llama 3 did, and tells what a token holds before and after.

    cargo build --release
    python extend.py cl100k_base.tiktoken FILE... [--english FILE] [--json results.json]

cl100k_base.tiktoken is tiktoken's rank file (its SHA-256 is checked; the wheel of `litellm` carries it too). Every FILE is one
language: the tokens are learned from its first four fifths, and counted in the last fifth, with the base and with the
extended vocabulary, by `herd tokenizer bench`. The tokens of the base must keep their ids. HERD names the program if it is
not target/release/herd. Needs only Python.
"""

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

HERD = os.environ.get("HERD", Path(__file__).parents[2] / "target/release/herd")
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
BASE, ADDED, SPECIAL = 100_256, 28_000, 256


def herd(*arguments):
    result = subprocess.run([HERD, "tokenizer", *map(str, arguments), "--json", "-q"], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"herd tokenizer {arguments[0]} failed; see above")
    return [json.loads(line) for line in result.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--english", type=Path, action="append", default=[], help="not learned from, only counted")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for file in [args.base, *args.files, *args.english]:
        if not file.is_file():
            sys.exit(f"{file} is no file; see --help for what is needed")
    ranks = args.base.read_bytes()
    if hashlib.sha256(ranks).hexdigest() != SHA256:
        sys.exit(f"{args.base} is not cl100k_base: its SHA-256 is another")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        learned, held = [], []
        for file in args.files:
            text = file.read_text(encoding="utf-8")
            cut = len(text) * 4 // 5
            for part, name, texts in ((text[:cut], "learned", learned), (text[cut:], "held", held)):
                (folder / name).mkdir(exist_ok=True)
                texts.append(folder / name / file.name)
                texts[-1].write_text(part, encoding="utf-8")
        held += args.english
        herd("extend", args.base, folder / "extended", *learned, "--vocab-size", BASE + ADDED + SPECIAL)
        kept = json.loads((folder / "extended/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        before, after = (herd("bench", path, *held) for path in (args.base, folder / "extended"))
    if len(kept) != BASE + ADDED:
        sys.exit(f"the files teach {len(kept) - BASE} tokens, not {ADDED}: give more text")
    letters = {letter: byte for byte, letter in byte_letters().items()}
    text_of = {id: bytes(letters[letter] for letter in token) for token, id in kept.items()}
    for line in ranks.splitlines():
        token, rank = line.split()
        assert text_of[int(rank)] == base64.b64decode(token), f"token {rank} is another now"
    rows = []
    print("| language | characters a token before | after |\n|---|---:|---:|")
    for file, old, new in zip(held, before, after):
        characters = len(file_text(file, args))
        before_after = {"before": characters / old["tokens"], "after": characters / new["tokens"]}
        row = {"file": file.name, "characters": characters} | before_after
        rows.append(row)
        print(f"| {file.stem} | {row['before']:.2f} | {row['after']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"date": str(date.today()), "rows": rows}, indent=1) + "\n")


def file_text(file, args):
    """What was counted of a file: all of an English one, the last fifth of another."""
    source = next((path for path in args.files if path.name == file.name), None)
    text = (source or file).read_text(encoding="utf-8")
    return text if source is None else text[len(text) * 4 // 5 :]


def byte_letters():
    """GPT-2's letters for bytes, in which tokenizer.json writes tokens."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


if __name__ == "__main__":
    main()
