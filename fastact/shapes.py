"""What the ops return, without values: their Meta implementations, by which fake tensors go too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, empty_like

from .composites import value_and_gate

Forms = dict[str, Callable[..., Any]]
"""The shapes of an op's forms (itself, in place, with what backward needs, backward), by name."""


def on_one_device(shape: Callable[..., Any]) -> Callable[..., Any]:
    """The same, refusing tensors of which some have no memory: those with memory must not be taken for shapes."""

    def checked(*arguments: Any) -> Any:
        devices = {each.device for each in arguments if isinstance(each, Tensor)}
        if len(devices) > 1:
            names = " and ".join(sorted(map(str, devices)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {names}")
        return shape(*arguments)

    return checked


def _mask_of(tensor: Tensor) -> Tensor:
    return tensor.new_empty(((tensor.numel() + 7) // 8,), dtype=torch.uint8)


def _with_size(tensor: Tensor, dim: int, size: int, scale: Callable[[int], int], dtype: torch.dtype) -> Tensor:
    """A new tensor in the same order of dimensions, of another size along one of them, by which strides scale."""
    sizes, strides = list(tensor.shape), list(tensor.stride())
    inner, sizes[dim] = strides[dim], size
    for i in range(len(sizes)):
        if i != dim % len(sizes) and strides[i] >= inner:
            strides[i] = scale(strides[i])
    return tensor.new_empty_strided(sizes, strides, dtype=dtype)


def softmax(name: str) -> Forms:
    return {
        name: lambda input, dim, dtype: empty_like(input, dtype=dtype),
        f"{name}_backward": lambda grad, output, dim, dtype: empty_like(output, dtype=dtype),
    }


def maxout(name: str) -> Forms:
    def grouped(input: Tensor, pieces: int, dim: int, dtype: torch.dtype) -> Tensor:
        if not torch.ops.aten.is_non_overlapping_and_dense(input):
            input = input.contiguous()
        return _with_size(input, dim, input.size(dim) // pieces, lambda stride: stride // pieces, dtype)

    def backward(grad: Tensor, indices: Tensor, pieces: int, dim: int) -> Tensor:
        return _with_size(indices, dim, indices.size(dim) * pieces, lambda stride: stride * pieces, grad.dtype)

    return {
        name: lambda input, pieces, dim: grouped(input, pieces, dim, input.dtype),
        f"{name}_indices": lambda input, pieces, dim: (
            grouped(input, pieces, dim, input.dtype),
            grouped(input, pieces, dim, torch.uint8),
        ),
        f"{name}_backward": backward,
    }


def packed(name: str) -> Forms:
    """A gated unit of one tensor."""
    return {
        name: lambda input, dim, gate_first: empty_like(value_and_gate(input, dim=dim, gate_first=gate_first)[0]),
        f"{name}_backward": lambda grad, input, dim, gate_first: empty_like(input),
    }


def of_several(name: str, tensors: int) -> Forms:
    """Gated units of two tensors, and activations with weights."""
    return {
        name: lambda input, *others: empty_like(input),
        f"{name}_backward": lambda grad, *others: tuple(map(empty_like, others[:tensors])),
    }


def biased(name: str, saves_mask: bool) -> Forms:
    if not saves_mask:
        return of_several(name, 2)
    return {
        name: lambda input, *others: empty_like(input),
        f"{name}_mask": lambda input, *others: (empty_like(input), _mask_of(input)),
        f"{name}_backward": lambda grad, mask, bias, *scalars: (empty_like(grad), empty_like(bias)),
    }


def pointwise(name: str, saves_mask: bool) -> Forms:
    forms: Forms = {name: lambda input, *others: empty_like(input), f"{name}_": lambda input, *others: None}
    if not saves_mask:
        return {**forms, f"{name}_backward": lambda grad, saved, *others: empty_like(saved)}
    return {
        **forms,
        f"{name}_mask": lambda input, *others: (empty_like(input), _mask_of(input)),
        f"{name}_mask_": lambda input, *others: _mask_of(input),
        f"{name}_backward": lambda grad, mask, *others: empty_like(grad),
    }
