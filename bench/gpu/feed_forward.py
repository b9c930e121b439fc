"""A feed-forward part on 4,096 rows in PyTorch, in bf16 and in FP8, for `check`: a JSON line for each shape.

    python feed_forward.py [--device cuda] [--shape 1B 3B 8B]

RMSNorm, gate and up in one product, SwiGLU, down, residual; compiled. FP8 is e4m3 with a scale for each row of weights and of
activations (bounded by 1200 / 448), by torch._scaled_mm, whose products by rows are cuBLASLt's or CUTLASS's.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

ROWS, RUNS, ROUNDS = 4096, 20, 7
SHAPES = {"tiny": (256, 512), "1B": (2048, 8192), "3B": (3072, 8192), "8B": (4096, 14336)}
E4M3 = torch.float8_e4m3fn


def quantise(x, bound):
    x = x.float()
    most = x.abs().amax(-1, keepdim=True)
    scale = (most.clamp(max=bound) if bound else most) / 448
    return (x / scale).clamp(-448, 448).to(E4M3), scale


def bf16(x, norm, gate_up, down):
    gate, up = (F.rms_norm(x, x.shape[-1:], norm) @ gate_up.T).chunk(2, -1)
    return x + (F.silu(gate) * up) @ down.T


def fp8(x, norm, gate_up, down):
    product = lambda x, w: torch._scaled_mm(*(lambda q, s: (q, w[0].T, s, w[1].T))(*quantise(x, 1200)),
                                            out_dtype=torch.bfloat16, use_fast_accum=True)
    gate, up = product(F.rms_norm(x, x.shape[-1:], norm), gate_up).chunk(2, -1)
    return x + product(F.silu(gate) * up, down)


def milliseconds(part, wait):
    wait()
    begin = time.perf_counter()
    for _ in range(RUNS):
        part()
    wait()
    return (time.perf_counter() - begin) / RUNS * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", nargs="*", choices=SHAPES, default=["1B", "3B", "8B"])
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    args = parser.parse_args()
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    compiled = (lambda f: f) if args.eager else torch.compile
    for shape in args.shape:
        torch.manual_seed(5)
        d, f = SHAPES[shape]
        draw = lambda *size: torch.randn(*size, device=args.device, dtype=torch.bfloat16)
        x, norm = draw(ROWS, d), torch.ones(d, device=args.device, dtype=torch.bfloat16)
        gate_up, down = draw(2 * f, d) / d**0.5, draw(d, f) / f**0.5
        codes = [quantise(w, None) for w in (gate_up, down)]
        with torch.inference_mode():
            parts = [compiled(bf16), compiled(fp8)]
            runs = [lambda: parts[0](x, norm, gate_up, down), lambda: parts[1](x, norm, *codes)]
            exact, short = [(run() - x).float() for run in runs]
            times = [[], []]
            for round in range(1 + ROUNDS):
                for run, of in zip(runs, times):
                    of.append(milliseconds(run, wait))
        of_bf16, of_fp8 = [statistics.median(of[1:]) for of in times]
        off = ((exact - short).square().mean() / exact.square().mean()).sqrt().item()
        print(json.dumps({"feed_forward": shape, "rows": ROWS, "bf16_ms": of_bf16, "fp8_ms": of_fp8, "ratio": of_bf16 / of_fp8,
                          "difference": off}), flush=True)


main()
