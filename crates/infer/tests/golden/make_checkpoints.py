"""Tiny random Llamas of every shape that is opened, and the logits that Transformers gives for 300 tokens.

    python make_checkpoints.py         (transformers 5.23, torch 2.15)

Writes checkpoints/NAME/ (a Hugging Face folder) with expected.safetensors: `tokens` [300], `positions` [n] and the
`logits` [n, vocab] after them.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent / "checkpoints"
VOCAB = 260
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
# name: settings, type in which the weights are stored, largest shard
MODELS = {
    "mha_tied": (dict(heads=4, kv=4, tie=True), torch.float32, "1GB"),
    "gqa2_bias": (dict(heads=4, kv=2, bias=True), torch.float32, "1GB"),
    "gqa4_llama3": (dict(heads=4, kv=1, rope=dict(LLAMA3, rope_theta=500_000.0)), torch.bfloat16, "20KB"),
    "gqa8_wide": (dict(heads=8, kv=1, tie=True, head_dim=10), torch.float16, "1GB"),
    "odd_heads": (dict(heads=9, kv=3, hidden=54, theta=100_000.0), torch.bfloat16, "1GB"),
    "llama2": (dict(heads=2, kv=2, eps=1e-5, theta=10_000.0), torch.float16, "1GB"),
}


def config(heads, kv, tie=False, bias=False, head_dim=None, hidden=32, theta=500_000.0, eps=1e-6, rope=None):
    return LlamaConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=48, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv, head_dim=head_dim or hidden // heads, max_position_embeddings=512, rms_norm_eps=eps,
        tie_word_embeddings=tie, attention_bias=bias, bos_token_id=256, eos_token_id=[257],
        rope_parameters=rope or dict(rope_type="default", rope_theta=theta),
    )


def tokenizer(folder):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<|begin|>", "<|end|>"])
    t.save(str(folder / "tokenizer.json"))


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for number, (name, (settings, dtype, shard)) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        model = LlamaForCausalLM(config(**settings))
        with torch.no_grad():
            # Larger than the usual initialisation, so that a wrong rotation or head shows.
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        folder = HERE / name
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        tokenizer(folder)
        if name == "llama2":
            # As the files of that time: rope_theta at the top, and no head_dim.
            data = json.loads((folder / "config.json").read_text())
            del data["rope_parameters"], data["head_dim"]
            data |= dict(rope_theta=10_000.0, rope_scaling=None, torch_dtype="float16")
            (folder / "config.json").write_text(json.dumps(data, indent=2))
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokens = torch.randint(0, VOCAB, (1, 300), generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            logits = model(tokens).logits[0]
        positions = torch.tensor([0, 1, 15, 16, 63, 128, 255, 256, 298, 299])
        save_file(
            dict(tokens=tokens[0].int(), positions=positions.int(), logits=logits[positions].contiguous()),
            folder / "expected.safetensors",
        )


main()
