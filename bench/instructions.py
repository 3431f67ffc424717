"""Instructions per float32 element of the C++ kernels that do arithmetic, counted in their compiled loops.

    python bench/instructions.py [BUILD_FOLDER]

Reads the newest object files that `python setup.py build_ext --inplace` leaves under build/, prints a table and writes
it to instructions.json and instructions.md under bench/results/<hardware>/; the benchmark's report shows the counts
beside the times. The number of instructions is what bounds most of these kernels as long as the data lies in the cache:
a core with AVX-512 completes two of them per cycle, each for 16 elements.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import environment, result_folder, write_result
from report import table

from fastact.catalogue import ACTIVATIONS

INSTRUCTION_SETS = ("Baseline", "Avx2", "Avx512")
TABLES = Path(__file__).parents[1] / "csrc/activations/lut8_tables.h"
FUNCTION = re.compile(r"<void fastact::\(anonymous namespace\)::(\w+)<fastact::\(anonymous namespace\)::(\w+), float>")
WIDTHS = {"x": 4, "y": 8, "z": 16}
"""Floats in an xmm, ymm or zmm register."""
LOOKUP = re.compile(r"vpermps\s")
STORE = re.compile(r"v?mov[au]p[sd]\s+%([xyz])mm\d+,[-0-9a-fx]*\((%r\w+)")


def functions(file: Path) -> Iterator[tuple[str, str, list[tuple[int, str]]]]:
    """Direction, formula and code of each float32 block function."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", file], capture_output=True, text=True, check=True
    ).stdout
    for block in text.split("\n\n"):
        head, _, body = block.strip().partition("\n")
        if found := FUNCTION.search(head):
            lines = re.findall(r"^\s+([0-9a-f]+):\t(.*)$", body, re.MULTILINE)
            yield found[1], found[2], [(int(address, 16), code) for address, code in lines]


def per_element(code: list[tuple[int, str]]) -> float | None:
    """Of the longest loop that stores numbers and contains no other such: instructions over the elements it stores.

    Of a formula that is read from a table, of the loop that looks numbers up: the longest may be the one for what lies
    beyond the table. None of no code, and where the one is within the other: much of that would not be executed.
    """
    if not code:
        return None
    stack = {"%rsp", "%rbp"} if any(re.match(r"mov\s+%rsp,%rbp", text) for _, text in code) else {"%rsp"}
    ends = [
        (address, int(target[1], 16)) for address, text in code if (target := re.match(r"j\w+\s+([0-9a-f]+)", text))
    ]
    loops = {}
    for end, start in ends:
        body = [text for address, text in code if start <= address <= end]
        if elements := sum(WIDTHS[s[1]] for text in body if (s := STORE.match(text)) and s[2] not in stack):
            loops[start, end] = len(body), elements
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    lookups = [address for address, text in code if LOOKUP.match(text)]
    if lookups:
        inner = [a for a in inner if any(a[0] <= address <= a[1] for address in lookups)]
        if not inner:
            return None
    instructions, elements = max(loops[each] for each in inner)
    return round(instructions / elements, 2)


def counted(root: Path) -> list[dict[str, Any]]:
    """A row for each activation and direction, from the newest object files."""
    code = {}
    tables = set(re.findall(r"Lut8<(Derivative<)?(?:Unit)?(\w+)<float>", TABLES.read_text()))
    for name in INSTRUCTION_SETS:
        newest = max(root.glob(f"temp*/*/kernels_{name}.o"), key=lambda file: file.stat().st_mtime)
        for direction, formula, lines in functions(newest):
            several = name == "Baseline" and ("Derivative<" if direction == "backward" else "", formula) in tables
            code[formula.lower(), direction, name] = [] if several else lines
    return [
        {
            "activation": row.name,
            "direction": direction,
            "instructions_per_element": {
                name.lower(): per_element(code[row.name.replace("_", ""), direction, name]) for name in INSTRUCTION_SETS
            },
        }
        for row in ACTIVATIONS.values()
        if row.kind == "pointwise" and not row.random
        for direction in ("forward", "backward")
    ]


def report(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    cells: dict[str, list[str]] = {}
    for row in rows:
        counts = row["instructions_per_element"].values()
        cells.setdefault(row["activation"], [row["activation"]]).extend(
            "" if count is None else f"{count:.2f}" for count in counts
        )
    columns = [f"{direction}, {name.lower()}" for direction in ("forward", "backward") for name in INSTRUCTION_SETS]
    return (
        "# Instructions per float32 element\n\n"
        "Counted by `python bench/instructions.py` in the inner loops of the kernels; "
        f"{where['versions']['compiler']}, {where['date'][:10]}. Where bits are saved, forward writes them; "
        "Softplus is forward that of beta = 1 and backward that of any beta, which takes more. What is read from a "
        "table takes the baseline several loops, which are not counted, nor is what else is done where numbers lie "
        "beyond the table. An "
        "instruction does up to 16 elements with AVX-512, 8 with AVX2, 4 on the baseline.\n\n"
        f"{table(['activation', *columns], cells.values())}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, nargs="?", default=Path(__file__).parents[1] / "build")
    rows, where = counted(parser.parse_args().build), environment("cpu")
    text = report(rows, where)
    write_result(result_folder(where), "instructions", {"environment": where, "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
