"""`python -m fastact warmup`: compiles the GPU's kernels ahead, into Triton's cache or into a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from .. import bundle, ops
from ..catalogue import ACTIVATIONS, Activation
from .validate import progress_bar

# Layouts for which there are kernels of their own, as fields of a kernel's name (fastact/triton/sources.py).
_TILES = ("", " rows")  # rows: halves of a packed tensor
_WEIGHTS = (" channel=number", " channel=next", " channel=one", " channel=two")
_SUMS = (" channel=number", " channel=outer", " channel=inner", " channel=inner ragged")
"""One number; channels innermost; images, as a ResNet's of 56 x 56 and of 7 x 7."""
_MAXOUT = (*(f" adjacent together={pieces}" for pieces in (2, 4, 0)), " apart together=0 eights", " apart together=0")
_ROWS = (10, *(1 << power for power in range(6, 15)), 50257, 128256)
"""Classes, widths and vocabularies: lengths of softmax rows."""
_COLUMNS = (16, 32, 64, 128, 256)
"""The same along another dimension than the last."""


class Warmed(NamedTuple):
    """What became of kernels."""

    kernels: int
    compiled: int
    """So many of them were not in the cache yet."""
    seconds: float
    bytes: int = 0
    """Of the bundle."""


def names(row: Activation, dtype: torch.dtype) -> Iterator[str]:
    """The kernels that calls of common layouts and sizes ask for, forward and backward, with gradients and without.
    Some come twice."""
    type = _name(dtype)
    if row.kind == "softmax":
        widened = "float32" if dtype.itemsize == 2 else type  # by autocast
        for tile, other in product(_softmax_tiles(dtype), dict.fromkeys((type, widened))):
            yield f"{row.name} forward {type} {other} {tile}"
            yield f"{row.name} backward {other} {type} {tile}"
    elif row.kind == "maxout":
        for part, layout in product(("forward", "backward"), _MAXOUT):
            yield f"maxout {part} {type}{layout}"
    else:
        for op in ops.OPS.values():
            if op.activation is row and not op.packed:
                yield from _elementwise(op, type)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _elementwise(op: ops.Op, type: str) -> Iterator[str]:
    sums = 1 if op.biased else len(op.activation.weights)
    tiles = ("", " residual") if op.biased else _TILES
    # A bias is seldom one number.
    weights, summed = (each[op.biased :] if sums else ("",) for each in (_WEIGHTS, _SUMS))
    for part in ("forward", *["mask"] * (op.saves == "mask"), "backward"):
        fields = product(("",), summed) if sums and part == "backward" else product(tiles, weights)
        yield from (f"{op.name} {part} {type}{tile}{span}" for tile, span in fields)
    if sums:
        yield f"parts {'float64' if type == 'float64' else 'float32'} {type} {sums}"


def _softmax_tiles(dtype: torch.dtype) -> Iterator[str]:
    """By the rule of csrc/gpu/softmax.h, for many rows."""
    largest = 16384 * 4 // max(4, dtype.itemsize)
    for kind, least, lengths in (("rows", 1, _ROWS), ("strided", 32, _COLUMNS)):
        for length in lengths:
            columns = 1 << (length - 1).bit_length()
            lanes = max(least, 2048 // columns)
            passes, most = ("one", largest) if lanes * columns <= largest else ("two", largest // 2)
            divisor = next(each for each in (8, 4, 2, 1) if kind == "strided" or length % each == 0)
            told = f" divisor={divisor}" if divisor > 1 else ""
            yield f"{kind} {lanes}x{min(columns, most // lanes)} {passes}{told}"


def _compile(name: str, capability: int, for_bundle: bool) -> tuple[bool, bundle.Kernel | None]:
    """In a process of its own: whether the kernel was in Triton's cache, and for a bundle the kernel."""
    from triton import knobs

    from .. import gpu

    hits: list[bool] = []
    knobs.compilation.listener = lambda *, cache_hit, **others: hits.append(cache_hit)
    if for_bundle:  # of the bytes of a cubin, two thirds are line numbers
        knobs.compilation.disable_line_info = True
    try:
        kernel = gpu.compile(name, capability)
    except Exception as error:  # which may not survive the way to the other process
        raise RuntimeError(f"{name} does not compile for sm_{capability}: {error}") from None
    return all(hits), kernel if for_bundle else None


def warmup(
    activations: Sequence[str],
    dtypes: Sequence[torch.dtype],
    capabilities: Sequence[int],
    processes: int,
    folder: Path | None = None,
) -> Warmed:
    """Fill Triton's cache for some compute capabilities (90, say) or, given a folder, make a bundle there."""
    wanted = dict.fromkeys(
        (name, capability)
        for capability in capabilities
        for activation in activations
        for dtype in dtypes
        for name in names(ACTIVATIONS[activation], dtype)
    )
    found: dict[int, dict[str, bundle.Kernel]] = {capability: {} for capability in capabilities}
    hits = 0
    start = perf_counter()
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool, progress_bar(len(wanted)) as bar:
        tasks = {pool.submit(_compile, *each, folder is not None): each for each in wanted}
        try:
            for task in as_completed(tasks):
                hit, kernel = task.result()
                hits += hit
                if kernel is not None:
                    name, capability = tasks[task]
                    found[capability][name] = kernel
                bar.update(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or it would be raised when all are done
            raise
    size = 0 if folder is None else bundle.write(folder, found)
    return Warmed(len(wanted), len(wanted) - hits, perf_counter() - start, size)


def summary(warmed: Warmed, folder: Path | None = None) -> str:
    """The text of `python -m fastact warmup`."""
    from triton import knobs

    where = f"Bundle: {folder}, {warmed.bytes / 2**20:.1f} MiB" if folder else f"Triton's cache: {knobs.cache.dir}"
    return f"{warmed.kernels} kernels, {warmed.compiled} of them compiled anew, in {warmed.seconds:.0f} s. {where}"


def default_processes() -> int:
    """A compiler for each core, as far as memory is likely to go."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
