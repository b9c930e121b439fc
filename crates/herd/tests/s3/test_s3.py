"""Input and run folder in an object store: moto's S3 server on loopback. The result has the bits of a local run.

    pip install "moto[server]" boto3
    python crates/herd/tests/s3/test_s3.py target/release/herd
"""

import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

import boto3
from moto.server import ThreadedMotoServer

ROOT = pathlib.Path(__file__).resolve().parents[4]
# A dozen splits, so that archives are read in ranges; 3 parts.
TASKS = "\n[data.tasks]\nsplit_bytes = 800000\npartitions = 3\n"


def main():
    herd = str(pathlib.Path(sys.argv[1]).resolve())
    os.chdir(ROOT)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    os.environ.update(
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_REGION="us-east-1",
        AWS_ENDPOINT=endpoint,
        AWS_ALLOW_HTTP="true",
    )
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket="crawl")
    for file in sorted(ROOT.glob("examples/quickstart/crawl/*.warc.gz")):
        s3.upload_file(str(file), "crawl", f"2026/{file.name}")
    s3.put_object(Bucket="crawl", Key="2026/notes.txt", Body=b"not asked for")

    def herd_data(*arguments):
        return subprocess.run([herd, "data", *arguments], capture_output=True, text=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        text = (ROOT / "recipes/quickstart.toml").read_text()
        (folder / "local.toml").write_text(text + TASKS)
        pattern = '["examples/quickstart/crawl/*.warc.gz"]'
        assert pattern in text
        (folder / "s3.toml").write_text(text.replace(pattern, '["s3://crawl/2026/*.warc.gz"]') + TASKS)
        done = herd_data(str(folder / "local.toml"), "--out", str(folder / "local"))
        assert done.returncode == 0, done.stderr

        recipe = [str(folder / "s3.toml"), "--out", "s3://crawl/runs/one"]
        tasks = 0
        while True:
            asked = herd_data("next", *recipe)
            assert asked.returncode == 0, asked.stderr
            step = json.loads(asked.stdout)
            if step["done"]:
                break
            for k in step["missing"]:
                done = herd_data("task", *recipe, step["step"], f"{k}/{step['tasks']}")
                assert done.returncode == 0, done.stderr
                tasks += 1
        assert tasks > 100, tasks
        for name in ["documents.parquet", "rejects.parquet", "funnel.json"]:
            theirs = s3.get_object(Bucket="crawl", Key=f"runs/one/data/{name}")["Body"].read()
            assert theirs == (folder / "local" / "data" / name).read_bytes(), f"{name} differs"
        left = s3.list_objects_v2(Bucket="crawl", Prefix="runs/one/data/work/")["Contents"]
        assert len(left) == 2, [entry["Key"] for entry in left]

        def fails(*arguments):
            done = herd_data(*arguments)
            assert done.returncode != 0 and done.stderr.startswith("herd: "), (arguments, done)
            return done.stderr

        recipe_file = str(folder / "s3.toml")
        assert "object store" in fails(recipe_file, "--out", "s3://crawl/runs/two")
        assert "s3://nowhere" in fails("plan", recipe_file, "--out", "s3://nowhere/run")
        assert "s4://" in fails("plan", recipe_file, "--out", "s4://crawl/run")
        (folder / "none.toml").write_text(text.replace(pattern, '["s3://crawl/2027/*.warc.gz"]'))
        assert "s3://crawl/2027/*.warc.gz" in fails("plan", str(folder / "none.toml"), "--out", str(folder / "none"))
        server.stop()
        message = fails("plan", recipe_file, "--out", "s3://crawl/runs/three")
        assert "s3://crawl" in message, message
    print(f"S3: {tasks} tasks, the bits of a local run")


if __name__ == "__main__":
    main()
