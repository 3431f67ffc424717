"""Statistics of many tensors, kept on the tensors' devices: nothing waits for a GPU before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..dispatch import triton_is_installed, warn_once
from ..libraries import HAS_KERNELS
from ..ops import overload

if HAS_KERNELS:
    _SUMMARIZE, _COUNT_FLAT = overload("summarize_"), overload("count_flat_")


class Summary(NamedTuple):
    """Of some tensors' elements, in the order of `torch.ops.fastact.summarize_`."""

    finite: float = 0
    mean: float = 0
    squares: float = 0
    """Of deviations from the mean."""
    least: float = math.inf
    most: float = -math.inf
    zeros: float = 0
    nan: float = 0
    inf: float = 0
    tensors: float = 0
    first_bad: float = math.inf
    """The number of the first tensor with NaN or infinity."""

    @property
    def numel(self) -> float:
        return self.finite + self.nan + self.inf

    def merged(self, other: Summary) -> Summary:
        """Means and squares as Chan, Golub and LeVeque 1979 merge them, which cancels nothing."""
        finite = self.finite + other.finite
        share, delta = other.finite / max(finite, 1), other.mean - self.mean
        return Summary(
            finite,
            self.mean + delta * share,
            self.squares + other.squares + delta * delta * self.finite * share,
            min(self.least, other.least),
            max(self.most, other.most),
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.inf + other.inf,
            self.tensors + other.tensors,
            min(self.first_bad, other.first_bad),
        )


EXPONENTS = range(-24, 17)
"""Of the histograms' bins: 2^(k-1) to 2^k, above zero and below. What is smaller counts as zero, what is larger or
infinite in the last bin, NaN not at all."""
_SAMPLE = 4096


class Statistics:
    """A summary, and perhaps a histogram, of tensors of any devices."""

    def __init__(self, histograms: bool = False) -> None:
        self.states: dict[torch.device, Tensor] = {}
        self.histograms: dict[torch.device, Tensor] | None = {} if histograms else None

    def state_on(self, device: torch.device) -> Tensor:
        """A summary as a tensor, which is changed in place."""
        state = self.states.get(device)
        if state is None:
            state = self.states[device] = _new(Summary(), device)
        return state

    def cut(self) -> Statistics:
        """Begin anew, in the same tensors. Returns what was counted before."""
        before = Statistics()
        before.states = {device: state.clone() for device, state in self.states.items()}
        for device, state in self.states.items():
            state.copy_(_new(Summary(), device))
        if self.histograms is not None:
            before.histograms, self.histograms = self.histograms, {}
        return before

    def add(self, tensor: Tensor, scale: Tensor | None = None) -> None:
        """Count a tensor's elements, divided by `scale`, a float64 of one element."""
        state = self.state_on(tensor.device)
        if has_kernel(tensor):
            _SUMMARIZE(tensor, scale, state)
        elif not (has_gpu_kernel(tensor) and _by_triton("summarize_", tensor, scale, state)):
            _add_by_torch(tensor, scale, state)
        if self.histograms is not None:
            counts = self.histograms.get(tensor.device)
            if counts is None:
                counts = self.histograms[tensor.device] = _new([0.0] * (2 * len(EXPONENTS) + 1), tensor.device)
            _add_to_histogram(tensor, scale, counts)

    def total(self) -> Summary:
        total = Summary()
        for state in self.states.values():
            total = total.merged(Summary(*state.tolist()))
        return total

    def histogram(self) -> list[float] | None:
        """How many elements each bin has, from the least numbers to the largest; None where nothing was counted."""
        counts = [each.cpu() for each in (self.histograms or {}).values()]
        total = torch.stack(counts).sum(0) if counts else None
        return total.tolist() if total is not None and total.any() else None


class Flatness:
    """How many elements were flat, and which units, by how many there are, ever were not: a module may be called at
    several places of a model."""

    def __init__(self) -> None:
        self.counts: dict[torch.device, Tensor] = {}
        self.last: Tensor | None = None  # the counts that the last tensor is in
        self.awake: dict[tuple[int, torch.device], Tensor] = {}
        self.bounds: dict[torch.device, Tensor] = {}

    def add(self, tensor: Tensor, bounds: Tensor, unit_dim: int | None) -> None:
        """Count a tensor's elements in the intervals (low, high] of the rows of `bounds`, a float64 on the CPU, the
        same in every call."""
        device = tensor.device
        counts = self.counts.get(device)
        if counts is None:
            counts = self.counts[device] = _new([0.0] * 4, device)
        units = 0 if unit_dim is None else tensor.shape[unit_dim]
        awake = self.awake.get((units, device))
        if awake is None:
            awake = _new([False] * units, device)
        self._count(tensor, bounds, unit_dim, counts, awake)
        self.last = counts
        if unit_dim is not None:  # only now: the count might have failed
            self.awake[units, device] = awake

    def _count(self, tensor: Tensor, bounds: Tensor, unit_dim: int | None, counts: Tensor, awake: Tensor) -> None:
        if has_kernel(tensor):
            _COUNT_FLAT(tensor, bounds, unit_dim, counts, awake)
            return
        if has_gpu_kernel(tensor):
            there = self.bounds.get(tensor.device)
            if there is None:  # not waiting for so few bytes, which the driver keeps until it copies them
                there = self.bounds[tensor.device] = bounds.to(tensor.device, non_blocking=True)
            if _by_triton("count_flat_", tensor, there, unit_dim, counts, awake):
                return
        _count_flat_by_torch(tensor, bounds, unit_dim, counts, awake)

    def take_back(self) -> None:
        """The last tensor does not count: the call that it was for failed."""
        if self.last is not None:
            with torch.no_grad():
                self.last[:2] -= self.last[2:]
            self.last = None

    def total(self) -> tuple[float, float]:
        """How many elements there were, and how many flat ones."""
        counts = [each.tolist() for each in self.counts.values()]
        return sum(each[0] for each in counts), sum(each[1] for each in counts)

    def units(self) -> dict[int, Tensor]:
        """Which were awake, by how many there are."""
        found: dict[int, Tensor] = {}
        for (units, _), awake in self.awake.items():
            before = found.get(units)
            found[units] = awake if before is None else before.to(awake.device) | awake
        return found


def _new(numbers: Sequence[float], device: torch.device) -> Tensor:
    """A tensor that is changed in place later on, in or out of inference mode; of float64, or of bool."""
    with torch.inference_mode(False):
        dtype = torch.bool if numbers == [] or numbers[0] is False else wide(device)
        return torch.tensor(numbers, dtype=dtype, device=device)


def wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # that device has no float64


def has_kernel(tensor: Tensor) -> bool:
    return HAS_KERNELS and tensor.is_cpu and _is_dense(tensor)


def has_gpu_kernel(tensor: Tensor) -> bool:
    return tensor.is_cuda and _is_dense(tensor) and not tensor.is_neg()  # a kernel sees the memory alone


def _is_dense(tensor: Tensor) -> bool:
    dense = tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(tensor)
    return dense and not tensor._is_zerotensor()


_without_triton: set[torch.device] = set()


def _by_triton(op: str, tensor: Tensor, *arguments: Any) -> bool:
    """Run an op of `fastact.triton.summary`. Returns False where Triton is not installed or, with a warning, where a
    kernel cannot be compiled or launched: nothing is counted then, and the device is not tried again."""
    device = tensor.device
    if device in _without_triton:
        return False
    if not triton_is_installed():
        _without_triton.add(device)
        return False
    try:
        from ..triton import summary

        getattr(summary, op)(tensor, *arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        _without_triton.add(device)
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        warn_once(f"fastact's monitor counts by torch's ops on {device}, since Triton's kernels fail: {why}")
        return False
    return True


# The same on any device, without waiting for it, in torch's ops.


def _add_by_torch(tensor: Tensor, scale: Tensor | None, state: Tensor) -> None:
    tensor = tensor.float() if tensor.itemsize < 4 else tensor
    dtype = state.dtype
    finite, nan = tensor.isfinite(), tensor.isnan()
    count = finite.sum()
    mean = torch.where(finite, tensor, 0).sum(dtype=dtype) / count.clamp(min=1)
    # Squares of numbers less their mean, which is rounded to their dtype, lose nothing to cancellation.
    shift = mean.to(tensor.dtype)
    squares = torch.linalg.vector_norm(torch.where(finite, tensor - shift, 0), dtype=dtype).square()
    squares = (squares - count * (mean - shift).square()).clamp(min=0)
    least, most = torch.where(finite, tensor, math.inf).amin(), torch.where(finite, tensor, -math.inf).amax()
    if scale is not None:
        mean, squares, least, most = mean / scale, squares / scale / scale, least / scale, most / scale
    bad, zeros = nan.sum(), (tensor == 0).sum()
    infinite = (~finite).sum() - bad
    finite_before, mean_before, squares_before, least_before, most_before, *counts, tensors, first_bad = state.unbind()
    total = finite_before + count
    share, delta = count / total.clamp(min=1), mean - mean_before
    merged = (
        total,
        mean_before + delta * share,
        squares_before + squares + delta.square() * finite_before * share,
        torch.minimum(least_before, least.to(dtype)),
        torch.maximum(most_before, most.to(dtype)),
        *(before + found for before, found in zip(counts, (zeros, bad, infinite), strict=True)),
        tensors + 1,
        torch.where(bad + infinite > 0, torch.minimum(first_bad, tensors), first_bad),
    )
    state.copy_(torch.stack([each.to(dtype) for each in merged]))


def _count_flat_by_torch(tensor: Tensor, bounds: Tensor, unit_dim: int | None, counts: Tensor, awake: Tensor) -> None:
    tensor = tensor.float() if tensor.itemsize < 4 else tensor
    flat = is_flat(tensor, bounds.tolist())
    counts[2:] = torch.stack([torch.full_like(counts[0], tensor.numel()), flat.sum().to(counts.dtype)])
    counts[:2] += counts[2:]
    if unit_dim is not None:
        awake |= (~flat).movedim(unit_dim, 0).flatten(1).any(1)


def is_flat(tensor: Tensor, bounds: Iterable[Iterable[float]]) -> Tensor:
    """Whether each element is in one of the intervals (low, high]."""
    flat = torch.zeros_like(tensor, dtype=torch.bool)
    for low, high in bounds:
        flat |= (tensor <= high) if low == -math.inf else (tensor > low) & (tensor <= high)
    return flat


def _add_to_histogram(tensor: Tensor, scale: Tensor | None, counts: Tensor) -> None:
    """Of up to 4,096 elements, evenly spaced: all of a batch and a bin is off by 1 / 64 of it at most, mostly."""
    flat = tensor.reshape(-1)
    sample = flat[:: -(-flat.numel() // _SAMPLE)].to(counts.dtype)
    if scale is not None:
        sample = sample / scale
    exponent = torch.frexp(sample).exponent.clamp(EXPONENTS[0] - 1, EXPONENTS[-1])  # 2^(k-1) <= |x| < 2^k
    exponent = torch.where(sample.isinf(), EXPONENTS[-1], torch.where(sample == 0, EXPONENTS[0] - 1, exponent))
    magnitude = exponent - (EXPONENTS[0] - 1)  # 0 counts as zero
    index = len(EXPONENTS) + torch.where(sample < 0, -magnitude, magnitude)
    counts.scatter_add_(0, index.long(), (~sample.isnan()).to(counts.dtype))
