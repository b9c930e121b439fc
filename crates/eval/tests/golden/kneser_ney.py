"""Golden values for tests/ngram.rs: interpolated modified Kneser-Ney written from the formulas of Chen and Goodman
(1999) with plain dictionaries, sharing nothing with the Rust code. Run: python3 kneser_ney.py > kneser_ney.json"""

import json
import random
from collections import Counter, defaultdict

VOCABULARY, BEGIN, END = 40, 38, 39


def corpus():
    rng = random.Random(20240731)
    documents = []
    for _ in range(60):
        document, state = [BEGIN], 0
        for _ in range(rng.randrange(0, 60)):
            # A skewed chain: enough repetition for real counts of counts, enough noise for unseen n-grams.
            state = (state * 5 + min(int(rng.expovariate(0.6)), 11)) % 36
            document.append(state)
        documents.append(document + [END])
    return documents


def discounts(counts):
    n = Counter(counts.values())
    if 0 in (n[1], n[2], n[3]):
        return [0.5, 1.0, 1.5]
    y = n[1] / (n[1] + 2 * n[2])
    d = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return d if all(0 <= x <= k for k, x in enumerate(d, 1)) else [0.5, 1.0, 1.5]


def train(documents, order):
    raw = {n: Counter(tuple(d[i:i + n]) for d in documents for i in range(len(d) - n + 1)) for n in range(1, order + 1)}
    tables = {order: {g: c for g, c in raw[order].items() if g != (BEGIN,)}}
    for n in range(order - 1, 0, -1):
        before = defaultdict(set)
        for gram in raw[n + 1]:
            before[gram[1:]].add(gram[0])
        tables[n] = {g: len(s) for g, s in before.items()}
        if n > 1:
            tables[n].update({g: c for g, c in raw[n].items() if g[0] == BEGIN})
    return {n: (table, discounts(table)) for n, table in tables.items()}


def probability(model, context, word):
    table, d = model[len(context) + 1]
    followers = [c for g, c in table.items() if g[:-1] == context]
    lower = probability(model, context[1:], word) if context else 1 / VOCABULARY
    total = sum(followers)
    if total == 0:
        return lower
    count = table.get(context + (word,), 0)
    own = count - d[min(count, 3) - 1] if count else 0
    return own / total + sum(d[min(c, 3) - 1] for c in followers) / total * lower


def main():
    documents = corpus()
    rng = random.Random(5)
    models = {order: train(documents, order) for order in (1, 2, 3)}
    cases = []
    for order in (1, 2, 3):
        for _ in range(120):
            document = rng.choice(documents)
            i = rng.randrange(1, len(document))
            context = tuple(document[max(0, i - order + 1):i])
            word = document[i] if rng.random() < 0.5 else rng.randrange(VOCABULARY)
            if rng.random() < 0.2:
                context = tuple(rng.randrange(38) for _ in range(order - 1))
            cases.append({"order": order, "context": context, "word": word, "p": probability(models[order], context, word)})
    facts = {str(o): {str(n): d for n, (_, d) in m.items()} for o, m in models.items()}
    print(json.dumps({"vocabulary": VOCABULARY, "documents": documents, "discounts": facts, "cases": cases}))


main()
