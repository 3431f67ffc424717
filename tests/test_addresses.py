"""Tensors of more elements than 32 bits count, without their memory: Triton's interpreter runs single programs of the
kernels, and where they would read and write is looked at instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, LOOPS, Case, run_kernels
from torch import Tensor

pytestmark = pytest.mark.only("interpret")

MANY = 1 << 31
NEARLY = MANY - 16  # the same fits in 32 bits, but not with a block more


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


LARGE = {
    "flat": meta(2 * MANY + 2064),
    "nearly flat": meta(NEARLY),
    "halves of rows": meta(1 << 20, 8192).chunk(2, -1)[1],
    "halves of nearly long rows": meta(3, 2 * NEARLY).chunk(2, -1)[1],
    "halves of long rows": meta(3, 2 * MANY + 64).chunk(2, -1)[1],
    "rows": meta(MANY // 512 + 3, 1536),
    "columns": meta(1536, MANY // 512).t(),
    "nearly long columns": meta(6, NEARLY).t(),
    "long columns": meta(6, MANY + 48).t(),
    "images": meta(600, 1536, 48, 50),
}


def address_of(i: int) -> int:
    """Of a launch's tensor number i: each has 2^40 bytes to itself, and nothing below."""
    return (1 + i) << 40


def tensor_at(address: np.uint64) -> int:
    return (int(address) >> 40) - 1


@dataclass
class Place:
    """What the interpreter takes for a tensor."""

    dtype: torch.dtype
    address: int

    def data_ptr(self) -> int:
        return self.address


class Accesses:
    """What programs would read and write, in place of doing it. Reading gives zeros."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.language import int32
        from triton.runtime import interpreter

        self.program = 0
        self.read: list[np.ndarray] = []
        self.written: list[np.ndarray] = []

        def load(builder: Any, pointers: Any, mask: Any, *others: Any) -> Any:
            self.read.append(pointers.data[mask.data])
            dtype = pointers.get_element_ty()
            return interpreter.TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(dtype)), dtype)

        def store(builder: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> None:
            self.written.append(pointers.data[mask.data])

        def program_id(builder: Any, axis: int) -> Any:
            return interpreter.TensorHandle(np.array([self.program], np.int32), int32)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", load)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", store)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_get_program_id", program_id)
        monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", lambda executor, *arguments: arguments)
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda executor, *arguments: None)

    def run(self, launch: Any, program: int) -> None:
        self.program = program
        self.read, self.written = [], []
        places = tuple(Place(x.dtype, address_of(i)) for i, x in enumerate(launch.ins + launch.outs))
        split = len(launch.ins)
        launch.kernel[(1,)](places[:split], places[split:], *launch.arguments[2:])


def end(tensor: Tensor) -> int:
    """Of what lies in memory, from the first element on, in bytes."""
    spans = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + sum(spans)) * tensor.itemsize


@pytest.mark.formula
def _fits(case: Case, x: Tensor) -> bool:
    """Whether the activation takes the input, and the programs that are looked at are few: none walks along a long row,
    nor has every element a channel of its own."""
    last, of_rows = x.shape[-1], case.per_channel or case.activation.kind == "softmax"
    return last % case.divisor == 0 and not (case.per_channel and x.dim() == 1) and not (of_rows and last > 4096)


LOOKED_AT = [
    pytest.param(case, layout, id=f"{case}-{layout}")
    for case in CASES
    if case in LOOPS or case.activation.name in ("maxout", "prelu")
    for layout, x in LARGE.items()
    if _fits(case, x)
]


@pytest.mark.parametrize(("case", "layout"), LOOKED_AT)
def test_no_address_is_beyond_its_tensor(case: Case, layout: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last program writes the last elements."""
    from fastact.triton.launch import recording
    from fastact.triton.ops import KERNELS

    x = LARGE[layout]
    *outer, last = x.shape
    with recording() as launches:
        run_kernels(case, KERNELS.__getitem__, x, x.new_empty(*outer, last // case.divisor))
    accesses = Accesses(monkeypatch)
    for launch in launches:
        tensors = launch.ins + launch.outs
        for program in (0, launch.programs // 3, launch.programs - 1):
            accesses.run(launch, program)
            for pointers in (*accesses.read, *accesses.written):
                i = tensor_at(pointers.min())
                assert pointers.max() < address_of(i) + end(tensors[i]), (launch.name, program)
        for i in set(map(tensor_at, map(np.max, accesses.written))):
            last = max(pointers.max() for pointers in accesses.written if tensor_at(pointers.max()) == i)
            assert last + tensors[i].itemsize == address_of(i) + end(tensors[i])
