#!/usr/bin/env python3
"""The stage `data` beside datatrove, and reading archives beside FastWARC, in turns on one core.

    compare.py [--rounds 3] [--pages 1000]

Builds Herd, makes a virtual environment outside the repository, takes pages from Debian packages (`../shared/tools/assets` or
HERD_ASSETS names their folder), and writes results/DATE-MACHINE.json.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
PACKAGES = ["datatrove[io,processing]==0.10.1", "lxml_html_clean", "spacy", "FastWARC==2.0.1"]
PAGES = ["anarchism", "debian-handbook", "libreoffice-help-de", "libreoffice-help-en", "libreoffice-help-hi", "linux-doc", "rust-doc"]
CORE = ["taskset", "-c", "0"]


def environment():
    venv = CACHE / "herd-bench/datatrove"
    if not (venv / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", *PACKAGES], check=True)
        (venv / "done").touch()
    return venv / "bin/python"


def binary(programs):
    if programs:
        return programs / "herd", programs / "read_archives"
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "--release", "-q", "-p", "herd"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release", "-q", "-p", "herd-data", "--example", "read_archives"], cwd=ROOT, check=True)
    return target / "release/herd", target / "release/examples/read_archives"


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores"


def said(command, **more):
    done = subprocess.run([*CORE, *map(str, command)], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{command}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def herd_stage(herd, crawl, folder):
    """The stage by /usr/bin/time's figures, one thread."""
    recipe = folder / "recipe.toml"
    recipe.write_text(f'name = "bench"\nseed = 1\n[data]\ninput = ["{crawl}/*.warc.gz"]\n')
    measure = (
        "import json, resource, subprocess, sys, time; t = time.perf_counter(); subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); s = time.perf_counter() - t; "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps({'seconds': s, 'cpu_seconds': u.ru_utime + u.ru_stime, 'peak_mb': u.ru_maxrss * 1024 / 1e6}))"
    )
    run = [herd, "data", recipe, "--out", folder / "herd"]
    row = said([sys.executable, "-c", measure, *run], env=dict(os.environ, RAYON_NUM_THREADS="1"))
    summary = json.loads((folder / "herd/data/summary.json").read_text())
    return row | {"pages": summary["responses"], "documents": summary["documents"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--programs", type=pathlib.Path, help="folder with herd and read_archives, in place of building them")
    args = parser.parse_args()
    assets = pathlib.Path(os.environ.get("HERD_ASSETS", CACHE / "herd-assets"))
    folders = [assets / name for name in PAGES if (assets / name).is_dir()]
    if not folders:
        raise SystemExit(f"{assets}: none of {', '.join(PAGES)}; fetch them, or set HERD_ASSETS")
    python, (herd, reader) = environment(), binary(args.programs)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        crawl = folder / "crawl"
        make = [sys.executable, HERE / "make_crawl.py", crawl, *folders, "--pages", str(args.pages)]
        print(subprocess.run(make, check=True, capture_output=True, text=True).stdout, end="")
        archives = sorted(crawl.iterdir())
        for number in range(args.rounds):
            for what, run in [
                ("herd", lambda: herd_stage(herd, crawl, folder)),
                ("datatrove", lambda: said([python, HERE / "peer.py", crawl, folder / "datatrove"])),
                ("herd reads", lambda: said([reader, *archives])),
                ("FastWARC reads", lambda: said([python, HERE / "read_archives.py", *archives])),
            ]:
                for old in ["herd", "datatrove"]:
                    shutil.rmtree(folder / old, ignore_errors=True)
                rows.append({"round": number, "what": what, **run()})
                print(json.dumps(rows[-1]), flush=True)

    def median(what, key="seconds"):
        return statistics.median(row[key] for row in rows if row["what"] == what)

    pages = rows[0]["pages"]
    reads = [row for row in rows if row["what"].endswith("reads")]
    assert len({(row["responses"], row["bytes"]) for row in reads}) == 1, "the readers do not agree"
    size = reads[0]["bytes"] / 1e6
    print(f"stage:   Herd {pages / median('herd'):.0f} pages/s, datatrove {pages / median('datatrove'):.1f} pages/s: "
          f"{median('datatrove') / median('herd'):.1f}x; memory {median('herd', 'peak_mb'):.0f} and {median('datatrove', 'peak_mb'):.0f} MB")
    print(f"reading: Herd {size / median('herd reads'):.0f} MB/s, FastWARC {size / median('FastWARC reads'):.0f} MB/s: "
          f"{median('FastWARC reads') / median('herd reads'):.2f}x")
    name = f"{datetime.date.today()}-{'-'.join(machine().split(',')[0].split()[:3]).lower()}.json"
    result = {"date": str(datetime.date.today()), "machine": machine(), "packages": PACKAGES, "rows": rows}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
