"""Every Triton kernel, compiled for three generations of GPUs without one, and its machine code read.

Large activations are bound by memory traffic, so what matters is 128-bit accesses to global memory, at sizes that
divide by 16 and at those that do not, and no spills to local memory.
"""

from __future__ import annotations

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


def launches_at(case: Case, dtype: torch.dtype, shape: tuple[int, ...], monkeypatch) -> list:
    from sass import record_launches

    from fastact import kernels

    x = torch.zeros(case.shape(*shape), dtype=dtype)
    return record_launches(monkeypatch, lambda: run_kernels(case, kernels, x, case.torch(x)))


@pytest.mark.parametrize(("case", "dtype", "capability"), EVERYWHERE)
def test_wide_accesses_and_no_spills(case: Case, dtype: torch.dtype, capability: int, device: str, monkeypatch) -> None:
    from sass import compile_for

    seen = set()
    shapes = (16384,), (16381,)
    if case.activation.kind == "softmax":
        # Rows of the most elements that a program holds, and of more. They are multiples of 16 as most are: others do
        # not start where wide accesses may.
        shapes = (2, 16384), (2, 40000)
    for shape in shapes:
        for launch in launches_at(case, dtype, shape, monkeypatch):
            key = launch.key()
            if key in seen:  # the same kernel serves both sizes
                continue
            seen.add(key)
            code = compile_for(launch, capability)
            what = f"{launch.kernel.__name__} at {shape}"
            loads, stores = (elements * dtype.itemsize // 16 for elements in launch.accesses(dtype))
            assert code["LDG.E.128"] >= loads > 0, what
            assert code["STG.E.128"] >= stores > 0, what
            assert not [name for name in code if name.startswith(("LDL", "STL"))], f"{what} spills"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [c for c in LOOPS if c.activation.kind == "pointwise"], ids=str)
def test_row_strided_views_are_read_wide(case: Case, dtype: torch.dtype, device: str, monkeypatch) -> None:
    from sass import compile_for, record_launches

    from fastact import kernels

    x = torch.zeros(64, 2 * 128, dtype=dtype).chunk(2, dim=-1)[0]
    seed = (torch.zeros((), dtype=torch.int64),) if case.activation.random else ()
    parameters = (*seed, *(case.sample[name] for name in case.activation.parameters))
    (launch,) = record_launches(monkeypatch, lambda: kernels.forward(case.activation, x, parameters, False, False))
    code = compile_for(launch, 90)
    assert code["LDG.E.128"] == code["STG.E.128"] == launch.elements_per_thread() * x.element_size() // 16


def test_one_kernel_per_formula_and_dtype(device: str, monkeypatch) -> None:
    """Whatever the size: a model with many shapes must not compile many kernels."""
    for case in DEFAULTS:
        if case.activation.kind != "pointwise":
            continue
        keys = set()
        for n in (1, 2, 16, 1000, 4096, 2**20 + 1):
            forward = launches_at(case, torch.float32, (n,), monkeypatch)[0]
            keys.add(forward.key())
        assert len(keys) == 1, case


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_kernels_are_named_after_the_activation(case: Case, device: str, monkeypatch) -> None:
    from sass import name_of

    names = {name_of(launch) for launch in launches_at(case, torch.float32, (4096,), monkeypatch)}
    assert names == {f"fastact_{case.activation.name}_{direction}" for direction in ("forward", "backward")}
