"""How far results are from the truth, and how far they may be: measured alike by the tests and by `validate`.

An activation that is linear by parts must give torch's result, bit for bit. For every other one the truth is a float64
formula (`REFERENCES`), and errors are counted in ULPs: the spacing of the result's dtype at the true value, which below
the smallest normal number is the smallest subnormal one. The bounds:

=========================  ==================  =================================================
                           float32             float16, bfloat16
=========================  ==================  =================================================
forward                    2 ULP (GPU: 4)      0.51 ULP
derivative, input saved    4 ULP               0.51 ULP
derivative, output saved   2^-23 times scale   0.51 (ULP of it + |d'(y)| times the ULP of y)
=========================  ==================  =================================================

- Near a point where the derivative crosses zero it is a difference of numbers of the order of 1, and no digits are left
  to count: an ULP is taken to be 2^-24 at least there, so that 4 of them are 2^-22.
- A derivative d(y) that comes from the saved output y loses absolute precision with y. In float32, y is known to some
  2^-24 of the largest output, which `scale` stands for where a parameter stretches it. A 16-bit y has been rounded, by
  0.51 ULP at most, as the forward is bound to be. That moves d(y) by 0.51 ULP of y times the slope of d, before d is
  rounded itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional
from ..catalogue import SELU_ALPHA, SELU_SCALE, Activation, of_one_variable
from ..enable import torch_kernels
from ..gpu import runs_on_gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

FORWARD_ULPS = 2.0
FORWARD_ULPS_GPU = 4.0
DERIVATIVE_ULPS = 4.0
DERIVATIVE_FROM_OUTPUT = 2.0**-23
ROUNDED_ULPS = 0.51

NEAR_ZERO_CROSSING = 0.5  # how far from it cancellation is allowed for
LEAST_ULP_THERE = 2.0**-24

_VECTORS = 64  # elements in a step of torch's vector code on the CPU, at most
_ONE_THREADS_SHARE = 1 << 15  # elements that torch does not divide among threads


@dataclass(frozen=True)
class Reference:
    """The truth about one activation: functions of a float64 tensor and the activation's parameters.

    Written so that float64 keeps its digits in the tails and near zero; the tests hold them against mpmath, and
    differentiate `forward` where torch's own function will not do in float64.
    """

    forward: Callable[..., Tensor]
    derivative: Callable[..., Tensor]
    scale: Callable[..., float] = lambda **parameters: 1.0
    """Of the output below which the derivative is computed from it."""
    zero_crossings: tuple[float, ...] = ()
    """Of the derivative."""
    crosses_anywhere: bool = False
    """Whether the derivative crosses zero, or touches it, at places that the parameters decide."""
    limit: Callable[..., float] = lambda **parameters: math.inf
    """Of |x|, up to which the bounds hold."""
    term: Callable[..., Tensor] | None = None
    """The size of the terms where the value is a difference that crosses zero: its ULPs are those of the largest."""
    difference: bool = False
    """Whether a value that vanishes is +0, as in torch: a difference of equal numbers, or a sum with +0."""
    zero_below: float = -math.inf
    """The input below which a result may be zero: the value is below 2^-63 there (csrc/activations/self_gated.h)."""


def _self_gated(
    forward: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    zero_crossing: float,
    zero_below: float = -math.inf,
) -> Reference:
    """At infinity they have their limits: float64 has vanished, or is 1, long before the bounds that are put here."""
    return Reference(
        lambda x: forward(x.clamp(min=-1e4)),
        lambda x: derivative(x.clamp(-1e4, 1e4)),
        zero_crossings=(zero_crossing,),
        zero_below=zero_below,
    )


def _expm1_minus(x: Tensor) -> Tensor:
    """e^x - 1 - x, near zero from its series."""
    near, rest = x.clamp(-1, 1), torch.zeros_like(x)
    for n in range(20, 2, -1):
        rest = near / n * (1 + rest)
    return torch.where(x.abs() < 1, near * near / 2 * (1 + rest), x.expm1() - x)


def _tanhshrink(x: Tensor) -> Tensor:
    """Near zero from Lambert's continued fraction x / (1 + q) of tanh, q = x^2 / (3 + x^2 / (5 + ...))."""
    square, q = x.clamp(-2, 2) ** 2, torch.zeros_like(x)
    for odd in range(41, 1, -2):
        q = square / (odd + q)
    return torch.where(x.abs() < 2, x * q / (1 + q), x - x.tanh())


def _gated(x: Tensor, v: Tensor) -> Tensor:
    """x times the sigmoid of v, written so that autograd's derivative keeps the digits of sigmoid(-v)."""
    return x * F.logsigmoid(v).exp()


def _gated_derivative(v: Tensor, slope: Tensor) -> Tensor:
    """`slope` is x v'."""
    return v.sigmoid() * (1 + slope * (-v).sigmoid())


def _gelu_tanh_exponent(x: Tensor) -> Tensor:
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    return 2 * math.sqrt(2 / math.pi) * (x + 3 * 0.044715 * x**3)


def _normal(x: Tensor) -> Tensor:
    return torch.special.erfc(-x / math.sqrt(2)) / 2


def _mish_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """e^x and n = e^x (e^x + 2), with which tanh(log(1 + e^x)) is n / (n + 2); from 40 on that is 1."""
    e = x.clamp(max=40).exp()
    return e, e * (e + 2)


def _mish(x: Tensor) -> Tensor:
    _, n = _mish_parts(x)
    return x * n / (n + 2)


def _mish_derivative(x: Tensor) -> Tensor:
    e, n = _mish_parts(x)
    return n / (n + 2) + x.clamp(max=40) * 4 * e * (e + 1) / (n + 2) ** 2


def _softmax(x: Tensor) -> Tensor:
    """Of the pair x and 0. An infinite maximum makes NaN."""
    return torch.exp(x - x.clamp(min=0)) / (1 + torch.exp(-x.abs()))


REFERENCES: dict[str, Reference] = {
    "elu": Reference(
        lambda x, alpha: torch.where(x > 0, x, alpha * x.expm1()),
        lambda x, alpha: torch.where(x > 0, 1.0, alpha * x.exp()),
        scale=lambda alpha: alpha,
    ),
    "star_relu": Reference(
        lambda x, scale, bias: scale * x.clamp(min=0) ** 2 + bias,
        lambda x, scale, bias: 2 * scale * x.clamp(min=0),
        term=lambda x, scale, bias: torch.full_like(x, bias),
    ),
    "selu": Reference(
        lambda x: SELU_SCALE * torch.where(x > 0, x, SELU_ALPHA * x.expm1()),
        lambda x: SELU_SCALE * torch.where(x > 0, 1.0, SELU_ALPHA * x.exp()),
        scale=lambda: SELU_SCALE * SELU_ALPHA,
    ),
    "celu": Reference(
        # Not clamp, whose derivative at 0 changes with torch 2.14.
        lambda x, alpha: torch.where(x > 0, x, alpha * (torch.where(x > 0, 0.0, x) / alpha).expm1()),
        lambda x, alpha: torch.where(x > 0, 1.0, (x / alpha).exp()),
    ),
    "xielu": Reference(
        lambda x, alpha_p, alpha_n, beta: torch.where(x > 0, alpha_p * x * x, alpha_n * _expm1_minus(x)) + beta * x,
        lambda x, alpha_p, alpha_n, beta: torch.where(x > 0, 2 * alpha_p * x, alpha_n * x.expm1()) + beta,
        crosses_anywhere=True,
        term=lambda x, alpha_p, alpha_n, beta: beta * x,
        difference=True,
        limit=lambda alpha_p, alpha_n, beta: 2.0**125,  # terms overflow before their difference does
    ),
    "sigmoid": Reference(lambda x: x.sigmoid(), lambda x: x.sigmoid() * (-x).sigmoid()),
    "tanh": Reference(lambda x: x.tanh(), lambda x: x.cosh() ** -2),
    "softsign": Reference(lambda x: x / (1 + x.abs()), lambda x: (1 + x.abs()) ** -2),
    "hardsigmoid": Reference(lambda x: F.relu6(x + 3) / 6, lambda x: (x.abs() < 3).to(x.dtype) / 6),
    "silu": _self_gated(lambda x: _gated(x, x), lambda x: _gated_derivative(x, x), -1.278464543),
    "quick_gelu": _self_gated(
        lambda x: _gated(x, 1.702 * x), lambda x: _gated_derivative(1.702 * x, 1.702 * x), -0.751154256
    ),
    "gelu": _self_gated(
        lambda x: x * _normal(x),
        lambda x: _normal(x) + x * (-x * x / 2).exp() / math.sqrt(2 * math.pi),
        -0.751791525,
        zero_below=-9.2453,
    ),
    "gelu_tanh": _self_gated(
        lambda x: _gated(x, _gelu_tanh_exponent(x)),
        lambda x: _gated_derivative(_gelu_tanh_exponent(x), _gelu_tanh_slope(x)),
        -0.752461421,
        zero_below=-7.7593,
    ),
    "mish": _self_gated(_mish, _mish_derivative, -1.192436),
    "hardswish": Reference(
        lambda x: x * (x + 3).clamp(0, 6) / 6,
        lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5)),
        zero_crossings=(-1.5,),
    ),
    "tanhshrink": Reference(_tanhshrink, lambda x: x.tanh() ** 2, difference=True),
    "softplus": Reference(
        lambda x, beta, threshold: torch.where(beta * x > threshold, x, -F.logsigmoid(-beta * x) / beta),
        lambda x, beta, threshold: torch.where(beta * x > threshold, 1.0, (beta * x).sigmoid()),
    ),
    "logsigmoid": Reference(F.logsigmoid, lambda x: (-x).sigmoid()),
    "softmin": Reference(lambda x, dim: _softmax(-x), lambda x, dim: -x.sigmoid() * (-x).sigmoid()),
    "softmax": Reference(lambda x, dim: _softmax(x), lambda x, dim: x.sigmoid() * (-x).sigmoid()),
    "log_softmax": Reference(
        lambda x, dim: x - x.clamp(min=0) - torch.log1p(torch.exp(-x.abs())),
        lambda x, dim: (-x).sigmoid(),
        difference=True,
    ),
    "snake": Reference(
        lambda x, alpha: x + (alpha * x).sin() ** 2 / alpha,
        lambda x, alpha: 2 * (alpha * x + math.pi / 4).sin() ** 2,
        crosses_anywhere=True,
        term=lambda x, alpha: x,
        limit=lambda alpha: 2.0**15 / alpha,
    ),
}
GATES = {
    "glu": "sigmoid",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "swiglu": "silu",
}
"""Of gated units whose truth is their gate's, with a value of 1."""
REFERENCES |= {unit: REFERENCES[gate] for unit, gate in GATES.items()}


def is_exact(activation: Activation) -> bool:
    """Whether results must be torch's bit for bit: the activation is linear by parts."""
    return activation.name not in REFERENCES


def samples(activation: Activation) -> tuple[dict[str, Any], ...]:
    """The catalogue's arguments to try, with a low and a high value of what is learned."""
    if not activation.weights:
        return activation.samples
    return tuple({**sample, **activation.weight_values(end)} for sample in activation.samples for end in (0, 1))


# Inputs


def bit_patterns(dtype: torch.dtype, start: int, stop: int, device: str = "cpu") -> Tensor:
    """The numbers with these bit patterns: all there are for 0 and 2^16 or 2^32."""
    integer = torch.int16 if dtype.itemsize == 2 else torch.int32
    return torch.arange(start, stop, device=device).to(integer).view(dtype)


def random_inputs(activation: Activation, sample: dict[str, Any], count: int, seed: int = 0) -> Tensor:
    """About `count` float32 numbers: random bit patterns, most of them where curves bend, and special values."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, count: int) -> Tensor:
        first, last = torch.tensor([low, high]).view(torch.int32).tolist()
        numbers = torch.randint(first, last + 1, (count,), dtype=torch.int32, generator=generator).view(torch.float32)
        return numbers * (torch.randint(0, 2, (count,), generator=generator) * 2 - 1)

    info = torch.finfo(torch.float32)
    least = info.smallest_normal
    special = torch.tensor([float("nan"), float("inf"), info.max, least, least * info.eps, 0.0])
    points = {0.0, *activation.kinks(**sample)}
    if activation.name in REFERENCES:
        points.update(REFERENCES[activation.name].zero_crossings)
    quarter = count // 4
    return torch.cat(
        [
            special,
            -special,
            between(0.0, info.max, quarter),
            between(0.0, 100.0, quarter),
            between(2.0**-8, 128.0, quarter),
            *(point + between(2.0**-24, 0.5, quarter // len(points)) for point in sorted(points)),
        ]
    )


# Errors


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of `dtype` around float64 values."""
    info = torch.finfo(dtype)
    power_of_two = (value.view(torch.int64) & 0x7FF0_0000_0000_0000).view(torch.float64)  # the exponent alone
    return power_of_two.clamp(min=info.smallest_normal) * info.eps


def flushed(
    result: Tensor, truth: Tensor, input: Tensor, difference: bool = False, zero_below: float = -math.inf
) -> Tensor:
    """Where a zero of the true value's sign (or +0, of a difference) is right: the value, or the input, is below the
    smallest normal number, or was rounded to below it, or the input is below `zero_below`.

    The CPU's kernels flush such results (csrc/simd/flush_to_zero.h). float16's subnormal numbers are none in float32,
    where they are computed: those are kept."""
    if result.dtype is torch.float16:
        return torch.zeros_like(result, dtype=torch.bool)
    smallest = torch.finfo(result.dtype).smallest_normal * (1 + DERIVATIVE_ULPS * torch.finfo(torch.float32).eps)
    right_sign = ~result.signbit() if difference else result.signbit() == truth.signbit()
    vanishes = (truth.abs() < smallest) | (input.double() < zero_below)
    return (result == 0) & (vanishes & right_sign | (input.abs() < smallest))


def errors(result: Tensor, truth: Tensor, unit: Tensor | float) -> Tensor:
    """The errors of the result against float64 values; infinite where one is NaN or infinite and the other is not."""
    wrong = (result.double() - truth).abs() / unit
    if not wrong.sum().isfinite():  # one pass, where as a rule there is nothing to look at
        odd = ~wrong.isfinite()
        result, truth = result[odd], truth[odd]
        met = (result.double() == truth) | (result.isnan() & truth.isnan())
        met |= result.isinf() & (result == truth.to(result.dtype))  # beyond the largest number of the dtype
        wrong[odd] = torch.where(met, 0.0, torch.inf).to(wrong.dtype)
    return wrong


def _exact_errors(result: Tensor, expected: Tensor, input: Tensor) -> Tensor:
    """In ULPs, at least 1 where any bit differs: the sign of a zero counts, the payload of a NaN does not."""
    integer = torch.int16 if result.dtype.itemsize == 2 else torch.int32
    if torch.equal(result.view(integer), expected.view(integer)):
        return torch.zeros(1, device=result.device).expand_as(result)
    truth = expected.double()
    same = (result.view(integer) == expected.view(integer)) | (result.isnan() & expected.isnan())
    same |= flushed(result, truth, input)
    return torch.where(same, 0.0, errors(result, truth, ulp(truth, result.dtype)).clamp(min=1))


@dataclass(frozen=True)
class Measurement:
    """The largest error found of one activation, in one direction and dtype, and its bound."""

    activation: str
    direction: str
    """"forward" or "derivative"."""
    dtype: str
    error: float
    bound: float
    unit: str
    """What error and bound count: "ulp", "2^-23" (times scale) or "ulp+y": an ULP, and what one of y comes to."""
    sample: dict[str, Any]
    input: float
    result: float
    expected: float

    @property
    def held(self) -> bool:
        return self.error <= self.bound

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value:g}" for name, value in self.sample.items())
        relation = "<=" if self.held else ">"
        return (
            f"{self.activation}({arguments}) {self.direction} {self.dtype}: error {self.error:.4g} {relation} "
            f"{self.bound:.4g} {self.unit} at x = {self.input!r}: {self.result!r}, not {self.expected!r}"
        )


def evaluate(function: Callable[[Tensor], Tensor], input: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives, the latter through autograd."""
    input = input.detach().requires_grad_()
    output = function(input)
    (derivative,) = torch.autograd.grad(output, input, torch.ones_like(output))
    return output.detach(), derivative


def _by_vectors(function: Callable[[Tensor], Tensor], input: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives as torch's vector code has them. Where a thread's share of a tensor ends scalar code takes
    over, which gives Softshrink's zeros the input's sign."""
    count = input.numel()
    pieces = F.pad(input, (0, -count % _VECTORS)).split(_ONE_THREADS_SHARE)
    outputs, derivatives = zip(*(evaluate(function, piece) for piece in pieces), strict=True)
    return torch.cat(outputs)[:count], torch.cat(derivatives)[:count]


def bind(
    function: Callable[..., Tensor], activation: Activation, sample: dict[str, Any], input: Tensor
) -> Callable[[Tensor], Tensor]:
    """The activation's function, here or in torch, of one variable."""
    arguments = {
        name: torch.tensor([value], dtype=input.dtype, device=input.device) if name in activation.weights else value
        for name, value in sample.items()
    }
    return partial(of_one_variable(activation, function), **arguments, **activation.keywords)


def measure(activation: Activation, sample: dict[str, Any], input: Tensor) -> tuple[Measurement, Measurement]:
    """The largest errors of the kernels' forward and derivative at the inputs."""
    results = evaluate(bind(getattr(functional, activation.function), activation, sample, input), input)
    return judge(activation, sample, input, *results)


@torch_kernels()
def judge(
    activation: Activation, sample: dict[str, Any], input: Tensor, output: Tensor, derivative: Tensor
) -> tuple[Measurement, Measurement]:
    """The largest errors of these outputs and derivatives, in the units and bounds of the input's dtype."""

    def worst(direction: str, result: Tensor, truth: Tensor, error: Tensor, bound: float, unit: str) -> Measurement:
        at = error.argmax()
        numbers = (float(each[at]) for each in (input, result, truth))
        dtype = str(input.dtype).removeprefix("torch.")
        return Measurement(activation.name, direction, dtype, float(error[at]), bound, unit, sample, *numbers)

    if activation.random:
        forward, backward = _random_truth(sample, input, output, derivative)
    elif is_exact(activation):
        torch_output, torch_derivative = _by_vectors(bind(activation.reference, activation, sample, input), input)
        # At NaN torch's own vector and scalar code differ (Hardtanh's).
        torch_derivative = torch.where(input.isnan(), derivative, torch_derivative)
        forward = torch_output, _exact_errors(output, torch_output, input), 0.0, "ulp"
        backward = torch_derivative, _exact_errors(derivative, torch_derivative, input), 0.0, "ulp"
    else:
        forward, backward = _formula_truth(activation, sample, input, output, derivative)
    return worst("forward", output, *forward), worst("derivative", derivative, *backward)


_Judged = tuple[Tensor, Tensor, float, str]  # truth, errors, their bound, its unit


def _formula_truth(
    activation: Activation, sample: dict[str, Any], input: Tensor, output: Tensor, derivative: Tensor
) -> tuple[_Judged, _Judged]:
    reference, dtype = REFERENCES[activation.name], input.dtype
    parameters = {
        name: torch.tensor(value, dtype=dtype if name in activation.weights else torch.float32).item()
        for name, value in sample.items()
    }
    x = input.double()
    true_output, true_derivative = reference.forward(x, **parameters), reference.derivative(x, **parameters)
    if not input.isfinite().all():
        special = ~input.isfinite()
        # torch's conventions are the truth, but for its NaN where the formula has a limit. Its derivative at infinity
        # may be NaN by accident, and at NaN depends on whether a vector or the scalar end of a loop met it: these are
        # not judged.
        stock = bind(activation.reference, activation, sample, input)
        torch_output, torch_derivative = evaluate(stock, input[special])
        if activation.limits_at_infinity:
            torch_derivative = torch.where(torch_derivative.isnan(), true_derivative[special], torch_derivative)
        accident = torch_derivative.isnan() | input[special].isnan()
        true_output[special] = torch.where(torch_output.isnan(), true_output[special], torch_output.double())
        true_derivative[special] = torch.where(accident, derivative[special], torch_derivative).double()

    largest = true_output
    if reference.term is not None:
        largest = torch.maximum(true_output.abs(), reference.term(x, **parameters).abs())
    forward_bound = FORWARD_ULPS_GPU if runs_on_gpu(input) else FORWARD_ULPS
    bound, unit, size = DERIVATIVE_ULPS, "ulp", ulp(true_derivative, dtype)
    if dtype is not torch.float32:
        forward_bound = bound = ROUNDED_ULPS
    if activation.saved == "output" and dtype is torch.float32:
        bound, unit = 1.0, "2^-23"
        size = torch.full_like(size, DERIVATIVE_FROM_OUTPUT * reference.scale(**parameters))
    elif activation.saved == "output":
        unit, size = "ulp+y", size + ulp(true_output, dtype) * _slope(activation, true_output, parameters)
    elif dtype is torch.float32:
        if reference.crosses_anywhere:
            size = size.clamp(min=LEAST_ULP_THERE)
        for point in reference.zero_crossings:
            size = torch.where((x - point).abs() < NEAR_ZERO_CROSSING, size.clamp(min=LEAST_ULP_THERE), size)
    forward_errors = errors(output, true_output, ulp(largest, dtype))
    zeros = flushed(output, true_output, input, reference.difference, reference.zero_below)
    forward_errors.masked_fill_(zeros, 0)
    derivative_errors = errors(derivative, true_derivative, size)
    zeros = flushed(derivative, true_derivative, input, zero_below=reference.zero_below)
    derivative_errors.masked_fill_(zeros, 0)
    if activation.saved == "output":  # that of a subnormal input may be 0
        derivative_errors.masked_fill_((output == 0) & (input.abs() < torch.finfo(dtype).smallest_normal), 0)
    limit = reference.limit(**parameters)
    if limit < math.inf:
        beyond = input.isfinite() & (x.abs() > limit)
        forward_errors.masked_fill_(beyond, 0)
        derivative_errors.masked_fill_(beyond, 0)
    return (
        (true_output, forward_errors, forward_bound, "ulp"),
        (true_derivative, derivative_errors, bound, unit),
    )


def _slope(activation: Activation, output: Tensor, parameters: dict[str, float]) -> Tensor:
    """How fast the derivative changes with the output from which it is computed."""
    assert activation.derivative_from_output is not None
    _, slope = evaluate(partial(activation.derivative_from_output, **parameters), output)
    return slope.abs()


def _random_truth(sample: dict[str, Any], input: Tensor, output: Tensor, derivative: Tensor) -> tuple[_Judged, _Judged]:
    """RReLU in training: the slope must lie between the limits (rounding may reach the upper one), and be the value's.

    A 16-bit derivative is a rounded slope, and the value comes from the slope before that: it is known to half an ULP
    of the slope times x, or exactly if the limits leave no choice.
    """
    dtype = input.dtype
    limits = torch.tensor(sorted(sample.values()), dtype=torch.float32, device=input.device)
    low, high = limits.to(dtype).double()
    negative = input <= 0
    true_slope = torch.where(negative, derivative.double().clamp(low, high), 1.0)
    slope = limits[0] if limits[0] == limits[1] else derivative.float()
    if dtype is torch.float32 or limits[0] == limits[1]:
        true_output = torch.where(negative, input.float() * slope, input.float()).to(dtype)
        forward = true_output.double(), _exact_errors(output, true_output, input), 0.0, "ulp"
    else:
        x = input.double()
        true_output = torch.where(negative, x * slope, x)
        size = ulp(true_output, dtype) + x.abs() * ulp(true_slope, dtype)
        wrong = errors(output, true_output, size).masked_fill_(flushed(output, true_output, input), 0)
        forward = true_output, wrong, ROUNDED_ULPS, "ulp+y"
    return forward, (true_slope, errors(derivative, true_slope, ulp(true_slope, dtype)), 0.0, "ulp")
