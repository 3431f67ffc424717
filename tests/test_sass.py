"""Triton's kernels, compiled without a GPU, and their machine code read.

Large activations are bound by memory traffic, so what matters is 128-bit accesses to global memory and no spills to
local memory, but for the few instructions that some versions of Triton spill (tests/over_budget.json). A compilation
takes half a second: compiled here are each way through the tensors and, of the formulas, the longest. `bench/sass.py`
counts all others, and its figures, those committed, are held to their budget here.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import sass
import triton
from triton.backends.compiler import GPUTarget

from fastact.catalogue import ACTIVATIONS
from fastact.triton import sources

pytestmark = pytest.mark.only("cpu")

ONE_OF_EACH = ("relu", "prelu", "gelu", "softmax", "geglu_tanh", "maxout")
COMPILED = [
    *((name, 90) for each in ONE_OF_EACH for name in sass.names(ACTIVATIONS[each], "bfloat16")),
    *((name.format("bfloat16"), 90) for name in sass.WALKS),
    *((name, 90) for name in sass.names(ACTIVATIONS["gelu"], "float32")),
    ("gelu backward float64", 90),
    *(("swiglu backward bfloat16", chip) for chip in (80, 100)),
]


def reads_wide(name: str) -> bool:
    """Whether eight neighbours lie in memory as accesses of 128 bits want them."""
    fields = name.split(" ")
    return not {"unaligned", "ragged"} & set(fields) and ("softmax" not in name or "divisor=8" in fields)


@cache
def ceilings() -> dict[str, Any]:
    return json.loads(sass.OVER_BUDGET.read_text())


@pytest.mark.parametrize(("name", "capability"), COMPILED)
def test_wide_accesses_and_no_spills(name: str, capability: int, device: str) -> None:
    code = sass.Code.of(name, capability)
    found = code.names["LDG.E.128"], code.names["STG.E.128"]
    if reads_wide(name):
        expected = sass.wide_accesses(name)
        assert all(count >= least > 0 for count, least in zip(found, expected, strict=True)), (found, expected)
    spills = ceilings()["spills"].get(triton.__version__, {})
    assert code.spills == spills.get(f"{name} sm_{capability}", 0)
    assert sources.compile(name, GPUTarget("cuda", capability, 32)).metadata.name == symbol(name)
    if triton.__version__ == ceilings()["triton"] and (sass.dtype_of(name), capability) in sass.TESTED:
        row = sass.Row.of(name, capability, code)
        check_budget(row)
        assert row in sass.load_rows(), "run bench/sass.py"


def symbol(name: str) -> str:
    """What profilers show of a kernel."""
    op, part, *_ = name.split(" ")
    return f"fastact_{op}_{part.replace('mask', 'forward')}"


def check_budget(row: sass.Row) -> None:
    """Arithmetic takes no longer than memory; where it does, not more of it than `bench/sass.py` last found."""
    ceiling = ceilings()["kernels"].get(row.kernel)
    if ceiling is None:
        assert row.load <= 1, f"{row} is above its budget, {row.budget}"
    else:
        assert row.load > 1, f"{row.kernel} is within its budget now: run bench/sass.py"
        assert row.instructions <= ceiling[0], row
        assert row.special <= ceiling[1], row


def test_every_kernel_is_within_its_budget(device: str) -> None:
    """Those that were not compiled here, as they were last counted."""
    rows = [row for row in sass.load_rows() if (row.key[2], row.capability) in sass.TESTED]
    counted = {row.kernel for row in rows}
    for activation in ACTIVATIONS.values():
        assert counted >= {name for dtype, _ in sass.TESTED for name in sass.names(activation, dtype)}
    for row in rows:
        check_budget(row)
    assert counted >= ceilings()["kernels"].keys()


def test_a_broken_budget_is_found(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    row = sass.Row("relu forward bfloat16", 90, 32, 0, 4.0, 40.0, 1.0, 64)
    within = row._replace(instructions=31.0)

    def check(row: sass.Row, *ceiling: int) -> None:
        found = {row.kernel: list(ceiling)} if ceiling else {}
        monkeypatch.setitem(globals(), "ceilings", lambda: {"kernels": found})
        check_budget(row)

    check(row, 40, 1)
    check(within)
    for other, *ceiling in (
        (row,),
        (row, 39, 1),
        (row._replace(special=2.0), 40, 1),
        (row._replace(special=4.0, instructions=9.0),),
        (within, 40, 1),
    ):
        with pytest.raises(AssertionError):
            check(other, *ceiling)


def test_the_ceilings_are_of_this_triton(device: str) -> None:
    counted = ceilings()["triton"]
    assert json.loads((sass.OUT / "sass.json").read_text())["environment"]["versions"]["triton"] == counted
    if triton.__version__ != counted:
        pytest.skip(f"counted with Triton {counted}: another compiler needs some instructions more or less")


def test_the_page_of_counts(device: str) -> None:
    text = sass.PAGE.read_text()
    assert sass.page(text, sass.load_rows()) == text, "run bench/sass.py"


CODE = """
    //----- nvinfo : EIATTR_REGCOUNT
        /*0000*/    .byte   0x04, 0x2f
        /*0008*/    .word   0x00000020
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/              @!P0 LDG.E.U16 R7, desc[UR6][R4.64] ;
        /*0030*/                   MUFU.RCP R7, R7 ;
        /*0040*/              @!P0 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
.L_x_0:
        /*0060*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0070*/                   LDG.E R12, desc[UR6][R2.64+0x800] ;
        /*0080*/                   MUFU.RCP R8, R6 ;
        /*0090*/               @P0 BRA `(.L_x_2) ;
        /*00a0*/                   MUFU.EX2 R8, R6 ;
        /*00b0*/                   LDG.E.128 R16, desc[UR6][R2.64] ;
.L_x_2:
        /*00c0*/               @P1 STG.E.128 desc[UR6][R2.64], R8 ;
        /*00d0*/               @P0 EXIT ;
        /*00e0*/                   STG.E.U16 desc[UR6][R2.64], R8 ;
        /*00f0*/                   STL [R1], R8 ;
        /*0100*/                   EXIT ;
.L_x_3:
        /*0110*/                   BRA `(.L_x_3);
"""


def test_what_is_counted(device: str) -> None:
    """Two instructions before the branch to the full block, and the six of it that run where no rare case does: after
    its stores a program that is not the last one is done."""
    code = sass.Code.parse(CODE)
    assert [code.instructions[place].name for place in code.full_block()] == [
        "LDC", "BRA", "LDG.E.128", "LDG.E", "MUFU.RCP", "BRA", "STG.E.128", "EXIT",
    ]  # fmt: skip
    assert code.counts(elements=8) == (1.0, 0.125, 20)
    assert (code.registers, code.spills) == (32, 1)
    looped = sass.Code.parse(CODE.replace("@P0 EXIT", "@P0 BRA `(.L_x_0)"))
    assert [looped.instructions[place].name for place in looped.turn()] == [
        "LDG.E.128", "LDG.E", "MUFU.RCP", "BRA", "STG.E.128", "BRA",
    ]  # fmt: skip
    assert looped.counts(elements=8, in_loop=True) == (0.75, 0.125, 20)
