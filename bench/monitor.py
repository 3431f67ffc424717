"""What fastact.Monitor costs a training step on the CPU.

    python bench/monitor.py [--seconds S] [--out DIR]

Steps of SGD of a float32 MLP with hidden layers of Linear and ReLU, unwatched and under a monitor that looks at every
call or at each twentieth, by turns in one process. Writes monitor.json and monitor.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, by_host_clock, settle_heap
from report import table
from torch import nn

import fastact


class Size(NamedTuple):
    hidden: int
    """How many layers."""
    width: int
    batch: int


SIZES = (Size(5, 512, 256), Size(5, 1024, 64), Size(5, 128, 64))
CLASSES = 10
STEPS = 20
"""In one timing: so that each has as many calls that are looked at."""
WAYS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "unwatched": lambda model: nullcontext(),
    "every=1": fastact.Monitor,
    "every=20": partial(fastact.Monitor, every=STEPS),
}


def network(size: Size) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(size.hidden):
        layers += [nn.Linear(size.width, size.width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(size.width, CLASSES))


def steps_of(size: Size) -> Callable[[str], Any]:
    """A function that trains for some steps, in one of the ways."""
    torch.manual_seed(0)
    model = network(size)
    inputs, classes = torch.randn(size.batch, size.width), torch.randint(CLASSES, (size.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run(way: str) -> Any:
        with WAYS[way](model) as monitor:
            for _ in range(STEPS):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), classes).backward()
                optimizer.step()
        return monitor

    return run


def measure(sizes: Iterable[Size], seconds: float) -> Iterator[dict[str, Any]]:
    for size in sizes:
        run = steps_of(size)
        race = Race({way: by_host_clock(partial(run, way)) for way in WAYS}, seconds).run()
        yield {
            **size._asdict(),
            "ms": {way: race.median(way) / STEPS * 1e3 for way in WAYS},
            "ratio": {way: race.ratio(way, "unwatched") for way in list(WAYS)[1:]},
            "ratio_quartiles": {way: race.ratio_quartiles(way, "unwatched") for way in list(WAYS)[1:]},
        }


def report(where: dict[str, Any], load: float, rows: Iterable[dict[str, Any]]) -> str:
    watched = list(WAYS)[1:]
    heads = ["hidden layers", "width", "batch", "unwatched, ms"]
    for way in watched:
        heads += [f"{way}, overhead", "quartiles"]
    lines = []
    for row in rows:
        cells = [str(row["hidden"]), str(row["width"]), str(row["batch"]), f"{row['ms']['unwatched']:.2f}"]
        for way in watched:
            low, high = row["ratio_quartiles"][way]
            cells += [f"{row['ratio'][way] - 1:+.1%}", f"{low - 1:+.1%} to {high - 1:+.1%}"]
        lines.append(cells)
    return (
        "# What a monitor costs\n\n"
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}; load average before: "
        f"{load:.1f}. Training steps of an MLP in float32 with ReLU, {STEPS} to a timing, unwatched and under "
        f"`fastact.Monitor`, in turns: medians, and what the monitor adds.\n\n{table(heads, lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    settle_heap()
    where = environment("cpu")
    load = os.getloadavg()[0]
    rows = list(measure(SIZES, options.seconds))
    text = report(where, load, rows)
    result = {"environment": where, "load_average": load, "rows": rows}
    write_result(result_folder(where, options.out), "monitor", result, text)
    print(text)


if __name__ == "__main__":
    main()
