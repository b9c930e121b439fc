#!/usr/bin/env python3
"""Makes crawl/*.warc.gz: a small web crawl of real, freely licensed pages, with everything that makes a crawl
hard to clean. The same packages give the same bytes.

    make_crawl.py --packages FOLDER [--fetch]

FOLDER (or $HERD_PACKAGES; may be given several times, separated by ':') holds unpacked Debian packages, one folder
each, whatever its name. With --fetch the missing ones are downloaded by apt-get and unpacked into the first FOLDER.
"""

import argparse
import gzip
import hashlib
import html
import os
import re
import subprocess
import sys
import tempfile
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import invented_pages

PACKAGES = {  # Debian package -> the folder with its pages
    "debian-handbook": "usr/share/doc/debian-handbook/html",
    "anarchism": "usr/share/doc/anarchism/html",
    "libreoffice-help-en-us": "usr/share/libreoffice/help/en-US",
    "libreoffice-help-de": "usr/share/libreoffice/help/de",
    "libreoffice-help-hi": "usr/share/libreoffice/help/hi",
    "linux-doc-6.1": "usr/share/doc/linux-doc-6.1/html",
    "rust-doc": "usr/share/doc/rust-doc/html",
    "python-sympy-doc": "usr/share/doc/python-sympy-doc/html",
    "python-mpmath-doc": "usr/share/doc/python-mpmath-doc/html",
    "maxima-doc": "usr/share/doc/maxima-doc/html",
}

# Pages: package, folder inside it, pattern of the page's path, host, how many kilobytes of visible text to take,
# and what a capture of it is served as. Hosts end in .example (RFC 2606): these are copies, not the projects' sites.
TAKE = [
    ("debian-handbook", "en-US", r".*", "debian-handbook.example", 1200),
    ("debian-handbook", "de-DE", r".*", "debian-handbook.example", 330),
    ("debian-handbook", "fr-FR", r".*", "debian-handbook.example", 300),
    ("debian-handbook", "es-ES", r".*", "debian-handbook.example", 300),
    ("debian-handbook", "it-IT", r".*", "debian-handbook.example", 240),
    ("debian-handbook", "pt-BR", r".*", "debian-handbook.example", 240),
    ("debian-handbook", "ru-RU", r".*", "debian-handbook.example", 200),
    ("debian-handbook", "ja-JP", r".*", "debian-handbook.example", 160),
    ("debian-handbook", "zh-CN", r".*", "debian-handbook.example", 120),
    ("anarchism", "", r"(?!index|links|arlinks|new|contact).*", "www.faq.example", 2700),
    ("libreoffice-help-en-us", "text/swriter", r".*", "help.office.example", 220),
    ("libreoffice-help-en-us", "text/shared", r".*", "help.office.example", 250),
    ("libreoffice-help-en-us", "text/scalc", r".*", "help.office.example", 60),
    ("libreoffice-help-de", "text/swriter", r".*", "help.office.example", 110),
    ("libreoffice-help-hi", "text/swriter", r".*", "help.office.example", 110),
    ("linux-doc-6.1", "process", r"(?!index|maintainer-pgp|deprecated).*", "docs.kernel.example", 900),
    ("linux-doc-6.1", "admin-guide", r"(?!.*kernel-parameters|.*devices).*", "docs.kernel.example", 350),
    ("linux-doc-6.1", "core-api", r".*", "docs.kernel.example", 100),
    ("rust-doc", "book", r"(?!print|.*SUMMARY|.*edition|.*index).*", "doc.rust.example", 500),
    ("rust-doc", "rust-by-example", r"(?!print).*", "doc.rust.example", 70),
    ("rust-doc", "reference", r"(?!print).*", "doc.rust.example", 200),
    ("rust-doc", "std", r".*(keyword|macro|fn)\..*", "doc.rust.example", 70),
    ("rust-doc", "src/std", r".*", "doc.rust.example", 1000),
    ("python-sympy-doc", "modules", r".*", "docs.sympy.example", 520),
    ("python-sympy-doc", "tutorials", r".*", "docs.sympy.example", 130),
    ("python-mpmath-doc", "", r"(calculus|functions|basics|identification|matrices).*", "mpmath.example", 600),
    ("maxima-doc", "", r"maxima_\d+", "maxima.example", 300),
]
NAVIGATION = [  # pages that are nothing but links
    ("debian-handbook", "en-US/index.html", "debian-handbook.example"),
    ("debian-handbook", "de-DE/index.html", "debian-handbook.example"),
    ("anarchism", "index.html", "www.faq.example"),
    ("python-sympy-doc", "py-modindex.html", "docs.sympy.example"),
    ("rust-doc", "std/all.html", "doc.rust.example"),
    ("maxima-doc", "maxima_toc.html", "maxima.example"),
]
# Served in an old encoding: every n-th page of a language whose text it can hold, and how it is announced.
LEGACY = {
    "de-DE": ("iso-8859-1", "header"), "fr-FR": ("iso-8859-15", "meta"), "es-ES": ("windows-1252", "nothing"),
    "ja-JP": ("shift_jis", "meta"), "ru-RU": ("windows-1251", "nothing"), "zh-CN": ("gb18030", "header"),
}
BIGGEST_PAGE = 700_000  # bytes of HTML; larger pages would leave no room for others
FILES = 4
START = datetime(2026, 2, 1, tzinfo=timezone.utc)


def number(*parts):
    """A number from the parts' hash: where a choice must look random and stay the same."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big")


def visible(page):
    page = re.sub(r"(?is)<(script|style|head|nav)\b.*?</\1>", "", page)
    return len(re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page))).encode())


class Capture:
    def __init__(self, url, body, *, days=None, content_type="text/html; charset=utf-8", status="200 OK", headers=()):
        self.url, self.status, self.headers = url, status, tuple(headers)
        self.body = body.encode() if isinstance(body, str) else body
        self.content_type = content_type
        age = number("date", url) % 150 if days is None else days
        self.date = START + timedelta(days=age, seconds=number("second", url, age) % 86400)


def find(folders, package):
    inside = PACKAGES[package]
    for folder in folders:
        for unpacked in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
            if (unpacked / inside).is_dir():
                return unpacked / inside
    return None


def fetch(folder, package):
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "-q", package], cwd=scratch, check=True)
        archive = next(Path(scratch).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, Path(folder) / package], check=True)


def real_pages(roots):
    """The pages of TAKE: (language folder, capture)."""
    for package, folder, pattern, host, kilobytes in TAKE:
        root, left = roots[package], kilobytes * 1000
        paths = [p for p in (root / folder).rglob("*.html") if p.stat().st_size < BIGGEST_PAGE]
        names = sorted(str(p.relative_to(root)) for p in paths)
        names = [n for n in names if re.fullmatch(pattern, n[len(folder):].lstrip("/").removesuffix(".html"))]
        for name in sorted(names, key=lambda n: number("page", package, n)):
            page = (root / name).read_text("utf-8", "replace")
            if "http-equiv=\"refresh\"" in page[:400] and package == "rust-doc":
                continue
            size = visible(page)
            if size < 600 or size > left:
                continue
            left -= size
            prefix = "hi/" if package.endswith("-hi") else "de/" if package.endswith("help-de") else ""
            yield folder, Capture(f"https://{host}/{prefix}{name}", page)


def legacy(language, capture, count):
    """Every third page of some languages in an old encoding, as older sites serve them."""
    if language not in LEGACY or count % 3:
        return capture
    encoding, announced = LEGACY[language]
    page = capture.body.decode()
    meta = f"charset={encoding}" if announced == "meta" else "" if announced == "nothing" else "charset=UTF-8"
    page = re.sub(r"(?i)charset=utf-8", meta, page).replace('encoding="UTF-8"', "")
    body = page.encode(encoding, "xmlcharrefreplace")
    kind = f"text/html; charset={encoding}" if announced == "header" else "text/html"
    return Capture(capture.url, body, content_type=kind)


def earlier(capture, rank):
    """The page as it was some weeks before: a paragraph was not there yet, another was worded differently."""
    page = capture.body.decode()
    spots = [m for m in re.finditer(r"(?s)<(p|div class=\"para\")[^>]*>.{80,600}?</(p|div)>", page)]
    if len(spots) > 3:
        gone = spots[number("gone", capture.url, rank) % len(spots)]
        page = page[: gone.start()] + page[gone.end():]
    page = page.replace("</body>", f"<!-- generated {rank} -->\n</body>").replace(" very ", " rather ", 2)
    days = (capture.date - START).days
    return Capture(capture.url, page, days=max(0, days - 20 * rank) - rank)


def mirrored(capture, rank):
    """The same article on another site: other boilerplate, a few words changed. Hashes and URLs differ."""
    page = capture.body.decode()
    text = re.search(r"(?s)<body[^>]*>(.*)</body>", page).group(1)
    text = re.sub(r"(?s)<(nav|header|footer|script)\b.*?</\1>", "", text)
    for old, new in (("Debian", "Debian GNU/Linux"), (" however ", " yet "), (" important ", " major ")):
        text = text.replace(old, new, 2)
    title = re.search(r"(?s)<title[^>]*>(.*?)</title>", page)
    name = capture.url.rsplit("/", 1)[1]
    return Capture(
        f"http://www.mirror{rank % 3}.example/library/{name}?id={rank}",
        invented_pages.site(html.unescape(title.group(1)) if title else "Article", text, rank),
    )


def oddities(pages):
    """Responses that are no page at all, and pages that break the rules."""
    html_of = {c.url: c for _, c in pages}
    some = sorted(html_of, key=lambda u: number("odd", u))
    for n, url in enumerate(some[:14]):
        gone = url.replace(".html", "-old.html")
        yield Capture(gone, invented_pages.missing(gone), content_type="text/html; charset=iso-8859-1", status="404 Not Found")
        if n < 6:
            moved = url.replace("https://", "http://")
            yield Capture(moved, "<html><body>Moved</body></html>", status="301 Moved Permanently", headers=[("Location", url)])
        if n < 3:
            yield Capture(url.replace(".html", "-private.html"), invented_pages.missing(url), status="403 Forbidden")
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 0/Kids[]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000 1f15c4890000000d49444154789c6300010000000500010d0a2db4"
        "0000000049454e44ae426082")
    yield Capture("https://debian-handbook.example/get/handbook.pdf", pdf, content_type="application/pdf")
    yield Capture("https://docs.kernel.example/_images/logo.png", png, content_type="image/png")
    yield Capture("https://help.office.example/logo", png, content_type="text/html")  # announced as a page
    yield Capture("https://www.faq.example/robots.txt", "User-agent: *\nDisallow: /search\n", content_type="text/plain")
    yield Capture("https://doc.rust.example/search-index.json", '{"crates": ["std", "core"]}', content_type="application/json")
    yield Capture("https://docs.sympy.example/_static/basic.css", "body { margin: 0 }", content_type="text/css")
    plain = [u for u in some if "/en-US/" in u and html_of[u].content_type.endswith("utf-8")]
    yield Capture(plain[0].replace(".html", ".utf16.html"), html_of[plain[0]].body.decode().encode("utf-16"), content_type="text/html")
    french = next(c for lang, c in pages if lang == "fr-FR" and c.content_type.endswith("utf-8"))
    wrong = Capture(french.url, french.body, content_type="text/html; charset=ISO-8859-1")  # the header lies
    wrong.date = french.date + timedelta(days=1)
    yield wrong
    for url in plain[1:4]:  # stored as the server sent them: compressed, in chunks
        packed = gzip.compress(html_of[url].body, 9, mtime=0)
        yield Capture(url.replace("/en-US/", "/en/"), packed, headers=[("Content-Encoding", "gzip")])
        body = html_of[url].body
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 4000]), body[i:i + 4000]) for i in range(0, len(body), 4000))
        yield Capture(url.replace("/en-US/", "/current/"), chunks + b"0\r\n\r\n", headers=[("Transfer-Encoding", "chunked")])


def variants(capture):
    """Other spellings of the same URL."""
    bare = capture.url.removeprefix("https://")
    yield Capture(f"http://{bare}?utm_source=newsletter&utm_medium=mail", capture.body, days=1)
    host, _, path = bare.partition("/")
    yield Capture(f"https://{host.upper()}:443/./{path}#top", capture.body, days=2)


def all_captures(roots):
    counts, pages = {}, []
    for language, capture in real_pages(roots):
        counts[language] = counts.get(language, 0) + 1
        pages.append((language, legacy(language, capture, counts[language])))
    yield from (c for _, c in pages)
    utf8 = [c for _, c in pages if c.content_type.endswith("utf-8")]
    english = [c for c in utf8 if "/en-US/" in c.url or "kernel" in c.url]
    small = sorted((c for c in utf8 if len(c.body) < 40_000), key=lambda c: number("again", c.url))
    for capture in small[:50]:
        yield earlier(capture, 1)
    for capture in small[:15]:
        yield earlier(capture, 2)
    for capture in small[50:62]:
        yield from variants(capture)
    for rank, capture in enumerate(sorted(english, key=lambda c: number("mirror", c.url))[:36]):
        if len(capture.body) < 60_000:
            yield mirrored(capture, rank)
    for package, name, host in NAVIGATION:
        yield Capture(f"https://{host}/{name}", (roots[package] / name).read_text("utf-8", "replace")[:400_000])
    yield from oddities(pages)
    for url, page in invented_pages.every():
        yield Capture(url, page)


def warc_record(kind, url, date, content_type, block, about=None):
    stamp = date.strftime("%Y-%m-%dT%H:%M:%SZ")
    identity = uuid.UUID(bytes=hashlib.sha256(f"{kind}|{url}|{stamp}|".encode() + block).digest()[:16], version=4)
    head = [("WARC-Type", kind), ("WARC-Date", stamp), ("WARC-Record-ID", f"<urn:uuid:{identity}>")]
    head += [("WARC-Target-URI", url)] if url else []
    head += [("WARC-Concurrent-To", f"<urn:uuid:{about}>")] if about else []
    head += [("Content-Type", content_type), ("Content-Length", str(len(block)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in head)
    return identity, gzip.compress(b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n", 9, mtime=0)


def write(path, captures):
    info = b"software: make_crawl.py\r\nformat: WARC File Format 1.0\r\ndescription: see SOURCES.md\r\n"
    out = [warc_record("warcinfo", "", START, "application/warc-fields", info)[1]]
    for capture in captures:
        host, _, rest = capture.url.split("://", 1)[1].partition("/")
        headers = [("Date", capture.date.strftime("%a, %d %b %Y %H:%M:%S GMT")), ("Server", "Apache"), ("Content-Type", capture.content_type)]
        headers += [*capture.headers]
        if ("Transfer-Encoding", "chunked") not in headers:
            headers.append(("Content-Length", str(len(capture.body))))
        block = f"HTTP/1.1 {capture.status}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
        response = ("response", capture.url, capture.date, "application/http; msgtype=response", block.encode() + capture.body)
        identity, packed = warc_record(*response)
        detailed = number("detail", capture.url) % 4 == 0  # a full crawl has a request and metadata with each
        if detailed:
            request = f"GET /{rest} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: quickstart-crawler\r\nAccept: text/html\r\n\r\n"
            out.append(warc_record("request", capture.url, capture.date, "application/http; msgtype=request", request.encode(), identity)[1])
        out.append(packed)
        if detailed:
            fetched = f"fetchTimeMs: {number('ms', capture.url) % 900 + 40}\r\n"
            out.append(warc_record("metadata", capture.url, capture.date, "application/warc-fields", fetched.encode(), identity)[1])
    path.write_bytes(b"".join(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default=os.environ.get("HERD_PACKAGES"), help="folder(s) of unpacked Debian packages")
    parser.add_argument("--fetch", action="store_true", help="download the packages that are missing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "crawl")
    arguments = parser.parse_args()
    if not arguments.packages:
        parser.error("name the folder of unpacked packages with --packages or $HERD_PACKAGES")
    folders = arguments.packages.split(":")
    roots = {}
    for package in PACKAGES:
        if find(folders, package) is None and arguments.fetch:
            fetch(folders[0], package)
        roots[package] = find(folders, package)
        if roots[package] is None:
            sys.exit(f"{package} is not unpacked in {arguments.packages}; --fetch downloads it")
    captures = sorted(all_captures(roots), key=lambda c: (number("order", c.url, c.date), c.body))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for n in range(FILES):
        path = arguments.out / f"quickstart-{n:05}.warc.gz"
        write(path, captures[n::FILES])
        print(f"{path.name}: {len(captures[n::FILES])} captures, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
