"""Documents of about 4,000 bytes as `herd data` writes them (Parquet), out of a text file.

    python prepare_documents.py TEXT OUT
"""

import hashlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

SIZE, GROUP = 4000, 4096


def documents(text):
    at = 0
    while at < len(text):
        end = text.find("\n", at + SIZE) + 1 or len(text)
        yield text[at:end]
        at = end


def main():
    text = open(sys.argv[1], newline="").read()
    strings = ["id", "url", "date", "title", "language", "domain", "license", "source", "text"]
    schema = pa.schema([(name, pa.string()) for name in strings] + [("language_score", pa.float32())])
    rows = []
    with pq.ParquetWriter(sys.argv[2], schema, compression="zstd") as out:
        for number, document in enumerate(documents(text)):
            key = hashlib.md5(str(number).encode()).hexdigest()
            url = f"https://example.org/{number}"
            row = dict(id=key, url=url, date="2026-01-01T00:00:00Z", title="", language="en", domain="general")
            rows.append(row | dict(license=None, source="text", text=document, language_score=1.0))
            if len(rows) == GROUP:
                out.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            out.write_table(pa.Table.from_pylist(rows, schema))


main()
