"""Times of torch's own functions: with `fastact.enable()`, and in a process that never called it.

    python bench/enabled.py [--seconds S] [--sizes N ...] [--out DIR] [NAME ...]

Each activation whose op `enable` replaces is called as a user calls it, `torch.relu(x)`, without a gradient, with one
(the node alone), and forward and backward, from 16 elements to 2^24. Two processes of one script take turns, the one
enabled and the other not: once replaced, an op costs a little more even when it is torch's again, which is measured
too (`disabled`, and `other dtype`, a call that is left alone). Writes enabled.json and enabled.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, by_host_clock, settle_heap
from report import table
from torch import Tensor

import fastact
from fastact.catalogue import ACTIVATIONS

SIZES = (16, 256, 4096, 1 << 16, 1 << 20, 1 << 24)
DIRECTIONS = ("forward", "with node", "both")
ROWS_OF = 256
"""The length of a softmax's rows and a gated unit's input along `dim`, where there are so many elements."""
ALONE = {"disabled": ("relu", torch.float32), "other dtype": ("relu", torch.int64)}
"""Calls that stay torch's: an op that was replaced once, and one that is, with a dtype that is left alone."""


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


def serve(connection: Connection, enabled: bool, threads: int) -> None:
    """A process that times what it is told to, when it is told to."""
    torch.set_num_threads(threads)
    settle_heap()
    if enabled:
        fastact.enable()
    meters: dict[Any, Any] = {}
    while (request := connection.recv()) is not None:
        name, numel, direction = request
        if request not in meters:
            meters.clear()
            if name in ALONE:
                activation, dtype = ALONE[name]
                if enabled and name == "disabled":
                    fastact.disable()
                meters[request] = by_host_clock(call_of(activation, numel, direction, dtype))
            else:
                meters[request] = by_host_clock(call_of(name, numel, direction))
            if enabled:
                fastact.enable()
        if enabled and name == "disabled":
            fastact.disable()
        connection.send(meters[request]())
        if enabled:
            fastact.enable()


class Process:
    """One of the two processes, seen from the one that asks."""

    def __init__(self, enabled: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, enabled, torch.get_num_threads()), daemon=True)
        self.process.start()

    def time(self, *request: Any) -> float:
        time.sleep(5e-3)  # until the other's idle threads have stopped spinning
        self.connection.send(request)
        return self.connection.recv()

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def measure(names: list[str], sizes: list[int], seconds: float) -> Iterator[dict[str, Any]]:
    processes = {"enabled": Process(True), "stock": Process(False)}
    for name in [*ALONE, *names]:
        for numel in sizes if name not in ALONE else sizes[:1]:
            for direction in DIRECTIONS if name not in ALONE else DIRECTIONS[:1]:
                meters = {
                    way: (lambda process=process: process.time(name, numel, direction))  # noqa: B023 (called here)
                    for way, process in processes.items()
                }
                race = Race(meters, seconds).run()
                yield {
                    "name": name,
                    "numel": numel,
                    "direction": direction,
                    "seconds": {way: race.median(way) for way in meters},
                    "ratio": race.ratio("stock", "enabled"),
                    "quartiles": race.ratio_quartiles("stock", "enabled"),
                }
    for process in processes.values():
        process.close()


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def report(where: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """In Markdown, the activations nearest to torch's time first."""
    sizes = sorted({row["numel"] for row in rows if row["name"] not in ALONE})
    lines = [
        "# torch's own functions, enabled beside stock",
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}. Time of a process that never "
        "called `fastact.enable()` over that of one that did, in turns; above 1 enabled is faster. Bold: it loses. "
        "Worst first. float32.",
    ]
    for name, what in (("disabled", "after `fastact.disable()`"), ("other dtype", "of int64, which is left alone")):
        for row in rows:
            if row["name"] == name:
                more = (row["seconds"]["enabled"] - row["seconds"]["stock"]) * 1e6
                lines.append(f"`torch.relu` of {row['numel']} elements {what}: {more:+.2f} us.")
    titles = {"forward": "Forward", "with node": "Forward that makes a node", "both": "Forward and backward"}
    for direction, title in titles.items():
        found: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["direction"] == direction and row["name"] not in ALONE:
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
    parser.add_argument("--seconds", type=float, default=0.4, help="for each row; default: %(default)s")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="elements; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no such activation: {', '.join(sorted(unknown))}")
    where = environment("cpu")
    rows = []
    for row in measure(options.names or names, options.sizes, options.seconds):
        print(f"{row['name']:12} {row['numel']:9} {row['direction']:10} {row['ratio']:6.2f}", flush=True)
        rows.append(row)
    folder = result_folder(where, options.out)
    write_result(folder, "enabled", {"environment": where, "rows": rows}, report(where, rows))
    print(folder / "enabled.md")


if __name__ == "__main__":
    main()
