"""The loss of a small Llama over 200 steps in PyTorch (Transformers' own model): curve.json and curve/ (its initial
weights). Documents are packed without crossing attention, with a warm-up cosine schedule, clipping and AdamW.

    python curve.py        # torch, transformers, safetensors
"""
import json
import math
import os
import torch
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, WARMUP, PEAK, LAST = 200, 20, 5e-3, 5e-4
VOCABULARY, LENGTHS = 96, [40, 24, 9, 23]
here = os.path.dirname(os.path.abspath(__file__))


def document(state, length):
    """A document of a small language that the test generates in the same way: mostly x -> 5x + k mod 96."""
    k, token, out = state % 7, state % VOCABULARY, []
    for _ in range(length + 1):
        out.append(token)
        state = (state * 1103515245 + 12345) % 2147483648
        noise = (state >> 16) % 10
        token = (token * 5 + k) % VOCABULARY if noise < 8 else (state >> 8) % VOCABULARY
    return out


torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=500000.0,
    tie_word_embeddings=False, attn_implementation="eager", bos_token_id=0, eos_token_id=1, initializer_range=0.05)
model = LlamaForCausalLM(config).float()
model.save_pretrained(os.path.join(here, "curve"))
os.remove(os.path.join(here, "curve", "generation_config.json"))

decay = [p for p in model.parameters() if p.dim() > 1]
rest = [p for p in model.parameters() if p.dim() == 1]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                              betas=(0.9, 0.95), eps=1e-5)
# Rows of one document see each other causally and nothing else.
n = sum(LENGTHS)
owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
visible = (owner[:, None] == owner[None, :]) & (torch.arange(n)[:, None] >= torch.arange(n)[None, :])
mask = torch.where(visible, 0.0, float("-inf"))[None, None]
positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]

losses, norms = [], []
for step in range(STEPS):
    if step < WARMUP:
        lr = PEAK * (step + 1) / WARMUP
    else:
        lr = LAST + 0.5 * (PEAK - LAST) * (1 + math.cos(math.pi * (step - WARMUP + 1) / (STEPS - WARMUP)))
    for group in optimizer.param_groups:
        group["lr"] = lr
    documents = [document(step * 1000 + i * 37 + 11, length) for i, length in enumerate(LENGTHS)]
    inputs = torch.tensor([t for d in documents for t in d[:-1]])[None]
    targets = torch.tensor([t for d in documents for t in d[1:]])
    logits = model(input_ids=inputs, attention_mask=mask, position_ids=positions).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
    norms.append(norm.item())
with open(os.path.join(here, "curve.json"), "w") as file:
    json.dump({"loss": losses, "grad_norm": norms}, file)
print(losses[0], losses[-1], norms[:3])
