"""The modules: each is a subclass of torch.nn's, with its constructor, its parameters, its repr and its state_dict.

So `isinstance(m, torch.nn.ReLU)` holds, and initialisers and other code that looks for torch's modules go on working
(code that compares exact classes, as torch.fx and quantisation do, wants `fastact.revert` first). Only `forward`
differs; formulas, saved tensors and papers stand in `fastact.functional`.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import functional as F

__all__ = ["ELU", "LeakyReLU", "PReLU", "RReLU", "ReLU", "Sigmoid", "Softsign", "Tanh"]


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


class ELU(nn.ELU):
    """See `fastact.functional.elu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)


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
