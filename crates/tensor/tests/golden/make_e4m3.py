"""Makes e4m3.bin with PyTorch's float8_e4m3fn: what the 256 codes stand for (f32), the codes of all 65,536 numbers in bf16 in
the order of their bits, clamped to 448 first, and 1,000 numbers in f32 with their codes: half-way between two codes, a bit
below, a bit above, and at random. Run: python make_e4m3.py (needs torch)."""

import pathlib

import torch

F8 = torch.float8_e4m3fn
codes = lambda x: x.clamp(-448, 448).to(F8).view(torch.uint8)

values = torch.arange(256, dtype=torch.uint8).view(F8).float()
halves = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
middles = (values[:126] + values[1:127]) / 2
inf = torch.tensor(float("inf"))
near = torch.cat([middles, torch.nextafter(middles, inf), torch.nextafter(middles, -inf)])
torch.manual_seed(0)
drawn = torch.randn(1000 - 2 * len(near)) * 2.0 ** torch.randint(-12, 10, (1000 - 2 * len(near),))
numbers = torch.cat([near, -near, drawn])

parts = [values, codes(halves.float()), numbers, codes(numbers)]
data = b"".join(part.numpy().tobytes() for part in parts)
pathlib.Path(__file__).with_name("e4m3.bin").write_bytes(data)
