"""Encoding speed of Herd beside gigatoken, Hugging Face's `tokenizers` and tiktoken, same vocabulary, same files, one core.

    cargo build --release
    python compare.py tokenizer.model FILE... [--rounds 3] [--peers herd,gigatoken] [--json results.json]

tokenizer.model is Llama 3's rank file. In each round every tokenizer takes its turn on every file in a process of its
own, pinned to one core. Cold is the first call after loading; warm the best of five calls after it; `other` the second
half of the file, once, after the first half (by those that have no cache, the same as cold). Times are wall seconds, so
nothing else may run on the machine. Shown is the best round, and the median of the rounds' ratios of Herd to gigatoken.
All ids are compared. Rows are added to a file of results that is there. HERD names the program if it is not
target/release/herd.
"""

import base64
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERD = os.environ.get("HERD", Path(__file__).parents[2] / "target/release/herd")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SLOW = {"tokenizers": 2_000_000, "tiktoken": 4_000_000}  # bytes; enough to measure them
PEERS = ["herd", "gigatoken", "tokenizers", "tiktoken"]


def load(peer, model, saved):
    """A function from text to numpy ids."""
    import numpy as np

    if peer == "gigatoken":
        import gigatoken

        return gigatoken.Tokenizer(str(saved)).encode
    if peer == "tokenizers":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(saved))
        return lambda text: np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
    import tiktoken

    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in Path(model).read_bytes().splitlines())}
    encoding = tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_to_numpy


def turn(peer, model, saved, path):
    """One measurement, in this process."""
    import numpy as np

    text = Path(path).read_bytes()[: SLOW.get(peer)].decode(errors="ignore")
    encode = load(peer, model, saved)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        ids = encode(text)
        times.append(time.perf_counter() - start)
    half = len(text) // 2
    encode = load(peer, model, saved)
    encode(text[:half])
    other = text[half:]
    start = time.perf_counter()
    encode(other)
    seconds_other = time.perf_counter() - start
    ids = np.asarray(ids, dtype="<u4")
    size = len(text.encode())
    digest = hashlib.sha256(ids[: min(len(ids), 100_000)].tobytes()).hexdigest()[:16]
    row = dict(bytes=size, tokens=len(ids), seconds_cold=times[0], seconds_warm=min(times[1:]), digest=digest)
    return row | dict(bytes_other=len(other.encode()), seconds_other=seconds_other)


def measure(peer, model, saved, path, scratch):
    core = ["taskset", "-c", "0"]
    env = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if peer == "herd":
        command = [*core, HERD, "--threads", "1", "tokenizer", "bench", model, path, "--json", "--ids", scratch]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, env=env).stdout)
        ids = (Path(scratch) / f"{Path(path).name}.ids").read_bytes()
        return row | {"digest": hashlib.sha256(ids[:400_000]).hexdigest()[:16]}
    command = [*core, sys.executable, __file__, "--turn", peer, model, str(saved), path]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=env).stdout)


def main():
    if sys.argv[1] == "--turn":
        print(json.dumps(turn(*sys.argv[2:])))
        return
    arguments = sys.argv[1:]
    option = lambda name, default: arguments.pop(arguments.index(name) + 1) if name in arguments else default
    rounds, out = int(option("--rounds", 3)), option("--json", None)
    peers = option("--peers", ",".join(PEERS)).split(",")
    model, *files = [a for a in arguments if not a.startswith("--")]
    rows = json.loads(Path(out).read_text())["rows"] if out and Path(out).exists() else []
    first = 1 + max((r["round"] for r in rows), default=-1)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([HERD, "tokenizer", "save", model, scratch], check=True)
        for round in range(first, first + rounds):
            for path in files:
                for peer in peers:
                    row = measure(peer, model, Path(scratch) / "tokenizer.json", path, scratch)
                    rows.append({"round": round, "peer": peer, **row, "file": Path(path).name})
    versions = {p: version(p) for p in PEERS[1:]}
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{date.today()}, {cpu}, one core; MB per second, cold / warm / other; " + ", ".join(f"{p} {v}" for p, v in versions.items()))
    print(f"{'file':24}" + "".join(f"{p:>24}" for p in PEERS) + f"{'herd : gigatoken':>24}")
    kinds = {"cold": "bytes", "warm": "bytes", "other": "bytes_other"}
    speed = lambda row, kind: row[kinds[kind]] / 1e6 / row[f"seconds_{kind}"]
    for path in dict.fromkeys(r["file"] for r in rows):
        mine = [r for r in rows if r["file"] == path]
        cells = []
        for peer in PEERS:
            of = [r for r in mine if r["peer"] == peer]
            cells.append(" / ".join(f"{max(speed(r, k) for r in of):.1f}" for k in kinds) if of else "")
        ratios = []
        for kind in kinds:
            pairs = {}
            for row in mine:
                pairs.setdefault(row["round"], {})[row["peer"]] = speed(row, kind)
            each = [p["herd"] / p["gigatoken"] for p in pairs.values() if {"herd", "gigatoken"} <= p.keys()]
            ratios.append(f"{statistics.median(each):.2f}" if each else "")
        print(f"{path:24}" + "".join(f"{c:>24}" for c in cells) + f"{' / '.join(ratios):>24}")
        digests = {r["digest"] for r in mine if r["tokens"] >= 100_000}
        assert len(digests) <= 1, f"{path}: the tokenizers disagree"
    if out:
        Path(out).write_text(json.dumps({"date": str(date.today()), "cpu": cpu, "versions": versions, "rows": rows}, indent=1))


main()
