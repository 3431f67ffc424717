"""The rows of the benchmark: fastact and its peers, timed in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from measure import (
    Call,
    Case,
    Meter,
    Race,
    by_device_events,
    by_graph_replay,
    by_host_clock,
    holes_filled,
    limits,
    peak_bytes,
)

from fastact.catalogue import ACTIVATIONS, Activation

IN_CACHE = 1 << 16
MEMORY_BOUND = 1 << 16  # from here on bandwidth means something
LARGE_BYTES = 1 << 28
REPLAYED = 1 << 20  # up to here the host takes longer to launch than a GPU to compute
REHEARSED_BYTES = 1 << 14
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
    peers: str = "torch"
    """"compiled": torch.compile is among the peers; "all": that and, on a GPU, other libraries."""
    part: str = ""
    """Of the benchmark on a GPU, to select rows by."""

    def __str__(self) -> str:
        parts = (
            self.part,
            self.activation,
            self.level,
            self.direction,
            self.passes,
            self.dtype,
            self.numel,
            self.layout,
        )
        return "-".join(str(part) for part in parts if part) + f"-{self.threads}t"


def cpu_rows(quick: bool, compiled: bool) -> Iterator[Row]:
    peers = "compiled" if compiled else "torch"
    for dtype in ("float32", "bfloat16") if quick else ("float32", "bfloat16", "float16", "float64"):
        for name, activation in ACTIVATIONS.items():
            if activation.pointwise:
                for direction in ("forward", "backward"):
                    yield Row(name, "op", direction, dtype, IN_CACHE, threads=1)
                if activation.saved == "mask":
                    yield Row(name, "op+mask", "forward", dtype, IN_CACHE, threads=1)
    for name, activation in ACTIVATIONS.items():
        yield Row(name, "module", "both", "float32", 1 << 20, peers=peers)
        if not quick:
            yield Row(name, "module", "forward", "float32", 1 << 4, threads=1)  # all of it is the way to the kernel
            for numel in (1 << 10, 1 << 24):
                yield Row(name, "module", "both", "float32", numel, peers=peers if numel == 1 << 24 else "torch")
            yield Row(name, "module", "both", "bfloat16", 1 << 20)
            yield Row(name, "module", "both", "float32", 1 << 20, threads=1)
            if activation.kind == "softmax":
                for columns in (10, 24, 64, 1024):
                    for direction in ("forward", "both"):
                        yield Row(name, "module", direction, "float32", 1 << 20, f"columns={columns}")


def cuda_rows(quick: bool, large_bytes: int = LARGE_BYTES) -> Iterator[Row]:
    """What matters most first, since time may run out."""
    large = {dtype: large_bytes // getattr(torch, dtype).itemsize for dtype in ("bfloat16", "float32")}
    for name in ACTIVATIONS:
        for direction in ("forward", "backward"):
            yield Row(name, "module", direction, "bfloat16", large["bfloat16"], part="bandwidth")
    # What a call costs the host depends on its arguments and on what is saved, not on the formula.
    for name in _one_of_each(lambda row: (row.kind, row.saved, len(row.scalars), row.random)):
        for passes in ("forward", "both"):
            for numel in (1 << 10,) if quick else (1 << 10, 1 << 20):
                yield Row(name, "module", "host", "float32", numel, passes=passes, part="issuing")
    # torch.compile takes seconds for each, and other libraries have few activations.
    for name in dict.fromkeys((*_one_of_each(lambda row: row.family), *ELSEWHERE)):
        for direction in ("both", "forward"):
            yield Row(name, "module", direction, "bfloat16", large["bfloat16"], peers="all", part="peers")
    for name in _one_of_each(lambda row: row.kind):
        for numel in (*(1 << power for power in range(10, 32, 2)), (1 << 31) + (1 << 10)):
            if numel <= 16 * large["bfloat16"]:
                yield Row(name, "module", "both", "bfloat16", numel, part="sizes")
    if not quick:
        for name in ACTIVATIONS:
            yield Row(name, "module", "both", "bfloat16", large["bfloat16"], part="passes")
        for name in ACTIVATIONS:
            for direction in ("forward", "backward", "both"):
                yield Row(name, "module", direction, "float32", large["float32"], part="wide")
        for name in ACTIVATIONS:
            for layout in ("odd", "rows"):
                yield Row(name, "module", "both", "bfloat16", large["bfloat16"], layout, part="layouts")


ELSEWHERE = ("gelu", "silu", "swiglu", "geglu", "softmax")
"""What most libraries of activations have."""


def _one_of_each(key: Callable[[Activation], Any]) -> Iterable[str]:
    return {key(row): name for name, row in reversed(ACTIVATIONS.items())}.values()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    quick = option("bench_quick")
    device = option("bench_device")
    if device == "cpu":
        rows = cpu_rows(quick, option("bench_compile"))
    else:
        rows = cuda_rows(quick, LARGE_BYTES if device == "cuda" else REHEARSED_BYTES)
    metafunc.parametrize("row", list(rows), ids=str)


@pytest.fixture
def _threads(row: Row) -> Iterator[None]:
    torch.set_num_threads(row.threads)
    yield
    torch.set_num_threads(ALL_THREADS)


def meter(call: Call, row: Row, device: str) -> Meter:
    if device == "cuda" and row.direction != "host":
        return by_graph_replay(call) if row.numel <= REPLAYED else by_device_events(call)
    return by_host_clock(call, device, issuing_only=row.direction == "host")


@pytest.mark.usefixtures("_threads")
def test_speed(row: Row, add_row: Callable[[dict[str, Any]], None], request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    device = "cuda" if option("bench_device") == "cuda" else "cpu"
    dtype = getattr(torch, row.dtype)
    activation = ACTIVATIONS[row.activation]
    if device == "cuda" and 10 * row.numel * activation.divisor * dtype.itemsize > torch.cuda.mem_get_info()[0]:
        pytest.skip("too little memory on this GPU")
    try:
        case = Case(activation, dtype, row.numel, row.layout, device)
    except NotImplementedError as error:
        pytest.skip(f"torch has no kernel: {error}")
    direction = row.passes or row.direction
    with holes_filled(case.output) if device == "cpu" else nullcontext():
        if row.level.startswith("op"):
            fastact_call, moved = case.raw_op(row.direction, keep_mask=row.level == "op+mask")
            peers = dict([case.aten_op(row.direction)])
        else:
            fastact_call, moved = case.fastact_module(direction), case.module_bytes(direction)
            peers = dict(case.peers(direction, row.peers))
        calls = {"fastact": fastact_call, **peers}
        streams = {}
        if row.numel >= MEMORY_BOUND and row.direction != "host":
            streams = limits(case.output)
        timed = calls | {name: call for name, (call, _) in streams.items()}
        race = Race({name: meter(call, row, device) for name, call in timed.items()}, option("bench_seconds")).run()
        saved = {"fastact": case.saved(case.module).total, "torch": case.saved(case.stock).total}
        peaks = {}
        if device == "cuda" and direction == "both":
            peaks = {name: peak_bytes(call) for name, call in calls.items()}
    facts = {
        **asdict(row),
        "numel": case.output.numel(),
        "seconds": race.median("fastact"),
        "rounds": race.rounds,
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
    add_row(facts)
