"""The rows of the benchmark. Each is a pytest-benchmark test of fastact, with its peers timed in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from measure import Case, Race, by_device_events, by_host_clock, holes_filled, limits, peak_bytes

from fastact.catalogue import ACTIVATIONS, Activation

IN_CACHE = 1 << 16
MEMORY_BOUND = 1 << 16  # from here on bandwidth means something
LARGE_BYTES = 1 << 28
ALL_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Row:
    """What is timed. `level`: "op", the raw op; "op+mask", the same, writing the mask that backward needs; "module",
    the module with autograd. `numel` counts the output."""

    activation: str
    level: str
    direction: str
    dtype: str
    numel: int
    layout: str = "contiguous"
    threads: int = ALL_THREADS
    passes: str = ""
    """Where the direction is "host": "forward" or "both"."""
    compiled: bool = False
    """Whether torch.compile is among the peers."""

    def __str__(self) -> str:
        parts = (self.activation, self.level, self.direction, self.passes, self.dtype, self.numel, self.layout)
        return "-".join(str(part) for part in parts if part) + f"-{self.threads}t"


def cpu_rows(quick: bool, compiled: bool) -> Iterator[Row]:
    for dtype in ("float32", "bfloat16") if quick else ("float32", "bfloat16", "float16", "float64"):
        for name, activation in ACTIVATIONS.items():
            if activation.pointwise:
                for direction in ("forward", "backward"):
                    yield Row(name, "op", direction, dtype, IN_CACHE, threads=1)
                if activation.saved == "mask":
                    yield Row(name, "op+mask", "forward", dtype, IN_CACHE, threads=1)
    for name, activation in ACTIVATIONS.items():
        yield Row(name, "module", "both", "float32", 1 << 20, compiled=compiled)
        if not quick:
            for numel in (1 << 10, 1 << 24):
                yield Row(name, "module", "both", "float32", numel, compiled=compiled and numel == 1 << 24)
            yield Row(name, "module", "both", "bfloat16", 1 << 20)
            yield Row(name, "module", "both", "float32", 1 << 20, threads=1)
            if activation.kind == "softmax":
                for columns in (10, 24, 64, 1024):
                    for direction in ("forward", "both"):
                        yield Row(name, "module", direction, "float32", 1 << 20, f"columns={columns}")


def cuda_rows(quick: bool) -> Iterator[Row]:
    """What matters most first, since time may run out."""
    # torch.compile takes seconds for each: it is a peer where one activation stands for its family.
    compiled = list(_one_of_each(lambda row: row.family))
    large = {dtype: LARGE_BYTES // getattr(torch, dtype).itemsize for dtype in ("bfloat16", "float32")}
    for name in ACTIVATIONS:
        for direction in ("forward", "backward", "both"):
            if direction != "both" or name not in compiled:
                yield Row(name, "module", direction, "bfloat16", large["bfloat16"])
    # What a call costs the host depends on its arguments and on what is saved, not on the formula.
    for name in _one_of_each(lambda row: (row.kind, row.saved, len(row.scalars), row.random)):
        for passes in ("forward", "both"):
            for numel in (1 << 10,) if quick else (1 << 10, 1 << 15, 1 << 20):
                yield Row(name, "module", "host", "float32", numel, passes=passes)
    for name in compiled:
        yield Row(name, "module", "both", "bfloat16", large["bfloat16"], compiled=True)
    if not quick:
        for name in compiled:
            for numel in (*(1 << power for power in range(10, 32, 2)), (1 << 31) + (1 << 10)):
                yield Row(name, "module", "both", "bfloat16", numel)
        for name in ACTIVATIONS:
            for direction in ("forward", "backward", "both"):
                yield Row(name, "module", direction, "float32", large["float32"])
        for name in ACTIVATIONS:
            for layout in ("odd", "rows"):
                yield Row(name, "module", "both", "bfloat16", LARGE_BYTES // 2, layout)


def _one_of_each(key: Callable[[Activation], Any]) -> Iterable[str]:
    return {key(row): name for name, row in reversed(ACTIVATIONS.items())}.values()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    quick = option("bench_quick")
    rows = cuda_rows(quick) if option("bench_device") == "cuda" else cpu_rows(quick, option("bench_compile"))
    metafunc.parametrize("row", list(rows), ids=str)


class Clock:
    """A clock that stands still but for what it is advanced by. As pytest-benchmark's timer it makes a round, in which
    peers run too, last as long as one call of fastact's did."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def _threads(row: Row) -> Iterator[None]:
    torch.set_num_threads(row.threads)
    yield
    torch.set_num_threads(ALL_THREADS)


@pytest.mark.usefixtures("_threads")
@pytest.mark.benchmark(timer=CLOCK)
def test_speed(row: Row, benchmark: Any, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    device = option("bench_device")
    dtype = getattr(torch, row.dtype)
    activation = ACTIVATIONS[row.activation]
    if device == "cuda" and 10 * row.numel * activation.divisor * dtype.itemsize > torch.cuda.mem_get_info()[0]:
        pytest.skip("too little memory on this GPU")
    try:
        case = Case(activation, dtype, row.numel, row.layout, device)
    except NotImplementedError as error:
        pytest.skip(f"torch has no kernel: {error}")
    on_host = row.direction == "host"
    direction = row.passes or row.direction
    with holes_filled(case.output.nbytes if device == "cpu" else 0):
        if row.level.startswith("op"):
            fastact_call, moved = case.raw_op(row.direction, keep_mask=row.level == "op+mask")
            peers = dict([case.aten_op(row.direction)])
        else:
            fastact_call, moved = case.fastact_module(direction), case.module_bytes(direction)
            peers = dict(case.peers(direction, row.compiled))
        calls = {"fastact": fastact_call, **peers}
        streams = {}
        if row.numel >= MEMORY_BOUND and not on_host:
            streams = limits(case.output)
        timed = calls | {name: call for name, (call, _) in streams.items()}
        if device == "cuda" and not on_host:
            meters = {name: by_device_events(call) for name, call in timed.items()}
        else:
            meters = {name: by_host_clock(call, device, issuing_only=on_host) for name, call in timed.items()}

        race = Race(meters, option("bench_seconds"))

        def run_round() -> None:
            CLOCK.now += race.run_round()["fastact"]

        benchmark.pedantic(run_round, rounds=race.rounds)

        saved = {"fastact": case.saved(case.module).total, "torch": case.saved(case.stock).total}
        peaks = {}
        if device == "cuda" and direction == "both":
            peaks = {name: peak_bytes(call) for name, call in calls.items()}
    benchmark.extra_info |= asdict(row) | {
        "numel": case.output.numel(),
        "moved_bytes": moved,
        "saved_bytes": saved["fastact"],
        "peak_bytes": peaks.get("fastact"),
        "peers": [
            {
                "peer": name,
                "seconds": race.median(name),
                "ratio_quartiles": race.ratio_quartiles(name, "fastact"),
                # Of an op that stands alone, torch's module says what is saved; of other libraries we do not know.
                "saved_bytes": None if row.level == "module" and name != "torch" else saved["torch"],
                "peak_bytes": peaks.get(name),
            }
            for name in peers
        ],
        "limits": {name: {"seconds": race.median(name), "bytes": size} for name, (_, size) in streams.items()},
    }
