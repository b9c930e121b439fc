"""Training speed of Herd beside Hugging Face's `tokenizers`: the same merges from the same file, each in a process of its
own, taking turns.

    cargo build --release
    python train.py FILE... [--merges 32000] [--rounds 1] [--memory 1GB] [--json results.json]

Files are trained on together. Times are wall and CPU seconds of the whole process; `tokenizers` uses all cores, as Herd
does. All merges are compared. With --memory Herd trains within that limit as well, a third row. HERD names the program if
it is not target/release/herd.
"""

import json
import os
import platform
import resource
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
SPECIAL = 256  # special tokens of Herd's vocabulary


def train_peer(merges, out, files):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train(files, trainer)
    tokenizer.save(f"{out}/tokenizer.json")


def measure(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    answer = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    row = {"seconds": time.perf_counter() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    row["peak_bytes"] = usage.ru_maxrss * 1024
    return row | (json.loads(answer) if answer.startswith(b"{") else {})


def merges_of(folder):
    merges = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def main():
    if sys.argv[1] == "--peer":
        train_peer(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    arguments = sys.argv[1:]
    option = lambda name, default: arguments.pop(arguments.index(name) + 1) if name in arguments else default
    merges, rounds, out = int(option("--merges", 32000)), int(option("--rounds", 1)), option("--json", None)
    memory = option("--memory", None)
    files = [a for a in arguments if not a.startswith("--")]
    ours = lambda to, *more: [HERD, "tokenizer", "train", to, *files, "--vocab-size", str(256 + merges + SPECIAL), "--json", *more]
    peers = {
        "herd": ours,
        "tokenizers": lambda to: [sys.executable, __file__, "--peer", str(merges), to, *files],
    }
    if memory:
        peers["herd, bounded"] = lambda to: ours(to, "--memory", memory)
    rows, learned = [], {}
    for round in range(rounds):
        for peer, command in peers.items():
            with tempfile.TemporaryDirectory() as to:
                row = {"round": round, "peer": peer, **measure(command(to))}
                rows.append(row)
                print({k: v for k, v in row.items()}, flush=True)
                assert learned.setdefault("merges", merges_of(to)) == merges_of(to), f"{peer}: other merges"
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    size = sum(Path(f).stat().st_size for f in files)
    print(f"{date.today()}, {cpu}, {os.cpu_count()} cores, {size / 1e6:.1f} MB, {len(learned['merges'])} merges, all equal")
    for peer in peers:
        mine = [r for r in rows if r["peer"] == peer]
        best = {k: min(r[k] for r in mine) for k in ("seconds", "cpu_seconds", "peak_bytes")}
        print(f"{peer:16}{best['seconds']:9.2f} s {best['cpu_seconds']:9.2f} s CPU {best['peak_bytes'] / 1e6:9.0f} MB")
    if out:
        head = {"date": str(date.today()), "cpu": cpu, "cores": os.cpu_count(), "bytes": size, "merges": len(learned["merges"])}
        Path(out).write_text(json.dumps(head | {"tokenizers": version("tokenizers"), "rows": rows}, indent=1))


main()
