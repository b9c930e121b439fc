"""Generation on the first NVIDIA card beside Transformers (PyTorch), for `check`: logits compared, then tokens a second in turns.

    python generate.py HERD TOKENIZER.json [--shape 1B] [--rounds 5] [--no-peer]

One JSON object on standard output. The model has random weights in bf16, of the shape of a Llama 3.2 or 3. Transformers decodes
with its static cache, which compiles the step and captures it in a CUDA graph, and, beside it, eagerly. A decoding step is
the difference between answers of many tokens and of one, divided; a prompt's time is that of an answer of one token.

Herd is also measured with `--weights fp8`: feed-forward weights of all layers but the first and last in e4m3.

The share of the bandwidth counts the bytes that a step must read, all weights once (the embedding's only where it is the
output's matrix too) and the cache of all answers at their mean length, over 4.3 TB/s, what an H200 was measured to copy.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BANDWIDTH = 4.3e12
SHAPES = {
    "tiny": dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                 head_dim=64, vocab_size=5000, tie_word_embeddings=True),
    "1B": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
               head_dim=64, vocab_size=128256, tie_word_embeddings=True),
    "3B": dict(hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
               head_dim=128, vocab_size=128256, tie_word_embeddings=True),
    "8B": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
               head_dim=128, vocab_size=128256, tie_word_embeddings=False),
}
# Prompt tokens, answer tokens, answers at once.
RUNS = {"tiny": [(40, 8, 1), (20, 8, 3)], None: [(512, 256, 1), (512, 128, 64), (4096, 16, 1)]}


def config(shape):
    from transformers import LlamaConfig

    return LlamaConfig(**SHAPES[shape], max_position_embeddings=16384, rope_theta=500000.0, initializer_range=0.02,
                       bos_token_id=0, eos_token_id=None, dtype="bfloat16")


def bytes_of_step(shape, context, answers, fp8):
    s = SHAPES[shape]
    heads = s["num_attention_heads"] + s["num_key_value_heads"]
    layer = s["hidden_size"] * (2 * heads * s["head_dim"] + 3 * s["intermediate_size"])
    weights = s["num_hidden_layers"] * layer + s["vocab_size"] * s["hidden_size"]
    cache = 2 * s["num_hidden_layers"] * s["num_key_value_heads"] * s["head_dim"] * context * answers
    in_fp8 = 3 * s["hidden_size"] * s["intermediate_size"] * (s["num_hidden_layers"] - 2) if fp8 else 0
    return 2 * (weights + cache) - in_fp8


def compare_logits(herd, folder, model, device, work, with_fp8):
    """How far Herd's and Transformers' logits in bf16 are from those in f32, as shares of their root mean square."""
    import torch
    from safetensors.torch import load_file

    tokens = [(i * 7919 + 13) % 4999 for i in range(700)]
    (work / "tokens.json").write_text(json.dumps(tokens))
    out = work / "logits.safetensors"

    def ours(*options):
        command = [herd, "logits", folder, "--tokens", work / "tokens.json", "--out", out, "--device", "cuda", "--activations", "auto"]
        subprocess.run([str(c) for c in [*command, *options]], check=True, stdout=subprocess.DEVNULL)
        return load_file(out)["logits"].to(device)

    ids = torch.tensor([tokens], device=device)
    with torch.inference_mode():
        theirs = model(ids).logits[0].float()
        exact = model.float()(ids).logits[0]
        model.bfloat16()
    bf16, fp8 = ours(), ours("--weights", "fp8") if with_fp8 else None
    off = lambda x: ((x - exact).square().mean() / exact.square().mean()).sqrt().item()
    same = lambda x: (x.argmax(-1) == exact.argmax(-1)).float().mean().item()
    result = {"error": off(bf16), "error_of_transformers": off(theirs), "same_likeliest": same(bf16),
              "same_likeliest_of_transformers": same(theirs)}
    return result | ({"error_in_fp8": off(fp8), "same_likeliest_in_fp8": same(fp8)} if with_fp8 else {})


def ours(herd, folder, prompt, answer, answers, weights="auto", env=None):
    command = [herd, "bench", "infer", folder, "--device", "cuda", "--prompt-tokens", prompt, "--new-tokens", answer]
    command += ["--requests", answers, "--rounds", 1, "--json", "--weights", weights]
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, env=os.environ | (env or {}))
    row = json.loads(done.stdout)
    return {"prompt_tokens_per_s": row["prefill_tokens_per_s"], "answer_tokens_per_s": row["decode_tokens_per_s"],
            "load_s": row["load_s"], "peak_card_mb": row["peak_card_mb"]}


class Peer:
    def __init__(self, model, device, static):
        self.model, self.device, self.static, self.warm = model, device, static, set()

    def seconds(self, prompt, answer, answers):
        import torch

        vocabulary = self.model.config.vocab_size
        ids = torch.tensor([[(i * 7919 + n * 104729 + 1) % vocabulary for i in range(prompt)] for n in range(answers)])
        options = dict(max_new_tokens=answer, min_new_tokens=answer, do_sample=False)
        if self.static:
            options["cache_implementation"] = "static"
        wait = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        ids = ids.to(self.device)
        wait()
        start = time.perf_counter()
        self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        wait()
        return time.perf_counter() - start

    def measure(self, prompt, answer, answers):
        key = (prompt, answer, answers)
        if key not in self.warm:  # compiles, captures
            for tokens in [1, answer, answer]:
                self.seconds(prompt, tokens, answers)
            self.warm.add(key)
        one, many = self.seconds(prompt, 1, answers), self.seconds(prompt, answer, answers)
        return {"prompt_tokens_per_s": prompt * answers / one, "answer_tokens_per_s": (answer - 1) * answers / (many - one)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("herd", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-fp8", action="store_true", help="for a card or a cuBLASLt without it")
    parser.add_argument("--peer-device", default="cuda", help="cpu where Herd's card is one made of the processor")
    args = parser.parse_args()
    import torch
    from transformers import LlamaForCausalLM

    result = {"shape": args.shape, "torch": torch.__version__, "runs": []}
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        folder = work / "model"
        torch.manual_seed(5)
        model = LlamaForCausalLM(config(args.shape)).bfloat16().eval()
        model.save_pretrained(folder)
        shutil.copy(args.tokenizer, folder / "tokenizer.json")
        model.to(args.peer_device)
        result["logits"] = compare_logits(args.herd, folder, model, args.peer_device, work, not args.no_fp8)
        # As exact as bf16 is: no further from f32 than twice what Transformers is.
        result["agrees"] = result["logits"]["error"] <= 2 * result["logits"]["error_of_transformers"] + 1e-3
        peers = {} if args.no_peer else {"transformers": Peer(model, args.peer_device, False)}
        if peers and args.peer_device == "cuda":
            peers["transformers, static cache"] = Peer(model, args.peer_device, True)
        herds = {"herd": ("auto",)} | ({} if args.no_fp8 else {"herd fp8": ("fp8",)})
        for prompt, answer, answers in RUNS.get(args.shape, RUNS[None]):
            # One answer at a time also with kernels that begin one after the other.
            variants = herds | ({"herd without overlap": ("auto", {"HERD_CUDA_PDL": "0"})} if answers == 1 else {})
            rows = {name: [] for name in [*variants, *peers]}
            for _ in range(args.rounds):
                for name, how in variants.items():
                    rows[name].append(ours(args.herd, folder, prompt, answer, answers, *how))
                for name, peer in list(peers.items()):
                    try:
                        rows[name].append(peer.measure(prompt, answer, answers))
                    except Exception as error:  # such as a version that cannot compile; the others go on
                        print(f"{name}: {error}", file=sys.stderr)
                        del peers[name], rows[name]
            row = {"prompt": prompt, "answer": answer, "answers": answers}
            for name, of in rows.items():
                row[name] = {key: statistics.median(r[key] for r in of) for key in of[0]}
                steps = row[name]["answer_tokens_per_s"] / answers
                needed = bytes_of_step(args.shape, prompt + answer / 2, answers, name == "herd fp8")
                row[name]["share_of_bandwidth"] = needed * steps / BANDWIDTH
            result["runs"].append(row)
    print(json.dumps(result, indent=1))


main()
