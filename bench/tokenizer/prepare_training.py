"""One text file of a given size for training: files of given kinds below given folders, in the order of their paths, the
folders taking turns, tags taken out of HTML.

    python prepare_training.py OUT MEGABYTES FOLDER...
"""

import html
import re
import sys
from itertools import zip_longest
from pathlib import Path

KINDS = {".txt", ".rst", ".md", ".html", ".rs", ".py", ".c", ".h", ".js", ".toml"}


def texts(folder):
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in KINDS and path.is_file() and not path.is_symlink():
            text = path.read_bytes().decode(errors="ignore").replace("\r\n", "\n")
            if path.suffix == ".html":
                text = re.sub(r"(?s)<(script|style).*?</\1>", "", text)
                text = html.unescape(re.sub(r"<[^>]+>", "", text))
            yield text


def main():
    out, size, *folders = sys.argv[1:]
    left = int(size) * 1_000_000
    with open(out, "wb") as file:
        for turn in zip_longest(*map(texts, folders), fillvalue=""):
            for text in turn:
                part = (text + "\n").encode()[:left] if text else b""
                file.write(part.decode(errors="ignore").encode())
                left -= len(part)
            if left <= 0:
                return
    sys.exit(f"{left} bytes are missing; name more folders")


main()
