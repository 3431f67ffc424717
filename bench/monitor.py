"""What fastact.Monitor costs a training step on the CPU.

    python bench/monitor.py [--seconds S] [--out DIR]

Steps of SGD of float32 networks with ReLU, unwatched and watched: under a monitor that looks at every call or at each
twentieth, with hooks that do nothing, with hooks as tutorials write them, and under nn-htop's monitor where that is
installed. Each way has modules of its own around the same weights, and they take turns, step by step, in one process.
Writes monitor.json and monitor.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, balanced_orders, settle_heap
from report import table
from torch import Tensor, nn

import fastact

CLASSES = 10
STEPS = 20
"""In one round: so that each has as many calls that are looked at."""
RESAMPLES = 400


class Steps(Race):
    """A round has STEPS turns of one step of each way: what else the machine does for some time falls on all alike."""

    def _clear(self) -> None:
        super()._clear()
        self.steps: dict[str, list[list[float]]] = {name: [] for name in self.meters}

    def run_round(self) -> dict[str, float]:
        names = list(self.meters)
        orders = balanced_orders(len(names))
        for steps in self.steps.values():
            steps.append([])
        for turn in range(STEPS):
            for place in orders[(len(self.steps[names[0]]) * STEPS + turn) % len(orders)]:
                self.steps[names[place]][-1].append(self.meters[names[place]]())
        last = {name: sum(steps[-1]) / STEPS for name, steps in self.steps.items()}
        for name, mean in last.items():
            self.times[name].append(mean)
        return last

    def overhead(self, name: str, to: str) -> tuple[float, list[float]]:
        """How much longer a round takes, and the range in which 90% of resamples of the rounds lie (Efron 1979). What a
        neighbour on the machine takes from single steps is in no sum of a round: each of a round's steps adds the
        median of its differences over all rounds."""
        mine, others = (np.array(self.steps[each]) for each in (name, to))
        of_step = np.median(others, axis=0).sum()

        def of(rounds: np.ndarray) -> float:
            return float(np.median((mine - others)[rounds], axis=0).sum() / of_step)

        every, random = np.arange(len(mine)), np.random.default_rng(0)
        resampled = [of(random.choice(every, len(every))) for _ in range(RESAMPLES)]
        return of(every), np.quantile(resampled, [0.05, 0.95]).tolist()


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
def empty_hooks(model: nn.Module) -> Iterator[None]:
    """As many hooks as `fastact.Monitor` has, which do nothing: what torch takes to call them."""

    def hook(*_: object) -> None:
        return None

    handles = [model.register_forward_pre_hook(hook), model.register_forward_hook(hook, always_call=True)]
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(module.register_forward_hook(hook, with_kwargs=True, always_call=True))
    yield
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
    "empty hooks": empty_hooks,
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
        overheads = {way: race.overhead(way, "unwatched") for way in list(WAYS)[1:]}
        yield {
            "network": name,
            "batch": shape,
            "ms": {way: race.median(way) * 1e3 for way in WAYS},
            "overhead": {way: overhead for way, (overhead, _) in overheads.items()},
            "overhead_range": {way: around for way, (_, around) in overheads.items()},
        }


def report(where: dict[str, Any], load: float, rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    watched = list(rows[0]["overhead"])
    heads = ["hidden layers", "batch", "unwatched, ms"]
    for way in watched:
        heads += [f"{way}, overhead", "90% of resamples"]
    lines = []
    for row in rows:
        cells = [row["network"], " x ".join(map(str, row["batch"])), f"{row['ms']['unwatched']:.2f}"]
        for way in watched:
            low, high = row["overhead_range"][way]
            cells += [f"{row['overhead'][way]:+.1%}", f"{low:+.1%} to {high:+.1%}"]
        lines.append(cells)
    return (
        "# What a monitor costs\n\n"
        f"{name_of(where)}; torch {where['versions']['torch']}, {where['date'][:10]}; load average before: "
        f"{load:.1f}. Training steps in float32 with ReLU, unwatched and watched, in turns, {STEPS} to a round: "
        f"the median, and what watching adds: the sum of the {STEPS} steps' median differences, with its 90% bootstrap "
        f"interval ({RESAMPLES} resamples of the rounds). `again` is an unwatched one too. `every=1` and "
        "`every=20` are `fastact.Monitor`'s; empty hooks are as many as it has, which do nothing: what torch takes to "
        "call them; hooks are a tutorial's: mean, spread and zeros of outputs and the gradient's norm, in torch's ops, "
        "read at each call.\n\n"
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
