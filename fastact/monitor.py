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
from .enable import torch_kernels

__all__ = ["Monitor", "Report", "Row"]

_ROWS: dict[type[nn.Module], list[Activation]] = {}
for _row in ACTIVATIONS.values():
    for _class in (_row.stock or getattr(modules, _row.module), *(getattr(nn, name) for name in _row.further_modules)):
        _ROWS.setdefault(_class, []).append(_row)


def _row_of(module: nn.Module) -> Activation | None:
    """The catalogue's row for a module, if it is an activation."""
    # The most specific class decides: torch.nn.ReLU6, say, is a Hardtanh too.
    rows = next((_ROWS[base] for base in type(module).__mro__ if base in _ROWS), [])
    fitting = (row for row in rows if all(getattr(module, name) == value for name, value in row.options.items()))
    return max(fitting, key=lambda row: len(row.options), default=None)


@dataclass(frozen=True)
class Row:
    """What was seen of one layer; None where nothing was."""

    layer: str
    """As in `model.named_modules()`."""
    activation: str
    dead: float | None
    """Share of the units whose every element lay where the activation is flat: for one made of two straight lines, as
    ReLU and its leaky variants, on the side whose slope is not 1 (with a leak, gradients still pass there); for others
    where the derivative is below 5% of its maximum, or of 1 where that is larger. None where flatness is not a matter
    of one input: gated units, Maxout and softmax, and learned curves."""
    saturated: float | None
    """Share of the elements where the activation is flat; None also for those made of two straight lines."""
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
    tensor is kept, and nothing waits for the GPU before `report`. The same holds under `fastact.enable()`: modules are
    seen, whose kernels ever they run, and functional calls, as `torch.nn.functional.gelu(x)`, are not.
    """

    def __init__(self, model: nn.Module, *, every: int = 1, unit_dim: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._model, self._every, self._unit_dim = model, every, unit_dim
        self._layers: list[_Layer] = []

    def __enter__(self) -> Monitor:
        self._layers = []
        for name, module in self._model.named_modules():
            row = _row_of(module)
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
        self.name, self.module = name, module
        self.every, self.unit_dim = every, unit_dim
        self.flat, self.saturates = _flat_intervals(activation, module)
        self.calls = self.elements = self.grad_elements = 0
        with torch.inference_mode(False):  # over elements: flat, not zero, output, its square, its gradient's square
            self.sums = torch.zeros(5, dtype=torch.float64)
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
        input = args[0] if args else kwargs["input"]
        self.calls += 1
        if not self.watches(input):
            return
        if self.sums.device != input.device:
            with torch.inference_mode(False):
                self.sums = self.sums.to(input.device)
        if self.flat is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.zeros_like(input, dtype=torch.bool)
            for low, high in self.flat:
                flat |= (input > low) & (input <= high)
            units = flat if flat.dim() > 1 else flat.reshape(1, -1)
            units = units.movedim(self.unit_dim, 0)
            awake = ~units.reshape(len(units), -1).all(1)
            self.awake[len(units)] = self.awake.get(len(units), False) | awake
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
        if not self.elements:
            return Row(self.name, kind, None, None, None, None, None, None)
        flat, nonzero, total, squares, grad_squares = self.sums.tolist()
        mean = total / self.elements
        return Row(
            layer=self.name,
            activation=kind,
            dead=1 - torch.cat(list(self.awake.values())).double().mean().item() if self.awake else None,
            saturated=flat / self.elements if self.saturates else None,
            sparsity=1 - nonzero / self.elements,
            mean=mean,
            std=math.sqrt(max(0.0, squares / self.elements - mean * mean)),
            grad_norm=math.sqrt(grad_squares / self.grad_elements) if self.grad_elements else None,
        )


def _flat_intervals(activation: Activation, module: nn.Module) -> tuple[list[tuple[float, float]] | None, bool]:
    """The inputs (low, high] at which the activation is flat, see `Row`, exact at kinks, else to 0.001; None where that
    is not told. And whether to call it saturation."""
    if not activation.pointwise:
        return None, False
    arguments = {name: getattr(module, name) for name in activation.scalars}
    kinks = activation.kinks(**arguments)
    with torch.inference_mode(False), torch.enable_grad(), torch_kernels():
        # Where a slope is learned, any but 1 shows on which side.
        arguments |= {name: torch.full((1,), low, dtype=torch.float64) for name, (low, _) in activation.weights.items()}
        grid = torch.linspace(-30, 30, 60001, dtype=torch.float64)
        edges = torch.cat((grid, torch.tensor(kinks, dtype=torch.float64))).unique()
        middles = ((edges[1:] + edges[:-1]) / 2).requires_grad_()
        output = activation.reference(middles, **arguments, **activation.options)
        (slopes,) = torch.autograd.grad(output.sum(), middles)
    two_lines = slopes.diff().count_nonzero() == 1
    if activation.weights and not two_lines:
        return None, False
    flat = slopes != 1 if two_lines else slopes.abs() < 0.05 * slopes.abs().max().clamp(max=1)
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    bounds = [-math.inf, *edges[changes].tolist(), math.inf]
    states = [flat[0].item(), *flat[changes].tolist()]
    return [bound for bound, state in zip(pairwise(bounds), states, strict=True) if state], not two_lines
