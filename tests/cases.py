"""The catalogue as test cases: each activation with each of its sample arguments, on each kind of input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastact.functional as F
from fastact import libraries
from fastact.catalogue import ACTIVATIONS, Activation, of_one_variable
from fastact.tools.accuracy import REFERENCES

needs_nodes = pytest.mark.skipif(not libraries.HAS_NODES, reason="torch's ops are replaced in C++")
"""Of what `enable`, `recompute` and `saved` do: it does not exist where nodes are in Python."""

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Of rows, where torch takes the logarithm of a rounded sum."""
    input = input if dtype is None else input.to(dtype)
    if input.numel() == 0:
        return nn.functional.log_softmax(input, dim)
    x = input - input.detach().amax(dim, keepdim=True)
    at_peak = x == 0  # where exp(x) is 1: all of these but one are added, the one is log1p's
    others = torch.where(at_peak, x.expm1(), x.exp()).sum(dim, keepdim=True) + (at_peak.sum(dim, keepdim=True) - 1)
    return x - torch.log1p(others)


TRUTH: dict[str, Callable[..., Tensor]] = {
    "hardsigmoid": REFERENCES["hardsigmoid"].forward,
    "celu": lambda input, alpha=1.0: REFERENCES["celu"].forward(input, alpha),
    "gelu_tanh": lambda input, approximate: REFERENCES["gelu_tanh"].forward(input),
    "log_softmax": log_softmax,
}
"""Where torch's own function will not do in float64: the first two compute their gradients with a float32 constant,
Hardsigmoid has no second derivative, GELU's approximation cancels in its left tail, and LogSoftmax takes the logarithm
of a rounded sum."""


def _complement(v: Tensor, magnified: Tensor) -> Tensor:
    """What is magnified, up to where 1 - sigma(v) rounds to 0: from there on it is exact."""
    return torch.where(v.abs() < math.log(4 / torch.finfo(v.dtype).eps), magnified.abs(), 0.0)


def _silu(x: Tensor) -> Tensor:
    return _complement(x, 3 / 4 * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    a, b = 2 * math.sqrt(2 / math.pi), 0.044715
    return _complement(a * (x + b * x**3), 5 / 16 * a * (x + 3 * b * x**3))


def _softmax(x: Tensor) -> Tensor:
    weights, distances = x.softmax(-1), x.amax(-1, keepdim=True) - x
    return weights * (distances + 2 * (weights * distances).sum(-1, keepdim=True) + 4.5)


TORCH_ERROR: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": _silu,
    "quick_gelu": lambda x: _silu(1.702 * x),
    "gelu_tanh": _gelu_tanh,
    "mish": lambda x: _complement(2 * x, 5 / 4 * x),
    "glu": lambda x: torch.full_like(x, 0.75),
    "swiglu": _silu,
    "geglu_tanh": _gelu_tanh,
    "snake": lambda x: ACTIVATIONS["snake"].weights["alpha"][1] * x.abs(),
    "xielu": lambda x: torch.full_like(x, ACTIVATIONS["xielu"].weights["alpha_n"][1]),
    "softmin": lambda x: _softmax(-x),
    "softmax": _softmax,
}
"""What the derivatives that torch's ops compute lose by cancellation, in eps of their dtype, at each input:

- The derivative of x sigma(v) is sigma (1 + x v' (1 - sigma)). Near 1 sigma is known to 3/4 eps: half of one from the
  rounding of 1 + e^-v, a quarter from its own. 1 - sigma has that as an absolute error, magnified by x v', which is v
  in SiLU and QuickGELU. In GLU the value, 1 here, magnifies it.
- Mish and GELU's approximation have 1 - t^2, with a tanh t known to half an eps and its square to 5/4. Mish magnifies
  that by x, the other by x v' / 4, where t is 2 sigma(v) - 1.
- Snake's alpha x is rounded, by |alpha x| eps / 2, in sin(2 alpha x), which changes twice as fast.
- xIELU's e^x - 1 is made of itself plus 1 minus 1, each known to half an eps; alpha_n magnifies it.
- Softmax's e^(x - peak) have relative errors of eps / 2 times the distance d from the peak, y one of (d + D) eps / 2
  where D is the sum of y d. To these, exponential, sum and quotient add half an eps each. What makes r eps of y makes
  y (d + 2 D) eps, and 3 r y eps where it is the same for all, of y (g - sum of g y) for |g| <= 1.
"""


def truth(row: Activation, dtype: torch.dtype) -> Callable[..., Tensor]:
    """What an activation computes, in torch's ops."""
    return TRUTH.get(row.name, row.reference) if dtype == torch.float64 else row.reference


@dataclass(frozen=True)
class Case:
    """An activation with arguments. `dim`, where it has one, is the last, and `randn` and `input` make the input wide
    enough to be divided along it."""

    activation: Activation
    sample: Mapping[str, Any]
    per_channel: bool = False

    def __str__(self) -> str:
        label = ",".join(f"{name}={value:g}" for name, value in self.sample.items())
        return f"{self.activation.name}({label}{'per channel' if self.per_channel else ''})"

    @property
    def deterministic(self) -> bool:
        """Whether torch draws the same: not random, or random between equal bounds."""
        return not self.activation.random or self.sample["lower"] == self.sample["upper"]

    def torch_error(self, input: Tensor, grad: float) -> float:
        """How far the gradients of torch's ops may be off beyond a few eps of the inputs' dtype, with 16-bit ones
        widened, for incoming gradients up to `grad` and, of a gated unit, a value of 1."""
        bound = TORCH_ERROR.get(self.activation.name)
        if bound is None or input.numel() == 0:
            return 0.0
        wide = input.detach().double() if input.dtype == torch.float64 else input.detach().float()
        return grad * torch.finfo(wide.dtype).eps * bound(wide).max().item()

    @property
    def scalars(self) -> tuple[float, ...]:
        """The scalar arguments of the op."""
        return tuple(self.sample[name] for name in self.activation.scalars)

    @property
    def divisor(self) -> int:
        """By how much the output is shorter than the input."""
        return self.activation.divisor_with(self.sample)

    def shape(self, *shape: int) -> tuple[int, ...]:
        return (*shape[:-1], shape[-1] * self.divisor) if shape else shape

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
        """Normal numbers of which the activation makes an output of this shape."""
        return torch.randn(self.shape(*shape), dtype=torch.float64).to(dtype).to(device)

    def input(self, layout: str, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
        shape, arrange = LAYOUTS[layout]
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(self.shape(*shape), generator=generator, dtype=torch.float64) * 3
        return arrange(values.to(dtype).to(device))

    def layouts(self) -> list[str]:
        """The layouts that suit the activation."""
        if self.activation.pointwise:
            return [name for name, (shape, _) in LAYOUTS.items() if not self.per_channel or len(shape) > 1]
        shapes = {name: self.input(name, torch.float32, "cpu").shape for name in LAYOUTS}
        return [name for name, shape in shapes.items() if shape and shape[-1] % self.divisor == 0]

    def weights(self, input: Tensor) -> tuple[Tensor, ...]:
        """The learned tensors that go with this input."""
        count = input.shape[1] if self.per_channel and input.dim() > 1 else 1
        values = (
            torch.linspace(low, high, count + 1, dtype=torch.float64)[1:]
            for low, high in self.activation.weights.values()
        )
        return tuple(each.to(input.dtype).to(input.device) for each in values)

    def fastact(self, input: Tensor, *weights: Tensor, **more: Any) -> Tensor:
        function = getattr(F, self.activation.function)
        keywords = {**self.sample, **self.activation.keywords, **more}
        return function(input, *(weights or self.weights(input)), **keywords)

    def torch(self, input: Tensor, *weights: Tensor, **more: Any) -> Tensor:
        arguments = (input, *(weights or self.weights(input)))
        keywords = {**self.sample, **self.activation.keywords, **more}
        try:
            return truth(self.activation, input.dtype)(*arguments, **keywords)
        except NotImplementedError:  # torch has no float16 RReLU on the CPU
            wide = (argument.float() for argument in arguments)
            return self.activation.reference(*wide, **keywords).to(input.dtype)

    def stock(self, input: Tensor, *weights: Tensor, **more: Any) -> Tensor:
        """torch's own function, with whatever it lacks."""
        arguments = (input, *(weights or self.weights(input)))
        return self.activation.reference(*arguments, **self.sample, **self.activation.keywords, **more)

    def both(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        return self.fastact, self.torch

    def curves(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Both as functions of one variable."""
        ours, theirs = (partial(of_one_variable(self.activation, each), **self.sample) for each in self.both())
        return ours, theirs

    def value(self, input: Tensor) -> float:
        """What a gated unit multiplies the errors of the gate's derivative by: its values, at least 1."""
        return max(1.0, input.abs().max().item()) if self.activation.kind == "gated" and input.numel() else 1.0

    def terms(self, input: Tensor, grad: Tensor) -> float:
        """A bound of the sum of the terms of learned tensors' gradients: sums that may cancel have an error relative to
        it."""
        x = input.double().abs()
        return (grad.double().abs() * (1 + x + x * x)).sum().item()

    def gradients_summed(self, grad: Tensor) -> float:
        """The size of what is summed of the incoming gradients for each that leaves, where that has no weights below 1:
        LogSoftmax's gradient has an error relative to it."""
        if self.activation.name != "log_softmax" or grad.numel() == 0:
            return 1.0
        return max(1.0, grad.double().abs().sum(self.sample["dim"]).max().item())


CASES = [
    Case(activation, sample, per_channel)
    for activation in ACTIVATIONS.values()
    for sample in activation.samples
    for per_channel in ((False, True) if activation.weights else (False,))
]
DETERMINISTIC = [case for case in CASES if case.deterministic]
DEFAULTS = [next(case for case in CASES if case.activation is activation) for activation in ACTIVATIONS.values()]
"""One case per activation: its default arguments."""


def _loops(case: Case) -> tuple[Any, ...]:
    row = case.activation
    return row.kind, row.saved, row.random, len(row.weights)


LOOPS = [case for i, case in enumerate(DEFAULTS) if _loops(case) not in map(_loops, DEFAULTS[:i])]
"""One case for each way through autograd and the loops, for what does not depend on the formula."""


def kernel(op: str) -> Callable[..., Any]:
    """The op as it runs on the device under test."""
    return getattr(torch.ops.fastact, op).default


def cpp_kernel(op: str) -> Callable[..., Any]:
    """The op's C++ kernel, for CPU tensors, also where those go down the emulated GPU's path."""

    def run(*arguments: Any) -> Any:
        before = torch.ops.fastact.emulate_gpu(False)
        try:
            return kernel(op)(*arguments)
        finally:
            torch.ops.fastact.emulate_gpu(before)

    return run


def run_kernels(case: Case, op: Callable[[str], Callable[..., Any]], x: Tensor, grad: Tensor) -> list[Tensor]:
    """Everything that the kernels give for an input and the output's gradient. `op` finds one by the op's name."""
    row, scalars = case.activation, case.scalars
    forward, backward = op(row.name), op(f"{row.name}_backward")
    if row.kind == "channelwise":
        weights = [tensor.clone() for tensor in case.weights(x)]  # aligned, as parameters are
        return [forward(x, *weights, *scalars), *backward(grad, x, *weights, *scalars)]
    if row.kind == "softmax":
        y = forward(x, case.sample["dim"], x.dtype)
        return [y, backward(grad.to(y.dtype), y, case.sample["dim"], x.dtype)]
    if row.kind == "gated":
        results = []
        for halves in (x.chunk(2, -1), [half.contiguous() for half in x.chunk(2, -1)]):
            results += forward(*halves), *backward(grad, *halves)
        packed, packed_backward = op(f"{row.name}_packed"), op(f"{row.name}_packed_backward")
        return [*results, packed(x, -1, False), packed_backward(grad, x, -1, False)]
    if row.kind == "maxout":
        y, indices = op(f"{row.name}_indices")(x, *scalars, -1)
        return [y, indices, backward(grad, indices, *scalars, -1), forward(x, *scalars, -1)]
    if row.random:
        scalars = (torch.tensor(2**62 + 12345, device=x.device), *scalars)
    y = forward(x, *scalars)
    if row.saved != "mask":
        saved = y if row.saved == "output" else x
        return [y, backward(torch.empty_like(y).copy_(grad), saved, *scalars)]
    same, mask = op(f"{row.name}_mask")(x, *scalars)
    return [y, backward(torch.empty_like(y).copy_(grad), mask, *scalars), mask, same]


def _strided(tensor: Tensor) -> Tensor:
    """The same values as every other element of a larger tensor."""
    wide = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _first_half(tensor: Tensor) -> Tensor:
    return tensor[..., : tensor.shape[-1] // 2]


def _chunk(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor)], dim=-1).chunk(2, dim=-1)[0]


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "0-d": ((), lambda x: x),
    "empty": ((0,), lambda x: x),
    "empty 2-d": ((3, 0), lambda x: x),
    "one": ((1,), lambda x: x),
    "odd": ((7, 3, 11), lambda x: x),
    "63": ((63,), lambda x: x),
    "65": ((65,), lambda x: x),
    "several blocks": ((9001,), lambda x: x),
    "unaligned": ((1001,), lambda x: x[1:]),
    "transposed": ((6, 40), lambda x: x.t()),
    "transposed 4-d": ((4, 6, 5, 8), lambda x: x.transpose(1, 3)),
    "channels_last": ((2, 5, 6, 7), lambda x: x.to(memory_format=torch.channels_last)),
    "channels_last_3d": ((2, 3, 4, 5, 3), lambda x: x.to(memory_format=torch.channels_last_3d)),
    "chunk": ((5, 128), _chunk),
    "chunk of narrow rows": ((40, 24), _chunk),
    "chunk 3-d": ((3, 4, 96), _chunk),
    "rows": ((12, 200), lambda x: x[::2]),
    "rows of 67": ((6, 134), _first_half),
    "every other": ((5, 33), _strided),
    "every other row, transposed": ((6, 40), lambda x: x.t()[::2]),
    "expanded": ((4, 1), lambda x: x[:, :1].expand(4, 72)),
    "expanded rows": ((1, 64), lambda x: x.expand(5, -1)),
    "sliced channels_last": ((2, 6, 5, 5), lambda x: x.to(memory_format=torch.channels_last)[:, 1:5]),
    "slice of middle": ((4, 6, 64), lambda x: x[:, 1:4]),
}


def _within(larger: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Puts the values into the beginning of a larger tensor, beyond which is NaN."""

    def arrange(tensor: Tensor) -> Tensor:
        around = torch.full(larger, math.nan, dtype=tensor.dtype, device=tensor.device)
        return around[tuple(slice(0, size) for size in tensor.shape)].copy_(tensor)

    return arrange


SHAPE = (4, 2, 128)
ARRANGEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "unaligned": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
    "rows of 128": _within((4, 2, 192)),
    "rows of 128, further apart": _within((4, 2, 256)),
    "rows of 256": _within((4, 3, 128)),
    "rows at two distances": _within((4, 3, 192)),
    "rows of 128 in another order": lambda x: _within((2, 4, 192))(x.transpose(0, 1)).transpose(0, 1),
    "last dimension outermost": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
}
"""One shape in memory in many ways, each with the same values."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """With so many of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SPECIAL = (
    0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1e-40, -1e-40, 1.1754944e-38, -1.1754944e-38,
    1e-20, -1e-20, 1.0, -1.0, 20.0, -20.0, 88.0, -88.0, 88.8, -88.8, 103.0, -103.0, 200.0, -200.0,
    3.4028235e38, -3.4028235e38,
)  # fmt: skip
"""Zeros, infinities, NaN, subnormals, and both sides of where exponentials overflow and vanish."""
