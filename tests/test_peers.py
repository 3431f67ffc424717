"""The cases that liger-kernel and attorch publish for what they share, with closer tolerances."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastact
from fastact.catalogue import ACTIVATIONS, torch_module

# attorch's shapes up to 300,000 elements, which it takes with and without autocast.
ATTORCH_SHAPES = [
    (96,), (128,), (196,), (384,), (768,), (1024,), (3200,), (4800,), (8000,), (12288,), (1, 8000), (4, 2000),
    (8, 1024), (32, 1024), (128, 1024), (8096, 32), (12288, 1), (1, 3, 224, 224),
]  # fmt: skip
ATTORCH = ["Sigmoid", "Tanh", "ReLU", "GELU", "SiLU", "ReLU6", "Hardsigmoid", "Hardswish", "SELU", "Mish", "LeakyReLU"]
LIGER_ROWS = [(2, 8), (4, 16), (1, 1023), (3, 7, 256), (1, 4096), (1, 2, 4096), (2, 70000), (1, 3, 70000)]
LIGER_SQUARES = [(2, 8, 4096), (4, 16, 2048), (1, 1, 1023), (3, 7, 256), (2, 8), (1, 4096)]
MLPS = [(2, 256, 256, 512), (6, 42, 123, 431)]
# In eps. In float32 torch's GELU has the largest errors: its vectors on the CPU take erf from Abramowitz & Stegun
# 7.1.26, which is 1.3 eps off, and magnify that and what they round by |x| / 2 < 2.5. 16-bit results are rounded twice
# at most, but for a gradient that is made of an output, which can differ in a last digit: LogSoftmax's magnifies that
# by the sum of the incoming ones.
TOLERANCE = {
    dtype: {"rtol": relative * torch.finfo(dtype).eps, "atol": absolute * torch.finfo(dtype).eps}
    for dtype, relative, absolute in ((torch.float32, 8, 8), (torch.float16, 2, 1), (torch.bfloat16, 4, 4))
}


def same(ours: nn.Module, theirs: nn.Module, input: torch.Tensor, autocast: bool = False) -> None:
    results = []
    for module in (ours, theirs):
        x = input.clone().requires_grad_()
        with torch.autocast(input.device.type, enabled=autocast, dtype=torch.bfloat16):
            output = module(x)
        torch.manual_seed(1)
        results.append((output.detach(), *torch.autograd.grad(output, x, torch.randn_like(output))))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, **TOLERANCE[input.dtype])


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ATTORCH)
def test_attorchs_activations(name: str, dtype: torch.dtype, device: str, on: str) -> None:
    for shape in ATTORCH_SHAPES:
        input = torch.randn(shape, device=on).to(dtype)
        for autocast in (False, True):
            same(getattr(fastact, name)(), getattr(nn, name)(), input, autocast)


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Softmin"])
def test_rows_of_both(name: str, dtype: torch.dtype, device: str, on: str) -> None:
    for shape in (*ATTORCH_SHAPES, *LIGER_ROWS):
        input = torch.randn(shape, device=on).to(dtype)
        same(getattr(fastact, name)(dim=-1), getattr(nn, name)(dim=-1), input)


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ligers_squared_relu(dtype: torch.dtype, device: str, on: str) -> None:
    ours = fastact.SquaredReLU()
    theirs = torch_module(ACTIVATIONS["squared_relu"], ours)
    for shape in LIGER_SQUARES:
        same(ours, theirs, torch.randn(shape, device=on).to(dtype))


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize(("batch", "length", "hidden", "intermediate"), MLPS)
def test_ligers_feed_forward_layers(
    batch: int, length: int, hidden: int, intermediate: int, device: str, on: str
) -> None:
    """LLaMA's, with two projections, and Phi-3's, whose packed projection has the gate first; all gradients."""
    swiglu = fastact.SwiGLU(gate_first=True)
    input = torch.randn(batch, length, hidden, device=on, requires_grad=True)
    gate_up = (torch.randn(2 * intermediate, hidden, device=on) / hidden**0.5).requires_grad_()
    down = (torch.randn(hidden, intermediate, device=on) / intermediate**0.5).requires_grad_()
    linear = nn.functional.linear
    gate, up = gate_up.chunk(2)
    outputs = [
        linear(swiglu(linear(input, up), linear(input, gate)), down),
        linear(swiglu(linear(input, gate_up)), down),
        linear(nn.functional.silu(linear(input, gate)) * linear(input, up), down),
    ]
    grad = torch.randn_like(outputs[0])
    *ours, theirs = ((y.detach(), *torch.autograd.grad(y, (input, gate_up, down), grad)) for y in outputs)
    # Sums of up to so many terms, in other orders: each step may round by half an eps of what it has, to either side.
    random_walk = torch.finfo(torch.float32).eps / 2 * (2 * intermediate) ** 0.5
    for results in ours:
        for got, expected in zip(results, theirs, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=random_walk * expected.abs().max().item())
