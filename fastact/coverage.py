"""Which activation calls of a program run fastact's kernels, and why others do not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from . import libraries, ops
from .catalogue import ACTIVATIONS
from .enable import is_enabled
from .places import Place, place, shown
from .torch_ops import needs_nodes

__all__ = ["Calls", "Coverage", "Place"]

_NOT_ENABLED = "fastact is not enabled"
_FASTER = "torch computes these softmax rows faster"


@dataclass(frozen=True)
class Calls:
    """Calls of one activation from one place that went one way.

    Examples:
        >>> with fastact.Coverage() as seen:
        ...     output = torch.relu(torch.randn(8))
        >>> [calls] = seen.rows
        >>> calls.op, calls.dtype, calls.ran, calls.why, calls.calls, calls.elements
        ('relu', 'float32', False, 'fastact is not enabled', 1, 8)
    """

    place: Place
    op: str
    """torch's or, where that was called, fastact's: "relu_", "fastact::relu", "fastact::relu_backward" of its node."""
    activation: str
    """The name of the catalogue's row; "" where that is open."""
    dtype: str
    ran: bool
    """Whether fastact's kernel did the arithmetic."""
    why: str
    """Why it did not or, if it did, why within an op or a node of torch's; "" for a call that was all fastact's."""
    calls: int
    elements: int
    """Of the outputs."""

    @property
    def backward(self) -> bool:
        """Whether the calls are of a backward pass."""
        return "_backward" in self.op

    @property
    def softmax(self) -> bool:
        """Whether it is of softmax's family, some of whose rows torch computes faster."""
        return self.activation in ACTIVATIONS and ACTIVATIONS[self.activation].kind == "softmax"


class Coverage:
    """Count the activation calls of a block by the place where they come from, and say which way each went.

    It sees the ops of torch's that `fastact.enable` replaces, enabled or not and whoever calls them, and fastact's own
    modules and functions, in all threads of this process. It counts backward where fastact's node or kernel runs it.
    The program goes on as it would, each call a little later: no mode is on, kernels are the same, no tensor is kept,
    and what fails here is no error there.

    It does not see calls within graphs of `torch.compile`, which run code of their own, nor other processes, as a
    DataLoader's workers. Nor does it see PReLU, LogSigmoid and RReLU under `torch.inference_mode`, where they are
    torch's. The first use in a process must not begin while another thread calls torch.

    Printed, it is a table of the calls with a summary.

    Raises:
        RuntimeError: if the library of autograd nodes for this release of torch is missing.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        >>> with fastact.enable(), fastact.Coverage() as seen:
        ...     model(torch.randn(8, 4)).sum().backward()
        >>> seen.share()
        1.0
    """

    def __init__(self) -> None:
        needs_nodes("fastact.Coverage")
        self._begin()

    def _begin(self) -> None:
        # A part for each thread, so that none waits for another, and a process forked meanwhile inherits no lock.
        self._parts: list[dict[tuple, list[int]]] = []
        self._mine = threading.local()

    def __enter__(self) -> Coverage:
        self._begin()
        _set_watchers(lambda watchers: (*watchers, self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _set_watchers(lambda watchers: tuple(each for each in watchers if each is not self))

    def _count(self, key: tuple, numel: int) -> None:
        part = getattr(self._mine, "part", None)
        if part is None:
            part = self._mine.part = {}
            self._parts.append(part)
        counts = part.setdefault(key, [0, 0])
        counts[0] += 1
        counts[1] += numel

    @property
    def rows(self) -> list[Calls]:
        """What has been seen so far, also while the block is still open: backward last, most elements first."""
        sums: dict[tuple, list[int]] = {}
        for part in list(self._parts):
            for key, counts in list(part.items()):
                before = sums.get(key, [0, 0])
                sums[key] = [a + b for a, b in zip(before, counts, strict=True)]
        rows = [Calls(*key, *counts) for key, counts in sums.items()]
        return sorted(rows, key=lambda row: (row.backward, -row.elements, row.place, row.op, row.why))

    def share(self, *, softmax: bool | None = None) -> float | None:
        """Return the share of forward's elements whose arithmetic fastact's kernels did.

        Args:
            softmax: True counts softmax's family alone, False all others; by default all count.

        Returns:
            A number from 0 to 1, or None where no such call was seen.
        """
        rows = [row for row in self.rows if not row.backward and softmax in (None, row.softmax)]
        elements = sum(row.elements for row in rows)
        return sum(row.elements for row in rows if row.ran) / elements if elements else None

    def __str__(self) -> str:
        from .tools.info import table

        header = ["where", "module", "activation", "dtype", "calls", "elements", "ran"]
        rows = self.rows
        lines = [table(header, [_cells(row) for row in rows], right=("calls", "elements")), ""] if rows else []
        lines += self._shares()
        return "\n".join([*lines, "Graphs of torch.compile run code of their own, in which no call is seen."])

    def _shares(self) -> list[str]:
        rows = [row for row in self.rows if not row.backward]
        elements = sum(row.elements for row in rows)
        if not elements:
            return ["No activation call was seen."]
        ours, calls = sum(row.calls for row in rows if row.ran), sum(row.calls for row in rows)
        lines = [f"{self.share():.1%} of activation elements ran fastact's kernels ({ours:,} of {calls:,} calls)."]
        softmax, others = self.share(softmax=True), self.share(softmax=False)
        if softmax is not None and others is not None:
            lines.append(f"Softmax alone {softmax:.1%}, all others {others:.1%}.")
        would = sum(row.elements for row in rows if row.why == _NOT_ENABLED)
        if would:
            lines.append(f"{would / elements:.1%} would go to fastact with fastact.enable().")
        return lines


def _cells(row: Calls) -> list[str]:
    told = row.activation.replace("_", "") in row.op.replace("_", "")
    op = row.op if told else f"{row.op} ({row.activation})"
    way = f"torch: {row.why}" if not row.ran else "fastact" + f", in an op of torch's: {row.why}" * bool(row.why)
    return [shown(row.place), row.place.module, op, row.dtype, f"{row.calls:,}", f"{row.elements:,}", way]


# Watching

_watchers: tuple[Coverage, ...] = ()
_changing = threading.Lock()
_unwatched = dict(vars(ops.run))


def _set_watchers(change: Callable[[tuple[Coverage, ...]], tuple[Coverage, ...]]) -> None:
    global _watchers
    with _changing:
        _watchers = change(_watchers)
        calls = {name: _counted(name, call) for name, call in _unwatched.items()} if _watchers else _unwatched
        vars(ops.run).update(calls)
        torch.ops.fastact.set_watching(bool(_watchers))


class _Here(threading.local):
    """What is going on in this thread."""

    reports = 0
    """From C++, so far."""
    in_softmax = False
    """Whether a softmax of fastact's was called."""


_here = _Here()
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def _counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `fastact.ops.run` whose calls are counted. Where it calls ops of torch's that are counted, as under
    function transforms, those stand for it."""
    op = ops.OPS[name if name in ops.OPS else name.removesuffix("_")]

    def counted(input: Tensor, *arguments: Any) -> Tensor:
        reports, before = _here.reports, _here.in_softmax
        _here.in_softmax = op.activation.kind == "softmax"
        try:
            output = call(input, *arguments)
        finally:
            _here.in_softmax = before
        if _here.reports == reports:
            with suppress(Exception), torch._C.DisableTorchFunction():
                # Straight to the function, past the modes of users.
                why = torch.ops.fastact.why_torchs.default.redispatch(_CPU, input)
                _count(f"fastact::{name}", op.activation.name, not why, why, input, output.numel())
        return output

    return counted


def _seen(
    op: str, row: str, why: str, unwanted: bool, kernel_ran: bool, torch_within: bool, about: Tensor, numel: int
) -> None:
    """Count a call that csrc/autograd/watch.h reports."""
    _here.reports += 1
    with suppress(Exception), torch._C.DisableTorchFunction():
        if op.startswith("fastact::"):
            row = ops.OPS[op.removeprefix("fastact::").removesuffix("_backward")].activation.name
        is_softmax = row in ACTIVATIONS and ACTIVATIONS[row].kind == "softmax"
        if is_softmax and not why and (_here.in_softmax if unwanted else torch_within):
            op, why, kernel_ran = f"fastact::{row}" if _here.in_softmax else op, _FASTER, False
        elif unwanted:
            why = "not among those enabled" if is_enabled() else _NOT_ENABLED
        _count(op.removeprefix("aten::"), row, kernel_ran, why, about, numel)


if libraries.HAS_NODES:
    ops.library.impl("seen", _seen, "CPU")


def _count(op: str, row: str, ran: bool, why: str, about: Tensor, numel: int) -> None:
    dtype = str(about.dtype).removeprefix("torch.")
    if "{" in why:
        layout = str(about.layout).removeprefix("torch.")
        why = why.format(dtype=dtype, layout=layout, device=about.device, type=type(about).__name__)
    key = (place(), op, row, dtype, ran, why)
    for watcher in _watchers:
        watcher._count(key, numel)
