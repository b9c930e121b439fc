#!/usr/bin/env python3
"""What the stage `data` costs as a crawl grows: wall time, processor time and peak memory of one process; and, done task by task in
processes of their own, the seconds of each step, the memory of its largest task and the bytes it leaves for other tasks.

    scale.py HERD CRAWL... [--memory 1GB] [--tasks] [--split-bytes N] [--partitions N] [--out FILE]

CRAWL is a folder of WARC files (make_crawl.py). One JSON line for each crawl.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import tempfile
import time


def measured(command):
    """Runs a command: seconds, processor seconds, peak megabytes, output."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command}: {errors.decode()}")
    seconds = time.perf_counter() - began
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, out


def recipe_for(crawl, folder, args):
    file = folder / "recipe.toml"
    cut = f"[data.tasks]\nsplit_bytes = {args.split_bytes}\npartitions = {args.partitions}\n"
    file.write_text(f'name = "scale"\nseed = 1\n[data]\ninput = ["{crawl}/*.warc.gz"]\n{cut}')
    return file


def at_once(herd, recipe, folder, args):
    seconds, cpu, peak, _ = measured([herd, "data", recipe, "--out", folder, "--memory", args.memory])
    summary = json.loads((folder / "data/summary.json").read_text())
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}, summary


def by_tasks(herd, recipe, folder, args):
    steps = {}
    run = ["--out", folder, "--memory", args.memory]
    while True:
        _, _, _, said = measured([herd, "data", "next", recipe, *run])
        step = json.loads(said)
        if step["done"]:
            break
        if step["step"] == "publish":
            sizes = collections.Counter()
            for file in (folder / "data/work").iterdir():
                if file.suffix == ".parquet":
                    name, _, what = file.name.removesuffix(".parquet").partition(".")
                    sizes[f"{name.rpartition('-')[0]} {what}"] += file.stat().st_size
        row = steps.setdefault(step["step"], {"tasks": 0, "seconds": 0.0, "peak_mb": 0})
        for k in step["missing"]:
            _, _, _, said = measured([herd, "data", "task", recipe, step["step"], f"{k}/{step['tasks']}", *run])
            done = json.loads(said)
            row["tasks"] += 1
            row["seconds"] += done["seconds"]
            row["peak_mb"] = max(row["peak_mb"], done["peak_rss_mb"])
    return {"steps": steps, "work_bytes": dict(sizes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("herd", type=pathlib.Path)
    parser.add_argument("crawls", type=pathlib.Path, nargs="+")
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--tasks", action="store_true", help="also task by task")
    parser.add_argument("--split-bytes", type=int, default=64 << 20)
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    for crawl in args.crawls:
        row = {"crawl": crawl.name, "warc_bytes": sum(f.stat().st_size for f in crawl.glob("*.warc.gz")), "memory": args.memory}
        with tempfile.TemporaryDirectory(dir=crawl.parent) as folder:
            folder = pathlib.Path(folder)
            recipe = recipe_for(crawl.resolve(), folder, args)
            row["at_once"], summary = at_once(args.herd.resolve(), recipe, folder / "at_once", args)
            kept = ["responses", "documents", "bytes", "frequent_lines", "clusters"]
            row.update({key: summary[key] for key in kept})
            if args.tasks:
                row["by_tasks"] = by_tasks(args.herd.resolve(), recipe, folder / "by_tasks", args)
                for name in ["documents.parquet", "rejects.parquet", "funnel.json", "summary.json"]:
                    one, other = (folder / way / "data" / name for way in ["at_once", "by_tasks"])
                    assert one.read_bytes() == other.read_bytes(), f"{name} differs"
        line = json.dumps(row)
        print(line, flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
