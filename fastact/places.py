"""Where a call comes from: the line of a program and the module that is running."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import nn


class Place(NamedTuple):
    """Where a call comes from.

    Examples:
        >>> with fastact.Coverage() as seen:
        ...     output = nn.Sequential(nn.ReLU())(torch.randn(8))
        >>> seen.rows[0].place.module
        '0'
    """

    file: str
    """Of the innermost Python frame outside torch and fastact; "" in a thread without one."""
    line: int
    module: str
    """The innermost torch.nn.Module that is being called, named as in the outermost one's `named_modules()`, or by its
    class; "" outside of any."""


_FOLDERS = tuple(os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))
MODULES_CALL = getattr(nn.Module.__call__, "__code__", None)


def place() -> Place:
    """Where the call that is running comes from."""
    file, line = "", 0
    inner: nn.Module | None = None
    outer: nn.Module | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code is MODULES_CALL:
            # The one kind of frame whose variables may be looked at: it never changes them, and until Python 3.13 a
            # look keeps what they are until the frame is left.
            outer = frame.f_locals["self"]
            inner = outer if inner is None else inner
        elif not file and not code.co_filename.startswith(_FOLDERS):
            file, line = code.co_filename, frame.f_lineno
        frame = frame.f_back
    return Place(file, line, "" if inner is None or outer is None else _name(outer, inner))


_names: dict[int, tuple[weakref.ref, weakref.ref, str]] = {}
"""Of modules in their outermost ones, by id."""


def _name(outer: nn.Module, inner: nn.Module) -> str:
    known = _names.get(id(inner))
    if known is None or known[0]() is not inner or known[1]() is not outer:
        name = next((name for name, module in outer.named_modules() if module is inner), "") or type(inner).__name__
        known = _names[id(inner)] = weakref.ref(inner), weakref.ref(outer), name
    return known[2]


def shown(place: Place) -> str:
    """A place's file, with two folders, and line."""
    if not place.file:
        return "(no Python)"
    return f"{'/'.join(Path(place.file).parts[-3:])}:{place.line}"
