"""What an L1 penalty on the outputs of ReLU costs on the CPU: fastact.L1 beside loss + weight * y.abs().sum().

    python bench/l1.py [--seconds S] [--out DIR]

Training steps of a float32 MLP with hidden layers of Linear and ReLU, and forward and backward of ReLU alone: without a
penalty, with one in torch's ops behind torch's or fastact's ReLU, and with fastact.L1, by turns in one process. Kept
are the bytes that forward leaves allocated for backward, as bench/memory.py counts them. Writes l1.json and l1.md to
DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, by_host_clock, settle_heap
from memory import memory
from report import table
from torch import Tensor, nn
from zoo import Network

import fastact

WEIGHT = 1e-6
CLASSES = 10


class Composed(nn.Module):
    """A module with a penalty of torch's ops."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.penalties: list[Tensor] = []

    def forward(self, input: Tensor) -> Tensor:
        output = self.module(input)
        self.penalties.append(WEIGHT * output.abs().sum())
        return output


def composed_penalty(model: nn.Module) -> Tensor:
    return sum(module.penalties.pop() for module in model.modules() if isinstance(module, Composed))


class Way(NamedTuple):
    act: Callable[[], nn.Module]
    penalty: Callable[[nn.Module], Tensor | float]


OURS, NONE = "fastact.L1", "no penalty"
WAYS = {
    NONE: Way(fastact.ReLU, lambda model: 0.0),
    "torch.nn.ReLU": Way(lambda: Composed(nn.ReLU()), composed_penalty),
    "fastact.ReLU": Way(lambda: Composed(fastact.ReLU()), composed_penalty),
    OURS: Way(lambda: fastact.L1(fastact.ReLU(), WEIGHT), fastact.l1_penalty),
}


class Mlp(NamedTuple):
    hidden: int
    """How many layers."""
    width: int
    batch: int

    def __str__(self) -> str:
        return f"MLP, {self.hidden} x {self.width}, batch {self.batch}"

    def network(self, way: Way) -> Network:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(self.hidden):
            layers += [nn.Linear(self.width, self.width), way.act()]
        model = nn.Sequential(*layers, nn.Linear(self.width, CLASSES))
        classes = torch.randint(CLASSES, (self.batch,))

        def loss(output: Tensor) -> Tensor:
            return nn.functional.cross_entropy(output, classes) + way.penalty(model)

        return Network(model, {"input": torch.randn(self.batch, self.width)}, loss)


class Alone(NamedTuple):
    """One activation."""

    numel: int

    def __str__(self) -> str:
        return f"ReLU, {self.numel:,} elements"

    def network(self, way: Way) -> Network:
        torch.manual_seed(0)
        model, grad = way.act(), torch.randn(self.numel)
        input = torch.randn(self.numel, requires_grad=True)

        def loss(output: Tensor) -> Tensor:
            return output @ grad + way.penalty(model)

        return Network(model, {"input": input}, loss)


WORKLOADS: tuple[Mlp | Alone, ...] = (Mlp(3, 1024, 256), Alone(2**14), Alone(2**20), Alone(2**24))


def step(network: Network) -> None:
    network.module.zero_grad()
    for value in network.inputs.values():
        value.grad = None
    network.loss(network.output()).backward()


def measure(workloads: Iterable[Mlp | Alone], seconds: float) -> Iterator[dict[str, Any]]:
    for workload in workloads:
        networks = {name: workload.network(way) for name, way in WAYS.items()}
        race = Race({name: by_host_clock(partial(step, network)) for name, network in networks.items()}, seconds).run()
        yield {
            "workload": str(workload),
            "us": {name: race.median(name) * 1e6 for name in WAYS},
            "ratio": {name: race.ratio(name, OURS) for name in WAYS},
            "ratio_quartiles": {name: race.ratio_quartiles(name, OURS) for name in WAYS if name != OURS},
            "kept": {name: memory(network)[0] for name, network in networks.items()},
        }


def report(where: dict[str, Any], load: float, rows: list[dict[str, Any]]) -> str:
    peers = [name for name in WAYS if name != OURS]
    times = []
    for row in rows:
        cells = [row["workload"], f"{row['us'][OURS]:,.0f}"]
        for name in peers:
            low, high = row["ratio_quartiles"][name]
            loses = name != NONE and row["ratio"][name] < 1
            cells += [f"{'**' * loses}{row['ratio'][name]:.2f}{'**' * loses}", f"{low:.2f} to {high:.2f}"]
        times.append(cells)
    heads = ["", f"{OURS}, us", *(head for name in peers for head in (name, "quartiles"))]
    kept = [[row["workload"], *(f"{row['kept'][name]:,}" for name in WAYS)] for row in rows]
    return (
        "# What an L1 penalty on ReLU costs\n\n"
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}; load average before: "
        f"{load:.1f}. Forward and backward in float32, in turns: medians of {OURS}, and the others' times over it; "
        f"bold: {OURS} loses.\n\n{table(heads, times)}\n\n"
        f"Bytes that forward leaves allocated for backward:\n\n{table(['', *WAYS], kept)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each workload; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    settle_heap()
    where = environment("cpu")
    load = os.getloadavg()[0]
    rows = list(measure(WORKLOADS, options.seconds))
    text = report(where, load, rows)
    write_result(
        result_folder(where, options.out), "l1", {"environment": where, "load_average": load, "rows": rows}, text
    )
    print(text)


if __name__ == "__main__":
    main()
