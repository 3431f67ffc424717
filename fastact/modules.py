"""The modules: each is a subclass of torch.nn's, with its constructor, its parameters, its repr and its state_dict.

So `isinstance(m, torch.nn.ReLU)` holds, and initialisers and other code that looks for torch's modules go on working
(code that compares exact classes, as torch.fx and quantisation do, wants `fastact.revert` first). Only `forward`
differs. `fastact.docstrings` completes the docstrings by those of the functions.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from . import functional as F

__all__ = [
    "CELU",
    "ELU",
    "GEGLU",
    "GELU",
    "GLU",
    "SELU",
    "XIELU",
    "Bilinear",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Maxout",
    "MaxoutLinear",
    "Mish",
    "PReLU",
    "QuickGELU",
    "RReLU",
    "ReGLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Snake",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SquaredReLU",
    "StarReLU",
    "SwiGLU",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _Call(Protocol):
    """What calling a module takes and returns, where `nn.Module` tells type checkers and editors nothing."""

    def __call__(self, input: Tensor) -> Tensor: ...


class _CallWithGate(Protocol):
    def __call__(self, input: Tensor, gate: Tensor | None = None) -> Tensor: ...


class ReLU(nn.ReLU):
    """Rectified linear unit: `fastact.functional.relu` as a module.

    Examples:
        >>> fastact.ReLU()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class LeakyReLU(nn.LeakyReLU):
    """Leaky rectified linear unit: `fastact.functional.leaky_relu` as a module.

    Examples:
        >>> fastact.LeakyReLU(negative_slope=0.1)(torch.tensor([-1.0, 2.0]))
        tensor([-0.1000,  2.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class PReLU(nn.PReLU):
    """Parametric rectified linear unit: `fastact.functional.prelu` as a module that learns `weight`.

    Args:
        num_parameters: how many slopes to learn, 1 or the number of channels.
        init: the slopes at the start.

    Raises:
        RuntimeError: in forward, if `num_parameters` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.PReLU(num_parameters=2, init=0.5)(torch.tensor([[-1.0, 2.0]])).tolist()
        [[-0.5, 2.0]]
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


class RReLU(nn.RReLU):
    """Randomised leaky rectified linear unit: `fastact.functional.rrelu` as a module, random in training mode.

    Examples:
        >>> fastact.RReLU(lower=0.1, upper=0.3).eval()(torch.tensor([-1.0, 2.0]))
        tensor([-0.2000,  2.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class Threshold(nn.Threshold):
    """Threshold: `fastact.functional.threshold` as a module.

    Examples:
        >>> fastact.Threshold(threshold=1.0, value=-3.0)(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([-3., -3.,  2.])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)


class Hardtanh(nn.Hardtanh):
    """Hyperbolic tangent of three straight lines: `fastact.functional.hardtanh` as a module.

    Args:
        max_val: the largest output, above `min_val`.
        min_value: torch's deprecated name of `min_val`.
        max_value: torch's deprecated name of `max_val`.

    Raises:
        AssertionError: if `max_val` is not above `min_val`.

    Examples:
        >>> fastact.Hardtanh(min_val=-1.0, max_val=2.0)(torch.tensor([-3.0, 0.5, 3.0]))
        tensor([-1.0000,  0.5000,  2.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class ReLU6(nn.ReLU6):
    """Rectified linear unit capped at 6: `fastact.functional.relu6` as a module.

    Examples:
        >>> fastact.ReLU6()(torch.tensor([-1.0, 2.0, 9.0]))
        tensor([0., 2., 6.])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input, self.inplace)


class SquaredReLU(nn.Module):
    """Square of the rectified linear unit: `fastact.functional.squared_relu` as a module.

    Examples:
        >>> fastact.SquaredReLU()(torch.tensor([-1.0, 3.0]))
        tensor([0., 9.])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.squared_relu(input)


class StarReLU(nn.Module):
    """Squared rectifier, scaled and shifted: `fastact.functional.star_relu` as a module that learns `scale` and `bias`.

    Args:
        scale_value: the scale, one number, at the start.
        bias_value: the bias, one number, at the start.

    Examples:
        >>> fastact.StarReLU(scale_value=2.0, bias_value=-1.0)(torch.tensor([-1.0, 3.0])).tolist()
        [-1.0, 17.0]
    """

    __call__: _Call

    def __init__(
        self,
        scale_value: float = 1.0,
        bias_value: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale_value, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.full((1,), bias_value, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.star_relu(input, self.scale, self.bias)


class ELU(nn.ELU):
    """Exponential linear unit: `fastact.functional.elu` as a module.

    Examples:
        >>> fastact.ELU(alpha=0.5)(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.3161,  0.0000,  2.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)


class SELU(nn.SELU):
    """Scaled exponential linear unit: `fastact.functional.selu` as a module.

    Examples:
        >>> fastact.SELU()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-1.1113,  0.0000,  2.1014])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace)


class CELU(nn.CELU):
    """Continuously differentiable exponential linear unit: `fastact.functional.celu` as a module.

    Examples:
        >>> fastact.CELU(alpha=2.0)(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.7869,  0.0000,  2.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha, self.inplace)


def _inverse_softplus(y: float) -> float:
    """log(e^y - 1), also where e^y would be too large."""
    return y + math.log(-math.expm1(-y))


class XIELU(nn.Module):
    """Expanded integral of the exponential linear unit: `fastact.functional.xielu` as a module that learns.

    It learns `raw_alpha_p` and `raw_alpha_n`, one number each. From these follow `alpha_p` = softplus(`raw_alpha_p`),
    which is above 0, and `alpha_n` = `beta` + softplus(`raw_alpha_n`), which is above `beta`.

    Args:
        alpha_p_init: `alpha_p` at the start, above 0.
        alpha_n_init: `alpha_n` at the start, above `beta`.

    Raises:
        ValueError: if `alpha_p_init` or `alpha_n_init` is too small or not finite.

    Examples:
        >>> fastact.XIELU()(torch.tensor([-1.0, 0.0, 2.0])).detach()
        tensor([-0.2057,  0.0000,  4.2000])
    """

    __call__: _Call

    def __init__(
        self,
        alpha_p_init: float = 0.8,
        alpha_n_init: float = 0.8,
        beta: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not (0 < alpha_p_init < math.inf and beta < alpha_n_init < math.inf):
            raise ValueError(
                f"alpha_p_init must be above 0 and alpha_n_init above beta, got {alpha_p_init}, {alpha_n_init}, {beta}"
            )
        self.beta = beta
        raw_p, raw_n = map(_inverse_softplus, (alpha_p_init, alpha_n_init - beta))
        self.raw_alpha_p = nn.Parameter(torch.full((1,), raw_p, device=device, dtype=dtype))
        self.raw_alpha_n = nn.Parameter(torch.full((1,), raw_n, device=device, dtype=dtype))

    @property
    def alpha_p(self) -> Tensor:
        """The coefficient for positive inputs."""
        return torch.nn.functional.softplus(self.raw_alpha_p)

    @property
    def alpha_n(self) -> Tensor:
        """The coefficient for negative inputs."""
        return self.beta + torch.nn.functional.softplus(self.raw_alpha_n)

    def forward(self, input: Tensor) -> Tensor:
        return F.xielu(input, self.alpha_p, self.alpha_n, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class Sigmoid(nn.Sigmoid):
    """Logistic sigmoid: `fastact.functional.sigmoid` as a module.

    Examples:
        >>> fastact.Sigmoid()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1192, 0.5000, 0.8808])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(nn.Tanh):
    """Hyperbolic tangent: `fastact.functional.tanh` as a module.

    Examples:
        >>> fastact.Tanh()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.7616,  0.0000,  0.7616])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softsign(nn.Softsign):
    """Softsign: `fastact.functional.softsign` as a module.

    Examples:
        >>> fastact.Softsign()(torch.tensor([-1.0, 0.0, 3.0]))
        tensor([-0.5000,  0.0000,  0.7500])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Hardsigmoid(nn.Hardsigmoid):
    """Sigmoid of three straight lines: `fastact.functional.hardsigmoid` as a module.

    Examples:
        >>> fastact.Hardsigmoid()(torch.tensor([-3.0, 0.0, 1.5]))
        tensor([0.0000, 0.5000, 0.7500])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace)


class SiLU(nn.SiLU):
    """Sigmoid linear unit, also known as swish: `fastact.functional.silu` as a module.

    Examples:
        >>> fastact.SiLU()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.2689,  0.0000,  1.7616])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)


class QuickGELU(nn.Module):
    """Approximation of GELU by a sigmoid: `fastact.functional.quick_gelu` as a module.

    Examples:
        >>> fastact.QuickGELU()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1542,  0.0000,  1.9357])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.quick_gelu(input)


class GELU(nn.GELU):
    """Gaussian error linear unit: `fastact.functional.gelu` as a module.

    Examples:
        >>> fastact.GELU(approximate="tanh")(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1588,  0.0000,  1.9546])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)


class Mish(nn.Mish):
    """Mish: `fastact.functional.mish` as a module.

    Examples:
        >>> fastact.Mish()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.3034,  0.0000,  1.9440])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace)


class Hardswish(nn.Hardswish):
    """SiLU whose sigmoid is of three straight lines: `fastact.functional.hardswish` as a module.

    Examples:
        >>> fastact.Hardswish()(torch.tensor([-1.0, 1.0, 4.0]))
        tensor([-0.3333,  0.6667,  4.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace)


class Hardshrink(nn.Hardshrink):
    """Hard shrinkage: `fastact.functional.hardshrink` as a module.

    Examples:
        >>> fastact.Hardshrink(lambd=0.5)(torch.tensor([-1.0, 0.3, 2.0]))
        tensor([-1.,  0.,  2.])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.hardshrink(input, self.lambd)


class Softshrink(nn.Softshrink):
    """Soft shrinkage: `fastact.functional.softshrink` as a module.

    Examples:
        >>> fastact.Softshrink(lambd=0.5)(torch.tensor([-1.0, 0.25, 2.0]))
        tensor([-0.5000,  0.0000,  1.5000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.softshrink(input, self.lambd)


class Tanhshrink(nn.Tanhshrink):
    """Shrinkage by the hyperbolic tangent: `fastact.functional.tanhshrink` as a module.

    Examples:
        >>> fastact.Tanhshrink()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.2384,  0.0000,  1.0360])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.tanhshrink(input)


class Softplus(nn.Softplus):
    """Softplus, a smooth rectifier: `fastact.functional.softplus` as a module.

    Examples:
        >>> fastact.Softplus(beta=2.0)(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0.0635, 0.3466, 2.0091])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)


class LogSigmoid(nn.LogSigmoid):
    """Logarithm of the sigmoid: `fastact.functional.logsigmoid` as a module.

    Examples:
        >>> fastact.LogSigmoid()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-2.1269, -0.6931, -0.1269])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Snake(nn.Module):
    """Identity with a periodic part: `fastact.functional.snake` as a module that learns `alpha`.

    Args:
        num_parameters: how many frequencies to learn, 1 or the number of channels.
        alpha: the frequencies at the start, not 0.

    Raises:
        ValueError: if `alpha` is 0.
        RuntimeError: in forward, if `num_parameters` is neither 1 nor the number of channels.

    Examples:
        >>> fastact.Snake(alpha=0.5)(torch.tensor([-1.0, 0.0, 2.0])).detach()
        tensor([-0.5403,  0.0000,  3.4161])
    """

    __call__: _Call

    def __init__(
        self,
        num_parameters: int = 1,
        alpha: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if alpha == 0:
            raise ValueError("alpha must not be 0")
        self.num_parameters = num_parameters
        self.alpha = nn.Parameter(torch.full((num_parameters,), alpha, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.snake(input, self.alpha)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


# The functions add their own frame to the stack level, which torch's modules have at 5.


class Softmin(nn.Softmin):
    """Softmax of the negative: `fastact.functional.softmin` as a module.

    Examples:
        >>> fastact.Softmin(dim=0)(torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.6652, 0.2447, 0.0900])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.softmin(input, self.dim, _stacklevel=4)


class Softmax(nn.Softmax):
    """Softmax: `fastact.functional.softmax` as a module.

    Examples:
        >>> fastact.Softmax(dim=0)(torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.0900, 0.2447, 0.6652])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=4)


class Softmax2d(nn.Softmax2d):
    """Softmax over the channels of images, dimension -3: `fastact.functional.softmax` as a module.

    Shape:
        `(N, C, H, W)` or `(C, H, W)`, which is the output's too.

    Raises:
        ValueError: if the input has neither three nor four dimensions.

    Examples:
        >>> fastact.Softmax2d()(torch.zeros(4, 2, 2))[:, 0, 0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead")
        return F.softmax(input, -3, _stacklevel=4)


class LogSoftmax(nn.LogSoftmax):
    """Logarithm of softmax: `fastact.functional.log_softmax` as a module.

    Examples:
        >>> fastact.LogSoftmax(dim=0)(torch.tensor([0.0, 1.0, 2.0]))
        tensor([-2.4076, -1.4076, -0.4076])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=4)


class GLU(nn.GLU):
    """Gated linear unit: `fastact.functional.glu` as a module.

    Examples:
        >>> fastact.GLU()(torch.tensor([1.0, 2.0, 0.0, 0.0]))
        tensor([0.5000, 1.0000])
    """

    __call__: _Call

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)


class _GatedUnit(nn.Module):
    """Value times f(gate): the halves of the input along `dim`, or two tensors."""

    __call__: _CallWithGate

    def __init__(self, dim: int = -1, gate_first: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.gate_first = gate_first

    def extra_repr(self) -> str:
        return f"dim={self.dim}{', gate_first=True' if self.gate_first else ''}"


class SwiGLU(_GatedUnit):
    """Linear unit gated by SiLU: `fastact.functional.swiglu` as a module.

    It takes one tensor or two, `unit(input)` or `unit(value, gate)`.

    Examples:
        >>> unit, value, gate = fastact.SwiGLU(), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])
        >>> unit(value, gate)
        tensor([0.0000, 3.5232])
        >>> unit(torch.cat([value, gate]))
        tensor([0.0000, 3.5232])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.swiglu(input, gate, self.dim, self.gate_first)


class GEGLU(_GatedUnit):
    """Linear unit gated by GELU: `fastact.functional.geglu` as a module.

    It takes one tensor or two, `unit(input)` or `unit(value, gate)`.

    Examples:
        >>> fastact.GEGLU()(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
        tensor([0.0000, 3.9090])
    """

    def __init__(self, dim: int = -1, approximate: str = "none", gate_first: bool = False) -> None:
        super().__init__(dim, gate_first)
        self.approximate = approximate

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.geglu(input, gate, self.dim, self.approximate, self.gate_first)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class ReGLU(_GatedUnit):
    """Linear unit gated by ReLU: `fastact.functional.reglu` as a module.

    It takes one tensor or two, `unit(input)` or `unit(value, gate)`.

    Examples:
        >>> fastact.ReGLU()(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 2.0]))
        tensor([0., 4.])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.reglu(input, gate, self.dim, self.gate_first)


class Bilinear(_GatedUnit):
    """Bilinear gated unit: `fastact.functional.bilinear` as a module.

    This is not `torch.nn.Bilinear`, a layer with a weight.

    It takes one tensor or two, `unit(input)` or `unit(value, gate)`.

    Examples:
        >>> fastact.Bilinear()(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.bilinear(input, gate, self.dim, self.gate_first)


class Maxout(nn.Module):
    """Largest of each group of neighbours: `fastact.functional.maxout` as a module.

    Examples:
        >>> fastact.Maxout(pieces=2)(torch.tensor([1.0, 3.0, -2.0, -1.0]))
        tensor([ 3., -1.])
    """

    __call__: _Call

    def __init__(self, pieces: int, dim: int = -1) -> None:
        super().__init__()
        self.pieces = pieces
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.maxout(input, self.pieces, self.dim)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"


class MaxoutLinear(nn.Module):
    """Layer of Maxout units: each output is the largest of several linear functions of the input.

    It is a `torch.nn.Linear`, `linear`, with a `fastact.Maxout` behind it. Row `i * pieces + j` of the linear layer's
    weight is piece j of output i.

    Args:
        in_features: the size of an input.
        out_features: the size of an output.
        pieces: of how many linear functions each output is the largest, from 2 to 255.
        bias: whether the linear functions have constant terms.
        device: where the parameters are.
        dtype: of the parameters.

    Shape:
        `(*, in_features)` becomes `(*, out_features)`.

    Dtypes:
        As `fastact.Maxout`.

    Saved for backward:
        The input and the weight, and one byte per element of the output for the number of the winner.

    Raises:
        ValueError: in forward, if `pieces` is not from 2 to 255.

    Examples:
        >>> layer = fastact.MaxoutLinear(64, 32, pieces=4)
        >>> layer(torch.randn(8, 64)).shape
        torch.Size([8, 32])

    References:
        Goodfellow et al. 2013, Maxout Networks
    """

    __call__: _Call

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pieces: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features * pieces, bias=bias, device=device, dtype=dtype)
        self.maxout = Maxout(pieces)

    def forward(self, input: Tensor) -> Tensor:
        return self.maxout(self.linear(input))
