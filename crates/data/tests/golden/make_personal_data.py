"""Makes personal_data.jsonl: texts with the personal data in them marked, and texts whose numbers are none.

    pip install python-stdnum        (2.x; it is the independent word on every checksum)
    python3 make_personal_data.py

All numbers are invented by a seeded generator and made valid by the check digits of python-stdnum. A row is
{"text": ..., "spans": [[kind, what stands in the text], ...]}.
"""

import importlib
import json
import pathlib
import random

from stdnum import iban, luhn

random.seed(20)
digits = lambda n, first="0123456789": random.choice(first) + "".join(random.choice("0123456789") for _ in range(n - 1))


def module(name):
    return importlib.import_module(f"stdnum.{name}")


def valid(name, make):
    """The first of many random numbers that the module accepts."""
    check = module(name)
    for _ in range(500_000):
        number = make()
        if check.is_valid(number):
            return number
    raise SystemExit(f"no valid {name}")


def broken(name, number, places):
    """The number with one digit changed so that the check fails."""
    check = module(name)
    for place in places:
        for digit in "0123456789":
            other = number[:place] + digit + number[place + 1 :]
            if other != number and not check.is_valid(other):
                return other
    raise SystemExit(f"cannot break {number}")


day = lambda: f"{random.randint(1, 28):02}"
month = lambda: f"{random.randint(1, 12):02}"
year = lambda: f"{random.randint(50, 99):02}"
letters = lambda n: "".join(random.choice("ABCDEFGHILMNOPRST") for _ in range(n))

rows = []


def row(text, *spans):
    for _, part in spans:
        assert part in text, (text, part)
    rows.append({"text": text, "spans": [list(s) for s in spans]})


ids = {
    # country: module, generator, how it is written, sentence, does a checksum decide
    "us": ("us.ssn", lambda: f"{digits(3, '12345')}-{digits(2, '123456789')}-{digits(4, '123456789')}", "His social security number is {}.", False),
    "br": ("br.cpf", lambda: (lambda d: f"{d[:3]}.{d[3:6]}.{d[6:9]}-{d[9:]}")(digits(11)), "CPF {} do titular", True),
    "es": ("es.dni", lambda: digits(8) + random.choice("TRWAGMYFPDXBNJZSQVHLCKE"), "con DNI {}, domiciliado en Sevilla", True),
    "it": ("it.codicefiscale", lambda: f"{letters(6)}{year()}{random.choice('ABCDEHLMPRST')}{day()}{random.choice('ABCDEFGHIL')}{digits(3)}{random.choice('ABCDEFGHIJKLMNOPQRSTUVWXYZ')}", "Codice fiscale: {}", True),
    "gb": (None, lambda: f"{random.choice('ABCEHJ')}{random.choice('ABCEHJKL')} {digits(2)} {digits(2)} {digits(2)} {random.choice('ABCD')}", "National Insurance number {} was used", False),
    "fr": ("fr.nir", lambda: f"{random.choice('12')} {year()} {month()} {random.randint(1, 95):02} {digits(3)} {digits(3)} {digits(2)}", "numéro de sécurité sociale : {}", True),
    "be": ("be.nn", lambda: f"{year()}.{month()}.{day()}-{digits(3)}.{digits(2)}", "Rijksregisternummer {} van de aanvrager", True),
    "se": ("se.personnummer", lambda: f"{year()}{month()}{day()}-{digits(4)}", "personnummer {} enligt folkbokföringen", True),
    "fi": ("fi.hetu", lambda: f"{day()}{month()}{year()}-{random.randint(2, 899):03}{random.choice('0123456789ABCDEFHJKLMNPRSTUVWXY')}", "henkilötunnus {} on salainen", True),
    "cn": ("cn.ric", lambda: f"110105{'19' + year()}{month()}{day()}{digits(3)}{random.choice('0123456789X')}", "身份证号 {} 。", True),
    "in": ("in_.aadhaar", lambda: f"{digits(4, '23456789')} {digits(4)} {digits(4)}", "Aadhaar number {} is linked", True),
    "pl": ("pl.pesel", lambda: f"{year()}{month()}{day()}{digits(5)}", "PESEL: {} wpisano", True),
    "nl": ("nl.bsn", lambda: digits(9, "123456789"), "BSN {} staat op de kaart", True),
    "de": ("de.idnr", lambda: digits(11, "123456789"), "Steuer-ID {} des Antragstellers", True),
}
for country, (name, make, sentence, checked) in ids.items():
    for _ in range(4):
        number = valid(name, make) if name else make()
        if country == "de":
            number = f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"
        row(sentence.format(number), ["ID", number])
    if checked:
        number = valid(name, make)
        places = [i for i, c in enumerate(number) if c.isdigit()][-4:]
        row(sentence.format(broken(name, number, places)))

for _ in range(6):
    account = None
    while not account:
        candidate = random.choice([f"DE00{digits(18)}", f"GB00{random.choice(['NWBK', 'BARC'])}{digits(14)}", f"NL00{random.choice(['INGB', 'ABNA'])}{digits(10)}", f"FR00{digits(23)}"])
        check = iban.calc_check_digits(candidate)
        account = candidate[:2] + check + candidate[4:]
        account = account if iban.is_valid(account, check_country=False) else None
    spaced = " ".join(account[i : i + 4] for i in range(0, len(account), 4))
    for form in (account, spaced):
        row(f"Please pay to {form} before Friday.", ["IBAN", form])
    wrong = account[:-1] + str((int(account[-1]) + 1) % 10)
    row(f"Please pay to {wrong} before Friday.")

for prefix, length in (("4", 16), ("51", 16), ("55", 16), ("34", 15), ("37", 15)):
    for _ in range(3):
        number = prefix + digits(length - len(prefix) - 1)
        number += luhn.calc_check_digit(number)
        groups = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
        parts, at = [], 0
        for g in groups:
            parts.append(number[at : at + g])
            at += g
        form = random.choice([" ", "-", ""]).join(parts)
        row(f"The card {form} expires in May.", ["CARD", form])
    wrong = number[:-1] + str((int(number[-1]) + 3) % 10)
    row(f"The card {wrong} expires in May.")

for address in ("jane.doe@example.org", "j+news@mail.example.co.uk", "o_connor99@sub.domain.example", "INFO@EXAMPLE.COM", "müller@example.de"):
    row(f"Write to {address}, or to the office.", ["EMAIL", address])
row("Two of them: a@b.example and c.d@e.example!", ["EMAIL", "a@b.example"], ["EMAIL", "c.d@e.example"])
row("Or jane (at) example (dot) org, as she writes it.", ["EMAIL", "jane (at) example (dot) org"])

for form, sentence in (
    ("+49 30 5550199", "Call {} at night."),
    ("+49 (0)30 555 0199", "Zentrale {} oder per Post"),
    ("+1 202 555 0143", "phone {} ext. 3"),
    ("+1-202-555-0187", "phone {} in Washington"),
    ("+44 20 7946 0958", "London: {}"),
    ("+33 1 99 00 12 34", "Tél. {}, le matin"),
    ("+91 98765 43210", "Mobile {} only"),
    ("+5511987654321", "WhatsApp {} agora"),
    ("(555) 555-0123", "Call {} now"),
    ("202-555-0176", "Fax: {}"),
    ("030 555 0123", "Tel. {} oder Fax"),
    ("01 99 00 56 78", "Téléphone : {} aux heures de bureau"),
    ("020 7946 0321", "Phone: {} (office)"),
    ("0171 5550 123", "Handy {} bitte"),
    ("06 12 34 56 78", "On peut le joindre au {} le soir."),
    ("555 0142", "Ring {} and ask for Sam."),
):
    row(sentence.format(form), ["PHONE", form])

for address in ("203.0.113.77", "198.51.100.23", "84.17.45.200", "2001:db8:85a3::8a2e:370:7334", "2a02:8109:1:2:3:4:5:6"):
    row(f"The request came from {address} last night.", ["IP", address])

for text in (
    "Version 2.6.32-5 replaces 2.6.26-2.", "Section 4.2.1.3 of the manual", "on 2026-02-01 at 10:20:30", "Debian 12.5.0",
    "ISBN 978-3-16-148410-0", "ISSN 0317-8471", "a total of 1,234,567.89 euros", "pages 112-118 of volume 33",
    "the mask 255.255.255.0 of 192.168.1.0/24", "listen on 127.0.0.1:8080 and ::1", "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "SHA256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "uid 1000 gid 1000 4096 bytes",
    "the years 1914-1918 and 1939-1945", "RFC 2616, RFC 7230", "x = 3.14159265358979 and e = 2.71828182845905",
    "order number 4711-0815 of customer 12345", "ticket #20260201-0042", "temperatures of -12.5 to 31.0 degrees",
    "at latitude 52.520008, longitude 13.404954", "foo@bar", "@property def x(self)", "git@github.com:owner/name.git",
    "user@host:~$ ls", "kernel: [12345.678901] usb 1-1.2: new device", "0x7fff5fbff8c0 in main () at a.c:42",
    "Postcode 10115 Berlin, D-80331", "MAC 00:1a:2b:3c:4d:5e", "UUID 550e8400-e29b-41d4-a716-446655440000",
    "score 21-19, 19-21, 15-13", "1234567890123456789", "EAN 4006381333931", "Art. 12345678, 24 Stück", "10.1000/182 is a DOI",
    "pp. 303-12-4567 of the index", "call function(555, 555, 123)", "tel-aviv 1909", "5 000 000 km", "a resolution of 1920x1080",
):
    row(text)

out = pathlib.Path(__file__).with_name("personal_data.jsonl")
out.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
print(len(rows), "rows", sum(len(r["spans"]) for r in rows), "spans")
