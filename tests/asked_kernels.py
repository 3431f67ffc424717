"""Runs activations on the GPU path, where launches are only counted, and prints as JSON which kernels that asks for.

`python asked_kernels.py names NAME…`: the calls of `calls` in each dtype; no kernel is compiled.
`python asked_kernels.py kernels NAME…`: one call each in bfloat16, with kernels from wherever there are some.
`python asked_kernels.py without-triton NAME…`: the same where Triton is not installed.

FASTACT_LIBCUDA must name the emulated GPU.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from cases import DTYPES
from gpu import emulator
from torch import Tensor

import fastact.gpu
from fastact import functional as F
from fastact.bundle import Kernel
from fastact.catalogue import ACTIVATIONS, Activation


def calls(row: Activation, dtype: torch.dtype) -> Iterator[tuple[Callable[..., Tensor], list[Tensor]]]:
    """Functions with their inputs: common layouts and sizes."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def function(**arguments: object) -> Callable[..., Tensor]:
        return partial(getattr(F, row.function), **{**row.samples[0], **row.keywords, **arguments})

    images = [zeros(2, 16, size, size) for size in (56, 28, 14, 7)]
    images.append(images[0].to(memory_format=torch.channels_last))
    half = zeros(64, 1024).chunk(2, -1)[0]
    if row.kind == "softmax":
        for shape in ((200, 10), (4096, 64), (300, 1000), (32, 32, 512), (2, 50257), (2, 128256)):
            for type in dict.fromkeys((dtype, torch.promote_types(dtype, torch.float32))):
                yield function(dtype=type), [zeros(*shape)]
        yield function(dim=1), [zeros(2, 19, 64, 64)]
        yield function(dim=1), [images[1]]
    elif row.kind == "maxout":
        for pieces in (2, 3, 4):
            yield function(pieces=pieces), [zeros(64, 12 * 16)]
        for image in images:
            yield function(dim=1), [image]
    elif row.kind == "gated":
        yield function(), [zeros(64, 1024)]
        yield function(dim=1), [images[0]]
        if row.name != "glu":
            yield function(), [zeros(64, 512), zeros(64, 512)]
    elif row.kind == "channelwise":
        for x, count in ((zeros(5000), 1), (half, 1), (half, 512), *((image, 16) for image in images)):
            yield function(), [x, *(zeros(count) for _ in row.weights)]
    else:
        for x in (zeros(1), zeros(1000), zeros(64, 512), half, *images):
            yield function(), [x]
        if row.inplace:
            yield lambda x: function(inplace=True)(x.clone()), [half]
        if not row.random:
            biased = partial(F.bias_act, activation=row.name, **row.samples[0])
            for x in (zeros(64, 512), *images):
                yield biased, [x, zeros(x.size(1))]
                yield biased, [x, zeros(x.size(1)), zeros(*x.shape).copy_(x)]


def run(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Without gradients and with all of them."""
    with torch.no_grad():
        function(*inputs)
    output = function(*(x.detach().requires_grad_() for x in inputs))
    output.backward(torch.zeros_like(output))


def asked_by_calls(names: list[str]) -> dict[str, list[str]]:
    """By activation and dtype."""
    asked: list[str] = []

    def find(name: str, capability: int) -> Kernel:
        asked.append(name)
        return Kernel(b"none", "none", 4, 0, 4096)

    fastact.gpu.find = find
    by_row = {}
    for row, dtype in ((ACTIVATIONS[name], dtype) for name in names for dtype in DTYPES):
        asked.clear()
        torch.ops.fastact.forget_kernels()
        for call in calls(row, dtype):
            run(*call)
        by_row[f"{row.name} {dtype}"] = asked.copy()
    return by_row


def found_for_calls(names: list[str]) -> dict[str, list[str]]:
    """Which kernels were found, and what was said."""
    found: list[str] = []
    find = fastact.gpu.find

    def watched(name: str, capability: int) -> Kernel:
        kernel = find(name, capability)
        found.append(name)
        return kernel

    fastact.gpu.find = watched
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name in names:
            run(*next(calls(ACTIVATIONS[name], torch.bfloat16)))
    return {"found": found, "said": [str(each.message) for each in said]}


def main() -> None:
    _, how, *names = sys.argv
    torch.ops.fastact.emulate_gpu(True)
    emulator.set_record_only(True)
    compiled: list[str] = []
    if how == "without-triton":
        sys.modules["triton"] = None  # type: ignore[assignment]
    if how == "kernels":
        from triton import knobs

        def listen(*, src: Any, cache_hit: bool, **others: Any) -> None:
            if not cache_hit:
                compiled.append(src.name)

        knobs.compilation.listener = listen
    facts = asked_by_calls(names) if how == "names" else found_for_calls(names) | {"compiled": compiled}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
