"""Makes golden.safetensors: a one-layer Llama in PyTorch (float64), its loss and gradients, token log-probabilities,
and Llama 3.1's scaled RoPE from transformers. Run: python make_golden.py (needs torch, transformers, safetensors)."""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
V, D, FF, H, KV, HD = 97, 48, 40, 6, 2, 8
LENGTHS = [9, 1, 20]
N = sum(LENGTHS)

config = LlamaConfig(
    hidden_size=D, num_attention_heads=H, num_key_value_heads=KV, head_dim=HD, max_position_embeddings=131072,
    rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})
rotary = LlamaRotaryEmbedding(config)


def param(*shape, std=None):
    std = std or shape[-1] ** -0.5
    # Rounded to float32 so that both sides start from the same values.
    return (torch.randn(*shape) * std).float().double().requires_grad_()


p = {
    "embed": param(V, D, std=1.0), "head": param(V, D), "norm": param(D, std=1.0),
    "0.attn_norm": param(D, std=1.0), "0.wqkv": param((H + 2 * KV) * HD, D), "0.wo": param(D, H * HD),
    "0.ffn_norm": param(D, std=1.0), "0.w_gate_up": param(2 * FF, D), "0.w_down": param(D, FF),
}
tokens = torch.randint(0, V, (N + 1,))
document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
# Positions far apart, so that the scaled frequencies matter.
positions = torch.cat([torch.arange(n) * 37 for n in LENGTHS])
mask = (document[:, None] == document[None, :]) & torch.ones(N, N, dtype=torch.bool).tril()

x = F.embedding(tokens[:N], p["embed"])
h = F.rms_norm(x, (D,), p["0.attn_norm"], 1e-5)
q, k, v = (h @ p["0.wqkv"].T).split([H * HD, KV * HD, KV * HD], dim=-1)
q, k, v = (t.view(1, N, -1, HD).transpose(1, 2) for t in (q, k, v))
# transformers computes the angles in float32, which at large positions is coarser than ours: take its frequencies.
angles = positions[:, None].double() * rotary.inv_freq.double()[None, :]
angles = torch.cat([angles, angles], dim=-1)[None]
q, k = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
x = x + a.transpose(1, 2).reshape(N, H * HD) @ p["0.wo"].T
h = F.rms_norm(x, (D,), p["0.ffn_norm"], 1e-5)
gate, up = (h @ p["0.w_gate_up"].T).chunk(2, dim=-1)
x = x + (F.silu(gate) * up) @ p["0.w_down"].T
hidden = F.rms_norm(x, (D,), p["norm"], 1e-5)
logprobs = F.log_softmax(hidden @ p["head"].T, dim=-1).gather(1, tokens[1:, None])[:, 0]
weights = torch.rand(N).float().double()
weights[::5] = 0
loss = -(weights * logprobs).sum()
grads = torch.autograd.grad(loss, list(p.values()))

out = {f"param.{name}": t.detach() for name, t in p.items()}
out |= {f"grad.{name}": g for name, g in zip(p, grads)}
out |= {"tokens": tokens.double(), "positions": positions.double(), "weights": weights, "hidden": hidden.detach(),
        "logprobs": logprobs.detach(), "loss": loss.detach()[None], "lengths": torch.tensor(LENGTHS).double(),
        "inv_freq": rotary.inv_freq.double()}
save_file({k: v.float().contiguous() for k, v in out.items()}, pathlib.Path(__file__).parent / "golden.safetensors")
