"""Times of torch's own functions: with `fastact.enable()`, and in a process that never called it.

    python bench/enabled.py [--seconds S] [--pairs N] [--sizes N ...] [--out DIR] [NAME ...]

Each activation whose op `enable` replaces is called as a user calls it, `torch.relu(x)`, without a gradient, with one
(the node alone), and forward and backward, from 16 elements to 2^24. Small calls are timed in two processes that take
turns, the one enabled and the other not: once replaced, an op costs a little more even when it is torch's again. That
is measured too, before and after in one process, since two differ by more. With tensors of megabytes two processes of
the same code differ by up to a factor of two, by what of their memory falls together in the last cache: these are timed
in one, which enables and disables. There too the places of outputs may cost a quarter, so all is done again with other
processes, and the median counts. Writes enabled.json and enabled.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, by_host_clock, holes_filled, settle_heap
from report import table
from torch import Tensor

import fastact
from fastact.catalogue import ACTIVATIONS

SIZES = (16, 256, 4096, 1 << 16, 1 << 20, 1 << 24)
IN_ONE_PROCESS = 1 << 16
"""Elements from which on: torch's calls take 10 us or more, and what `disable` leaves behind is 0.2."""
DIRECTIONS = ("forward", "with node", "both")
ROWS_OF = 256
"""The length of a softmax's rows and a gated unit's input along `dim`, where there are so many elements."""


def function_of(name: str) -> Callable[[Tensor], Tensor]:
    """torch's function, with the catalogue's first sample of arguments."""
    row = ACTIVATIONS[name]
    weights = [torch.full((1,), low, requires_grad=True) for low, _ in row.weights.values()]
    keywords = {**row.arguments(), **row.keywords}
    return lambda input: row.reference(input, *weights, **keywords)


def call_of(name: str, numel: int, direction: str, dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
    function = function_of(name)
    input = torch.randn(-(-numel // ROWS_OF), min(ROWS_OF, numel)).to(dtype)
    if direction == "forward":
        return lambda: function(input)
    input.requires_grad_()
    if direction == "with node":
        return lambda: function(input)
    grad = torch.ones_like(function(input))
    return lambda: torch.autograd.grad(function(input), input, grad)


def serve(connection: Connection, threads: int) -> None:
    """A process that times what it is told to, when it is told to."""
    torch.set_num_threads(threads)
    settle_heap()
    meters: dict[Any, Any] = {}
    holes = ExitStack()
    while (message := connection.recv()) is not None:
        enabled, request = message
        if enabled != fastact.is_enabled():
            (fastact.enable if enabled else fastact.disable)()
        if request not in meters:
            meters.clear()
            holes.close()
            holes.enter_context(holes_filled(torch.empty(request[1])))
            meters[request] = by_host_clock(call_of(*request))
        connection.send(meters[request]())


def left_alone(rounds: int = 50) -> dict[str, float]:
    """How many seconds more a call of torch's relu takes that stays torch's. To be called before the first `enable`."""
    calls = {
        "disabled": by_host_clock(call_of("relu", 16, "forward")),
        "other dtype": by_host_clock(call_of("relu", 16, "forward", torch.int64)),
    }

    def medians() -> dict[str, float]:
        times = [{name: meter() for name, meter in calls.items()} for _ in range(rounds)]
        return {name: statistics.median(each[name] for each in times) for name in calls}

    before = medians()
    with fastact.enable():
        enabled = medians()
    disabled = medians()
    after = {"disabled": disabled["disabled"], "other dtype": enabled["other dtype"]}
    return {name: after[name] - before[name] for name in calls}


class Process:
    """One of the two processes, seen from the one that asks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, torch.get_num_threads()), daemon=True)
        self.process.start()

    def time(self, enabled: bool, *request: Any) -> float:
        time.sleep(5e-3)  # until the other's idle threads have stopped spinning
        self.connection.send((enabled, request))
        return self.connection.recv()

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def race(names: list[str], sizes: list[int], seconds: float) -> dict[tuple[str, int, str], dict[str, float]]:
    """The median times in a new pair of processes."""
    first, second = Process(), Process()
    medians = {}
    for request in itertools.product(names, sizes, DIRECTIONS):
        stock = first if request[1] >= IN_ONE_PROCESS else second
        run = Race(
            {"enabled": partial(first.time, True, *request), "stock": partial(stock.time, False, *request)}, seconds
        )
        run.run()
        medians[request] = {way: run.median(way) for way in run.meters}
        print(f"{request[0]:12} {request[1]:9} {request[2]:10} {run.ratio('stock', 'enabled'):6.2f}", flush=True)
    for process in (first, second):
        process.close()
    return medians


def measure(names: list[str], sizes: list[int], seconds: float, pairs: int) -> list[dict[str, Any]]:
    races = [race(names, sizes, seconds / pairs) for _ in range(pairs)]
    rows = []
    for name, numel, direction in races[0]:
        medians = [each[name, numel, direction] for each in races]
        ratios = [each["stock"] / each["enabled"] for each in medians]
        rows.append(
            {
                "name": name,
                "numel": numel,
                "direction": direction,
                "seconds": {way: statistics.median(each[way] for each in medians) for way in medians[0]},
                "ratio": statistics.median(ratios),
                "ratios": sorted(ratios),
            }
        )
    return rows


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def report(where: dict[str, Any], alone: dict[str, float], rows: list[dict[str, Any]]) -> str:
    """In Markdown, the activations nearest to torch's time first."""
    sizes = sorted({row["numel"] for row in rows})
    lines = [
        "# torch's own functions, enabled beside stock",
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}. Time without "
        "`fastact.enable()`, in a process that never called it (from 2^16 elements on: that has called "
        "`fastact.disable()`), over that with it, in turns; the median of "
        f"{len(rows[0]['ratios'])} pairs of processes. Above 1 enabled is faster. Bold: it loses. Worst first. "
        "float32.",
        f"A call that stays torch's, `torch.relu` of 16 elements: {alone['disabled'] * 1e6:+.2f} us after "
        f"`fastact.disable()`, {alone['other dtype'] * 1e6:+.2f} us of int64 while enabled, beside the same process "
        "before.",
    ]
    titles = {"forward": "Forward", "with node": "Forward that makes a node", "both": "Forward and backward"}
    for direction, title in titles.items():
        found: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["direction"] == direction:
                found.setdefault(row["name"], {})[row["numel"]] = row["ratio"]
        means = [f"{geometric_mean([each[numel] for each in found.values()]):.2f}" for numel in sizes]
        body = [["*geometric mean*", *means]]
        for name, ratios in sorted(found.items(), key=lambda item: min(item[1].values())):
            body.append(
                [name, *(f"**{x:.2f}**" if x < 0.995 else f"{x:.2f}" for x in (ratios[numel] for numel in sizes))]
            )
        heads = ["activation", *(f"2^{numel.bit_length() - 1}" for numel in sizes)]
        lines += [f"## {title}", table(heads, body)]
    return "\n\n".join(lines) + "\n"


def main() -> None:
    names = [row.activation for row in fastact.overrides().rows]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each row, all pairs; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=3, help="of processes; default: %(default)s")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="elements; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no such activation: {', '.join(sorted(unknown))}")
    where = environment("cpu")
    alone = left_alone()
    rows = measure(options.names or names, options.sizes, options.seconds, options.pairs)
    folder = result_folder(where, options.out)
    write_result(
        folder, "enabled", {"environment": where, "left_alone": alone, "rows": rows}, report(where, alone, rows)
    )
    print(folder / "enabled.md")


if __name__ == "__main__":
    main()
