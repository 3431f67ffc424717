"""Instructions per element of the Triton kernels, counted in their machine code, beside what memory's pace leaves.

    python bench/sass.py

Compiles, without a GPU, the very kernels that the launch path runs, for three generations of GPUs, and writes
results/sass/ (JSON and Markdown), the table of docs/gpu-kernels.md and, for tests/test_sass.py, tests/over_budget.json,
the kernels that need more than their budget, with what they need now. Takes minutes, less with a filled Triton cache.

What is counted is what a thread executes in a full block: the shortest way through the code, from its entry to its end,
that takes in the 128-bit stores, which the tail does not have. Of two ways around rare cases it is the common one.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from environment import RESULTS, environment, name_of, write_result
from report import table
from triton.backends.compiler import GPUTarget

from fastact.catalogue import ACTIVATIONS, Activation
from fastact.tools import warmup
from fastact.triton.launch import Launch, recording

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

from make import with_block  # noqa: E402

PAGE, OVER_BUDGET = ROOT / "docs" / "gpu-kernels.md", ROOT / "tests" / "over_budget.json"
OUT = RESULTS / "sass"

# An H200, whose memory was copied at 4.3 TB/s: each of its 132 multiprocessors issues 128 instructions per clock, of
# which 16 may be special functions (MUFU: reciprocals, exponentials of two, logarithms, sines).
INSTRUCTIONS_PER_BYTE = 132 * 128 * 1.98e9 / 4.3e12
SPECIAL_PER_BYTE = INSTRUCTIONS_PER_BYTE / 8

CAPABILITIES = (80, 90, 100)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TESTED = (("bfloat16", 90), ("float32", 90))
SHAPES = {"softmax": (2, 16384)}  # the longest rows that a program holds


def elements_per_thread(launch: Launch) -> int:
    """Of the output."""
    names = {"BLOCK", "TILE_ROWS", "TILE_COLUMNS", "LANES", "COLUMNS"} & set(launch.kernel.arg_names)
    return math.prod(map(launch.argument, names)) // (32 * launch.num_warps)


def accesses(launch: Launch, dtype: torch.dtype) -> tuple[int, int]:
    """How many elements a thread loads and stores of the tensors that are about as large as the activation."""
    sizes = [x.numel() for x in launch.ins + launch.outs if x.dtype == dtype]
    large = [size for size in sizes if size > max(sizes) / 4]

    def count(tensors: tuple[torch.Tensor, ...]) -> int:
        sizes = [x.numel() for x in tensors if x.dtype == dtype and x.numel() in large]
        return sum(elements_per_thread(launch) * size // min(large) for size in sizes)

    return count(launch.ins), count(launch.outs)


def bytes_per_element(launch: Launch) -> float:
    """Of all tensors that the kernel walks, for each element of its output (a gated unit's or Maxout's is shorter than
    its input). Weights and sums are not among these."""
    tensors = launch.ins + launch.outs
    n = min(x.numel() for x in tensors if x.numel() * 8 > max(y.numel() for y in tensors))
    return sum(x.nbytes for x in tensors if x.nbytes * 8 >= n) / n


class Instruction(NamedTuple):
    predicate: str
    name: str
    operands: str

    @property
    def ends_here(self) -> bool:
        """Whether what comes after it is never reached from it."""
        return self.name.split(".")[0] in ("EXIT", "BRA", "RET") and not self.predicate

    @property
    def sources(self) -> set[int]:
        """The registers that it reads, wide ones by their first."""
        operands = self.operands if self.name.startswith("ST") else self.operands.partition(",")[2]
        return {int(number) for number in re.findall(r"\bR(\d+)", operands)}

    @property
    def loaded(self) -> range:
        """The registers that a load from global memory fills."""
        first = re.match(r"R(\d+),", self.operands)
        if not (self.name.startswith("LDG") and first):
            return range(0)
        return range(int(first[1]), int(first[1]) + -(-self.loaded_bytes // 4))

    @property
    def loaded_bytes(self) -> int:
        width = re.search(r"\.[US]?(8|16|64|128)\b", self.name.partition(".E")[2])
        return int(width[1]) // 8 if width else 4


class Counts(NamedTuple):
    """Per element of the output; bytes per thread."""

    instructions: float
    special: float
    bytes_before_use: int
    """Loaded from global memory before the first instruction that needs any of it."""


@dataclass
class Code:
    """A kernel's machine code. `labels`: the number of the instruction after each."""

    instructions: list[Instruction]
    labels: dict[str, int]

    @classmethod
    def of(cls, launch: Launch, capability: int) -> Code:
        """Compiled for 80, 90 or 100."""
        disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            Path(cubin.name).write_bytes(launch.compile(GPUTarget("cuda", capability, 32)).asm["cubin"])
            text = subprocess.run([disassembler, cubin.name], check=True, capture_output=True, text=True).stdout
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Code:
        pattern = r"^(?:(\.L\w+):|\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+)?\s*([A-Z][A-Z0-9_.a-z]+)\s*([^;]*);)"
        instructions: list[Instruction] = []
        labels = {}
        for label, *instruction in re.findall(pattern, text, re.MULTILINE):
            if label:
                labels[label] = len(instructions)
            else:
                instructions.append(Instruction(*instruction))
        return cls(instructions, labels)

    @cached_property
    def names(self) -> Counter[str]:
        """How often each instruction stands in all of the code."""
        return Counter(instruction.name for instruction in self.instructions)

    def _successors(self, place: int) -> Iterator[int]:
        """Where it goes from an instruction without going back: loops are left after one turn."""
        instruction = self.instructions[place]
        if not instruction.ends_here:
            yield place + 1
        if instruction.name.startswith("BRA") and (target := re.search(r"\((\.L\w+)\)", instruction.operands)):
            if self.labels[target[1]] > place:
                yield self.labels[target[1]]

    def full_block(self) -> list[Instruction]:
        """What runs in a block of which every element is there: the way with the most 128-bit stores, those without a
        predicate before all (in softmax, a mask is on each), and of such ways the shortest."""
        end = len(self.instructions)
        nowhere = (-1, 0, 0)
        best = [nowhere] * (end + 1)
        then = [end] * end
        for place in reversed(range(end)):
            instruction = self.instructions[place]
            wide = instruction.name.startswith("STG.E.128")
            following = max(self._successors(place), key=lambda i: best[i], default=end)
            if instruction.name == "EXIT" and instruction.ends_here:
                best[place] = (0, 0, -1)
            elif best[following] != nowhere:
                sure, any_, length = best[following]
                best[place] = (sure + (wide and not instruction.predicate), any_ + wide, length - 1)
                then[place] = following
        way, place = [], 0
        while place < end:
            way.append(self.instructions[place])
            place = then[place]
        return way

    def counts(self, elements: int) -> Counts:
        """Of a full block, in which a thread has so many elements."""
        block = self.full_block()
        special = sum(each.name.startswith("MUFU") for each in block)
        awaited: set[int] = set()
        loaded = 0
        for each in block:
            if awaited & each.sources:
                break
            awaited |= set(each.loaded)
            loaded += each.loaded_bytes if each.loaded else 0
        return Counts(len(block) / elements, special / elements, loaded)


class Row(NamedTuple):
    """A kernel in one dtype for one compute capability."""

    activation: str
    direction: str
    """"forward", "forward+bits" (the same, writing what backward needs) or "backward"."""
    dtype: str
    capability: int
    bytes_per_element: float
    instructions: float
    special: float
    bytes_before_use: int

    @property
    def kernel(self) -> str:
        return f"{self.activation} {self.direction} {self.dtype}"

    @property
    def budget(self) -> tuple[float, float]:
        """The instructions and special functions per element that take as long as moving its bytes."""
        return self.bytes_per_element * INSTRUCTIONS_PER_BYTE, self.bytes_per_element * SPECIAL_PER_BYTE

    @property
    def load(self) -> float:
        """Of the arithmetic units, while memory is at its full pace: above 1 arithmetic is what bounds the kernel."""
        return max(self.instructions / self.budget[0], self.special / self.budget[1])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def row_of(activation: Activation, launch: Launch, dtype: torch.dtype, capability: int, code: Code) -> Row:
    direction = launch.name.rpartition("_")[2]
    bits = "+bits" if activation.saved == "mask" and len(launch.outs) > 1 else ""
    counts = code.counts(elements_per_thread(launch))
    return Row(activation.name, direction + bits, _name(dtype), capability, bytes_per_element(launch), *counts)


def rows(activation: Activation, dtype: torch.dtype, capability: int) -> list[Row]:
    """Of large dense tensors; of a gated unit, the halves of one."""
    x = torch.empty(SHAPES.get(activation.kind, (32768,)), dtype=dtype, device="meta")
    with recording() as launches:
        warmup.run(activation, x)
    return [
        row_of(activation, launch, dtype, capability, Code.of(launch, capability))
        for launch in launches
        if all(y.dtype in (dtype, torch.uint8) for y in launch.ins + launch.outs if y.numel() >= 16384)  # no autocast
    ]


def _rows_of(name: str) -> list[Row]:
    return [
        row for dtype in DTYPES for capability in CAPABILITIES for row in rows(ACTIVATIONS[name], dtype, capability)
    ]


def ceilings(rows: Sequence[Row]) -> dict[str, Any]:
    """The kernels above their budget, of those that the test looks at, and what they need: rounded up."""
    over = [row for row in rows if (row.dtype, row.capability) in TESTED and row.load > 1]
    kernels = {row.kernel: [math.ceil(row.instructions), math.ceil(row.special)] for row in over}
    # What spills with other versions of Triton, from tests/test_sass.py.
    return {"triton": triton.__version__, "kernels": kernels, "spills": json.loads(OVER_BUDGET.read_text())["spills"]}


def measured(results: Path) -> dict[str, dict[tuple[str, str, str], float]]:
    """Of each GPU whose benchmark lies there: the fraction of a copy's bandwidth that large tensors reached."""
    found = {}
    for path in sorted(results.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        if summary["environment"]["device"] == "cuda":
            found[name_of(summary["environment"])] = {
                (row["activation"], row["direction"], row["dtype"]): row["fraction_of_copy"]
                for row in summary["rows"]
                if row["level"] == "module" and row["layout"] == "contiguous" and row["fraction_of_copy"]
            }
    return found


def kernel_table(rows: Sequence[Row], dtype: str, gpus: dict[str, dict[tuple[str, str, str], float]]) -> str:
    """In Markdown, for sm_90."""
    rows = [row for row in rows if (row.dtype, row.capability) == (dtype, 90)]
    saves_bits = {row.activation for row in rows if row.direction == "forward+bits"}

    def fraction(row: Row, found: dict[tuple[str, str, str], float]) -> str:
        # The benchmark's modules are in training: where bits are saved, its forward writes them.
        timed = not (row.direction == "forward" and row.activation in saves_bits)
        value = found.get((row.activation, row.direction.removesuffix("+bits"), dtype)) if timed else None
        return "not measured" if value is None else f"{value:.2f}"

    lines = (
        [
            row.activation,
            row.direction,
            f"{row.bytes_per_element:.4g}",
            f"{row.instructions:.1f} / {row.budget[0]:.1f}",
            f"{row.special:.1f} / {row.budget[1]:.1f}",
            str(row.bytes_before_use),
            "memory" if row.load <= 1 else f"arithmetic, {1 / row.load:.2f} of the roof",
            *(fraction(row, found) for found in (gpus or {"": {}}).values()),
        ]
        for row in rows
    )
    headings = ["activation", "direction", "bytes per element", "instructions / budget", "MUFU / budget"]
    headings += ["bytes loaded before use, per thread", "predicted bound"]
    return table([*headings, *(f"measured fraction of roof{gpu and f', {gpu}'}" for gpu in gpus or [""])], lines, 2)


def page(text: str, rows: Sequence[Row]) -> str:
    """docs/gpu-kernels.md with the present figures."""
    wide = [row for row in rows if (row.dtype, row.capability) == ("float32", 90)]
    over = [f"{row.activation} {row.direction}" for row in wide if row.load > 1]
    said = f"In float32, {len(over)} of {len(wide)} kernels exceed their budget{': ' if over else ''}{', '.join(over)}."
    return with_block(text, "sass", f"{kernel_table(rows, 'bfloat16', measured(RESULTS))}\n\n{said}\n")


def load_rows() -> list[Row]:
    """Those last written."""
    return [Row(**row) for row in json.loads((OUT / "sass.json").read_text())["rows"]]


def main() -> None:
    with ProcessPoolExecutor(warmup.default_processes(), mp_context=get_context("spawn")) as pool:
        rows = [row for found in pool.map(_rows_of, ACTIVATIONS) for row in found]
    where = environment("cpu")
    head = (
        f"{where['date']}, commit {where['commit']}, Triton {triton.__version__}. What it means: `docs/gpu-kernels.md`."
    )
    tables = [f"## {name}, sm_90\n\n{kernel_table(rows, name, measured(RESULTS))}" for name in map(_name, DTYPES)]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.md").write_text("\n\n".join(["# Instructions of the Triton kernels", head, *tables]) + "\n")
    result = {"environment": where, "rows": [row._asdict() for row in rows]}
    write_result(OUT, "sass", result)
    OVER_BUDGET.write_text(json.dumps(ceilings(rows), indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), rows))
    print(f"{len(rows)} kernels; of those tested {len(ceilings(rows)['kernels'])} above their budget. Written: {OUT}")


if __name__ == "__main__":
    main()
