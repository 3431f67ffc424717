"""What runs where: versions, hardware, and the path that each activation takes."""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from importlib.metadata import version

import torch

from .. import __version__, bundle, ops
from ..catalogue import ACTIVATIONS
from ..dispatch import triton_is_installed
from ..enable import TORCH_OPS, enabled
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
        "Triton": version("triton") if triton_is_installed() else "not installed",
        "Bundle": _bundle()[0],
        "CPU": f"{cpu_model()}, kernels for {ops.instruction_set()}, {torch.get_num_threads()} threads",
        "Autograd": "nodes in C++ on the CPU" if ops.HAS_NODES else f"nodes in Python ({ops.WHY_NO_NODES})",
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


def report() -> str:
    """The text of `python -m fastact info`."""
    facts = environment()
    width = max(map(len, facts))
    on_cpu = f"C++ ({ops.instruction_set()})"
    on_gpu = "Triton" if triton_is_installed() else "bundle" if _bundle()[1] else "torch"
    saved = {"mask": "1 bit per element", "indices": "1 byte per output element"}
    rows = [
        [name, saved.get(row.saved, row.saved), on_cpu, on_gpu, TORCH_OPS.get(name, "-"), _state(name)]
        for name, row in ACTIVATIONS.items()
    ]
    header = ["activation", "saved for backward", "on CPU", "on CUDA", "enable() replaces", "enabled"]
    lines = [f"{key.ljust(width)}  {value}" for key, value in facts.items()]
    return "\n".join([*lines, "", table(header, rows), "", thresholds()])


def _state(name: str) -> str:
    return ("yes" if name in enabled() else "no") if name in TORCH_OPS else "-"


def thresholds() -> str:
    """The rows of which torch does the arithmetic, and who says so."""
    found, source = choice()
    torchs = [f"  {name}: {', '.join(rows)}" for name, rows in found.items() if rows]
    head = f"Rows of which torch does the arithmetic, {source}:"
    return "\n".join([head, *(torchs or ["  none"])])


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    memory = properties.total_memory / 2**30
    return f"{properties.name} (compute capability {properties.major}.{properties.minor}, {memory:.0f} GiB)"
