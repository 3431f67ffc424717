"""Watch a model's activations while it trains: the loss alone says little.

>>> with Monitor(model) as monitor:
...     train(model)
>>> print(monitor.report())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting
from torch.utils.hooks import RemovableHandle, unserializable_hook

from . import modules
from .catalogue import ACTIVATIONS, Activation
from .dispatch import DTYPES, makes_graph
from .enable import torch_kernels
from .ops import overload

__all__ = ["Finding", "Monitor", "Report", "Row"]

FLAT = 0.05
"""A smooth activation is flat where its derivative is below this share of its maximum, or of 1 where that is larger."""

_ROWS: dict[type[nn.Module], list[Activation]] = {}
for _row in ACTIVATIONS.values():
    for _class in (_row.stock or getattr(modules, _row.module), *(getattr(nn, name) for name in _row.further_modules)):
        _ROWS.setdefault(_class, []).append(_row)


def _row_of(module: nn.Module) -> Activation | None:
    """The catalogue's row for a module, if it is an activation."""
    # The most specific class decides: torch.nn.ReLU6, say, is a Hardtanh too.
    rows = next((_ROWS[base] for base in type(module).__mro__ if base in _ROWS), [])
    fitting = (row for row in rows if all(getattr(module, name, None) == value for name, value in row.options.items()))
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
    """Of the outputs that are finite, as are `std`, `min` and `max`; NaN if none is."""
    std: float | None
    grad_norm: float | None
    """Root mean square of the loss's gradient with respect to the outputs, so that layers of any size compare; of the
    finite elements."""
    min: float | None = None
    max: float | None = None
    nan: int = 0
    """How many outputs were NaN."""
    inf: int = 0
    """How many outputs were infinite."""
    grad_nan: int = 0
    """How many elements of the gradient were NaN."""
    grad_inf: int = 0
    first_bad: int | None = None
    """The first of the outputs looked at, from 0 on, that had NaN or infinity."""
    grad_first_bad: int | None = None
    """The same of the gradients."""
    seen_per_unit: float | None = None
    """How many elements of each unit `dead` is about, on average."""
    leaks: bool = False
    """Whether gradients pass where the activation is flat, as in leaky rectifiers."""
    note: str = ""
    """What could not be looked at, and why."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in words; printed, one line."""

    rule: str
    """"not-finite", "gradient-not-finite", "dead-units", "saturation", "exploding-gradient" or "vanishing-gradient"."""
    layer: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.evidence}: {self.remedy}"


_SHARES = ("dead", "saturated", "sparsity")
_VALUES = ("mean", "std", "grad_norm")
_IF_ANY = ("nan", "inf", "grad_nan", "grad_inf", "note")
"""The columns that are printed only where a layer has something there."""


@dataclass(frozen=True)
class Report:
    """One row per layer, in the model's order; printed, an aligned table."""

    rows: list[Row]

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, the worst first; nothing where that is not sure.

        - "not-finite", "gradient-not-finite": NaN or infinity, in the layer where it was first seen.
        - "dead-units": of more than 15% of the units, each seen 500 times or more, every element was flat, and no
          gradient passes there. An output of zero is not dead: most are in many a healthy network.
        - "saturation": more than half of the elements were flat, those not counted that gave zero.
        - "exploding-gradient", "vanishing-gradient": the first layer's gradient is 1,000 times the last one's, or a
          100,000th. Layers count as running in the model's order.

        >>> print(*monitor.report().findings, sep="\\n")
        layer4.relu: 41% of the units are dead: lower the learning rate, or take a LeakyReLU
        """
        return [finding for rule in _RULES for finding in rule(self.rows)]

    def to_dict(self) -> dict[str, Any]:
        """Rows and findings as dictionaries of numbers and text, for JSON. A mean of nothing finite is NaN."""
        return {"rows": [asdict(row) for row in self.rows], "findings": [asdict(each) for each in self.findings]}

    def __str__(self) -> str:
        further = [name for name in _IF_ANY if any(getattr(row, name) for row in self.rows)]
        cells = [["layer", "activation", *_SHARES, *_VALUES, *further]]
        for row in self.rows:
            shares = [_show(getattr(row, name), ".1%") for name in _SHARES]
            values = [_show(getattr(row, name), ".3g") for name in _VALUES]
            cells.append([row.layer, row.activation, *shares, *values, *(str(getattr(row, name)) for name in further)])
        left = {0, 1, *(i for i, name in enumerate(cells[0]) if name == "note")}
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            padded = [f"{cell:{'<' if i in left else '>'}{widths[i]}}" for i, cell in enumerate(line)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _not_finite(rows: list[Row]) -> Iterator[Finding]:
    """Where it began: what follows has it from there, and from the next step on, by the weights, so has the rest."""
    first = min((row for row in rows if row.first_bad is not None), key=lambda row: row.first_bad or 0, default=None)
    backward = [row for row in reversed(rows) if row.grad_first_bad is not None]
    first_backward = min(backward, key=lambda row: row.grad_first_bad or 0, default=None)
    if first is not None and (first_backward is None or (first.first_bad or 0) <= (first_backward.grad_first_bad or 0)):
        yield Finding(
            "not-finite",
            first.layer,
            f"{first.nan} outputs were NaN and {first.inf} infinite, here first",
            "look at its input and at the loss scale, lower the learning rate, or clip gradients",
        )
    elif first_backward is not None:
        yield Finding(
            "gradient-not-finite",
            first_backward.layer,
            f"{first_backward.grad_nan} elements of the gradient were NaN and {first_backward.grad_inf} infinite, here "
            "first",
            "look at the loss and at what follows this layer; under a GradScaler a few do no harm",
        )


_DEAD, _ENOUGH, _SATURATED, _EXPLODES, _VANISHES = 0.15, 500, 0.5, 1e3, 1e-5


def _dead_units(rows: list[Row]) -> Iterator[Finding]:
    found = [
        row
        for row in rows
        if row.dead is not None and row.dead > _DEAD and not row.leaks and (row.seen_per_unit or 0) >= _ENOUGH
    ]
    for row in sorted(found, key=lambda row: -(row.dead or 0)):
        remedy = "lower the learning rate, or take a LeakyReLU"
        if row.saturated is not None:
            remedy = "lower the learning rate, normalise the input, or take an activation that is flat nowhere"
        yield Finding("dead-units", row.layer, f"{row.dead:.0%} of the units are dead", remedy)


def _saturation(rows: list[Row]) -> Iterator[Finding]:
    shares = [((row.saturated or 0) - (row.sparsity or 0), row) for row in rows]
    for share, row in sorted(shares, key=lambda pair: -pair[0]):
        if share > _SATURATED:
            yield Finding(
                "saturation",
                row.layer,
                f"{row.saturated:.0%} of the inputs lie where {row.activation} is flat",
                "normalise the input, or start from smaller weights",
            )


def _gradients(rows: list[Row]) -> Iterator[Finding]:
    norms = [(row.grad_norm, row) for row in rows if row.grad_norm is not None and math.isfinite(row.grad_norm)]
    if len(norms) < 2:
        return
    (first, row), (last, last_row) = norms[0], norms[-1]
    evidence = f"the gradient is {first:.1g} here and {last:.1g} in {last_row.layer}"
    if first > _EXPLODES * last > 0:
        yield Finding("exploding-gradient", row.layer, evidence, "clip gradients, or start from smaller weights")
    elif first < _VANISHES * last:
        yield Finding(
            "vanishing-gradient", row.layer, evidence, "take residual connections, normalisation or another activation"
        )


_RULES = (_not_finite, _dead_units, _saturation, _gradients)  # the worst first
_LEAKY = frozenset(("leaky_relu", "prelu", "rrelu"))


class Monitor:
    """Follow every activation module of `model`, torch.nn's and fastact's, while the context is open.

    Units are the input's dimension `unit_dim`, by default 1: torch's channels, or the features of a batch of vectors
    (-1 suits transformers). `every=k` looks at every k-th call of a layer only. Results of the model do not change, no
    tensor is kept, and nothing waits for the GPU before `report`. The same holds under `fastact.enable()`: modules are
    seen, whose kernels ever they run, and functional calls, as `torch.nn.functional.gelu(x)`, are not.

    Gradients are divided by `grad_scale`, a number or a tensor of one, which may be set at any time. Under a
    `torch.amp.GradScaler`, set it after each update, or all gradients seem as large as the scaler makes them:

    >>> monitor.grad_scale = scaler.get_scale()

    What checkpointing computes again counts once. What has no numbers to look at runs as without a monitor, and the
    layer's `Row.note` says so: complex, integer and quantised numbers, sparse and nested tensors, meta and fake ones,
    calls in compiled and exported graphs and within torch.func's transforms. torch.nn.TransformerEncoderLayer in
    evaluation leaves its fast path, as under any hooks on modules, and rounds otherwise there.

    Raises TypeError if `every` is not an int or `grad_scale` neither a number nor a tensor of one; ValueError if
    `every` is below 1 or `grad_scale` a number that is not above 0; RuntimeError where the context is opened twice.
    """

    def __init__(
        self, model: nn.Module, *, every: int = 1, unit_dim: int = 1, grad_scale: float | Tensor = 1.0
    ) -> None:
        if not isinstance(every, int):
            raise TypeError(f"every must be an int, got {every!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._model, self._every, self._unit_dim = model, every, unit_dim
        self.grad_scale = grad_scale
        self._layers: list[_Layer] = []

    @property
    def grad_scale(self) -> float | Tensor:
        """What gradients are divided by."""
        return self._grad_scale

    @grad_scale.setter
    def grad_scale(self, value: float | Tensor) -> None:
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_complex():
                raise TypeError(f"grad_scale must be a number or a tensor of one, got {tuple(value.shape)}")
        elif not isinstance(value, Real):
            raise TypeError(f"grad_scale must be a number or a tensor of one, got {value!r}")
        elif not value > 0:
            raise ValueError(f"grad_scale must be above 0, got {value}")
        self._grad_scale = value

    def __enter__(self) -> Monitor:
        if any(layer.handles for layer in self._layers):
            raise RuntimeError("this monitor is open already")
        self._layers = []
        compiled: list[str] = []
        for name, module in self._model.named_modules():
            if getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod"):
                compiled.append(name)
            row = _row_of(module)
            if row is not None:
                within = any(not outer or name == outer or name.startswith(f"{outer}.") for outer in compiled)
                self._layers.append(_Layer(name, module, row, self, within))
        for layer in self._layers:
            layer.open()
        return self

    def __exit__(self, *exception: object) -> None:
        for layer in self._layers:
            layer.close()

    def report(self) -> Report:
        """What has been seen so far; also while the context is still open."""
        none_called = not any(layer.was_called for layer in self._layers)
        return Report([layer.row(none_called) for layer in self._layers])


class _Summary(NamedTuple):
    """Of some tensors' elements, as `torch.ops.fastact.summary` has it: `squares` are of deviations from the mean."""

    finite: float
    mean: float
    squares: float
    least: float
    most: float
    zeros: float
    flat: float
    nan: float
    inf: float

    @property
    def numel(self) -> float:
        return self.finite + self.nan + self.inf


class _Summaries:
    """Many of them, merged now and then, on their device."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.merged: Tensor | None = None
        self.merged_count = 0
        self.first_bad: Tensor | None = None

    def add(self, part: Tensor) -> None:
        self.parts.append(part)
        if len(self.parts) >= 64:  # a merge takes some operations, whatever the number
            self.merge()

    def merge(self) -> None:
        with torch.no_grad():
            parts = torch.stack([part.to(self.parts[-1].device) for part in self.parts])
            number = torch.arange(self.merged_count, self.merged_count + len(parts), device=parts.device)
            first_bad = torch.where(parts[:, -2:].sum(1) > 0, number, math.inf).amin()
            if self.merged is not None and self.first_bad is not None:
                first_bad = torch.minimum(first_bad, self.first_bad.to(parts.device))
                parts = torch.cat((self.merged.to(parts.device)[None], parts))
            self.merged, self.first_bad = _merged(parts), first_bad
        self.merged_count += len(self.parts)
        self.parts = []

    def total(self) -> tuple[_Summary | None, int | None]:
        """Of all, and the number of the first with NaN or infinity."""
        if self.parts:
            self.merge()
        if self.merged is None or self.first_bad is None:
            return None, None
        first_bad = self.first_bad.item()
        return _Summary(*self.merged.tolist()), int(first_bad) if math.isfinite(first_bad) else None


def _merged(parts: Tensor) -> Tensor:
    """Merge means and squares as Chan, Golub and LeVeque 1979 do, which cancels nothing."""
    count, mean, squares, least, most, *counts = parts.unbind(1)
    total = count.sum()
    mean_of_all = (count * mean).sum() / total.clamp(min=1)
    squares_of_all = (squares + count * (mean - mean_of_all).square()).sum()
    return torch.stack(
        [total, mean_of_all, squares_of_all, least.amin(), most.amax(), *(each.sum() for each in counts)]
    )


def _summary(input: Tensor, bounds: Tensor, unit_dim: int | None) -> tuple[Tensor, Tensor | None]:
    """A `_Summary` as a tensor, and whether any element of each unit is not flat."""
    dense = input.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(input)
    if input.is_cpu and dense and not input._is_zerotensor():
        totals, awake = _OP(input, bounds, unit_dim)
        return totals, None if unit_dim is None else awake
    return _summary_by_torch(input, bounds.tolist(), unit_dim)


_OP = overload("summary")


def _summary_by_torch(
    input: Tensor, bounds: list[tuple[float, float]], unit_dim: int | None
) -> tuple[Tensor, Tensor | None]:
    """The same on any device, without waiting for it, in torch's ops."""
    input = input.float() if input.itemsize < 4 else input
    wide = torch.float32 if input.device.type == "mps" else torch.float64  # that device has no float64
    flat = torch.zeros_like(input, dtype=torch.bool)
    for low, high in bounds:
        flat |= (input <= high) if low == -math.inf else (input > low) & (input <= high)
    awake = None if unit_dim is None else (~flat).movedim(unit_dim, 0).flatten(1).any(1)
    finite, nan = input.isfinite(), input.isnan()
    count = finite.sum()
    least_count = count.clamp(min=1)
    mean = torch.where(finite, input, 0).sum(dtype=wide) / least_count
    # Squares of numbers less their mean, which is rounded to their dtype, lose nothing to cancellation.
    shift = mean.to(input.dtype)
    squares = torch.linalg.vector_norm(torch.where(finite, input - shift, 0), dtype=wide).square()
    found = (
        count,
        mean,
        (squares - count * (mean - shift).square()).clamp(min=0),
        torch.where(finite, input, math.inf).amin(),
        torch.where(finite, input, -math.inf).amax(),
        (input == 0).sum(),
        flat.sum(),
        nan.sum(),
        (~finite & ~nan).sum(),
    )
    return torch.stack([each.to(wide) for each in found]), awake


class _Hook:
    """A hook on a module. Where a copy of the module is made, or it is pickled, a function that does nothing stands in
    for it: a copy is not watched."""

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        self.call(*args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (nullcontext(), "__exit__")  # of the standard library, which is there when it is loaded


def _in_backward() -> bool:
    """Whether a call is made by backward: checkpointing runs what it left out again there."""
    return torch._C._current_graph_task_id() != -1


class _Layer:
    """The hooks on one module, and what they have seen, on the module's device."""

    def __init__(self, name: str, module: nn.Module, activation: Activation, monitor: Monitor, compiled: bool) -> None:
        self.name, self.module, self.monitor, self.compiled = name, module, monitor, compiled
        self.every, self.unit_dim = monitor._every, monitor._unit_dim
        self.notes: dict[str, list[str]] = {}  # what is the matter, with which tensors of a call
        self.in_graph = False
        self.calls = self.calls_in_backward = 0
        self.leaks = activation.name in _LEAKY
        flat, self.saturates = self.flat_intervals(activation)
        self.told = flat is not None
        with torch.device("cpu"):  # whatever the default is
            self.bounds = torch.tensor(flat or [], dtype=torch.float64).reshape(-1, 2)
            self.nothing = torch.empty(0, 2, dtype=torch.float64)
        self.inputs, self.outputs, self.gradients = _Summaries(), _Summaries(), _Summaries()
        self.input: tuple[Tensor, Tensor | None] | None = None  # of the call that is running
        self.awake: dict[int, Tensor] = {}  # by number of units: a module may be called at several places of a model
        self.handles: list[RemovableHandle] = []

    def flat_intervals(self, activation: Activation) -> tuple[list[tuple[float, float]] | None, bool]:
        if not activation.pointwise:
            return None, False
        forward = type(self.module).forward
        if forward.__module__.partition(".")[0] not in ("torch", "fastact"):
            self.note("has a forward of its own: where it is flat is not known")
            return None, False
        try:
            return _flat_intervals(activation, self.module)
        except Exception as error:
            self.note(f"where it is flat is not known: {error}")
            return None, False

    def open(self) -> None:
        self.handles.append(self.module.register_forward_pre_hook(_Hook(self.before), with_kwargs=True))
        self.handles.append(self.module.register_forward_hook(_Hook(self.after)))

    def close(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def note(self, reason: str, about: str = "") -> None:
        whats = self.notes.setdefault(reason, [])
        if about and about not in whats:
            whats.append(about)

    def before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # Ahead of the call, since an activation in place leaves no input to look at. It counts once the call is over:
        # it may fail.
        if is_compiling():
            if not is_exporting():  # which warns of side effects, and does not run the model
                self.in_graph = True
            return
        self.input = None
        if self.told and self.calls % self.every == 0 and not _in_backward():
            first = args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))
            self.input = self.summary(first, "input", self.bounds, self.unit_dim)

    def after(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if is_compiling():
            return
        if _in_backward():  # counted already; but under reentrant checkpointing only this output has a gradient
            watched = self.calls_in_backward % self.every == 0
            self.calls_in_backward += 1
        else:
            watched = self.calls % self.every == 0
            self.calls += 1
            if watched:
                self.count(output)
        if watched and isinstance(output, Tensor) and output.grad_fn is not None and torch.is_grad_enabled():
            # On the tensor: a module's full backward hook forbids working in place. Not on a leaf, which may be a
            # parameter that was changed in place: the hook would stay, and see all its gradients.
            output.register_hook(self.gradient)

    def count(self, output: Tensor) -> None:
        found = self.summary(output, "output", self.nothing, None)
        if found is not None:
            self.outputs.add(found[0])
        if self.input is not None:
            summary, awake = self.input
            self.input = None
            self.inputs.add(summary)
            if awake is not None:
                before = self.awake.get(len(awake))
                self.awake[len(awake)] = awake if before is None else awake | before.to(awake.device)

    @unserializable_hook
    def gradient(self, grad: Tensor) -> None:
        if not self.handles:  # after the context: a graph that it leaves behind still has this hook
            return
        found = self.summary(grad, "gradient", self.nothing, None)
        if found is not None:
            summary, scale = found[0], self.monitor.grad_scale
            if isinstance(scale, Tensor) or scale != 1:
                with torch.no_grad():
                    if isinstance(scale, Tensor):
                        scale = scale.detach().reshape(()).to(summary)
                    summary = summary.clone()
                    summary[1] /= scale
                    summary[2] /= scale * scale
            self.gradients.add(summary)

    def summary(
        self, tensor: object, what: str, bounds: Tensor, unit_dim: int | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Nothing where there is nothing to see. A monitor must not stop the model: an error is a note too."""
        try:
            if not isinstance(tensor, Tensor):
                self.note(f"a {type(tensor).__name__}, not a tensor", what)
                return None
            reason = _unseen(tensor)
            if reason:
                self.note(reason, what)
                return None
            if tensor.numel() == 0:
                return None
            with torch.no_grad():
                if type(tensor) is not Tensor:
                    with torch._C.DisableTorchFunctionSubclass():
                        tensor = tensor.as_subclass(Tensor)
                if unit_dim is not None and tensor.dim() < 2:
                    tensor = tensor.reshape(1, -1)
                if unit_dim is not None and not -tensor.dim() <= unit_dim < tensor.dim():
                    self.note(f"unit_dim={unit_dim}: the {what} has {tensor.dim()} dimensions")
                    unit_dim = None
                return _summary(tensor, bounds, unit_dim)
        except Exception as error:
            self.note(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", what)
            return None

    @property
    def was_called(self) -> bool:
        return bool(self.calls or self.calls_in_backward or self.in_graph)

    def row(self, none_called: bool) -> Row:
        notes = [": ".join(filter(None, (", ".join(whats), reason))) for reason, whats in self.notes.items()]
        if self.in_graph:
            notes.append("calls in a compiled graph are not seen")
        elif not self.was_called and self.compiled:
            notes.append("no call seen: a graph compiled before the monitor opened does not show its calls")
        elif none_called:
            notes.append("no call seen: none was made, or in a graph compiled before the monitor opened")
        (inputs, _), (outputs, first_bad) = self.inputs.total(), self.outputs.total()
        gradients, first_bad_gradient = self.gradients.total()
        finite = outputs is not None and outputs.finite > 0
        awake = [each.cpu() for each in self.awake.values()]

        def of_finite(value: float) -> float:
            return value if finite else math.nan

        return Row(
            layer=self.name,
            activation=type(self.module).__name__,
            dead=1 - torch.cat(awake).double().mean().item() if awake else None,
            saturated=inputs.flat / inputs.numel if inputs and self.saturates else None,
            sparsity=outputs.zeros / outputs.numel if outputs else None,
            mean=of_finite(outputs.mean) if outputs else None,
            std=of_finite(math.sqrt(outputs.squares / max(outputs.finite, 1))) if outputs else None,
            grad_norm=_root_mean_square(gradients) if gradients else None,
            min=of_finite(outputs.least) if outputs else None,
            max=of_finite(outputs.most) if outputs else None,
            nan=int(outputs.nan) if outputs else 0,
            inf=int(outputs.inf) if outputs else 0,
            grad_nan=int(gradients.nan) if gradients else 0,
            grad_inf=int(gradients.inf) if gradients else 0,
            first_bad=first_bad,
            grad_first_bad=first_bad_gradient,
            seen_per_unit=inputs.numel / sum(map(len, awake)) if inputs and awake else None,
            leaks=self.leaks,
            note="; ".join(notes),
        )


def _root_mean_square(of: _Summary) -> float:
    return math.hypot(of.mean, math.sqrt(of.squares / of.finite)) if of.finite else math.nan


def _unseen(tensor: Tensor) -> str:
    """Why there are no numbers to look at; nothing where there are."""
    if torch._C._are_functorch_transforms_active():
        return "within a transform of torch.func"
    if torch._C._get_tracing_state() is not None or (torch._C._len_torch_dispatch_stack() and makes_graph()):
        return "while a graph is traced"
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"a {type(tensor).__name__}"
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        return "batched"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES or tensor.is_meta:
        return f"{tensor.layout}, {tensor.dtype}, on {tensor.device}".replace("torch.strided, ", "")
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return "while a CUDA graph is captured"
    return ""


def _flat_intervals(activation: Activation, module: nn.Module) -> tuple[list[tuple[float, float]] | None, bool]:
    """The inputs (low, high] at which the activation is flat, see `Row`, exact at kinks; None where that is not told.
    And whether to call it saturation."""
    if not activation.pointwise:
        return None, False
    arguments = {name: getattr(module, name) for name in activation.scalars}
    for name, value in arguments.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} is a {type(value).__name__}, not a number")
    return _flat_intervals_with(activation, tuple(arguments.items()))


@lru_cache(256)
def _flat_intervals_with(
    activation: Activation, scalars: tuple[tuple[str, Any], ...]
) -> tuple[list[tuple[float, float]] | None, bool]:
    arguments = dict(scalars)
    kinks = [kink for kink in activation.kinks(**arguments) if math.isfinite(kink)]
    with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad(), torch_kernels():
        # Where a slope is learned, any but 1 shows on which side.
        arguments |= {name: torch.full((1,), low, dtype=torch.float64) for name, (low, _) in activation.weights.items()}

        def slopes_at(inputs: Tensor) -> Tensor:
            inputs = inputs.clone().requires_grad_()
            output = activation.reference(inputs, **arguments, **activation.options)
            return torch.autograd.grad(output.sum(), inputs)[0]

        # Fine where most activations bend, and by orders of magnitude up to wherever arguments may move that.
        positive = torch.cat(
            (torch.linspace(0, 30, 3001, dtype=torch.float64), torch.logspace(-8, 8, 1025, dtype=torch.float64))
        )
        edges = torch.cat((-positive, positive, torch.tensor(kinks, dtype=torch.float64)))
        outermost = 2 * edges.abs().max()
        edges = torch.cat((edges, torch.stack((-outermost, outermost)))).unique()
        middles = (edges[1:] + edges[:-1]) / 2
        slopes = slopes_at(middles)
        middles, slopes = middles[slopes.isfinite()], slopes[slopes.isfinite()]
        two_lines = slopes.diff().count_nonzero() == 1
        if activation.weights and not two_lines:
            return None, False
        least = FLAT * slopes.abs().max().clamp(max=1)

        def is_flat(slopes: Tensor) -> Tensor:
            return slopes != 1 if two_lines else slopes.abs() < least

        flat = is_flat(slopes)
        changes = (flat[1:] != flat[:-1]).nonzero().flatten()
        low, high, before = middles[changes], middles[changes + 1], flat[changes]
        for _ in range(80):  # bisection, to the last digit
            middle = (low + high) / 2
            same = is_flat(slopes_at(middle)) == before
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    found = [min(kinks, key=lambda kink: abs(kink - edge), default=edge) for edge in high.tolist()]
    edges_found = [
        kink if math.isclose(kink, edge, rel_tol=1e-9, abs_tol=1e-9) else edge
        for kink, edge in zip(found, high.tolist(), strict=True)
    ]
    bounds = [-math.inf, *edges_found, math.inf]
    states = [bool(flat[0]), *(not state for state in before.tolist())]
    return [bound for bound, state in zip(pairwise(bounds), states, strict=True) if state], bool(not two_lines)
