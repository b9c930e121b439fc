#!/usr/bin/env python3
"""datatrove over a crawl in one process: its WARC reader, trafilatura, URL and language filters left out, Gopher's repetition and
quality filters, C4's, MinHash (14 x 8) in its four steps. Prints one JSON line.

    peer.py CRAWL OUT
"""

import json
import pathlib
import resource
import sys
import time

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter


def main():
    crawl, out = sys.argv[1], sys.argv[2]
    config = MinhashConfig()
    began = time.perf_counter()
    steps = [
        [
            WarcReader(crawl, glob_pattern="*.warc.gz"),
            # As the authors of FineWeb set it; a limit in time would start a process for every page.
            Trafilatura(favour_precision=True, timeout=10),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            JsonlWriter(f"{out}/filtered"),
        ],
        [JsonlReader(f"{out}/filtered"), MinhashDedupSignature(output_folder=f"{out}/signatures", config=config)],
        [MinhashDedupBuckets(input_folder=f"{out}/signatures", output_folder=f"{out}/buckets", config=config)],
        [MinhashDedupCluster(input_folder=f"{out}/buckets", output_folder=f"{out}/remove", config=config)],
        [JsonlReader(f"{out}/filtered"), MinhashDedupFilter(input_folder=f"{out}/remove"), JsonlWriter(f"{out}/documents")],
    ]
    seconds = []
    for k, pipeline in enumerate(steps):
        at = time.perf_counter()
        # The second step of MinHash wants a task for each of the 14 buckets.
        tasks = config.num_buckets if k == 2 else 1
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/logs/{k}").run()
        seconds.append(round(time.perf_counter() - at, 2))
    import gzip

    files = pathlib.Path(out, "documents").glob("*.jsonl.gz")
    documents = sum(1 for file in files for _ in gzip.open(file))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime,
        "peak_mb": max(usage.ru_maxrss, children.ru_maxrss) * 1024 / 1e6,
        "documents": documents,
        "steps": seconds,
    }
    print("\n" + json.dumps(row))


if __name__ == "__main__":
    main()
