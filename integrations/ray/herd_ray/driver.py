"""Asks `herd data next` what is to be done, and lets the cluster do it with `herd data task`.

A task is a process of the program `herd`, which every node must have at the same path (or in PATH). The run folder must be
seen by all nodes: a shared file system, or an address such as s3://bucket/run. Tasks write complete files or none and may be
repeated, so a task whose node dies is simply done again.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time

import ray
from ray.exceptions import RayError


class Failed(Exception):
    """A task, or the plan, failed for a reason that another try does not mend."""


def _herd(herd, *arguments):
    """Runs the program and returns what it prints as JSON."""
    done = subprocess.run([herd, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join([herd, *arguments])}: {done.stderr.strip() or done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _work(herd, arguments, folder):
    os.chdir(folder)
    began = time.time()
    done = subprocess.run([herd, *arguments], capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    return {
        "code": done.returncode,
        "error": done.stderr.strip()[-4000:],
        "account": json.loads(said[-1]) if done.returncode == 0 and said else {},
        "seconds": time.time() - began,
        "node": ray.get_runtime_context().get_node_id(),
    }


def run(recipe, out, herd="herd", memory="2GB", cpus=1.0, tries=4, at_once=None, progress=print):
    """Does the stage `data` of a recipe on the cluster that `ray.init` is connected to. Returns the last answer of
    `herd data next`, and the nodes that did tasks with how many each did."""
    common = [recipe, "--out", out, "--memory", memory]
    where = os.getcwd()
    work = ray.remote(num_cpus=cpus, memory=_bytes(memory), max_retries=tries)(_work)
    nodes = collections.Counter()
    while True:
        step = _herd(herd, "data", "next", *common)
        if step["done"]:
            return step, dict(nodes)
        # A few more than can run, so that no core waits; not all, so that a large step does not fill the head's memory.
        limit = at_once or int(2 * ray.cluster_resources().get("CPU", 1) / cpus) + 1
        todo = collections.deque(step["missing"])
        failures = collections.Counter()
        running = {}
        began, finished = time.time(), 0
        while todo or running:
            while todo and len(running) < limit:
                k = todo.popleft()
                arguments = ["data", "task", *common, step["step"], f"{k}/{step['tasks']}"]
                running[work.remote(herd, arguments, where)] = k
            ready, _ = ray.wait(list(running), timeout=10)
            for reference in ready:
                k = running.pop(reference)
                try:
                    done = ray.get(reference)
                    problem = done["error"] if done["code"] != 0 else None
                except RayError as error:
                    done, problem = None, f"{type(error).__name__}: {error}"
                if problem is None:
                    finished += 1
                    nodes[done["node"]] += 1
                    continue
                failures[k] += 1
                progress(f"{step['step']} {k}/{step['tasks']}: try {failures[k]} failed: {problem}")
                if failures[k] >= tries:
                    raise Failed(f"{step['step']} {k}/{step['tasks']} failed {tries} times: {problem}")
                todo.append(k)
        seconds = time.time() - began
        progress(f"{step['title']:<22} {step['step']:<16} {finished:>6} tasks {seconds:8.1f} s")


def _bytes(size):
    number = size.rstrip("BbKkMmGg")
    unit = size[len(number):].upper()
    return int(number) * {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="herd-ray", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="the recipe (TOML); all nodes must see it")
    parser.add_argument("--out", required=True, help="the run folder: shared by all nodes, or an address like s3://bucket/run")
    parser.add_argument("--address", help="of the Ray cluster; without it a cluster of this machine is started")
    parser.add_argument("--herd", default="herd", help="the program, on every node [default: herd in PATH]")
    parser.add_argument("--memory", default="2GB", help="of a task [default: 2GB]")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores of a task [default: 1]")
    parser.add_argument("--tries", type=int, default=4, help="of a task before the run is given up [default: 4]")
    parser.add_argument("--at-once", type=int, help="tasks submitted at the same time [default: twice the cores]")
    options = parser.parse_args(arguments)
    ray.init(address=options.address, log_to_driver=False)
    try:
        step, nodes = run(
            options.recipe, options.out, options.herd, options.memory, options.cpus, options.tries, options.at_once
        )
    except Failed as error:
        sys.exit(f"herd-ray: {error}")
    print(f"{step['data']}: done by {len(nodes)} nodes ({', '.join(str(n) for n in nodes.values())} tasks)")


if __name__ == "__main__":
    main()
