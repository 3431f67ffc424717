"""How many activations can an L1 penalty switch off before accuracy suffers, and does twice the width help?

Networks of two hidden layers of ReLU, of WIDTH units or twice as many, He initialisation, Adam. fastact.L1 adds the sum
of the activations' absolute values over a batch to the loss, times a weight (Glorot, Bordes & Bengio 2011). Sparsity is
the share of activations that are 0 over the test images, as fastact.Monitor sees it, the mean of both layers; a unit is
dead if it is 0 for every one of the training images.

    python examples/sparsity_l1.py [--data mnist --root DIR] [--seeds N] [--epochs N]
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import torch
import torch.nn.functional as F
from experiment import (
    STYLES,
    Result,
    Row,
    cell,
    count,
    curve,
    finish,
    label,
    legend,
    loaded,
    panels,
    parser,
    runs,
    values,
)
from matplotlib.figure import Figure
from torch import Tensor, nn
from train_digits import Data, batches

import fastact

WIDTH = 128
WIDTHS = {WIDTH: STYLES["ReLU"], 2 * WIDTH: STYLES["Sigmoid"]}
WEIGHTS = (0.0, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def network(inputs: int, width: int, weight: float) -> nn.Sequential:
    first, second, last = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, 10)
    for layer in (first, second, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    hidden = (fastact.L1(fastact.ReLU(), weight) for _ in range(2))
    return nn.Sequential(nn.Flatten(), first, next(hidden), second, next(hidden), last)


@torch.no_grad()
def watched(net: nn.Module, images: Tensor, column: str) -> float:
    """A column of the monitor's report over these images, the mean of the layers."""
    with fastact.Monitor(net) as monitor:
        for some in images.split(1000):
            net(some)
    return fmean(getattr(row, column) for row in monitor.report().rows)


def trained(width: int, weight: float, data: Data, epochs: int, seed: int) -> Row:
    net = network(data.train_images[0].numel(), width, weight)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for images, labels in batches(data, 128, epochs, seed):
        optimizer.zero_grad()
        (F.cross_entropy(net(images), labels) + fastact.l1_penalty(net)).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        right = net(data.test_images).argmax(1) == data.test_labels
    return {
        "accuracy": right.float().mean().item(),
        "sparsity": watched(net, data.test_images, "sparsity"),
        "dead": watched(net, data.train_images, "dead"),
    }


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    lines = []
    for weight in WEIGHTS:
        runs = [{"weight": weight, "width": width} for width in WIDTHS]
        columns = ("accuracy", "sparsity", "dead")
        found = [cell(values(result["rows"], column, **run), ".1%") for column in columns for run in runs]
        lines.append([f"{weight:g}", *found])
    return ["weight", *(f"{column}, {width} units" for column in ("right", "zero", "dead") for width in WIDTHS)], lines


def draw(result: Result) -> Figure:
    figure, (wrong, zero, dead) = panels("AABC", "An L1 penalty on the activations", result, height=3.3)
    for width, style in WIDTHS.items():
        found = {
            column: [values(result["rows"], column, width=width, weight=weight) for weight in WEIGHTS]
            for column in ("accuracy", "sparsity", "dead")
        }
        wrongs = [[1 - each for each in seeds] for seeds in found["accuracy"]]
        curve(wrong, [median(seeds) for seeds in found["sparsity"]], wrongs, label=f"{width} units", **style)
        curve(zero, WEIGHTS, found["sparsity"], **style)
        curve(dead, WEIGHTS, found["dead"], **style)
    label(wrong, "Test error over sparsity", "activations that are 0", "test images wrong")
    label(zero, "Sparsity", "penalty's weight", "activations that are 0")
    label(dead, "Dead units", "penalty's weight", "units")
    wrong.xaxis.set_major_formatter("{x:.0%}")
    wrong.set_yscale("log")
    wrong.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], minor=False)
    wrong.yaxis.set_minor_formatter("")
    for axes in (wrong, zero, dead):
        axes.yaxis.set_major_formatter("{x:.0%}")
    for axes in (zero, dead):
        axes.set_xscale("symlog", linthresh=WEIGHTS[1])
        axes.set_xticks([0, 1e-6, 1e-5, 1e-4, 1e-3])
        axes.tick_params(axis="x", rotation=45)
        axes.set_ylim(-0.03, 1.03)
    legend(figure, wrong)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, seeds=5, epochs=20).parse_args(arguments)
    data = loaded(options)
    rows = [
        {"width": width, "weight": weight, "seed": seed} | trained(width, weight, data, options.epochs, seed)
        for width, weight, seed in runs(options, WIDTHS, WEIGHTS)
    ]
    finish(__file__, options, f"two hidden layers of ReLU, {count(options.epochs, 'epoch')}", rows, draw)


if __name__ == "__main__":
    main()
