"""What fastact.Monitor costs a training step on the CPU.

    python bench/monitor.py [--seconds S] [--out DIR]

Steps of SGD of float32 networks with ReLU, unwatched and watched: under a monitor that looks at every call or at each
twentieth, by hooks as tutorials write them, and under nn-htop's monitor where that is installed. Each way has modules
of its own around the same weights, and they take turns, step by step, in one process. Writes monitor.json and
monitor.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, balanced_orders, settle_heap
from report import table
from torch import Tensor, nn

import fastact

CLASSES = 10
STEPS = 20
"""In one round: so that each has as many calls that are looked at."""


class Steps(Race):
    """A round has STEPS turns of one step of each way: what else the machine does for some time falls on all alike."""

    turns = 0

    def run_round(self) -> dict[str, float]:
        names = list(self.meters)
        orders = balanced_orders(len(names))
        totals = dict.fromkeys(names, 0.0)
        for _ in range(STEPS):
            for place in orders[self.turns % len(orders)]:
                totals[names[place]] += self.meters[names[place]]()
            self.turns += 1
        for name, total in totals.items():
            self.times[name].append(total / STEPS)
        return totals

    def ratio(self, name: str, to: str) -> float:
        """The median of the ratios within rounds."""
        return statistics.median(a / b for a, b in zip(self.times[name], self.times[to], strict=True))


@contextmanager
def tutorial_hooks(model: nn.Module) -> Iterator[dict[str, tuple[float, ...]]]:
    """Mean, spread and zeros of outputs, and the gradient's norm, read at each call."""
    seen: dict[str, tuple[float, ...]] = {}

    def forward(name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        output = output.detach()
        seen[name] = (output.mean().item(), output.std().item(), (output == 0).float().mean().item())

    def backward(name: str, module: nn.Module, grad_input: tuple, grad_output: tuple) -> None:
        seen[f"{name} gradient"] = (grad_output[0].norm().item(),)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            handles.append(module.register_forward_hook(partial(forward, name)))
            handles.append(module.register_full_backward_hook(partial(backward, name)))
    yield seen
    for handle in handles:
        handle.remove()


@contextmanager
def _nn_htop(model: nn.Module) -> Iterator[Any]:
    from nn_htop import Monitor

    with Monitor(model) as seen, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)  # the first layer's
        yield seen


WAYS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "unwatched": lambda model: nullcontext(),
    "again": lambda model: nullcontext(),  # how far two that are the same differ
    "every=1": fastact.Monitor,
    "every=20": partial(fastact.Monitor, every=STEPS),
    "hooks": tutorial_hooks,
}
if find_spec("nn_htop"):
    WAYS[f"nn-htop {version('nn-htop')}"] = _nn_htop


def mlp(hidden: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 64, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "5 x 512": (partial(mlp, 5, 512), (256, 512)),
    "5 x 1024": (partial(mlp, 5, 1024), (64, 1024)),
    "5 x 128": (partial(mlp, 5, 128), (64, 128)),
    "2 convolutions, 1 x 128": (convolutions, (64, 3, 32, 32)),
}
"""Hidden layers, and the shape of a batch."""


def step_of(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], float]:
    """A function that trains the model for a step, and returns the seconds."""
    inputs, classes = torch.randn(shape), torch.randint(CLASSES, shape[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> float:
        start = perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
        return perf_counter() - start

    return step


def measure(names: Iterable[str], seconds: float) -> Iterator[dict[str, Any]]:
    for name in names:
        make, shape = NETWORKS[name]
        torch.manual_seed(0)
        model = make()
        with ExitStack() as open_:
            steps = {}
            for way, watch in WAYS.items():
                # The weights are the same tensors: where they lie in memory changes a step by some percent.
                of_its_own = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
                open_.enter_context(watch(of_its_own))
                steps[way] = step_of(of_its_own, shape)
            race = Steps(steps, seconds).run()
        yield {
            "network": name,
            "batch": shape,
            "ms": {way: race.median(way) * 1e3 for way in WAYS},
            "ratio": {way: race.ratio(way, "unwatched") for way in list(WAYS)[1:]},
            "ratio_quartiles": {way: race.ratio_quartiles(way, "unwatched") for way in list(WAYS)[1:]},
        }


def report(where: dict[str, Any], load: float, rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    watched = list(rows[0]["ratio"])
    heads = ["hidden layers", "batch", "unwatched, ms"]
    for way in watched:
        heads += [f"{way}, overhead", "quartiles"]
    lines = []
    for row in rows:
        cells = [row["network"], " x ".join(map(str, row["batch"])), f"{row['ms']['unwatched']:.2f}"]
        for way in watched:
            low, high = row["ratio_quartiles"][way]
            cells += [f"{row['ratio'][way] - 1:+.1%}", f"{low - 1:+.1%} to {high - 1:+.1%}"]
        lines.append(cells)
    return (
        "# What a monitor costs\n\n"
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}; load average before: "
        f"{load:.1f}. Training steps in float32 with ReLU, unwatched and watched, in turns, {STEPS} to a round: "
        "medians, and what watching adds within a round. `again` is an unwatched one too. `every=1` and `every=20` are "
        "`fastact.Monitor`'s; hooks are a tutorial's: mean, spread and zeros of outputs and the gradient's norm, in "
        "torch's ops, read at each call.\n\n"
        f"{table(heads, lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settle_heap()
    where = environment("cpu")
    load = os.getloadavg()[0]
    rows = list(measure(NETWORKS, options.seconds))
    text = report(where, load, rows)
    result = {"environment": where, "load_average": load, "rows": rows}
    write_result(result_folder(where, options.out), "monitor", result, text)
    print(text)


if __name__ == "__main__":
    main()
