"""Watch a model's activations while it trains: the loss alone says little.

>>> with Monitor(model) as monitor:
...     train(model)
>>> print(monitor.report())
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import modules
from .catalogue import ACTIVATIONS, Activation

__all__ = ["Monitor", "Report", "Row"]

_ROWS: dict[type[nn.Module], Activation] = {
    getattr(nn, row.module, None) or getattr(modules, row.module): row for row in ACTIVATIONS.values()
}


@dataclass(frozen=True)
class Row:
    """What was seen of one layer; None where nothing was."""

    layer: str
    """As in `model.named_modules()`."""
    activation: str
    dead: float | None
    """Share of the units whose every element lay where the activation is flat: for rectifiers on the side whose slope
    is not 1 (with a leak, gradients still pass there), for others where the derivative is below 5% of its maximum."""
    saturated: float | None
    """Share of the elements where the derivative is below 5% of its maximum; None for rectifiers."""
    sparsity: float | None
    """Share of the outputs that are exactly zero."""
    mean: float | None
    std: float | None
    grad_norm: float | None
    """Root mean square of the loss's gradient with respect to the outputs, so that layers of any size compare."""


@dataclass(frozen=True)
class Report:
    """One row per layer, in the model's order; printed, an aligned table."""

    rows: list[Row]

    def __str__(self) -> str:
        cells = [[field.name for field in fields(Row)]]
        for row in self.rows:
            shares = [_show(share, ".1%") for share in (row.dead, row.saturated, row.sparsity)]
            values = [_show(value, ".3g") for value in (row.mean, row.std, row.grad_norm)]
            cells.append([row.layer, row.activation, *shares, *values])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            padded = [f"{cell:{'<' if i < 2 else '>'}{widths[i]}}" for i, cell in enumerate(line)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class Monitor:
    """Follow every activation module of `model`, torch.nn's and fastact's, while the context is open.

    Units are the input's dimension `unit_dim`, by default 1: torch's channels, or the features of a batch of vectors
    (-1 suits transformers). `every=k` looks at every k-th call of a layer only. Results of the model do not change, no
    tensor is kept, and nothing waits for the GPU before `report`. Functional calls are not seen: only modules are.
    """

    def __init__(self, model: nn.Module, *, every: int = 1, unit_dim: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._model, self._every, self._unit_dim = model, every, unit_dim
        self._layers: list[_Layer] = []

    def __enter__(self) -> Monitor:
        self._layers = []
        for name, module in self._model.named_modules():
            # The most specific class decides: torch.nn.ReLU6, say, is a Hardtanh too.
            row = next((_ROWS[base] for base in type(module).__mro__ if base in _ROWS), None)
            if row is not None:
                self._layers.append(_Layer(name, module, row, self._every, self._unit_dim))
        for layer in self._layers:
            layer.open()
        return self

    def __exit__(self, *exception: object) -> None:
        for layer in self._layers:
            layer.close()

    def report(self) -> Report:
        """What has been seen so far; also while the context is still open."""
        return Report([layer.row() for layer in self._layers])


class _Layer:
    """The hooks on one module and the sums that they keep, on the module's device."""

    def __init__(self, name: str, module: nn.Module, activation: Activation, every: int, unit_dim: int) -> None:
        self.name, self.module, self.activation = name, module, activation
        self.every, self.unit_dim = every, unit_dim
        self.flat = _flat_intervals(activation, module)
        self.calls = self.elements = self.grad_elements = 0
        self.sums: Tensor | None = None  # over elements: flat, not zero, output, its square, its gradient's square
        self.awake: dict[int, Tensor] = {}  # by number of units: a module may be called at several places of a model
        self.handles: list[RemovableHandle] = []

    def open(self) -> None:
        self.handles.append(self.module.register_forward_pre_hook(self.before, with_kwargs=True))
        self.handles.append(self.module.register_forward_hook(self.after))

    def close(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # Ahead of the call, since an activation in place leaves no input to look at.
        (input,) = (*args, *kwargs.values())
        self.calls += 1
        if not self.watches(input):
            return
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.zeros_like(input, dtype=torch.bool)
            for low, high in self.flat:
                flat |= (input > low) & (input <= high)
            units = flat if flat.dim() > 1 else flat.reshape(1, -1)
            units = units.movedim(self.unit_dim, 0)
            awake = ~units.reshape(len(units), -1).all(1)
            self.awake[len(units)] = self.awake.get(len(units), False) | awake
            if self.sums is None:
                self.sums = torch.zeros(5, dtype=torch.float64, device=input.device)
            self.sums[0] += flat.sum()

    def after(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if not self.watches(output):
            return
        with torch.inference_mode(False), torch.no_grad():
            numel = output.numel()
            var, mean = torch.var_mean(output.float() if output.itemsize < 4 else output, correction=0)
            self.sums[1:4] += torch.stack((output.count_nonzero(), mean * numel, (var + mean.square()) * numel))
            self.elements += numel
        if output.requires_grad:
            # On the tensor: a module's full backward hook forbids working in place.
            output.register_hook(self.gradient)

    def gradient(self, grad: Tensor) -> None:
        if self.handles:  # not after the context: a graph that it leaves behind still has this hook
            with torch.no_grad():
                self.sums[4] += grad.float().square().mean() * grad.numel()
                self.grad_elements += grad.numel()

    def watches(self, tensor: Tensor) -> bool:
        # Under function transforms and tracing there are no numbers to look at.
        concrete = not torch._C._are_functorch_transforms_active() and torch._C._get_tracing_state() is None
        if concrete and not -max(tensor.dim(), 2) <= self.unit_dim < max(tensor.dim(), 2):
            raise ValueError(f"unit_dim={self.unit_dim}: the input of layer {self.name} has {tensor.dim()} dimensions")
        return concrete and (self.calls - 1) % self.every == 0 and tensor.numel() > 0

    def row(self) -> Row:
        kind = type(self.module).__name__
        if self.sums is None:
            return Row(self.name, kind, None, None, None, None, None, None)
        flat, nonzero, total, squares, grad_squares = self.sums.tolist()
        awake = torch.cat(list(self.awake.values()))
        mean = total / self.elements
        return Row(
            layer=self.name,
            activation=kind,
            dead=1 - awake.double().mean().item(),
            saturated=None if self.activation.family == "rectifiers" else flat / self.elements,
            sparsity=1 - nonzero / self.elements,
            mean=mean,
            std=math.sqrt(max(0.0, squares / self.elements - mean * mean)),
            grad_norm=math.sqrt(grad_squares / self.grad_elements) if self.grad_elements else None,
        )


def _flat_intervals(activation: Activation, module: nn.Module) -> list[tuple[float, float]]:
    """The inputs (low, high] at which the activation counts as flat, see `Row`. Exact at kinks, else to 0.001."""
    arguments = {name: getattr(module, name) for name in activation.parameters}
    kinks = activation.kinks(**arguments)
    with torch.inference_mode(False), torch.enable_grad():
        if activation.weight:
            arguments["weight"] = torch.zeros(1, dtype=torch.float64)  # any but 1 shows which side is learned
        grid = torch.linspace(-30, 30, 60001, dtype=torch.float64)
        edges = torch.cat((grid, torch.tensor(kinks, dtype=torch.float64))).unique()
        middles = ((edges[1:] + edges[:-1]) / 2).requires_grad_()
        (slopes,) = torch.autograd.grad(activation.reference(middles, **arguments).sum(), middles)
    flat = slopes != 1 if activation.family == "rectifiers" else slopes.abs() < 0.05 * slopes.abs().max()
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    bounds = [-math.inf, *edges[changes].tolist(), math.inf]
    states = [flat[0].item(), *flat[changes].tolist()]
    return [bound for bound, state in zip(pairwise(bounds), states, strict=True) if state]
