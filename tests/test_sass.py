"""Every Triton kernel, compiled for three generations of GPUs without one, and its machine code read.

Large activations are bound by memory traffic, so what matters is 128-bit accesses to global memory, at sizes that
divide by 16 and at those that do not, and no spills to local memory, but for the few instructions that some versions of
Triton spill (tests/over_budget.json).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DEFAULTS, DTYPES, LOOPS, Case, run_kernels

pytestmark = pytest.mark.only("cpu")

EVERYWHERE = [
    pytest.param(case, dtype, capability, id=f"{case}-{dtype}-{capability}")
    for case in DEFAULTS
    for dtype in DTYPES
    for capability in (80, 90, 100)
    # A compilation takes a second: every formula for one GPU in one type, each way through the loops for three GPUs in
    # two types and for one GPU in all.
    if (capability == 90 and (case in LOOPS or dtype is torch.bfloat16))
    or (case in LOOPS and dtype in (torch.float32, torch.bfloat16))
]


def record_launches(call: Callable[[], Any]) -> list:
    from fastact.triton.launch import recording

    with recording() as launches:
        call()
    return launches


def launches_at(case: Case, dtype: torch.dtype, shape: tuple[int, ...]) -> list:
    from fastact.triton.ops import KERNELS

    x = torch.zeros(case.shape(*shape), dtype=dtype)
    return record_launches(lambda: run_kernels(case, KERNELS.__getitem__, x, case.torch(x)))


@pytest.mark.parametrize(("case", "dtype", "capability"), EVERYWHERE)
def test_wide_accesses_and_no_spills(case: Case, dtype: torch.dtype, capability: int, device: str) -> None:
    import sass
    import triton

    ceilings = json.loads(sass.OVER_BUDGET.read_text())
    counted = (
        triton.__version__ == ceilings["triton"] and (str(dtype).removeprefix("torch."), capability) in sass.TESTED
    )
    seen = set()
    spills = {}
    shapes = (16384,), (16381,)
    if case.activation.kind == "softmax":
        # Rows of the most elements that a program holds, and of more. They are multiples of 16 as most are: others do
        # not start where wide accesses may.
        shapes = (2, 16384), (2, 40000)
    for shape in shapes:
        for launch in launches_at(case, dtype, shape):
            key = launch.kind
            if key in seen:  # the same kernel serves both sizes
                continue
            seen.add(key)
            code = sass.Code.of(launch, capability)
            names = code.names
            what = f"{launch.name} at {shape}"
            loads, stores = (elements * dtype.itemsize // 16 for elements in sass.accesses(launch, dtype))
            assert names["LDG.E.128"] >= loads > 0, what
            assert names["STG.E.128"] >= stores > 0, what
            if spilled := sum(count for name, count in names.items() if name.startswith(("LDL", "STL"))):
                spills[f"{case} {what} in {dtype} on sm_{capability}"] = spilled
            # In longer rows of softmax than a program holds, loops stand around the code.
            if counted and shape == shapes[0]:
                row = sass.row_of(case.activation, launch, dtype, capability, code)
                check_budget(row, ceilings["kernels"].get(row.kernel))
    known = ceilings["spills"].get(triton.__version__, {})
    start, end = f"{case} ", f" in {dtype} on sm_{capability}"
    assert spills == {each: count for each, count in known.items() if each.startswith(start) and each.endswith(end)}


def check_budget(row: Any, ceiling: list[int] | None) -> None:
    """Arithmetic takes no longer than memory; where it does, not more of it than `bench/sass.py` last found."""
    if ceiling is None:
        assert row.load <= 1, f"{row} is above its budget, {row.budget}"
    else:
        assert row.load > 1, f"{row.kernel} is within its budget now: run bench/sass.py"
        assert row.instructions <= ceiling[0], row
        assert row.special <= ceiling[1], row


def test_a_broken_budget_is_found(device: str) -> None:
    from sass import Row

    row = Row("relu", "forward", "bfloat16", 90, 4.0, 40.0, 1.0, 64)
    check_budget(row, [40, 1])
    check_budget(row._replace(instructions=31.0), None)
    for other, ceiling in (
        (row, None),
        (row, [39, 1]),
        (row._replace(special=2.0), [40, 1]),
        (row._replace(special=4.0, instructions=9.0), None),
        (row._replace(instructions=31.0), [40, 1]),
    ):
        with pytest.raises(AssertionError):
            check_budget(other, ceiling)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [c for c in LOOPS if c.activation.kind == "pointwise"], ids=str)
def test_row_strided_views_are_read_wide(case: Case, dtype: torch.dtype, device: str) -> None:
    from sass import Code, elements_per_thread

    from fastact.triton.ops import KERNELS

    x = torch.zeros(64, 2 * 128, dtype=dtype).chunk(2, dim=-1)[0]
    seed = (torch.zeros((), dtype=torch.int64),) if case.activation.random else ()
    parameters = (*seed, *(case.sample[name] for name in case.activation.scalars))
    (launch,) = record_launches(lambda: KERNELS[case.activation.name](x, *parameters))
    code = Code.of(launch, 90).names
    assert code["LDG.E.128"] == code["STG.E.128"] == elements_per_thread(launch) * x.element_size() // 16


def test_one_kernel_per_formula_and_dtype(device: str) -> None:
    """Whatever the size: a model with many shapes must not compile many kernels."""
    for case in DEFAULTS:
        if not case.activation.pointwise:
            continue
        keys = set()
        for n in (1, 2, 16, 1000, 4096, 2**20 + 1):
            forward = launches_at(case, torch.float32, (n,))[0]
            keys.add(forward.kind)
        assert len(keys) == 1, case


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_kernels_are_named_after_the_activation(case: Case, device: str) -> None:
    from triton.backends.compiler import GPUTarget

    launches = launches_at(case, torch.float32, (4096,))
    names = {launch.name for launch in launches}
    assert names == {launch.compile(GPUTarget("cuda", 90, 32)).metadata.name for launch in launches}
    assert names == {f"fastact_{case.activation.name}_{direction}" for direction in ("forward", "backward")}


def test_the_ceilings_are_of_this_triton(device: str) -> None:
    import sass
    import triton

    counted = json.loads(sass.OVER_BUDGET.read_text())["triton"]
    assert json.loads((sass.OUT / "sass.json").read_text())["environment"]["versions"]["triton"] == counted
    if triton.__version__ != counted:
        pytest.skip(f"counted with Triton {counted}: another compiler needs some instructions more or less")


def test_every_exception_is_a_kernel(device: str) -> None:
    import sass

    named = {tuple(kernel.split()) for kernel in json.loads(sass.OVER_BUDGET.read_text())["kernels"]}
    dtypes = {dtype for dtype, _ in sass.TESTED}
    directions = ("forward", "forward+bits", "backward")
    assert named <= {(case.activation.name, way, dtype) for case in DEFAULTS for way in directions for dtype in dtypes}


def test_the_page_of_counts(device: str) -> None:
    import sass

    text = sass.PAGE.read_text()
    assert sass.page(text, sass.load_rows()) == text, "run bench/sass.py"


CODE = """
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
        /*00c0*/                   STG.E.128 desc[UR6][R2.64], R8 ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_3);
"""


def test_what_is_counted(device: str) -> None:
    """Two instructions before the branch to the full block, and the six of it that run where no rare case does."""
    from sass import Code

    code = Code.parse(CODE)
    assert [each.name for each in code.full_block()] == [
        "LDC", "BRA", "LDG.E.128", "LDG.E", "MUFU.RCP", "BRA", "STG.E.128", "EXIT",
    ]  # fmt: skip
    assert code.counts(elements=8) == (1.0, 0.125, 20)
