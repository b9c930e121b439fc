"""Plain text for the benchmarks from two Debian packages, unpacked: debian-handbook (26 languages) and anarchism (English).

    python prepare_inputs.py DEBIAN_HANDBOOK ANARCHISM OUT
"""

import html
import re
import sys
from pathlib import Path


def text(folder):
    pages = (p.read_text(errors="replace") for p in sorted(folder.rglob("*.html")))
    pages = (re.sub(r"(?s)<(script|style).*?</\1>", "", page) for page in pages)
    return "".join(html.unescape(re.sub(r"<[^>]+>", "", page)) for page in pages)


def main():
    handbook, anarchism, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    (out / "english.txt").write_text(text(anarchism), newline="")
    for folder in sorted(handbook.rglob("html/*/")):
        if re.fullmatch(r"[a-z]{2}-[A-Z]{2}", folder.name):
            (out / f"handbook-{folder.name}.txt").write_text(text(folder), newline="")


main()
