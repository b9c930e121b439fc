"""A training step in PyTorch, on a CPU or a card: the peer of `herd bench train`, with the same weights, tokens and protocol.

    python peer.py W1 --mode eager|compile [--steps N | --interactive] [--threads 2]

One JSON line a step. With --interactive one step for each line `step` of standard input; the line `reset` starts the
peak of memory anew (what compiling took is then not counted). With `--device cuda` matrices are multiplied in bf16 (autocast;
weights, gradients and moments stay f32) unless `--precision f32` is given, and memory is the card's.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from workloads import WORKLOADS, fill

LEARNING_RATE = 3e-4


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

    def forward(self, tokens, targets, cos, sin, attend):
        x = self.embed(tokens)
        for layer in self.layers:
            if self.w.recompute:
                x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False)
            else:
                x = layer(x, cos, sin, attend)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, self.w.vocabulary), targets.view(-1))


def initialize(model, w):
    """The formula weights, written in place."""
    residual = 0.02 / (2 * w.layers) ** 0.5
    for p, (name, shape) in enumerate(w.parameters()):
        parameter = model.get_parameter(name + ".weight")
        assert tuple(parameter.shape) == shape, name
        if len(shape) == 1:
            parameter.data.fill_(1.0)
        else:
            std = residual if name.endswith(("wo", "w_down")) else 0.02
            fill(parameter.data.view(-1).numpy(), 2 + p, std)


def expand(k, heads):
    """Key/value heads, each repeated for its query heads."""
    return k.repeat_interleave(heads // k.shape[1], 1)


def attention(w, way, lengths, device="cpu"):
    """How to attend, among the ways that PyTorch has."""
    if way == "causal":  # SDPA's flash kernel
        return lambda q, k, v: F.scaled_dot_product_attention(q, expand(k, w.heads), expand(v, w.heads), is_causal=True)
    if way == "gqa":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    if way == "mask":  # SDPA with a dense mask
        rows = torch.arange(w.tokens, device=device)
        mask = (document[:, None] == document[None]) & (rows[:, None] >= rows[None])
        return lambda q, k, v: F.scaled_dot_product_attention(q, expand(k, w.heads), expand(v, w.heads), attn_mask=mask)
    if way == "documents":  # SDPA's flash kernel, once for each document
        def each(q, k, v):
            parts = zip(*(x.split(lengths, 2) for x in (q, expand(k, w.heads), expand(v, w.heads))))
            return torch.cat([F.scaled_dot_product_attention(*part, is_causal=True) for part in parts], 2)

        return each
    if way == "flex":  # FlexAttention, which skips masked blocks; has no backward pass on a CPU as of PyTorch 2.15
        visible = lambda b, h, q, k: (document[q] == document[k]) & (q >= k)
        mask = create_block_mask(visible, None, None, w.tokens, w.tokens, device=device)
        return lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    raise SystemExit(f"no such way to attend: {way}")


def peak_mb():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--interactive", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--attention", choices=["causal", "gqa", "mask", "documents", "flex"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16", help="of products on a card")
    parser.add_argument("--no-clip", action="store_true", help="do not clip the gradient at norm 1")
    parser.add_argument("--optimizer-in-backward", action="store_true", help="one fused AdamW a parameter, called by "
                        "register_post_accumulate_grad_hook, which drops the gradient; nothing is clipped")
    parser.add_argument("--compiler-mode", help="of torch.compile, such as max-autotune")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    w = WORKLOADS[args.workload]
    way = args.attention or ("causal" if w.sequence else "documents")
    lengths = w.lengths()
    on_card = args.device == "cuda"
    attend = attention(w, way, lengths, args.device)
    model = Model(w)
    initialize(model, w)
    model.to(args.device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    adamw = lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-5, fused=True)
    if args.optimizer_in_backward:  # as PyTorch's tutorial on it and torchtune's optimizer_in_bwd do
        optimizers = {p: adamw([group | {"params": [p]}]) for group in groups for p in group["params"]}

        def update(p):
            optimizers[p].step()
            optimizers[p].zero_grad(set_to_none=True)

        for p in optimizers:
            p.register_post_accumulate_grad_hook(update)
    else:
        optimizer = adamw(groups)  # moments at its first step
    rows = (w.tokens // w.sequence, w.sequence) if w.sequence else (1, w.tokens)
    tokens, targets = (torch.from_numpy(x).view(rows).to(args.device) for x in w.batch())
    positions = torch.arange(w.sequence) if w.sequence else torch.cat([torch.arange(n) for n in lengths])
    frequencies = 1 / 500_000 ** (torch.arange(0, w.head_dim, 2, dtype=torch.float64) / w.head_dim)
    angles = torch.outer(positions.double(), frequencies)
    angles = torch.cat((angles, angles), -1)
    cos, sin = angles.cos().float().to(args.device), angles.sin().float().to(args.device)
    forward = torch.compile(model, mode=args.compiler_mode) if args.mode == "compile" else model

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=on_card and args.precision == "bf16"):
            loss = forward(tokens, targets, cos, sin, attend)
        loss.backward()
        if args.optimizer_in_backward:
            return loss.item()
        if w.optimizer:
            if not args.no_clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    number = 0
    while args.interactive or number < args.steps:
        if args.interactive:
            line = sys.stdin.readline()
            if not line:
                break
            if line.strip() == "reset" and on_card:
                torch.cuda.reset_peak_memory_stats()
                continue
            if line.strip() == "reset":
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")
                continue
        number += 1
        start = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - start
        row = dict(workload=args.workload, step=number, seconds=seconds, loss=loss, tokens_per_s=w.tokens / seconds)
        if on_card:
            row["peak_card_mb"] = torch.cuda.max_memory_allocated() / 1e6
        print(json.dumps(row | dict(peak_rss_mb=peak_mb(), attention=way)), flush=True)


main()
