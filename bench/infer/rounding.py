"""How far rounding moves the logits of a quantised model: weights as floats, activations as floats, bytes or 16 bits.

    python rounding.py MODEL.gguf TEXT [--windows 4] [--disturbances 3]

A plain Llama in numpy reads windows of the text. It reads them again with embeddings that are disturbed by a ten-millionth
of themselves, which is less than two orders of one sum differ by. Printed and written to results/: for each kind of
activations how far the logits are from those of floats, how far the disturbance moves them (root of the mean square over
the vocabulary, their mean taken off), and the perplexity of each run.

Needs what accuracy.py needs in Python, and gguf (`pip install gguf`); the model must be of architecture `llama`, without biases.
"""

import argparse
import datetime
import json
import math
import pathlib

import gguf
import numpy as np

from accuracy import ROOT, WINDOW, Peer

DISTURBANCE = 1e-7


def as_bytes(x):
    """Bytes with a scale for each 32, as floats again."""
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * inverse) * (largest / np.float32(127))).reshape(x.shape)


def as_two_bytes(x):
    """Bytes, and the bytes of what they leave over."""
    first = as_bytes(x)
    return first + as_bytes(x - first)


def as_floats(x):
    return x


# Of all blocks but the last; of the last and of the logits.
ACTIVATIONS = {
    "floats": (as_floats, as_floats),
    "bytes": (as_bytes, as_bytes),
    "bytes, last block and logits 16 bits": (as_bytes, as_two_bytes),
    "16 bits": (as_two_bytes, as_two_bytes),
}


class Llama:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        of = lambda key: reader.fields[f"llama.{key}"].contents()
        self.layers, self.heads = of("block_count"), of("attention.head_count")
        self.kv_heads, self.theta = of("attention.head_count_kv"), of("rope.freq_base")
        self.eps = np.float32(of("attention.layer_norm_rms_epsilon"))
        floats = lambda t: np.ascontiguousarray(gguf.dequantize(t.data, t.tensor_type), dtype=np.float32)
        self.weights = {t.name.removesuffix(".weight"): floats(t) for t in reader.tensors}

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(1, keepdims=True) + self.eps) * self.weights[name]

    def rotate(self, x):
        """GGUF's layout: neighbours are a pair. `x` [n, heads, head_dim]."""
        n, _, size = x.shape
        angles = np.arange(n)[:, None] * self.theta ** (-np.arange(0, size, 2) / size)
        cos, sin = np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]
        turned = np.empty_like(x)
        turned[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        turned[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return turned

    def attention(self, q, k, v):
        """Causal, of one window; keys and values are kept as half-precision floats."""
        n, size = len(q), q.shape[1] // self.heads
        q, k = self.rotate(q.reshape(n, -1, size)), self.rotate(k.reshape(n, -1, size))
        k, v = (x.astype(np.float16).astype(np.float32) for x in (k, v.reshape(n, -1, size)))
        future = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        mixed = np.empty_like(q)
        for head in range(self.heads):
            of = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, of].T / np.float32(size**0.5) + future
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, head] = weights @ v[:, of] / weights.sum(1, keepdims=True)
        return mixed.reshape(n, -1)

    def logits(self, tokens, activations, disturbed):
        """[tokens, vocab]; `disturbed` has one factor for each number of the embeddings."""
        w, (most, last) = self.weights, activations
        x = w["token_embd"][tokens] * disturbed
        for layer in range(self.layers):
            b = f"blk.{layer}."
            kind = last if layer + 1 == self.layers else most
            rows = kind(self.norm(x, b + "attn_norm"))
            mixed = self.attention(*(rows @ w[b + name].T for name in ("attn_q", "attn_k", "attn_v")))
            x = x + kind(mixed) @ w[b + "attn_output"].T
            rows = kind(self.norm(x, b + "ffn_norm"))
            gate, up = rows @ w[b + "ffn_gate"].T, rows @ w[b + "ffn_up"].T
            x = x + kind(gate / (1 + np.exp(-gate)) * up) @ w[b + "ffn_down"].T
        return last(self.norm(x, "output_norm")) @ w.get("output", w["token_embd"]).T


def nll(logits, tokens):
    """The sum for all tokens but the first."""
    logits = logits[:-1].astype(np.float64)
    top = logits.max(1)
    sums = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return float((sums - logits[np.arange(len(logits)), tokens[1:]]).sum())


def distance(a, b):
    """Mean square of the difference of logits, of which a constant is no part."""
    d = a - b
    return float((d - d.mean(1, keepdims=True)).var())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--windows", type=int, default=4)
    p.add_argument("--disturbances", type=int, default=3)
    a = p.parse_args()
    text = pathlib.Path(a.text).read_bytes()
    tokens = np.array(Peer(a.model).tokenize(text[: 16 * WINDOW * a.windows])[: WINDOW * a.windows])
    assert len(tokens) == WINDOW * a.windows, "too short a text"
    windows = tokens.reshape(-1, WINDOW)
    model = Llama(a.model)
    hidden = model.weights["token_embd"].shape[1]
    totals = {}
    for number, window in enumerate(windows):
        floats = None
        for name, activations in ACTIVATIONS.items():
            own = totals.setdefault(name, {"from_floats": 0, "moved": 0, "nll": [0] * (1 + a.disturbances)})
            calm = model.logits(window, activations, np.float32(1))
            floats = calm if floats is None else floats
            own["from_floats"] += distance(calm, floats) / len(windows)
            own["nll"][0] += nll(calm, window)
            for i in range(a.disturbances):
                noise = np.random.default_rng((number, i)).standard_normal((WINDOW, hidden))
                moved = model.logits(window, activations, (1 + DISTURBANCE * noise).astype(np.float32))
                own["moved"] += distance(moved, calm) / len(windows) / a.disturbances
                own["nll"][1 + i] += nll(moved, window)
    count = len(tokens) - len(windows)
    result = {
        "model": pathlib.Path(a.model).name,
        "date": datetime.date.today().isoformat(),
        "tokens": count,
        "disturbance": DISTURBANCE,
        "activations": {
            name: {
                "rms_from_floats": math.sqrt(own["from_floats"]),
                "rms_moved_by_disturbance": math.sqrt(own["moved"]),
                "perplexities": [math.exp(x / count) for x in own["nll"]],
            }
            for name, own in totals.items()
        },
    }
    name = f"rounding-{result['model']}-{result['date']}.json"
    (ROOT / "bench/infer/results" / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
