"""What it takes to replace kernels of torch's own ops, as `enable` and `recompute` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from .libraries import HAS_NODES, WHY_NO_NODES


def needs_nodes(what: str) -> None:
    """Raise where the library in C++ that sees torch's ops is missing."""
    if not HAS_NODES:
        raise RuntimeError(
            f"{what} needs fastact's C++ library for torch {torch.__version__}: {WHY_NO_NODES}. Without it, "
            "fastact.convert(model) and fastact's modules and functions work."
        )


_KEYS = [getattr(torch._C.DispatchKey, key) for key in ("AutogradCPU", "AutogradCUDA", "CPU", "CUDA")]


def _has_kernel(overload: torch._ops.OpOverload, has: Callable[[Any], bool], hidden: set, key: Any) -> bool:
    return key in overload.py_kernels if key in hidden else has(key)


_hidden: set[torch._ops.OpOverload] = set()


def hide_from_graphs(overloads: Iterable[torch._ops.OpOverload]) -> None:
    """Let torch's dispatcher in Python, by which it makes graphs, find what it finds without overrides: it prefers a
    kernel for one key to decompositions in Python, which are for several."""
    for overload in overloads:
        if overload not in _hidden:
            _hidden.add(overload)
            keys = {key for key in _KEYS if not overload.has_kernel_for_dispatch_key(key)}
            overload.has_kernel_for_dispatch_key = partial(  # type: ignore[method-assign]
                _has_kernel, overload, overload.has_kernel_for_dispatch_key, keys
            )
