"""bench/chips.py, which compiles kernels for other chips."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace

import chips
import pytest
from triton import knobs
from triton.runtime import driver

from fastact.triton import sources


@pytest.fixture
def scoped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what `chips.row` tells Triton."""
    monkeypatch.setattr(driver, "_active", None)
    with knobs.compilation.scope():
        yield


@pytest.mark.parametrize("dtype", chips.DTYPES)
@pytest.mark.parametrize("kind", chips.KERNELS)
def test_names_stand_for_kernels(kind: str, dtype: str) -> None:
    assert sources.source(chips.KERNELS[kind].format(dtype)).block > 0


@pytest.mark.parametrize("chip", ["sm_80", "gfx942"])
def test_what_is_counted(chip: str, scoped: None) -> None:
    """Of a kernel that reads 64 bytes and bits for each thread of 128 (or of 256, half of that), and writes as much."""
    row = chips.row("backward by mask", "bfloat16", chip)
    assert row.why_not == ""
    assert (row.spills, row.wide) == (0, 8 if chip == "sm_80" else 4)
    assert 16 <= row.registers <= 64
    assert row.narrow > 0


def test_instructions_of_another_maker_are_named(scoped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself only complains of them."""
    lines = [f'%{i} = call float asm "{name} $0, $1;", "=f,f"(float %0)' for i, name in enumerate(("rcp.x", "ex2.x"))]
    compiled = SimpleNamespace(asm={"llir": "\n".join(lines)})
    monkeypatch.setattr(sources, "compile", lambda name, target: compiled)
    row = chips.row("forward", "bfloat16", "gfx942")
    assert row == chips.Row("forward", "bfloat16", "gfx942", "instructions of NVIDIA's: ex2.x, rcp.x")
    rows = {key: chips.Row(*key) for key in product(chips.KERNELS, chips.DTYPES, chips.CHIPS)} | {row[:3]: row}
    page = chips.page(list(rows.values()), "")
    assert f"| forward |{(len(chips.CHIPS) - 1) * ' 0 / 0 / 0 of 0 |'} no |\n" in page
    assert page.endswith("- gfx942, 1 kernels: instructions of NVIDIA's: ex2.x, rcp.x\n")


def test_what_does_not_compile_is_said(scoped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(name: str, target: object) -> None:
        raise RuntimeError("\n`ptxas` failed\nptxas /tmp/x.ptx, line 1; error: no such instruction\n")

    monkeypatch.setattr(sources, "compile", compile)
    row = chips.row("forward", "bfloat16", "sm_75")
    assert row.why_not == "RuntimeError: ptxas /tmp/x.ptx, line 1; error: no such instruction"
