"""The functions: torch.nn.functional's, with the same arguments, running fastact's kernels where they can.

All take tensors of any shape. The kernels are for float32, float64, float16 and bfloat16 on the CPU or a GPU; 16-bit
types compute in float32 and round once. Any other input, and any argument that torch refuses, goes to torch's function
and gives its result or error (`fastact.path` lists the cases). TorchScript compiles torch's function alone: a branch
under `not is_scripting()`, standing by itself, does not exist for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import is_scripting

from .autograd import apply, apply_prelu
from .catalogue import ACTIVATIONS
from .path import operand_is_plain, takes_kernel

__all__ = ["elu", "leaky_relu", "prelu", "relu", "rrelu", "sigmoid", "softsign", "tanh"]

_RELU = ACTIVATIONS["relu"]
_LEAKY_RELU = ACTIVATIONS["leaky_relu"]
_RRELU = ACTIVATIONS["rrelu"]
_ELU = ACTIVATIONS["elu"]
_SIGMOID = ACTIVATIONS["sigmoid"]
_TANH = ACTIVATIONS["tanh"]
_SOFTSIGN = ACTIVATIONS["softsign"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Rectified linear unit, :math:`\max(0, x)`, with derivative 1 for :math:`x > 0`, else 0.

    Saves one bit per element for backward. NaN stays NaN, and lets the gradient through, as in torch.

    Nair & Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines".
    """
    if not is_scripting():
        if takes_kernel("relu", input, inplace=inplace):
            return apply(_RELU, input, inplace)
    return F.relu(input, inplace=inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    r"""Leaky rectifier: :math:`x` for :math:`x > 0`, else ``negative_slope`` :math:`\cdot\, x`.

    Saves one bit per element for backward. In place, any slope has a right gradient (torch refuses negative ones).

    Maas, Hannun & Ng 2013, "Rectifier Nonlinearities Improve Neural Network Acoustic Models".
    """
    if not is_scripting():
        if takes_kernel("leaky_relu", input, negative_slope, inplace=inplace):
            return apply(_LEAKY_RELU, input, inplace, negative_slope)
    return F.leaky_relu(input, negative_slope, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    r"""Parametric rectifier: :math:`x` for :math:`x > 0`, else ``weight`` :math:`\cdot\, x`, ``weight`` learned.

    ``weight`` holds one slope, or one per channel (dimension 1 of ``input``). Saves the input and the weight for
    backward, which computes both gradients in one pass and sums the weight's in float64 on the CPU.

    He et al. 2015, "Delving Deep into Rectifiers".
    """
    if not is_scripting():
        if takes_kernel("prelu", input, learns=getattr(weight, "requires_grad", False)) and _is_slope(weight, input):
            if torch.is_autocast_enabled(input.device.type) and input.dtype != torch.float64:
                dtype = torch.get_autocast_dtype(input.device.type)  # as torch's autocast does for prelu
                input, weight = input.to(dtype), weight.to(dtype)
            if input.dtype == weight.dtype:
                return apply_prelu(input, weight)
    return F.prelu(input, weight)


def _is_slope(weight: Tensor, input: Tensor) -> bool:
    return (
        operand_is_plain(weight, input)
        and weight.dim() <= 1
        and weight.is_contiguous()
        and (weight.numel() == 1 or (input.dim() >= 2 and weight.numel() == input.size(1)))
    )


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    r"""Randomised leaky rectifier: :math:`x` for :math:`x > 0`, else :math:`a x`.

    In training, :math:`a` is drawn for each element, uniformly between ``lower`` and ``upper``; in evaluation it is
    their mean. The slopes come from Philox with a seed from torch's generator for the input's device: repeatable under
    ``torch.manual_seed``, though not the numbers that torch's own function draws. Saves one bit per element and the
    seed for backward.

    Xu et al. 2015, "Empirical Evaluation of Rectified Activations in Convolutional Network".
    """
    if not is_scripting():
        if takes_kernel("rrelu", input, lower, upper, inplace=inplace) and lower <= upper:
            if training:
                return apply(_RRELU, input, inplace, lower, upper)
            return apply(_LEAKY_RELU, input, inplace, (lower + upper) / 2)
    return F.rrelu(input, lower, upper, training, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    r"""Exponential linear unit: :math:`x` for :math:`x > 0`, else ``alpha`` :math:`(e^x - 1)`.

    Saves the output for backward, from which the derivative follows (:math:`y + \alpha` where :math:`y \le 0`). The
    next layer mostly keeps it too; torch saves the input. Two consequences: overwriting the output in place makes
    backward raise, as with sigmoid and tanh; and the derivative's error is absolute, about the output's own rounding,
    so that its far left tail has no digits. A negative ``alpha`` goes to torch.

    Clevert, Unterthiner & Hochreiter 2016, "Fast and Accurate Deep Network Learning by Exponential Linear Units".
    """
    if not is_scripting():
        if takes_kernel("elu", input, alpha, inplace=inplace) and alpha >= 0:
            return apply(_ELU, input, inplace, alpha)
    return F.elu(input, alpha, inplace)


def sigmoid(input: Tensor) -> Tensor:
    r"""Logistic sigmoid, :math:`1 / (1 + e^{-x})`, with derivative :math:`y (1 - y)`.

    Saves the output for backward. The left tail keeps full precision down to the smallest numbers.

    Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", on where it
    saturates.
    """
    if not is_scripting():
        if takes_kernel("sigmoid", input):
            return apply(_SIGMOID, input, False)
    return torch.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    r"""Hyperbolic tangent, with derivative :math:`1 - y^2`.

    Saves the output for backward.

    LeCun, Bottou, Orr & Müller 1998, "Efficient BackProp".
    """
    if not is_scripting():
        if takes_kernel("tanh", input):
            return apply(_TANH, input, False)
    return torch.tanh(input)


def softsign(input: Tensor) -> Tensor:
    r"""Softsign, :math:`x / (1 + |x|)`, with derivative :math:`1 / (1 + |x|)^2`.

    Saves the input for backward. Infinite inputs give NaN, as in torch.

    Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks".
    """
    if not is_scripting():
        if takes_kernel("softsign", input):
            return apply(_SOFTSIGN, input, False)
    return F.softsign(input)
