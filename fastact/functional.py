"""The functions: torch.nn.functional's, with the same arguments, running fastact's kernels where they can.

All take tensors of any shape. The kernels are for float32, float64, float16 and bfloat16 on the CPU or a GPU; 16-bit
types compute in float32 and round once. Any other input, and any argument that torch refuses, goes to torch's function
and gives its result or error (`fastact.dispatch` lists the cases).

Under autocast on a GPU dtypes are torch's, which widens some activations to float32. Under autocast on the CPU learned
tensors stay in float32, and beside a 16-bit input the result has the input's dtype, as with torch's PReLU.

TorchScript compiles torch's function alone: a branch under `not is_scripting()`, standing by itself, does not exist for
it.
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
    r"""Rectified linear unit, :math:`\max(0, x)`, with derivative 1 for :math:`x > 0`, else 0.

    Saves one bit per element for backward. NaN stays NaN, and lets the gradient through, as in torch.

    Nair & Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines".
    """
    if not is_scripting():
        if takes(input):
            return (run.relu_ if inplace else run.relu)(input)
    return F.relu(input, inplace=inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    r"""Leaky rectifier: :math:`x` for :math:`x > 0`, else ``negative_slope`` :math:`\cdot\, x`.

    Saves one bit per element for backward. In place, any slope has a right gradient (torch refuses negative ones).

    Maas, Hannun & Ng 2013, "Rectifier Nonlinearities Improve Neural Network Acoustic Models".
    """
    if not is_scripting():
        if takes(input) and accepts("leaky_relu", input, negative_slope):
            return (run.leaky_relu_ if inplace else run.leaky_relu)(input, negative_slope)
    return F.leaky_relu(input, negative_slope, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    r"""Parametric rectifier: :math:`x` for :math:`x > 0`, else ``weight`` :math:`\cdot\, x`, ``weight`` learned.

    ``weight`` holds one slope, or one per channel (dimension 1 of ``input``). Saves the input and the weight for
    backward, which computes both gradients in one pass and sums the weight's in float64 on the CPU.

    He et al. 2015, "Delving Deep into Rectifiers".
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
    r"""Randomised leaky rectifier: :math:`x` for :math:`x > 0`, else :math:`a x`.

    In training, :math:`a` is drawn for each element, uniformly between ``lower`` and ``upper``; in evaluation it is
    their mean. The slopes come from Philox with a seed from torch's generator for the input's device: repeatable under
    ``torch.manual_seed``, though not the numbers that torch's own function draws. Saves one bit per element and the
    seed for backward.

    Xu et al. 2015, "Empirical Evaluation of Rectified Activations in Convolutional Network".
    """
    if not is_scripting():
        if takes(input) and accepts("rrelu", input, lower, upper):
            if training:
                return (run.rrelu_ if inplace else run.rrelu)(input, draw_seed(input.device), lower, upper)
            return (run.leaky_relu_ if inplace else run.leaky_relu)(input, (lower + upper) / 2)
    return F.rrelu(input, lower, upper, training, inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    r"""Threshold: :math:`x` for :math:`x >` ``threshold``, else ``value``; derivative 1 or 0.

    Saves one bit per element for backward.

    Hinge of the rectifiers: Nair & Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines".
    """
    if not is_scripting():
        if takes(input) and accepts("threshold", input, threshold, value):
            return (run.threshold_ if inplace else run.threshold)(input, threshold, value)
    return F.threshold(input, threshold, value, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    r"""Hard tanh: :math:`x` clamped to [``min_val``, ``max_val``]; derivative 1 strictly between them, else 0.

    Saves one bit per element for backward.

    Collobert 2004, "Large Scale Machine Learning".
    """
    if not is_scripting():
        if takes(input) and accepts("hardtanh", input, min_val, max_val):
            return (run.hardtanh_ if inplace else run.hardtanh)(input, min_val, max_val)
    return F.hardtanh(input, min_val, max_val, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    r"""ReLU capped at 6, :math:`\min(\max(0, x), 6)`; derivative 1 strictly between 0 and 6, else 0.

    Saves one bit per element for backward.

    Krizhevsky 2010, "Convolutional Deep Belief Networks on CIFAR-10"; Howard et al. 2017, "MobileNets".
    """
    if not is_scripting():
        if takes(input):
            return (run.relu6_ if inplace else run.relu6)(input)
    return F.hardtanh(input, 0.0, 6.0, inplace)


def squared_relu(input: Tensor) -> Tensor:
    r"""Squared ReLU, :math:`\max(0, x)^2`, with derivative :math:`2 \max(0, x)`.

    Saves the input for backward.

    So et al. 2021, "Primer: Searching for Efficient Transformers for Language Modeling".
    """
    if not is_scripting():
        input = as_autocast("squared_relu", input)
        if takes(input):
            return run.squared_relu(input)
    return _squared_relu(input)


def star_relu(input: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    r"""StarReLU, ``scale`` :math:`\cdot \max(0, x)^2 +` ``bias``, both learned.

    ``scale`` and ``bias`` hold one number each, or one per channel (dimension 1 of ``input``), in its dtype. 0.8944 and
    -0.4472 keep mean 0 and variance 1 of normal inputs. Saves the input, ``scale`` and ``bias`` for backward, which
    computes all three gradients in one pass.

    Yu et al. 2024, "MetaFormer Baselines for Vision".
    """
    if not is_scripting():
        input = as_autocast("star_relu", input)
        if takes_all(input, scale, bias) and weights_fit(input, scale, bias):
            return run.star_relu(input, scale, bias)
        if keeps_dtype(input, scale, bias):
            return _star_relu(input.float(), scale.float(), bias.float()).to(input.dtype)
    return _star_relu(input, scale, bias)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    r"""Exponential linear unit: :math:`x` for :math:`x > 0`, else ``alpha`` :math:`(e^x - 1)`.

    Saves the output for backward, from which the derivative follows (:math:`y + \alpha` where :math:`y \le 0`). The
    next layer mostly keeps it too; torch saves the input. Two consequences: overwriting the output in place makes
    backward raise, as with sigmoid and tanh; and the derivative's error is absolute, about the output's own rounding,
    so that its far left tail has no digits. A negative ``alpha`` goes to torch.

    Clevert, Unterthiner & Hochreiter 2016, "Fast and Accurate Deep Network Learning by Exponential Linear Units".
    """
    if not is_scripting():
        if takes(input) and accepts("elu", input, alpha):
            return (run.elu_ if inplace else run.elu)(input, alpha)
    return F.elu(input, alpha, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Scaled exponential linear unit: :math:`s x` for :math:`x > 0`, else :math:`s \alpha (e^x - 1)`, with
    :math:`\alpha` = 1.6733 and :math:`s` = 1.0507.

    Saves the output for backward; what that means stands at `elu`.

    Klambauer, Unterthiner, Mayr & Hochreiter 2017, "Self-Normalizing Neural Networks".
    """
    if not is_scripting():
        if takes(input):
            return (run.selu_ if inplace else run.selu)(input)
    return F.selu(input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    r"""Continuously differentiable exponential linear unit: :math:`x` for :math:`x > 0`, else ``alpha``
    :math:`(e^{x / \alpha} - 1)`.

    Saves the output for backward; what that means stands at `elu`. An ``alpha`` that is not
    positive, or below :math:`2^{-60}` or above :math:`2^{60}`, goes to torch.

    Barron 2017, "Continuously Differentiable Exponential Linear Units".
    """
    if not is_scripting():
        if takes(input) and accepts("celu", input, alpha):
            return (run.celu_ if inplace else run.celu)(input, alpha)
    return F.celu(input, alpha, inplace)


def xielu(input: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float = 0.5) -> Tensor:
    r"""xIELU: :math:`\alpha_p x^2 + \beta x` for :math:`x > 0`, else :math:`\alpha_n (e^x - 1 - x) + \beta x`.

    ``alpha_p`` and ``alpha_n`` are learned, and hold one number each, or one per channel (dimension 1 of ``input``), in
    its dtype. The paper keeps them above 0 and ``beta``, which `fastact.XIELU` does. Saves the input and both for
    backward, which computes all three gradients in one pass.

    Huang & Schlag 2024, "Deriving Activation Functions Using Integration".
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
    r"""Logistic sigmoid, :math:`1 / (1 + e^{-x})`, with derivative :math:`y (1 - y)`.

    Saves the output for backward. The left tail keeps full precision down to the smallest numbers.

    Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", on where it
    saturates.
    """
    if not is_scripting():
        if takes(input):
            return run.sigmoid(input)
    return torch.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    r"""Hyperbolic tangent, with derivative :math:`1 - y^2`.

    Saves the output for backward.

    LeCun, Bottou, Orr & Müller 1998, "Efficient BackProp".
    """
    if not is_scripting():
        if takes(input):
            return run.tanh(input)
    return torch.tanh(input)


def softsign(input: Tensor) -> Tensor:
    r"""Softsign, :math:`x / (1 + |x|)`, with derivative :math:`1 / (1 + |x|)^2`.

    Saves the input for backward. Infinite inputs give NaN, as in torch.

    Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks".
    """
    if not is_scripting():
        if takes(input):
            return run.softsign(input)
    return F.softsign(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Hard sigmoid, :math:`\min(\max(0, x + 3), 6) / 6`; derivative 1/6 strictly between -3 and 3, else 0.

    Saves one bit per element for backward.

    Howard et al. 2019, "Searching for MobileNetV3".
    """
    if not is_scripting():
        if takes(input):
            return (run.hardsigmoid_ if inplace else run.hardsigmoid)(input)
    return F.hardsigmoid(input, inplace)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Sigmoid linear unit, also swish, :math:`x \sigma(x)`, with derivative
    :math:`\sigma(x) (1 + x \sigma(-x))`.

    Saves the input for backward. Its left tail and its derivative's keep their digits down to the smallest numbers.

    Elfwing, Uchibe & Doya 2018, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
    Reinforcement Learning"; Ramachandran, Zoph & Le 2017, "Searching for Activation Functions".
    """
    if not is_scripting():
        if takes(input):
            return (run.silu_ if inplace else run.silu)(input)
    return F.silu(input, inplace)


def quick_gelu(input: Tensor) -> Tensor:
    r"""GELU by a sigmoid, :math:`x \sigma(1.702 x)`, as CLIP uses it.

    The derivative is :math:`\sigma(v) (1 + v \sigma(-v))` with :math:`v = 1.702 x`. Saves the input for backward.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if not is_scripting():
        if takes(input):
            return run.quick_gelu(input)
    return _quick_gelu(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    r"""Gaussian error linear unit, :math:`x \Phi(x)`, with derivative :math:`\Phi(x) + x \varphi(x)`.

    :math:`\Phi` and :math:`\varphi` are the normal distribution's function and density; ``approximate="tanh"`` puts
    :math:`(1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3))) / 2` in the place of :math:`\Phi(x)`. Saves the input for
    backward. Both forms and their derivatives keep their digits in the left tail, where torch's lose all of them.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if not is_scripting():
        if approximate == "none" and takes(input):
            return run.gelu(input)
        if approximate == "tanh" and takes(input):
            return run.gelu_tanh(input)
    return F.gelu(input, approximate=approximate)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Mish, :math:`x \tanh(\log(1 + e^x))`.

    The derivative is :math:`t + x (1 - t^2) \sigma(x)` with :math:`t = \tanh(\log(1 + e^x))`; both are computed from
    one exponential. Saves the input for backward.

    Misra 2020, "Mish: A Self Regularized Non-Monotonic Activation Function".
    """
    if not is_scripting():
        if takes(input):
            return (run.mish_ if inplace else run.mish)(input)
    return F.mish(input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Hard swish, :math:`x \min(\max(0, x + 3), 6) / 6`.

    The derivative is 0 for :math:`x \le -3`, 1 for :math:`x \ge 3` and :math:`x / 3 + 1/2` between. Saves the input for
    backward.

    Howard et al. 2019, "Searching for MobileNetV3".
    """
    if not is_scripting():
        if takes(input):
            return (run.hardswish_ if inplace else run.hardswish)(input)
    return F.hardswish(input, inplace)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    r"""Hard shrinkage: :math:`x` for :math:`|x| >` ``lambd``, else 0; derivative 1 or 0.

    ``lambd`` is rounded to the input's dtype, as in torch. Saves one bit per element for backward. A negative ``lambd``
    goes to torch.

    Donoho & Johnstone 1994, "Ideal Spatial Adaptation by Wavelet Shrinkage".
    """
    if not is_scripting():
        if takes(input) and accepts("hardshrink", input, lambd):
            return run.hardshrink(input, rounded(lambd, input.dtype))
    return F.hardshrink(input, lambd)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    r"""Soft shrinkage: :math:`x -` ``lambd`` for :math:`x >` ``lambd``, :math:`x +` ``lambd`` for :math:`x < -`
    ``lambd``, else 0; derivative 1 or 0.

    Saves one bit per element for backward. In 16 bits the derivative is that of the value, which is of ``lambd`` as it
    is; torch's backward compares with ``lambd`` rounded to the dtype.

    Donoho 1995, "De-noising by Soft-Thresholding".
    """
    if not is_scripting():
        if takes(input) and accepts("softshrink", input, lambd):
            return run.softshrink(input, lambd)
    return F.softshrink(input, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    r"""Tanh shrinkage, :math:`x - \tanh x`, with derivative :math:`\tanh^2 x`.

    Saves the input for backward. Keeps its digits near zero, where it is :math:`x^3 / 3` and the difference has none.

    LeCun, Bottou, Orr & Müller 1998, "Efficient BackProp", on tanh.
    """
    if not is_scripting():
        if takes(input):
            return run.tanhshrink(input)
    return F.tanhshrink(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    r"""Softplus, :math:`\log(1 + e^{\beta x}) / \beta`, and :math:`x` where :math:`\beta x >` ``threshold``.

    The derivative is :math:`1 / (1 + e^{-\beta x})`, and 1 above the threshold. Saves the input for backward.
    A ``beta`` whose size is below :math:`2^{-60}` or above :math:`2^{60}` goes to torch.

    Dugas et al. 2001, "Incorporating Second-Order Functional Knowledge for Better Option Pricing".
    """
    if not is_scripting():
        input = as_autocast("softplus", input)
        if takes(input) and accepts("softplus", input, beta, threshold):
            return run.softplus(input, beta, threshold)
    return F.softplus(input, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    r"""Logarithm of the sigmoid, :math:`-\log(1 + e^{-x})`, with derivative :math:`1 - e^y`.

    Saves the output for backward, which costs the derivative no digits (torch saves the input, on the CPU two tensors).

    Mnih & Kavukcuoglu 2013, "Learning Word Embeddings Efficiently with Noise-Contrastive Estimation", for its use.
    """
    if not is_scripting():
        if takes(input):
            return run.logsigmoid(input)
    return F.logsigmoid(input)


def snake(input: Tensor, alpha: Tensor) -> Tensor:
    r"""Snake, :math:`x + \sin^2(\alpha x) / \alpha`, ``alpha`` learned.

    ``alpha`` holds one frequency, or one per channel (dimension 1 of ``input``), in its dtype, and must not be 0. The
    derivative is :math:`1 + \sin(2 \alpha x)`. All digits up to :math:`|\alpha x| = 2^{15}` (float64: :math:`2^{20}`);
    from 8 times that on the wave, by then less than :math:`2^{-18}` of :math:`x`, is left out. Saves the input and
    ``alpha`` for backward, which computes both gradients in one pass.

    Liu, Hartwig & Ueda 2020, "Neural Networks Fail to Learn Periodic Functions and How to Fix It".
    """
    if not is_scripting():
        input = as_autocast("snake", input)
        if takes_all(input, alpha) and weights_fit(input, alpha):
            return run.snake(input, alpha)
        if keeps_dtype(input, alpha):
            return _snake(input.float(), alpha.float()).to(input.dtype)
    return _snake(input, alpha)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    r"""Softmax of the negative, :math:`e^{-x_i} / \sum_j e^{-x_j}` along ``dim``, with gradient
    :math:`y_i (\sum_j g_j y_j - g_i)`.

    As `softmax`, in the same pass. See there for dimensions, dtypes and what is saved.

    Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network Outputs".
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.softmin(input if dtype is None else softmax_input(input, dtype), dim, kept)
    return F.softmin(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    r"""Softmax, :math:`e^{x_i} / \sum_j e^{x_j}` along ``dim``, with gradient :math:`y_i (g_i - \sum_j g_j y_j)`.

    Any ``dim``; where it is not the last, nothing is transposed. ``dtype``, if given, is what the input is converted to
    first: 16-bit inputs are widened to float32 as they are read. Without a ``dim``, torch chooses one and warns. Saves
    the output for backward. Rows with an infinite maximum, or with NaN, become NaN, as in torch.

    Differences from the maximum are taken exactly and sums accumulated in more than the dtype's precision, so that a
    float32 result keeps its digits however small it is and however long the row.

    Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network Outputs".
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.softmax(input if dtype is None else softmax_input(input, dtype), dim, kept)
    return F.softmax(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Logarithm of softmax, :math:`x_i - \log \sum_j e^{x_j}` along ``dim``, with gradient
    :math:`g_i - e^{y_i} \sum_j g_j`.

    See `softmax` for dimensions, dtypes and what is saved. The maximum's own 1 is kept apart from the sum of the
    others, whose logarithm therefore keeps its digits where one class is all but certain.

    Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network Outputs".
    """
    if not is_scripting():
        if takes(input):
            kept = softmax_dtype(input, dim, dtype)
            if kept:
                return run.log_softmax(input if dtype is None else softmax_input(input, dtype), dim, kept)
    return F.log_softmax(input, dim, _stacklevel=_stacklevel + 1, dtype=dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    r"""Gated linear unit, :math:`a \cdot \sigma(b)`, of the halves :math:`a` and :math:`b` of the input along ``dim``.

    Saves the input for backward, which writes the gradients of both halves in one pass.

    Dauphin, Fan, Auli & Grangier 2017, "Language Modeling with Gated Convolutional Networks".
    """
    if not is_scripting():
        if takes_gated(input, None, dim):
            return run.glu_packed(input, dim, False)
    return F.glu(input, dim)


def swiglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    r"""Linear unit gated by SiLU: value :math:`\cdot\, g\, \sigma(g)` for the gate :math:`g`.

    With one tensor, value and gate are its halves along ``dim``: the value first, as in GLU, or with ``gate_first`` the
    gate, as some models pack their weights. A size of :math:`2d` becomes :math:`d`; an odd one is an error. With two
    tensors of one shape, ``input`` is the value and ``gate`` the gate, ``swiglu(up_proj(x), gate_proj(x))`` in LLaMA,
    and ``dim`` and ``gate_first`` say nothing. Shapes or dtypes that differ are torch's to broadcast or refuse.

    Saves its input, one tensor or two, for backward, which computes :math:`\sigma(g)` again and writes the gradients of
    value and gate in one pass.

    Shazeer 2020, "GLU Variants Improve Transformer".
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.swiglu_packed(input, dim, bool(gate_first)) if gate is None else run.swiglu(input, gate)
    return _swiglu(input, gate, dim, gate_first)


def geglu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, approximate: str = "none", gate_first: bool = False
) -> Tensor:
    r"""Linear unit gated by GELU: value :math:`\cdot\, g\, \Phi(g)` for the gate :math:`g`, otherwise as `swiglu`.

    ``approximate="tanh"`` takes GELU's approximation by the hyperbolic tangent. Saves its input for backward, which
    writes the gradients of value and gate in one pass.

    Shazeer 2020, "GLU Variants Improve Transformer".
    """
    if not is_scripting():
        if approximate == "none" and takes_gated(input, gate, dim):
            return run.geglu_packed(input, dim, bool(gate_first)) if gate is None else run.geglu(input, gate)
        if approximate == "tanh" and takes_gated(input, gate, dim):
            return run.geglu_tanh_packed(input, dim, bool(gate_first)) if gate is None else run.geglu_tanh(input, gate)
    return _geglu(input, gate, dim, approximate, gate_first)


def reglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    r"""Linear unit gated by a rectifier: value :math:`\cdot \max(0, \text{gate})`, with the arguments of `swiglu`.

    Saves its input for backward, which writes the gradients of value and gate in one pass.

    Shazeer 2020, "GLU Variants Improve Transformer".
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.reglu_packed(input, dim, bool(gate_first)) if gate is None else run.reglu(input, gate)
    return _reglu(input, gate, dim, gate_first)


def bilinear(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    r"""Bilinear gated unit: value :math:`\cdot` gate, with the arguments of `swiglu`.

    Saves its input for backward, which writes the gradients of value and gate in one pass. Not
    ``torch.nn.functional.bilinear``, a layer with a weight.

    Shazeer 2020, "GLU Variants Improve Transformer", after Dauphin et al. 2017.
    """
    if not is_scripting():
        if takes_gated(input, gate, dim):
            return run.bilinear_packed(input, dim, bool(gate_first)) if gate is None else run.bilinear(input, gate)
    return _bilinear(input, gate, dim, gate_first)


def maxout(input: Tensor, pieces: int, dim: int = -1) -> Tensor:
    r"""The largest of each group of ``pieces`` neighbours along ``dim``: :math:`y_i = \max_j x_{i k + j}`.

    A size of :math:`k d` becomes :math:`d`, where :math:`k`, from 2 to 255, is ``pieces``. Saves one byte per output
    element for backward: which piece won. The gradient is the winner's alone. Of equals the first wins, and the first
    NaN, as in ``torch.max``.

    Goodfellow et al. 2013, "Maxout Networks".
    """
    if not is_scripting():
        if takes(input) and divides(input, dim, pieces) and pieces <= 255:
            return run.maxout(input, pieces, dim)
    return _maxout(input, pieces, dim)


def bias_act(
    input: Tensor, bias: Tensor, residual: Tensor | None = None, activation: str = "gelu", **arguments: float
) -> Tensor:
    r"""An activation between its neighbours in one pass: :math:`f(x + b) + r`, with a bias per channel and a residual.

    ``bias`` holds one number, or one per channel (dimension 1 of ``input``). ``residual``, if given, has the input's
    shape. ``activation`` is the name of any activation that works element by element, as the functions here have it
    (or ``"gelu_tanh"``), and ``arguments`` are its scalars, by name. 16-bit types compute in float32 and round once.

    Saves one bit per element for backward where the activation does, else ``input`` and ``bias``: never the sum, the
    activation's output or ``residual``. Backward computes the gradients of input and bias in one pass.

    Raises ``ValueError`` for an activation of another name.

    >>> y = fastact.functional.bias_act(x, bias, residual, "leaky_relu", negative_slope=0.1)
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
