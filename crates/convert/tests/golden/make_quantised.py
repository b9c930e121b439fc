"""Numbers and the blocks that the `gguf` package and ggml itself make of them.

    python make_quantised.py .../llama_cpp/lib/libggml-base.so     (gguf 0.19, llama-cpp-python 0.3.36)

Writes quantised.bin: 4096 floats, then for each type its number, the number of bytes, and the bytes.
"""

import ctypes
import pathlib
import struct
import sys

import gguf
import numpy as np

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"]
rng = np.random.default_rng(3)
x = rng.standard_normal((16, 256)).astype(np.float32) * np.exp(rng.standard_normal((16, 1))).astype(np.float32)
x[3, :32] = 0
x[4, 32:64] = 0.25
x[5] = np.abs(x[5])
x[6, ::7] *= 20
out = x.tobytes()
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    blocks = gguf.quants.quantize(x, kind).tobytes()
    out += struct.pack("<II", int(kind), len(blocks)) + blocks
ggml = ctypes.CDLL(sys.argv[1])
ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
for name in ["Q4_K", "Q6_K"]:
    kind = gguf.GGMLQuantizationType[name]
    size = gguf.GGML_QUANT_SIZES[kind][1] * 16
    blocks = ctypes.create_string_buffer(size)
    assert ggml.ggml_quantize_chunk(int(kind), x.ctypes.data, blocks, 0, 16, 256, None) == size
    out += struct.pack("<II", int(kind), size) + blocks.raw
(pathlib.Path(__file__).parent / "quantised.bin").write_bytes(out)
