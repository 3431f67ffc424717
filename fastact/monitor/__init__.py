"""Watch a model's activations while it trains: the loss alone says little."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..catalogue import ACTIVATIONS, Activation
from ..twins import derived_row_of
from .calls import Calls, leave, site
from .layers import After, Before, Enter, Entered, Here, Layer, Leave, Numbers, Seen, SeenOnCpu, in_backward
from .logging import log
from .report import Finding, Report, Row
from .statistics import EXPONENTS, wide

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.hooks import RemovableHandle

__all__ = ["EXPONENTS", "Finding", "Monitor", "Report", "Row", "Snapshot"]

_MOST_VARIANTS = 8
"""Of one function on one line, with different arguments; more are counted together."""


class Snapshot(NamedTuple):
    """What was seen up to a step, since the snapshot before.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> with fastact.Monitor(model) as monitor:
        ...     output = model(torch.randn(2, 4))
        ...     monitor.snapshot(step=1)
        >>> [snapshot] = monitor.history
        >>> snapshot.step, len(snapshot.report.rows)
        (1, 1)
    """

    step: int
    report: Report


class Monitor:
    """Follow the activations of a model while the context is open.

    It sees modules, torch.nn's, fastact's and those of transformers, timm and diffusers that `fastact.convert` knows by
    name, and calls of functions within the model's forward, `F.gelu(x)`, `torch.relu(x)`, `x.sigmoid_()`, by the line
    they come from. Results of the model do not change, no tensor is kept,
    and nothing waits for the GPU before it is read. The same holds under `fastact.enable()`.

    What checkpointing computes again counts once. What has no numbers to look at runs as without a monitor, and the
    layer's `Row.note` says so: complex, integer and quantised numbers, sparse and nested tensors, meta and fake ones,
    calls in compiled and exported graphs and within torch.func's transforms. Functions are not seen in models of which
    a part is compiled, nor within functions of torch such as `F.multi_head_attention_forward`.
    In calls that are looked at, as under any hooks on modules, `torch.nn.TransformerEncoderLayer` in evaluation leaves
    its fast path, and rounds otherwise there.

    Args:
        model: the module to watch.
        every: k, at least 1, to look at each k-th call of the model, and of modules that are called outside of one.
        unit_dim: the input's dimension along which the units lie. 1 is torch's channels, or the features of a batch of
            vectors; -1 suits transformers.
        grad_scale: what gradients are divided by, a number above 0 or a tensor of one. As an attribute it may be set at
            any time. Under a `torch.amp.GradScaler` set it to `scaler.get_scale()` after each update, or all gradients
            seem as large as the scaler makes them.
        functional: whether to look at functions.
        histograms: whether to count outputs and gradients by magnitude too, of up to 4,096 elements of each call.

    Raises:
        TypeError: if `every` is not an int, or `grad_scale` neither a number nor a tensor of one.
        ValueError: if `every` is below 1, or `grad_scale` a number that is not above 0.
        RuntimeError: if the context is opened twice.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> with fastact.Monitor(model) as monitor:
        ...     model(torch.randn(128, 64)).square().mean().backward()
        >>> [(row.layer, row.activation, row.dead) for row in monitor.report().rows]
        [('1', 'ReLU', 0.0)]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 1,
        unit_dim: int = 1,
        grad_scale: float | Tensor = 1.0,
        functional: bool = True,
        histograms: bool = False,
    ) -> None:
        if not isinstance(every, int):
            raise TypeError(f"every must be an int, got {every!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._model, self._every, self._functional = model, every, functional
        self.unit_dim, self.histograms = unit_dim, histograms
        self.control = Numbers(0.0, math.nan)  # whether the context is open, and `grad_scale` if that is a number
        self.grad_scale = grad_scale
        self._begin()

    def _begin(self) -> None:
        self._layers: list[Layer] = []
        self._at: dict[tuple[object, ...], Layer] = {}
        self._handles: list[RemovableHandle] = []
        self.control[0] = 0.0
        self._cuts: list[Snapshot | tuple[int, list[tuple[Layer, Seen]]]] = []
        self.here, self.lock = Here(), threading.RLock()
        self._forwards = self._forwards_in_backward = 0
        self.looking: set[Entered] = set()  # the calls of the model that are running and looked at, of all threads

    @property
    def is_open(self) -> bool:
        """Whether the context is."""
        return self.control[0] != 0

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
        elif not float(value) > 0:
            raise ValueError(f"grad_scale must be above 0, got {value}")
        self._grad_scale = value
        self.scale_is_number = not isinstance(value, Tensor)
        self.control[1] = float(value) if self.scale_is_number else math.nan

    def _scale_on(self, device: torch.device) -> Tensor | None:
        """The same for statistics on a device; None where there is nothing to divide by."""
        scale = self._grad_scale
        if not isinstance(scale, Tensor):
            return None if scale == 1 else torch.tensor(scale, dtype=wide(device), device=device)
        return scale.detach().reshape(()).to(device, wide(device))

    def __enter__(self) -> Monitor:
        if self.is_open:
            raise RuntimeError("this monitor is open already")
        self._begin()
        self.control[0] = 1.0
        compiled: list[str] = []
        for name, module in self._model.named_modules():
            if getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod"):
                compiled.append(name)
            found = derived_row_of(module)
            if found is not None:
                layer = self._layer_of(name, module, *found)
                layer.compiled = any(not outer or name == outer or name.startswith(f"{outer}.") for outer in compiled)
                self._handles.append(module.register_forward_pre_hook(Before(layer), with_kwargs=True))
                self._handles.append(module.register_forward_hook(After(layer), with_kwargs=True, always_call=True))
        in_model = self._functional or self._every > 1
        if in_model and not compiled and not isinstance(self._model, torch.jit.ScriptModule):
            self._handles.append(self._model.register_forward_pre_hook(Enter(self), prepend=True))
            self._handles.append(self._model.register_forward_hook(Leave(self), always_call=True))
        return self

    def __exit__(self, *exception: object) -> None:
        self.control[0] = 0.0
        while self._handles:
            self._handles.pop().remove()
        self._leave_down_to(0)

    def _layer_of(self, name: str, module: nn.Module, row_name: str, computes_otherwise: bool) -> Layer:
        row = ACTIVATIONS[row_name]

        def arguments() -> dict[str, Any]:
            if computes_otherwise:
                raise TypeError("it has a forward of its own")
            return {name: getattr(module, name) for name in row.scalars}

        layer = Layer(name, name, type(module).__name__, row, arguments, self, self._every)
        self._layers.append(layer)
        return layer

    @contextmanager
    def functions(self) -> Iterator[None]:
        """Look at functions that are called in this block, as in a call of the model.

        It is for training steps that call parts of the model one by one.

        Returns:
            A context manager.

        Raises:
            RuntimeError: if the monitor is not open.

        Examples:
            >>> model = nn.Linear(4, 4)
            >>> with fastact.Monitor(model) as monitor, monitor.functions():
            ...     output = torch.tanh(model(torch.randn(2, 4)))
            >>> [row.activation for row in monitor.report().rows]
            ['tanh']
        """
        if not self.is_open:
            raise RuntimeError("the monitor is not open")
        self._enter(self._model, is_block=True)
        try:
            yield
        finally:
            self._leave()

    def _of_forward(self, layer: Layer) -> int:
        """Which call of the model backward computes again with a layer's next call there."""
        looked_at = -(-self._forwards // self._every)
        return layer.calls_in_backward // max(1, layer.calls_in_model // max(1, looked_at))

    def _enter(self, model: nn.Module, is_block: bool = False) -> None:
        here = self.here
        if here.entered:
            # A call that an interrupt ended is still there, and its mode is on.
            around = max(_running_calls(model) - (not is_block), 0)
            ended = [i for i, each in enumerate(here.entered) if not each.is_block][around:]
            if ended:
                self._leave_down_to(ended[0])
        again = in_backward()
        forwards = self._forwards_in_backward if again else self._forwards
        looked_at = not here.entered and forwards % self._every == 0
        calls = Calls(self) if looked_at and self._functional else None
        # In this order, and left in the opposite one: what an interrupt in between leaves, the next call clears away.
        entered = Entered(is_block, again, calls, len(here.hidden), sys.exc_info()[1])
        here.entered.append(entered)
        if looked_at:
            here.in_layer = False
            self.looking.add(entered)
        if calls is not None:
            calls.__enter__()

    def _leave(self, output: object = None) -> None:
        here = self.here
        if not here.entered:  # opened within the call
            return
        entered = self._leave_last(here)
        failed = output is None and sys.exc_info()[1] is not entered.error
        if failed or here.entered:
            return
        with self.lock:
            if entered.again:
                self._forwards_in_backward += 1
            else:
                self._forwards += 1

    def _leave_last(self, here: Here) -> Entered:
        entered = here.entered[-1]
        if entered.calls is not None:
            leave(entered.calls)
        if self.looking:
            self.looking.discard(entered)
        if here.hidden:
            del here.hidden[entered.hidden :]  # of activations that an interrupt ended
        return here.entered.pop()

    def _leave_down_to(self, number: int) -> None:
        """Leave all calls of the model from that number on."""
        while len(self.here.entered) > number:
            self._leave_last(self.here)

    def _layer_at(self, row: Activation, scalars: Mapping[str, Any]) -> Layer:
        """What is seen of a function, with these numbers as arguments, where it is being called."""
        where = site()
        numbers = tuple(each if isinstance(each, Real) else type(each).__name__ for each in scalars.values())
        key: tuple[object, ...] = (where, row.name, *numbers)
        with self.lock:
            layer = self._at.get(key)
            if layer is not None:
                return layer
            same = [each for each in self._at if each[:2] == key[:2]]
            varies = len(same) >= _MOST_VARIANTS
            if varies:
                key = (where, row.name, "varies")
                if key in self._at:
                    return self._at[key]
            # Two functions on one line, or one with several arguments, need names of their own.
            shown = "varying arguments" if varies else ", ".join(f"{name}={each}" for name, each in scalars.items())
            names = (where, f"{where} {row.function}", f"{where} {row.function}({shown})")
            taken = {each.name for each in self._layers}
            name = next((each for each in names if each not in taken), names[-1])

            def arguments() -> Mapping[str, Any]:
                if varies:
                    raise TypeError("its arguments vary")
                return scalars

            layer = self._at[key] = Layer(key, name, row.function, row, arguments, self, 1)
            self._layers.append(layer)
            return layer

    def report(self, *, across_ranks: bool | dist.ProcessGroup = False) -> Report:
        """Tell what has been seen since the last snapshot or, if there is none, since the context opened.

        It may be asked while the context is still open.

        Args:
            across_ranks: whether to merge what all processes have seen, True of the default group or a group. Each of
                them must call.

        Returns:
            One row per layer, and findings. As text, a table.

        Examples:
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.Hardtanh())
            >>> with fastact.Monitor(model) as monitor:
            ...     output = model(torch.full((500, 4), 1e4))
            >>> monitor.report().rows[0].saturated
            1.0
        """
        seen = [SeenOnCpu.of(layer, layer.seen) for layer in self._layers]
        return _report(_of_all_ranks(seen, across_ranks) if across_ranks else seen)

    def snapshot(self, step: int, *, across_ranks: bool | dist.ProcessGroup = False) -> None:
        """Add what was seen since the last snapshot to the history, and begin anew.

        It waits for no GPU, unless it merges across ranks.

        Args:
            step: the number of the training step, from 0 to 2^63 - 1.
            across_ranks: as for `report`.

        Raises:
            TypeError: if `step` is no integer.
            ValueError: if `step` is negative or too large.

        Examples:
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            >>> with fastact.Monitor(model) as monitor:
            ...     for step in range(201):
            ...         output = model(torch.randn(2, 4))
            ...         if step % 100 == 0:
            ...             monitor.snapshot(step)
            >>> [step for step, report in monitor.history]
            [0, 100, 200]
        """
        step = index(step)
        if not 0 <= step < 1 << 63:
            raise ValueError(f"step must be from 0 to 2**63 - 1, got {step}")
        with self.lock:  # between calls of other threads
            if across_ranks:
                self._cuts.append(Snapshot(step, self.report(across_ranks=across_ranks)))
            else:
                self._cuts.append((step, [(layer, layer.seen) for layer in self._layers]))
            for layer in self._layers:
                layer.cut(step)

    @property
    def history(self) -> list[Snapshot]:
        """The snapshots so far."""
        read: list[Snapshot] = []
        for cut in self._cuts:
            if not isinstance(cut, Snapshot):
                step, seen = cut
                cut = Snapshot(step, _report([SeenOnCpu.of(layer, each) for layer, each in seen]))
            read.append(cut)
        self._cuts = [*read]
        return read

    def reset(self) -> None:
        """Forget what has been seen, the history too."""
        self._cuts = []
        self._forwards = self._forwards_in_backward = 0
        for layer in self._layers:
            layer.forget()

    def save(self, file: str | Path) -> None:
        """Write the history as JSON, which `python -m fastact play --load` shows.

        Args:
            file: the file to write.
        """
        Path(file).write_text(json.dumps([{"step": step, **report.to_dict()} for step, report in self.history]))

    def log_to(self, writer: Any, step: int, *, across_ranks: bool | dist.ProcessGroup = False) -> None:
        """Take a snapshot, and write it to the tool that follows the training run, as `<layer>/dead` and so on.

        Args:
            writer: TensorBoard's `SummaryWriter`, or what has a `log(values, step=step)`, as wandb, trackio and their
                runs. Across ranks, None in processes that have no writer.
            step: the number of the training step.
            across_ranks: as for `report`.

        Raises:
            TypeError: if `writer` is another kind of writer.

        Examples:
            >>> class Printer:
            ...     def log(self, values, step):
            ...         print(step, values["1/dead"])
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            >>> with fastact.Monitor(model) as monitor:
            ...     output = model(torch.ones(2, 4))
            ...     monitor.log_to(Printer(), step=1)
            1 ...
        """
        if not (writer is None or hasattr(writer, "add_scalar") or hasattr(writer, "log")):
            raise TypeError(f"a writer has add_scalar, as TensorBoard's, or log, as wandb; got {writer!r}")
        self.snapshot(step, across_ranks=across_ranks)
        if writer is not None:
            log(writer, *self.history[-1])

    def plot(self, file: str | Path | None = None) -> Figure:
        """Draw the history over time and layers: dead units, saturation and the gradient's norm.

        With `histograms` it draws outputs and gradients by their magnitudes too.

        Args:
            file: writes the picture too. The ending decides the format: PNG, SVG or what else matplotlib writes, or
                HTML, one page that shows values under the pointer and works offline (which needs `fastact[play]`).

        Returns:
            matplotlib's figure.

        Raises:
            ValueError: if there is no snapshot yet.
            ImportError: if a library is missing (`pip install fastact[plot]`).
        """
        if not self._cuts:
            raise ValueError("there is no snapshot to draw: call monitor.snapshot(step) while the model trains")
        from ..tools import history

        return history.draw(self.history, file)


def _report(seen: list[SeenOnCpu]) -> Report:
    """In the order of first calls; layers that were not called stand before the next one of the model that was."""
    none_called = not any(each.called for each in seen)
    places, following = [], math.inf
    for i, each in reversed([*enumerate(seen)]):
        following = each.first_call if each.first_call < math.inf else following
        places.append((following, i))
    return Report([seen[i].row(none_called) for _, i in sorted(places)])


def _of_all_ranks(seen: list[SeenOnCpu], group: bool | dist.ProcessGroup) -> list[SeenOnCpu]:
    """A layer that only some ranks have called is there too."""
    among = None if isinstance(group, bool) else group
    found: list[Any] = [None] * dist.get_world_size(among)
    dist.all_gather_object(found, seen, among)
    merged: dict[object, SeenOnCpu] = {}
    for each in (each for rank in found for each in rank):
        merged[each.key] = merged[each.key].merged(each) if each.key in merged else each
    return [*merged.values()]


def _running_calls(model: nn.Module) -> int:
    """How many of the model's calls are running in this thread."""
    calls, frame = 0, sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model:
            calls += 1
        frame = frame.f_back  # type: ignore[assignment]
    return calls
