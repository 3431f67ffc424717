"""The kernels as implementations of the ops torch.ops.fastact, made from the rows of the catalogue."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..catalogue import ACTIVATIONS, Activation
from ..composites import value_and_gate
from ..dispatch import KernelUnavailable, NotLoaded, fall_back
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
    tile, seed, weights = ("tile",), ("seed",) * row.random, ("channel",) * len(row.weights)
    if row.kind == "gated":
        family, gate = gated.GATES[row.name]
        formulas = tuple(_formula(family, f"{gate}_{part}", dtype) for part in ("forward", "derivative"))
        if part == "forward":
            return Program(name, programs.gated_forward, formulas[:1], tile * 2, tile)
        return Program(name, programs.gated_backward, find("backward") or formulas, tile * 3, tile * 2)
    if row.kind == "channelwise":
        if part == "forward":
            return Program(name, programs.weighted_forward, find("forward"), tile + weights, tile)
        formulas = find("grad_input", *(f"grad_{weight}" for weight in row.weights))
        sums = ("sum",) * len(row.weights)
        return Program(name, programs.weighted_backward, formulas, tile * 2 + weights, tile + sums)
    if part != "backward":
        function = programs.random_forward if row.random else programs.forward
        mask = (part,) * (part == "mask")
        return Program(name, function, find("forward", *("keep" for _ in mask)), tile + seed, tile + mask)
    if row.saved == "mask":
        function = programs.random_mask_backward if row.random else programs.mask_backward
        return Program(name, function, find("dropped", "kept"), ("tile", "mask", *seed), tile)
    if formulas := find("gradient"):
        return Program(name, programs.gradient_backward, formulas, tile * 2, tile)
    return Program(name, programs.derivative_backward, find("derivative"), tile * 2, tile)


_Ops = Iterator[tuple[str, Callable]]


def _elementwise(row: Activation) -> _Ops:
    def forward(input: Tensor, *rest: Any) -> Tensor:
        output = torch.empty_like(input)
        run(_program(row, "forward", input.dtype), (input, *rest), (output,))
        return output

    def forward_(input: Tensor, *rest: Any) -> None:
        run(_program(row, "forward", input.dtype), (input, *rest), (input,))

    def mask(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        output = torch.empty_like(input)
        return output, *run(_program(row, "mask", input.dtype), (input, *rest), (output,))

    def mask_(input: Tensor, *rest: Any) -> Tensor:
        return run(_program(row, "mask", input.dtype), (input, *rest), (input,))[0]

    def backward(grad: Tensor, saved: Tensor, *rest: Any) -> Tensor | tuple[Tensor, ...]:
        grad_input = torch.empty_like(grad if row.saved == "mask" else saved)
        sums = run(_program(row, "backward", grad.dtype), (grad, saved, *rest), (grad_input,))
        return (grad_input, *map(_gradient_of, rest, sums)) if sums else grad_input

    yield from ((row.name, forward), (f"{row.name}_backward", backward))
    if row.kind == "pointwise":
        yield f"{row.name}_", forward_
    if row.saved == "mask":
        yield from ((f"{row.name}_mask", mask), (f"{row.name}_mask_", mask_))


def _gradient_of(weight: Tensor, sums: Tensor) -> Tensor:
    """The gradient of a weight, given its sums over channels or over all elements."""
    if weight.numel() == 0:
        return torch.zeros_like(weight)
    return (sums.sum() if weight.numel() == 1 else sums).to(weight.dtype).view(weight.shape)


def write_gated_gradients(
    row: Activation, grad: Tensor, value: Tensor, gate: Tensor, grad_value: Tensor, grad_gate: Tensor
) -> None:
    run(_program(row, "backward", grad.dtype), (grad, value, gate), (grad_value, grad_gate))


def _gated(row: Activation) -> _Ops:
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


@cache
def _bias_program(row: Activation, part: str, dtype: torch.dtype, tiles: int = 1) -> Program:
    """Returns what computes the same of an input with a bias."""
    alone = _program(row, part, dtype)
    if part != "backward":
        function, inputs, outputs = programs.bias_forward, ("tile",) * tiles + ("channel",), alone.outputs
    else:
        if row.saved == "output":
            formulas = alone.formulas + _program(row, "forward", dtype).formulas
            alone = alone._replace(function=programs.recomputed_backward, formulas=formulas)
        bias = () if row.saved == "mask" else ("channel",)
        function, inputs, outputs = programs.bias_backward, alone.inputs + bias, ("tile", "sum")
    return Program(f"bias_{alone.name}", function, (alone.function, *alone.formulas), inputs, outputs)


def _biased(row: Activation) -> _Ops:
    """act(input + bias) + residual."""

    def forward(part: str, input: Tensor, bias: Tensor, residual: Tensor | None, *scalars: float) -> tuple[Tensor, ...]:
        tiles = (input,) if residual is None else (input, residual)
        output = torch.empty_like(input)
        return output, *run(_bias_program(row, part, input.dtype, len(tiles)), (*tiles, bias, *scalars), (output,))

    def backward(grad: Tensor, saved: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        program = _bias_program(row, "backward", grad.dtype)
        bias, *scalars = rest
        if row.saved == "mask":
            grad_input = torch.empty_like(grad)
            (sums,) = run(program, (grad, saved, *scalars), (grad_input,), bias.numel())
        else:
            grad_input = torch.empty_like(saved)
            (sums,) = run(program, (grad, saved, bias, *scalars), (grad_input,))
        return grad_input, _gradient_of(bias, sums)

    yield f"bias_{row.name}", lambda *arguments: forward("forward", *arguments)[0]
    yield f"bias_{row.name}_backward", backward
    if row.saved == "mask":
        yield f"bias_{row.name}_mask", partial(forward, "mask")


def _softmax(row: Activation) -> _Ops:
    yield row.name, partial(softmax.forward, row.name)
    yield f"{row.name}_backward", partial(softmax.backward, row.name)


def _maxout(row: Activation) -> _Ops:
    yield row.name, lambda input, pieces, dim: maxout.forward(input, pieces, dim)[0]
    yield from ((f"{row.name}_indices", maxout.forward), (f"{row.name}_backward", maxout.backward))


_OF_KIND = {
    "pointwise": _elementwise,
    "channelwise": _elementwise,
    "gated": _gated,
    "softmax": _softmax,
    "maxout": _maxout,
}


def _kernels() -> _Ops:
    for row in ACTIVATIONS.values():
        yield from _OF_KIND[row.kind](row)
        if row.kind == "pointwise" and not row.random:
            yield from _biased(row)


KERNELS: dict[str, Callable] = dict(_kernels())
"""What runs each op's kernel, by the op's name; the arguments are its."""


def _implementation(op: str, kernel: Callable) -> Callable:
    is_backward = op.endswith("_backward")

    def implementation(*arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except KernelUnavailable as error:
            if is_backward and isinstance(error, NotLoaded):  # a graph could not hold the way to the CPU
                raise
            fall_back(error)
            if not is_backward:  # whose caller has torch's ops to fall back on
                raise
        there = tree_map_only(Tensor, Tensor.cpu, arguments)
        return tree_map_only(Tensor, lambda x: x.to(arguments[0].device), cpp_kernel(op)(*there))

    return implementation


IMPLEMENTATIONS = {op: _implementation(op, kernel) for op, kernel in KERNELS.items()}
"""The same. Where a kernel of backward cannot be compiled or launched, the C++ kernels on the CPU take its place: what
is saved is for kernels to read, and the gradient must not be lost."""

_registered: list[torch.library.Library] = []  # for as long as the process lives
_replaced: dict[str, Any] = {}


def register(key: str) -> None:
    """Registers the implementations for a dispatch key: "CUDA" or, under the interpreter, "CPU". There they take the
    place of the C++ kernels."""
    library = torch.library.Library("fastact", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that one is replaced
        for op, implementation in IMPLEMENTATIONS.items():
            if hasattr(torch.ops.fastact, op) and torch._C._dispatch_has_kernel_for_dispatch_key(f"fastact::{op}", key):
                _replaced[op] = torch.library.get_kernel(f"fastact::{op}", key)
            library.impl(op, implementation, key)
    _registered.append(library)


def cpp_kernel(op: str) -> Callable:
    """The op's kernel on the CPU, also where it has been replaced."""
    if op in _replaced:
        return partial(_replaced[op].call_boxed, torch._C.DispatchKeySet(torch._C.DispatchKey.CPU))
    return getattr(torch.ops.fastact, op).default
