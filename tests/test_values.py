"""Outputs and gradients are torch's: every activation, dtype and layout, special values and kinks."""

from __future__ import annotations

import math

import cases
import pytest
import torch
from cases import CASES, DETERMINISTIC, DTYPES, LAYOUTS, SPECIAL, Case
from torch import Tensor

# In eps of the dtype: 16-bit types round once; the others allow for the ULPs of either side, and absolutely for a
# derivative from a saved output or, as torch's Softsign, from a difference. Gradients are up to 2.
TOLERANCE = {
    dtype: {"rtol": relative * torch.finfo(dtype).eps, "atol": absolute * torch.finfo(dtype).eps}
    for dtype, relative, absolute in (
        (torch.float64, 8, 4),
        (torch.float32, 8, 1.5),
        (torch.float16, 1, 0.5),
        (torch.bfloat16, 1, 0.5),
    )
}


def leaf(tensor: Tensor) -> Tensor:
    """A leaf that requires gradients, with the tensor's strides (which clone() would make dense)."""
    return tensor.detach().requires_grad_()


def ramp(like: Tensor) -> Tensor:
    """A gradient from -2 to 2."""
    return torch.linspace(-2, 2, like.numel(), dtype=torch.float64).view(like.shape).to(like)


def gradients(case: Case, function, input: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    input = leaf(input)
    weight = tuple(leaf(w) for w in case.weight(input))
    output = function(input, *weight)
    grad = ramp(input) if grad is None else grad.to(input.dtype)
    return (output.detach(), *torch.autograd.grad(output, (input, *weight), grad.to(output.dtype)))


def layouts_for(case: Case) -> list[str]:
    return [name for name, (shape, _) in LAYOUTS.items() if not case.per_channel or len(shape) > 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_matches_torch_in_every_layout(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    for layout in layouts_for(case):
        input = cases.random_input(layout, dtype, on)
        ours = gradients(case, case.fastact, input)
        # torch's op in float64, rounded: its own 16-bit kernels round in between, and sum in 16 bits.
        theirs = gradients(case, lambda x, *w: case.torch(x.double(), *(v.double() for v in w)), input)
        tolerance = dict(TOLERANCE[dtype])
        for got, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                got, expected.to(dtype), **tolerance, msg=lambda text, at=layout: f"{at}: {text}"
            )
            if case.activation.saved == "output":
                # The gradients that follow: |grad| <= 2 times a derivative whose slope in y is at most 2, from an
                # output below 1 that was rounded by eps / 4 at most; and the rounding of the result.
                tolerance["atol"] = 2 * torch.finfo(dtype).eps
            if got is ours[1] and case.activation.weight:
                # The weight's gradient is a sum that may cancel: its error is relative to the size of its terms.
                tolerance["atol"] = torch.finfo(dtype).eps * (input * ramp(input)).double().abs().sum().item()
        if torch.empty_like(input).stride() == input.stride():  # dense: the order of dimensions is kept
            assert ours[0].stride() == input.stride(), layout
            assert ours[1].stride() == input.stride(), layout


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_without_gradients(case: Case, device: str, on: str) -> None:
    for layout in layouts_for(case):
        input = cases.random_input(layout, torch.float32, on)
        with torch.no_grad():
            got = case.fastact(leaf(input), *case.weight(input))
        assert not got.requires_grad
        torch.testing.assert_close(got, case.torch(input), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", ["odd", "channels_last", "expanded", "transposed 4-d"])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_gradient_in_another_layout_than_the_output(case: Case, layout: str, device: str, on: str) -> None:
    input = cases.random_input(layout, torch.float64, on)
    shape = input.shape
    generator = torch.Generator().manual_seed(4)
    reversed_order = (
        torch.randn(shape[::-1], dtype=torch.float64, generator=generator).to(on).permute(*reversed(range(len(shape))))
    )
    for grad in (reversed_order, torch.tensor(1.5, dtype=torch.float64).expand(shape)):
        ours, theirs = (gradients(case, function, input, grad) for function in case.both())
        for got, expected in zip(ours[:2], theirs[:2], strict=True):
            torch.testing.assert_close(got, expected, **TOLERANCE[torch.float64])
        for got, expected in zip(ours[2:], theirs[2:], strict=True):  # sums that may cancel
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_empty_in_any_layout(case: Case, device: str, on: str) -> None:
    for shape, order in (((0, 8), (0, 1)), ((64, 0), (1, 0)), ((3, 0, 5), (2, 0, 1))):
        input = leaf(torch.randn(shape, device=on).permute(order))
        weight = tuple(leaf(w) for w in case.weight(input))
        output = case.fastact(input, *weight)
        for grad in (torch.ones((), device=on).expand(output.shape), torch.randn(shape, device=on).permute(order)):
            got = torch.autograd.grad(output, (input, *weight), grad, retain_graph=True)
            assert [g.shape for g in got] == [x.shape for x in (input, *weight)]
            assert all(not g.any() for g in got)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_special_values(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    kinks = [k + step for k in case.activation.kinks(**dict(case.keywords)) for step in (0.0, -1e-3, 1e-3)]
    input = torch.tensor([*SPECIAL, *kinks], dtype=torch.float64).to(dtype).to(on)
    ours, theirs = (gradients(case, function, input, torch.ones_like(input)) for function in case.both())
    got, expected = ours[0], theirs[0]
    exact = case.activation.saved == "bits" or case.activation.weight
    if exact:
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())
    else:
        # Where torch's result vanishes or overflows early, ours may still hold the small or large number.
        torch.testing.assert_close(got, expected, rtol=TOLERANCE[dtype]["rtol"], atol=1.5e-38, equal_nan=True)
    assert torch.equal(got.signbit() & ~got.isnan(), expected.signbit() & ~expected.isnan())
    # At NaN and infinity torch's own gradients differ between its vector and scalar code, and from its GPU's; at
    # numbers they must agree.
    numbers = input.isfinite()
    torch.testing.assert_close(ours[1][numbers], theirs[1][numbers], **TOLERANCE[dtype])
    if exact:
        assert torch.equal(ours[1][~input.isnan()], theirs[1][~input.isnan()])
    assert not ours[1][~input.isnan()].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [c for c in DETERMINISTIC if c.activation.kinks(**dict(c.keywords))], ids=str)
def test_derivative_at_the_kink_is_torchs(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    kinks = case.activation.kinks(**dict(case.keywords))
    input = torch.tensor([*kinks, *(-k for k in kinks)], dtype=dtype, device=on)
    ours, theirs = (gradients(case, function, input, torch.ones_like(input)) for function in case.both())
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_infinite_gradient_makes_no_nan_where_torch_makes_none(case: Case, device: str, on: str) -> None:
    input = torch.tensor([-2.0, -0.5, 0.5, 2.0], device=on)
    grad = torch.full_like(input, math.inf)
    torch.manual_seed(0)
    ours = gradients(case, case.fastact, input, grad)[1]
    torch.manual_seed(0)
    theirs = gradients(case, case.torch, input, grad)[1]
    numbers = ~theirs.isnan()
    assert torch.equal(ours[numbers], theirs[numbers])


@pytest.mark.parametrize("case", [c for c in CASES if c.activation.inplace], ids=str)
@pytest.mark.parametrize("layout", ["odd", "several blocks", "channels_last", "chunk", "every other", "transposed"])
def test_inplace(case: Case, layout: str, device: str, on: str) -> None:
    input = cases.random_input(layout, torch.float32, on)
    torch.manual_seed(1)
    expected = case.fastact(input)

    plain = cases.random_input(layout, torch.float32, on)
    version = plain._version
    torch.manual_seed(1)
    assert case.fastact(plain, inplace=True) is plain
    assert torch.equal(plain, expected)
    assert plain._version > version

    torch.manual_seed(1)
    out_of_place = gradients(case, case.fastact, input)
    torch.manual_seed(1)
    start = leaf(input)
    middle = start * 1
    output = case.fastact(middle, inplace=True)
    assert output is middle
    (got,) = torch.autograd.grad(output, start, ramp(input))
    assert torch.equal(output.detach(), out_of_place[0])
    assert torch.equal(got, out_of_place[1])


@pytest.mark.parametrize("case", [c for c in CASES if c.activation.inplace], ids=str)
def test_refused_inplace_changes_nothing(case: Case, device: str, on: str) -> None:
    parameter = torch.randn(10, device=on, requires_grad=True)
    before = parameter.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        case.fastact(parameter, inplace=True)
    overlapping = torch.randn(1, device=on).expand(8)
    with pytest.raises(RuntimeError, match="single memory location"):
        case.fastact(overlapping, inplace=True)
    assert torch.equal(parameter.detach(), before)


def test_rrelu_draws(device: str, on: str) -> None:
    import fastact.functional as F

    input = -torch.rand(100_003 if device != "interpret" else 5001, device=on) - 0.5
    input = leaf(input)
    torch.manual_seed(3)
    first = F.rrelu(input, 0.1, 0.4, training=True)
    second = F.rrelu(input, 0.1, 0.4, training=True)
    torch.manual_seed(3)
    assert torch.equal(F.rrelu(input, 0.1, 0.4, training=True), first)
    assert not torch.equal(first, second)

    slopes = (first / input).detach().double()
    assert slopes.min() >= 0.1 - 1e-6
    assert slopes.max() <= 0.4 + 1e-6
    n = len(slopes)
    uniform = (slopes - 0.1) / 0.3
    # Five standard deviations of each estimate under a uniform law.
    assert abs(uniform.mean() - 0.5) < 5 / math.sqrt(12 * n)
    assert abs(uniform.var() - 1 / 12) < 5 / math.sqrt(180 * n)
    for lag in (1, 2, 3, 4, 1024):
        correlation = ((uniform[lag:] - 0.5) * (uniform[:-lag] - 0.5)).mean() * 12
        assert abs(correlation) < 5 / math.sqrt(n - lag)
    # Backward draws the same slopes again.
    (grad,) = torch.autograd.grad(first, input, torch.ones_like(first))
    torch.testing.assert_close(grad.double(), slopes, rtol=1e-6, atol=0)


def test_rrelu_evaluates_with_the_mean_slope(device: str, on: str) -> None:
    import fastact.functional as F

    input = torch.randn(1000, device=on)
    assert torch.equal(F.rrelu(input, 0.1, 0.5), torch.nn.functional.leaky_relu(input, 0.3))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_value_depends_on_neither_place_nor_size_nor_threads(case: Case, device: str, on: str) -> None:
    n = 5000 if device != "interpret" else 2500
    numbers = torch.randn(n, dtype=torch.float32, device=on) * 4
    if case.per_channel:
        numbers = numbers.view(n // 5, 5)
    whole = case.fastact(numbers)
    weight = case.weight(numbers)
    for start, end in ((1, n), (17, 81), (3, 4), (2047, 2049)):
        piece = case.fastact(numbers[start:end], *weight)
        assert torch.equal(piece, whole[start:end])
    if device != "cpu":
        return
    threads = torch.get_num_threads()
    big = numbers.repeat(20, *([1] * (numbers.dim() - 1)))
    many = gradients(case, case.fastact, big)
    torch.set_num_threads(1)
    try:
        one = gradients(case, case.fastact, big)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(many, one, strict=True):
        assert torch.equal(a, b)
