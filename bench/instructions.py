"""Instructions per float32 element of the C++ kernels that do arithmetic, counted in their compiled loops.

    python bench/instructions.py [BUILD_FOLDER]

Reads the object files that setup.py leaves under build/ and prints a table. The number of instructions is what bounds
these kernels as long as the data lies in the cache: a core with AVX-512 completes two of them per cycle, each for 16
elements.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from report import table

from fastact.catalogue import ACTIVATIONS

INSTRUCTION_SETS = ("Baseline", "Avx2", "Avx512")
COLUMNS = [(direction, name) for direction in ("forward", "backward") for name in INSTRUCTION_SETS]
FUNCTION = re.compile(r"<void fastact::\(anonymous namespace\)::(\w+)<fastact::\(anonymous namespace\)::(\w+), float>")
WIDTHS = {"x": 4, "y": 8, "z": 16}
"""Floats in an xmm, ymm or zmm register."""
STORE = re.compile(r"v?mov[au]p[sd]\s+%([xyz])mm\d+,[-0-9a-fx]*\((?!%rsp|%rbp)")


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


def per_element(code: list[tuple[int, str]]) -> float:
    """Of the longest loop that contains no other: instructions over the elements that it stores."""
    ends = [
        (address, int(target[1], 16)) for address, text in code if (target := re.match(r"j\w+\s+([0-9a-f]+)", text))
    ]
    spans = [(start, end) for end, start in ends if start < end]
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    loops = [[text for address, text in code if start <= address <= end] for start, end in inner]
    counted = [(len(loop), sum(WIDTHS[s[1]] for text in loop if (s := STORE.match(text)))) for loop in loops]
    instructions, elements = max(each for each in counted if each[1])
    return instructions / elements


def main() -> None:
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "build"
    code = {}
    for name in INSTRUCTION_SETS:
        newest = max(root.rglob(f"kernels_{name}.o"), key=lambda file: file.stat().st_mtime)
        for direction, formula, lines in functions(newest):
            code[formula.lower(), direction, name] = lines
    cells = []
    for row in ACTIVATIONS.values():
        if row.kind == "pointwise" and row.saved in ("input", "output"):
            keys = [(row.name.replace("_", ""), direction, name) for direction, name in COLUMNS]
            cells.append([row.name, *(f"{per_element(code[key]):.2f}" for key in keys)])
    print(table(["activation", *(f"{direction}, {name.lower()}" for direction, name in COLUMNS)], cells))


if __name__ == "__main__":
    main()
