"""A real cluster on loopback: the result is that of one process, and also when a worker dies in the middle.

    python integrations/ray/test_cluster.py target/release/herd
"""

import filecmp
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import ray
from ray.cluster_utils import Cluster

import herd_ray

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["documents.parquet", "rejects.parquet", "funnel.json", "summary.json"]
# Small splits, so that every node has something to do.
CUT = "\n[data.tasks]\nsplit_bytes = 300000\npartitions = 4\n"


def processes_of(node):
    """The processes that belong to a node of the test cluster: its raylet and all below it."""
    raylets = [process.process.pid for process in node.all_processes["raylet"]]
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", ",".join(map(str, raylets))], capture_output=True, text=True)
    return raylets + [int(pid) for pid in children.stdout.split()]


def curate(cluster, recipe, out, herd, victim=None):
    """Curates; kills a worker node with SIGKILL once a few tasks are done. Returns the nodes that worked."""
    killed = threading.Event()

    def kill():
        while len(list((out / "data" / "work").glob("pages-*.json"))) < 3:
            time.sleep(0.02)
        for pid in processes_of(victim):
            os.kill(pid, signal.SIGKILL)
        killed.set()

    if victim is not None:
        threading.Thread(target=kill, daemon=True).start()
    _, nodes = herd_ray.run(str(recipe), str(out), herd=str(herd), memory="300MB", progress=lambda line: print(" ", line))
    assert victim is None or killed.is_set(), "the worker was killed too late"
    return nodes


def same(one, other):
    differing = [name for name in FILES if not filecmp.cmp(one / "data" / name, other / "data" / name, shallow=False)]
    assert not differing, f"{differing} differ between {one} and {other}"


def main():
    herd = pathlib.Path(sys.argv[1]).resolve()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        recipe = folder / "recipe.toml"
        recipe.write_text((ROOT / "recipes/quickstart.toml").read_text() + CUT)
        subprocess.run([herd, "data", recipe, "--out", folder / "alone"], check=True, capture_output=True)

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
            ray.init(address=cluster.address, log_to_driver=False)
            cluster.wait_for_nodes()
            print("three nodes:")
            nodes = curate(cluster, recipe, folder / "cluster", herd)
            assert len(nodes) == 3, f"only {nodes} worked"
            same(folder / "alone", folder / "cluster")

            print("one of them killed in the middle:")
            nodes = curate(cluster, recipe, folder / "killed", herd, victim=workers[0])
            # The head notices a death after a while.
            deadline = time.time() + 90
            while sum(node["Alive"] for node in ray.nodes()) != 2:
                assert time.time() < deadline, "the worker is still alive"
                time.sleep(0.5)
            same(folder / "alone", folder / "killed")

            print("a task that cannot be done:")
            try:
                herd_ray.run(str(folder / "no.toml"), str(folder / "no"), herd=str(herd))
            except herd_ray.Failed as error:
                assert "no.toml" in str(error), error
            else:
                raise AssertionError("a missing recipe was no error")
        finally:
            ray.shutdown()
            cluster.shutdown()
    print("the cluster gives the bits of one process")


if __name__ == "__main__":
    main()
