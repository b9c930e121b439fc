"""Checks that Herd gives the ids of tiktoken and of Hugging Face's `tokenizers` for a real Llama 3 vocabulary.

    cargo build --release
    python check_exact.py tokenizer.model FILE...

tokenizer.model is Meta's rank file. Each file is encoded by Herd from that file, by tiktoken with the same ranks, and by
`tokenizers` from the tokenizer.json that Herd writes; ten million bytes of random Unicode are added to the files. Ends
with status 1 at the first difference. Needs numpy, tiktoken and tokenizers.
"""

import base64
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tiktoken
from tokenizers import Tokenizer

HERD = os.environ.get("HERD", Path(__file__).parents[2] / "target/release/herd")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tiktoken's regex engine overflows its stack on very long runs, and its merge is quadratic on them.
CHUNK = 100_000


def random_unicode(size):
    rng = random.Random(11)
    out = []
    total = 0
    while total < size:
        top = rng.choice([0x80, 0x80, 0x250, 0x3000, 0xA000, 0x20000, 0x110000])
        piece = "".join(chr(c) for c in (rng.randrange(top) for _ in range(rng.randint(1, 12))) if not 0xD800 <= c < 0xE000)
        total += len(piece.encode())
        out.append(piece)
    return "".join(out)


def first_difference(ours, theirs):
    if np.array_equal(ours, theirs):
        return None
    shorter = min(len(ours), len(theirs))
    unequal = np.nonzero(ours[:shorter] != theirs[:shorter])[0]
    return int(unequal[0]) if len(unequal) else shorter


def main():
    model, *files = sys.argv[1:]
    ranks = {}
    for line in Path(model).read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    reference = tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        # Files are cut at the same places for everyone.
        inputs = []
        texts = [(Path(f).name, Path(f).read_bytes().decode(errors="replace")) for f in files]
        for name, text in [*texts, ("random unicode", random_unicode(10_000_000))]:
            for at in range(0, len(text), CHUNK):
                path = scratch / f"{len(inputs):06}"
                path.write_bytes(text[at : at + CHUNK].encode())
                inputs.append((name, path, text[at : at + CHUNK]))
        saved = scratch / "saved"
        saved.mkdir()
        paths = [str(path) for _, path, _ in inputs]
        for at in range(0, len(paths), 500):
            command = [HERD, "tokenizer", "bench", model, "--ids", scratch, *paths[at : at + 500]]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([HERD, "tokenizer", "save", model, saved], check=True)
        theirs = Tokenizer.from_file(str(saved / "tokenizer.json"))
        theirs.encode_special_tokens = True
        totals = {}
        for name, path, text in inputs:
            ours = np.fromfile(f"{path}.ids", dtype="<u4")
            expected = {
                "tiktoken": np.array(reference.encode_ordinary(text), dtype="<u4"),
                "tokenizers": np.array(theirs.encode(text, add_special_tokens=False).ids, dtype="<u4"),
            }
            totals[name] = totals.get(name, 0) + len(ours)
            for who, ids in expected.items():
                at = first_difference(ours, ids)
                if at is not None:
                    near = [bytes(reference.decode_bytes([int(i)])) for i in ours[max(0, at - 3) : at + 3]]
                    print(f"{name}: differs from {who} at token {at} of {path.name}: {near}")
                    failed = True
        for name, tokens in totals.items():
            print(f"{name}: {tokens} tokens compared")
    sys.exit(1 if failed else 0)


main()
