"""Pages that no source gives and every crawl has: logs, spam, address lists, machine noise, mixed languages. All
names, addresses and numbers are invented: example domains (RFC 2606), 555 numbers, documentation IP blocks
(RFC 5737), published test card and account numbers.
"""

import html
import random

MENU = ["Home", "News", "Products", "Support", "Community", "Downloads", "About us", "Contact", "Press", "Jobs"]
FIRST = "Amina Bruno Chen Dalia Emil Farah Goran Hana Igor Jonas Kira Liam Mona Nils Olga Pavel Rosa Samir Tara Umar Vera Wen Yara Zeno".split()
LAST = "Abbott Baker Castillo Duarte Eriksen Fischer Garcia Hoffmann Ivanov Jensen Kumar Lopez Meyer Novak Okafor Petrov Quinn Rossi Silva Tanaka".split()

ROLES = "accounting,archive,building services,catering,customer support,design,field research,human resources,law,logistics,marketing,network operations,payroll,press office,purchasing,quality control,sales,security,training,translation".split(",")
PLACES = "room,office,desk,laboratory,counter,floor,window,workshop".split(",")


def site(title, content, rank):
    """A page of an ordinary content-management system around `content`."""
    menu = "".join(f'<li class="menu-item"><a href="/{m.lower().replace(" ", "-")}">{m}</a></li>' for m in MENU)
    recent = "".join(f'<li><a href="/post/{rank * 7 + i}">Recent post number {rank * 7 + i}</a></li>' for i in range(6))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} | Mirror Library</title>
<script>var _paq = window._paq || []; _paq.push(["trackPageView"]);</script></head>
<body class="single-post">
<div id="cookie-consent" class="cookie-banner"><p>We use cookies to personalise content and to analyse our traffic.
By clicking "Accept all" you agree to the storing of cookies on your device.</p><button>Accept all</button></div>
<header class="site-header"><a class="logo" href="/">Mirror Library</a><nav><ul>{menu}</ul></nav></header>
<div class="breadcrumbs"><a href="/">Home</a> &raquo; <a href="/library">Library</a> &raquo; {html.escape(title)}</div>
<main><article class="post"><h1>{html.escape(title)}</h1>
<div class="entry-content">{content}</div>
<div class="share-buttons">Share this: <a href="#">Facebook</a> <a href="#">X</a> <a href="#">Reddit</a> <a href="#">Email</a></div>
</article></main>
<aside class="sidebar"><h3>Recent posts</h3><ul>{recent}</ul><h3>Newsletter</h3><p>Subscribe to our newsletter and
never miss an update.</p></aside>
<footer class="site-footer"><p>Copyright 2026 Mirror Library. All rights reserved.</p><a href="/privacy">Privacy policy</a>
<a href="/terms">Terms of service</a></footer></body></html>"""


def missing(url):
    return f"""<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN"><html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The requested URL {html.escape(url)} was not found on this server.</p></body></html>"""


def log_page(n):
    """A system log: every line is long and unique, so that only repeated n-grams give it away."""
    dice = random.Random(f"log {n}")
    lines, clock = [], dice.uniform(1, 9)
    for _ in range(260):
        clock += dice.expovariate(3)
        unit = dice.choice(["nginx", "postgresql", "cron", "sshd", "backup"])
        job, ms = dice.randrange(10**6), dice.randrange(4000)
        lines.append(dice.choice([
            f"[{clock:12.6f}] systemd[1]: Started the scheduled job {job} of the unit {unit}.service for the user root in the system slice.",
            f"[{clock:12.6f}] {unit}[{job}]: the connection from the client 192.0.2.{job % 254} was closed by the remote host after {ms} ms of idle time.",
            f"[{clock:12.6f}] kernel: usb {n}-{job % 4}: new high-speed USB device number {job % 90} using the driver xhci_hcd on the bus {job % 7}.",
        ]))
    return site(f"Build log {4000 + n}", "<pre>" + html.escape("\n".join(lines)) + "</pre>", n)


def directory_page(n):
    """A staff list: little besides addresses and numbers."""
    dice = random.Random(f"staff {n}")
    rows = []
    for _ in range(40):
        first, last = dice.choice(FIRST), dice.choice(LAST)
        does, where = dice.choice(ROLES), dice.choice(PLACES)
        mail, phone = f"{first}.{last}@example.org".lower(), f"+1 (202) 555-01{dice.randrange(100):02}"
        rows.append(f"<p>{first} {last}, {does}, {where} {dice.randrange(100, 500)}: {mail}, {phone}</p>")
    return site(f"Who is who, part {n}", "".join(rows), n)


def contact_article(n):
    """An article with a few addresses in it: they are masked, the article stays."""
    dice = random.Random(f"contact {n}")
    topic = ["community garden", "repair workshop", "reading circle", "chess club"][n % 4]
    season = ["spring", "summer", "autumn", "winter"][n % 4]
    content = f"""
<p>The {topic} of our town opens again this {season}, and everybody who wants to take part is welcome. Last year more than
{dice.randrange(40, 90)} neighbours came, among them many families with children, and together they finished far more than
anybody had planned. The rooms are warm, tea is free, and tools, books and boards can be borrowed on the spot.</p>
<p>We meet every {dice.choice(["Tuesday", "Wednesday", "Thursday"])} evening at seven. Newcomers get an introduction of half an
hour in which we show where things are kept and what to do when something breaks. Nobody has to bring anything along
but patience. If you would like to help with the organisation, write to {topic.split()[0]}.{n}@example.com or call
(555) 555-01{dice.randrange(10, 99)}; Rosa answers within a day or two.</p>
<p>Donations keep the {topic} alive. The account is DE89 3704 0044 0532 0130 00, and those who prefer a card
have in earlier years used the number 4111 1111 1111 1111 of the test shop by mistake: please do not. The web
server that shows the calendar stands at 198.51.100.{10 + n} and is looked after by volunteers, so that it is sometimes slow.</p>
<p>Over the years the {topic} has become a place where people talk who would never have met otherwise. A retired
engineer explains gears to a girl of nine, a baker learns how to read music, and in the kitchen a long
discussion about the best soup never ends. That is worth more to us than any number of finished things.</p>"""
    return site(f"The {topic} opens its doors again", content, n)


def spam_page(n):
    """Adult spam on a domain that no list knows."""
    dice = random.Random(f"spam {n}")
    words = ["hot", "free", "xxx", "porn", "live", "sexy", "nude", "cams", "best", "tonight", "videos", "milf", "watch", "girls", "click"]
    sentences = " ".join(" ".join(dice.choice(words) for _ in range(dice.randrange(6, 14))).capitalize() + "." for _ in range(60))
    return site(f"Free xxx videos {n}", f"<p>{sentences}</p>", n)


def blocked_page(n):
    return site(f"Limited offer {n}", "<p>This offer ends soon, and whoever orders today receives a second bottle at no cost. "
                "Our customers report that they feel younger after a single week, and the shipment is discreet and fast.</p>" * 3, n)


def noise_page(n):
    """A dump of identifiers: words that no other page has."""
    dice = random.Random(f"noise {n}")
    def token():
        return "".join(dice.choice("bcdfghjklmnpqrstvwxz0123456789") for _ in range(dice.randrange(5, 14)))
    rows = "".join(f"<p>The entry {token()} of {token()} maps {token()} {token()} {token()} onto {token()} with {token()} and {token()} {token()}.</p>"
                   for _ in range(60))
    return site(f"Symbol table {n}", rows, n)


def mixed_page(n):
    """A few words of many languages: no language is likely."""
    dice = random.Random(f"mixed {n}")
    words = ("merhaba dünya kia ora tēnā koutou ahoj světe hei maailma salut lume sawubona mhlaba hallo wrâld bonghjornu mondu "
             "pozdrav svijete sveiki pasaule tere maailm labas pasauli halló heimur moni dziko habari ulimwengu aloha honua").split()
    text = " ".join(dice.choice(words) for _ in range(220))
    return site(f"Greetings {n}", f"<p>{text}</p>", n)


def every():
    """All of them: (URL, page)."""
    for n in range(5):
        yield f"https://ci.builds.example/log/{n}", log_page(n)
    for n in range(4):
        yield f"https://www.people.example/staff/{n}", directory_page(n)
        yield f"https://town-{n}.example/news/opening", contact_article(n)
        yield f"http://x{n}.cams-{n}.example/free", spam_page(n)
        yield f"https://shop.blocked-adverts.example/offer/{n}", blocked_page(n)
        yield f"https://dump.example/table/{n}", noise_page(n)
    for n in range(3):
        yield f"https://greetings.example/{n}", mixed_page(n)
