"""Numbers and the blocks that the `gguf` package makes of them.

    python make_quantised.py           (gguf 0.19)

Writes quantised.bin: 4096 floats, then for each type its number, the number of bytes, and the bytes.
"""

import pathlib
import struct

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
(pathlib.Path(__file__).parent / "quantised.bin").write_bytes(out)
