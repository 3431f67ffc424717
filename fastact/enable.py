"""fastact for every model: torch's own activation ops run fastact's kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from . import functional
from .catalogue import ACTIVATIONS, Activation
from .libraries import HAS_NODES
from .names import chosen
from .recompute import is_around_all, recompute_around_all
from .torch_ops import hide_from_graphs, needs_nodes

__all__ = ["disable", "enable", "is_enabled", "overrides"]

TORCH_OPS: dict[str, str] = (
    {row: f"aten::{op}" for op, rows in torch.ops.fastact.overridable().items() for row in rows} if HAS_NODES else {}
)
"""torch's op for each activation that has one."""

BATCH_NORM = "batch_norm"
"""What is replaced beside activations: on the CPU, how `aten::native_batch_norm` takes its statistics in training."""


def enable(
    only: Iterable[str] | str | None = None, exclude: Iterable[str] | str | None = None, *, recompute: bool = False
) -> Enabled:
    """Make torch's own activation ops run fastact's kernels, whoever calls them.

    Functions, methods, in-place and `out` forms, modules, and calls from C++ all go through torch's dispatcher. There
    the kernels of `aten::relu`, `aten::gelu` and so on are replaced for float32, float64, float16 and bfloat16, on the
    CPU and on GPUs. A plain tensor that needs a gradient gets fastact's node, which saves what
    `fastact.functional.relu` and so on save: never more than torch's but one bit per element. A call from below
    autograd, as for the local part of a `DTensor`, or from a graph that torch.compile's backends run op by op, gets the
    kernel alone.

    torch's own kernel runs where a graph is made (`torch.compile`, `torch.export`, `make_fx`), under torch.func's
    transforms, and for tensor subclasses, other dtypes, devices and layouts. So a compiled or exported graph is the
    stock one. Under `torch.inference_mode`, unlike `torch.no_grad`, PReLU, LogSigmoid and RReLU are torch's.

    Of what torch or a model composes of several ops, the parts that have an op are replaced: Tanhshrink's tanh,
    Softmin's softmax, nothing of Softsign. `fastact.convert` reaches the modules as a whole. `fastact.overrides()`
    lists what is replaced.

    With the activations comes "batch_norm". On the CPU, batch norm in training then takes the statistics of contiguous
    float32 tensors in one pass of vectors, in double, where torch loops over scalars. The node, what it saves and its
    backward stay torch's.

    A call replaces what an earlier call chose. It holds for the whole process, all its threads and processes forked
    later, until `disable`. Used as a context manager, it holds until the block ends, which then brings back what was
    before. A graph made before stays as it is, and goes on working. The first call in a process must not run while
    another thread calls torch; all others may.

    Args:
        only: names of the activations to enable, and "batch_norm"; by default all. Names are as for `fastact.convert`.
        exclude: names of those to leave to torch.
        recompute: whether to open a block of `fastact.recompute` around every outermost call of a module, too.

    Returns:
        A context manager, for use in a `with` statement. A statement by itself needs nothing of it.

    Raises:
        ValueError: if a name is unknown, or `only` names one for which torch has no op.
        RuntimeError: if the library of autograd nodes for this release of torch is missing. `fastact.convert` and the
            modules and functions work without it.

    Examples:
        >>> x = torch.randn(4, requires_grad=True)
        >>> nn.functional.gelu(x).grad_fn.name()
        'GeluBackward0'
        >>> enabled = fastact.enable(exclude=["softmax", "log_softmax"])
        >>> nn.functional.gelu(x).grad_fn.name()
        'GELUBackward'
        >>> fastact.disable()
        >>> with fastact.enable(only="gelu"):
        ...     fastact.is_enabled()
        True
        >>> fastact.is_enabled()
        False
    """
    needs_nodes("fastact.enable")
    only, with_batch_norm = _without_batch_norm(only)
    exclude, without_batch_norm = _without_batch_norm(exclude or ())
    rows = chosen(only, exclude)
    if only is not None:
        elsewhere = sorted(rows - TORCH_OPS.keys())
        if elsewhere:
            raise ValueError(
                f"fastact.enable: torch has no op for {', '.join(elsewhere)}, so there is none to replace; "
                "fastact.convert(model) reaches modules"
            )
    rows &= TORCH_OPS.keys()
    if with_batch_norm and not without_batch_norm:
        rows |= {BATCH_NORM}
    before, chosen_now = _state(), _State(rows, recompute)
    _set(chosen_now)
    return Enabled(before, chosen_now)


def _without_batch_norm(names: Iterable[str] | str | None) -> tuple[list[str] | None, bool]:
    """The names of activations among these, and whether batch norm is named; None names all."""
    if names is None:
        return None, True
    names = [names] if isinstance(names, str) else list(names)
    return [name for name in names if name != BATCH_NORM], BATCH_NORM in names


def disable() -> None:
    """Make all of torch's ops run torch's kernels again.

    Examples:
        >>> enabled = fastact.enable()
        >>> fastact.disable()
        >>> fastact.is_enabled()
        False
    """
    _set(_State(frozenset(), False))


def is_enabled() -> bool:
    """Whether any of torch's ops runs fastact's kernels.

    Returns:
        True between `enable` and `disable`, and in a block of `enable`.

    Examples:
        >>> with fastact.enable(only="relu"):
        ...     fastact.is_enabled()
        True
    """
    return bool(enabled())


def enabled() -> frozenset[str]:
    """The names of the activations that are enabled and, where it is, "batch_norm"."""
    return frozenset(torch.ops.fastact.overriding()) if HAS_NODES else frozenset()


class _State(NamedTuple):
    """What is chosen for the whole process."""

    rows: frozenset[str]
    recompute: bool


def _state() -> _State:
    return _State(enabled(), is_around_all())


def _set(state: _State) -> None:
    if state.rows:
        hide_from_graphs(_overridden())
    if HAS_NODES:
        torch.ops.fastact.set_overrides(sorted(state.rows))
    recompute_around_all(state.recompute)


def _overridden() -> Iterator[torch._ops.OpOverload]:
    """torch's activation ops, in every form that is replaced."""
    names = {name.removeprefix("aten::") for name in TORCH_OPS.values()}
    for packet in (getattr(torch.ops.aten, name + suffix, None) for name in names for suffix in ("", "_")):
        for overload in (getattr(packet, name, None) for name in ("default", "out")):
            if overload is not None:
                yield overload


class Enabled:
    """What `enable` returns: a context manager that brings back at its end what was enabled before.

    It may be kept, and used again: each block enables what the call of `enable` did.
    """

    def __init__(self, before: _State, chosen_now: _State) -> None:
        self._chosen = chosen_now
        self._before = [before]  # of each block that is open and, until the first, of the call of `enable`
        self._is_used = False

    def __enter__(self) -> Enabled:
        if self._is_used or _state() != self._chosen:
            self._before.append(_state())
            _set(self._chosen)
        self._is_used = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _set(self._before.pop())

    def __repr__(self) -> str:
        return f"<fastact.enable: {len(enabled() - {BATCH_NORM})} activations of torch's run fastact's kernels>"


@dataclass(frozen=True)
class Override:
    """What stands in for an op of torch's."""

    activation: str
    """The name of the catalogue's row."""
    torch_op: str
    enabled: bool
    saves: str
    """What fastact's node keeps for backward: "mask" (one bit per element), "output" or "input"."""
    bytes: float
    """Kept for backward per element of the output, in float32."""
    torch_bytes: float
    """The same by torch's node."""


@dataclass(frozen=True)
class Overrides:
    """The list that `overrides` returns. As text, an aligned table."""

    rows: list[Override]

    def __str__(self) -> str:
        from .tools.info import table

        cells = [
            [row.activation, row.torch_op, "yes" if row.enabled else "no", f"{row.bytes:.3g} / {row.torch_bytes:.3g}"]
            for row in self.rows
        ]
        return table(["activation", "torch's op", "enabled", "bytes kept per element, fastact / torch"], cells)


def overrides() -> Overrides:
    """List which of torch's ops `enable` replaces, whether each is now, and what either node keeps for backward.

    The bytes are counted as the nodes save them, in a call of 65,536 elements.

    Returns:
        A list whose text is a table.

    Examples:
        >>> [relu] = [row for row in fastact.overrides().rows if row.activation == "relu"]
        >>> relu.torch_op, relu.enabled, relu.bytes, relu.torch_bytes
        ('aten::relu', False, 0.125, 4.0)
    """
    rows, now = [], enabled()
    for name, op in TORCH_OPS.items():
        row = ACTIVATIONS[name]
        ours = _kept_bytes(row, getattr(functional, row.function))
        with torch_kernels():
            torchs = _kept_bytes(row, row.reference)
        rows.append(Override(name, op, name in now, row.saved, ours, torchs))
    return Overrides(rows)


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Let this thread's calls of torch's ops be torch's, backward included, whatever is enabled."""
    if not HAS_NODES:
        yield
        return
    before = torch.ops.fastact.set_within(True)
    try:
        with torch.autograd.set_multithreading_enabled(False):  # or backward on a GPU would be another thread's
            yield
    finally:
        torch.ops.fastact.set_within(before)


def _kept_bytes(row: Activation, function: Callable[..., Tensor]) -> float:
    """What a call of the function keeps per element of its output: each storage once, weights aside."""
    kept: dict[int, int] = {}
    weights = [
        torch.full((1,), low, dtype=torch.float32, device="cpu", requires_grad=True) for low, _ in row.weights.values()
    ]
    apart = {weight.untyped_storage().data_ptr() for weight in weights}

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            kept[storage.data_ptr()] = storage.nbytes()

    with torch.inference_mode(False), torch.enable_grad():
        input = torch.linspace(-8, 8, 1 << 16, dtype=torch.float32, device="cpu").view(256, 256).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
            output = function(input, *weights, **{**row.arguments(), **row.keywords})
    return sum(kept.values()) / output.numel()
