"""The kernels as implementations of the ops torch.ops.fastact, made from the rows of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..catalogue import ACTIVATIONS, Activation
from ..composites import value_and_gate
from . import gated, lowp, maxout, programs, softmax
from .elementwise import Program, run


def _formula(family: str, name: str, dtype: torch.dtype) -> Any:
    """Returns the formula of a family, or its shorter variant for 16-bit types; None if it has none."""
    shorter = getattr(lowp, name, None) if dtype.itemsize == 2 else None
    return shorter or getattr(import_module(f".{family}", __package__), name, None)


@cache
def _program(row: Activation, part: str, dtype: torch.dtype) -> Program:
    """Returns what computes the forward, the same with a mask, or the backward of an activation."""

    def find(*parts: str) -> tuple[Any, ...]:
        """The formulas of these parts that there are."""
        found = (_formula(row.family, f"{row.name}_{part}", dtype) for part in parts)
        return tuple(formula for formula in found if formula is not None)

    name = f"{row.name}_{'backward' if part == 'backward' else 'forward'}"
    tile, seed, weights = ("tile",), ("seed",) * row.random, ("channel",) * len(row.learned)
    if row.kind == "gated":
        family, gate = gated.GATES[row.name]
        formulas = tuple(_formula(family, f"{gate}_{part}", dtype) for part in ("forward", "derivative"))
        if part == "forward":
            return Program(name, programs.gated_forward, formulas[:1], tile * 2, tile)
        return Program(name, programs.gated_backward, find("backward") or formulas, tile * 3, tile * 2)
    if row.kind == "learned":
        if part == "forward":
            return Program(name, programs.weighted_forward, find("forward"), tile + weights, tile)
        formulas = find("grad_input", *(f"grad_{weight}" for weight in row.learned))
        sums = ("sum",) * len(row.learned)
        return Program(name, programs.weighted_backward, formulas, tile * 2 + weights, tile + sums)
    if part != "backward":
        function = programs.random_forward if row.random else programs.forward
        mask = (part,) * (part == "mask")
        return Program(name, function, find("forward", *("keep" for _ in mask)), tile + seed, tile + mask)
    if row.saved == "bits":
        function = programs.random_mask_backward if row.random else programs.mask_backward
        return Program(name, function, find("dropped", "kept"), ("tile", "mask", *seed), tile)
    if formulas := find("gradient"):
        return Program(name, programs.gradient_backward, formulas, tile * 2, tile)
    return Program(name, programs.derivative_backward, find("derivative"), tile * 2, tile)


def _pointwise(row: Activation) -> Iterator[tuple[str, Callable]]:
    """Implementations, for which scalars P may follow a seed."""

    def split(rest: tuple) -> tuple[tuple, tuple]:
        return rest[: row.random], rest[row.random :]

    def forward(input: Tensor, *rest: Any) -> Tensor:
        seed, scalars = split(rest)
        output = torch.empty_like(input)
        run(_program(row, "forward", input.dtype), (input, *seed), (output,), scalars)
        return output

    def forward_(input: Tensor, *rest: Any) -> None:
        seed, scalars = split(rest)
        run(_program(row, "forward", input.dtype), (input, *seed), (input,), scalars)

    def mask(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seed, scalars = split(rest)
        output = torch.empty_like(input)
        return output, *run(_program(row, "mask", input.dtype), (input, *seed), (output,), scalars)

    def mask_(input: Tensor, *rest: Any) -> Tensor:
        seed, scalars = split(rest)
        return run(_program(row, "mask", input.dtype), (input, *seed), (input,), scalars)[0]

    def backward(grad: Tensor, saved: Tensor, *rest: Any) -> Tensor:
        seed, scalars = split(rest)
        grad_input = torch.empty_like(grad if row.saved == "bits" else saved)
        run(_program(row, "backward", grad.dtype), (grad, saved, *seed), (grad_input,), scalars)
        return grad_input

    yield from ((row.name, forward), (f"{row.name}_", forward_), (f"{row.name}_backward", backward))
    if row.saved == "bits":
        yield from ((f"{row.name}_mask", mask), (f"{row.name}_mask_", mask_))


def _weighted(row: Activation) -> Iterator[tuple[str, Callable]]:
    count = len(row.learned)

    def forward(input: Tensor, *rest: Any) -> Tensor:
        output = torch.empty_like(input)
        run(_program(row, "forward", input.dtype), (input, *rest[:count]), (output,), rest[count:])
        return output

    def backward(grad: Tensor, input: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        weights = rest[:count]
        grad_input = torch.empty_like(input)
        sums = run(_program(row, "backward", grad.dtype), (grad, input, *weights), (grad_input,), rest[count:])
        return grad_input, *map(_as_weight, sums, weights)

    yield from ((row.name, forward), (f"{row.name}_backward", backward))


def _as_weight(sums: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a weight from sums over channels, or over all elements."""
    return (sums.sum() if weight.numel() == 1 else sums).to(weight.dtype).view(weight.shape)


def write_gated_gradients(
    row: Activation, grad: Tensor, value: Tensor, gate: Tensor, grad_value: Tensor, grad_gate: Tensor
) -> None:
    run(_program(row, "backward", grad.dtype), (grad, value, gate), (grad_value, grad_gate))


def _gated(row: Activation) -> Iterator[tuple[str, Callable]]:
    def forward(value: Tensor, gate: Tensor) -> Tensor:
        output = torch.empty_like(value)
        run(_program(row, "forward", value.dtype), (value, gate), (output,))
        return output

    def backward(grad: Tensor, value: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        gradients = torch.empty_like(value), torch.empty_like(gate)
        write_gated_gradients(row, grad, value, gate, *gradients)
        return gradients

    def packed(input: Tensor, dim: int, gate_first: bool) -> Tensor:
        return forward(*value_and_gate(input, dim=dim, gate_first=gate_first))

    def packed_backward(grad: Tensor, input: Tensor, dim: int, gate_first: bool) -> Tensor:
        halves = partial(value_and_gate, dim=dim, gate_first=gate_first)
        gradient = torch.empty_like(input)
        write_gated_gradients(row, grad, *halves(input), *halves(gradient))
        return gradient

    yield from ((row.name, forward), (f"{row.name}_backward", backward))
    yield from ((f"{row.name}_packed", packed), (f"{row.name}_packed_backward", packed_backward))


def _softmax(row: Activation) -> Iterator[tuple[str, Callable]]:
    yield row.name, partial(softmax.forward, row.name)
    yield f"{row.name}_backward", partial(softmax.backward, row.name)


def _maxout(row: Activation) -> Iterator[tuple[str, Callable]]:
    yield row.name, lambda input, pieces, dim: maxout.forward(input, pieces, dim)[0]
    yield f"{row.name}_indices", maxout.forward
    yield f"{row.name}_backward", maxout.backward


_OF_KIND = {"pointwise": _pointwise, "learned": _weighted, "gated": _gated, "softmax": _softmax, "maxout": _maxout}
KERNELS: dict[str, Callable] = {
    op: function for row in ACTIVATIONS.values() for op, function in _OF_KIND[row.kind](row)
}
"""By op, functions of its arguments."""
