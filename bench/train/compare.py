"""Training steps of Herd beside PyTorch, eager and compiled, step by step in turn on the same machine.

    python3 bench/train/compare.py [W1 W2 W3 W4 W5 W1-avx2] [--rounds 7] [--warm-up 1]

`W5:3` asks for three rounds of W5 only. `W3-unclipped` is W3 without clipping, with Herd's AdamW inside the backward pass,
and `W3-hooks` the same with PyTorch's AdamW inside its backward pass too.

Builds Herd, makes a virtual environment with PyTorch outside the repository (--venv), and runs each workload: every
program lives in a process of its own and waits for its turn; in a round each makes one step. All must report the same
losses. Prints a Markdown table and writes the rows to results/DATE.json. `--around CMD` runs `CMD sh -c ...` while
something is measured, some minutes at a stretch, for machines where something else has to be kept still.
"""

import argparse
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = "2.15.0"
VENV = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "herd-bench/venv"
HOLD = 200  # seconds that the command of --around is in force at a stretch, about
PAUSE = 0.3  # seconds between turns: threads of OpenMP spin for a while after their work
AGREE = 1e-3  # relative difference of losses
LARGE = ["W3", "W4"]
HALVED = "moments in bf16"
# Without clipping: Herd updates inside the backward pass; PyTorch after it, or inside it too.
UNCLIPPED = {"unclipped": ["--no-clip"], "hooks": ["--optimizer-in-backward"]}

# PyTorch's time is measured with huge pages, with which it is 5% faster, its memory without, with which it needs less.
TORCH_ENV = {"THP_MEM_ALLOC_ENABLE": "1"}
# Its compiler's cache mixes instruction sets up (the losses are then wrong), so AVX2 has one of its own.
AVX2 = {
    "HERD_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "TORCHINDUCTOR_CACHE_DIR": str(VENV.parent / "inductor-avx2"),
}


class Player:
    """A program that makes a step when told."""

    def __init__(self, name, command, env):
        self.name, self.rows = name, []
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def step(self):
        self.tell("step")
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}")
        row = json.loads(line)
        self.rows.append(row)
        time.sleep(PAUSE)
        return row

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Around:
    """The command of --around, in force between `with` and its end. It may stop whatever it likes but `processes`, a
    list that may grow."""

    def __init__(self, command, processes):
        self.command, self.processes = shlex.split(command or ""), processes

    def __enter__(self):
        if self.command:
            # It ends with its standard input, and so with this program, whatever happens.
            command = [*self.command, "sh", "-c", "echo; exec cat > /dev/null"]
            self.around = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.around.stdout.readline()
            self.since = time.monotonic()
            for process in self.processes:
                process.send_signal(signal.SIGCONT)
        return self

    def rest(self):
        """Lets others have their turn if it has been in force for long."""
        if self.command and time.monotonic() - self.since > HOLD:
            self.__exit__()
            self.__enter__()

    def __exit__(self, *_):
        if self.command:
            self.around.stdin.close()
            self.around.wait()


def setup(venv):
    python = venv / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", f"torch=={TORCH}", "numpy"], check=True)
    return python


def players(case, args, python):
    workload, _, variant = case.partition(":")[0].partition("-")
    env = AVX2 if variant == "avx2" else {}
    threads = ["--threads", args.threads]
    ours = [args.herd, "bench", "train", workload, "--json", "--interactive", *threads]
    if variant in UNCLIPPED:
        yield "herd", [*ours, "--optimizer-in-backward"], env
        if variant == "unclipped":
            yield "herd, after the backward pass", [*ours, "--no-clip"], env
    else:
        yield "herd", ours, env
    if workload in LARGE and variant not in UNCLIPPED:  # where the state of the optimizer is most of the memory
        yield f"herd, {HALVED}", [*ours, "--moments", "bf16"], env
    peer = [python, HERE / "peer.py", workload, "--interactive", *threads, *UNCLIPPED.get(variant, [])]
    for mode in args.modes.split(","):
        # FlexAttention has no backward pass on a CPU. That leaves a dense mask, and one call for each document, which
        # wins clearly when compiled.
        ways = {"eager": ["mask", "documents"], "compile": ["documents"]}[mode]
        ways = [way for way in ways if way in args.ways.split(",")]
        for way in ways if workload == "W2" else [None]:
            name = mode + (f", {way}" if way else "")
            yield name, [*peer, "--mode", mode, *(["--attention", way] if way else [])], env


def peak(player):
    """Peak memory of a step in a process of its own, without what compiling the first took."""
    player.step()
    player.tell("reset")
    mb = player.step()["peak_rss_mb"]
    player.end()
    return mb


def rounds_of(case, args):
    return int(case.partition(":")[2] or args.rounds)


def measure(case, args, python, keep):
    """Rows of all programs; `keep` gets those so far after every round."""
    everyone, processes = [], []
    with Around(args.around, processes) as around:
        for name, command, env in players(case, args, python):
            steady = None
            if not name.startswith("herd"):
                steady = peak(Player(name, command, env))
                env = env | TORCH_ENV
                around.rest()
            player = Player(name, command, env)
            processes.append(player.process)
            for _ in range(args.warm_up):
                player.step()
            player.steady = steady
            everyone.append(player)
            print(f"{case} {name}: ready, {player.rows[-1]['seconds']:.2f} s a step", file=sys.stderr)
            around.rest()
        for _ in range(rounds_of(case, args)):
            for player in everyone:
                player.step()
            print(case, *(f"{p.name} {p.rows[-1]['seconds']:.2f}" for p in everyone), sep="  ", file=sys.stderr)
            keep(rows(case, everyone, args))
            around.rest()
    for player in everyone:
        player.end()
        for ours, theirs in zip(everyone[0].rows, player.rows):
            gap = abs(ours["loss"] - theirs["loss"]) / ours["loss"]
            assert gap < AGREE, f"{case} step {ours['step']}: herd {ours['loss']}, {player.name} {theirs['loss']}"
    return rows(case, everyone, args)


def rows(case, everyone, args):
    return [
        {
            "case": case.partition(":")[0],
            "program": player.name,
            "seconds": [row["seconds"] for row in player.rows[args.warm_up :]],
            "losses": [row["loss"] for row in player.rows],
            "peak_mb": player.steady or player.rows[-1]["peak_rss_mb"],
            "peak_mb_with_first_step": player.rows[-1]["peak_rss_mb"],
        }
        for player in everyone
    ]


def table(results):
    """Best way of each mode; ratios of medians above 1 mean that Herd is faster."""
    yield "| | Herd | PyTorch eager | torch.compile | against eager | against compile | memory: Herd | eager | compile | against the smaller |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for case in dict.fromkeys(row["case"] for row in results):
        rows = [row for row in results if row["case"] == case]
        median = lambda row: statistics.median(row["seconds"])
        best = {}
        for row in rows:
            mode = row["program"].split(",")[0]
            if mode != "herd" and (mode not in best or median(row) < median(best[mode])):
                best[mode] = row
        peers = [best.get(mode) for mode in ("eager", "compile")]
        least = min(row["peak_mb"] for row in rows if not row["program"].startswith("herd"))
        for ours in (row for row in rows if row["program"].startswith("herd")):
            name = ours["program"].replace("herd", case) + f" ({len(ours['seconds'])} rounds)"
            cells = [name, f"{median(ours):.2f} s", *(f"{median(p):.2f} s" if p else "" for p in peers)]
            cells += [f"{median(p) / median(ours):.2f}x" if p else "" for p in peers]
            cells += [f"{row['peak_mb']:,.0f} MB" if row else "" for row in [ours, *peers]]
            yield "| " + " | ".join([*cells, f"{ours['peak_mb'] / least:.2f}"]) + " |"


def machine():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    value = lambda key: next((line.split(":")[1].strip() for line in lines if re.match(rf"{key}\s*:", line)), None)
    # The name alone does not tell generations of virtual machines apart.
    model = f"{value('model name')}, family {value('cpu family')} model {value('model')}" if lines else platform.machine()
    flags = next((line for line in lines if line.startswith("flags")), "")
    best = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {"cpu": model, "isa": best, "cores": os.cpu_count(), "memory_gb": round(memory), "system": platform.system()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["W1", "W2", "W3", "W4", "W5", "W1-avx2"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the rounds; the first compiles")
    parser.add_argument("--modes", default="eager,compile")
    parser.add_argument("--ways", default="mask,documents", help="how PyTorch may attend in W2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--venv", type=Path, default=VENV)
    parser.add_argument("--herd", type=Path, help="the program, if it is built already")
    parser.add_argument("--around", help="a command in force while something is measured")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    python = setup(args.venv)
    if not args.herd:
        subprocess.run(["cargo", "build", "--release", "-p", "herd"], cwd=ROOT, check=True)
        args.herd = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/herd"
    now = datetime.now(timezone.utc)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    about = {"date": now.isoformat(timespec="minutes"), "commit": commit.strip(), "machine": machine(), "torch": TORCH}
    about["threads"] = args.threads
    path = args.out / f"{now:%Y-%m-%d-%H%M}.json"
    results = []
    for case in args.cases:
        write = lambda rows: path.write_text(json.dumps(about | {"results": results + rows}, indent=1) + "\n")
        results += measure(case, args, python, write)
        print(list(table(results))[-1], file=sys.stderr)
    m = about["machine"]
    print(f"{now:%Y-%m-%d}, {m['cpu']} ({m['isa']}), {args.threads} threads, PyTorch {TORCH}, medians\n")
    print("\n".join(table(results)))
    print(f"\nrows: {path}")


if __name__ == "__main__":
    main()
