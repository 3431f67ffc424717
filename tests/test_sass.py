"""Every Triton kernel, compiled for three generations of GPUs without one, and its machine code read.

Large activations are bound by memory traffic, so what matters is 128-bit accesses to global memory, at sizes that
divide by 16 and at those that do not, and no spills to local memory.
"""

from __future__ import annotations

import pytest
import torch
from cases import DEFAULTS, DTYPES, Case

pytestmark = pytest.mark.only("cpu")

CAPABILITIES = (80, 90, 100)


def launches_at(case: Case, dtype: torch.dtype, shape: tuple[int, ...], monkeypatch) -> list:
    from sass import record_launches

    from fastact import kernels

    activation = case.activation
    x = torch.zeros(shape, dtype=dtype)

    def call() -> None:
        if activation.weight:
            kernels.prelu(x, *case.weight(x))
            kernels.prelu_backward(x, x, *case.weight(x))
            return
        seed = (torch.zeros((), dtype=torch.int64),) if activation.random else ()
        parameters = (*seed, *(dict(case.keywords)[name] for name in activation.parameters))
        bits = activation.saved == "bits"
        _, saved = kernels.forward(activation, x, parameters, False, bits)
        kernels.backward(activation, x, saved if bits else x, parameters)
        kernels.forward(activation, x, parameters, False, False)

    return record_launches(monkeypatch, call)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_wide_accesses_and_no_spills(case: Case, dtype: torch.dtype, capability: int, device: str, monkeypatch) -> None:
    from sass import compile_for

    seen = set()
    for shape in ((16384,), (16381,)):
        for launch in launches_at(case, dtype, shape, monkeypatch):
            key = launch.key()
            if key in seen:  # the same kernel serves both sizes
                continue
            seen.add(key)
            code = compile_for(launch, capability)
            what = f"{launch.kernel.__name__} at {shape}"
            elements = launch.elements_per_thread()
            size = torch.finfo(dtype).bits // 8
            tensors = launch.tensors_of(dtype)
            assert code["LDG.E.128"] >= (tensors - 1) * elements * size // 16, what
            assert code["STG.E.128"] >= elements * size // 16, what
            assert not [name for name in code if name.startswith(("LDL", "STL"))], f"{what} spills"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [c for c in DEFAULTS if not c.activation.weight], ids=str)
def test_row_strided_views_are_read_wide(case: Case, dtype: torch.dtype, device: str, monkeypatch) -> None:
    from sass import compile_for, record_launches

    from fastact import kernels

    x = torch.zeros(64, 2 * 128, dtype=dtype).chunk(2, dim=-1)[0]
    seed = (torch.zeros((), dtype=torch.int64),) if case.activation.random else ()
    parameters = (*seed, *(dict(case.keywords)[name] for name in case.activation.parameters))
    (launch,) = record_launches(monkeypatch, lambda: kernels.forward(case.activation, x, parameters, False, False))
    code = compile_for(launch, 90)
    assert code["LDG.E.128"] == code["STG.E.128"] == launch.elements_per_thread() * x.element_size() // 16


def test_one_kernel_per_formula_and_dtype(device: str, monkeypatch) -> None:
    """Whatever the size: a model with many shapes must not compile many kernels."""
    for case in DEFAULTS:
        if case.activation.weight:
            continue
        keys = set()
        for n in (1, 2, 16, 1000, 4096, 2**20 + 1):
            forward = launches_at(case, torch.float32, (n,), monkeypatch)[0]
            keys.add(forward.key())
        assert len(keys) == 1, case


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_kernels_are_named_after_the_activation(case: Case, device: str, monkeypatch) -> None:
    from sass import name_of

    names = {name_of(launch) for launch in launches_at(case, torch.float32, (4096,), monkeypatch)}
    assert names == {f"fastact_{case.activation.name}_{direction}" for direction in ("forward", "backward")}
