"""Calls of functions, `F.gelu(x)` or `x.relu_()`, by the place that they come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from .. import functional
from ..catalogue import ACTIVATIONS, Activation
from ..ops import OPS
from ..places import place, shown

if TYPE_CHECKING:
    from . import Monitor


def _functions() -> dict[Callable[..., Any], list[Activation]]:
    """The functions of torch and the ops of fastact that compute an activation, with the rows that share them."""
    found: dict[Callable[..., Any], list[Activation]] = {}
    for row in ACTIVATIONS.values():
        of_torch = () if row.namesakes else (F, torch, torch.special, Tensor)
        for name in (row.function, f"{row.function}_"):
            for owner in of_torch:
                if hasattr(owner, name):
                    found.setdefault(getattr(owner, name), []).append(row)
    for op in OPS.values():
        # The input of an activation behind a bias is no argument, as a gated unit's is none.
        row = replace(op.activation, kind="gated") if op.biased else op.activation
        for name in (op.name, f"{op.name}_"):
            if hasattr(torch.ops.fastact, name):
                found.setdefault(getattr(torch.ops.fastact, name).default, []).append(row)
    return found


_FUNCTIONS = _functions()


class Calls(TorchFunctionMode):
    """Sees calls of functions in the thread that enters it."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rows = _FUNCTIONS.get(func)
        if rows is None or is_compiling() or self.monitor.here.in_layer:
            return func(*args, **kwargs)
        if not self.monitor.is_open:  # closed within a call of the model
            return func(*args, **kwargs)
        layer = self.monitor._layer_at(*_called(func, rows, args, kwargs))
        layer.before(args, kwargs, _is_in_place(func, args, kwargs))
        try:
            output = func(*args, **kwargs)
        except BaseException:
            layer.failed()
            raise
        layer.after(args, kwargs, output)
        return output


def _is_in_place(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    name = func.__name__.partition(".")[0]
    return name.endswith("_") or "out" in kwargs or any(each is True for each in (*args, kwargs.get("inplace")))


def leave(mode: TorchFunctionMode) -> None:
    """Take a mode off the stack, wherever it is there."""
    above = []
    if any(each is mode for each in _get_current_function_mode_stack()):
        while (top := _pop_mode()) is not mode:
            above.append(top)
    for each in reversed(above):
        _push_mode(each)


def _called(
    func: Callable[..., Any], rows: list[Activation], args: tuple, kwargs: dict[str, Any]
) -> tuple[Activation, dict[str, Any]]:
    """Which of the rows a call computes, and its scalars."""
    names = _parameters(func, rows[0].function)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    scalars = {name: given.get(name, default) for name, default in names.items()}
    fitting = [row for row in rows if all(scalars.get(name) == value for name, value in row.options.items())]
    row = max(fitting or rows[:1], key=lambda row: len(row.options))
    return row, {name: scalars[name] for name in row.scalars}


@cache
def _parameters(func: Callable[..., Any], name: str) -> dict[str, Any]:
    if isinstance(func, OpOverload):
        return {each.name: each.default_value for each in func._schema.arguments}
    return {name: each.default for name, each in inspect.signature(getattr(functional, name)).parameters.items()}


def site() -> str:
    """The module that is running and the line that calls."""
    where = place()
    return f"{where.module} ({shown(where)})".strip()
