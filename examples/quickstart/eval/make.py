#!/usr/bin/env python3
"""Makes the multiple-choice files of this folder. Everything in them is written here, for this purpose, and may be used
under Apache-2.0; nothing is taken from another test or from the crawl. Standard library only; the same bytes each time.

    python3 make.py
"""

import itertools
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
RNG = random.Random(20240723)


def write(name, items):
    """Writes items; the right choice, first in each item, goes to a random place."""
    lines = []
    for i, item in enumerate(items, 1):
        choices = list(item["choices"])
        right = choices[0]
        RNG.shuffle(choices)
        record = {"id": f"{i}", **item, "choices": choices, "answer": choices.index(right)}
        lines.append(json.dumps(record, ensure_ascii=False))
    (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def grammar():
    """Number agreement, one sentence right and one wrong, differing in the verb or article."""
    english = [("The file", "The files", [("is", "are"), ("was", "were"), ("has", "have")], ["open", "empty", "new"]),
               ("This package", "These packages", [("is", "are"), ("was", "were"), ("contains", "contain")], ["removed", "old", "large"]),
               ("The server that answers the clients", "The servers that answer the client", [("is", "are"), ("was", "were")], ["slow", "ready", "free"])]
    items = []
    for singular, plural, verbs, ends in english:
        for (one, many), end in itertools.product(verbs, ends):
            if one in ("has", "contains"):
                end = f"{'an' if end[0] in 'aeiou' else 'a'} {end} part"
            items.append((f"{singular} {{}} {end}.", one, many))
            items.append((f"{plural} {{}} {end}.", many, one))
    german = [("Die Datei", "ist", "sind"), ("Die Dateien", "sind", "ist"), ("Das Paket", "wird", "werden"), ("Die Pakete", "werden", "wird")]
    for subject, right, wrong in german:
        for end in ("neu installiert", "nicht gelesen", "heute geprüft"):
            items.append((f"{subject} {{}} {end}.", right, wrong))
    romance = [("Le fichier", "est", "sont", ("ouvert", "vide")), ("Les fichiers", "sont", "est", ("ouverts", "vides")),
               ("El archivo", "está", "están", ("abierto", "vacío")), ("Los archivos", "están", "está", ("abiertos", "vacíos"))]
    for subject, right, wrong, ends in romance:
        for end in ends:
            items.append((f"{subject} {{}} {end}.", right, wrong))
    for frame, right, wrong in items:
        before, after = frame.split("{}")
        yield {"context": before, "choices": [right + after, wrong + after]}


def arithmetic():
    """Sums and differences of small numbers."""
    seen = set()
    while len(seen) < 80:
        a, b = RNG.randrange(1, 50), RNG.randrange(1, 50)
        plus = RNG.random() < 0.5
        if not plus:
            a, b = max(a, b), min(a, b)
        if a == b or (a, b, plus) in seen:
            continue
        seen.add((a, b, plus))
        right = a + b if plus else a - b
        wrong = {right + d for d in (-10, -2, -1, 1, 2, 10) if right + d >= 0}
        others = RNG.sample(sorted(wrong), 3)
        yield {"context": f"{a} {'+' if plus else '-'} {b} = ", "choices": [str(n) for n in (right, *others)]}


LANGUAGES = {
    "English": ["The weather was cold yesterday.", "She reads a book in the evening.", "We will meet you at the station.",
                "Please close the door behind you.", "They have lived here for ten years.", "The child plays in the garden."],
    "German": ["Das Wetter war gestern kalt.", "Sie liest am Abend ein Buch.", "Wir treffen euch am Bahnhof.",
               "Bitte schließ die Tür hinter dir.", "Sie wohnen seit zehn Jahren hier.", "Das Kind spielt im Garten."],
    "French": ["Il faisait froid hier.", "Elle lit un livre le soir.", "Nous vous retrouverons à la gare.",
               "Ferme la porte derrière toi, s'il te plaît.", "Ils habitent ici depuis dix ans.", "L'enfant joue dans le jardin."],
    "Spanish": ["Ayer hizo mucho frío.", "Ella lee un libro por la noche.", "Nos vemos en la estación.",
                "Cierra la puerta, por favor.", "Viven aquí desde hace diez años.", "El niño juega en el jardín."],
    "Italian": ["Ieri faceva molto freddo.", "La sera legge un libro.", "Ci vediamo alla stazione.",
                "Chiudi la porta, per favore.", "Vivono qui da dieci anni.", "Il bambino gioca in giardino."],
    "Portuguese": ["Ontem fez muito frio.", "Ela lê um livro à noite.", "Encontramo-nos na estação.",
                   "Fecha a porta, por favor.", "Eles moram aqui há dez anos.", "A criança brinca no jardim."],
}


def language():
    """Which second sentence is in the language of the first?"""
    for name, sentences in LANGUAGES.items():
        for i, sentence in enumerate(sentences):
            follow = (i + 1) % len(sentences)
            others = RNG.sample([other for other in LANGUAGES if other != name], 3)
            yield {"context": sentence + " ", "choices": [LANGUAGES[n][follow] for n in (name, *others)]}


CODE = [
    ("fn main() {\n    println!(\"hello\"", [");\n}", "};\n)", "];\n}", ">;\n}"]),
    ("let mut names = Vec", ["::new();", ".new[];", "->new();", "::new{};"]),
    ("for i in 0..10 ", ["{", ":", "do", "then"]),
    ("match value {\n    Some(x) ", ["=> x,", "-> x,", "= x,", ": x,"]),
    ("fn add(a: i32, b: i32) ", ["-> i32 {", "=> i32 {", ": i32 {", "i32 -> {"]),
    ("if count > 3 ", ["{", "then", ":", "=>"]),
    ("let text = String", ["::from(\"a\");", ".from(\"a\");", "->from(\"a\");", "::from[\"a\"];"]),
    ("use std::collections::", ["HashMap;", "println!;", "main();", "i32();"]),
    ("struct Point {\n    x: f64", [",\n    y: f64,\n}", ";\n    y: f64;\n)", " =\n    y: f64\n]", "->\n    y: f64\n}"]),
    ("impl Display for Point ", ["{", "=>", "= {", "::"]),
    ("let length = name", [".len();", "->len();", "::len;", ".len[];"]),
    ("assert_eq!(2 + 2, 4", [");", "];", "};", ">;"]),
    ("pub enum Shape {\n    Circle(f64)", [",\n    Square(f64),\n}", ";\n    Square(f64);\n]", " =>\n    Square(f64)\n)", ":\n    Square(f64):\n}"]),
    ("#include <stdio.h>\n\nint main(void)\n{\n\tprintf(\"hello\\n\"", [");\n\treturn 0;\n}", "];\n\treturn 0;\n)", "};\n\treturn 0;\n]", ":\n\treturn 0\n)"]),
    ("$ sudo apt install ", ["vim", "()", "=>", "fn"]),
    ("$ ls -l /etc/", ["passwd", "{}", ";;", "let"]),
    ("# systemctl restart ", ["ssh.service", "=> {", "println!", "impl"]),
    ("<ul>\n<li>one</li>\n<li>two", ["</li>\n</ul>", "</ul>\n</li>", "<li>\n<ul>", "</p>\n</ul>"]),
    ("def add(a, b):\n    ", ["return a + b", "-> a + b", "fn a + b", "let a + b"]),
    ("for name in names:\n    print(", ["name)", "name]", "name}", "name;"]),
]


def code():
    """What completes a line of code or a command?"""
    for context, choices in CODE:
        yield {"context": context, "choices": choices}


FACTS = [
    ("Packages of Debian are files whose names end in", [".deb", ".rpm", ".exe", ".dmg"]),
    ("The command that changes the permissions of a file is", ["chmod", "ping", "mount", "echo"]),
    ("The command that lists the files of a directory is", ["ls", "cd", "rm", "cat"]),
    ("The administrator's account on a Linux system is called", ["root", "home", "guest", "kernel"]),
    ("Linux is the name of an operating system's", ["kernel", "keyboard", "printer", "screen"]),
    ("In Rust, a variable that may change is declared with", ["let mut", "let const", "var new", "def set"]),
    ("The package manager and build tool of Rust is called", ["cargo", "apt", "make", "pip"]),
    ("A type in Rust that holds a value or nothing is called", ["Option", "String", "Thread", "Socket"]),
    ("LibreOffice's program for spreadsheets is called", ["Calc", "Writer", "Impress", "Draw"]),
    ("LibreOffice's program for text documents is called", ["Writer", "Calc", "Base", "Math"]),
    ("LibreOffice's program for presentations is called", ["Impress", "Calc", "Writer", "Base"]),
    ("Pages of the web are sent with the protocol", ["HTTP", "SMTP", "NTP", "DHCP"]),
    ("Addresses of hosts are handed out on a local network by", ["DHCP", "FTP", "IMAP", "PDF"]),
    ("Names of hosts are translated into addresses by", ["DNS", "SSH", "RAID", "USB"]),
    ("An encrypted login on another machine is made with", ["SSH", "FTP", "PNG", "CSV"]),
    ("Mail between servers is carried by", ["SMTP", "NFS", "SQL", "GIF"]),
    ("Files are shared with Windows machines by the program", ["Samba", "Vim", "Grub", "Bash"]),
    ("The file that lists the accounts of a Linux system is", ["/etc/passwd", "/dev/null", "/tmp", "/boot"]),
    ("Output written to this device disappears:", ["/dev/null", "/etc/fstab", "/home", "/var/log"]),
    ("Several disks are joined so that one may fail by", ["RAID", "HTML", "UTF-8", "TCP"]),
    ("A program that loads the kernel when a machine starts is", ["GRUB", "Apache", "Samba", "Calc"]),
    ("A database that is asked with SQL is", ["PostgreSQL", "OpenSSH", "GRUB", "GIMP"]),
    ("The derivative of x squared is", ["2x", "x", "x cubed", "2"]),
    ("The integral of a sum is the sum of the", ["integrals", "roots", "squares", "angles"]),
    ("The square root of 81 is", ["9", "8", "18", "27"]),
    ("The ratio of a circle's circumference to its diameter is called", ["pi", "e", "i", "zero"]),
    ("A number with exactly two divisors is called", ["prime", "even", "round", "negative"]),
    ("Anarchists reject", ["hierarchy", "music", "bread", "rain"]),
    ("Memory that a program asked for and no longer needs should be", ["freed", "printed", "compiled", "mailed"]),
    ("A lock that protects data shared by threads is called a", ["mutex", "module", "pixel", "cookie"]),
]


def facts(style):
    """Facts that a reader of the crawl could know, as a continuation or with letters."""
    for context, choices in FACTS:
        if style == "letters":
            yield {"context": f"{context} ...?", "choices": choices, "style": "letters"}
        else:
            yield {"context": context + " ", "choices": choices}


write("grammar", grammar())
write("arithmetic", arithmetic())
write("language", language())
write("code", code())
write("facts", facts("cloze"))
write("facts_letters", facts("letters"))
