#!/usr/bin/env python3
"""Makes the golden files of herd-model with PyTorch and Transformers.

For each small random Llama: the folder as Transformers writes it, and `expected.safetensors` with the logits of a
plain sequence, and the loss and the gradients of a sequence packed from documents that do not see each other.

    pip install torch==2.15.0 transformers==5.23.0 safetensors
    python make_golden.py            # writes beside this script
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
MODELS = {
    # name: (heads, kv heads, head_dim, hidden, ffn, layers, tied, scaling)
    "gqa4": (4, 1, 8, 32, 48, 2, False, None),
    "mha-tied": (2, 2, 8, 16, 40, 1, True, None),
    "odd-heads": (6, 3, 4, 18, 36, 2, False, None),
    "llama31-rope": (4, 2, 8, 32, 48, 2, True, dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)),
}
VOCAB = 97
DOCUMENTS = [5, 1, 11, 7]  # lengths of the packed documents


def packed_mask(lengths, dtype):
    n = sum(lengths)
    allowed = torch.zeros(n, n, dtype=torch.bool)
    start = 0
    for length in lengths:
        block = torch.ones(length, length, dtype=torch.bool).tril()
        allowed[start:start + length, start:start + length] = block
        start += length
    return torch.where(allowed, 0.0, torch.finfo(dtype).min)[None, None]


for seed, (name, (heads, kv, head_dim, hidden, ffn, layers, tied, scaling)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    rope = dict(rope_theta=500000.0, **(scaling or dict(rope_type="default")))
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, head_dim=head_dim, rms_norm_eps=1e-5,
        rope_parameters=rope, tie_word_embeddings=tied, max_position_embeddings=512,
        bos_token_id=90, eos_token_id=[91, 92], initializer_range=0.2, attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():  # norms of ones would hide a missing scale
        for key, value in model.named_parameters():
            if "norm" in key:
                value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(HERE / name)

    plain = torch.arange(40) * 7 % VOCAB
    logits = model(plain[None]).logits[0]
    n = sum(DOCUMENTS)
    tokens = (torch.arange(n) * 13 + 5) % VOCAB
    targets = (torch.arange(n) * 29 + 3) % VOCAB
    positions = torch.cat([torch.arange(length) for length in DOCUMENTS])
    packed = model(tokens[None], attention_mask=packed_mask(DOCUMENTS, torch.float32), position_ids=positions[None])
    loss = torch.nn.functional.cross_entropy(packed.logits[0], targets)
    model.zero_grad()
    loss.backward()
    expected = {"logits": logits.detach().contiguous(), "loss": loss.detach().reshape(1)}
    for key, value in model.named_parameters():
        expected[f"grad.{key}"] = value.grad.contiguous()
    save_file(expected, HERE / name / "expected.safetensors")
    print(name, loss.item(), sum(p.numel() for p in model.parameters()))
