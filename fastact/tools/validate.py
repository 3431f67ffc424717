"""Checks of the activations on the user's own machine: accuracy against its bounds, throughput against torch."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import modules
from ..catalogue import Activation, torch_module
from ..enable import torch_kernels
from .accuracy import DTYPES, Measurement, bit_patterns, measure, random_inputs, samples
from .info import environment, table

_RANDOM_INPUTS = 1 << 20  # of float32, for each set of parameters
_CHUNK = 1 << 21  # of the exhaustive test: 2^32 inputs in 2,048 steps
_IN_CACHE = 1 << 16  # elements that a core works on, with some thirty tensors of float64: four times as fast
_NUMEL = {"cpu": 1 << 22, "cuda": 1 << 26}  # float32 elements timed: beyond L2, and on a GPU far above a launch
_ROW = 1 << 10  # elements of output, where it matters
_ROUNDS = 9
_CALLS_PER_EVENT = 10  # on a GPU, so that the host runs ahead of it


_Step = tuple[Activation, dict[str, Any], Callable[[], Tensor]]


@dataclass(frozen=True)
class Throughput:
    """Median times of one activation in one direction on float32, beside torch's and a copy's, by turns in one run."""

    activation: str
    direction: str
    numel: int
    """Of the output."""
    seconds: float
    torch_seconds: float
    copy_seconds: float
    """Of a copy of the output."""
    bytes_per_element: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torch."""
        return self.torch_seconds / self.seconds

    @property
    def fraction_of_copy(self) -> float:
        """The bandwidth reached, as a share of that of a copy (`clone`) of the output."""
        return self.bytes_per_element / self.seconds / (8 / self.copy_seconds)


@dataclass(frozen=True)
class Results:
    measurements: list[Measurement]
    throughputs: list[Throughput]

    @property
    def out_of_bounds(self) -> list[Measurement]:
        return [measurement for measurement in self.measurements if not measurement.held]

    def __str__(self) -> str:
        by_row: dict[tuple[str, str], list[str]] = {}
        for measurement in self.measurements:
            by_row.setdefault((measurement.activation, measurement.direction), []).append(_error_cell(measurement))
        for throughput in self.throughputs:
            cells = _ratio_cell(throughput.ratio), f"{throughput.fraction_of_copy:.2f}"
            by_row[throughput.activation, throughput.direction] += cells
        names = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
        header = ["activation", "direction", *(f"{name} error" for name in names), "times torch", "of copy speed"]
        lines = [table(header, [[*key, *cells] for key, cells in by_row.items()]), ""]
        lines += [
            "Errors: the largest found, of what is allowed; ! where more. ulp+y: an ULP, and what an ULP of the saved"
        ]
        lines += ["output comes to in the derivative computed from it. Speeds: float32, medians, all in the same run."]
        lines += [f"OUT OF BOUNDS: {measurement}" for measurement in self.out_of_bounds]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything measured, as plain values; numbers that JSON lacks become strings."""
        measurements = [{**asdict(each), "held": each.held} for each in self.measurements]
        throughputs = [
            {**asdict(each), "ratio": each.ratio, "fraction_of_copy": each.fraction_of_copy}
            for each in self.throughputs
        ]
        for row in measurements:
            row.update({key: str(x) for key, x in row.items() if isinstance(x, float) and not math.isfinite(x)})
        return {"environment": environment(), "accuracy": measurements, "throughput": throughputs}


def _error_cell(measurement: Measurement) -> str:
    mark = "" if measurement.held else "! "
    if measurement.error == measurement.bound == 0:
        return "exact"
    allowed = measurement.unit if measurement.bound == 1 else f"{measurement.bound:g} {measurement.unit}"
    return f"{mark}{measurement.error:.2f} of {allowed}"


def _ratio_cell(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 1 else f"{ratio:.2f} (loss)"


def validate(activations: Sequence[Activation], device: str = "cpu", exhaustive: bool = False) -> Results:
    """Measure everything, with a progress bar. `exhaustive`: all 2^32 float32 inputs, not a random choice of them."""
    steps = [
        (activation, sample, make)
        for activation in activations
        for dtype in DTYPES
        for sample in samples(activation)
        for make in inputs(activation, sample, dtype, exhaustive)
    ]
    throughputs: list[Throughput] = []
    if device == "cpu":
        # One block freed of just under 32 MiB, and glibc keeps the memory of the smaller tensors from now on. Else some
        # calls would be handed fresh pages, at four times the cost of a copy, and others not.
        torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)
    with progress_bar(len(steps) + len(activations)) as progress:
        measurements = largest_errors(steps, device, progress)
        for activation in activations:
            throughputs += throughput(activation, device)
            progress.update(1)
    return Results(measurements, throughputs)


def largest_errors(steps: Sequence[_Step], device: str, progress: Progress) -> list[Measurement]:
    """Of each activation, direction and dtype that the steps hold inputs for."""
    worst: dict[tuple[str, str, str], Measurement] = {}
    for activation, sample, make in steps:
        for part in make().split(_IN_CACHE) if device == "cpu" else [make().to(device)]:
            for measurement in measure(activation, sample, part):
                key = measurement.activation, measurement.direction, measurement.dtype
                if key not in worst or measurement.error > worst[key].error:
                    worst[key] = measurement
        progress.update(1)
    return list(worst.values())


def inputs(
    activation: Activation, sample: dict[str, Any], dtype: torch.dtype, exhaustive: bool
) -> Iterator[Callable[[], Tensor]]:
    """What makes the inputs, one chunk at a time."""
    if dtype is torch.float32 and not exhaustive:
        yield partial(random_inputs, activation, sample, _RANDOM_INPUTS)
        return
    patterns = 1 << (8 * dtype.itemsize)
    for start in range(0, patterns, _CHUNK):
        yield partial(bit_patterns, dtype, start, min(start + _CHUNK, patterns))


@torch_kernels()
def throughput(activation: Activation, device: str) -> tuple[Throughput, Throughput]:
    """Forward (as in training, what backward needs included) and backward."""
    numel = _NUMEL[device]
    ours = getattr(modules, activation.module)(**activation.arguments())
    stock = torch_module(activation, ours, **activation.arguments())
    x = torch.randn(numel // _ROW, _ROW * activation.divisor, device=device, requires_grad=True)
    grad = torch.randn(numel // _ROW, _ROW, device=device)

    def passes(module: nn.Module) -> tuple[Callable[[], Any], Callable[[], Any]]:
        forward = partial(module.to(device), x)
        return forward, partial(torch.autograd.grad, forward(), [x, *module.parameters()], grad, retain_graph=True)

    calls = (*passes(ours), *passes(stock), grad.clone)
    for call in calls:
        call()
    rounds = [[_seconds(call, device) for call in calls] for _ in range(_ROUNDS)]
    forward, backward, torch_forward, torch_backward, copy = map(statistics.median, zip(*rounds, strict=True))
    size = x.element_size()
    written = {"mask": 1 / 8, "indices": 1}.get(activation.saved, 0)  # beside what has been counted already
    moved = size * (activation.divisor + 1)
    read = written or (size if activation.saved == "output" else size * activation.divisor)
    return (
        Throughput(activation.name, "forward", numel, forward, torch_forward, copy, moved + written),
        Throughput(activation.name, "derivative", numel, backward, torch_backward, copy, moved + read),
    )


def _seconds(call: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_CALLS_PER_EVENT):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / _CALLS_PER_EVENT


class Progress(Protocol):
    def __enter__(self) -> Progress: ...
    def __exit__(self, *exception: object) -> None: ...
    def update(self, n: int) -> object: ...


def progress_bar(total: int) -> Progress:
    try:
        from tqdm import tqdm
    except ImportError:
        return _TextProgress(total)
    return tqdm(total=total, unit="step", disable=None, leave=False)


class _TextProgress:
    """Steps done and time left, on a terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()
        self.shown = sys.stderr.isatty()

    def __enter__(self) -> _TextProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.shown:
            print(file=sys.stderr)

    def update(self, n: int) -> None:
        self.done += n
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        if self.shown:
            print(f"\r{self.done} of {self.total}, {left:.0f} s left  ", end="", file=sys.stderr, flush=True)
