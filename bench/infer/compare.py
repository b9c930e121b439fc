"""Herd beside llama.cpp: the same GGUF files, the same threads, taking turns; medians.

    python compare.py MODEL.gguf [--rounds 5] [--threads 2] [--amx]

With `--amx`, on a processor that has it, llama.cpp is measured twice, with AMX and without.

Needs llama-cpp-python built for this processor (`pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36`)
and numpy in this Python, and `cargo build --release -p herd`. The other files (Q8_0, Q4_0, Q4_K_M, BF16, F16) are made from the model by
llama.cpp's own quantizer. Writes results/speed-DATE.json and prints the table of the README.
"""

import argparse
import ctypes
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# llama.cpp's numbers of file types.
MADE = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15, "BF16": 32, "F16": 1}
CASES = {
    "one request, 512 + 64 tokens": ["--prompt-tokens", "512", "--new-tokens", "64"],
    "8 requests, 64 + 64 tokens": ["--prompt-tokens", "64", "--new-tokens", "64", "--requests", "8"],
    "first token of 16": ["--prompt-tokens", "16", "--new-tokens", "1"],
}


def quantise(source, target, kind):
    import llama_cpp as L

    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = kind, True
    assert L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0


def last_line(command):
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", default="2")
    p.add_argument("--amx", action="store_true")
    p.add_argument("--only", nargs="+", help="names of files to measure, such as BF16")
    p.add_argument("--suffix", default="", help="for the name of the file of results")
    p.add_argument("--herd", default=str(ROOT / "target/release/herd"))
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench-infer")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    files = {a.model.suffixes[-2].strip(".") if len(a.model.suffixes) > 1 else a.model.stem: a.model}
    for name, kind in MADE.items():
        if a.only and name not in a.only:
            continue
        files[name] = a.work / f"{a.model.stem}.{name}.gguf"
        if not files[name].exists():
            quantise(a.model, files[name], kind)
    files = {name: path for name, path in files.items() if not a.only or name in a.only}
    measured = []
    date = datetime.date.today().isoformat()
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "")
    result = {"date": date, "processor": processor, "threads": int(a.threads), "rounds": a.rounds, "measured": measured}
    for name, path in files.items():
        for case, options in CASES.items():
            herd = [a.herd, "bench", "infer", str(path), "--json", "--rounds", "1", "--threads", a.threads]
            peer = [sys.executable, str(HERE / "peer.py"), str(path), "--threads", a.threads]
            programs = {"llama_cpp": peer, "herd": herd}
            if a.amx:
                programs["llama_cpp_without_amx"] = peer + ["--no-amx"]
            rounds = {who: [] for who in programs}
            for _ in range(a.rounds):
                for who, command in programs.items():
                    rounds[who].append(last_line(command + options))
            medians = {
                who: {key: statistics.median(r[key] for r in all_rounds) for key in all_rounds[0]}
                for who, all_rounds in rounds.items()
            }
            measured.append({"file": name, "case": case, "medians": medians, "rounds": rounds})
            print(name, case, medians, file=sys.stderr)
            # What was measured stays if the rest is not.
            (HERE / "results" / f"speed-{date}{a.suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
    peers = [who for who in measured[0]["medians"] if who != "herd"]
    print(f"| file | measured | Herd | {' | '.join(f'{who} | ratio' for who in peers)} |")
    print("|---|---|---:|" + "---:|---:|" * len(peers))
    one, eight, short = CASES
    for m in measured:
        rows = {
            one: [("prefill_tokens_per_s", "prompt, tokens/s"), ("decode_tokens_per_s", "answer, tokens/s"),
                  ("first_token_s", "first token after 512, s"), ("peak_rss_mb", "memory, MB")],
            eight: [("decode_tokens_per_s", "8 answers at once, tokens/s")],
            short: [("first_token_s", "first token after 16, s")],
        }[m["case"]]
        for key, words in rows:
            digits = 3 if key.endswith("_s") and "per" not in key else 0
            ours, theirs = m["medians"]["herd"][key], [m["medians"][who][key] for who in peers]
            cells = " | ".join(f"{x:.{digits}f} | {ours / x:.2f}x" for x in theirs)
            print(f"| {m['file']} | {words} | {ours:.{digits}f} | {cells} |")


if __name__ == "__main__":
    main()
