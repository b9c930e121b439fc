"""Makes the golden files of tests/golden_hf.rs with Hugging Face's `tokenizers` (0.23).

    python make_tokenizer_golden.py

corpus.txt        the text both trainers learn from (Shakespeare; the first article of the Universal Declaration of
                  Human Rights in 18 languages; code). Public domain.
tokenizer.json    what `tokenizers` trains on it and saves, ids laid out as Llama 3's: bytes, merges, specials.
encodings.json    tricky texts and their ids, and ids with their text, by `tokenizers` with that tokenizer.json.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
VOCAB_SIZE = 1600
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED = {
    0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>",
    7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>",
}  # fmt: skip
reserved = iter(range(256))
SPECIALS = [NAMED.get(i) or f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)]


def dress(model):
    """Everything around the model, as in Llama 3's tokenizer.json."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(text):
    tokenizer = dress(models.BPE(ignore_merges=True))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIALS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]

    tokenizer = dress(models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    bos = SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


TRICKY = [
    "", " ", "  ", "\n", "\r\n", "\t", "\u00a0", " \n ", "\n\n\n", " \t\n  x", "x  ", "x \n", "x\n ", "   x", "\n  \n  x  \n",
    "\r", "a\rb", "a\r\n\r\nb", "\u2028\u2029x", "\u3000全角　空白", "\u200bzero\u200bwidth\ufeff", "\x00\x01\x1f\x7f", "\x1c\x1d x \x85y",
    "I'm he's we've they'll I'd you're it'S CAN'T I'LL 'tis 'S 'ſ 's't'm 'r 'v 'l 'L L'll'l ''s", "don’t ‘quoted’ “this”",
    "it's100 o'clock 'sabc 'rea 'vex", "'", "''", "' '", "'\n's", "a'", "!'s", " 's", "'İ", "'K",
    "1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,234,567.89", "٣٤٥٦٧٨", "१२३४", "Ⅷ½²③一二三", "1a2b3c", "0x1F 1e-9",
    "Hello, world!", "hello  world", "HELLO", "CamelCaseAndsnake_case_and-kebab", "!!!", "... ---", " !!!\n\n", "!a", " !a", "$$$ €5 £3",
    "(parens) [brackets] {braces}\n", "a+b=c; x<y && z>=w || !q", "#include <stdio.h>\r\nint main(void) {\r\n\treturn 0;\r\n}\r\n",
    "https://example.org/path?query=1&other=two#frag", "user.name+tag@example.co.uk", "C:\\Users\\x\\file.txt", "<|eot_id|>", "<|begin_of_text|>x<|end_of_text|>",
    "<|reserved_special_token_1|><|reserved_special_token_12|>", "<|eot_id", "a<|eot_id|> b\n<|start_header_id|>user<|end_header_id|>\n\nhi",
    "é", "e\u0301", "e\u0301e\u0301 n\u0303", "\u0301", " \u0301a", "a\u0301\u0302\u0303b", "Å\u212bÅ", "ﬁﬂﬀ ĳ Ǆ", "ß SS ẞ", "ΑΣ Ας",
    "naïve café — “Ünïcödé”…", "Straße, Übergröße, Żółć, İstanbul, ıI, Đặng", "Привет, мир! Ёлка.", "שלום עולם", "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก กำลัง", "မြန်မာ ខ្មែរ ລາວ", "தமிழ் മലയാളം తెలుగు", "你好，世界！", "こんにちは世界。カタカナ ﾊﾝｶｸ", "안녕하세요 세계 \u1112\u1161\u11ab",
    "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 𐍈 𠜎𠜱", "🙂🙃", "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣", "🦙" * 20, "﷽ ꧅ ⸻", "ꙮ ꙮꙮ", "\u202eright-to-left\u202c", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "\ue000\uf8ff private", "\ufffd\ufffe\uffff", "\U0010ffff\U000e0001", "\u0378 unassigned", "\ud7ff\ue000",
    "a" * 33, "a" * 97, "ab" * 200, "abc" * 120 + "!", " " * 100, " " * 97 + "x", "\n" * 50, "=" * 80 + "\n" + "-" * 80, "0" * 50, "aA" * 60,
    "the the the The THE tHe", "supercalifragilisticexpialidocious" * 4, "Donaudampfschifffahrtsgesellschaftskapitän", "   \n\t\tindented\n\t    mixed  \n",
    "x\u00a0\u00a0y \u00a0z", "tab\there", " \u2003em space", "ends with space ", "trailing\n\n", "\u0000", "\t\t\tif (x) {\n", "}\n\n\n}\n", ";\r\n\r\n;", "  ;\n  ;",
]  # fmt: skip


def random_texts(rng):
    """Random characters of every plane, near the borders of classes, and random mixes of what split rules trip over."""
    joints = ["'", "s", "S", "ll", " ", "  ", "\n", "\r", "\t", "\u00a0", "1", "23", "a", "é", "語", "!", "_", "\u0301", "🦙", "ſ", "\u2028"]
    for _ in range(120):
        yield "".join(rng.choice(joints) for _ in range(rng.randint(1, 40)))
    for top in [0x80, 0x250, 0x3000, 0xD800, 0x20000, 0x110000]:
        for _ in range(25):
            picks = (rng.randrange(top) for _ in range(rng.randint(1, 30)))
            yield "".join(chr(c) for c in picks if not 0xD800 <= c < 0xE000)


def main():
    rng = random.Random(7)
    text = (HERE / "corpus.txt").read_bytes().decode()
    tokenizer = train(text)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    tokenizer.save(str(HERE / "tokenizer.json"))
    texts = TRICKY + list(random_texts(rng)) + [text[i : i + 700] for i in range(0, len(text), 2100)]
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    # `encode` of Herd takes no special tokens from text: Hugging Face does so with `encode_special_tokens`.
    tokenizer.encode_special_tokens = True
    plain = [encode(t) for t in texts]
    tokenizer.encode_special_tokens = False
    special = [encode(t) for t in texts]
    rows = [[t, p] if p == s else [t, p, s] for t, p, s in zip(texts, plain, special)]
    ids = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 30))] for _ in range(60)]
    decoded = [[i, tokenizer.decode(i, skip_special_tokens=False)] for i in ids]
    lines = lambda rows: "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]"
    golden = f'{{"encode": {lines(rows)},\n"decode": {lines(decoded)}}}\n'
    (HERE / "encodings.json").write_text(golden)
    print(len(rows), "texts,", sum(map(len, plain)), "tokens,", len(decoded), "decodings")


main()
