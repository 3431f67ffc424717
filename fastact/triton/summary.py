"""What a monitor asks of a GPU's tensors: csrc/runtime/summary.h in Triton, launched through its JIT.

Programs write what they find of their tiles, as rows of numbers in float64, and one more program adds these up in the
same order every time. Nothing waits for the GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementwise import count_blocks

_BLOCK = 1024
_PARTS = 512
"""The most programs. The number does not depend on the GPU, so that sums do not."""
_ROWS = 7  # of numbers that each program of _summarize writes
_MOST_UNITS = 64  # of a tile
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _moments(count, mean, squares):
    """Of all numbers, from those of sets of them, as Chan, Golub and LeVeque 1979 merge these."""
    total = tl.sum(count, 0)
    center = tl.sum(mean * (count / tl.maximum(total, 1)), 0)
    delta = mean - center
    return total, center, tl.sum(squares + delta * delta * count, 0)


@triton.jit(repr=lambda _: "fastact_summarize")
def _summarize(x_ptr, parts_ptr, n, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Each program writes a column of parts: how many finite numbers its tiles have, their mean, the squares of their
    deviations from it, the least and the most, and how many are zero and infinite."""
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    INF: tl.constexpr = float("inf")
    part, lane = tl.program_id(0), tl.arange(0, BLOCK)
    finite = tl.zeros((BLOCK,), tl.int32)
    zeros, infinite = finite, finite
    # Each lane's moments are about the first finite number that it meets.
    shift = tl.zeros((BLOCK,), COMPUTE)
    first = tl.zeros((BLOCK,), tl.float64)
    second = first
    least, most = shift + INF, shift - INF
    for tile in range(part, count_blocks(n, BLOCK), tl.num_programs(0)):
        place = tile * BLOCK + lane
        x = tl.load(x_ptr + place, mask=place < n, other=float("nan")).to(COMPUTE)
        is_finite = tl.abs(x) < INF
        shift = tl.where(is_finite & (finite == 0), x, shift)
        deviation = tl.where(is_finite, x.to(tl.float64) - shift.to(tl.float64), 0)
        first += deviation
        second += deviation * deviation
        least = tl.minimum(least, tl.where(is_finite, x, INF))
        most = tl.maximum(most, tl.where(is_finite, x, -INF))
        finite += is_finite.to(tl.int32)
        zeros += (x == 0).to(tl.int32)
        infinite += (tl.abs(x) == INF).to(tl.int32)
    count = finite.to(tl.float64)
    mean = first / tl.maximum(count, 1)
    squares = tl.maximum(second - first * mean, 0)
    total, center, squares = _moments(count, shift.to(tl.float64) + mean, squares)
    parts_ptr += part
    tl.store(parts_ptr, total)
    tl.store(parts_ptr + PARTS, center)
    tl.store(parts_ptr + 2 * PARTS, squares)
    tl.store(parts_ptr + 3 * PARTS, tl.min(least, 0).to(tl.float64))
    tl.store(parts_ptr + 4 * PARTS, tl.max(most, 0).to(tl.float64))
    tl.store(parts_ptr + 5 * PARTS, tl.sum(zeros, 0).to(tl.float64))
    tl.store(parts_ptr + 6 * PARTS, tl.sum(infinite, 0).to(tl.float64))


@triton.jit(repr=lambda _: "fastact_add_summaries", do_not_specialize=["parts", "n"])
def _add_summaries(parts_ptr, scale_ptr, state_ptr, parts: "int64", n: "int64", PARTS: tl.constexpr):
    """One program: the state, in the order of `fastact.monitor.statistics.Summary`, counts one tensor more."""
    INF: tl.constexpr = float("inf")
    part = tl.arange(0, PARTS)
    parts_ptr += part
    mask = part < parts
    count = tl.load(parts_ptr, mask=mask, other=0)
    means = tl.load(parts_ptr + PARTS, mask=mask, other=0)
    total, mean, squares = _moments(count, means, tl.load(parts_ptr + 2 * PARTS, mask=mask, other=0))
    least = tl.min(tl.load(parts_ptr + 3 * PARTS, mask=mask, other=INF), 0)
    most = tl.max(tl.load(parts_ptr + 4 * PARTS, mask=mask, other=-INF), 0)
    zeros = tl.sum(tl.load(parts_ptr + 5 * PARTS, mask=mask, other=0), 0)
    infinite = tl.sum(tl.load(parts_ptr + 6 * PARTS, mask=mask, other=0), 0)
    bad = n.to(tl.float64) - total
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
        mean, squares, least, most = mean / scale, squares / scale / scale, least / scale, most / scale
    before, mean_before = tl.load(state_ptr), tl.load(state_ptr + 1)
    share, delta = total / tl.maximum(before + total, 1), mean - mean_before
    tl.store(state_ptr, before + total)
    tl.store(state_ptr + 1, mean_before + delta * share)
    tl.store(state_ptr + 2, tl.load(state_ptr + 2) + squares + delta * delta * before * share)
    tl.store(state_ptr + 3, tl.minimum(tl.load(state_ptr + 3), least))
    tl.store(state_ptr + 4, tl.maximum(tl.load(state_ptr + 4), most))
    tl.store(state_ptr + 5, tl.load(state_ptr + 5) + zeros)
    tl.store(state_ptr + 6, tl.load(state_ptr + 6) + (bad - infinite))
    tl.store(state_ptr + 7, tl.load(state_ptr + 7) + infinite)
    tensors, first_bad = tl.load(state_ptr + 8), tl.load(state_ptr + 9)
    tl.store(state_ptr + 8, tensors + 1)
    tl.store(state_ptr + 9, tl.where(bad > 0, tl.minimum(first_bad, tensors), first_bad))


@triton.jit(repr=lambda _: "fastact_count_flat", do_not_specialize=["slices"])
def _count_flat(
    x_ptr, bounds_ptr, parts_ptr, flags_ptr, rest, units, inner, slices,
    INTERVALS: tl.constexpr, UNITS: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The memory is an array of (rest / inner, units, inner) numbers. Each program takes some units and, of their
    tiles, every so many-th: a slice. It writes how many numbers are flat and, if flags are asked for, which of its
    units have one that is not. So no two programs write to one place."""
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    part = tl.program_id(0)
    slice = part % slices
    unit = (part // slices).to(tl.int64) * UNITS + tl.arange(0, UNITS)
    count = tl.zeros((UNITS, REST), tl.int32)
    awake = count
    for tile in range(slice, count_blocks(rest, REST), slices):
        number = (tile * REST + tl.arange(0, REST))[None, :]
        inside = (unit < units)[:, None] & (number < rest)
        place = ((number // inner).to(tl.int64) * units + unit[:, None]) * inner + number % inner
        x = tl.load(x_ptr + place, mask=inside).to(COMPUTE)
        flat = tl.zeros((UNITS, REST), tl.int1)
        for i in tl.static_range(INTERVALS):
            low, high = tl.load(bounds_ptr + 2 * i).to(COMPUTE), tl.load(bounds_ptr + 2 * i + 1).to(COMPUTE)
            above = (x > low) | ((x == low) & (tl.abs(low) == float("inf")))  # none is next to infinity
            flat |= above & (x <= high)
        count += (inside & flat).to(tl.int32)
        awake += (inside & (flat == 0)).to(tl.int32)
    tl.store(parts_ptr + part, tl.sum(tl.sum(count, 1), 0).to(tl.float64))
    if flags_ptr is not None:
        flags_ptr += slice.to(tl.int64) * units
        tl.store(flags_ptr + unit, tl.sum(awake, 1) > 0, mask=unit < units)


@triton.jit(repr=lambda _: "fastact_add_counts", do_not_specialize=["parts", "n", "units", "slices"])
def _add_counts(
    parts_ptr, flags_ptr, counts_ptr, awake_ptr, parts: "int64", n: "int64", units: "int64", slices: "int64",
    PARTS: tl.constexpr, UNITS: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    """The first program counts all elements and the flat ones, and then those of the last tensor. Each sets the flags
    of some units."""
    if tl.program_id(0) == 0:
        part = tl.arange(0, PARTS)
        flat = tl.zeros((PARTS,), tl.float64)
        for first in range(0, parts, PARTS):
            flat += tl.load(parts_ptr + first + part, mask=first + part < parts, other=0)
        total, numel = tl.sum(flat, 0), n.to(tl.float64)
        tl.store(counts_ptr, tl.load(counts_ptr) + numel)
        tl.store(counts_ptr + 1, tl.load(counts_ptr + 1) + total)
        tl.store(counts_ptr + 2, numel)
        tl.store(counts_ptr + 3, total)
    if flags_ptr is not None:
        unit = tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS)
        awake = tl.zeros((UNITS, SLICES), tl.int32)
        for first in range(0, slices, SLICES):
            slice = first + tl.arange(0, SLICES)
            inside = (unit < units)[:, None] & (slice < slices)[None, :]
            awake += tl.load(flags_ptr + slice[None, :] * units + unit[:, None], mask=inside, other=0).to(tl.int32)
        tl.store(awake_ptr + unit, True, mask=(unit < units) & (tl.sum(awake, 1) > 0))


def summarize_(input: Tensor, scale: Tensor | None, state: Tensor) -> None:
    """As `torch.ops.fastact.summarize_`, of a dense tensor on a GPU, where scale and state are too."""
    n = input.numel()
    programs = min(triton.cdiv(n, _BLOCK), _PARTS)
    with torch.cuda.device_of(input):
        parts = torch.empty(_ROWS, _PARTS, dtype=torch.float64, device=input.device)
        _summarize[(programs,)](input, parts, n, _PARTS, _BLOCK, **_OPTIONS)
        _add_summaries[(1,)](parts, scale, state, programs, n, _PARTS, **_OPTIONS)


def count_flat_(input: Tensor, bounds: Tensor, unit_dim: int | None, counts: Tensor, awake: Tensor) -> None:
    """As `torch.ops.fastact.count_flat_`, of a dense tensor on a GPU, where bounds, counts and awake are too."""
    n, intervals = input.numel(), bounds.numel() // 2
    units = 1 if unit_dim is None else input.shape[unit_dim]
    inner = 1 if unit_dim is None or units == 1 else input.stride(unit_dim)
    # Neighbours in memory are neighbours in a tile.
    units_of_tile = min(triton.next_power_of_2(units), _MOST_UNITS) if inner == 1 else 1
    rest, rest_of_tile = n // units, _BLOCK // units_of_tile
    blocks = triton.cdiv(units, units_of_tile)
    slices = max(1, min(triton.cdiv(rest, rest_of_tile), _PARTS // blocks))
    with torch.cuda.device_of(input):
        parts = torch.empty(blocks * slices, dtype=torch.float64, device=input.device)
        flags = None if unit_dim is None else torch.empty(slices, units, dtype=torch.bool, device=input.device)
        _count_flat[(parts.numel(),)](
            input, bounds, parts, flags, rest, units, inner, slices, intervals, units_of_tile, rest_of_tile, **_OPTIONS
        )
        _add_counts[(triton.cdiv(units, _MOST_UNITS),)](
            parts, flags, counts, awake, parts.numel(), n, units, slices, _PARTS, _MOST_UNITS, 32, **_OPTIONS
        )
