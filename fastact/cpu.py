"""The C++ kernels of `csrc/`, by activation: the CPU's side of the interface that `fastact.kernels` has for the GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .catalogue import Activation

torch.ops.load_library(Path(__file__).with_name("libfastact.so"))
_OPS = torch.ops.fastact


class _Ops(NamedTuple):
    forward: torch._ops.OpOverload
    forward_in_place: torch._ops.OpOverload
    backward: torch._ops.OpOverload
    bits: torch._ops.OpOverload | None
    bits_in_place: torch._ops.OpOverload | None


@cache
def _ops(activation: Activation) -> _Ops:
    name, saves_bits = activation.name, activation.saved == "bits"
    return _Ops(
        getattr(_OPS, name).default,
        getattr(_OPS, f"{name}_").default,
        getattr(_OPS, f"{name}_backward").default,
        getattr(_OPS, f"{name}_bits").default if saves_bits else None,
        getattr(_OPS, f"{name}_bits_").default if saves_bits else None,
    )


def instruction_set() -> str:
    """The instruction set whose kernels this process runs: "baseline", "avx2" or "avx512"."""
    return _OPS.cpu_capability().lower()


def forward(
    activation: Activation, input: Tensor, parameters: tuple, inplace: bool, save_bits: bool
) -> tuple[Tensor, Tensor | None]:
    """The output and, if asked for, the bits that backward needs. `parameters` starts with the seed, if there is one.

    In place, the output is the input."""
    ops = _ops(activation)
    if inplace:
        bits = (ops.bits_in_place if save_bits else ops.forward_in_place)(input, *parameters)
        return input, bits
    if save_bits:
        return ops.bits(input, *parameters)
    return ops.forward(input, *parameters), None


def backward(activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple) -> Tensor:
    """grad times the derivative. Bits are in the order of the forward's output in memory, and so must grad be."""
    return _ops(activation).backward(grad, saved, *parameters)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    return _OPS.prelu.default(input, weight)


def prelu_backward(grad: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _OPS.prelu_backward.default(grad, input, weight)
