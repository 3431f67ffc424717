"""Every activation within its bounds, which `fastact.tools.accuracy` states, and checks of the truth itself."""

from __future__ import annotations

from functools import partial

import mpmath
import pytest
import torch

from fastact import functional
from fastact.catalogue import ACTIVATIONS, SELU_ALPHA, SELU_SCALE, of_one_variable
from fastact.tools import accuracy
from fastact.tools.accuracy import (
    REFERENCES,
    bind,
    bit_patterns,
    evaluate,
    is_exact,
    measure,
    random_inputs,
    samples,
    ulp,
)

CASES = [
    pytest.param(activation, sample, id="-".join([activation.name, *map(str, sample.values())]))
    for activation in ACTIVATIONS.values()
    for sample in samples(activation)
]
FORMULA_CASES = [case for case in CASES if not is_exact(case.values[0])]


@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize(("activation", "sample"), CASES)
def test_bounds(activation, sample, dtype, device, on):
    torch.manual_seed(0)
    slow = device == "emulated"
    if dtype is torch.float32:
        input = random_inputs(activation, sample, 1 << (13 if slow else 20))
    else:
        input = bit_patterns(dtype, 0, 1 << 16)[:: 4 if slow else 1].contiguous()
    for measurement in measure(activation, sample, input.to(on)):
        assert measurement.held, str(measurement)


@pytest.mark.only("emulated")
@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize(
    "activation", [row for row in ACTIVATIONS.values() if not is_exact(row)], ids=lambda row: row.name
)
def test_bounds_leave_room_for_approximate_functions(activation, dtype, device):
    """The emulated GPU rounds where hardware approximates. NVIDIA's PTX ISA allows `ex2.approx` and divisions 2 ULP and
    `rcp.approx` one: results have to be within their bounds even with all of it, either way."""
    from gpu import emulator

    if dtype is torch.float32:
        input = random_inputs(activation, samples(activation)[0], 1 << 13)
    else:
        input = bit_patterns(dtype, 0, 1 << 16)[1::4].contiguous()
    emulator.set_noise(True)
    try:
        for measurement in measure(activation, samples(activation)[0], input):
            assert measurement.held, str(measurement)
    finally:
        emulator.set_noise(False)


@pytest.mark.parametrize(("name", "input"), [("selu", 3.2386221e38), ("xielu", 3.3678991e19)])
def test_results_beside_the_largest_number_are_finite(name, input, on):
    """Those of all float32 inputs that were infinite once: a constant, or a product, was rounded up on the way."""
    activation = ACTIVATIONS[name]
    for measurement in measure(activation, samples(activation)[0], torch.full((64,), input, device=on)):
        assert measurement.held, str(measurement)
        assert torch.tensor(measurement.result).isfinite()


@pytest.mark.only("cpu")
@pytest.mark.parametrize("name", ["silu", "quick_gelu", "gelu", "gelu_tanh", "hardswish"])
def test_derivatives_that_cross_zero_keep_their_digits(name, device):
    """More than is promised: what comes from tables centred there has a relative error, and so the right sign."""
    activation, reference = ACTIVATIONS[name], REFERENCES[name]
    (crossing,) = reference.zero_crossings
    distances = torch.cat([torch.linspace(-d, d, 10_001, dtype=torch.float64) for d in (0.5, 1e-3, 1e-6)])
    input = (crossing + distances).float()
    _, derivative = evaluate(bind(getattr(functional, activation.function), activation, {}, input), input)
    truth = reference.derivative(input.double())
    assert accuracy.errors(derivative, truth, ulp(truth, torch.float32)).max() <= accuracy.DERIVATIVE_ULPS


@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize(("activation", "sample"), CASES)
def test_signs_of_zeros_are_torchs(activation, sample, dtype, on):
    input = torch.tensor([0.0, -0.0], dtype=dtype, device=on).repeat(64)  # torch's vector code: the rest differs
    output = bind(getattr(functional, activation.function), activation, sample, input)(input).cpu()
    input = input.cpu().double()  # on a GPU, torch's `max` of -0 and a bound of 0 is either, by its version
    expected = bind(activation.reference, activation, sample, input)(input)
    assert torch.equal(output, expected.to(dtype))
    assert output.signbit().tolist() == expected.signbit().tolist()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "quick_gelu", "mish", "hardswish", "tanh", "softsign"])
def test_results_that_vanish_keep_their_sign(name, on):
    """The smallest negative number, whose half is a tie between it and -0."""
    input = torch.full((64,), -(2.0**-149), device=on)
    activation = ACTIVATIONS[name]
    output = bind(getattr(functional, activation.function), activation, samples(activation)[0], input)(input)
    assert output.signbit().all()


@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 5])
def test_gradient_of_prelus_weight(channels, dtype, on):
    generator = torch.Generator().manual_seed(0)
    input, grad = torch.randn(2, 40, channels, 97, dtype=torch.float64, generator=generator).to(dtype)
    input, grad = input.to(on), grad.to(on)
    weight = torch.linspace(-1, 1, channels, dtype=dtype, device=on, requires_grad=True)
    (result,) = torch.autograd.grad(functional.prelu(input, weight), weight, grad)
    terms = torch.where(input > 0, 0.0, input.double() * grad.double())
    truth, mass = terms.sum((0, 2)), terms.abs().sum((0, 2))
    # One rounding to the dtype, and one of float32 for each product and each of a sum's some ten halvings.
    allowed = 0.5 * ulp(truth, dtype) + 11 * 2.0**-24 * mass
    assert ((result.double() - truth).abs() <= allowed).all()


# The truth itself

FORMULAS = {
    "elu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x),
    "star_relu": lambda x, scale, bias: scale * max(x, 0) ** 2 + bias,
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mpmath.expm1(x)),
    "celu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x / alpha),
    "xielu": lambda x, alpha_p, alpha_n, beta: (
        (alpha_p * x * x if x > 0 else alpha_n * (mpmath.expm1(x) - x)) + beta * x
    ),
    "snake": lambda x, alpha: x + mpmath.sin(alpha * x) ** 2 / alpha,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "softsign": lambda x: x / (1 + abs(x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "quick_gelu": lambda x: x / (1 + mpmath.exp(-mpmath.mpf("1.702") * x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "softplus": lambda x, beta, threshold: x if beta * x > threshold else mpmath.log1p(mpmath.exp(beta * x)) / beta,
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "hardsigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "softmin": lambda x, dim: 1 / (1 + mpmath.exp(x)),
    "softmax": lambda x, dim: 1 / (1 + mpmath.exp(-x)),
    "log_softmax": lambda x, dim: -mpmath.log1p(mpmath.exp(-x)),
}
FORMULAS |= {unit: FORMULAS[gate] for unit, gate in accuracy.GATES.items()}

# Subnormal, tiny, around 1, where float32 and 16-bit types saturate or underflow, huge; the kinks are added.
MAGNITUDES = [1e-42, 1e-30, 1e-20, 2e-8, 1e-4, 0.1, 0.5, 1.0, 2.5, 5.5, 9.0, 17.0, 40.0, 87.5, 88.7, 103.9, 1e3, 3e38]


def hard_points(activation, sample) -> list[float]:
    points = [sign * x for x in MAGNITUDES for sign in (-1, 1)]
    special = (*activation.kinks(**sample), *REFERENCES[activation.name].zero_crossings)
    points += [point + step for point in special for step in (-1e-6, 1e-6)]
    # Short numbers, so that products with short parameters are exact; and no kinks, which have no derivative.
    limit = REFERENCES[activation.name].limit(**sample)
    points = torch.tensor(points, dtype=torch.float32).tolist()
    return [x for x in points if x not in activation.kinks(**sample) and abs(x) <= limit]


def allowance(activation, point, exact, relative) -> float:
    """Of a derivative; where it crosses zero it is a difference, and has the error of its terms."""
    reference = REFERENCES[activation.name]
    crossing = reference.crosses_anywhere or any(abs(point - zero) < 0.5 for zero in reference.zero_crossings)
    return abs(exact) * relative + (2.0**-51 if crossing else 1e-300)


def by_mpmath(activation, sample, points) -> tuple[list[mpmath.mpf], list[mpmath.mpf]]:
    formula = partial(FORMULAS[activation.name], **sample)
    with mpmath.workdps(500):
        return [formula(mpmath.mpf(x)) for x in points], [mpmath.diff(formula, mpmath.mpf(x)) for x in points]


@pytest.mark.parametrize(("activation", "sample"), FORMULA_CASES)
def test_references_agree_with_mpmath(activation, sample):
    points = hard_points(activation, sample)
    x, reference = torch.tensor(points, dtype=torch.float64), REFERENCES[activation.name]
    results = reference.forward(x, **sample), reference.derivative(x, **sample)
    for result, truth in zip(results, by_mpmath(activation, sample, points), strict=True):
        for point, value, exact in zip(points, result.tolist(), truth, strict=True):
            allowed = allowance(activation, point, exact, 2.0**-40)  # 2^-16 ULP of float32
            assert abs(value - exact) <= allowed, (point, value, exact)


@pytest.mark.parametrize(("activation", "sample"), FORMULA_CASES)
def test_float64_kernels_agree_with_mpmath(activation, sample, on):
    points = hard_points(activation, sample)
    x = torch.tensor(points, dtype=torch.float64, device=on)
    output, derivative = evaluate(bind(getattr(functional, activation.function), activation, sample, x), x)
    values, slopes = by_mpmath(activation, sample, points)
    term = REFERENCES[activation.name].term
    terms = [0.0] * len(points) if term is None else term(x, **sample).abs().tolist()
    for point, value, exact, size in zip(points, output.tolist(), values, terms, strict=True):
        assert abs(value - exact) <= max(abs(exact), size) * 2.0**-51 + 1e-300, (point, value, exact)
    for point, value, exact in zip(points, derivative.tolist(), slopes, strict=True):
        allowed = 2.0**-51 if activation.saved == "output" else allowance(activation, point, exact, 2.0**-50)
        assert abs(value - exact) <= allowed, (point, value, exact)


OUTPUT_CASES = [case for case in FORMULA_CASES if case.values[0].saved == "output"]


@pytest.mark.parametrize(("activation", "sample"), OUTPUT_CASES)
def test_derivative_from_output_is_the_derivative(activation, sample):
    x, reference = torch.linspace(-5, 5, 101, dtype=torch.float64), REFERENCES[activation.name]
    derivative = activation.derivative_from_output(reference.forward(x, **sample), **sample)
    # The output is known to half an ULP, which a slope of at most 2 and two more roundings turn into 2 eps.
    atol = 2 * torch.finfo(torch.float64).eps * max(1.0, reference.scale(**sample))
    torch.testing.assert_close(derivative, reference.derivative(x, **sample), rtol=0, atol=atol)


def test_every_formula_is_checked():
    names = {case.values[0].name for case in FORMULA_CASES}
    assert names == set(REFERENCES) == set(FORMULAS)


# The measure


@pytest.mark.parametrize(
    ("value", "dtype", "spacing"),
    [
        (1.0, torch.float32, 2.0**-23),
        (1 - 2.0**-30, torch.float32, 2.0**-24),
        (-3e-39, torch.float32, 2.0**-149),
        (0.0, torch.float16, 2.0**-24),
        (-5.0, torch.bfloat16, 2.0**-5),
    ],
)
def test_ulp(value, dtype, spacing):
    assert ulp(torch.tensor([value], dtype=torch.float64), dtype).item() == spacing


def test_errors_between_numbers_and_none():
    infinity, nan = float("inf"), float("nan")
    truth = torch.tensor([nan, infinity, 1e39, nan, 1.0, 1.0, infinity], dtype=torch.float64)
    result = torch.tensor([nan, infinity, infinity, 1.0, nan, infinity, 1.0])
    expected = [0.0, 0.0, 0.0, infinity, infinity, infinity, infinity]
    assert accuracy.errors(result, truth, ulp(truth, torch.float32)).tolist() == expected


@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize(("activation", "sample"), CASES)
def test_a_wrong_kernel_is_seen(activation, sample, dtype, monkeypatch):
    ours = getattr(functional, activation.function)

    def wrong(row, function):
        right = of_one_variable(row, function)

        def curve(x, **arguments):
            output = right(x, **arguments)
            return torch.where((x > 0.8) & (x < 0.9), output * (1 + 16 * torch.finfo(dtype).eps), output)

        return curve if function is ours else right

    monkeypatch.setattr(accuracy, "of_one_variable", wrong)
    input = torch.linspace(0, 1, 50, dtype=torch.float64).to(dtype)
    for measurement in measure(activation, sample, input):
        assert not measurement.held
        assert 0.8 < measurement.input < 0.9
