"""The ops of torch.ops.fastact: the one seam between Python and the kernels of every device.

The C++ library defines the ops and implements them on the CPU and, with kernels that `fastact.gpu` finds, on CUDA. This
file adds what has no kernel: output shapes (the Meta implementations, which fake tensors use too) and decompositions
into torch's ops, which run wherever a kernel does not (other devices and layouts, function transforms). Where
the library of autograd nodes for this torch is missing, `fastact.autograd` registers nodes in Python. Where there is no
C++ library at all, as on Windows, there are no ops: `run` has their decompositions alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import gpu, shapes, thresholds
from .catalogue import ACTIVATIONS, Activation
from .composites import per_channel, value_and_gate
from .dispatch import DTYPE_OF, guarded
from .libraries import CALLS, HAS_KERNELS, HAS_NODES, answered_in_cpp

if HAS_NODES:
    torch.ops.fastact.call_directly(torch.ops.fastact.direct_calls())
if HAS_KERNELS:
    gpu.install()
    thresholds.apply(thresholds.choice()[0])


def instruction_set() -> str:
    """The instruction set whose kernels this process runs: "baseline", "avx2" or "avx512"; "" without a library."""
    return torch.ops.fastact.cpu_capability().lower() if HAS_KERNELS else ""


def vendor() -> str:
    """Who made this CPU: "intel", "amd" or, for others, ""."""
    return torch.ops.fastact.cpu_vendor()


def compiler() -> str:
    """What the C++ library was compiled by; "" without one."""
    return torch.ops.fastact.compiler() if HAS_KERNELS else ""


class Op(NamedTuple):
    """A differentiable op. Its arguments are tensors, a seed if it is random, and scalars."""

    name: str
    activation: Activation
    tensors: int
    """How many inputs may have a gradient."""
    packed: bool = False
    """Whether a gated unit's value and gate are halves of one input."""
    biased: bool = False
    """Whether it is act(input + bias) + residual; the residual may be None."""

    @property
    def saving(self) -> str:
        """The op that returns what backward needs as well, where that is no input or output."""
        return self.name + {"mask": "_mask", "indices": "_indices"}.get(self.saves, "")

    @property
    def saves(self) -> str:
        """What backward reads. From a sum with a residual the activation's output is not to be had."""
        return "input" if self.biased and self.activation.saved == "output" else self.activation.saved

    @property
    def in_place(self) -> bool:
        return self.activation.kind == "pointwise" and not self.biased


def _ops() -> list[Op]:
    found = []
    for row in ACTIVATIONS.values():
        found.append(Op(row.name, row, 2 if row.kind == "gated" else 1 + len(row.weights)))
        if row.kind == "gated":
            found.append(Op(f"{row.name}_packed", row, 1, packed=True))
        if row.kind == "pointwise" and not row.random:
            found.append(Op(f"bias_{row.name}", row, 3, biased=True))
    return found


OPS = {op.name: op for op in _ops()}
BIASED = {op.activation.name: op for op in OPS.values() if op.biased}
"""The ops of an activation between a bias and a residual, by the activation's name."""


def overload(name: str) -> torch._ops.OpOverload:
    """The op of this name."""
    return getattr(torch.ops.fastact, name).default


@answered_in_cpp
def draw_seed(input: Tensor) -> Tensor:
    """One number from torch's generator for the input's device, where it stays: so `torch.manual_seed`, recomputation
    under checkpointing and replay of CUDA graphs all give what they should."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=input.device)


# Decompositions into torch's ops.


def reference(op: Op, inputs: Sequence[Any], scalars: tuple) -> Tensor:
    """What the op computes, by torch's ops."""
    activation = op.activation
    if op.biased:
        input, bias, *residual = inputs
        output = reference(OPS[activation.name], (input + per_channel(bias, input),), scalars)
        return output if not residual or residual[0] is None else output + residual[0]
    if activation.kind == "softmax":
        dim, dtype = scalars
        return activation.reference(*inputs, dim=dim, dtype=DTYPE_OF.get(dtype, dtype))
    if activation.name == "glu" and (not op.packed or scalars[1]):  # which torch has of one tensor, the gate last
        value, gate = value_and_gate(inputs[0], dim=scalars[0], gate_first=True) if op.packed else inputs
        return value * gate.sigmoid()
    names = (*activation.scalars, "dim", "gate_first")
    named = dict(zip(names, scalars[: 1 if activation.name == "glu" else None], strict=False))
    return activation.reference(*inputs, **named, **activation.keywords)


def decomposition(op: Op) -> Callable[..., Tensor]:
    """The op as a function of torch's ops."""
    tensors, random = op.tensors, op.activation.random

    def decomposed(*arguments: Any) -> Tensor:
        return reference(op, arguments[:tensors], arguments[tensors + random :])

    return decomposed


def decomposition_in_place(op: Op) -> Callable[..., None]:
    """The same, written into the input."""
    tensors, random = op.tensors, op.activation.random

    def decomposed(input: Tensor, *arguments: Any) -> None:
        scalars = dict(zip(op.activation.scalars, arguments[random:], strict=True))
        if op.activation.inplace:
            op.activation.reference(input, **scalars, **op.activation.keywords, inplace=True)
        else:
            input.copy_(reference(op, (input, *arguments[: tensors - 1]), arguments[tensors - 1 + random :]))
        return None

    return decomposed


library = torch.library.Library("fastact", "IMPL")


def _shapes(op: Op) -> shapes.Forms:
    kind, saves_mask = op.activation.kind, op.saves == "mask"
    if kind == "softmax":
        return shapes.softmax(op.name)
    if kind == "maxout":
        return shapes.maxout(op.name)
    if op.packed:
        return shapes.packed(op.name)
    if op.biased:
        return shapes.biased(op.name, saves_mask)
    return shapes.pointwise(op.name, saves_mask) if op.in_place else shapes.of_several(op.name, op.tensors)


_ELSEWHERE = ("CompositeExplicitAutograd", "NestedTensorCPU", "NestedTensorCUDA")
"""The dispatch keys of all backends without a kernel; the first does not stand for nested tensors'."""


def _register() -> None:
    for op in OPS.values():
        for name, shape in _shapes(op).items():
            library.impl(name, shapes.on_one_device(shape), "Meta")
        for key in _ELSEWHERE:
            library.impl(op.name, decomposition(op), key)
            if op.in_place:
                library.impl(f"{op.name}_", decomposition_in_place(op), key)


if HAS_KERNELS:
    _register()


def _in_place(op: Callable[..., None], decomposed: Callable[..., None]) -> Callable[..., Tensor]:
    def call(input: Tensor, *arguments: Any) -> Tensor:
        # torch's fallback for lazy negatives wants an op in place to return its input.
        (decomposed if input.is_neg() else op)(input, *arguments)
        return input

    return call


def decomposed_calls() -> dict[str, Callable[..., Tensor]]:
    """What `run` has, of torch's ops."""
    calls = {op.name: decomposition(op) for op in OPS.values()}
    for op in OPS.values():
        if op.in_place:
            decomposed = decomposition_in_place(op)
            calls[f"{op.name}_"] = _in_place(decomposed, decomposed)
    return calls


def _calls() -> dict[str, Callable[..., Tensor]]:
    decomposed = decomposed_calls()
    # `_op` is the op's own entry in C++; OpOverload's __call__ takes 0.3 us of Python to reach it.
    calls = {name: overload(name)._op for name in decomposed}
    for op in OPS.values():
        if op.in_place:
            calls[f"{op.name}_"] = _in_place(calls[f"{op.name}_"], decomposition_in_place(op))
    if CALLS is not None:
        calls = {name: CALLS.op(name, call) for name, call in calls.items()}
    if "FASTACT_LIBCUDA" in os.environ or torch.version.cuda is not None or torch.version.hip is not None:
        calls = {name: guarded(call, decomposed[name]) for name, call in calls.items()}
    return calls


run = SimpleNamespace(**(_calls() if HAS_KERNELS else decomposed_calls()))
"""The ops as functions; those in place return their input."""
