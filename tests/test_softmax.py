"""What is particular to softmax: dimensions, lengths of rows, sums, infinities, `dtype`, warnings."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from cases import DTYPES, log_softmax
from torch import Tensor, nn

import fastact
import fastact.functional as F
from fastact.tools.accuracy import ulp

NAMES = ("softmin", "softmax", "log_softmax")


def exact(name: str, input: Tensor, dim: int) -> Tensor:
    """In float64, with differences and sums of float32 numbers that are exact or nearly so."""
    x = -input.double() if name == "softmin" else input.double()
    if name == "log_softmax":
        return log_softmax(x, dim)
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def exact_gradient(name: str, grad: Tensor, output: Tensor, dim: int) -> Tensor:
    grad, y = grad.double(), output.double()
    if name == "log_softmax":
        return grad - y.exp() * grad.sum(dim, keepdim=True)
    gradient = y * (grad - (grad * y).sum(dim, keepdim=True))
    return -gradient if name == "softmin" else gradient


def check(name: str, input: Tensor, dim: int, ulps: float) -> None:
    """Forward in ULPs, and the gradient beside the one that the output stands for."""
    input = input.detach().requires_grad_()
    output = getattr(F, name)(input, dim)
    truth = exact(name, input, dim)
    error = (output.double() - truth).abs() / ulp(truth, input.dtype)
    assert error.max().item() <= ulps, (name, tuple(input.shape), dim)
    assert output.is_contiguous()  # as torch's, whatever the input is
    grad = torch.randn(input.shape, dtype=torch.float64, device=input.device).to(input.dtype)
    (gradient,) = torch.autograd.grad(output, input, grad)
    expected = exact_gradient(name, grad, output, dim)
    # The sum over the row is of terms of this size, in float32 in the GPU's programs; then a few roundings.
    weights = output.double().exp() if name == "log_softmax" else output.double()
    terms = (grad.double().abs() * (1 if name == "log_softmax" else weights)).sum(dim, keepdim=True)
    compute = torch.finfo(torch.float64 if input.dtype == torch.float64 else torch.float32).eps
    allowed = ulp(expected, input.dtype) + 4 * compute * (weights * terms + grad.double().abs())
    assert ((gradient.double() - expected).abs() <= allowed).all(), (name, tuple(input.shape), dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_dimension(name: str, dtype: torch.dtype, device: str, on: str) -> None:
    ulps = 0.51 if dtype != torch.float32 else 2.0 if device == "cpu" else 4.0
    shapes = ((3, 5, 7, 4), (5, 300), (1, 70, 3), (65, 2, 100), (2, 1, 6))
    for shape in shapes[:2] if device == "emulated" else shapes:
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(8).to(dtype).to(on)
        for dim in range(0 if device == "emulated" else -len(shape), len(shape)):
            check(name, x, dim, ulps)
        if len(shape) == 4:
            check(name, x.to(memory_format=torch.channels_last), 1, ulps)
            check(name, x.transpose(0, 2), 3, ulps)


@pytest.mark.parametrize("columns", [1, 2, 16, 63, 64, 65, 256, 1000, 1024, 65536, 65537, 200_003])
@pytest.mark.parametrize("name", NAMES)
def test_every_length(name: str, columns: int, device: str, on: str) -> None:
    x = torch.randn(2, columns, device=on) * 6
    check(name, x, 1, 2.0 if device == "cpu" else 4.0)


@pytest.mark.parametrize("name", NAMES)
def test_long_rows_side_by_side(name: str, device: str, on: str) -> None:
    for shape in ((2, 2500, 3), (1, 1100, 70), (2, 1030, 64)):
        x = torch.randn(shape, device=on) * 6
        x[:, -3:] += 30  # the peak comes late
        check(name, x, 1, 2.0 if device == "cpu" else 4.0)


def test_sums_of_many_terms(device: str, on: str) -> None:
    """A float32 running sum would stop growing at 2^24 equal terms, and lose digits long before."""
    n = 1 << (22 if device != "emulated" else 14)
    x = torch.full((n,), 0.37, device=on)
    assert torch.equal(F.softmax(x, 0), torch.full_like(x, 1 / n))
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(F.log_softmax(x, 0), torch.full_like(x, -math.log(n)), rtol=eps, atol=0)
    y = torch.full((n,), 1 / n, device=on, requires_grad=True)
    (grad,) = torch.autograd.grad(F.softmax(y, 0), y, torch.full_like(x, 3.0))
    assert grad.abs().max().item() <= 2.0**-22 * 3 / n


def test_certainty_keeps_its_digits(device: str, on: str) -> None:
    """log softmax of (x, 0) is -e^-x: all of it is lost in the logarithm of a sum rounded to 1."""
    x = torch.tensor([[20.0, 0.0], [60.0, 0.0], [87.0, 0.0]], device=on)
    truth = -torch.log1p((-x[:, 0].double()).exp())
    got = F.log_softmax(x, 1)[:, 0]
    two = {"rtol": 2 * torch.finfo(torch.float32).eps, "atol": 0}
    torch.testing.assert_close(got.double(), truth, **two)
    torch.testing.assert_close(F.log_softmax(x.t().contiguous(), 0)[0], got, **two)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_infinities_and_nan_are_torchs(name: str, dtype: torch.dtype, device: str, on: str) -> None:
    inf, nan = math.inf, math.nan
    rows = (
        [-inf] * 3,
        [inf] * 3,
        [-inf, 1.0, 2.0],
        [inf, 1.0, 2.0],
        [inf, -inf, 0.0],
        [nan, 1.0, 2.0],
        [nan, inf, -inf],
    )
    lowest = torch.finfo(dtype).min
    rows += ([nan, inf, -inf], [lowest] * 3, [lowest, 0.0, -lowest], [-lowest, -inf, 5.0])
    short = torch.tensor(rows, dtype=dtype)
    for repeats in (1, 50, 400):  # rows side by side in a tile, of several steps, and with the odd ones late
        wide = torch.cat([short[:, :1].expand(-1, repeats - 1), short], dim=1).to(on)
        for input, dim in ((wide, 1), (wide.t().contiguous(), 0)):
            expected = getattr(nn.functional, name)(input, dim)
            got = getattr(F, name)(input, dim)
            assert torch.equal(got.isnan(), expected.isnan())
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(got, expected, rtol=4 * eps, atol=eps / 4, equal_nan=True)


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_minus_infinities_before_numbers(name: str, inner: int, device: str, on: str) -> None:
    """Longer than what is in the cache, or in a program's registers, at a time: the first part has no peak yet."""
    n = 70_000
    x = torch.full((1, n, inner), math.inf if name == "softmin" else -math.inf, device=on)
    x[0, -2:] = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(getattr(F, name)(x, 1), getattr(nn.functional, name)(x, 1))
    x[0, 5] = math.nan
    assert getattr(F, name)(x, 1).isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_zero_and_one(name: str, device: str, on: str) -> None:
    for shape in ((), (1,), (0,), (3, 0), (0, 3), (2, 0, 4), (3, 1), (1, 1, 1)):
        for dim in range(-max(1, len(shape)), max(1, len(shape))):
            results = []
            for library in (F, nn.functional):
                input = torch.full(shape, 2.5, device=on, requires_grad=True)
                output = getattr(library, name)(input, dim)
                (grad,) = torch.autograd.grad(output, input, torch.ones_like(output))
                results.append((output.detach(), grad))
            torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [None, *DTYPES], ids=str)
@pytest.mark.parametrize("input_dtype", [*DTYPES, torch.int64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dtype(name: str, input_dtype: torch.dtype, dtype: torch.dtype | None, device: str, on: str) -> None:
    if input_dtype == torch.int64 and dtype is None:
        return
    outcomes = []
    for library in (F, nn.functional):
        input = torch.arange(24).remainder(7).view(4, 6).to(input_dtype).to(on)
        input.requires_grad_(input_dtype.is_floating_point)
        output = getattr(library, name)(input, 1, dtype=dtype)
        gradient = ()
        if output.requires_grad:
            gradient = torch.autograd.grad(output, input, torch.linspace(-1, 1, 24, device=on).view(4, 6).to(output))
            assert gradient[0].dtype == input_dtype
        outcomes.append((output.detach(), *gradient))
    eps = torch.finfo(dtype or input_dtype).eps
    for got, expected in zip(*outcomes, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=3 * eps, atol=3 * eps)


def test_widening_is_fused(device: str, on: str) -> None:
    """A 16-bit input with dtype=float32 is one kernel, and only the float32 output is saved."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    input = torch.randn(4, 50, device=on).bfloat16().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output = F.softmax(input, 1, dtype=torch.float32)
    assert output.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    assert [t.dtype for t in saved] == [torch.float32]
    torch.testing.assert_close(output.detach(), torch.softmax(input.detach().float(), 1))
    (got,) = torch.autograd.grad(output[:, 0].sum(), input, create_graph=True)
    assert got.dtype == torch.bfloat16


@pytest.mark.only("cpu")  # a GPU's kernel adds up in another order
@pytest.mark.parametrize("columns", [6, 40, 3000])  # brought side by side, and as they lie
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_widened_numbers_are_float32s(name: str, dtype: torch.dtype, columns: int, device: str) -> None:
    """Bit for bit, in the output and in what its gradient is rounded from."""
    narrow = torch.randn(5, columns).to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    outputs = [getattr(F, name)(input, 1, dtype=torch.float32) for input in (narrow, wide)]
    assert torch.equal(*outputs)
    grad = torch.randn(5, columns)
    gradients = [torch.autograd.grad(*pair, grad)[0] for pair in zip(outputs, (narrow, wide), strict=True)]
    assert torch.equal(gradients[0], gradients[1].to(dtype))


@pytest.mark.only("cuda")
@pytest.mark.parametrize("name", NAMES)
def test_autocast_is_float32_on_a_gpu(name: str, device: str) -> None:
    x = torch.randn(8, 100, device=device, dtype=torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        for keywords in ({}, {"dtype": torch.bfloat16}):
            got, expected = getattr(F, name)(x, 1, **keywords), getattr(nn.functional, name)(x, 1, **keywords)
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_dimension_torch_warns_the_caller(name: str, on: str) -> None:
    x = torch.randn(3, 4, device=on)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = getattr(F, name)(x)
        expected = getattr(nn.functional, name)(x)
        module = {"softmin": "Softmin", "softmax": "Softmax", "log_softmax": "LogSoftmax"}[name]
        getattr(fastact, module)()(x)
        getattr(nn, module)()(x)
    assert torch.equal(got, expected)
    assert [warning.category for warning in caught] == [UserWarning] * 4
    assert caught[0].filename == caught[1].filename == __file__
    assert caught[2].filename == caught[3].filename
    assert len({str(warning.message) for warning in caught}) == 1


@pytest.mark.parametrize(
    "arguments",
    [(2,), (-3,), (0.0,), ("x",), (True,), (None, 3), (0, 3, torch.int32), (0, 3, torch.complex64), (0, 3, "float")],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_torchs(name: str, arguments: tuple, on: str) -> None:
    outcomes = []
    for library in (F, nn.functional):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes.append(getattr(library, name)(torch.ones(2, 3, device=on), *arguments))
        except Exception as error:
            outcomes.append((type(error), str(error)))
    if isinstance(outcomes[1], Tensor):
        torch.testing.assert_close(*outcomes)
    else:
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 2, 3, 4, 5)], ids=str)
def test_softmax2d_refuses_what_torchs_does(shape: tuple[int, ...], on: str) -> None:
    messages = []
    for library in (fastact, nn):
        with pytest.raises(ValueError, match="Softmax2d: expected input to be 3D or 4D") as error:
            library.Softmax2d()(torch.ones(shape, device=on))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("low", [-math.inf, -5000.0])
def test_a_certain_class_among_many(low: float, dtype: torch.dtype, on: str) -> None:
    """However many are impossible, nothing is left of them."""
    x = torch.full((1, 5000), low, dtype=dtype)
    x[0, 3] = 0
    y = F.log_softmax(x.to(on), -1)[0]
    assert y[3] == 0
    assert torch.equal(y[4:].isinf(), torch.full((4996,), low == -math.inf, device=y.device))
    assert torch.equal(F.softmax(x.to(on), -1), (x == 0).to(dtype).to(on))


def test_many_equal_elements_below_the_peak(on: str) -> None:
    """The same rounding error in all of them, and so in their sum: an ULP more than elsewhere."""
    x = torch.full((1, 64), float.fromhex("0x1.07649cp+0"))
    x[0, 0], x[0, 1] = float.fromhex("0x1.04fdcp+1"), float.fromhex("-0x1.0d4f84p+0")
    check("softmax", x.to(on), 1, ulps=3.0)


@pytest.mark.only("cpu")
def test_float64_sums_of_long_rows(on: str) -> None:
    x = torch.randint(-3000, 3000, (1, 100_000)).double() / 1024  # whose differences are exact
    x[0, ::3] = 9
    truth = (x - 9).exp() / math.fsum((x - 9).exp().flatten().tolist())
    torch.testing.assert_close(F.softmax(x, -1), truth, rtol=2 * torch.finfo(x.dtype).eps, atol=0)  # 2 ULP


@pytest.mark.only("cpu")
@pytest.mark.parametrize("name", NAMES)
def test_long_rows_of_16_bits(name: str, on: str) -> None:
    """On either side of the length from which they are not widened as a whole."""
    for n in (1 << 18, (1 << 18) + 1):
        x = torch.randn(1, n).bfloat16()
        y, truth = getattr(F, name)(x, 1), exact(name, x, 1)
        assert ((y.double() - truth).abs() / ulp(truth, x.dtype)).max() <= 0.51
