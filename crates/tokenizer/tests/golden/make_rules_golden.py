"""Small tokenizers of every kind that is read, and what Hugging Face's `tokenizers` makes of many texts.

    python make_rules_golden.py        (tokenizers 0.23)

Writes rules/NAME.json: {"tokenizer": tokenizer.json, "encode": [[text, ids, ids without special tokens]],
"decode": [[ids, text]]}.
"""

import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
CORPUS = (HERE / "corpus.txt").read_text()
POOL = list("abcXYZ019 \t\n\r'.,!?-_$+<=>|\u00a0éßñ中文語日本한국🙂👩٠١²Ⅷ\u0301\u200b\x04\x13\u3000Жsx▁") + [
    "'s", "'ll", "'S", "  ", "    ", "\n\n", "<|eot|>", "<s>", "</s>", "[tool]", "[mask]", "1234", "12", " the",
    "hello", " world", "\t\t", " \n ",
]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
byte_level = lambda regex=False, space=False: pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex)


def byte_tokenizer(steps, alphabet=True, unknown=None, fuse=False, added=(), size=700, begin=False):
    t = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=fuse))
    t.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    t.decoder = decoders.ByteLevel()
    specials = ["<|start|>", "<|eot|>"]
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    t.train_from_iterator(
        CORPUS.splitlines(keepends=True)[:: 1 if alphabet else 9],
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=initial, show_progress=False),
    )
    t.add_tokens(list(added))
    if begin:
        t.post_processor = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 0)])
    return t


def piece_tokenizer(normalizer, pre_tokenizer, strip=True):
    """As Llama 2: characters, `<0x..>` for those without a piece."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    names = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    lines = [line.rstrip("\n") for line in CORPUS.splitlines() if "中" not in line]
    # Words keep apart while training, and runs of spaces are words of their own, as in Llama 2.
    t.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*|[^▁]+"), "isolated")
    t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=900, special_tokens=names + bytes_, show_progress=False))
    data = json.loads(t.to_str())
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in names]
    data["normalizer"] = json.loads(normalizer) if normalizer else None
    data["pre_tokenizer"] = json.loads(pre_tokenizer) if pre_tokenizer else None
    tail = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    data["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *tail]}
    return Tokenizer.from_str(json.dumps(data))


REPLACE = '{"type":"Replace","pattern":{"String":" "},"content":"▁"}'
PREPEND = '{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},' + REPLACE + "]}"
metaspace = lambda scheme, split: json.dumps(
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
)
added = [AddedToken("[tool]", normalized=False), AddedToken("[mask]", lstrip=True, rstrip=True, normalized=False)]
TOKENIZERS = {
    "gpt2": lambda: byte_tokenizer([byte_level(True)], begin=True),
    "gpt2_space": lambda: byte_tokenizer([byte_level(True, True)]),
    "smollm": lambda: byte_tokenizer([pre_tokenizers.Digits(True), byte_level(True)], alphabet=False),
    "unknown": lambda: byte_tokenizer([pre_tokenizers.Digits(False), byte_level(True)], False, "<|eot|>"),
    "unknown_fused": lambda: byte_tokenizer([byte_level(True)], False, "<|eot|>", True),
    "qwen2": lambda: byte_tokenizer([split(QWEN2), byte_level()], added=added),
    "default": lambda: byte_tokenizer(
        [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), byte_level()]
    ),
    "odd_pattern": lambda: byte_tokenizer([split(r"[A-Z]+[a-z]*|\d{2}| ?[a-zß-ÿ]+|\s+(?!\S)"), byte_level()]),
    "llama2": lambda: piece_tokenizer(PREPEND, None),
    "llama2_first": lambda: piece_tokenizer(None, metaspace("first", False)),
    "llama2_always": lambda: piece_tokenizer(None, metaspace("always", False)),
    "llama2_words": lambda: piece_tokenizer(None, metaspace("always", True)),
    "llama2_never": lambda: piece_tokenizer(REPLACE, None, strip=False),
}


def texts(rng):
    yield from ["", " ", "  ", "a", " a", "a ", "Hello world", "\n", " \n", "x  \n\n y", "\x04", "!\x04!", "'", "日本語です"]
    for n in range(120):
        if n % 2:
            at = rng.randrange(len(CORPUS))
            yield CORPUS[at : at + rng.randrange(1, 120)]
        else:
            yield "".join(rng.choice(POOL) for _ in range(rng.randrange(1, 40)))


def main():
    out = HERE / "rules"
    out.mkdir(exist_ok=True)
    for name, make in TOKENIZERS.items():
        rng = random.Random(name)
        t = make()
        encode = []
        for text in texts(rng):
            t.encode_special_tokens = False
            ids = t.encode(text, add_special_tokens=False).ids
            t.encode_special_tokens = True
            encode.append([text, ids, t.encode(text, add_special_tokens=False).ids])
        size = t.get_vocab_size()
        decode = [row[1] for row in encode[::7]] + [[rng.randrange(size) for _ in range(12)] for _ in range(20)]
        rows = dict(
            tokenizer=json.loads(t.to_str()),
            encode=encode,
            decode=[[ids, t.decode(ids, skip_special_tokens=False)] for ids in decode],
        )
        (out / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")))


main()
