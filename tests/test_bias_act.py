"""An activation between a bias and a residual: values and all gradients, for every activation, dtype and layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import DEFAULTS, DTYPES, Case, truth
from test_memory import saved_tensors, total_bytes
from torch import Tensor, nn

import fastact.functional as F
from fastact.composites import per_channel

EPS = torch.finfo(torch.float32).eps
FUSED = [case for case in DEFAULTS if case.activation.kind == "pointwise" and not case.activation.random]
SHAPES = {
    "rows": ((70, 24), lambda x: x),
    "odd rows": ((301, 13), lambda x: x),
    "images": ((2, 5, 9, 11), lambda x: x),
    "channels last": ((2, 16, 7, 5), lambda x: x.to(memory_format=torch.channels_last)),
    "large": ((3, 4, 5000), lambda x: x),
    "transposed": ((24, 70), lambda x: x.t()),
    "sliced": ((4, 12, 96), lambda x: x[:, 2:8]),
}


def expected(case: Case, input: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    output = truth(case.activation, input.dtype)(
        input + per_channel(bias, input), **case.sample, **case.activation.keywords
    )
    return output if residual is None else output + residual


def ours(case: Case, input: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    return F.bias_act(input, bias, residual, case.activation.name, **case.sample)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", FUSED, ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    """Beside torch's ops in float64. 16-bit results are rounded once."""
    layouts = SHAPES if device != "emulated" else ("odd rows", "channels last")
    for layout in layouts:
        shape, arrange = SHAPES[layout]
        x, added, grad = (arrange(torch.randn(shape, dtype=torch.float64).to(dtype).to(on)) for _ in range(3))
        for channels, residual in ((x.size(1), added), (x.size(1), None), (1, added)):
            bias = torch.linspace(-1, 1, channels, dtype=torch.float64).to(dtype).to(on)
            inputs = [t.detach().requires_grad_() for t in (x, bias, *(() if residual is None else (residual,)))]
            wide = [t.detach().double().requires_grad_() for t in inputs]
            output = ours(case, *inputs, *([None] if residual is None else []))
            exact = expected(case, *wide, *([None] if residual is None else []))
            assert output.dtype == dtype
            found = [output, *torch.autograd.grad(output, inputs, grad)]
            want = [exact, *torch.autograd.grad(exact, wide, grad.double())]
            eps = torch.finfo(dtype).eps
            for i, (got, each) in enumerate(zip(found, want, strict=True)):
                size = grad.double().abs().sum().item() if i == 2 else 1.0  # a sum that may cancel
                torch.testing.assert_close(got.double(), each, rtol=4 * eps, atol=8 * eps * size)


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_saved_bytes(case: Case, on: str) -> None:
    """Never more than torch keeps, one bit per element aside; and never the sum, the output or the residual."""
    x, bias = torch.randn(8, 16, 32, device=on), torch.randn(16, device=on)
    residual = torch.randn(8, 16, 32, device=on).requires_grad_()
    kept = saved_tensors(lambda: ours(case, x.requires_grad_(), bias.requires_grad_(), residual))
    n = x.numel()
    assert total_bytes(kept) == bias.nbytes + (n // 8 if case.activation.saved == "mask" else 4 * n)
    theirs = saved_tensors(lambda: expected(case, x.requires_grad_(), bias.requires_grad_(), residual))
    assert total_bytes(kept) <= total_bytes(theirs) + n // 8 + bias.nbytes


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_second_derivatives(case: Case, on: str) -> None:
    x = torch.linspace(-3, 3, 24, dtype=torch.float64, device=on).view(2, 3, 4).requires_grad_()
    bias = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64, device=on).requires_grad_()
    residual = torch.randn(2, 3, 4, dtype=torch.float64, device=on).requires_grad_()
    results = []
    for function in (ours, expected):
        first = torch.autograd.grad(function(case, x, bias, residual).square().sum(), (x, bias), create_graph=True)
        penalty = sum(each.square().sum() for each in first)
        second = torch.autograd.grad(penalty, (x, bias, residual), materialize_grads=True)
        linear = torch.autograd.grad(function(case, x, bias, residual).sum(), (x, bias), create_graph=True)
        results.append([*second, *torch.autograd.grad(sum(each.square().sum() for each in linear), (x, bias))])
    for got, each in zip(*results, strict=True):
        torch.testing.assert_close(got, each)


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_the_bias_alone_needs_gradients(name: str, on: str) -> None:
    """As in a first layer; and it may change before backward where only its shape is needed."""
    x, bias = torch.randn(4, 5, 3, device=on), torch.randn(5, device=on).requires_grad_()
    (first,) = torch.autograd.grad(F.bias_act(x, bias, None, name).sum(), bias, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), bias)
    output = getattr(nn.functional, name)(x + bias.view(-1, 1))
    (first,) = torch.autograd.grad(output.sum(), bias, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.sum(), bias)[0])
    if name == "relu":
        x, bias = x.requires_grad_(), bias.detach().clone()
        y = F.bias_act(x, bias, None, name)
        expected = (x + bias.view(-1, 1) > 0).float()
        bias.add_(1)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)


def test_the_residual_alone_needs_nothing_saved(on: str) -> None:
    x, bias = torch.randn(4, 6, device=on), torch.randn(6, device=on)
    residual = torch.randn(4, 6, device=on).requires_grad_()
    for name in ("relu", "gelu"):
        y = F.bias_act(x, bias, residual, name)
        assert torch.equal(torch.autograd.grad(y, residual, x)[0], x)


@pytest.mark.only("cpu")
def test_dtype_under_autocast_is_the_inputs(device: str) -> None:
    x, bias = torch.randn(2, 4).bfloat16(), torch.randn(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for residual in (None, x, x[:1]):
            call = lambda residual=residual: F.bias_act(x, bias, residual, "relu")  # noqa: E731
            assert call().dtype == torch.compile(call, backend="eager")().dtype == torch.bfloat16


@pytest.mark.parametrize("needed", range(3))
def test_gradients_only_where_needed(needed: int, on: str) -> None:
    inputs = [torch.randn(4, 6, device=on), torch.randn(6, device=on), torch.randn(4, 6, device=on)]
    inputs[needed].requires_grad_()
    for name in ("relu", "silu", "tanh"):
        (got,) = torch.autograd.grad(F.bias_act(*inputs, name).sum(), inputs[needed])
        output = getattr(torch.nn.functional, name)(inputs[0] + inputs[1]) + inputs[2]
        torch.testing.assert_close(got, torch.autograd.grad(output.sum(), inputs[needed])[0])


def test_what_else_torch_takes(on: str) -> None:
    """A bias or a residual to broadcast, other dtypes, activations with weights and random ones: as they come."""
    x, bias = torch.randn(4, 6, device=on), torch.randn(6, device=on)
    torch.testing.assert_close(
        F.bias_act(x, bias, x[:1], "silu"), nn.functional.silu(x + bias) + x[:1], rtol=4 * EPS, atol=4 * EPS
    )
    torch.testing.assert_close(F.bias_act(x, bias, None, "elu", alpha=-0.5), nn.functional.elu(x + bias, -0.5))
    compiled = torch.compile(lambda: F.bias_act(x, bias, x, "relu"), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), (x + bias).relu() + x)


def test_bad_arguments(on: str) -> None:
    x, bias = torch.randn(4, 6, device=on), torch.randn(6, device=on)
    with pytest.raises(ValueError, match=r"activation must be one of relu, .*, got 'softmax'"):
        F.bias_act(x, bias, activation="softmax")
    with pytest.raises(TypeError, match=r"leaky_relu takes \('negative_slope',\), got \('slope',\)"):
        F.bias_act(x, bias, activation="leaky_relu", slope=0.1)
    with pytest.raises(RuntimeError, match="must match the size"):
        F.bias_act(x, torch.randn(5, device=on))


# The ops beside their parts.

OTHER_LAYOUTS = {
    "rows": lambda: torch.randn(5, 67),
    "several blocks": lambda: torch.randn(3, 7, 30, 33),
    "channels last": lambda: torch.randn(2, 70, 8, 9).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(40, 6).t(),
    "half of the rows": lambda: torch.randn(6, 256)[:, :128],
    "every other": lambda: torch.randn(5, 66)[:, ::2],
    "empty": lambda: torch.randn(0, 3),
}


def op(name: str) -> Any:
    return getattr(torch.ops.fastact, name)


def parts(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """The activation of x, and what its backward needs."""
    row = case.activation
    if row.saved == "mask":
        return op(f"{row.name}_mask")(x, *case.scalars)
    y = op(row.name)(x, *case.scalars)
    return y, y if row.saved == "output" else x


@pytest.mark.only("cpu")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", FUSED, ids=str)
def test_bias_ops_are_their_parts(case: Case, dtype: torch.dtype, device: str) -> None:
    """Bit for bit in the type that is computed in, from which 16-bit results are rounded once."""
    name, scalars = f"bias_{case.activation.name}", case.scalars
    wide = torch.promote_types(dtype, torch.float32)
    for layout, make in OTHER_LAYOUTS.items():
        x, residual, grad = ((make() * 3).to(dtype) for _ in range(3))
        for bias in (torch.randn(x.size(1)).to(dtype), torch.randn(1).to(wide)):
            per_channel = bias.to(wide) if len(bias) == 1 else bias.to(wide).view(-1, *[1] * (x.dim() - 2))
            y, saved = parts(case, x.to(wide) + per_channel)
            assert torch.equal(op(name)(x, bias, None, *scalars), y.to(dtype)), layout
            assert torch.equal(op(name)(x, bias, residual, *scalars), (y + residual.to(wide)).to(dtype)), layout
            kept = x
            if case.activation.saved == "mask":
                output, kept = op(f"{name}_mask")(x, bias, residual, *scalars)
                assert torch.equal(output, op(name)(x, bias, residual, *scalars))
            grad_input, grad_bias = op(f"{name}_backward")(grad, kept, bias, *scalars)
            expected = op(f"{case.activation.name}_backward")(torch.empty_like(y).copy_(grad), saved, *scalars)
            assert torch.equal(grad_input, expected.to(dtype)), layout
            assert grad_bias.dtype == bias.dtype
            dims = [dim for dim in range(x.dim()) if dim != 1 or len(bias) == 1]
            torch.testing.assert_close(grad_bias, expected.double().sum(dims).view_as(bias).to(bias.dtype))


def test_bias_ops_refuse_what_they_cannot_read(device: str) -> None:
    x = torch.randn(4, 6)
    for call in (
        lambda: op("bias_relu")(x, torch.randn(4), None),
        lambda: op("bias_relu")(x, torch.randn(6).double(), None),
        lambda: op("bias_relu")(x, torch.randn(6), x[:2]),
        lambda: op("bias_relu")(x.int(), torch.randn(6), None),
        lambda: op("bias_silu_backward")(x, x.double(), torch.randn(6)),
    ):
        with pytest.raises(RuntimeError, match="fastact::bias_"):
            call()
