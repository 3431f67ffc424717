"""Which rows torch's softmax is faster with: all that is chosen by size, and only the arithmetic is.

What is saved, the node in the graph and the errors are fastact's either way. The defaults are those of each vendor's
CPUs (`thresholds.json`); `python -m fastact tune` measures this machine and keeps what it finds in the user's cache.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from . import functional
from .info import cpu_model
from .ops import instruction_set, vendor

ACTIVATIONS = ("softmax", "log_softmax")
DTYPES = ("float32", "float64", "bfloat16")  # what holds for bfloat16 holds for float16
ROWS: dict[str, tuple[tuple[int, ...], int]] = {
    "2 to 15": ((8192, 10), 1),
    "16 to 31": ((4096, 24), 1),
    "32 to 63": ((2048, 48), 1),
    "64 or more": ((256, 512), 1),
    "apart": ((8, 20, 32, 32), 1),
}
"""Kinds of rows: the elements of those that are consecutive in memory, or those whose elements lie more than 8 apart.
Each with a shape and a dimension that stand for it. In the order of csrc/runtime/softmax.h."""

Choice = dict[str, list[str]]
"""The kinds of rows that are torch's, for "log_softmax float32" and the like."""

SHIPPED: dict[str, Choice] = json.loads(Path(__file__).with_name("thresholds.json").read_text())


def machine() -> str:
    """All that a measurement depends on."""
    return f"{cpu_model()}, {instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def cache_file() -> Path:
    """Where measurements are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fastact" / "thresholds.json"


def _measured() -> dict[str, Choice]:
    try:
        return json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}


def choice() -> tuple[Choice, str]:
    """What holds on this machine, and where it comes from."""
    found = _measured().get(machine())
    if found is not None:
        return found, f"measured here ({cache_file()})"
    name = vendor() if vendor() in SHIPPED else "intel"
    return SHIPPED[name], f"as shipped, from a CPU by {name}"


def apply(found: Choice) -> None:
    """Let the ops choose by it from now on."""
    names = [f"{activation} {dtype}" for activation in ACTIVATIONS for dtype in DTYPES]
    kinds = [(name, rows) for name in names for rows in ROWS]
    bits = sum(1 << i for i, (name, rows) in enumerate(kinds) if rows in found.get(name, []))
    torch.ops.fastact.set_rows_of_torch(bits)


def tune(rounds: int = 15) -> Choice:
    """Race fastact's rows against torch's, forward and backward, and keep the result in the user's cache."""
    apply({})
    found: Choice = {}
    for activation in ACTIVATIONS:
        for dtype in DTYPES:
            torchs = [
                rows
                for rows, (shape, dim) in ROWS.items()
                if _ratio(activation, getattr(torch, dtype), shape, dim, rounds) < 0.95
            ]
            found[f"{activation} {dtype}"] = torchs
    file = cache_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**_measured(), machine(): found}, indent=1) + "\n")
    apply(found)
    return found


def _ratio(activation: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int, rounds: int) -> float:
    """torch's time over fastact's: the median of rounds in which both take their turn."""
    x, grad = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    step = "torch.autograd.grad(f(x, dim), x, grad)"
    functions = getattr(functional, activation), getattr(torch.nn.functional, activation)
    ours, theirs = (
        Timer(
            step,
            globals={"torch": torch, "f": f, "x": x, "dim": dim, "grad": grad},
            num_threads=torch.get_num_threads(),
        )
        for f in functions
    )
    calls = max(1, round(2e-3 / ours.timeit(3).mean))
    ratios = sorted(theirs.timeit(calls).mean / ours.timeit(calls).mean for _ in range(rounds))
    return ratios[rounds // 2]
