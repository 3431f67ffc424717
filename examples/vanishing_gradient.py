"""How fast does the gradient vanish with depth, for which activation, from which initial weights?

Fully connected networks of 1 to 30 hidden layers of 64 units, untrained: one forward and backward pass over up to 2,000
training images, under fastact.Monitor. The weights are drawn as torch.nn.Linear draws them, from a normal distribution
that is too narrow, or by the rule made for the activation (RULES).

    python examples/vanishing_gradient.py [--data mnist --root DIR] [--seeds N]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from experiment import STYLES, Result, Row, cell, curve, finish, label, legend, loaded, panels, parser, runs, values
from matplotlib.figure import Figure
from torch import nn
from train_digits import Data

import fastact

RULES = {"Sigmoid": "Xavier", "Tanh": "Xavier", "Softsign": "Xavier", "ReLU": "He", "SELU": "LeCun"}
DEPTHS = (1, 2, 3, 5, 7, 10, 14, 20, 30)
WIDTH = 64
TOO_SMALL = 0.05  # of weights; what keeps the variance is about 1/8 at this width
STARTS = {"torch": "torch.nn.Linear's own", "small": f"N(0, {TOO_SMALL}²)", "proper": "Xavier, He or LeCun"}


def initialise(layer: nn.Linear, activation: str, start: str) -> None:
    if start == "torch":
        return  # done by its constructor
    nn.init.zeros_(layer.bias)
    if start == "small":
        nn.init.normal_(layer.weight, std=TOO_SMALL)
    elif RULES[activation] == "Xavier":
        nn.init.xavier_normal_(layer.weight)
    else:  # LeCun's is He's without the factor that makes up for ReLU's zeros
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if RULES[activation] == "He" else "linear")


def network(activation: str, depth: int, start: str, inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(depth):
        layers += [nn.Linear(WIDTH if number else inputs, WIDTH), getattr(fastact, activation)()]
    layers.append(nn.Linear(WIDTH, 10))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            initialise(layer, activation, start)
    return nn.Sequential(*layers)


def gradients(activation: str, depth: int, start: str, data: Data) -> list[float]:
    """The root mean square of the loss's gradient with respect to each hidden layer's output, over that of the last."""
    images, labels = (each[:2000] for each in data[:2])
    net = network(activation, depth, start, images[0].numel())
    with fastact.Monitor(net) as monitor:
        F.cross_entropy(net(images), labels).backward()
    norms = [row.grad_norm for row in monitor.report().rows]
    return [norm / norms[-1] for norm in norms]


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """The first layer's gradient over the last one's."""
    depths = (2, 5, 10, 30)
    lines = [
        [
            activation,
            RULES[activation] if start == "proper" else text,
            *(
                cell([found[0] for found in values(result["rows"], "gradients", **run, depth=depth)], ".1g")
                for depth in depths
            ),
        ]
        for activation in RULES
        for start, text in STARTS.items()
        for run in [{"activation": activation, "start": start}]
    ]
    return ["activation", "initial weights", *(f"{depth} layers" for depth in depths)], lines


def draw(result: Result) -> Figure:
    figure, found = panels("ABC;DEF", "The gradient that reaches the first layer", result)
    for column, (start, text) in enumerate(STARTS.items()):
        by_depth, by_layer = found[column], found[column + 3]
        for activation in RULES:
            style, run = STYLES[activation], {"activation": activation, "start": start}
            of_depth = [values(result["rows"], "gradients", **run, depth=depth) for depth in DEPTHS]
            curve(by_depth, DEPTHS, [[layers[0] for layers in seeds] for seeds in of_depth], label=activation, **style)
            numbers = range(1, DEPTHS[-1] + 1)
            curve(by_layer, numbers, list(zip(*of_depth[-1], strict=True)), markevery=5, **style)
        label(by_depth, text, "hidden layers", "" if column else "first layer's gradient / last one's")
        label(by_layer, "", f"layer, of {DEPTHS[-1]}", "" if column else "layer's gradient / last one's")
        for axes in (by_depth, by_layer):
            axes.set(yscale="log")
            axes.axhline(1, color="0.7", lw=0.8, zorder=0)
    for row in (found[:3], found[3:]):
        low = min(axes.get_ylim()[0] for axes in row)
        high = max(axes.get_ylim()[1] for axes in row)
        for axes in row:
            axes.set_ylim(low, high)
    legend(figure, found[0])
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, seeds=5).parse_args(arguments)
    data = loaded(options)
    rows: list[Row] = [
        {"activation": activation, "start": start, "depth": depth, "seed": seed}
        | {"gradients": gradients(activation, depth, start, data)}
        for activation, start, depth, seed in runs(options, RULES, STARTS, DEPTHS)
    ]
    finish(__file__, options, f"untrained networks, {WIDTH} units a layer", rows, draw)


if __name__ == "__main__":
    main()
