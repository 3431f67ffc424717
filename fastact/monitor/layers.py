"""What is looked at: calls of an activation, by a module or at a place of the program."""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from sys import exc_info
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import (
    _current_graph_task_id,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.compiler import is_compiling, is_exporting
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import unserializable_hook

from ..catalogue import Activation
from ..dispatch import DTYPES, makes_graph
from ..libraries import HAS_NODES
from ..ops import overload
from .flat import flat_intervals
from .report import Row
from .statistics import Flatness, Statistics, Summary

if TYPE_CHECKING:
    from . import Monitor

_CALLS = itertools.count()
_CPU = torch.device("cpu")  # made once: modes for functions see it made

_WATCH = overload("watch_")._op if HAS_NODES else None

UNSEEN = (
    "within a transform of torch.func",
    "while a graph is traced",
    "batched",
    "not dense",
    "divided by no number: grad_scale became a tensor after forward",
    "in compiled autograd",
    "an error while it was looked at",
)
"""Why a hook in C++ could not look at a gradient, in the order of csrc/autograd/monitor.h."""


class Numbers:
    """Some float64 numbers that hooks in C++ read, or write, at any time: whatever modes are on here, setting one is no
    op of torch's."""

    def __init__(self, *numbers: float) -> None:
        self._memory = (ctypes.c_double * len(numbers))(*numbers)

    def __getitem__(self, which: int) -> float:
        return self._memory[which]

    def __setitem__(self, which: int, value: float) -> None:
        self._memory[which] = value

    def tensor(self) -> Tensor:
        """The same memory, which the tensor keeps."""
        return torch.frombuffer(self._memory, dtype=torch.float64)


class Here(threading.local):
    """What is going on in this thread."""

    def __init__(self) -> None:
        self.in_layer = False
        self.early: set[Layer] = set()  # whose calls are running, with an input that has been looked at
        # What the calls of modules that are running took off the stack.
        self.hidden: list[tuple[Layer, TorchFunctionMode | None]] = []
        self.entered: list[Entered] = []  # one for each call of the model that is running


@dataclass(eq=False, slots=True)
class Entered:
    """A call of the model, or a block that counts as one."""

    is_block: bool
    again: bool
    """Whether it is backward's."""
    calls: TorchFunctionMode | None
    """None where functions are not looked at."""
    hidden: int
    """How many calls of activations were running."""
    error: BaseException | None
    """That was being handled before it."""


_PASSED_OVER = Entered(is_block=False, again=False, calls=None, hidden=0, error=None)
"""A call that is not looked at, made in no other one, nor by backward, nor while an error is handled."""


class Seen:
    """What was seen of a layer since the last snapshot, on its devices."""

    def __init__(self, histograms: bool) -> None:
        self.inputs = Flatness()
        self.outputs, self.gradients = Statistics(histograms), Statistics(histograms)
        # By the number of units: which were awake up to the last snapshot, and the step of the one up to which each
        # was last; -1 for never.
        self.awake_before: dict[int, Tensor] = {}
        self.last_awake: dict[int, Tensor] = {}

    def next(self, step: int, histograms: bool) -> Seen:
        """What follows a snapshot. Waits for no GPU."""
        begun = Seen(histograms)
        begun.awake_before = self.inputs.units()
        begun.last_awake = dict(self.last_awake)
        for units, awake in begun.awake_before.items():
            last = self.last_awake.get(units, torch.full_like(awake, -1, dtype=torch.int64))
            begun.last_awake[units] = torch.where(awake, step, last.to(awake.device))
        # Hooks in C++, of a step that is running, count in the same tensors.
        begun.gradients, self.gradients = self.gradients, self.gradients.cut()
        return begun


class SeenOnCpu(NamedTuple):
    """The same as numbers, and what a row says beside them; of one process or merged from several."""

    key: Hashable
    """The same in any process."""
    name: str
    label: str
    leaks: bool
    saturates: bool
    notes: tuple[str, ...]
    in_graph: bool
    compiled: bool
    called: bool
    passed_over: bool
    """Whether calls were not looked at."""
    first_call: float
    outputs: Summary
    gradients: Summary
    numel: float
    """Of the inputs."""
    flat: float
    awake: dict[int, Tensor]
    awake_before: dict[int, Tensor]
    last_awake: dict[int, Tensor]
    histogram: list[float] | None
    grad_histogram: list[float] | None

    @classmethod
    def of(cls, layer: Layer, seen: Seen) -> SeenOnCpu:
        notes = (": ".join(filter(None, (", ".join(whats), reason))) for reason, whats in layer.all_notes().items())
        called = layer.calls_in_model or layer.calls or layer.calls_in_backward or layer.in_graph or layer.passed_over
        return cls(
            layer.key,
            layer.name,
            layer.label,
            layer.leaks,
            layer.saturates,
            tuple(notes),
            layer.in_graph,
            layer.compiled,
            bool(called),
            layer.passed_over,
            layer.first_call,
            seen.outputs.total(),
            seen.gradients.total(),
            *seen.inputs.total(),
            _on_cpu(seen.inputs.units()),
            _on_cpu(seen.awake_before),
            _on_cpu(seen.last_awake),
            seen.outputs.histogram(),
            seen.gradients.histogram(),
        )

    def merged(self, other: SeenOnCpu) -> SeenOnCpu:
        return self._replace(
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
            in_graph=self.in_graph or other.in_graph,
            compiled=self.compiled or other.compiled,
            called=self.called or other.called,
            passed_over=self.passed_over or other.passed_over,
            first_call=min(self.first_call, other.first_call),
            outputs=self.outputs.merged(other.outputs),
            gradients=self.gradients.merged(other.gradients),
            numel=self.numel + other.numel,
            flat=self.flat + other.flat,
            awake=_merged(torch.logical_or, self.awake, other.awake),
            awake_before=_merged(torch.logical_or, self.awake_before, other.awake_before),
            last_awake=_merged(torch.maximum, self.last_awake, other.last_awake),
            histogram=_sum(self.histogram, other.histogram),
            grad_histogram=_sum(self.grad_histogram, other.grad_histogram),
        )

    def row(self, none_called: bool) -> Row:
        notes = [*self.notes]
        if self.in_graph:
            notes.append("calls in a compiled graph are not seen")
        elif not self.called and self.compiled:
            notes.append("no call seen: a graph compiled before the monitor opened does not show its calls")
        elif none_called:
            notes.append("no call seen: none was made, or in a graph compiled before the monitor opened")
        outputs, gradients, awake = self.outputs, self.gradients, list(self.awake.values())
        looked, finite = outputs.tensors > 0, outputs.finite > 0
        if self.passed_over and not looked:
            notes.append("called only where the monitor did not look: it looks at each k-th call of the model")

        def of_finite(value: float) -> float | None:
            return (value if finite else math.nan) if looked else None

        # Of a layer that is called at several places, the units of all.
        again = [units for units in self.awake if units in self.awake_before]
        revived = [~self.awake_before[units] & self.awake[units] for units in again]
        last = [self.last_awake[units][~self.awake[units]] for units in self.awake if units in self.last_awake]
        since = int(torch.cat(last).sort().values[(sum(map(len, last)) - 1) // 2]) if sum(map(len, last)) else -1
        return Row(
            layer=self.name,
            activation=self.label,
            dead=1 - torch.cat(awake).double().mean().item() if awake else None,
            saturated=self.flat / self.numel if self.numel and self.saturates else None,
            sparsity=outputs.zeros / outputs.numel if looked else None,
            mean=of_finite(outputs.mean),
            std=of_finite(math.sqrt(outputs.squares / max(outputs.finite, 1))),
            grad_norm=_root_mean_square(gradients) if gradients.tensors else None,
            min=of_finite(outputs.least),
            max=of_finite(outputs.most),
            nan=int(outputs.nan),
            inf=int(outputs.inf),
            grad_nan=int(gradients.nan),
            grad_inf=int(gradients.inf),
            first_bad=int(outputs.first_bad) if math.isfinite(outputs.first_bad) else None,
            grad_first_bad=int(gradients.first_bad) if math.isfinite(gradients.first_bad) else None,
            seen_per_unit=self.numel / sum(map(len, awake)) if awake else None,
            leaks=self.leaks,
            dead_since=since if since >= 0 else None,
            revived=torch.cat(revived).double().mean().item() if revived else None,
            histogram=_shares(self.histogram),
            grad_histogram=_shares(self.grad_histogram),
            note="; ".join(notes),
        )


def _on_cpu(tensors: dict[int, Tensor]) -> dict[int, Tensor]:
    return {units: each.cpu() for units, each in tensors.items()}


def _merged(
    merge: Callable[[Tensor, Tensor], Tensor], some: dict[int, Tensor], others: dict[int, Tensor]
) -> dict[int, Tensor]:
    return {**some, **{units: merge(some.get(units, each), each) for units, each in others.items()}}


def _sum(some: list[float] | None, others: list[float] | None) -> list[float] | None:
    return (some and others and [a + b for a, b in zip(some, others, strict=True)]) or some or others


class Layer:
    """Calls of one activation, and what has been seen of them."""

    def __init__(
        self,
        key: Hashable,
        name: str,
        label: str,
        activation: Activation,
        arguments: Callable[[], Mapping[str, Any]],
        monitor: Monitor,
        every: int,
    ) -> None:
        self.key, self.name, self.label, self.monitor, self.every = key, name, label, monitor, every
        self.notes: dict[str, list[str]] = {}  # what is the matter, with which tensors of a call
        self.in_graph = self.compiled = False
        # Within calls of the model that are looked at; outside of all, what backward computes again, and others.
        self.calls_in_model = self.calls_in_backward = self.calls = 0
        self.passed_over = False
        self.leaks, self.flat_in_output = activation.leaks, activation.flat_in_output
        self.bounds: Tensor | None = None
        self.saturates = False
        try:
            self.bounds, self.saturates = flat_intervals(activation, dict(arguments()))
        except Exception as error:
            self.note(f"where it is flat is not known: {_first_line(error)}")
        self.seen = Seen(monitor.histograms)
        self.unseen = Numbers(*(0.0 for _ in UNSEEN))  # not 0 for the reasons that there were
        self.tensors: tuple[Any, ...] | None = None  # further arguments of watch_
        self.first_call = math.inf  # among those of all layers

    def note(self, reason: str, about: str = "") -> None:
        whats = self.notes.setdefault(reason, [])
        if about and about not in whats:
            whats.append(about)

    def all_notes(self) -> dict[str, list[str]]:
        for which, reason in enumerate(UNSEEN):
            if self.unseen[which]:
                self.note(reason, "gradient")
        return self.notes

    def is_looked_at(self) -> bool:
        """Whether the next call is: all within a call of the model that is, and each k-th outside of one."""
        monitor = self.monitor
        return bool(monitor.looking) or (self.calls % self.every == 0 and not monitor.here.entered)

    def before(self, args: tuple, kwargs: Mapping[str, Any], in_place: object) -> None:
        here = self.monitor.here
        here.in_layer = True
        # Afterwards there is no input left to look at.
        if in_place and not self.flat_in_output and self.bounds is not None and not in_backward():
            if self.is_looked_at():
                here.early.add(self)
                self.seen.inputs.last = None
                self.look_at(_input_of(args, kwargs), "input", self.add_input)

    def after(self, args: tuple, kwargs: Mapping[str, Any], output: object) -> None:
        monitor, again = self.monitor, in_backward()
        here = monitor.here
        here.in_layer = False
        early = self in here.early
        here.early.discard(self)
        with monitor.lock:
            # Only now: the call might have failed. What runs again in backward counted already, but under reentrant
            # checkpointing only its output has a gradient.
            if here.entered:
                looked_at = early or bool(monitor.looking)
                self.calls_in_model += looked_at and not again
            elif again:
                looked_at = monitor._of_forward(self) % self.every == 0
                self.calls_in_backward += 1
            else:
                looked_at = early or self.is_looked_at()
                self.calls += 1
            if self.first_call == math.inf:
                self.first_call = next(_CALLS)
        if not looked_at:
            self.passed_over = True
            return
        if again:
            self.follow(output)
            return
        flat_of = None
        if not early and self.bounds is not None:
            flat_of = output if self.flat_in_output else _input_of(args, kwargs)
        if self.watch(flat_of, output):
            return
        if flat_of is not None:
            self.look_at(flat_of, "input", self.add_input)
        self.look_at(output, "output", self.add_output)
        self.follow(output)
        if self.tensors is None:
            self.tensors = self.tensors_for_watch()

    def compiled_call(self) -> None:
        """A call is being compiled."""
        if not is_exporting():  # which warns of side effects, and does not run the model
            self.in_graph = True

    def watch(self, flat_of: object, output: object) -> bool:
        """Look at a call's tensors in C++, and at the gradient when it comes. Returns False, having looked at nothing,
        where that takes Python."""
        if _WATCH is None or not isinstance(output, Tensor) or not isinstance(flat_of, (Tensor, NoneType)):
            return False
        if _len_torch_dispatch_stack() or _get_tracing_state() or not self.monitor.scale_is_number:
            return False
        try:
            with self.monitor.lock, torch._C.DisableTorchFunction():
                return self.tensors is not None and _WATCH(output, flat_of, *self.tensors)
        except Exception as error:
            self.note(f"{type(error).__name__}: {_first_line(error)}", "output")
            return True

    def tensors_for_watch(self) -> tuple[Any, ...] | None:
        """What that counts in, once there is something of each on the CPU."""
        if _WATCH is None or self.monitor.histograms or _len_torch_dispatch_stack():
            return None
        inputs, outputs = self.seen.inputs, self.seen.outputs
        awake = next((each for (_, device), each in inputs.awake.items() if device == _CPU), None)
        if _CPU not in outputs.states or (self.bounds is not None and awake is None):
            return None
        with torch._C.DisableTorchFunction():
            tensors = self.monitor.control.tensor(), self.unseen.tensor()
            states = outputs.state_on(_CPU), self.seen.gradients.state_on(_CPU)
        return self.bounds, self.monitor.unit_dim, inputs.counts.get(_CPU), awake, *states, *tensors

    def failed(self) -> None:
        """The call that is running raises: its input does not count."""
        here = self.monitor.here
        here.in_layer = False
        if self in here.early:
            here.early.discard(self)
            with self.monitor.lock:
                self.seen.inputs.take_back()

    def follow(self, output: object) -> None:
        if not isinstance(output, Tensor) or not torch.is_grad_enabled():
            return
        try:
            # On the tensor: a module's full backward hook forbids working in place. Not on a leaf, which may be a
            # parameter that was changed in place: the hook would stay, and see all its gradients.
            with torch._C.DisableTorchFunction():
                if output.grad_fn is not None:
                    output.register_hook(self.gradient)
        except Exception as error:
            self.note(f"{type(error).__name__}: {_first_line(error)}", "gradient")

    @unserializable_hook
    def gradient(self, grad: Tensor) -> None:
        if self.monitor.is_open:  # a graph that the context leaves behind still has this hook
            self.look_at(grad, "gradient", self.add_gradient)

    def add_input(self, input: Tensor) -> None:
        assert self.bounds is not None
        unit_dim: int | None = self.monitor.unit_dim
        if input.dim() < 2:
            input = input.reshape(1, -1)
        if not -input.dim() <= self.monitor.unit_dim < input.dim():
            self.note(f"unit_dim={unit_dim}: the input has {input.dim()} dimensions")
            unit_dim = None
        self.seen.inputs.add(input, self.bounds, unit_dim)

    def add_output(self, output: Tensor) -> None:
        self.seen.outputs.add(output)

    def add_gradient(self, grad: Tensor) -> None:
        self.seen.gradients.add(grad, self.monitor._scale_on(grad.device))

    def look_at(self, tensor: object, what: str, look: Callable[[Tensor], None]) -> None:
        """A monitor must not stop the model: what cannot be looked at is noted, and an error is too."""
        try:
            if not isinstance(tensor, Tensor):
                self.note(f"a {type(tensor).__name__}, not a tensor", what)
                return
            # Modes that see functions, a monitor's too, do not see these.
            with torch._C.DisableTorchFunction():
                reason = _unseen(tensor)
                if reason:
                    self.note(reason, what)
                    return
                if tensor.numel() == 0:
                    return
                with torch.no_grad(), self.monitor.lock:
                    look(tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor))
        except Exception as error:
            self.note(f"{type(error).__name__}: {_first_line(error)}", what)

    def cut(self, step: int) -> None:
        """Begin anew, after a snapshot of this step."""
        self.seen, self.tensors = self.seen.next(step, self.monitor.histograms), None
        self.passed_over = False

    def forget(self) -> None:
        """Begin anew, as when the monitor opened."""
        self.seen, self.tensors = Seen(self.monitor.histograms), None
        self.calls_in_model = self.calls_in_backward = self.calls = 0
        self.passed_over = False


def _input_of(args: tuple, kwargs: Mapping[str, Any]) -> object:
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _root_mean_square(of: Summary) -> float:
    return math.hypot(of.mean, math.sqrt(of.squares / of.finite)) if of.finite else math.nan


def _shares(counts: list[float] | None) -> list[float] | None:
    return [count / sum(counts) for count in counts] if counts else None


def in_backward() -> bool:
    """Whether a call is made by backward: checkpointing runs what it left out again there."""
    return _current_graph_task_id() != -1


def _unseen(tensor: Tensor) -> str:
    """Why there are no numbers to look at; nothing where there are."""
    if torch._C._are_functorch_transforms_active():
        return "within a transform of torch.func"
    if _get_tracing_state() is not None or (_len_torch_dispatch_stack() and makes_graph()):
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


class Hook:
    """A hook on a module, in one frame, which costs less than a method behind a function: most calls are passed over
    where a monitor looks at each k-th, and their hooks find their code and data in no cache. Where a copy of the module
    is made, or it is pickled, a function that does nothing stands in for the hook: a copy is not watched."""

    __slots__ = ()

    @property
    def __name__(self) -> str:
        """What torch.jit.script asks for, which compiles a module's hooks too."""
        raise AttributeError("torch.jit.script takes no model under fastact.Monitor: script it before or after")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (nullcontext(), "__exit__")  # of the standard library, which is there when it is loaded


class _ModelHook(Hook):
    # In a graph that is made of the model's calls there is to be nothing of a monitor.
    __slots__ = ("monitor",)

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor


class Enter(_ModelHook):
    """Of the model's forward, before all else of it."""

    __slots__ = ()

    def __call__(self, model: nn.Module, args: tuple) -> None:
        if is_compiling() or _get_tracing_state() is not None:
            return
        monitor = self.monitor
        here = monitor.here
        if here.entered or here.hidden or not monitor._forwards % monitor._every or in_backward() or exc_info()[1]:
            monitor._enter(model)
        else:
            here.entered.append(_PASSED_OVER)


class Leave(_ModelHook):
    """Of the same, also where it fails."""

    __slots__ = ()

    def __call__(self, model: nn.Module, args: tuple, output: object) -> None:
        if is_compiling() or _get_tracing_state() is not None:
            return
        monitor = self.monitor
        entered = monitor.here.entered
        if output is None or len(entered) != 1 or entered[0] is not _PASSED_OVER:
            monitor._leave(output)
        else:
            entered.pop()
            with monitor.lock:
                monitor._forwards += 1


class _LayerHook(Hook):
    # Where another hook of the module has closed the monitor, torch still calls those here, and without kwargs.
    __slots__ = ("layer", "monitor")

    def __init__(self, layer: Layer) -> None:
        self.layer, self.monitor = layer, layer.monitor


class Before(_LayerHook):
    """Of an activation's forward. Takes the monitor's mode off the stack, if it is on top: what the module calls is not
    for it to see, and what `F.relu` does under a mode takes as long as all else that a monitor does."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple, *kwargs: dict[str, Any]) -> None:
        layer, monitor = self.layer, self.monitor
        if is_compiling():
            return layer.compiled_call()
        # First what most calls are where a monitor looks at few of them. `After` counts what is passed over here.
        if not monitor.looking and monitor.here.entered:
            return
        if not kwargs or not (layer.is_looked_at() or in_backward()):
            return
        hidden = _pop_torch_function_stack() if _len_torch_function_stack() else None
        if hidden is not None and getattr(hidden, "monitor", None) is not monitor:
            _push_on_torch_function_stack(hidden)
            hidden = None
        monitor.here.hidden.append((layer, hidden))
        # Not getattr, which takes microseconds where a module lacks something.
        layer.before(args, kwargs[0], module.__dict__.get("inplace"))


class After(_LayerHook):
    """Of the same, also where it fails."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple, *kwargs_and_output: Any) -> None:
        if is_compiling():
            return
        layer, here = self.layer, self.monitor.here
        taken = here.hidden
        if not taken or taken[-1][0] is not layer:
            # Not looked at, or another hook raised before this call's `Before`.
            if kwargs_and_output[-1] is not None:
                layer.passed_over = True
                if not here.entered:  # where threads meet here one is not counted, and another becomes the k-th
                    layer.calls += 1
            return
        if len(kwargs_and_output) < 2:  # another hook has closed the monitor
            return
        _, hidden = taken.pop()
        kwargs, output = kwargs_and_output
        try:
            if output is None:  # no activation returns that
                layer.failed()
            else:
                layer.after(args, kwargs, output)
        finally:
            if hidden is not None:
                _push_on_torch_function_stack(hidden)
