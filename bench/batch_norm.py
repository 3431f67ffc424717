"""Batch norm in training on the CPU: torch's, and with fastact's statistics.

    python bench/batch_norm.py [--seconds S] [--out DIR]

Forward without a gradient, of contiguous float32 tensors of shapes that convolutional networks have, by turns in one
process; beside it, how far either output is from float64's. Writes batch_norm.json and batch_norm.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, by_host_clock, settle_heap
from report import ratio_cell, table
from torch import Tensor

import fastact

SHAPES = (
    *((8, 64, 4, 4), (4, 256, 4, 4), (4, 16, 16, 16), (4, 1024, 5, 5), (4, 64, 32, 32), (4, 512, 20, 20)),
    *((8, 64, 56, 56), (4, 96, 112, 112)),
)
WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "torch": nullcontext,
    "fastact": partial(fastact.enable, only="batch_norm"),
}
MEAN = 3.0
"""Of the input, whose deviation is 1."""


def call_of(x: Tensor) -> Callable[[], Tensor]:
    channels = x.shape[1]
    running = torch.zeros(channels, dtype=x.dtype), torch.ones(channels, dtype=x.dtype)
    learned = torch.full((channels,), 1.5, dtype=x.dtype), torch.full((channels,), 0.5, dtype=x.dtype)
    return lambda: F.batch_norm(x, *running, *learned, training=True)


def measure(shapes: Iterable[tuple[int, ...]], seconds: float) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + MEAN
        call, truth = call_of(x), call_of(x.double())()

        def within(way: str, call: Callable[[], Tensor] = call) -> Callable[..., Any]:
            with WAYS[way]():
                batch = by_host_clock(call)

            def run() -> float:
                with WAYS[way]():
                    return batch()

            return run

        errors = {}
        for way, active in WAYS.items():
            with active():
                errors[way] = (call() - truth).abs().max().item()
        race = Race({way: within(way) for way in WAYS}, seconds).run()
        yield {
            "shape": list(shape),
            "us": {way: race.median(way) * 1e6 for way in WAYS},
            "ratio": race.ratio("torch", "fastact"),
            "ratio_quartiles": race.ratio_quartiles("torch", "fastact"),
            "error": errors,
        }


def report(where: dict[str, Any], load: float, rows: Iterable[dict[str, Any]]) -> str:
    heads = ["shape", "MiB", "torch, us", "fastact, us", "ratio", "quartiles", "error, torch", "error, fastact"]
    lines = []
    for row in sorted(rows, key=lambda row: row["ratio"]):
        numel = torch.Size(row["shape"]).numel()
        low, high = row["ratio_quartiles"]
        lines.append(
            [
                " x ".join(map(str, row["shape"])),
                f"{4 * numel / 2**20:.2f}",
                *(f"{row['us'][way]:.1f}" for way in WAYS),
                ratio_cell(row["ratio"]),
                f"{low:.2f} to {high:.2f}",
                *(f"{row['error'][way]:.1e}" for way in WAYS),
            ]
        )
    return (
        "# Batch norm in training\n\n"
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}; load average before: "
        f"{load:.1f}. Forward of contiguous float32 tensors with mean {MEAN:g} and deviation 1, "
        "torch's and with fastact's statistics, in turns: medians, torch's time over fastact's (bold: fastact loses), "
        f"and the largest error of the output. The slowest ratio first.\n\n{table(heads, lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each shape; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    settle_heap()
    where = environment("cpu")
    load = os.getloadavg()[0]
    rows = list(measure(SHAPES, options.seconds))
    text = report(where, load, rows)
    result = {"environment": where, "load_average": load, "rows": rows}
    write_result(result_folder(where, options.out), "batch_norm", result, text)
    print(text)


if __name__ == "__main__":
    main()
