"""Ten steps of torch.optim.AdamW with clipping, on a matrix that decays and a vector that does not: adamw.json.

    python adamw.py
"""
import json
import os
import torch

torch.manual_seed(0)
matrix = torch.nn.Parameter(torch.randn(5, 7))
vector = torch.nn.Parameter(torch.ones(3))
start = [p.detach().flatten().tolist() for p in (matrix, vector)]
optimizer = torch.optim.AdamW(
    [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}],
    betas=(0.9, 0.95), eps=1e-5)
steps = []
for step in range(10):
    # Half of the steps have a norm above 1 and are clipped; one gradient is tiny, so that eps matters.
    scale = [0.05, 3.0, 0.1, 1e-6, 2.0][step % 5]
    grads = [torch.randn(p.shape) * scale for p in (matrix, vector)]
    lr = 0.01 * (step + 1)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for p, g in zip((matrix, vector), grads):
        p.grad = g.clone()
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item()
    # clip_grad_norm_ adds 1e-6 to the norm; we divide by the norm itself.
    if norm > 1.0:
        for p in (matrix, vector):
            p.grad.mul_(1.0 / norm)
    optimizer.step()
    steps.append({"lr": lr, "norm": norm, "grads": [g.flatten().tolist() for g in grads],
                  "after": [p.detach().flatten().tolist() for p in (matrix, vector)]})
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "adamw.json")
with open(path, "w") as file:
    json.dump({"start": start, "steps": steps}, file)
