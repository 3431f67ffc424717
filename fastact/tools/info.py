"""What runs where: versions, hardware, and the path that each activation takes."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import Any

import torch

from .. import __version__, bundle, ops
from ..catalogue import ACTIVATIONS
from ..dispatch import triton_is_installed
from ..enable import TORCH_OPS, enabled
from ..libraries import CALLS, HAS_KERNELS, HAS_NODES, WHY_NO_CALLS, WHY_NO_KERNELS, WHY_NO_NODES
from ..thresholds import choice, cpu_model


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Text in aligned columns under a ruled header; those named in `right` have their cells on that side."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    sides = [str.rjust if name in right else str.ljust for name in header]
    lines = [header, ["-" * width for width in widths], *rows]
    aligned = (
        "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def readable(bytes: int) -> str:
    """In the unit that keeps it short."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if bytes >= unit:
            return f"{bytes / unit:.1f} {name}"
    return f"{bytes} B"


def environment() -> dict[str, str]:
    """Versions and hardware."""
    return {
        "fastact": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "System": platform.platform(),
        "Compiler": ops.compiler() or "none",
        "Triton": version("triton") if triton_is_installed() else "not installed",
        "Bundle": _bundle()[0],
        "CPU": f"{cpu_model()}, {torch.get_num_threads()} threads",
        "Kernels": f"C++ for {ops.instruction_set()}" if HAS_KERNELS else f"torch's ({WHY_NO_KERNELS})",
        "Autograd": "nodes in C++ on the CPU" if HAS_NODES else f"nodes in Python ({WHY_NO_NODES})",
        "Calls": "direct" if CALLS else f"through torch's dispatcher ({WHY_NO_CALLS})",
        "GPU": "; ".join(map(_gpu, range(torch.cuda.device_count()))) or "none",
    }


def _bundle() -> tuple[str, bool]:
    """The GPU kernels that were compiled ahead, and whether they are of use."""
    folder = bundle.folder()
    if folder is None:
        return "none", False
    try:
        targets = bundle.opened(folder).targets
    except bundle.Refused as error:
        return f"not used: {error}", False
    counts = (f"{len(each.kernels)} kernels for sm_{capability}" for capability, each in sorted(targets.items()))
    return f"{folder}: {', '.join(counts)}", True


def activations() -> list[dict[str, Any]]:
    """The path that each activation takes. No op stands in for an op of torch's where `replaces` is None."""
    on_gpu = "Triton" if triton_is_installed() else "bundle" if _bundle()[1] else "torch"
    on_cpu, now = f"C++ ({ops.instruction_set()})" if HAS_KERNELS else "torch", enabled()
    return [
        {"name": name, "saved": row.saved, "cpu": on_cpu, "cuda": on_gpu}
        | {"replaces": TORCH_OPS.get(name), "enabled": name in now}
        for name, row in ACTIVATIONS.items()
    ]


def as_json() -> dict[str, Any]:
    """All of it as values, with the environment variables that change what runs."""
    rows, source = choice() if HAS_KERNELS else ({}, WHY_NO_KERNELS)
    return {
        "environment": environment(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("FASTACT_")},
        "activations": activations(),
        "rows_of_torch": {"rows": rows, "source": source},
    }


def report() -> str:
    """The text of `python -m fastact info`."""
    facts = environment()
    width = max(map(len, facts))
    saved = {"mask": "1 bit per element", "indices": "1 byte per output element"}
    rows = [
        [each["name"], saved.get(each["saved"], each["saved"]), each["cpu"], each["cuda"]]
        + ([each["replaces"], "yes" if each["enabled"] else "no"] if each["replaces"] else ["-", "-"])
        for each in activations()
    ]
    header = ["activation", "saved for backward", "on CPU", "on CUDA", "enable() replaces", "enabled"]
    lines = [f"{key.ljust(width)}  {value}" for key, value in facts.items()]
    return "\n".join([*lines, "", table(header, rows), "", thresholds()])


def thresholds() -> str:
    """The rows of which torch does the arithmetic, and who says so."""
    if not HAS_KERNELS:
        return "Torch does all of the arithmetic."
    found, source = choice()
    torchs = [f"  {name}: {', '.join(rows)}" for name, rows in found.items() if rows]
    head = f"Rows of which torch does the arithmetic, {source}:"
    return "\n".join([head, *(torchs or ["  none"])])


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    memory = properties.total_memory / 2**30
    return f"{properties.name} (compute capability {properties.major}.{properties.minor}, {memory:.0f} GiB)"
