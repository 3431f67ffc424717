"""The C++ kernels of `csrc/`, by activation: the CPU's side of the interface that `fastact.kernels` has for the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from platform import machine
from typing import NamedTuple

import torch
from torch import Tensor

from .catalogue import Activation
from .nodes import nodes_library

torch.ops.load_library(Path(__file__).with_name("libfastact.so"))
_OPS = torch.ops.fastact


def _load_nodes(library: Path) -> str:
    """Why autograd nodes are in Python; nothing where those in C++ run."""
    if not library.exists():
        return f"no library for torch {torch.__version__}; a build beside it makes one, or says why not"
    try:
        torch.ops.load_library(library)
    except OSError as error:  # a build of this torch that lacks something
        reason = f"those in C++ failed to load: {error.__cause__ or error}"
        warnings.warn(f"fastact uses slower autograd nodes, in Python: {reason}", stacklevel=2)
        return reason
    return ""


WHY_NO_NODES = _load_nodes(Path(__file__).with_name(nodes_library(torch.__version__)))
HAS_NODES = not WHY_NO_NODES
"""Whether all ops but RReLU's, Maxout's and gated units' have autograd nodes in C++: those are for one torch alone."""


class _Ops(NamedTuple):
    forward: torch._ops.OpOverload
    forward_in_place: torch._ops.OpOverload
    backward: torch._ops.OpOverload
    mask: torch._ops.OpOverload | None
    mask_in_place: torch._ops.OpOverload | None


@cache
def _ops(activation: Activation) -> _Ops:
    name, saves_bits = activation.name, activation.saved == "bits"
    return _Ops(
        getattr(_OPS, name).default,
        getattr(_OPS, f"{name}_").default,
        getattr(_OPS, f"{name}_backward").default,
        getattr(_OPS, f"{name}_mask").default if saves_bits else None,
        getattr(_OPS, f"{name}_mask_").default if saves_bits else None,
    )


def instruction_set() -> str:
    """The instruction set whose kernels this process runs: "baseline", "avx2" or "avx512"."""
    return _OPS.cpu_capability().lower()


def maker() -> str:
    """Who made this CPU: "intel", "amd" or, for others, ""."""
    return _OPS.cpu_vendor()


def lacks_avx2() -> bool:
    """Whether this process runs the kernels for x86 CPUs without fused multiply-adds, which make up for those."""
    return instruction_set() == "baseline" and machine().lower() in ("x86_64", "amd64")


def forward(
    activation: Activation, input: Tensor, parameters: tuple, inplace: bool, save_bits: bool
) -> tuple[Tensor, Tensor | None]:
    """The output and, if asked for, the bits that backward needs. `parameters` starts with the seed, if there is one.

    In place, the output is the input."""
    ops = _ops(activation)
    if inplace:
        bits = (ops.mask_in_place if save_bits else ops.forward_in_place)(input, *parameters)
        return input, bits
    if save_bits:
        return ops.mask(input, *parameters)
    return ops.forward(input, *parameters), None


def backward(activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple) -> Tensor:
    """grad times the derivative. Bits are in the order of the forward's output in memory, and so must grad be."""
    return _ops(activation).backward(grad, saved, *parameters)


@cache
def _op(name: str) -> torch._ops.OpOverload:
    return getattr(_OPS, name).default


def learned_forward(
    activation: Activation, input: Tensor, learned: tuple[Tensor, ...], parameters: tuple[float, ...]
) -> Tensor:
    """The output. Each learned tensor holds one number, or one per channel."""
    return _op(activation.name)(input, *learned, *parameters)


def learned_backward(
    activation: Activation, grad: Tensor, input: Tensor, learned: list[Tensor], parameters: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """The gradients of the input and of each learned tensor."""
    return _op(f"{activation.name}_backward")(grad, input, *learned, *parameters)


def softmax_forward(activation: Activation, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The output along `dim`, in the input's dtype or, for 16-bit types, in that or float32."""
    return _op(activation.name)(input, dim, dtype)


def softmax_backward(activation: Activation, grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The gradient of the input, which had this dtype."""
    return _op(f"{activation.name}_backward")(grad, output, dim, dtype)


def gated_forward(activation: Activation, inputs: Sequence[Tensor], dim: int, gate_first: bool) -> Tensor:
    """The output, in the value's order of dimensions. The inputs are value and gate, or one tensor whose halves along
    `dim` they are."""
    if len(inputs) == 1:
        return _op(f"{activation.name}_packed")(*inputs, dim, gate_first)
    return _op(activation.name)(*inputs)


def gated_backward(
    activation: Activation, grad: Tensor, inputs: Sequence[Tensor], dim: int, gate_first: bool
) -> tuple[Tensor, ...]:
    """The gradients of the inputs."""
    if len(inputs) == 1:
        return (_op(f"{activation.name}_packed_backward")(grad, *inputs, dim, gate_first),)
    return _op(f"{activation.name}_backward")(grad, *inputs)


def maxout_forward(activation: Activation, input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    """The largest of each group of pieces, and its number."""
    return _op(f"{activation.name}_indices")(input, pieces, dim)


def maxout_backward(activation: Activation, grad: Tensor, indices: Tensor, pieces: int, dim: int) -> Tensor:
    """The input's gradient: grad for the winners, 0 for the others."""
    return _op(f"{activation.name}_backward")(grad, indices, pieces, dim)
