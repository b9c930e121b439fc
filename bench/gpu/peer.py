"""A training step in PyTorch on a card: the peer of `herd bench train G1 --device cuda`, with the same weights and tokens.

    python peer.py G1 --attention causal|gqa|flex|documents [--steps N] [--no-update] [--eager]

Compiled unless told; weights, gradients and moments in f32, computing in bf16 by autocast; fused AdamW. One JSON line a step;
the first ones compile. `causal` repeats key/value heads for SDPA, `gqa` lets SDPA share them (both: flash or cuDNN, whichever
PyTorch takes); `flex` is FlexAttention with a block mask of documents; `documents` is nested tensors, SDPA's way for
documents of different lengths."""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
from workloads import WORKLOADS, fill  # noqa: E402

LEARNING_RATE = 3e-4
# Rows whose logits exist at once, as memory allows both sides.
LOSS_ROWS = 8192


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Block(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w
        self.attn_norm, self.ffn_norm = nn.RMSNorm(w.d, 1e-5), nn.RMSNorm(w.d, 1e-5)
        self.wqkv = nn.Linear(w.d, w.qkv, bias=False)
        self.wo = nn.Linear(w.d, w.d, bias=False)
        self.w_gate_up = nn.Linear(w.d, 2 * w.f, bias=False)
        self.w_down = nn.Linear(w.f, w.d, bias=False)

    def forward(self, x, cos, sin, attend):
        w, (b, t, _) = self.w, x.shape
        heads = self.wqkv(self.attn_norm(x)).view(b, t, -1, w.head_dim).transpose(1, 2)
        q, k, v = heads.split([w.heads, w.kv_heads, w.kv_heads], 1)
        mixed = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.wo(mixed.transpose(1, 2).reshape(b, t, w.d))
        gate, up = self.w_gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.w_down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w
        self.embed = nn.Embedding(w.vocabulary, w.d)
        self.layers = nn.ModuleList([Block(w) for _ in range(w.layers)])
        self.norm = nn.RMSNorm(w.d, 1e-5)
        self.head = nn.Linear(w.d, w.vocabulary, bias=False)
        if w.tied:
            self.head.weight = self.embed.weight

    def loss(self, x, targets):
        return F.cross_entropy(self.head(x).float(), targets, reduction="sum")

    def forward(self, tokens, targets, cos, sin, attend):
        # Activations in bf16 from the first, as ours: autocast leaves an embedding in the type of its table.
        x = self.embed(tokens).bfloat16()
        for layer in self.layers:
            if self.w.recompute:
                x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False)
            else:
                x = layer(x, cos, sin, attend)
        x = self.norm(x).flatten(0, 1)
        total = 0.0
        for part, target in zip(x.split(LOSS_ROWS), targets.flatten().split(LOSS_ROWS)):
            total = total + (checkpoint(self.loss, part, target, use_reentrant=False) if len(x) > LOSS_ROWS else self.loss(part, target))
        return total / len(x)


def initialize(model, w):
    """The formula weights of `herd bench train`."""
    residual = 0.02 / (2 * w.layers) ** 0.5
    for p, (name, shape) in enumerate(w.parameters()):
        parameter = model.get_parameter(name + ".weight")
        assert tuple(parameter.shape) == shape, name
        if len(shape) == 1:
            parameter.data.fill_(1.0)
            continue
        values = torch.empty(shape)
        fill(values.view(-1).numpy(), 2 + p, residual if name.endswith(("wo", "w_down")) else 0.02)
        parameter.data.copy_(values)


def attention(w, way, lengths, device):
    group = w.heads // w.kv_heads
    if way == "causal":
        return lambda q, k, v: F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True)
    if way == "gqa":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    if way == "flex":
        visible = lambda b, h, q, k: (document[q] == document[k]) & (q >= k)
        mask = create_block_mask(visible, None, None, w.tokens, w.tokens, device=device)
        return lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    longest = max(lengths)

    def each(q, k, v):
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        nested = [torch.nested.nested_tensor_from_jagged(x[0].transpose(0, 1), offsets, max_seqlen=longest).transpose(1, 2)
                  for x in (q, k, v)]
        return F.scaled_dot_product_attention(*nested, is_causal=True).transpose(1, 2).values().transpose(0, 1)[None]

    return torch.compiler.disable(each)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--attention", choices=["causal", "gqa", "flex", "documents"], required=True)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--no-update", action="store_true")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--device", default="cuda", help="cpu to try this program out")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    w = WORKLOADS[args.workload]
    lengths = w.lengths()
    device = torch.device(args.device)
    with device:
        model = Model(w)
    initialize(model, w)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    settings = dict(lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-5, fused=True)
    optimizer = None if args.no_update else torch.optim.AdamW(groups, **settings)
    shape = (w.tokens // w.sequence, w.sequence) if w.sequence else (1, w.tokens)
    tokens, targets = (torch.from_numpy(x).view(shape).to(device) for x in w.batch())
    positions = torch.arange(w.sequence) if w.sequence else torch.cat([torch.arange(n) for n in lengths])
    frequencies = 1 / 500_000 ** (torch.arange(0, w.head_dim, 2, dtype=torch.float64) / w.head_dim)
    angles = torch.outer(positions.double(), frequencies)
    angles = torch.cat((angles, angles), -1)
    cos, sin = (x.to(device, torch.bfloat16) for x in (angles.cos(), angles.sin()))
    attend = attention(w, args.attention, lengths, device)
    forward = model if args.eager else torch.compile(model)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(tokens, targets, cos, sin, attend)
        loss.backward()
        if optimizer:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    # The loss is read one step late, as Herd reads it, so the card never waits for the host.
    before, start = None, time.perf_counter()
    for number in range(args.steps + 1):
        loss = step() if number < args.steps else None
        if before is not None:
            value = before.item()
            now = time.perf_counter()
            row = dict(workload=args.workload, step=number, seconds=now - start, loss=value, attention=args.attention)
            print(json.dumps(row | dict(peak_mb=torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else 0)), flush=True)
            start = now
        before = loss


main()
