"""Runs herd-data.sh with a `kubectl` that does each pod's command on this machine: the script and job.yaml are tested, a
cluster is not. The result has the bits of one process.

    pip install pyyaml
    python integrations/kubernetes/test.py target/release/herd
"""

import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["documents.parquet", "rejects.parquet", "funnel.json", "summary.json"]


def pods(job, recipe):
    """Does the tasks of an indexed Job, as its pods would."""
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job"), job
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["backoffLimitPerIndex"] > 0
    container = spec["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["memory"] == "800M", container["resources"]
    for index in range(spec["completions"]):
        environment = dict(os.environ, JOB_COMPLETION_INDEX=str(index))
        environment.update({entry["name"]: entry["value"] for entry in container["env"]})
        command = [part.replace("/recipe/recipe.toml", recipe) for part in container["command"] + container["args"]]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def kubectl(arguments):
    if arguments[:2] == ["create", "configmap"]:
        key, file = arguments[3].removeprefix("--from-file=").split("=")
        print(yaml.safe_dump({"kind": "ConfigMap", "data": {key: pathlib.Path(file).read_text()}}))
    elif arguments[0] == "apply":
        given = yaml.safe_load(sys.stdin)
        if given["kind"] == "Job":
            pods(given, os.environ["TEST_RECIPE"])
    elif arguments[:2] == ["get", "job"]:
        print("Complete")
    else:
        assert arguments[0] == "delete", arguments


def main():
    herd = pathlib.Path(sys.argv[1]).resolve()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        recipe = folder / "recipe.toml"
        cut = "\n[data.tasks]\nsplit_bytes = 1500000\npartitions = 2\n"
        recipe.write_text((ROOT / "recipes/quickstart.toml").read_text() + cut)
        subprocess.run([herd, "data", recipe, "--out", folder / "alone"], check=True, capture_output=True)
        stub = folder / "bin" / "kubectl"
        stub.parent.mkdir()
        stub.write_text(f"#!/bin/sh\nexec {sys.executable} {__file__} --kubectl \"$@\"\n")
        stub.chmod(0o755)
        (folder / "bin" / "herd").symlink_to(herd)
        environment = dict(
            os.environ, PATH=f"{stub.parent}:{os.environ['PATH']}", IMAGE="herd:test", MEMORY="300MB", POLL="0.1", TEST_RECIPE=str(recipe)
        )
        script = [str(ROOT / "integrations/kubernetes/herd-data.sh"), str(recipe), str(folder / "pods")]
        subprocess.run(script, env=environment, check=True, timeout=200)
        differ = [f for f in FILES if not filecmp.cmp(folder / "alone/data" / f, folder / "pods/data" / f, shallow=False)]
        assert not differ, differ
    print("the pods' commands give the bits of one process")


if __name__ == "__main__":
    if sys.argv[1] == "--kubectl":
        kubectl(sys.argv[2:])
    else:
        main()
