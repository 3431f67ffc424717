"""Instructions per element of the Triton kernels, counted in their machine code, beside what memory's pace leaves.

    python bench/sass.py

Compiles, without a GPU, kernels by the names under which csrc/gpu launches them (fastact/triton/sources.py), for three
generations of GPUs, and writes results/sass/ (JSON and Markdown), the table of docs/gpu-kernels.md and, for
tests/test_sass.py, tests/over_budget.json, the kernels that need more than their budget, with what they need now. Takes
minutes, less with a filled Triton cache.

What is counted is what a thread executes in a full block: the shortest way through the code, from its entry to its end,
that takes in the 128-bit stores, which the last elements of a tensor do not have. Of two ways around rare cases it is
the common one, and of a loop one turn. A program that sums walks many tiles: of that one turn is all that counts.
"""

from __future__ import annotations

import argparse
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
from functools import cache, cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import triton
from environment import RESULTS, environment, name_of, write_result
from report import table
from triton.backends.compiler import GPUTarget

from fastact.catalogue import ACTIVATIONS, Activation
from fastact.tools import warmup
from fastact.triton import sources

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

from make import with_block  # noqa: E402

PAGE, OVER_BUDGET = ROOT / "docs" / "gpu-kernels.md", ROOT / "tests" / "over_budget.json"
OUT = RESULTS / "sass"

# An H200, whose memory is taken to copy 4.3 TB/s: each of its 132 multiprocessors issues 128 instructions per clock, of
# which 16 may be special functions (MUFU: reciprocals, exponentials of two, logarithms, sines).
INSTRUCTIONS_PER_BYTE = 132 * 128 * 1.98e9 / 4.3e12
SPECIAL_PER_BYTE = INSTRUCTIONS_PER_BYTE / 8

CAPABILITIES = (80, 90, 100)
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
DTYPES = ("bfloat16", "float16", "float32")
TESTED = (("bfloat16", 90), ("float32", 90))


def names(row: Activation, dtype: str) -> list[str]:
    """The kernels of large dense tensors. Of learned weights one number each, of Maxout two neighbours, of softmax the
    longest rows that a program holds."""
    if row.kind == "softmax":
        return [f"{row.name} {part} {dtype} {dtype} rows 1x16384 one divisor=8" for part in ("forward", "backward")]
    layout = {"channelwise": " channel=number", "maxout": " adjacent together=2"}.get(row.kind, "")
    return [f"{row.name} {part} {dtype}{layout}" for part in ("forward", *["mask"] * (row.saved == "mask"), "backward")]


WALKS = (
    "relu forward {0} unaligned",
    "relu mask {0} rows",
    "gelu backward {0} rows",
    "swiglu forward {0} rows",
    *(f"prelu forward {{0}} channel={channel}" for channel in ("next", "one", "two", "any")),
    *(f"prelu backward {{0}} channel={channel}" for channel in ("outer", "outer ragged", "inner", "inner ragged")),
    "xielu backward {0} channel=outer",
    "snake backward {0} channel=inner",
    "bias_gelu forward {0} residual channel=next",
    "bias_gelu backward {0} channel=outer",
    *(
        f"softmax {part} {{0}} {{0}} {layout}"
        for layout in ("rows 2x1024 one divisor=8", "rows 1x8192 two", "strided 32x64 one divisor=8")
        for part in ("forward", "backward")
    ),
)
"""Other ways through the tensors. Softmax: of 1000 classes, of 50257, and of 64 channels of images."""


class Traffic(NamedTuple):
    """What a kernel moves."""

    loads: int
    """Tensors as long as the output. One that is twice as long, as a packed gated unit's, counts twice."""
    stores: int
    beside: float
    """Bytes of masks and indices, per element of the output."""

    @classmethod
    def of(cls, name: str) -> Traffic:
        op, part, *fields = name.split(" ")
        row, forward = ACTIVATIONS[op.removeprefix("bias_")], part != "backward"
        if row.kind == "gated":
            return cls(2, 1, 0) if forward else cls(3, 2, 0)
        if row.kind == "maxout":
            pieces = row.divisor
            return cls(pieces, 1, 1) if forward else cls(1, pieces, 1)
        has_mask = part == "mask" or (not forward and row.saved == "mask")
        tiles = 1 + ("residual" in fields) if forward else 2 - has_mask
        return cls(tiles, 1, has_mask / 8)


@cache
def elements_per_thread(name: str) -> int:
    """Of the output."""
    source = sources.source(name)
    return source.block * source.tile_rows // (32 * source.num_warps)


def walks_many_tiles(name: str) -> bool:
    """In a loop, as programs with sums do."""
    return " backward " in name and " channel=" in name


def dtype_of(name: str) -> str:
    return name.split(" ")[2]


def wide_accesses(name: str) -> tuple[int, int]:
    """How many 128-bit loads and stores take in a thread's elements."""
    bytes = elements_per_thread(name) * ITEMSIZE[dtype_of(name)]
    traffic = Traffic.of(name)
    return traffic.loads * bytes // 16, traffic.stores * bytes // 16


def bytes_per_element(name: str) -> float:
    """Of all tensors that the kernel walks, for each element of its output (a gated unit's or Maxout's is shorter than
    its input). Weights and sums are not among these."""
    traffic = Traffic.of(name)
    return (traffic.loads + traffic.stores) * ITEMSIZE[dtype_of(name)] + traffic.beside


class Instruction(NamedTuple):
    predicate: str
    name: str
    operands: str

    @property
    def ends_here(self) -> bool:
        """Whether what comes after it is never reached from it."""
        has_condition = self.predicate or (self.name.startswith("BRA.") and not self.operands.startswith("`"))
        return self.name.split(".")[0] in ("EXIT", "BRA", "RET") and not has_condition

    @property
    def target(self) -> str | None:
        """The label that it may go to. A call of a label, not of a function, is a jump out of a loop."""
        found = re.search(r"\((\.L\w+)\)", self.operands)
        return found[1] if found and self.name.startswith(("BRA", "CALL")) else None

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


WIDE = "STG.E.128"


@dataclass
class Code:
    """A kernel's machine code. `labels`: the number of the instruction after each."""

    instructions: list[Instruction]
    labels: dict[str, int]
    registers: int
    """Of a thread."""

    @classmethod
    def of(cls, name: str, capability: int) -> Code:
        """Compiled for 80, 90 or 100."""
        disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            Path(cubin.name).write_bytes(sources.compile(name, GPUTarget("cuda", capability, 32)).asm["cubin"])
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
        count = re.search(r"EIATTR_REGCOUNT.*?\.word\s+(0x[0-9a-f]+)", text, re.DOTALL)
        return cls(instructions, labels, int(count[1], 16) if count else 0)

    @cached_property
    def names(self) -> Counter[str]:
        """How often each instruction stands in all of the code."""
        return Counter(instruction.name for instruction in self.instructions)

    @property
    def store(self) -> str:
        """How the instructions begin that store tensors."""
        return WIDE if self.names[WIDE] else "STG"

    @property
    def spills(self) -> int:
        """Accesses to local memory."""
        return sum(count for name, count in self.names.items() if name.startswith(("LDL", "STL")))

    def _successors(self, place: int) -> Iterator[int]:
        """Where it goes from an instruction without going back: loops are left after one turn."""
        instruction = self.instructions[place]
        if not instruction.ends_here:
            yield place + 1
        if instruction.target and self.labels[instruction.target] > place:
            yield self.labels[instruction.target]

    def full_block(self) -> list[int]:
        """The places of what runs in a block of which every element is there: the way with the most 128-bit stores (or
        any, if none is as wide), those without a predicate before all (most have one, a mask), and of such ways the
        shortest."""
        end = len(self.instructions)
        nowhere = (-1, 0, 0)
        best = [nowhere] * (end + 1)
        then = [end] * end
        for place in reversed(range(end)):
            instruction = self.instructions[place]
            wide = instruction.name.startswith(self.store)
            following = max(self._successors(place), key=lambda i: best[i], default=end)
            if best[following] != nowhere:
                sure, any_, length = best[following]
                best[place] = (sure + (wide and not instruction.predicate), any_ + wide, length - 1)
                then[place] = following
            if instruction.name == "EXIT" and best[place] < (0, 0, -1):
                best[place] = (0, 0, -1)
                then[place] = end
        way, place = [], 0
        while place < end:
            way.append(place)
            place = then[place]
        return way

    def turn(self) -> list[int]:
        """Of these those in the smallest loop that has all of their stores to tensors."""
        block = self.full_block()
        # The last ones are of sums, after the loop, where none is wide.
        stores = [place for place in block if self.instructions[place].name.startswith(self.store)]
        stores = stores if self.store == WIDE else stores[:1]
        loops = [
            range(self.labels[each.target], place + 1) for place, each in enumerate(self.instructions) if each.target
        ]
        around = [loop for loop in loops if stores[0] in loop and stores[-1] in loop]
        return [place for place in block if place in min(around, key=len)]

    def counts(self, elements: int, in_loop: bool = False) -> Counts:
        """Of a full block, or of a turn of its loop, in which a thread has so many elements."""
        block = [self.instructions[place] for place in (self.turn() if in_loop else self.full_block())]
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
    """A kernel for one compute capability."""

    kernel: str
    capability: int
    registers: int
    spills: int
    """Instructions that spill registers or fill them again, in all of the code."""
    bytes_per_element: float
    instructions: float
    special: float
    bytes_before_use: int

    @classmethod
    def of(cls, name: str, capability: int, code: Code) -> Row:
        counts = code.counts(elements_per_thread(name), walks_many_tiles(name))
        return cls(name, capability, code.registers, code.spills, bytes_per_element(name), *counts)

    @property
    def key(self) -> tuple[str, str, str]:
        """Activation, part and dtype."""
        activation, part, dtype, *_ = self.kernel.split(" ")
        return activation, part, dtype

    @property
    def label(self) -> str:
        """The name without the dtype."""
        return re.sub(f" {self.key[2]}\\b", "", self.kernel)

    @property
    def budget(self) -> tuple[float, float]:
        """The instructions and special functions per element that take as long as moving its bytes."""
        return self.bytes_per_element * INSTRUCTIONS_PER_BYTE, self.bytes_per_element * SPECIAL_PER_BYTE

    @property
    def load(self) -> float:
        """Of the arithmetic units, while memory is at its full pace: above 1 arithmetic is what bounds the kernel."""
        return max(self.instructions / self.budget[0], self.special / self.budget[1])


def _row_of(kernel: tuple[str, int]) -> Row:
    name, capability = kernel
    return Row.of(name, capability, Code.of(name, capability))


def ceilings(rows: Sequence[Row]) -> dict[str, Any]:
    """The kernels above their budget, of those that the test looks at, and what they need, rounded up; and those that
    spill, with the version of Triton that makes them."""
    tested = [row for row in rows if (row.key[2], row.capability) in TESTED]
    kernels = {row.kernel: [math.ceil(row.instructions), math.ceil(row.special)] for row in tested if row.load > 1}
    spills = {f"{row.kernel} sm_{row.capability}": row.spills for row in rows if row.spills}
    others = json.loads(OVER_BUDGET.read_text())["spills"]  # of other versions, from tests/test_sass.py
    return {"triton": triton.__version__, "kernels": kernels, "spills": others | {triton.__version__: spills}}


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
    large = {name for activation in ACTIVATIONS.values() for name in names(activation, dtype)}
    rows = [row for row in rows if (row.key[2], row.capability) == (dtype, 90)]
    saves_mask = {row.key[0] for row in rows if row.key[1] == "mask"}

    def fraction(row: Row, found: dict[tuple[str, str, str], float]) -> str:
        # The benchmark's modules are in training: where a mask is saved, its forward writes it.
        activation, part, _ = row.key
        timed = row.kernel in large and not (part == "forward" and activation in saves_mask)
        value = found.get((activation, part.replace("mask", "forward"), dtype)) if timed else None
        return "not measured" if value is None else f"{value:.2f}"

    def line(row: Row) -> list[str]:
        return [
            row.label,
            f"{row.bytes_per_element:.4g}",
            f"{row.instructions:.1f} / {row.budget[0]:.1f}",
            f"{row.special:.1f} / {row.budget[1]:.1f}",
            f"{row.registers}{f', {row.spills} spills' if row.spills else ''}",
            str(row.bytes_before_use),
            "memory" if row.load <= 1 else f"arithmetic, {1 / row.load:.2f} of the roof",
            *(fraction(row, found) for found in (gpus or {"": {}}).values()),
        ]

    headings = ["kernel", "bytes per element", "instructions / budget", "MUFU / budget", "registers"]
    headings += ["bytes loaded before use, per thread", "predicted bound"]
    headings += [f"measured fraction of roof{gpu and f', {gpu}'}" for gpu in gpus or [""]]
    return table(headings, map(line, rows))


def page(text: str, rows: Sequence[Row]) -> str:
    """docs/gpu-kernels.md with the present figures."""
    wide = [row for row in rows if (row.key[2], row.capability) == ("float32", 90)]
    over = [row.label for row in wide if row.load > 1]
    said = f"In float32, {len(over)} of {len(wide)} kernels exceed their budget{': ' if over else ''}{', '.join(over)}."
    return with_block(text, "sass", f"{kernel_table(rows, 'bfloat16', measured(RESULTS))}\n\n{said}\n")


def load_rows() -> list[Row]:
    """Those last written."""
    return [Row(**row) for row in json.loads((OUT / "sass.json").read_text())["rows"]]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    large = [name for dtype in DTYPES for row in ACTIVATIONS.values() for name in names(row, dtype)]
    wanted = [(name, capability) for name in large for capability in CAPABILITIES]
    wanted += [(name.format(dtype), 90) for dtype in DTYPES for name in WALKS]
    with ProcessPoolExecutor(warmup.default_processes(), mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_row_of, wanted))
    where = environment("cpu")
    head = (
        f"{where['date']}, commit {where['commit']}, Triton {triton.__version__}. What it means: `docs/gpu-kernels.md`."
    )
    tables = [f"## {name}, sm_90\n\n{kernel_table(rows, name, measured(RESULTS))}" for name in DTYPES]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.md").write_text("\n\n".join(["# Instructions of the Triton kernels", head, *tables]) + "\n")
    result = {"environment": where, "rows": [row._asdict() for row in rows]}
    write_result(OUT, "sass", result)
    OVER_BUDGET.write_text(json.dumps(ceilings(rows), indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), rows))
    print(f"{len(rows)} kernels; of those tested {len(ceilings(rows)['kernels'])} above their budget. Written: {OUT}")


if __name__ == "__main__":
    main()
