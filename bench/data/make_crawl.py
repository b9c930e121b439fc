#!/usr/bin/env python3
"""Makes a crawl of any size out of the HTML pages of Debian packages, with near-duplicates: the same arguments and pages give
the same bytes.

    make_crawl.py OUT --pages N [--copies K] [--files F] FOLDER...

N pages are drawn from all HTML files under the folders. With K > 1 the whole crawl is repeated K - 1 times under other hosts,
every longer English word replaced by another one (the same in a whole copy), so that a copy is as hard as the first crawl and
duplicates none of it. One page in ten is also there as a near-duplicate, with a few words changed. Prints what it wrote.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import pathlib
import re
import uuid

TAG = re.compile(rb"(<script.*?</script>|<style.*?</style>|<[^>]*>)", re.S | re.I)
WORD = re.compile(rb"[a-z]{5,12}")


def number(*parts):
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest())


def vocabulary(pages):
    """Words by length, as the pages have them."""
    words = {}
    for page in pages[:400]:
        for word in WORD.findall(page.read_bytes()):
            words.setdefault(len(word), set()).add(word)
    return {length: sorted(of) for length, of in words.items()}


def changed(html, change):
    """The page with its visible words changed."""
    parts = TAG.split(html)
    for k in range(0, len(parts), 2):
        parts[k] = WORD.sub(lambda word: change(word[0]), parts[k])
    return b"".join(parts)


class Translation(dict):
    """Another word for each word of a copy; found once."""

    def __init__(self, words, copy):
        super().__init__()
        self.words, self.copy = words, copy

    def __missing__(self, word):
        like = self.words[len(word)] if len(word) in self.words else [word]
        self[word] = like[number(self.copy, word) % len(like)]
        return self[word]


def record(url, rank, html):
    headers = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:%s>\r\nWARC-Date: 2026-%02d-%02dT00:00:00Z\r\n"
        b"WARC-Target-URI: %s\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n"
    )
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (len(html), html)
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, url)).encode()
    head = headers % (name, 1 + rank % 12, 1 + rank % 28, url.encode(), len(block))
    return gzip.compress(head + block + b"\r\n\r\n", compresslevel=4, mtime=0)


def write(job):
    out, pages, roots, words, copy, file = job
    translation = Translation(words, copy)
    count = raw = 0
    with open(out / f"crawl-{copy:03}-{file:03}.warc.gz", "wb") as archive:
        for page, root in zip(pages, roots):
            html = page.read_bytes()
            if copy:
                html = changed(html, translation.__getitem__)
            place = page.relative_to(root).as_posix()
            versions = [(f"https://c{copy}.{root.name}.example/{place}", html)]
            if number("mirror", place) % 10 == 0:
                salt = str(copy)
                edit = lambda word: translation[word] if number(salt, word, place) % 200 == 0 else word
                versions.append((f"https://mirror{copy}.example/{root.name}/{place}", changed(html, edit)))
            for url, body in versions:
                archive.write(record(url, number(url), body))
                count, raw = count + 1, raw + len(body)
    return count, raw


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    parser.add_argument("--pages", type=int, required=True)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--files", type=int, default=4, help="archives of a copy")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = [(page, root) for root in args.folders for page in root.rglob("*.html") if page.is_file() and page.stat().st_size > 500]
    found.sort(key=lambda f: number(f[1].name, f[0].relative_to(f[1]).as_posix()))
    found = found[: args.pages]
    words = vocabulary([page for page, _ in found])
    jobs = []
    for copy in range(args.copies):
        for file in range(args.files):
            part = found[file :: args.files]
            jobs.append((args.out, [p for p, _ in part], [r for _, r in part], words, copy, file))
    with multiprocessing.Pool() as pool:
        done = pool.map(write, jobs, chunksize=1)
    print(json.dumps({"pages": sum(c for c, _ in done), "html_bytes": sum(b for _, b in done), "archives": len(jobs)}))


if __name__ == "__main__":
    main()
