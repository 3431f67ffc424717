"""Measures the thresholds of this machine: which rows torch's softmax is faster with (`fastact.thresholds`)."""

from __future__ import annotations

import json
import statistics

import torch
from torch.utils.benchmark import Timer

from .. import functional
from ..enable import torch_kernels
from ..thresholds import ACTIVATIONS, DTYPES, ROWS, Choice, apply, cache_file, machine, measured

_SHAPES = [(8192, 10), (4096, 24), (2048, 48), (256, 512), (8, 4, 64, 64), (8, 20, 32, 32)]
_STAND_FOR = dict(zip(ROWS, _SHAPES, strict=True))
"""A shape for each kind of rows, which lie along dimension 1."""
_CLEARLY = 0.95
"""torch's time over fastact's from which on the rows stay fastact's: a tie is one."""


@torch_kernels()
def tune(rounds: int = 15) -> Choice:
    """Race fastact's rows with torch's, forward and backward; keep the result in the user's cache, and apply it."""
    apply({})
    found = {
        f"{name} {dtype}": [rows for rows in ROWS if _ratio(name, dtype, rows, rounds) < _CLEARLY]
        for name in ACTIVATIONS
        for dtype in DTYPES
    }
    file = cache_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**measured(), machine(): found}, indent=1) + "\n")
    apply(found)
    return found


def _ratio(name: str, dtype: str, rows: str, rounds: int) -> float:
    """torch's time over fastact's: the median of rounds in which both take their turn."""
    x, grad = (torch.randn(_STAND_FOR[rows]).to(getattr(torch, dtype)) for _ in range(2))
    variables = {"torch": torch, "x": x.requires_grad_(), "grad": grad}
    ours, theirs = (
        Timer("torch.autograd.grad(f(x, 1), x, grad)", globals={**variables, "f": getattr(library, name)})
        for library in (functional, torch.nn.functional)
    )
    calls = max(1, round(2e-3 / ours.timeit(3).mean))
    return statistics.median(theirs.timeit(calls).mean / ours.timeit(calls).mean for _ in range(rounds))
