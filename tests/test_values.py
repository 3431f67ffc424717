"""Outputs and gradients are torch's: every activation, dtype and layout, special values and kinks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import ARRANGEMENTS, CASES, DEFAULTS, DETERMINISTIC, DTYPES, LOOPS, SHAPE, SPECIAL, Case
from torch import Tensor

from fastact.tools.accuracy import REFERENCES, flushed, is_exact

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


def tolerance_of(case: Case, dtype: torch.dtype, input: Tensor) -> dict[str, float]:
    """Of values beside torch's float64."""
    tolerance = TOLERANCE[dtype]
    return {"rtol": tolerance["rtol"], "atol": case.value(input) * tolerance["atol"]}


def torch_error(case: Case, dtype: torch.dtype, input: Tensor, grad: float = 2.0) -> float:
    """What the gradients allow for beside it: torch's own errors show in float64, others it computes in that."""
    return case.value(input) * case.torch_error(input, grad) if dtype == torch.float64 else 0.0


def leaf(tensor: Tensor) -> Tensor:
    """A leaf that requires gradients, with the tensor's strides (which clone() would make dense)."""
    return tensor.detach().requires_grad_()


def ramp(like: Tensor) -> Tensor:
    """A gradient from -2 to 2."""
    return torch.linspace(-2, 2, like.numel(), dtype=torch.float64).view(like.shape).to(like)


def gradients(case: Case, function, input: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    input = leaf(input)
    weight = tuple(leaf(w) for w in case.weights(input))
    output = function(input, *weight)
    grad = ramp(output) if grad is None else grad
    return (output.detach(), *torch.autograd.grad(output, (input, *weight), grad.to(output.dtype)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_matches_torch_in_every_layout(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    for layout in case.layouts():
        input = case.input(layout, dtype, on)
        ours = gradients(case, case.fastact, input)
        # torch's op in float64, rounded: its own 16-bit kernels round in between, and sum in 16 bits.
        theirs = gradients(case, lambda x, *w: case.torch(x.double(), *(v.double() for v in w)), input)
        tolerance = tolerance_of(case, dtype, input)
        for got, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                got, expected.to(dtype), **tolerance, msg=lambda text, at=layout: f"{at}: {text}"
            )
            if got is ours[0]:  # the gradient that follows
                if case.activation.saved == "output":
                    # |grad| <= 2 times a derivative whose slope in y is at most 2, from an output below 1 that was
                    # rounded by eps / 4 at most; and the rounding of the result.
                    tolerance["atol"] = 2 * torch.finfo(dtype).eps * case.gradients_summed(ramp(input))
                tolerance["atol"] += torch_error(case, dtype, input)
            elif case.activation.weights:
                tolerance["atol"] = torch.finfo(dtype).eps * case.terms(input, ramp(input))
        if torch.empty_like(input).stride() == input.stride():  # dense
            part = input[..., : ours[0].size(-1)] if input.dim() else input  # as large as the output
            same_order = stock = torch.empty_like(part).stride()
            if case.activation.stock:  # callers may view the result
                stock = case.stock(case.input(layout, torch.float32, on)).stride()
            assert ours[0].stride() == stock, layout
            if stock == same_order:
                assert ours[1].stride() == input.stride(), layout


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_without_gradients(case: Case, device: str, on: str) -> None:
    for layout in case.layouts():
        input = case.input(layout, torch.float32, on)
        with torch.no_grad():
            got = case.fastact(leaf(input), *case.weights(input))
        assert not got.requires_grad
        torch.testing.assert_close(got, case.torch(input.double()).float(), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", ["odd", "channels_last", "expanded", "transposed 4-d"])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_gradient_in_another_layout_than_the_output(case: Case, layout: str, device: str, on: str) -> None:
    input = case.input(layout, torch.float64, on)
    shape = case.torch(input).shape
    generator = torch.Generator().manual_seed(4)
    reversed_order = (
        torch.randn(shape[::-1], dtype=torch.float64, generator=generator).to(on).permute(*reversed(range(len(shape))))
    )
    for grad in (reversed_order, torch.tensor(1.5, dtype=torch.float64, device=on).expand(shape)):
        ours, theirs = (gradients(case, function, input, grad) for function in case.both())
        tolerance = tolerance_of(case, torch.float64, input)
        for got, expected in zip(ours[:2], theirs[:2], strict=True):
            torch.testing.assert_close(got, expected, **tolerance)
            tolerance["atol"] *= case.gradients_summed(grad)
            tolerance["atol"] += torch_error(case, torch.float64, input, grad.abs().max().item())
        for got, expected in zip(ours[2:], theirs[2:], strict=True):  # sums that may cancel
            atol = torch.finfo(torch.float64).eps * case.terms(input, grad)
            torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.divisor == 1 and (c in LOOPS or c.per_channel) and c.deterministic], ids=str
)
def test_arrangements_change_nothing(case: Case, device: str, on: str) -> None:
    """One shape: one element after another, in rows, in rows of another length, in another order; all pairs of them."""
    input, grad = torch.randn(2, *SHAPE, device=on)
    names = ARRANGEMENTS if device != "emulated" else ("rows of 128", "rows of 256", "last dimension outermost")
    expected = gradients(case, case.fastact, input, grad)
    for of_input, of_grad in itertools.product(names, names):
        arranged = ARRANGEMENTS[of_input](input)
        if not case.activation.pointwise:  # rows are summed in another order where they lie side by side
            expected = gradients(case, case.fastact, arranged, grad)
        got = gradients(case, case.fastact, arranged, ARRANGEMENTS[of_grad](grad))
        for each, same in zip(got[:2], expected[:2], strict=True):
            assert torch.equal(each, same), (of_input, of_grad)
        for each, same in zip(got[2:], expected[2:], strict=True):
            torch.testing.assert_close(each, same, rtol=0, atol=torch.finfo(grad.dtype).eps * case.terms(input, grad))


@pytest.mark.parametrize("layout", ["odd", "channels_last", "transposed", "chunk"])
@pytest.mark.parametrize("per_channel", [0, 1])
@pytest.mark.parametrize("case", [c for c in DEFAULTS if len(c.activation.weights) == 2], ids=str)
def test_numbers_per_channel_beside_a_single_one(case: Case, per_channel: int, layout: str, on: str) -> None:
    input = case.input(layout, torch.float32, on)
    spread = Case(case.activation, case.sample, per_channel=True).weights(input)
    weights = [leaf(numbers if k == per_channel else numbers[:1]) for k, numbers in enumerate(spread)]
    results = []
    for function, type in ((case.fastact, torch.float32), (case.torch, torch.float64)):
        arguments = [leaf(x.to(type)) for x in (input, *weights)]
        output = function(*arguments)
        results.append((output.detach(), *torch.autograd.grad(output, arguments, ramp(output))))
    ours, theirs = results
    for got, expected in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(got, expected.float(), **tolerance_of(case, torch.float32, input))
    for got, expected in zip(ours[2:], theirs[2:], strict=True):
        atol = torch.finfo(torch.float32).eps * case.terms(input, ramp(input))
        torch.testing.assert_close(got, expected.float(), rtol=0, atol=atol)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_empty_in_any_layout(case: Case, device: str, on: str) -> None:
    for shape, order in (((0, 24), (0, 1)), ((96, 0), (1, 0)), ((3, 0, 5), (2, 0, 1))):
        input = leaf(torch.randn(shape, device=on).permute(order))
        weight = tuple(leaf(w) for w in case.weights(input))
        output = case.fastact(input, *weight)
        for grad in (torch.ones((), device=on).expand(output.shape), torch.randn_like(output)):
            got = torch.autograd.grad(output, (input, *weight), grad, retain_graph=True)
            assert [g.shape for g in got] == [x.shape for x in (input, *weight)]
            assert all(not g.any() for g in got)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_special_values(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    kinks = [k + step for k in case.activation.kinks(**case.sample) for step in (0.0, -1e-3, 1e-3)]
    # As many as torch's vector code takes: its scalar code differs in the signs of zeros and at NaN.
    input = torch.tensor([*SPECIAL, *kinks, *[0.0] * 64][:64], dtype=torch.float64).to(dtype).to(on)
    if case.activation.name in REFERENCES:
        limit = REFERENCES[case.activation.name].limit(**case.sample, **case.activation.weight_values(1))
        input = torch.where(input.isfinite() & (input.abs() > limit), 0, input)
    ones = torch.ones_like(input)
    our_curve, torchs_curve = case.curves()
    ours = gradients(case, our_curve, input, ones)
    exact = is_exact(case.activation)
    # Where results are not linear by parts torch's own lose digits in the tails, but in float64.
    theirs = gradients(case, torchs_curve, input if exact else input.double(), ones)
    got, expected = ours[0], theirs[0].to(dtype)
    expected = torch.where(flushed(got, expected.double(), input), got, expected)
    slopes = theirs[1].to(dtype)
    slopes = torch.where(flushed(ours[1], theirs[1].double(), input), ours[1], slopes)
    if exact:
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())
        # Those of torch's CPU code: on a GPU, `max` of -0 and a bound of 0 is either, by its version.
        signs = torchs_curve(input.cpu()).to(dtype).signbit().to(on)
        assert torch.equal(got.signbit() & ~got.isnan(), signs & ~expected.isnan())
    else:
        # Limits that torch does not have, as in test_limits_at_infinity.
        expected = torch.where(input.isinf() & expected.isnan(), got, expected)
        # Where torch's result vanishes or overflows early, ours may still hold the small or large number.
        tolerance = {**tolerance_of(case, dtype, ones), "atol": torch.finfo(torch.float32).tiny}
        torch.testing.assert_close(got, expected, **tolerance, equal_nan=True)
    # At NaN and infinity torch's own gradients differ between its vector and scalar code, and from its GPU's; at
    # numbers they must agree.
    numbers = input.isfinite()
    if case.activation.saved == "output":  # that of a subnormal input may be 0, on the other side of a kink
        numbers &= (got != 0) | (input == 0)
    tolerance = tolerance_of(case, dtype, ones)
    if dtype == torch.float64:
        tolerance["atol"] += case.torch_error(input[numbers], grad=1)
    torch.testing.assert_close(ours[1][numbers], slopes[numbers], **tolerance)
    if exact:
        assert torch.equal(ours[1][~input.isnan()], slopes[~input.isnan()])
    assert not (ours[1].isnan() & ~theirs[1].isnan() & ~got.isnan()).any()


PASSES_AT_NAN = ("hardtanh", "relu6", "hardshrink", "softshrink")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_gradient_at_nan(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    """NaN, or torch's where results are linear by parts; but for four of those that let it through."""
    input = torch.full((64,), math.nan, dtype=dtype, device=on)
    ours, theirs = (gradients(case, curve, input, torch.ones_like(input)) for curve in case.curves())
    assert ours[0].isnan().all()
    linear = is_exact(case.activation) or case.activation.saved == "mask"
    expected = theirs[1] if linear else input
    expected = torch.ones_like(input) if case.activation.name in PASSES_AT_NAN else expected
    torch.testing.assert_close(ours[1], expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", ["silu", "quick_gelu", "gelu", "gelu_tanh", "mish", "hardswish", "tanhshrink", "softplus"]
)
def test_large_inputs_pass_with_a_slope_of_exactly_one(name: str, dtype: torch.dtype, device: str, on: str) -> None:
    case = next(case for case in DEFAULTS if case.activation.name == name)
    input = torch.tensor([60.0, 80.0, 100.0, 1e4, torch.finfo(dtype).max], dtype=dtype, device=on)
    output, gradient = gradients(case, case.fastact, input, torch.ones_like(input))
    assert torch.equal(gradient, torch.ones_like(input))
    assert torch.equal(output, input - 1 if name == "tanhshrink" else input)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.limits_at_infinity], ids=str)
def test_limits_at_infinity(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    """At every size, of gradients too, whether or not a graph is made of them; torch has NaN at some."""
    for n in (1, 7, 64, 5000):
        for end, value, slope in ((-torch.inf, -0.0, 0.0), (torch.inf, torch.inf, 1.0)):
            input = torch.full((n,), end, dtype=dtype, device=on).requires_grad_()
            output = case.fastact(input)
            assert output.unique().tolist() == [value]
            assert output.signbit().all() == (end < 0)
            (plain,) = torch.autograd.grad(output, input, torch.ones_like(output), retain_graph=True)
            (first,) = torch.autograd.grad(output, input, torch.ones_like(output), create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), input)
            assert plain.unique().tolist() == first.unique().tolist() == [slope]
            assert second.unique().tolist() == [0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [c for c in DETERMINISTIC if c.activation.kinks(**c.sample)], ids=str)
def test_derivative_at_the_kink_is_torchs(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    kinks = case.activation.kinks(**case.sample)
    input = torch.tensor([*kinks, *(-k for k in kinks)], dtype=dtype, device=on)
    ours, theirs = (gradients(case, curve, input, torch.ones_like(input)) for curve in case.curves())
    tolerance = {"rtol": 0, "atol": 0} if is_exact(case.activation) else TOLERANCE[dtype]
    torch.testing.assert_close(ours[1], theirs[1], **tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("create_graph", [False, True])
def test_infinite_gradient_makes_no_nan_where_torch_makes_none(
    case: Case, create_graph: bool, nodes: str, device: str, on: str
) -> None:
    results = []
    for curve in case.curves():
        input = torch.tensor([-2.0, -0.5, 0.5, 2.0], device=on, requires_grad=True)
        torch.manual_seed(0)
        output = curve(input)
        (gradient,) = torch.autograd.grad(output, input, torch.full_like(output, math.inf), create_graph=create_graph)
        results.append(gradient.detach())
    ours, theirs = results
    numbers = ~theirs.isnan()
    assert torch.equal(ours[numbers], theirs[numbers])


@pytest.mark.parametrize("case", [c for c in CASES if c.activation.inplace], ids=str)
@pytest.mark.parametrize(
    "layout", ["odd", "several blocks", "channels_last", "chunk", "rows of 67", "every other", "transposed"]
)
def test_inplace(case: Case, layout: str, device: str, on: str) -> None:
    input = case.input(layout, torch.float32, on)
    torch.manual_seed(1)
    expected = case.fastact(input)

    plain = case.input(layout, torch.float32, on)
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
    version = middle._version
    output = case.fastact(middle, inplace=True)
    assert output is middle
    assert output._version == version + 1
    (got,) = torch.autograd.grad(output, start, ramp(input))
    assert torch.equal(output.detach(), out_of_place[0])
    assert torch.equal(got, out_of_place[1])


@pytest.mark.parametrize("case", [c for c in CASES if c.activation.inplace], ids=str)
def test_refused_inplace_changes_nothing(case: Case, device: str, on: str) -> None:
    parameter = torch.randn(10, device=on, requires_grad=True)
    before = parameter.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        case.fastact(parameter, inplace=True)
    assert torch.equal(parameter.detach(), before)
    one = torch.ones(1, device=on)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor refers to a single memory"):
        case.fastact(one.expand(8), inplace=True)  # as torch's do, but for threshold
    assert one == 1


def test_rrelu_draws(device: str, on: str) -> None:
    import fastact.functional as F

    input = -torch.rand(100_003 if device != "emulated" else 5001, device=on) - 0.5
    input = leaf(input)
    torch.manual_seed(3)
    first = F.rrelu(input, 0.1, 0.4, training=True)
    second = F.rrelu(input, 0.1, 0.4, training=True)
    torch.manual_seed(3)
    assert torch.equal(F.rrelu(input, 0.1, 0.4, training=True), first)
    assert not torch.equal(first, second)

    slopes = (first / input).detach().double()
    few = 2 * torch.finfo(torch.float32).eps  # product, quotient and the limits are each rounded by half an eps
    assert slopes.min() >= 0.1 * (1 - few)
    assert slopes.max() <= 0.4 * (1 + few)
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
    torch.testing.assert_close(grad.double(), slopes, rtol=few, atol=0)


def philox(seed: int, counter: int) -> list[int]:
    """Philox4x32-10 as Salmon et al. 2011 have it, with counter and key of 64 bits."""
    low = 2**32 - 1
    words, key = [counter & low, counter >> 32, 0, 0], [seed & low, seed >> 32]
    for _ in range(10):
        even, odd = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [odd >> 32 ^ words[1] ^ key[0], odd & low, even >> 32 ^ words[3] ^ key[1], even & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return words


def test_rrelus_numbers_are_philoxs(device: str, on: str) -> None:
    """All 64 bits of the seed and the element's number decide."""
    from fastact.ops import overload

    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # the authors' known answers
    n = 5000 if device != "emulated" else 700
    input = torch.full((n,), -1.0, device=on)
    for seed in (0, 1, 1 << 16, 1 << 31, 1 << 32, 1 << 62, 0x0123_4567_89AB_CDEF):
        drawn = [word >> 8 for counter in range(-(-n // 4)) for word in philox(seed, counter)][:n]
        expected = torch.tensor(drawn, device=on) * 2.0**-24
        scalars = (torch.tensor(seed, device=on), 0.0, 1.0)
        output, mask = overload("rrelu_mask")(input, *scalars)
        assert torch.equal(-output, expected)
        assert torch.equal(overload("rrelu_backward")(torch.ones_like(input), mask, *scalars), expected)


def test_seeds_have_all_their_bits(device: str, on: str) -> None:
    from fastact.ops import draw_seed

    seeds = [draw_seed(torch.empty(0, device=on)).item() for _ in range(64)]
    assert len(set(seeds)) == 64
    for bit in range(63):
        assert len({seed >> bit & 1 for seed in seeds}) == 2, bit


def test_rrelu_evaluates_with_the_mean_slope(device: str, on: str) -> None:
    import fastact.functional as F

    input = torch.randn(1000, device=on)
    assert torch.equal(F.rrelu(input, 0.1, 0.5), torch.nn.functional.leaky_relu(input, 0.3))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_value_depends_on_neither_place_nor_size(case: Case, device: str, on: str) -> None:
    n = 5000 if device != "emulated" else 2500
    numbers = torch.randn(n, dtype=torch.float32, device=on) * 4
    if case.per_channel:
        numbers = numbers.view(n // 5, 5)
    curve, _ = case.curves()
    weight = case.weights(numbers)
    whole = curve(numbers, *weight)
    for start, end in ((1, n), (17, 81), (3, 4), (2047, 2049)):
        piece = curve(numbers[start:end], *weight)
        assert torch.equal(piece, whole[start:end])
