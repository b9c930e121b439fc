"""Facts taken from freely licensed documentation: a name or a heading, and the sentence that explains it.

Every function yields `Fact`s in a fixed order. Only the standard library is used.
"""

import gzip
import html
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

LONGEST = 260  # characters of an answer


@dataclass(frozen=True)
class Fact:
    source: str  # a key of SOURCES.md
    kind: str  # function, howto, term, keyword, type, error, kernel, option
    name: str
    text: str


class Blocks(HTMLParser):
    """The headings and paragraphs of a page as (kind, text), in order; kind is h1..h4, p or sidebar."""

    KINDS = {"h1": "h1", "h2": "h2", "h3": "h3", "h4": "h4", "p": "p"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks, self.open, self.text = [], None, []

    def handle_starttag(self, tag, attrs):
        style = dict(attrs).get("class") or ""
        if tag in self.KINDS or (tag == "div" and style == "para"):
            self.close_block()
            self.open = "sidebar" if tag == "p" and style == "title" else self.KINDS.get(tag, "p")

    def handle_endtag(self, tag):
        if tag in self.KINDS or tag == "div":
            self.close_block()

    def handle_data(self, data):
        if self.open:
            self.text.append(data)

    def close_block(self):
        text = re.sub(r"\s+", " ", "".join(self.text)).strip()
        if self.open and text:
            self.blocks.append((self.open, text))
        self.open, self.text = None, []


def blocks(path):
    parser = Blocks()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    parser.close_block()
    return parser.blocks


def sentences(text, longest=LONGEST):
    """The first whole sentences of a paragraph that fit, or None if the first alone does not."""
    text = text.replace("\u00a0", " ").replace("’", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"\s*\((see|See|cf\.)[^)]*\)", "", text)
    taken = ""
    for sentence in re.split(r"(?<=[a-z\d)\"`]\.)\s+(?=[A-Z])", text):
        if len(taken) + len(sentence) + 1 > longest:
            break
        taken = f"{taken} {sentence}".strip()
    plain = len(taken) >= 20 and taken.endswith(".") and taken.count("(") == taken.count(")")
    bad = re.search(r"[|{}<>]|::=|\b(Section|Figure|Chapter|above|below|following|sidebar|described here|this page)\b", taken)
    return taken if plain and not bad else None


def first_paragraphs(page, heading):
    """(heading, first sentences) for each heading of this kind that has a paragraph right after it."""
    for (kind, name), (next_kind, text) in zip(page, page[1:]):
        if kind == heading and next_kind == "p":
            answer = sentences(text)
            if answer:
                yield name, answer


def libreoffice(assets):
    root = assets / "libreoffice-help-en/usr/share/libreoffice/help/en-US/text"
    for path in sorted((root / "scalc/01").glob("*.html")):
        for name, text in first_paragraphs(blocks(path), "h2"):
            if re.fullmatch(r"[A-Z][A-Z0-9.]{2,14}( function)?", name):
                yield Fact("libreoffice-help", "function", name.removesuffix(" function"), text)
    for folder in ["shared/guide", "swriter/guide", "scalc/guide", "simpress/guide", "sdraw/guide", "schart/main0000"]:
        for path in sorted((root / folder).glob("*.html")):
            for name, text in list(first_paragraphs(blocks(path), "h1"))[:1]:
                if 8 < len(name) < 60:
                    yield Fact("libreoffice-help", "howto", name, text)
    for folder in ["swriter/01", "shared/01", "simpress/01", "sdraw/01"]:
        for path in sorted((root / folder).glob("*.html")):
            for name, text in list(first_paragraphs(blocks(path), "h1"))[:1]:
                if 3 < len(name) < 40 and "Basic" not in name:
                    yield Fact("libreoffice-help", "command", name, text)


def handbook(assets):
    root = assets / "debian-handbook/usr/share/doc/debian-handbook/html/en-US"
    word = re.compile(r"^(VOCABULARY|BACK TO BASICS|CULTURE|TOOLS?|COMMUNITY|DEBIAN POLICY|GOING FURTHER|QUICK LOOK|"
                      r"SECURITY|ALTERNATIVE|SPECIFIC CASE|IN PRACTICE|NOTE|TIP|CAUTION|HARDWARE|HISTORY) (.+)$")
    for path in sorted(root.glob("*.html")):
        page = blocks(path)
        for title, text in first_paragraphs(page, "sidebar"):
            found = word.match(title)
            if found and 2 < len(found[2]) < 50:
                kind = "term" if len(found[2]) < 28 and not found[2].endswith("?") else "topic"
                yield Fact("debian-handbook", kind, found[2], text)
        for heading in ["h2", "h3", "h4"]:
            for title, text in first_paragraphs(page, heading):
                name = re.sub(r"^[A-G]?[\d.]+\s*", "", title)
                if 3 < len(name) < 60:
                    yield Fact("debian-handbook", "topic", name, text)


def rust(assets):
    root = assets / "rust-doc/usr/share/doc/rust-doc/html"
    for path in sorted((root / "std").glob("keyword.*.html")):
        page = path.read_text(encoding="utf-8")
        found = re.search(r'docblock"><p>(.*?)</p>', page, re.S)
        text = found and sentences(plain(found[1]))
        if text:
            yield Fact("rust-doc", "keyword", path.name.split(".")[1], text)
    row = re.compile(r'item-left[^"]*"><a class="(\w+)"[^>]*>([^<]+)</a>.*?docblock-short">(.*?)</div>', re.S)
    modules = ["", "vec", "string", "collections", "io", "fs", "path", "thread", "sync", "time", "env", "process", "net",
               "iter", "option", "result", "cell", "rc", "fmt", "ops", "cmp", "char", "str", "slice", "mem", "error"]
    for module in modules:
        page = (root / "std" / module / "index.html").read_text(encoding="utf-8")
        for kind, name, text in row.findall(page):
            text = sentences(plain(text))
            name = plain(name)
            if kind in ("struct", "trait", "enum", "mod", "macro", "fn", "primitive") and text:
                what = {"mod": "module", "fn": "function", "primitive": "primitive type"}.get(kind, kind)
                path = name if kind == "primitive" else "::".join(part for part in ["std", module, name] if part)
                yield Fact("rust-doc", f"rust {what}", path, text)
    page = (root / "error-index.html").read_text(encoding="utf-8")
    for name, text in re.findall(r'<h2 id="(E\d{4})".*?</h2>\s*<p>(.*?)</p>', page, re.S):
        text = sentences(plain(text))
        if text and "no longer emitted" not in text:
            yield Fact("rust-doc", "rust error", name, text)


def linux(assets):
    root = assets / "linux-doc/usr/share/doc/linux-doc-6.1/Documentation"
    folders = ["admin-guide", "filesystems", "networking", "process", "mm", "scheduler", "driver-api", "core-api",
               "security", "block", "dev-tools", "sound", "hwmon", "power", "input", "timers", "usb", "virt"]
    for folder in folders:
        for path in sorted((root / folder).rglob("*.rst.gz")):
            text = gzip.open(path, "rt", encoding="utf-8", errors="replace").read()
            found = re.search(r"^(?:[=#*-]{4,}\n)?([^\n]{6,50})\n[=#*-]{4,}\n+((?:[A-Z][^\n]+\n)(?:[^\n:]+\n)*)\n", text, re.M)
            if found and not re.search(r"author|copyright|date|version|\bby\b", found[2], re.I):
                answer = sentences(re.sub(r"[`*]|:\w+:", "", re.sub(r"\s+", " ", found[2]).strip()))
                if answer and not re.search(r"\?|^[.:]|Changes from|kernel driver \w+$", found[1], re.I):
                    yield Fact("linux-doc", "kernel", found[1].strip().rstrip("."), answer)


def plain(fragment):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", fragment))).strip()


def headings_by_language(assets, languages):
    """{page: {language: section title}} of the handbook, and sentences {language: [text]}."""
    root = assets / "debian-handbook/usr/share/doc/debian-handbook/html"
    titles, prose = {}, {language: [] for language in languages}
    for language in languages:
        for path in sorted((root / language).glob("sect.*.html")):
            page = blocks(path)
            for kind, text in page:
                if kind == "h2":
                    titles.setdefault(path.name, {})[language] = re.sub(r"^[\d.]+\s*", "", text)
                    break
            for kind, text in page:
                first = re.split(r"(?<=[.。])\s*", text)[0]
                if kind == "p" and 30 < len(first) < 110 and first[-1] in ".。":
                    prose[language].append(first)
                    break
    return titles, prose


def all_facts(assets):
    seen = set()
    for extract in (libreoffice, handbook, rust, linux):
        for fact in extract(Path(assets)):
            key = (fact.kind, fact.name.lower())
            if key not in seen and fact.text not in seen:
                seen.update([key, fact.text])
                yield fact
