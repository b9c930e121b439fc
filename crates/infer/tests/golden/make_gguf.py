"""Makes llama.gguf, a tiny random Llama with all kinds of types, and expected.bin, the logits that Transformers computes
from it for the tokens i * 7 % 97, i < 40.

    pip install gguf numpy torch transformers && python make_gguf.py
"""

import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
HIDDEN, FFN, LAYERS, HEADS, KV, VOCAB = 64, 96, 2, 4, 2, 97
random = np.random.default_rng(3)
config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                     num_key_value_heads=KV, vocab_size=VOCAB, rms_norm_eps=1e-5, rope_theta=5000.0,
                     max_position_embeddings=128, tie_word_embeddings=False)
model = LlamaForCausalLM(config).eval()
weights = {}
writer = gguf.GGUFWriter(HERE / "llama.gguf", "llama")
writer.add_context_length(128)
writer.add_embedding_length(HIDDEN)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(FFN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(5000.0)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)


def permute(w, heads):
    """As llama.cpp's converter stores query and key."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def add(hf, name, shape, kind, heads=None):
    w = random.normal(scale=0.3, size=shape).astype(np.float32) + (len(shape) == 1)
    stored = permute(w, heads) if heads else w
    if kind in (T.F32, T.F16):
        data = stored.astype(np.float32 if kind == T.F32 else np.float16)
        back = data.astype(np.float32)
        writer.add_tensor(name, data)
    else:
        data = gguf.quants.quantize(stored, kind)
        back = gguf.quants.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    if heads:  # the inverse, on the rounded numbers
        back = back.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
    weights[hf] = torch.from_numpy(np.ascontiguousarray(back))


add("model.embed_tokens.weight", "token_embd.weight", (VOCAB, HIDDEN), T.Q8_0)
kinds = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.F16, T.BF16, T.F32]
for i in range(LAYERS):
    kind = lambda part: kinds[(part + 3 * i) % len(kinds)]
    a, b = f"model.layers.{i}.", f"blk.{i}."
    add(a + "input_layernorm.weight", b + "attn_norm.weight", (HIDDEN,), T.F32)
    add(a + "self_attn.q_proj.weight", b + "attn_q.weight", (HIDDEN, HIDDEN), kind(0), HEADS)
    add(a + "self_attn.k_proj.weight", b + "attn_k.weight", (HIDDEN * KV // HEADS, HIDDEN), kind(1), KV)
    add(a + "self_attn.v_proj.weight", b + "attn_v.weight", (HIDDEN * KV // HEADS, HIDDEN), kind(2))
    add(a + "self_attn.o_proj.weight", b + "attn_output.weight", (HIDDEN, HIDDEN), kind(3))
    add(a + "post_attention_layernorm.weight", b + "ffn_norm.weight", (HIDDEN,), T.F32)
    add(a + "mlp.gate_proj.weight", b + "ffn_gate.weight", (FFN, HIDDEN), kind(4))
    add(a + "mlp.up_proj.weight", b + "ffn_up.weight", (FFN, HIDDEN), kind(5))
    add(a + "mlp.down_proj.weight", b + "ffn_down.weight", (HIDDEN, FFN), kind(6))
add("model.norm.weight", "output_norm.weight", (HIDDEN,), T.F32)
add("lm_head.weight", "output.weight", (VOCAB, HIDDEN), T.F16)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
model.load_state_dict(weights)
with torch.no_grad():
    logits = model(torch.tensor([[i * 7 % VOCAB for i in range(40)]])).logits[0]
(HERE / "expected.bin").write_bytes(logits.numpy().astype("<f4").tobytes())
print((HERE / "llama.gguf").stat().st_size, "bytes", logits.abs().max())
