"""`python -m fastact warmup`: compiles the Triton kernels ahead, so that a training process finds them in the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..catalogue import ACTIVATIONS, Activation
from .validate import progress_bar

if TYPE_CHECKING:
    from ..triton.launch import Launch

# Softmax, and learned numbers for each channel, have kernels for each power of two: these, and a ResNet's images.
_WIDTHS = tuple(1 << power for power in range(6, 14))
_IMAGES = (56, 28, 14, 7)
_ROWS = 4096


class Warmed(NamedTuple):
    """What became of the kernels of some activation in some dtype, or of many."""

    kernels: int
    compiled: int
    """So many of them were not in the cache yet."""
    seconds: float


def launches(activation: Activation, dtype: torch.dtype) -> Iterator[Launch]:
    """What calls of common layouts and sizes run, forward and backward, with gradients and without."""
    from ..triton import launch

    for input in _inputs(activation, dtype):
        with launch.recording() as found:
            run(activation, input)
        yield from found


def _inputs(activation: Activation, dtype: torch.dtype) -> Iterator[Tensor]:
    """Tensors without memory: all that a kernel is made for is known of them too."""

    def tensor(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    if activation.kind == "softmax":
        yield from (tensor(_ROWS, width) for width in _WIDTHS)
        return
    yield tensor(_ROWS)
    if activation.pointwise:
        yield tensor(_ROWS, 128).chunk(2, -1)[0]
    if activation.kind == "gated":
        yield tensor(_ROWS, 128)
    if activation.kind == "channelwise":
        yield tensor(_ROWS - 1)
        yield from (tensor(_ROWS, width) for width in _WIDTHS)
        yield from (tensor(16, 64, size, size) for size in _IMAGES)


def run(row: Activation, x: Tensor) -> None:
    """All that autograd may launch for an input: with one number in a weight or, where there are channels, one each."""
    from ..triton.ops import KERNELS

    forward, backward = KERNELS[row.name], KERNELS[f"{row.name}_backward"]
    scalars = tuple(row.samples[0][name] for name in row.scalars)
    if row.kind == "softmax":
        for dtype in dict.fromkeys((x.dtype, torch.promote_types(x.dtype, torch.float32))):  # the other is autocast's
            y = forward(x, -1, dtype)
            backward(y, y, -1, x.dtype)
    elif row.kind == "channelwise":
        weights = [x.new_empty(x.size(1) if x.dim() > 1 else 1) for _ in row.weights]
        backward(forward(x, *weights, *scalars), x, *weights, *scalars)
    elif row.kind == "gated":
        y = KERNELS[f"{row.name}_packed"](x, -1, False)
        KERNELS[f"{row.name}_packed_backward"](y, x, -1, False)
        if x.dim() > 1:  # two tensors of their own
            backward(forward(y, y), y, y)
    elif row.kind == "maxout":
        y, indices = KERNELS[f"{row.name}_indices"](x, *scalars, -1)
        backward(y, indices, *scalars, -1)
    else:
        if row.random:
            scalars = (torch.empty((), dtype=torch.int64, device=x.device), *scalars)
        y = forward(x, *scalars)
        saved = {"output": y, "input": x}.get(row.saved)
        if saved is None:
            _, saved = KERNELS[f"{row.name}_mask"](x, *scalars)
        backward(y, saved, *scalars)


class Elsewhere:
    """In the place of Triton's driver, the GPU that kernels are compiled for without one."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _compile(name: str, dtype: torch.dtype, capability: int | None) -> Warmed:
    """In a process of its own: by Triton's own way from a launch to its cache, up to the launch itself."""
    from triton import knobs
    from triton.runtime import driver

    if capability is not None:
        driver.set_active(Elsewhere(capability))
    found: list[bool] = []
    knobs.compilation.listener = lambda *, cache_hit, **others: found.append(cache_hit)
    start = perf_counter()
    for launch in {launch.kind: launch for launch in launches(ACTIVATIONS[name], dtype)}.values():
        kernel = launch.compile()
        if capability is None:
            _ = kernel.run  # loads it; some versions of Triton compile C for that, and keep it in the cache as well
    return Warmed(len(found), found.count(False), perf_counter() - start)


def warmup(names: Sequence[str], dtypes: Sequence[torch.dtype], capability: int | None, processes: int) -> Warmed:
    """Fill Triton's cache, for the current GPU or, without one, for a compute capability (90, say)."""
    done = []
    start = perf_counter()
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_compile, name, dtype, capability) for name in names for dtype in dtypes]
        with progress_bar(len(tasks)) as bar:
            for task in as_completed(tasks):
                done.append(task.result())
                bar.update(1)
    kernels, compiled, _ = (sum(column) for column in zip(*done, strict=True))
    return Warmed(kernels, compiled, perf_counter() - start)


def summary(warmed: Warmed) -> str:
    """The text of `python -m fastact warmup`."""
    from triton import knobs

    return (
        f"{warmed.kernels} kernels, {warmed.compiled} of them compiled anew, in {warmed.seconds:.0f} s. "
        f"Triton's cache: {knobs.cache.dir}"
    )


def default_processes() -> int:
    """A compiler for each core, as far as memory is likely to go."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
