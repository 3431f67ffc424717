"""What runs where: versions, hardware, and the path that each activation takes."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from . import __version__, cpu
from .catalogue import ACTIVATIONS
from .crossover import CROSSOVER, NEVER
from .path import triton_is_installed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in aligned columns under a ruled header."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def environment() -> dict[str, str]:
    """Versions and hardware."""
    return {
        "fastact": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Triton": version("triton") if triton_is_installed() else "not installed",
        "CPU": f"{cpu_model()}, kernels for {cpu.instruction_set()}, {torch.get_num_threads()} threads",
        "Autograd": "nodes in C++ on the CPU" if cpu.HAS_NODES else f"nodes in Python ({cpu.WHY_NO_NODES})",
        "GPU": "; ".join(map(_gpu, range(torch.cuda.device_count()))) or "none",
    }


def report() -> str:
    """The text of `python -m fastact info`."""
    facts = environment()
    width = max(map(len, facts))
    on_cpu, on_gpu = f"C++ ({cpu.instruction_set()})", "Triton" if triton_is_installed() else "torch"
    rows = []
    for name, activation in ACTIVATIONS.items():
        sizes = [CROSSOVER[is_cuda][False].get(name) for is_cuda in (False, True)]
        backends = [kernels if size else "torch" for kernels, size in zip((on_cpu, on_gpu), sizes, strict=True)]
        saved = "1 bit per element" if activation.saved == "bits" else activation.saved
        rows.append([name, saved, backends[0], _crossover(sizes[0]), backends[1], _crossover(sizes[1])])
    header = ["activation", "saved for backward", "on CPU", "from elements", "on CUDA", "from elements"]
    return "\n".join(
        [
            *(f"{key.ljust(width)}  {value}" for key, value in facts.items()),
            "",
            table(header, rows),
            "",
            "From elements: the sizes in float32, without and with gradients, below which torch's own function is",
            "faster and runs instead (16-bit types have others). FASTACT_ALWAYS_KERNELS=1 or fastact.always_kernels()",
            "switch this off.",
        ]
    )


def _crossover(sizes: tuple[int, int] | None) -> str:
    return "never" if sizes is None else " / ".join("never" if size == NEVER else f"{size:,}" for size in sizes)


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    memory = properties.total_memory / 2**30
    return f"{properties.name} (compute capability {properties.major}.{properties.minor}, {memory:.0f} GiB)"
