"""The functions: torch.nn.functional's, with the same arguments, running fastact's kernels where they can.

The kernels are for float32, float64, float16 and bfloat16 on the CPU and on GPUs, and for tensors of any shape and
memory layout. Any other input, and any argument that torch refuses, goes to torch's function and gives its result or
its error (`fastact.dispatch` lists the cases).

Under autocast on a GPU dtypes are torch's, which widens some activations to float32. Under autocast on the CPU learned
tensors stay in float32, and beside a 16-bit input the result has the input's dtype, as with torch's PReLU.

TorchScript compiles torch's function alone: it drops a branch under `not is_scripting()` only if that condition stands
by itself.

`fastact.docstrings` completes the docstrings: formula, shapes, dtypes, what is saved for backward and the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import is_scripting

from .composites import bilinear as _bilinear
from .composites import geglu as _geglu
from .composites import maxout as _maxout
from .composites import quick_gelu as _quick_gelu
from .composites import reglu as _reglu
from .composites import snake as _snake
from .composites import squared_relu as _squared_relu
from .composites import star_relu as _star_relu
from .composites import swiglu as _swiglu
from .composites import xielu as _xielu
from .dispatch import (
    accepts,
    as_autocast,
    autocast_dtype,
    contiguous,
    divides,
    is_like,
    keeps_dtype,
    rounded,
    softmax_dtype,
    softmax_input,
    takes,
    takes_all,
    takes_gated,
    weights_fit,
)
from .ops import BIASED, draw_seed, reference, run


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the rectified linear unit to each element.

    NaN stays NaN, and lets the gradient through, as in torch.

    Examples:
        >>> fastact.functional.relu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """
    if not is_scripting():
        if takes(input):
            return (run.relu_ if inplace else run.relu)(input)
    return F.relu(input, inplace=inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Apply the leaky rectifier to each element.

    In place, the gradient is right for any slope. (torch refuses negative slopes there.)

    Args:
        negative_slope: the slope for negative inputs, any number.

    Examples:
        >>> fastact.functional.leaky_relu(torch.tensor([-1.0, 2.0]), negative_slope=0.1)
        tensor([-0.1000,  2.0000])
    """
    if not is_scripting():
        if takes(input) and accepts("leaky_relu", input, negative_slope):
            return (run.leaky_relu_ if inplace else run.leaky_relu)(input, negative_slope)
    return F.leaky_relu(input, negative_slope, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Apply the leaky rectifier with a learned slope to each element.

    Backward computes both gradients in one pass. On the CPU it sums the weight's gradient in float64.

    Args:
        weight: the slope for negative inputs, one or one per channel.

    Raises:
        RuntimeError: if the size of `weight` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.functional.prelu(torch.tensor([[-1.0, -1.0]]), weight=torch.tensor([0.25, 0.5]))
        tensor([[-0.2500, -0.5000]])
    """
    if not is_scripting():
        if takes_all(input, weight):
            dtype = autocast_dtype(input)
            if dtype is not None:  # as torch's autocast does for prelu
                input, weight = input.to(dtype), weight.to(dtype)
            if weights_fit(input, weight):
                return run.prelu(input, weight)
    return F.prelu(input, weight)


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Apply the leaky rectifier with a random slope to each element.

    In training each element draws its own slope; in evaluation all have the mean of `lower` and `upper`. A seed from
    torch's generator for the input's device decides the draws, so `torch.manual_seed` makes them repeatable. They are
    not the numbers that torch's own function draws.

    Args:
        lower: the least slope for negative inputs.
        upper: the largest slope, at least `lower`.
        training: whether to draw slopes.

    Raises:
        RuntimeError: if `lower` is above `upper`.

    Examples:
        >>> fastact.functional.rrelu(torch.tensor([-1.0, 2.0]), lower=0.1, upper=0.3)
        tensor([-0.2000,  2.0000])
    """
    if not is_scripting():
        if takes(input) and accepts("rrelu", input, lower, upper):
            if training:
                seed = draw_seed(input)
                if inplace:
                    return run.rrelu_(input, seed, lower, upper)
                return contiguous(run.rrelu(input, seed, lower, upper))
            return (run.leaky_relu_ if inplace else run.leaky_relu)(input, (lower + upper) / 2)
    return F.rrelu(input, lower, upper, training, inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Replace each element that is not above a threshold by a fixed value.

    Args:
        threshold: elements above it stay as they are.
        value: what replaces the others.

    Examples:
        >>> fastact.functional.threshold(torch.tensor([-1.0, 0.5, 2.0]), threshold=1.0, value=-3.0)
        tensor([-3., -3.,  2.])
    """
    if not is_scripting():
        if takes(input) and accepts("threshold", input, threshold, value):
            return (run.threshold_ if inplace else run.threshold)(input, threshold, value)
    return F.threshold(input, threshold, value, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Clamp each element to an interval.

    Args:
        min_val: the least output.
        max_val: the largest output, at least `min_val`.

    Raises:
        ValueError: if `min_val` is above `max_val`.

    Examples:
        >>> fastact.functional.hardtanh(torch.tensor([-3.0, 0.5, 3.0]), min_val=-1.0, max_val=2.0)
        tensor([-1.0000,  0.5000,  2.0000])
    """
    if not is_scripting():
        if takes(input) and accepts("hardtanh", input, min_val, max_val):
            return (run.hardtanh_ if inplace else run.hardtanh)(input, min_val, max_val)
    return F.hardtanh(input, min_val, max_val, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the rectified linear unit, capped at 6, to each element.

    Examples:
        >>> fastact.functional.relu6(torch.tensor([-1.0, 2.0, 9.0]))
        tensor([0., 2., 6.])
    """
    if not is_scripting():
        if takes(input):
            return (run.relu6_ if inplace else run.relu6)(input)
    return F.hardtanh(input, 0.0, 6.0, inplace)


def squared_relu(input: Tensor) -> Tensor:
    """Apply the square of the rectified linear unit to each element.

    Examples:
        >>> fastact.functional.squared_relu(torch.tensor([-1.0, 3.0]))
        tensor([0., 9.])
    """
    if not is_scripting():
        input = as_autocast("squared_relu", input)
        if takes(input):
            return run.squared_relu(input)
    return _squared_relu(input)


def star_relu(input: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Apply the squared rectifier with a learned scale and bias to each element.

    Of normal inputs, a scale of 0.8944 and a bias of -0.4472 make outputs with mean 0 and variance 1. Backward computes
    all three gradients in one pass.

    Args:
        scale: the factor, one or one per channel, in the input's dtype.
        bias: what is added, one or one per channel, in the input's dtype.

    Raises:
        RuntimeError: if the size of `scale` or `bias` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.functional.star_relu(torch.tensor([-1.0, 3.0]), torch.tensor([2.0]), torch.tensor([-1.0]))
        tensor([-1., 17.])
    """
    if not is_scripting():
        input = as_autocast("star_relu", input)
        if takes_all(input, scale, bias) and weights_fit(input, scale, bias):
            return run.star_relu(input, scale, bias)
        if keeps_dtype(input, scale, bias):
            return _star_relu(input.float(), scale.float(), bias.float()).to(input.dtype)
    return _star_relu(input, scale, bias)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Apply the exponential linear unit to each element.

    torch saves the input where this saves the output. That has two consequences. A program that overwrites the output
    in place gets autograd's error in backward, as it does behind sigmoid and tanh. And the derivative is as exact as
    the output is, so that it has no digits left far in the left tail, where it is next to 0.

    Args:
        alpha: minus the limit for large negative inputs. A negative one goes to torch.

    Examples:
        >>> fastact.functional.elu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.6321,  0.0000,  2.0000])
    """
    if not is_scripting():
        if takes(input) and accepts("elu", input, alpha):
            return (run.elu_ if inplace else run.elu)(input, alpha)
    return F.elu(input, alpha, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the scaled exponential linear unit to each element.

    What saving the output means for a program stands at `elu`.

    Examples:
        >>> fastact.functional.selu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-1.1113,  0.0000,  2.1014])
    """
    if not is_scripting():
        if takes(input):
            return (run.selu_ if inplace else run.selu)(input)
    return F.selu(input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Apply the continuously differentiable exponential linear unit to each element.

    What saving the output means for a program stands at `elu`.

    Args:
        alpha: minus the limit for large negative inputs, from 2^-60 to 2^60. Any other goes to torch.

    Raises:
        RuntimeError: if `alpha` is 0.

    Examples:
        >>> fastact.functional.celu(torch.tensor([-1.0, 0.0, 2.0]), alpha=2.0)
        tensor([-0.7869,  0.0000,  2.0000])
    """
    if not is_scripting():
        if takes(input) and accepts("celu", input, alpha):
            return (run.celu_ if inplace else run.celu)(input, alpha)
    return F.celu(input, alpha, inplace)


def xielu(input: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float = 0.5) -> Tensor:
    """Apply the expanded integral of the exponential linear unit, with learned coefficients, to each element.

    Backward computes all three gradients in one pass.

    Args:
        alpha_p: the learned coefficient for positive inputs, one or one per channel, in the input's dtype. The paper
            keeps it above 0, as `fastact.XIELU` does.
        alpha_n: the learned coefficient for negative inputs, likewise. The paper keeps it above `beta`.
        beta: the slope at 0.

    Raises:
        RuntimeError: if the size of `alpha_p` or `alpha_n` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.functional.xielu(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.8]), torch.tensor([0.8]))
        tensor([-0.2057,  0.0000,  4.2000])
    """
    if not is_scripting():
        input = as_autocast("xielu", input)
        if (
            takes_all(input, alpha_p, alpha_n)
            and accepts("xielu", input, beta)
            and weights_fit(input, alpha_p, alpha_n)
        ):
            return run.xielu(input, alpha_p, alpha_n, beta)
        if keeps_dtype(input, alpha_p, alpha_n):
            return _xielu(input.float(), alpha_p.float(), alpha_n.float(), beta).to(input.dtype)
    return _xielu(input, alpha_p, alpha_n, beta)


def sigmoid(input: Tensor) -> Tensor:
    """Apply the logistic sigmoid to each element.

    The left tail keeps its digits down to the smallest normal number.

    Examples:
        >>> fastact.functional.sigmoid(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1192, 0.5000, 0.8808])
    """
    if not is_scripting():
        if takes(input):
            return run.sigmoid(input)
    return torch.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Apply the hyperbolic tangent to each element.

    Examples:
        >>> fastact.functional.tanh(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.7616,  0.0000,  0.7616])
    """
    if not is_scripting():
        if takes(input):
            return run.tanh(input)
    return torch.tanh(input)


def softsign(input: Tensor) -> Tensor:
    """Apply softsign to each element.

    An infinite input gives NaN, as in torch.

    Examples:
        >>> fastact.functional.softsign(torch.tensor([-1.0, 0.0, 3.0]))
        tensor([-0.5000,  0.0000,  0.7500])
    """
    if not is_scripting():
        if takes(input):
            return run.softsign(input)
    return F.softsign(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the sigmoid made of three straight lines to each element.

    Examples:
        >>> fastact.functional.hardsigmoid(torch.tensor([-3.0, 0.0, 1.5]))
        tensor([0.0000, 0.5000, 0.7500])
    """
    if not is_scripting():
        if takes(input):
            return (run.hardsigmoid_ if inplace else run.hardsigmoid)(input)
    return F.hardsigmoid(input, inplace)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the sigmoid linear unit, also known as swish, to each element.

    The left tails of the function and of its derivative keep their digits down to the smallest normal number.

    Examples:
        >>> fastact.functional.silu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.2689,  0.0000,  1.7616])
    """
    if not is_scripting():
        if takes(input):
            return (run.silu_ if inplace else run.silu)(input)
    return F.silu(input, inplace)


def quick_gelu(input: Tensor) -> Tensor:
    """Apply the approximation of GELU by a sigmoid, as CLIP uses it, to each element.

    Examples:
        >>> fastact.functional.quick_gelu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1542,  0.0000,  1.9357])
    """
    if not is_scripting():
        if takes(input):
            return run.quick_gelu(input)
    return _quick_gelu(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Apply the Gaussian error linear unit to each element.

    In both forms the left tails of the function and of its derivative keep their digits, all of which torch's lose.
    On the CPU, but for float64, they end where the output is 2^-63: both are zero below.

    Args:
        approximate: "none", or "tanh" for the approximation by the hyperbolic tangent.

    Raises:
        RuntimeError: if `approximate` is another string.

    Examples:
        >>> fastact.functional.gelu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1587,  0.0000,  1.9545])
    """
    if not is_scripting():
        if approximate == "none" and takes(input):
            return run.gelu(input)
        if approximate == "tanh" and takes(input):
            return run.gelu_tanh(input)
    return F.gelu(input, approximate=approximate)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply mish to each element.

    The function and its derivative are computed from one exponential.

    Examples:
        >>> fastact.functional.mish(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.3034,  0.0000,  1.9440])
    """
    if not is_scripting():
        if takes(input):
            return (run.mish_ if inplace else run.mish)(input)
    return F.mish(input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply the SiLU whose sigmoid is made of three straight lines to each element.

    Examples:
        >>> fastact.functional.hardswish(torch.tensor([-1.0, 1.0, 4.0]))
        tensor([-0.3333,  0.6667,  4.0000])
    """
    if not is_scripting():
        if takes(input):
            return (run.hardswish_ if inplace else run.hardswish)(input)
    return F.hardswish(input, inplace)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Set each element near zero to zero, and leave the others as they are.

    Args:
        lambd: elements up to this size become zero. It is rounded to the input's dtype, as in torch. A negative one
            goes to torch.

    Examples:
        >>> fastact.functional.hardshrink(torch.tensor([-1.0, 0.3, 2.0]), lambd=0.5)
        tensor([-1.,  0.,  2.])
    """
    if not is_scripting():
        if takes(input) and accepts("hardshrink", input, lambd):
            return run.hardshrink(input, rounded(lambd, input))
    return F.hardshrink(input, lambd)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Move each element towards zero by a fixed amount, and those that are nearer to zero.

    In 16 bits the derivative is that of the value, which takes `lambd` as it is. torch's backward compares with `lambd`
    rounded to the dtype.

    Args:
        lambd: the amount, at least 0.

    Raises:
        RuntimeError: if `lambd` is negative.

    Examples:
        >>> fastact.functional.softshrink(torch.tensor([-1.0, 0.25, 2.0]), lambd=0.5)
        tensor([-0.5000,  0.0000,  1.5000])
    """
    if not is_scripting():
        if takes(input) and accepts("softshrink", input, lambd):
            return run.softshrink(input, lambd)
    return F.softshrink(input, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    """Subtract its hyperbolic tangent from each element.

    Near zero the result keeps its digits. It is about x^3 / 3 there, of which the difference of the two has none.

    Examples:
        >>> fastact.functional.tanhshrink(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.2384,  0.0000,  1.0360])
    """
    if not is_scripting():
        if takes(input):
            return run.tanhshrink(input)
    return F.tanhshrink(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Apply softplus, a smooth rectifier, to each element.

    Args:
        beta: how sharp the bend is. A `beta` whose size is not between 2^-60 and 2^60 goes to torch.
        threshold: where `beta` times the input is above it, the output is the input.

    Examples:
        >>> fastact.functional.softplus(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0.3133, 0.6931, 2.1269])
    """
    if not is_scripting():
        input = as_autocast("softplus", input)
        if takes(input) and accepts("softplus", input, beta, threshold):
            return run.softplus(input, beta, threshold)
    return F.softplus(input, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """Apply the logarithm of the sigmoid to each element.

    Saving the output costs the derivative no digits.

    Examples:
        >>> fastact.functional.logsigmoid(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-2.1269, -0.6931, -0.1269])
    """
    if not is_scripting():
        if takes(input):
            return run.logsigmoid(contiguous(input))
    return F.logsigmoid(input)


def snake(input: Tensor, alpha: Tensor) -> Tensor:
    """Add a learned periodic part to each element.

    Up to a size of alpha x of 2^15 (in float64: 2^20) the result has all its digits. From eight times that on, the
    periodic part is left out: it is less than 2^-18 of the input by then. Backward computes both gradients in one pass.

    Args:
        alpha: the frequency, one or one per channel, in the input's dtype, and not 0.

    Raises:
        RuntimeError: if the size of `alpha` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.functional.snake(torch.tensor([-1.0, 0.0, 2.0]), alpha=torch.tensor([0.5]))
        tensor([-0.5403,  0.0000,  3.4161])
    """
    if not is_scripting():
        input = as_autocast("snake", input)
        if takes_all(input, alpha) and weights_fit(input, alpha):
            return run.snake(input, alpha)
        if keeps_dtype(input, alpha):
            return _snake(input.float(), alpha.float()).to(input.dtype)
    return _snake(input, alpha)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Apply softmax to the negative of the input along a dimension, in the same pass.

    Args:
        dim: the dimension. Without it, torch chooses one and warns.
        dtype: converts the input to this dtype first, within the same pass from 16 bits to float32.

    Raises:
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.softmin(torch.tensor([0.0, 1.0, 2.0]), dim=0)
        tensor([0.6652, 0.2447, 0.0900])
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.softmin(contiguous(input if dtype is None else softmax_input(input, dtype)), dim, kept)
    return F.softmin(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Make probabilities of the elements along a dimension.

    Rows with an infinite maximum, or with NaN, become NaN, as in torch.

    Differences from the maximum are exact, and sums have more than the dtype's precision. So a float32 result keeps its
    digits however small it is and however long the row is.

    Args:
        dim: the dimension. Without it, torch chooses one and warns.
        dtype: converts the input to this dtype first, within the same pass from 16 bits to float32.

    Raises:
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.softmax(torch.tensor([0.0, 1.0, 2.0]), dim=0)
        tensor([0.0900, 0.2447, 0.6652])
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.softmax(contiguous(input if dtype is None else softmax_input(input, dtype)), dim, kept)
    return F.softmax(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Make logarithms of probabilities of the elements along a dimension.

    The maximum's own 1 is kept apart from the sum of the others. So the logarithm keeps its digits where one class is
    all but certain.

    Args:
        dim: the dimension. Without it, torch chooses one and warns.
        dtype: converts the input to this dtype first, within the same pass from 16 bits to float32.

    Raises:
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.log_softmax(torch.tensor([0.0, 1.0, 2.0]), dim=0)
        tensor([-2.4076, -1.4076, -0.4076])
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.log_softmax(contiguous(input if dtype is None else softmax_input(input, dtype)), dim, kept)
    return F.log_softmax(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Multiply the first half of the input by the sigmoid of the second.

    Backward writes the gradients of both halves in one pass.

    Args:
        dim: the dimension along which the input is split.

    Shape:
        The size along `dim` is even. The output has half of it.

    Raises:
        RuntimeError: if the size along `dim` is odd.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.glu(torch.tensor([1.0, 2.0, 0.0, 0.0]))
        tensor([0.5000, 1.0000])
    """
    if not is_scripting():
        if takes_gated(input, None, dim):
            return run.glu_packed(input, dim, False)
    return F.glu(input, dim)


def swiglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    """Multiply a value by the SiLU of a gate.

    With one tensor, value and gate are its halves along `dim`. With two, `input` is the value and `gate` the gate, as
    in LLaMA's `swiglu(up_proj(x), gate_proj(x))`.

    Backward computes the function of the gate again, and writes the gradients of value and gate in one pass.

    Args:
        dim: the dimension along which one tensor is split. It means nothing for two.

    Raises:
        RuntimeError: if the size along `dim` of one tensor is odd, or the shapes of two do not broadcast.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> value, gate = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])
        >>> fastact.functional.swiglu(value, gate)
        tensor([0.0000, 3.5232])
        >>> fastact.functional.swiglu(torch.cat([value, gate]))
        tensor([0.0000, 3.5232])
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.swiglu_packed(input, dim, bool(gate_first)) if gate is None else run.swiglu(input, gate)
    return _swiglu(input, gate, dim, gate_first)


def geglu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, approximate: str = "none", gate_first: bool = False
) -> Tensor:
    """Multiply a value by the GELU of a gate.

    Where value and gate come from stands at `swiglu`. Backward writes the gradients of both in one pass.

    Args:
        dim: the dimension along which one tensor is split. It means nothing for two.
        approximate: "none", or "tanh" for GELU's approximation by the hyperbolic tangent.

    Raises:
        RuntimeError: if the size along `dim` of one tensor is odd, the shapes of two do not broadcast, or `approximate`
            is another string.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.geglu(torch.tensor([1.0, 2.0]), gate=torch.tensor([0.0, 2.0]))
        tensor([0.0000, 3.9090])
    """
    if not is_scripting():
        if approximate == "none" and takes_gated(input, gate, dim):
            return run.geglu_packed(input, dim, bool(gate_first)) if gate is None else run.geglu(input, gate)
        if approximate == "tanh" and takes_gated(input, gate, dim):
            return run.geglu_tanh_packed(input, dim, bool(gate_first)) if gate is None else run.geglu_tanh(input, gate)
    return _geglu(input, gate, dim, approximate, gate_first)


def reglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    """Multiply a value by the ReLU of a gate.

    Where value and gate come from stands at `swiglu`. Backward writes the gradients of both in one pass.

    Args:
        dim: the dimension along which one tensor is split. It means nothing for two.

    Raises:
        RuntimeError: if the size along `dim` of one tensor is odd, or the shapes of two do not broadcast.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.reglu(torch.tensor([1.0, 2.0]), gate=torch.tensor([-1.0, 2.0]))
        tensor([0., 4.])
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.reglu_packed(input, dim, bool(gate_first)) if gate is None else run.reglu(input, gate)
    return _reglu(input, gate, dim, gate_first)


def bilinear(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    """Multiply a value by a gate.

    This is not `torch.nn.functional.bilinear`, a layer with a weight. Where value and gate come from stands at
    `swiglu`. Backward writes the gradients of both in one pass.

    Args:
        dim: the dimension along which one tensor is split. It means nothing for two.

    Raises:
        RuntimeError: if the size along `dim` of one tensor is odd, or the shapes of two do not broadcast.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.bilinear(torch.tensor([1.0, 2.0]), gate=torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.bilinear_packed(input, dim, bool(gate_first)) if gate is None else run.bilinear(input, gate)
    return _bilinear(input, gate, dim, gate_first)


def maxout(input: Tensor, pieces: int, dim: int = -1) -> Tensor:
    """Take the largest of each group of neighbours along a dimension.

    Only the largest of a group gets gradient. Of equals it is the first, and where there is NaN the first NaN, as in
    `torch.max`.

    Args:
        pieces: the size of a group, from 2 to 255.
        dim: the dimension along which the groups lie.

    Raises:
        ValueError: if `pieces` is not from 2 to 255.
        RuntimeError: if the size along `dim` is not a multiple of `pieces`.
        IndexError: if the input has no dimension `dim`.

    Examples:
        >>> fastact.functional.maxout(torch.tensor([1.0, 3.0, -2.0, -1.0]), pieces=2)
        tensor([ 3., -1.])
    """
    if not is_scripting():
        if takes(input) and divides(input, dim, pieces) and pieces <= 255:
            return run.maxout(input, pieces, dim)
    return _maxout(input, pieces, dim)


def bias_act(
    input: Tensor, bias: Tensor, residual: Tensor | None = None, activation: str = "gelu", **arguments: float
) -> Tensor:
    """Apply an activation between its neighbours in one pass: f(input + bias) + residual.

    Backward computes the gradients of input and bias in one pass.

    Args:
        input: any shape.
        bias: what is added before the activation, one number or one per channel (dimension 1 of `input`).
        residual: what is added behind it, of the input's shape; by default nothing.
        activation: the name of an activation that works element by element, as the functions here have it, or
            "gelu_tanh".
        **arguments: the activation's numbers, such as `negative_slope`; by default the function's defaults.

    Shape:
        The output has the input's.

    Dtypes:
        float32, float64, float16 and bfloat16 run fastact's kernels, on the CPU and on GPUs. 16-bit types compute in
        float32 and round once. Any other goes to torch's ops.

    Saved for backward:
        One bit per element where the activation itself saves no more, else `input` and `bias`. Never the sum, the
        activation's output or `residual`.

    Raises:
        ValueError: if no such activation has the name.
        TypeError: if the activation has no such argument.
        RuntimeError: if the shapes do not fit.

    Examples:
        >>> input, bias, residual = torch.randn(8, 16, 4, 4), torch.randn(16), torch.randn(8, 16, 4, 4)
        >>> output = fastact.functional.bias_act(input, bias, residual, "leaky_relu", negative_slope=0.1)
        >>> expected = nn.functional.leaky_relu(input + bias.view(-1, 1, 1), 0.1) + residual
        >>> torch.allclose(output, expected, atol=1e-6)
        True
    """
    op = BIASED.get(activation)
    if op is None:
        raise ValueError(f"bias_act: activation must be one of {', '.join(BIASED)}, got {activation!r}")
    scalars = tuple({**op.activation.samples[0], **arguments}.values())
    if len(scalars) != len(op.activation.scalars):
        raise TypeError(f"bias_act: {activation} takes {op.activation.scalars}, got {tuple(arguments)}")
    if takes_all(input, bias) and weights_fit(input, bias) and accepts(activation, input, *scalars):
        if residual is None or (takes_all(input, residual) and is_like(residual, input)):
            return getattr(run, op.name)(input, bias, residual, *scalars)
    inputs = (input, bias, residual)
    if keeps_dtype(input, bias):
        wide = tuple(each.float() if isinstance(each, Tensor) else each for each in inputs)
        return reference(op, wide, scalars).to(input.dtype)
    return reference(op, inputs, scalars)
