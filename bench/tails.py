"""Times by where the inputs lie, and of networks that saturate: with fastact's activations and with torch's.

    python bench/tails.py [--dtype float32] [--seconds S] [--out DIR] [NAME ...]

Exact tails end in numbers so small that a processor may take a hundred times as long for them: a kernel that is fast on
normal numbers, and everything that reads its output, can be slow there. Timed are the raw ops of each activation that
has an exponential or a table in it, on inputs from each range in turn, and whole training steps of networks a part of
whose units lie far left. Writes tails.json and tails.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Case, Race, by_host_clock, settle_heap
from report import table
from torch import nn

import fastact
from fastact.catalogue import ACTIVATIONS
from fastact.tools.accuracy import is_exact

NUMEL = 1 << 16
NEAR = "values=-2,2"
LEFT = [(-8, -5), (-12, -10), (-14, -13), (-20, -15), (-60, -14), (-100, -60)]
RANGES = [
    NEAR,
    *(f"values={low},{high}" for low, high in LEFT),
    *(f"values={-high},{-low}" for low, high in LEFT),
    *(f"values={value},{value}" for value in ("nan", "inf", "-inf")),
]
MIXED = ["values=-10,0", "values=-30,30"]
"""Where some numbers lie beyond a table and some do not, which costs the table and the formula beyond it."""
NETWORKS = ("GELU", "SiLU", "Mish", "ELU", "Sigmoid", "Tanh")


def ops(name: str, dtype: torch.dtype, seconds: float) -> Iterator[dict[str, Any]]:
    """Each direction: medians by range, fastact's and torch's."""
    cases = {layout: Case(ACTIVATIONS[name], dtype, NUMEL, layout, "cpu") for layout in RANGES + MIXED}
    for direction in ("forward", "backward"):
        meters = {}
        for layout, case in cases.items():
            meters[f"fastact {layout}"] = by_host_clock(case.raw_op(direction, keep_mask=False)[0])
            meters[f"torch {layout}"] = by_host_clock(case.aten_op(direction).call)
        race = Race(meters, seconds).run()
        times = {layout: (race.median(f"fastact {layout}"), race.median(f"torch {layout}")) for layout in cases}
        yield {"activation": name, "direction": direction, "seconds": times}


def saturated(module: type[nn.Module]) -> nn.Module:
    """Three hidden layers, half of whose units get inputs around -13, where GELU's exact tail is at its end."""
    layers: list[nn.Module] = []
    for _ in range(3):
        linear = nn.Linear(512, 512)
        with torch.no_grad():
            linear.bias[::2] -= 13
        layers += [linear, module()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def steps(name: str, seconds: float) -> dict[str, Any]:
    """Seconds of a training step, fastact's and torch's."""
    x, target = torch.randn(256, 512), torch.randint(10, (256,))
    meters = {}
    for library in (fastact, nn):
        torch.manual_seed(0)
        network = saturated(getattr(library, name))
        optimiser = torch.optim.SGD(network.parameters(), 1e-3)

        def step(network: nn.Module = network, optimiser: torch.optim.Optimizer = optimiser) -> None:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), target).backward()
            optimiser.step()

        meters[library.__name__] = by_host_clock(step)
    race = Race(meters, seconds).run()
    return {"network": name, "fastact": race.median("fastact"), "torch": race.median("torch.nn")}


def report(where: dict[str, Any], dtype: str, rows: list[dict[str, Any]], networks: list[dict[str, Any]]) -> str:
    """In Markdown, the ops nearest to torch's time first."""

    def relative(times: dict[str, tuple[float, float]], layouts: list[str]) -> tuple[float, float]:
        """The slowest range over that near zero, and torch's time over fastact's at its least."""
        ours = max(times[layout][0] for layout in layouts) / times[NEAR][0]
        return ours, min(times[layout][1] / times[layout][0] for layout in layouts)

    cells = []
    for row in sorted(rows, key=lambda row: relative(row["seconds"], RANGES)[1]):
        times = row["seconds"]
        near = f"{times[NEAR][0] * 1e6:.1f}"
        figures = [f"{figure:.2f}" for layouts in (RANGES, MIXED) for figure in relative(times, layouts)]
        cells.append([row["activation"], row["direction"], near, *figures])
    ranges = ", ".join(layout.removeprefix("values=").replace(",", " to ") for layout in RANGES)
    mixed = ", ".join(layout.removeprefix("values=").replace(",", " to ") for layout in MIXED)
    heading = ["activation", "direction", "µs near 0", "slowest / near 0", "torch / fastact, least"]
    return "\n".join(
        [
            f"# Times by where inputs lie: {name_of(where)}",
            "",
            f"Made by `python bench/tails.py`, {where['date']}, commit {where['commit']}. Raw ops, {dtype}, {NUMEL:,} "
            f"elements on one thread, uniform inputs from each range: {ranges}. The last two columns: the same of "
            f"ranges of which a part lies beyond a table: {mixed}.",
            "",
            table([*heading, "mixed: slowest / near 0", "mixed: torch / fastact, least"], cells, numbers_from=2),
            "",
            "A training step of a network of three hidden layers of 512 units, half of which get inputs around -13:",
            "",
            table(
                ["activation", "ms, fastact", "ms, torch", "torch / fastact"],
                [
                    [
                        each["network"],
                        *(f"{each[library] * 1e3:.2f}" for library in ("fastact", "torch")),
                        f"{each['torch'] / each['fastact']:.2f}",
                    ]
                    for each in networks
                ],
                numbers_from=1,
            ),
            "",
        ]
    )


def main() -> None:
    choices = [name for name, row in ACTIVATIONS.items() if row.pointwise and not is_exact(row)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations, by their names in the catalogue")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each activation and direction, at least")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    options = parser.parse_args()
    for name in options.names:
        if name not in choices:
            parser.error(f"no activation with tails is called {name}")
    settle_heap()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for name in options.names or choices:
        rows += ops(name, getattr(torch, options.dtype), options.seconds)
        print(name, flush=True)
    torch.set_num_threads(threads)
    networks = [steps(name, options.seconds) for name in NETWORKS]
    where = environment("cpu")
    text = report(where, options.dtype, rows, networks)
    result = {"environment": where, "dtype": options.dtype, "rows": rows, "networks": networks}
    write_result(result_folder(where, options.out), "tails", result, text)
    print(text)


if __name__ == "__main__":
    main()
