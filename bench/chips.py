"""The kernels compiled for other chips than one that could run them, and counted.

    python bench/chips.py

Compiles one kernel of each kind for several generations of NVIDIA's GPUs and, by Triton's AMD backend, for an MI300X,
without a GPU, and writes results/chips/: whether it compiles, its registers, what it spills, its shared memory, and how
many of its accesses to global memory are wide (128 bits or more per thread). Takes minutes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import triton
from environment import RESULTS, environment, write_result
from report import table
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver

from fastact.tools.warmup import default_processes

CHIPS = {
    **{f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (75, 80, 86, 89, 90, 100, 120)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = ("bfloat16", "float32")
KERNELS = {
    "forward": "silu forward {}",
    "forward of rows": "swiglu forward {} rows",
    "forward, unaligned": "silu forward {} unaligned",
    "forward with mask": "relu mask {}",
    "forward with random slopes": "rrelu forward {}",
    "forward with sines": "snake forward {} channel=number",
    "backward": "gelu backward {}",
    "backward by mask": "relu backward {}",
    "backward of two halves": "swiglu backward {} rows",
    "weights, innermost": "prelu forward {} channel=next",
    "weights, one per eight": "prelu forward {} channel=one",
    "weights, two per eight": "prelu forward {} channel=two",
    "weights, any": "prelu forward {} channel=any",
    "bias and residual": "bias_gelu forward {} residual channel=next",
    "sum of all": "prelu backward {} channel=number",
    "sums, innermost": "bias_gelu backward {} channel=outer",
    "sums over images": "prelu backward {} channel=inner",
    "sums over small images": "prelu backward {} channel=inner ragged",
    "sums, second stage": "parts float32 {} 2",
    "softmax, short rows": "softmax forward {0} {0} rows 32x64 one divisor=8",
    "softmax, rows": "softmax forward {0} {0} rows 1x4096 one divisor=8",
    "softmax, long rows": "softmax forward {0} {0} rows 1x8192 two divisor=8",
    "softmax, side by side": "softmax forward {0} {0} strided 32x64 one divisor=8",
    "softmax backward": "log_softmax backward {0} {0} rows 1x4096 one divisor=8",
    "maxout": "maxout forward {} adjacent together=2",
    "maxout, apart": "maxout forward {} apart together=0 eights",
    "maxout backward": "maxout backward {} adjacent together=2",
}


class Row(NamedTuple):
    """A kernel on a chip. Numbers are per thread, but for `shared`, bytes of a program's."""

    kind: str
    dtype: str
    chip: str
    why_not: str = ""
    """What stands in the way, where it does not compile."""
    registers: int = 0
    spills: int = 0
    """Instructions that move registers to memory or back; on AMD, registers."""
    shared: int = 0
    wide: int = 0
    """Accesses to global memory of 128 bits or more."""
    narrow: int = 0


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def on_nvidia(compiled: CompiledKernel) -> dict[str, int]:
    """Counts in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        registers = re.search(r"REG:(\d+)", _tool("cuobjdump", "-res-usage", file.name))
        names = re.findall(r"\b(?:LDG|STG|LDL|STL)\b[.\w]*", _tool("nvdisasm", file.name))
    wide = sum(bool(re.search(r"\.(128|256)\b", name)) for name in names)
    spills = sum(name.startswith(("LDL", "STL")) for name in names)
    assert registers
    return {"registers": int(registers[1]), "spills": spills, "wide": wide, "narrow": len(names) - wide - spills}


def on_amd(compiled: CompiledKernel) -> dict[str, int]:
    """Counts in an assembler's text."""
    text = compiled.asm["amdgcn"]
    names = Counter(re.findall(r"^\s+(?:global|buffer)_(?:load|store)_(\w+)", text, re.MULTILINE))
    said = {key: int(number) for key, number in re.findall(r"^\s+\.([sv]gpr\w*count):\s+(\d+)", text, re.MULTILINE)}
    wide = names["dwordx4"]
    spills = said["vgpr_spill_count"] + said["sgpr_spill_count"]
    return {"registers": said["vgpr_count"], "spills": spills, "wide": wide, "narrow": names.total() - wide}


def row(kind: str, dtype: str, chip: str) -> Row:
    from fastact.triton import sources

    knobs.compilation.disable_line_info = True
    target = CHIPS[chip]
    driver.set_active(SimpleNamespace(get_current_target=lambda: target))  # which functions of math.py ask
    try:
        compiled = sources.compile(KERNELS[kind].format(dtype), target)
        ptx = sorted(set(re.findall(r'asm [^"]*"(\w+\.[\w.]+) ', compiled.asm["llir"])))
        if target.backend == "hip" and ptx:  # which its compiler only complains of, on standard error
            return Row(kind, dtype, chip, f"instructions of NVIDIA's: {', '.join(ptx)}")
        counts = (on_nvidia if target.backend == "cuda" else on_amd)(compiled)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        said = next((line for line in lines if "error" in line), lines[0])
        return Row(kind, dtype, chip, f"{type(error).__name__}: {said}")
    return Row(kind, dtype, chip, shared=compiled.metadata.shared, **counts)


def _cell(row: Row) -> str:
    if row.why_not:
        return "no"
    spills = f", {row.spills} spills" if row.spills else ""
    return f"{row.registers} / {row.shared} / {row.wide} of {row.wide + row.narrow}{spills}"


def page(rows: Sequence[Row], head: str) -> str:
    """In Markdown."""
    by_place = {(row.kind, row.dtype, row.chip): row for row in rows}
    parts = ["# Kernels compiled for other chips", head]
    parts.append(
        "None of these has run. In each cell: registers per thread / bytes of shared memory / accesses to global "
        "memory of 128 bits or more, of all. `no`: it does not compile, see below. `bench/chips.py` has the names."
    )
    for dtype in DTYPES:
        lines = [[kind, *(_cell(by_place[kind, dtype, chip]) for chip in CHIPS)] for kind in KERNELS]
        parts += [f"## {dtype}", table(["kernel", *CHIPS], lines)]
    failures = Counter((row.chip, row.why_not) for row in rows if row.why_not)
    parts.append("## What stands in the way")
    parts.append(
        "\n".join(f"- {chip}, {count} kernels: {why}" for (chip, why), count in failures.items()) or "Nothing."
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with ProcessPoolExecutor(default_processes(), mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(row, *zip(*product(KERNELS, DTYPES, CHIPS), strict=True)))
    where: dict[str, Any] = environment("cpu")
    out = RESULTS / "chips"
    out.mkdir(parents=True, exist_ok=True)
    head = f"{where['date']}, commit {where['commit']}, Triton {triton.__version__}. Written by `bench/chips.py`."
    result = {"environment": where, "rows": [each._asdict() for each in rows]}
    write_result(out, "chips", result, page(rows, head))
    print(f"{len(rows)} kernels, {sum(not each.why_not for each in rows)} of them compiled. Written: {out}")


if __name__ == "__main__":
    main()
