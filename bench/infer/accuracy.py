"""Herd beside llama.cpp on the same GGUF file: perplexity of a text, and where greedy answers part.

    python accuracy.py MODEL.gguf TEXT [--bytes 65536] [--prompts 100]

Three answers are held against llama.cpp's, which reads a prompt in one batch and then writes token after token: Herd's,
that of Herd with the weights made floats, and llama.cpp's own if it reads prompt and answer in one batch.

Needs llama-cpp-python and numpy, and `cargo build --release -p herd-infer --example accuracy`.
"""

import argparse
import ctypes
import datetime
import json
import math
import os
import pathlib
import subprocess
import tempfile

import llama_cpp as L
import numpy as np

from peer import QUIET, fill

ROOT = pathlib.Path(__file__).resolve().parents[2]
WINDOW = 512


class Peer:
    def __init__(self, path):
        L.llama_log_set(QUIET, ctypes.c_void_p(0))
        L.llama_backend_init()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot open it; name a GGUF file")
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = WINDOW + 128
        params.n_threads = params.n_threads_batch = 2
        self.ctx = L.llama_init_from_model(self.model, params)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.size = L.llama_vocab_n_tokens(self.vocab)
        self.batch = L.llama_batch_init(WINDOW + 128, 0, 1)

    def tokenize(self, text):
        out = (ctypes.c_int32 * (len(text) + 16))()
        n = L.llama_tokenize(self.vocab, text, len(text), out, len(out), False, False)
        return list(out[:n])

    def logits(self, tokens, start=0, every=True):
        if start == 0:
            L.llama_memory_clear(L.llama_get_memory(self.ctx), True)
        rows = [(t, start + i, 0, every or i + 1 == len(tokens)) for i, t in enumerate(tokens)]
        fill(self.batch, rows)
        assert L.llama_decode(self.ctx, self.batch) == 0
        wanted = range(len(tokens)) if every else [len(tokens) - 1]
        row = lambda i: np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, i), shape=(self.size,)).copy()
        return [row(i) for i in wanted]

    def answer(self, prompt, count):
        """The likeliest `count` tokens one after the other, and by how much each is before the second."""
        logits = self.logits(prompt, every=False)[0]
        tokens, margins = [], []
        for at in range(len(prompt), len(prompt) + count):
            second, best = np.partition(logits, -2)[-2:]
            tokens.append(int(logits.argmax()))
            margins.append(float(best - second))
            logits = self.logits(tokens[-1:], start=at, every=False)[0]
        return tokens, margins

    def answer_in_one_batch(self, prompt, answer):
        """What it would write after each part of the answer, if it reads all at once."""
        return [int(row.argmax()) for row in self.logits(prompt + answer[:-1])[len(prompt) - 1 :]]


def nll(logits, token):
    logits = logits.astype(np.float64)
    top = logits.max()
    return top + math.log(np.exp(logits - top).sum()) - logits[token]


def parting(answer, peer):
    """Where an answer leaves llama.cpp's, and by how much its best token was before its second there."""
    for at, (ours, theirs, margin) in enumerate(zip(answer, *peer)):
        if ours != theirs:
            return {"token": at, "margin": margin}
    return None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--bytes", type=int, default=65536)
    p.add_argument("--prompts", type=int, default=100)
    p.add_argument("--new-tokens", type=int, default=64)
    a = p.parse_args()
    peer = Peer(a.model)
    tokens = peer.tokenize(pathlib.Path(a.text).read_bytes()[: a.bytes])
    windows = [w for w in (tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)) if len(w) > 1]
    step = (len(tokens) - 64) // a.prompts
    prompts = [tokens[i * step : i * step + 24 + i] for i in range(a.prompts)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as questions:
        json.dump({"windows": windows, "prompts": prompts, "new_tokens": a.new_tokens}, questions)
        questions.flush()
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        program = target / "release/examples/accuracy"
        ask = lambda *more: json.loads(subprocess.check_output([program, a.model, questions.name, *more]))
        ours, floats = ask(), ask("float")
    total = sum(nll(l, t) for w in windows for l, t in zip(peer.logits(w), w[1:]))
    count = sum(len(w) - 1 for w in windows)
    assert ours["tokens"] == count
    perplexity = {
        "herd": math.exp(ours["nll"] / count),
        "herd_float_weights": math.exp(floats["nll"] / count),
        "llama_cpp": math.exp(total / count),
    }
    paths = [peer.answer(prompt, a.new_tokens) for prompt in prompts]
    answers = {
        "herd": ours["answers"],
        "herd_float_weights": floats["answers"],
        "llama_cpp_in_one_batch": [peer.answer_in_one_batch(*of) for of in zip(prompts, (path[0] for path in paths))],
    }
    parted = {
        name: [where for where in map(parting, of, paths) if where is not None] for name, of in answers.items()
    }
    result = {
        "model": pathlib.Path(a.model).name,
        "date": datetime.date.today().isoformat(),
        "bytes": a.bytes,
        "tokens": count,
        "perplexity": perplexity,
        "against_float_weights_percent": 100 * (perplexity["herd"] / perplexity["herd_float_weights"] - 1),
        "against_llama_cpp_percent": 100 * (perplexity["herd"] / perplexity["llama_cpp"] - 1),
        "llama_cpp_against_float_weights_percent": 100
        * (perplexity["llama_cpp"] / perplexity["herd_float_weights"] - 1),
        "prompts": len(prompts),
        "answers_that_part_by_0.1": {
            name: sum(where["margin"] >= 0.1 for where in of) for name, of in parted.items()
        },
        "answers_that_part": parted,
    }
    name = f"accuracy-{result['model']}-{result['date']}.json"
    (ROOT / "bench/infer/results" / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
