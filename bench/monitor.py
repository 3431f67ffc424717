"""What fastact.Monitor costs a training step on the CPU.

    python bench/monitor.py [--seconds S] [--out DIR]

Steps of SGD of float32 networks with ReLU, unwatched and watched: under a monitor that looks at every call or at each
twentieth, by hooks as tutorials write them, and under nn-htop's monitor where that is installed. Each way has a model
of its own, and they take turns in one process. Writes monitor.json and monitor.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
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

import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import Race, settle_heap
from report import table
from torch import Tensor, nn

import fastact

CLASSES = 10
STEPS = 20
"""In one timing: so that each has as many calls that are looked at."""


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


def steps_of(make: Callable[[], nn.Module], shape: tuple[int, ...], way: str, open_: ExitStack) -> Callable[[], float]:
    """A function that trains a model of its own for some steps, watched in one of the ways, and returns the seconds
    that each took. A step before them warms the caches."""
    torch.manual_seed(0)
    model = make()
    inputs, classes = torch.randn(shape), torch.randint(CLASSES, shape[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    open_.enter_context(WAYS[way](model))

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), classes).backward()
            optimizer.step()

    def measure() -> float:
        train(1)
        start = perf_counter()
        train(STEPS)
        return (perf_counter() - start) / STEPS

    return measure


def measure(names: Iterable[str], seconds: float) -> Iterator[dict[str, Any]]:
    for name in names:
        make, shape = NETWORKS[name]
        with ExitStack() as open_:
            race = Race({way: steps_of(make, shape, way, open_) for way in WAYS}, seconds).run()
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
        f"{load:.1f}. Training steps in float32 with ReLU, {STEPS} to a timing, unwatched and watched, in turns: "
        "medians, and what watching adds. `every=1` and `every=20` are `fastact.Monitor`'s; hooks are a tutorial's: "
        "mean, spread and zeros of outputs and the gradient's norm, in torch's ops, read at each call.\n\n"
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
