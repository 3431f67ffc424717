"""Which rows torch's softmax is faster with: all that is chosen by size, and only the arithmetic is.

What is saved, the node in the graph and the errors are fastact's either way. The defaults are those of a
vendor's CPUs with an instruction set (`thresholds.json`); `python -m fastact tune` measures a machine and keeps what it
finds in the user's cache.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

ACTIVATIONS = ("softmax", "log_softmax")
DTYPES = ("float32", "float64", "bfloat16")  # what holds for bfloat16 holds for float16
ROWS = ("2 to 15", "16 to 31", "32 to 63", "64 or more", "2 to 15 apart", "16 or more apart")
"""Kinds of rows: how many elements they have, consecutive in memory or more than 8 apart, as along the channels of
images. In the order of csrc/runtime/torch_rows.h."""

Choice = dict[str, list[str]]
"""The kinds of rows that are torch's, for "log_softmax float32" and the like."""


def cache_file() -> Path:
    """Where measurements are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fastact" / "thresholds.json"


def measured() -> dict[str, Choice]:
    """What `tune` has found, by machine."""
    try:
        return json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu() -> str:
    """Its vendor, if that is known, and its instruction set, as `thresholds.json` names them."""
    return f"{torch.ops.fastact.cpu_vendor()} {torch.ops.fastact.cpu_capability()}".lower()


def machine() -> str:
    """All that a measurement depends on, but for other programs."""
    return f"{cpu_model()}, {torch.ops.fastact.cpu_capability()}, torch {torch.__version__}"


def choice() -> tuple[Choice, str]:
    """What holds on this machine, and where it comes from."""
    known = measured()
    if known and machine() in known:
        return known[machine()], f"measured on this machine ({cache_file()})"
    shipped = json.loads(Path(__file__).with_name("thresholds.json").read_text())
    name = cpu() if cpu() in shipped else "intel avx512"
    return shipped[name]["rows"], f"as measured {shipped[name]['measured']} (`python -m fastact tune` measures here)"


def apply(found: Choice) -> None:
    """Let the ops choose by it from now on."""
    names = [f"{activation} {dtype}" for activation in ACTIVATIONS for dtype in DTYPES]
    cells = [(name, rows) for name in names for rows in ROWS]
    torch.ops.fastact.set_rows_of_torch(
        sum(1 << i for i, (name, rows) in enumerate(cells) if rows in found.get(name, []))
    )
