"""The ops torch.ops.fastact on a GPU, beside torch's."""

from __future__ import annotations

import pytest
import torch
from cases import DEFAULTS, LOOPS, Case, kernel, truth
from torch import Tensor

pytestmark = pytest.mark.only("emulated", "cuda")

BIASED = [case for case in DEFAULTS if case.activation.kind == "pointwise" and not case.activation.random]


def arrange(values: Tensor, layout: str) -> Tensor:
    if layout == "channels last":
        return values.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "rows":
        return torch.cat([values, values], -1)[..., : values.shape[-1]]
    return values


BIASES = {
    "innermost": ((6, 24), 24),
    "innermost, odd": ((70, 13), 13),
    "images": ((2, 5, 4, 8), 5),
    "small images": ((2, 19, 7, 7), 19),
    "channels last": ((2, 16, 3, 5), 16),
    "channels last, odd": ((40, 5, 11), 5),
    "rows": ((2, 3, 16), 3),
    "one number": ((2, 5, 4, 40), 1),
    "one number, one dimension": ((301,), 1),
    "empty": ((0, 4, 3), 4),
}


EVERYWHERE = [
    pytest.param(case, layout, id=f"{case}-{layout}")
    for case in BIASED
    for layout in BIASES
    if case in LOOPS or layout == "images"  # layouts do not depend on formulas
]


@pytest.mark.formula
@pytest.mark.parametrize(("case", "layout"), EVERYWHERE)
def test_bias_act(case: Case, layout: str, device: str, on: str) -> None:
    """act(input + bias) + residual and its gradients, beside torch's ops in float64."""
    shape, channels = BIASES[layout]
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        input, residual, grad = (
            arrange(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), layout.split(",")[0]).to(on)
            for _ in range(3)
        )
        bias = torch.linspace(-1, 1, channels, dtype=torch.float64).to(dtype).to(on)
        for added in (residual, None):
            check_bias(case, input, bias, added, grad)


def check_bias(case: Case, input: Tensor, bias: Tensor, residual: Tensor | None, grad: Tensor) -> None:
    row, scalars = case.activation, case.scalars
    exact = [x.detach().double().requires_grad_() for x in (input, bias)]
    of_channel = exact[1].view(-1, *[1] * (input.dim() - 2)) if bias.numel() > 1 else exact[1]
    expected = truth(row, torch.float64)(exact[0] + of_channel, *scalars, **row.keywords)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    if residual is not None:
        expected = expected + residual.double()
    output = kernel(f"bias_{row.name}")(input, bias, residual, *scalars)
    grad = torch.empty_like(output).copy_(grad)  # the order of the mask
    if row.saved == "mask":
        same, saved = kernel(f"bias_{row.name}_mask")(input, bias, residual, *scalars)
        assert torch.equal(same, output)
        found = kernel(f"bias_{row.name}_backward")(grad, saved, bias, *scalars)
    else:
        found = kernel(f"bias_{row.name}_backward")(grad, input, bias, *scalars)
    eps = torch.finfo(input.dtype).eps
    terms = grad.double().abs().sum().item()
    for got, want, size in zip((output, *found), (expected, *gradients), (8, 8, 8 + 2 * terms), strict=True):
        assert got.dtype == input.dtype
        torch.testing.assert_close(got.double(), want, rtol=eps, atol=size * eps)


@pytest.mark.parametrize(("dim", "gate_first"), [(-1, False), (1, True)])
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.kind == "gated"], ids=str)
def test_gated_units_of_one_tensor(case: Case, dim: int, gate_first: bool, device: str, on: str) -> None:
    name, order = case.activation.name, slice(None, None, -1 if gate_first else 1)
    x = torch.randn(3, 8, 12, device=on)
    value, gate = x.chunk(2, dim)[order]
    y = kernel(f"{name}_packed")(x, dim, gate_first)
    assert torch.equal(y, kernel(name)(value, gate))
    gradient = kernel(f"{name}_packed_backward")(y, x, dim, gate_first)
    assert torch.equal(gradient, torch.cat(kernel(f"{name}_backward")(y, value, gate)[order], dim))


@pytest.mark.parametrize("dim", range(-3, 3))
def test_maxout(dim: int, device: str, on: str) -> None:
    """The gradient lies as the input did, also where that cannot be seen from one group's numbers."""
    x = torch.randn(4, 8, 12, device=on)
    for input in (x, x.transpose(0, 2), x.movedim(0, 1), *(x.narrow(i, 0, 2).contiguous() for i in range(3)), x[:0]):
        y, indices = kernel("maxout_indices")(input, 2, dim)
        best, winners = input.unflatten(dim, (-1, 2)).max(dim if dim < 0 else dim + 1)
        assert torch.equal(y, best)
        assert torch.equal(indices, winners.byte())
        assert torch.equal(kernel("maxout")(input, 2, dim), y)
        gradient = kernel("maxout_backward")(y, indices, 2, dim)
        assert torch.equal(gradient, torch.where(input == y.repeat_interleave(2, dim), input, 0.0))
        assert gradient.stride() == input.stride() or input.numel() == 0
