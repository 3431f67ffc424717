"""The modules: each is a subclass of torch.nn's, with its constructor, its parameters, its repr and its state_dict.

So `isinstance(m, torch.nn.ReLU)` holds, and initialisers, quantisers and other code that looks for torch's modules go
on working. Only `forward` differs; formulas, saved tensors and papers stand in `fastact.functional`.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import functional as F

__all__ = ["ELU", "LeakyReLU", "PReLU", "RReLU", "ReLU", "Sigmoid", "Softsign", "Tanh"]


class _Activation(nn.Module):
    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in this module's place: TorchScript knows torch's ops only."""
        from .convert import stock_twin

        return stock_twin(self)


class ReLU(_Activation, nn.ReLU):
    """See `fastact.functional.relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class LeakyReLU(_Activation, nn.LeakyReLU):
    """See `fastact.functional.leaky_relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class PReLU(_Activation, nn.PReLU):
    """See `fastact.functional.prelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


class RReLU(_Activation, nn.RReLU):
    """See `fastact.functional.rrelu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class ELU(_Activation, nn.ELU):
    """See `fastact.functional.elu`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)


class Sigmoid(_Activation, nn.Sigmoid):
    """See `fastact.functional.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(_Activation, nn.Tanh):
    """See `fastact.functional.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softsign(_Activation, nn.Softsign):
    """See `fastact.functional.softsign`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)
