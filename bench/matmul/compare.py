"""Matrix products of the training workloads: Herd, `gemm`, `matrixmultiply`, and MKL through PyTorch, taking turns.

    python3 bench/matmul/compare.py [--rounds 7] [--threads 1 2]
    python3 bench/matmul/compare.py --old BINARY        # two versions of Herd alone, before and after a change

Shapes are those of W1 and W3 (bench/train), all three layouts. In a round each program makes each product, small ones
several times, in a process of its own; all outcomes are compared. Prints a Markdown table of GFLOP/s from medians and writes the rows to
results/DATE.json. `--around CMD` as in bench/train/compare.py, whose virtual environment is used. BINARY is a build of
the benchmark `matmul_turns` of another commit; such a comparison is printed only, and needs no PyTorch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "train"))
from compare import TORCH, VENV, Around, machine, setup  # noqa: E402

ROWS = 2048
# The logits of W3 at once would be a gigabyte; 512 of its rows are measured.
LINEAR = {
    "W1 qkv": (ROWS, 768, 512),
    "W1 output": (ROWS, 512, 512),
    "W1 gate, up": (ROWS, 3072, 512),
    "W1 down": (ROWS, 512, 1536),
    "W1 vocabulary": (ROWS, 32_000, 512),
    "W3 qkv": (ROWS, 1280, 768),
    "W3 output": (ROWS, 768, 768),
    "W3 gate, up": (ROWS, 4096, 768),
    "W3 down": (ROWS, 768, 2048),
    "W3 vocabulary": (512, 128_256, 768),
}
PROGRAMS = ["herd", "gemm", "matrixmultiply", "MKL"]
WORK = 8e9  # operations of a turn, at least
PAUSE = 0.02  # threads of OpenMP spin for a while after their work


def shapes():
    """Name, layout and sizes of every product: forward, gradient of the input, gradient of the weight."""
    for name, (rows, outputs, inputs) in LINEAR.items():
        yield name, "nt", (rows, outputs, inputs)
        yield name, "nn", (rows, inputs, outputs)
        yield name, "tn", (outputs, inputs, rows)


def serve_torch(threads):
    """PyTorch's side of the protocol of crates/tensor/benches/matmul_turns.rs."""
    import torch

    torch.set_num_threads(threads)

    def values(count, period):
        half = period // 2
        return ((torch.arange(count) % period).float() - half) / half

    a, b, out = values(0, 17), values(0, 13), torch.zeros(0)
    for line in sys.stdin:
        _, layout, *sizes = line.split()
        m, n, k, times = map(int, sizes)
        a = a if len(a) >= m * k else values(m * k, 17)
        b = b if len(b) >= n * k else values(n * k, 13)
        out = out if len(out) >= m * n else torch.zeros(m * n)
        c = out[: m * n].view(m, n).zero_()
        x = a[: m * k].view(k, m).t() if layout == "tn" else a[: m * k].view(m, k)
        y = b[: n * k].view(n, k).t() if layout == "nt" else b[: n * k].view(k, n)
        product = (lambda: c.addmm_(x, y)) if layout == "tn" else (lambda: torch.mm(x, y, out=c))
        product()
        total = c.view(-1)[::997].double().abs().sum().item()
        start = time.perf_counter()
        for _ in range(times):
            product()
        print((time.perf_counter() - start) / times, total, flush=True)


class Server:
    def __init__(self, command, env):
        self.process = subprocess.Popen(
            [str(part) for part in command], env=os.environ | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, program, layout, sizes):
        m, n, k = sizes
        times = max(1, round(WORK / (2 * m * n * k)))
        self.process.stdin.write(f"{program} {layout} {m} {n} {k} {times}\n")
        self.process.stdin.flush()
        seconds, total = map(float, self.process.stdout.readline().split())
        time.sleep(PAUSE if program == "MKL" else 0)
        return seconds, total

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(threads, args, python, binary):
    env = {"RAYON_NUM_THREADS": str(threads), "MATMUL_NUM_THREADS": str(threads)}
    if args.old:
        servers = {"herd": Server([binary], env), "old": Server([args.old], env)}
    else:
        servers = {name: Server([binary], env) for name in PROGRAMS[:-1]}
        servers["MKL"] = Server([python, __file__, "--serve", threads], {"THP_MEM_ALLOC_ENABLE": "1"})
    rows = []
    with Around(args.around, [server.process for server in servers.values()]) as around:
        for name, layout, sizes in shapes():
            seconds = {program: [] for program in servers}
            for round in range(args.rounds + 1):
                totals = {}
                for program, server in servers.items():
                    took, totals[program] = server.ask("herd" if program == "old" else program, layout, sizes)
                    if round > 0:  # the first makes the buffers
                        seconds[program].append(took)
            for program, total in totals.items():
                gap = abs(total - totals["herd"]) / max(1.0, abs(total))
                assert gap < 1e-3, f"{name} {layout} {sizes}: herd {totals['herd']}, {program} {total}"
            rows.append({"name": name, "layout": layout, "sizes": sizes, "threads": threads, "seconds": seconds})
            print(threads, name, layout, {p: f"{rate(rows[-1], p):.0f}" for p in servers}, file=sys.stderr)
            around.rest()
    for server in servers.values():
        server.end()
    return rows


def rate(row, program):
    m, n, k = row["sizes"]
    return 2e-9 * m * n * k / statistics.median(row["seconds"][program])


def table(rows):
    yield "| product | layout | m n k | threads | Herd | gemm | matrixmultiply | MKL | Herd / gemm | Herd / MKL |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        rates = [rate(row, program) for program in PROGRAMS]
        ratios = [f"{rates[0] / rates[i]:.2f}" for i in (1, 3)]
        sizes = " ".join(map(str, row["sizes"]))
        cells = [row["name"], row["layout"], sizes, str(row["threads"]), *(f"{r:.0f}" for r in rates), *ratios]
        yield "| " + " | ".join(cells) + " |"


def summary(rows):
    """Means over all products."""
    threads = sorted({row["threads"] for row in rows})
    for count in threads:
        own = [row for row in rows if row["threads"] == count]
        for peer in [program for program in own[0]["seconds"] if program != "herd"]:
            ratios = [rate(row, "herd") / rate(row, peer) for row in own]
            worst = min(range(len(ratios)), key=ratios.__getitem__)
            where = f"{own[worst]['name']} {own[worst]['layout']}"
            mean = statistics.geometric_mean(ratios)
            yield f"{count} threads, Herd / {peer}: {mean:.2f} (geometric mean), at least {min(ratios):.2f} ({where})  "
    if threads[0] == 1 and len(threads) > 1:
        for program in rows[0]["seconds"]:
            by_threads = [[rate(row, program) for row in rows if row["threads"] == count] for count in threads]
            scaling = [many / one for one, many in zip(by_threads[0], by_threads[-1])]
            mean = statistics.geometric_mean(scaling)
            yield f"{program}, {threads[-1]} threads against 1: {mean:.2f}x (at least {min(scaling):.2f}x)  "


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--venv", type=Path, default=VENV)
    parser.add_argument("--binary", type=Path, help="the benchmark matmul_turns, if it is built already")
    parser.add_argument("--old", type=Path, help="the same benchmark of another commit, instead of all peers")
    parser.add_argument("--around", help="a command in force while a shape is measured")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve_torch(args.serve)
    args.out.mkdir(parents=True, exist_ok=True)
    python = None if args.old else setup(args.venv)
    binary = args.binary or build()
    now = datetime.now(timezone.utc)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    about = {"date": now.isoformat(timespec="minutes"), "commit": commit.strip(), "machine": machine(), "torch": TORCH}
    rows = [row for threads in args.threads for row in measure(threads, args, python, binary)]
    if args.old:
        return print("\n".join(summary(rows)))
    path = args.out / f"{now:%Y-%m-%d-%H%M}.json"
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    m = about["machine"]
    print(f"{now:%Y-%m-%d}, {m['cpu']} ({m['isa']}), GFLOP/s, medians of {args.rounds} rounds, PyTorch {TORCH}\n")
    print("\n".join([*table(rows), "", *summary(rows)]))
    print(f"\nrows: {path}")


def build():
    command = ["cargo", "bench", "-p", "herd-tensor", "--bench", "matmul_turns", "--no-run", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("target", {}).get("name") == "matmul_turns" and m.get("executable"))


if __name__ == "__main__":
    main()
