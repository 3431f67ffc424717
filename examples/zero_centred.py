"""What do weights do whose inputs are all of one sign?

The gradients of a unit's weights are the inputs, times one factor. Where all inputs are positive, as Sigmoid's outputs
are, the gradients of one example all have one sign, and the weights go up together or down together. Two parts:

- A network of two hidden layers of 64 units learns images. The figure is the share of the second layer's weights whose
  gradient has the sign that most have in its unit, gradients of 0 left out: 100% where all agree.
- A linear unit learns its two weights, from (0, 0) to (1, -1). Its inputs are normal numbers under the activation. The
  figures are the length of its path over that of a straight line, and the steps until a tenth of the way is left.

    python examples/zero_centred.py [--data mnist --root DIR] [--seeds N]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, product

import torch
import torch.nn.functional as F
from experiment import (
    FONT,
    STYLES,
    Result,
    Row,
    cell,
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


class CentredSigmoid(fastact.Sigmoid):
    """The control: Sigmoid's curve, but centred."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) - 0.5


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "Sigmoid": fastact.Sigmoid,
    "Sigmoid - 1/2": CentredSigmoid,
    "Tanh": fastact.Tanh,
    "ReLU": fastact.ReLU,
}
LOOKS = STYLES | {"Sigmoid - 1/2": STYLES["ELU"]}
BATCHES = {1: 0.01, 32: 0.1}
"""Examples in a batch, and the network's learning rate."""
GOAL = torch.tensor([1.0, -1.0])
RATE = 0.1  # of the two weights, at inputs whose mean square is 1
STEPS = 400


def agreement(gradient: Tensor) -> float:
    """Of a layer's weight: the share of gradients that have the sign of most in their unit. NaN where all are 0."""
    signs = gradient.sign()
    signs = signs[signs.any(1)]
    most = torch.maximum((signs > 0).sum(1), (signs < 0).sum(1))
    return (most / signs.count_nonzero(1)).mean().item()


def network_agreement(activation: str, data: Data, batch_size: int, seed: int) -> float:
    """The mean over the training steps."""
    make = ACTIVATIONS[activation]
    first, second = nn.Linear(data.train_images[0].numel(), 64), nn.Linear(64, 64)
    net = nn.Sequential(nn.Flatten(), first, make(), second, make(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), BATCHES[batch_size])
    found = []
    for images, labels in islice(batches(data, batch_size, STEPS, seed), STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        found.append(agreement(second.weight.grad))
    return torch.tensor(found).nanmean().item()


def path(activation: str, batch_size: int) -> Tensor:
    """The two weights before and after each step."""
    act = ACTIVATIONS[activation]()
    rate = RATE / act(torch.randn(100_000)).square().mean()
    weights = torch.zeros(2)
    found = [weights]
    for inputs in act(torch.randn(STEPS, batch_size, 2)):
        gradient = (inputs @ (weights - GOAL)) @ inputs / batch_size  # of half the mean squared error
        weights = weights - rate * gradient
        found.append(weights)
    return torch.stack(found)


def measured(weights: Tensor) -> Row:
    """How much of the way is left after every tenth step, the steps until it is a tenth, and the length up to there."""
    left = (weights - GOAL).norm(dim=1) / GOAL.norm()
    steps = int((left > 0.1).sum())
    reached = weights[: steps + 1]
    length = reached.diff(dim=0).norm(dim=1).sum() / (reached[-1] - reached[0]).norm()
    return {"steps": steps, "length": length.item(), "left": left[::10].tolist()}


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    lines = []
    for activation in ACTIVATIONS:
        for batch_size in BATCHES:
            run = {"activation": activation, "batch": batch_size}
            columns = {"agreement": ".0%", "length": ".2f", "steps": ".0f"}
            cells = [cell(values(result["rows"], column, **run), form) for column, form in columns.items()]
            lines.append([activation, str(batch_size), *cells])
    return ["inputs", "batch", "same sign", "path / straight line", "steps"], lines


def draw(result: Result) -> Figure:
    figure, (shares, paths, left) = panels("ABC", "Weights whose inputs have one sign", result, height=3.3)
    names = list(ACTIVATIONS)
    for activation, batch_size in product(names, BATCHES):
        run = {"activation": activation, "batch": batch_size}
        found = values(result["rows"], "agreement", **run)
        marker, color = LOOKS[activation]["marker"], LOOKS[activation]["color"]
        places = [names.index(activation) + (0.15 if batch_size == 32 else -0.15)] * len(found)
        shares.plot(places, found, ls="", ms=7, color=color, marker=marker, mfc=color if batch_size == 1 else "white")
        if batch_size == 1 and activation in ("Sigmoid", "Tanh"):
            way = values(result["rows"], "path", **run, seed=0)[0]
            paths.plot(*zip(*way, strict=True), lw=1, color=color, marker=marker, ms=2.5)
            paths.annotate(activation, way[8], (12, 12), textcoords="offset points", color=color, fontsize=FONT)
        if batch_size == 32:
            seeds = values(result["rows"], "left", **run)
            every = range(0, STEPS + 1, 10)
            curve(left, every, list(zip(*seeds, strict=True)), markevery=4, label=activation, **LOOKS[activation])
    shares.set(xticks=range(len(names)), xticklabels=names, xlim=(-0.5, 3.5), ylim=(0.45, 1.03))
    shares.yaxis.set_major_formatter("{x:.0%}")
    shares.tick_params(axis="x", rotation=25)
    label(shares, "Gradients of one sign in a unit", "batch of 1: filled; of 32: hollow", "weights")
    paths.plot(*GOAL, marker="*", ms=14, color="black", ls="", zorder=10)
    paths.set(aspect="equal", xlim=(-0.1, 1.2), ylim=(-1.2, 0.1))
    label(paths, "Two weights, batch of 1", "first weight", "second weight")
    left.axhline(0.1, color="0.7", lw=0.8)
    left.set(yscale="log", ylim=(1e-4, 1.5))
    label(left, "Two weights, batch of 32", "step", "distance from the goal")
    legend(figure, left)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, seeds=5).parse_args(arguments)
    data = loaded(options)
    rows = []
    for activation, batch_size, seed in runs(options, ACTIVATIONS, BATCHES):
        weights = path(activation, batch_size)
        row = {"activation": activation, "batch": batch_size, "seed": seed} | measured(weights)
        row["agreement"] = network_agreement(activation, data, batch_size, seed)
        rows.append(row | ({"path": weights.tolist()} if seed == 0 else {}))
    finish(__file__, options, f"{STEPS} steps", rows, draw)


if __name__ == "__main__":
    main()
