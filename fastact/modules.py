"""The modules: each is a subclass of torch.nn's, with its constructor, its parameters, its repr and its state_dict.

So `isinstance(m, torch.nn.ReLU)` holds, and initialisers and other code that looks for torch's modules go on working
(code that compares exact classes, as torch.fx and quantisation do, wants `fastact.revert` first). Only `forward`
differs; formulas, saved tensors and papers stand in `fastact.functional`.
"""

from __future__ import annotations

import math

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


class ReLU(nn.ReLU):
    """See `fastact.functional.relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class LeakyReLU(nn.LeakyReLU):
    """See `fastact.functional.leaky_relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class PReLU(nn.PReLU):
    """See `fastact.functional.prelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


class RReLU(nn.RReLU):
    """See `fastact.functional.rrelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class Threshold(nn.Threshold):
    """See `fastact.functional.threshold`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)


class Hardtanh(nn.Hardtanh):
    """See `fastact.functional.hardtanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class ReLU6(nn.ReLU6):
    """See `fastact.functional.relu6`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input, self.inplace)


class SquaredReLU(nn.Module):
    """See `fastact.functional.squared_relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.squared_relu(input)


class StarReLU(nn.Module):
    """See `fastact.functional.star_relu`. `scale` and `bias`, one number each, start at the values given."""

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
    """See `fastact.functional.elu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)


class SELU(nn.SELU):
    """See `fastact.functional.selu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace)


class CELU(nn.CELU):
    """See `fastact.functional.celu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha, self.inplace)


def _inverse_softplus(y: float) -> float:
    """log(e^y - 1), also where e^y would be too large."""
    return y + math.log(-math.expm1(-y))


class XIELU(nn.Module):
    """See `fastact.functional.xielu`. What is learned are `raw_alpha_p` and `raw_alpha_n`, one number each, such that
    `alpha_p` = softplus(`raw_alpha_p`) > 0 and `alpha_n` = `beta` + softplus(`raw_alpha_n`) > `beta`."""

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
        return torch.nn.functional.softplus(self.raw_alpha_p)

    @property
    def alpha_n(self) -> Tensor:
        return self.beta + torch.nn.functional.softplus(self.raw_alpha_n)

    def forward(self, input: Tensor) -> Tensor:
        return F.xielu(input, self.alpha_p, self.alpha_n, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class Sigmoid(nn.Sigmoid):
    """See `fastact.functional.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(nn.Tanh):
    """See `fastact.functional.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softsign(nn.Softsign):
    """See `fastact.functional.softsign`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Hardsigmoid(nn.Hardsigmoid):
    """See `fastact.functional.hardsigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace)


class SiLU(nn.SiLU):
    """See `fastact.functional.silu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)


class QuickGELU(nn.Module):
    """See `fastact.functional.quick_gelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.quick_gelu(input)


class GELU(nn.GELU):
    """See `fastact.functional.gelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)


class Mish(nn.Mish):
    """See `fastact.functional.mish`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace)


class Hardswish(nn.Hardswish):
    """See `fastact.functional.hardswish`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace)


class Hardshrink(nn.Hardshrink):
    """See `fastact.functional.hardshrink`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardshrink(input, self.lambd)


class Softshrink(nn.Softshrink):
    """See `fastact.functional.softshrink`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softshrink(input, self.lambd)


class Tanhshrink(nn.Tanhshrink):
    """See `fastact.functional.tanhshrink`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanhshrink(input)


class Softplus(nn.Softplus):
    """See `fastact.functional.softplus`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)


class LogSigmoid(nn.LogSigmoid):
    """See `fastact.functional.logsigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Snake(nn.Module):
    """See `fastact.functional.snake`. `alpha` holds `num_parameters` frequencies, 1 or the number of channels."""

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
    """See `fastact.functional.softmin`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmin(input, self.dim, _stacklevel=4)


class Softmax(nn.Softmax):
    """See `fastact.functional.softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=4)


class Softmax2d(nn.Softmax2d):
    """Over the channels, dimension -3, of images. See `fastact.functional.softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead")
        return F.softmax(input, -3, _stacklevel=4)


class LogSoftmax(nn.LogSoftmax):
    """See `fastact.functional.log_softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=4)


class GLU(nn.GLU):
    """See `fastact.functional.glu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)


class _GatedUnit(nn.Module):
    """Value times f(gate): the halves of the input along `dim`, or two tensors."""

    def __init__(self, dim: int = -1, gate_first: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.gate_first = gate_first

    def extra_repr(self) -> str:
        return f"dim={self.dim}{', gate_first=True' if self.gate_first else ''}"


class SwiGLU(_GatedUnit):
    """See `fastact.functional.swiglu`."""

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.swiglu(input, gate, self.dim, self.gate_first)


class GEGLU(_GatedUnit):
    """See `fastact.functional.geglu`."""

    def __init__(self, dim: int = -1, approximate: str = "none", gate_first: bool = False) -> None:
        super().__init__(dim, gate_first)
        self.approximate = approximate

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.geglu(input, gate, self.dim, self.approximate, self.gate_first)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class ReGLU(_GatedUnit):
    """See `fastact.functional.reglu`."""

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.reglu(input, gate, self.dim, self.gate_first)


class Bilinear(_GatedUnit):
    """See `fastact.functional.bilinear`."""

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.bilinear(input, gate, self.dim, self.gate_first)


class Maxout(nn.Module):
    """See `fastact.functional.maxout`."""

    def __init__(self, pieces: int, dim: int = -1) -> None:
        super().__init__()
        self.pieces = pieces
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.maxout(input, self.pieces, self.dim)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"


class MaxoutLinear(nn.Module):
    """A layer of Maxout units: each of the `out_features` is the largest of `pieces` linear functions of the input.

    Goodfellow et al. 2013, "Maxout Networks". Row `i * pieces + j` of the weight of `linear` is piece j of output i.
    """

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
