"""The workloads of `crates/train/src/bench/workload.rs`: the same tokens and initial weights from the same formulas."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Workload:
    d: int
    layers: int
    heads: int
    kv_heads: int
    f: int
    vocabulary: int
    tokens: int
    sequence: int  # 0: packed documents
    recompute: bool = False
    tied: bool = False  # the output matrix is the embedding
    longest: int = 1500  # of the documents; the shortest has 50 tokens
    optimizer: bool = True

    @property
    def head_dim(self):
        return self.d // self.heads

    @property
    def qkv(self):
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def lengths(self):
        if self.sequence:
            return [self.sequence] * (self.tokens // self.sequence)
        lengths, left = [], self.tokens
        while left > 0:
            length = 50 + int(number(1, len(lengths))) % (self.longest - 49)
            if left <= 100:
                length = left
            elif length + 50 > left:
                length = left // 2
            lengths.append(length)
            left -= length
        return lengths

    def batch(self):
        """Tokens and targets, one row each."""
        tokens, targets, start = [], [], 0
        for length in self.lengths():
            stretch = number(0, np.arange(start, start + length + 1)) % self.vocabulary
            tokens.append(stretch[:-1])
            targets.append(stretch[1:])
            start += length + 1
        return np.concatenate(tokens).astype(np.int64), np.concatenate(targets).astype(np.int64)

    def parameters(self):
        """Name and shape of every parameter, in Herd's order."""
        d = self.d
        yield "embed", (self.vocabulary, d)
        for i in range(self.layers):
            yield f"layers.{i}.attn_norm", (d,)
            yield f"layers.{i}.wqkv", (self.qkv, d)
            yield f"layers.{i}.wo", (d, d)
            yield f"layers.{i}.ffn_norm", (d,)
            yield f"layers.{i}.w_gate_up", (2 * self.f, d)
            yield f"layers.{i}.w_down", (d, self.f)
        yield "norm", (d,)
        if not self.tied:
            yield "head", (self.vocabulary, d)


W1 = Workload(512, 8, 8, 2, 1536, 32_000, 2048, 512)
G1 = Workload(2048, 16, 32, 8, 8192, 128_256, 8192, 8192, tied=True, longest=1950)
WORKLOADS = {
    "W0": Workload(64, 2, 4, 2, 128, 1000, 64, 32),
    "W1": W1,
    "W2": replace(W1, tokens=4096, sequence=0),
    "W3": Workload(768, 4, 12, 4, 2048, 128_256, 2048, 1024),
    "W4": Workload(1024, 16, 16, 8, 2816, 32_000, 2048, 2048, recompute=True),
    "W5": replace(W1, tokens=16_384, sequence=16_384),
    "G1": G1,
    "G1P8": replace(G1, sequence=0),
    "G1P64": replace(G1, tokens=65_536, sequence=0),
    "G3": replace(G1, d=3072, layers=28, heads=24),
    "G8": replace(G1, d=4096, layers=32, f=14_336, tied=False, optimizer=False),
}


def hash32(x):
    x = np.asarray(x).astype(np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def number(stream, index):
    with np.errstate(over="ignore"):
        return hash32(np.asarray(index).astype(np.uint32) * np.uint32(0x9E3779B9) + hash32(stream))


def fill(values, stream, std, chunk=1 << 20):
    """Sets a flat f32 array to evenly distributed numbers of the given deviation, a piece at a time."""
    scale = np.float32(std) * np.sqrt(np.float32(3))
    for start in range(0, len(values), chunk):
        end = min(start + chunk, len(values))
        bits = number(stream, np.arange(start, end)) >> np.uint32(8)
        values[start:end] = (bits.astype(np.float32) / np.float32(1 << 23) - np.float32(1)) * scale


if __name__ == "__main__":
    print("tokens of stream 0:", [int(number(0, i)) for i in range(3)])
    values = np.empty(3, np.float32)
    fill(values, 2, 0.02)
    print("embedding:", [float(v) for v in values])
    print("documents of W2:", WORKLOADS["W2"].lengths())
    for name, workload in WORKLOADS.items():
        print(f"{name}: {sum(int(np.prod(shape)) for _, shape in workload.parameters()):,} parameters")
