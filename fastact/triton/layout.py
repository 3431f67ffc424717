"""How a kernel goes through several tensors of equal sizes: the iteration plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    # The op's dispatch takes a microsecond; is_contiguous takes a tenth of that.
    return tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(tensor)


def same_layout(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def densely(tensor: Tensor, leader: Tensor) -> Tensor:
    """The tensor, or a copy of it, with elements one after another in the leader's order."""
    if is_dense(tensor) and same_layout(tensor, leader):
        return tensor
    return torch.empty_like(leader, dtype=tensor.dtype).copy_(tensor)


def _runs(tensor: Tensor) -> tuple[int, int] | None:
    """The length of a row-major tensor's consecutive runs and the one distance between them, or None."""
    length, runs, distance = 1, 1, 0
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size == 1:
            continue
        if runs == 1 and stride == length:
            length *= size
        elif runs == 1:
            runs, distance = size, stride
        elif stride == distance * runs:
            runs *= size
        else:
            return None
    if runs == 1:
        return length, length
    # Runs that are no multiple of 16 elements would start unaligned: no 128-bit accesses. A copy costs less.
    return (length, distance) if length % 16 == 0 and distance >= length else None


class Plan(NamedTuple):
    """The tensors, with copies of those that a kernel does not read or write where they lie."""

    tensors: tuple[Tensor, ...]
    rows: tuple
    """Empty where all lie densely in one order. Or the length of the runs of elements that are consecutive in each of
    them, and the distances between two runs in each input and in each output."""
    unfilled: list[tuple[Tensor, Tensor]]
    """The outputs that are to be filled from their copies after the kernel."""

    def finish(self) -> None:
        for output, copy in self.unfilled:
            output.copy_(copy)


def plan(inputs: Sequence[Tensor], outputs: Sequence[Tensor], dense: bool = False) -> Plan:
    """Elements are taken in the order in which those of the first output lie in memory. `dense`: in no rows."""
    tensors = (*inputs, *outputs)
    leader = outputs[0]
    # Beside aligned inputs an unaligned one would cost more than its copy: no 128-bit accesses for any of them.
    aligned = len(inputs) == 1 or all(x.data_ptr() % 16 == 0 for x in tensors)
    if aligned and all(same_layout(x, leader) for x in tensors) and is_dense(leader):
        return Plan(tensors, (), [])
    order = sorted(range(leader.dim()), key=leader.stride, reverse=True)
    numel = leader.numel()
    runs = [_runs(x.permute(order)) if x.data_ptr() % 16 == 0 else None for x in tensors]
    length = min((length for length, _ in filter(None, runs) if not dense), default=numel)
    walked, distances, unfilled = [], [], []
    for i, (tensor, run) in enumerate(zip(tensors, runs, strict=True)):
        if run is None or run[0] not in (length, numel):
            walked.append(torch.empty_permuted(leader.shape, order, dtype=leader.dtype, device=leader.device))
            if i < len(inputs):
                walked[i].copy_(tensor)
            else:
                unfilled.append((tensor, walked[i]))
            run = None
        else:
            walked.append(tensor)
        distances.append(run[1] if run and run[0] == length else length)
    split = len(inputs)
    rows = (length, tuple(distances[:split]), tuple(distances[split:])) if length < numel else ()
    return Plan(tuple(walked), rows, unfilled)
