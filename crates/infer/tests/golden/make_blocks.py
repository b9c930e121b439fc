"""Makes blocks.bin: random blocks of every GGUF type and the floats that the `gguf` package makes of them.

    pip install gguf numpy && python make_blocks.py
"""

import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Byte offsets of the half-precision scales, which must be finite.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
random = np.random.default_rng(1)
out = b""
for kind in [T.F32, T.F16, T.BF16, *SCALES]:
    weights, size = GGML_QUANT_SIZES[kind]
    if kind in SCALES:
        blocks = random.integers(0, 256, (3, size), dtype=np.uint8)
        for offset in SCALES[kind]:
            scales = random.uniform(-0.1, 0.1, 3).astype(np.float16)
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(3, 2)
        floats = dequantize(blocks, kind)
    else:
        exact = random.normal(size=40).astype(np.float32)
        if kind == T.F16:
            blocks = exact.astype(np.float16)
            floats = blocks.astype(np.float32)
        elif kind == T.BF16:
            blocks = (exact.view(np.uint32) >> 16).astype(np.uint16)
            floats = (blocks.astype(np.uint32) << 16).view(np.float32)
        else:
            blocks = floats = exact
    floats = np.ascontiguousarray(floats, dtype=np.float32).ravel()
    out += struct.pack("<III", int(kind), blocks.nbytes, floats.size) + blocks.tobytes() + floats.tobytes()
(pathlib.Path(__file__).parent / "blocks.bin").write_bytes(out)
print(len(out), "bytes")
