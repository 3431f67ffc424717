"""The gradients under fastact.recompute are those without it, bit for bit, from less that is kept."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

import fastact

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.SiLU(inplace=True),
    nn.Conv2d(32, 64, 4, stride=4),
    nn.Flatten(2),
    nn.LayerNorm(256),
    nn.Linear(256, 1024),
    nn.GELU(),
    nn.Dropout(0.1),
    nn.Linear(1024, 10),
)
images = torch.randn(8, 3, 128, 128)


def gradients(around_forward: AbstractContextManager) -> list[Tensor]:
    torch.manual_seed(1)  # for dropout
    model.zero_grad()
    with around_forward:
        loss = model(images).square().sum()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


fastact.enable()
without = gradients(nullcontext())
under = gradients(fastact.recompute())
seen = fastact.saved(model, images)
print(f"kept for backward: {seen.bytes / 2**20:.1f} MiB, {seen.recompute_bytes / 2**20:.1f} MiB under recompute")
print("gradients equal, bit for bit:", all(map(torch.equal, without, under)))
