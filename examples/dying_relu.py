"""From which learning rate on do units die, with which activation, and what does it cost?

The demo's convolutional network, He initialisation, SGD with momentum 0.9, once for each learning rate. After training
fastact.Monitor looks at one pass over all training images: a unit (here a channel) is dead if each of its inputs lies
where the activation is flat. dead_units.py is the same in a few lines.

    python examples/dying_relu.py [--data mnist --root DIR] [--seeds N] [--epochs N]
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

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
from train_digits import CHOICES, Data, batches, network

import fastact

ACTIVATIONS = ("ReLU", "LeakyReLU", "ELU", "Maxout")
RATES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1)


def trained(activation: str, rate: float, data: Data, epochs: int, seed: int) -> Row:
    """The share of test images that are right, and of units that are dead, the mean of the three layers. There is no
    such share of Maxout, whose units cannot die, nor where the weights are no longer finite."""
    net = network(CHOICES[activation], data.train_images)
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    for images, labels in batches(data, 128, epochs, seed):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        with fastact.Monitor(net) as monitor:
            for images in data.train_images.split(1000):
                net(images)
        right = net(data.test_images).argmax(1) == data.test_labels
    dead = [row.dead for row in monitor.report().rows if row.dead is not None]
    finite = all(parameter.isfinite().all() for parameter in net.parameters())
    return {"accuracy": right.float().mean().item(), "dead": fmean(dead) if dead and finite else None, "finite": finite}


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    lines = []
    for activation in ACTIVATIONS:
        runs = [{"activation": activation, "rate": rate} for rate in RATES]
        right = [cell(values(result["rows"], "accuracy", **run), ".0%") for run in runs]
        dead = [values(result["rows"], "dead", **run, finite=True) for run in runs]
        diverged = [str(len(values(result["rows"], "dead", **run, finite=False)) or "") for run in runs]
        lines.append([activation, "right", *right])
        if activation != "Maxout":
            lines.append(["", "dead", *(cell(each, ".0%") if each else "" for each in dead)])
        if any(diverged):
            lines.append(["", "runs that diverged", *diverged])
    return ["activation", "at a learning rate of", *map(str, RATES)], lines


def draw(result: Result) -> Figure:
    figure, (dead, right) = panels("AB", "Dead units and accuracy over the learning rate", result, height=3.4)
    for activation in ACTIVATIONS:
        for axes, column in ((dead, "dead"), (right, "accuracy")):
            found = {rate: values(result["rows"], column, activation=activation, rate=rate) for rate in RATES}
            known = {rate: seen for rate, run in found.items() if (seen := [each for each in run if each is not None])}
            if known:
                curve(axes, list(known), list(known.values()), label=activation, **STYLES[activation])
    label(dead, "Dead units", "learning rate", "units, mean of the layers")
    label(right, "Accuracy", "learning rate", "test images right")
    for axes in (dead, right):
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter("{x:.0%}")
    legend(figure, right)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, seeds=5, epochs=5).parse_args(arguments)
    data = loaded(options)
    rows = [
        {"activation": activation, "rate": rate, "seed": seed} | trained(activation, rate, data, options.epochs, seed)
        for activation, rate, seed in runs(options, ACTIVATIONS, RATES)
    ]
    finish(__file__, options, count(options.epochs, "epoch"), rows, draw)


if __name__ == "__main__":
    main()
