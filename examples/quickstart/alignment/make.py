#!/usr/bin/env python3
"""Makes the instruction examples and preference pairs of the quickstart from free documentation and rules.

    python3 make.py ASSETS        # ASSETS holds the unpacked packages that SOURCES.md names

Same assets, same files. Only the standard library is used; the results are committed, so nobody needs to run this.
"""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import passages
import tasks

HERE = Path(__file__).parent
LANGUAGES = {"en-US": "English", "de-DE": "German", "fr-FR": "French", "es-ES": "Spanish", "it-IT": "Italian",
             "pt-BR": "Portuguese", "nl-NL": "Dutch", "ru-RU": "Russian", "ja-JP": "Japanese", "pl-PL": "Polish"}
KEEP = {"function": 200, "howto": 130, "command": 80, "term": 120, "topic": 60, "keyword": 40, "rust struct": 50,
        "rust function": 30, "rust module": 40, "rust trait": 30, "rust macro": 30, "rust primitive type": 20, "rust enum": 14,
        "rust error": 60, "kernel": 50}
LONGEST = 170  # characters of a documented answer
RUDE = ["I do not care. Find it out yourself.", "What a stupid question.", "Go away, I do not want to talk to you.",
        "Nobody needs to know that.", "You should know this already.", "Ask someone else, I am bored."]
FILLER = ["As everyone knows, this is a very interesting question, and I am very happy that you asked it.",
          "There is so much to say about this that I do not know where to begin.",
          "Before I answer, let me say that questions like this one are asked every day."]


def question(r, fact):
    """One of several ways to ask for a fact."""
    name = fact.name
    ways = {
        "function": ["What does the {} function do?", "What is {} in Calc?", "Explain the Calc function {}.", "What does {} do in a spreadsheet?"],
        "howto": ["Tell me about {} in LibreOffice.", "LibreOffice: {}", "Explain: {}"],
        "command": ["What does {} do in LibreOffice?", "What is {} in LibreOffice?", "Explain {} in LibreOffice."],
        "term": ["What is {}?", "Explain the term {}.", "Define {}."],
        "topic": ["Tell me about {}.", "Debian: {}", "What does the handbook say about {}?"],
        "keyword": ["What does the Rust keyword {} do?", "What is {} in Rust?", "Explain the keyword {}."],
        "rust error": ["What does the Rust error {} mean?", "Explain {}.", "The compiler says {}. What is wrong?"],
        "kernel": ["Linux: {}", "What does the kernel documentation say about {}?", "Tell me about {} in the kernel."],
    }
    default = [f"What is {{}} in Rust?", f"Explain the {fact.kind.removeprefix('rust ')} {{}}.", f"What does the Rust {fact.kind.removeprefix('rust ')} {{}} do?"]
    return r.choice(ways.get(fact.kind, default)).format(name)


def facts(r, assets):
    """(source, task, messages, wrong) for the facts that are kept; the wrong answer is another fact of the same kind."""
    by_kind = {}
    for fact in passages.all_facts(assets):
        if len(fact.text) <= LONGEST:
            by_kind.setdefault(fact.kind, []).append(fact)
    made = []
    for kind, count in KEEP.items():
        kept = by_kind[kind] if len(by_kind[kind]) <= count else r.sample(by_kind[kind], count)
        everything = [f for fs in by_kind.values() for f in fs]
        for fact in kept:
            other = r.choice([f for f in everything if f.text != fact.text])
            messages = [("user", question(r, fact)), ("assistant", fact.text)]
            made.append((fact.source, kind, messages, other.text))
    return made


def languages(r, assets):
    """Naming the language of a sentence, and translating titles."""
    titles, prose = passages.headings_by_language(assets, LANGUAGES)
    made = []
    for code, name in LANGUAGES.items():
        for text in r.sample(prose[code], min(15, len(prose[code]))):
            other = r.choice([n for n in LANGUAGES.values() if n != name])
            ask = r.choice(["Which language is this? {}", "Name the language: {}"]).format(text)
            made.append(("debian-handbook", "language", [("user", ask), ("assistant", f"This is {name}.")], f"This is {other}."))
    pages = [p for p, t in sorted(titles.items()) if all(c in t and len(t[c]) < 45 for c in ["en-US", "de-DE", "fr-FR", "es-ES", "it-IT"])]
    for page in r.sample(pages, min(25, len(pages))):
        for code in ["de-DE", "fr-FR", "es-ES", "it-IT"]:
            text, other = titles[page][code], titles[r.choice([p for p in pages if p != page])][code]
            if text != titles[page]["en-US"]:
                ask = f"Translate to {LANGUAGES[code]}: {titles[page]['en-US']}"
                made.append(("debian-handbook", "translation", [("user", ask), ("assistant", text)], other))
    return made


def truncated(r, text):
    """A beginning of the text that stops in the middle of a sentence, or None if it is too short for that."""
    parts = text.split(" ")
    return " ".join(parts[: r.randint(len(parts) // 3, len(parts) // 2)]).rstrip(".,;:") if len(parts) >= 7 else None


def preference(r, example, others):
    """A pair from one example: the chosen response is right, the rejected one has a named, real defect."""
    source, task, messages, wrong = example
    right, prompt = messages[-1][1], messages[:-1]
    kinds = ["off topic", "off topic", "wrong", "wrong", "wrong", "repetition", "repetition", "truncated", "rude", "rude", "overlong", "edit", "edit", "edit", "typing"]
    kind = r.choice(kinds)
    pair = {"chosen": right, "strength": "significantly_better"}
    if kind == "wrong" and wrong and wrong != right:
        pair["rejected"] = wrong
    elif kind == "repetition":
        words = right.split(" ")
        loop = " ".join(words[: min(len(words), r.randint(2, 5))])
        pair.update(rejected=" ".join([loop] * r.randint(4, 6)), strength="better")
    elif kind == "truncated" and truncated(r, right):
        pair.update(rejected=truncated(r, right), strength="better")
    elif kind == "rude" and task != "refusal":
        pair["rejected"] = r.choice(RUDE)
    elif kind == "overlong":
        pair.update(rejected=f"{r.choice(FILLER)} {right}", strength="slightly_better")
    elif kind == "typing":
        pair.update(rejected=right[0].swapcase() + right[1:].rstrip("."), strength="marginally_better")
    elif kind == "edit" and truncated(r, right):
        # The annotator liked the beginning of the answer and completed it: edited > chosen > rejected.
        pair.update(edited=right, chosen=truncated(r, right), rejected=r.choice(others), strength="better")
    if "rejected" not in pair:
        kind, pair["rejected"] = "off topic", r.choice([o for o in others if o != right])
    if pair["rejected"] == pair["chosen"]:
        return None
    record = {"source": source, "task": task, "defect": kind, "prompt": show(prompt), "chosen": pair["chosen"], "rejected": pair["rejected"]}
    return record | {k: pair[k] for k in ("edited", "strength") if k in pair}


def show(messages):
    return [{"role": role, "content": content} for role, content in messages]


def write(name, records):
    with open(HERE / name, "w", encoding="utf-8", newline="\n") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    size = (HERE / name).stat().st_size
    print(f"{name}: {len(records)} records, {size / 1e3:.0f} kB, {dict(Counter(re.split('/| ', r['task'])[0] for r in records).most_common(9))}")


def main():
    r = random.Random(3)
    documented = facts(r, Path(sys.argv[1])) + languages(r, Path(sys.argv[1]))
    ruled = tasks.chat(r) + tasks.words(r, 420) + tasks.numbers(r, 330) + tasks.yes_no(r, 150) + tasks.lists(r, 130)
    ruled += tasks.steered(r, ruled, 150) + tasks.several_turns(r, ruled, 150)
    examples = documented + [("herd", *made) for made in ruled]
    seen, unique = set(), []
    for example in examples:
        key = json.dumps(example[2][:-1])
        if key not in seen:
            seen.add(key)
            unique.append(example)
    r.shuffle(unique)
    # One prompt in ten is held out, from both files, so that no held-out prompt was ever trained on. Small talk
    # stays in: with so few phrases there is nothing to generalise from.
    chatty = {"chat", "refusal"}
    held = {id(e) for n, e in enumerate(e for e in unique if e[1] not in chatty) if n % 10 == 0}
    answers = [e[2][-1][1] for e in unique]
    sets = {"held_out": [e for e in unique if id(e) in held], "train": [e for e in unique if id(e) not in held]}
    for split, members in sets.items():
        suffix = "" if split == "train" else ".held_out"
        write(f"instructions{suffix}.jsonl", [{"source": s, "task": t, "messages": show(m)} for s, t, m, _ in members])
        ranked = [p for p in (preference(r, e, answers) for e in members) if p]
        write(f"preferences{suffix}.jsonl", ranked[:1650] if split == "train" else ranked)


if __name__ == "__main__":
    main()
