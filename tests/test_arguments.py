"""Scalar arguments: those that torch takes are taken as it takes them, at every size; those it refuses, refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import fastact
import fastact.functional as F
from fastact import dispatch

SIZES = (1, 7, 64, 40_000)


def outcome(function: Callable[..., Tensor], input: Tensor, *arguments: Any) -> tuple[Any, ...]:
    """Value and gradient, or the error."""
    input = input.detach().requires_grad_()
    try:
        output = function(input, *arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        return type(error), str(error)
    (gradient,) = torch.autograd.grad(output, input, torch.ones_like(output))
    return output.detach(), gradient


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hardtanh", (-1e5, 1e5)),
        ("hardtanh", (-1.0, 65536.0)),
        ("threshold", (0.0, 1e5)),
        ("threshold", (1e5, 0.0)),
        ("hardshrink", (1e5,)),
        ("softshrink", (1e5,)),
        ("hardshrink", (math.inf,)),
        ("leaky_relu", (1e5,)),
        ("elu", (1e5,)),
    ],
)
def test_float16_arguments_beyond_its_range(name: str, arguments: tuple[float, ...], n: int, on: str):
    input = torch.linspace(-3, 3, n, dtype=torch.float16, device=on)
    ours, theirs = (
        outcome(getattr(F, name), input, *arguments),
        outcome(getattr(nn.functional, name), input, *arguments),
    )
    if isinstance(theirs[0], type):
        assert ours == theirs
    else:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("lambd", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_hardshrink_compares_with_lambd_rounded(dtype: torch.dtype, lambd: float, n: int, on: str) -> None:
    """As torch does: the number next to lambd is not above it."""
    near = torch.tensor(lambd, dtype=dtype)
    above = near.view(torch.int16).add(1).view(dtype)
    for number in (near, above):
        for sign in (1, -1):
            input = torch.full((n,), sign * number.item(), dtype=dtype, device=on)
            ours, theirs = outcome(F.hardshrink, input, lambd), outcome(nn.functional.hardshrink, input, lambd)
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("lambd", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.only("cpu")
def test_softshrinks_gradient_is_that_of_its_value(dtype: torch.dtype, lambd: float, device: str) -> None:
    near = torch.tensor(lambd, dtype=dtype)
    for n in SIZES:
        for sign in (1, -1):
            output, gradient = outcome(F.softshrink, torch.full((n,), sign * near.item(), dtype=dtype), lambd)
            assert torch.equal(gradient, (output != 0).to(dtype))
            assert torch.equal(gradient != 0, torch.full((n,), near.item() > torch.tensor(lambd).item()))


@pytest.mark.parametrize(
    "number", [numpy.float64(0.2), numpy.float32(0.25), numpy.float16(0.25), numpy.int64(2)], ids=repr
)
def test_numpy_numbers_take_kernels(number: Any, on: str) -> None:
    input = torch.linspace(-3, 3, 64, device=on)
    assert dispatch.accepts("leaky_relu", input, number)
    ours, theirs = (outcome(function, input, number) for function in (F.leaky_relu, nn.functional.leaky_relu))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(F.elu(input, numpy.float32(1.5)), nn.functional.elu(input, 1.5))
    module = fastact.LeakyReLU(number)(input)
    assert torch.equal(module, ours[0])


@pytest.mark.parametrize("argument", [True, torch.tensor(0.2), 1 + 0j, "0.2", None], ids=repr)
def test_other_arguments_are_torchs(argument: Any, on: str) -> None:
    input = torch.linspace(-3, 3, 64, device=on)
    assert not dispatch.accepts("leaky_relu", input, argument)
    ours, theirs = (outcome(function, input, argument) for function in (F.leaky_relu, nn.functional.leaky_relu))
    if isinstance(theirs[0], type):
        assert ours[0] == theirs[0]
    else:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("tiny", [1e-40, -1e-40, 1e-60])
@pytest.mark.parametrize("name", ["softplus", "celu", "elu", "leaky_relu"])
def test_arguments_below_the_smallest_normal_number(name: str, tiny: float, n: int, on: str) -> None:
    input = torch.linspace(-3, 3, n, device=on)
    ours, theirs = (outcome(getattr(library, name), input, tiny) for library in (F, nn.functional))
    if isinstance(theirs[0], type):
        assert ours == theirs
    else:
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("divisor", [1e-30, 1e-15, 1e15, 1e19, 1e30, 1e38])
@pytest.mark.parametrize("name", ["softplus", "celu"])
def test_divisors_far_from_one(name: str, divisor: float, dtype: torch.dtype, on: str) -> None:
    """Neither they nor their inverses leave the range of numbers on the way; the farthest are torch's."""
    input = torch.tensor([0.0, 1e-3, -1e-3, 1.0, -1.0, 20.0, -20.0, 3e37, -3e37], dtype=dtype, device=on).repeat(64)
    wide = torch.float64 if dispatch._is_moderate(divisor) else dtype
    expected = getattr(nn.functional, name)(input.to(wide), divisor).double()
    got = getattr(F, name)(input, divisor).double()
    few, smallest = 4 * torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(got, expected, rtol=few, atol=few * smallest)


@pytest.mark.parametrize("alpha", [1e-6, 0.8, 40.0, 710.0, 1000.0, 1e30])
def test_xielu_starts_where_it_is_asked_to(alpha: float) -> None:
    module = fastact.XIELU(alpha_p_init=alpha, alpha_n_init=alpha + 0.5, dtype=torch.float64)
    torch.testing.assert_close(module.alpha_p.item(), alpha, rtol=1e-9, atol=0)
    torch.testing.assert_close(module.alpha_n.item(), alpha + 0.5, rtol=1e-9, atol=0)
    for kwargs in ({"alpha_p_init": 0.0}, {"alpha_n_init": 0.5}, {"alpha_p_init": math.nan}):
        with pytest.raises(ValueError, match="alpha_p_init must be above 0"):
            fastact.XIELU(**kwargs)
