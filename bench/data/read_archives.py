"""Reads archives with FastWARC and counts, as crates/data/examples/read_archives.rs does. Prints one JSON line."""

import json
import sys
import time

from fastwarc.warc import ArchiveIterator, WarcRecordType


def main():
    began = time.perf_counter()
    responses = size = 0
    for file in sys.argv[1:]:
        for record in ArchiveIterator(open(file, "rb"), record_types=WarcRecordType.response, parse_http=False):
            responses += 1
            size += len(record.reader.read())
    print(json.dumps({"responses": responses, "bytes": size, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
