"""What changes where only the activation does: test accuracy, gradients and activations of the first convolution?

The networks of a comparison published in 2016, with fewer channels so that it runs on two cores:

- mnist: two convolutions, a fully connected layer and softmax, with pooling and dropout; Xavier's initial weights for
  Sigmoid and Tanh, He's for the others; Adam.
- cifar10: two convolutions, two fully connected layers and softmax, with pooling, local response normalisation and
  weight decay on the fully connected layers; narrow normal initial weights; SGD without momentum.

Images smaller than 16x16, as the digits are, are scaled up to that, so that 5x5 kernels and two poolings suit them.

    python examples/compare_activations.py --network mnist [--data mnist --root DIR] [--seeds N] [--epochs N]
    python examples/compare_activations.py --network cifar10 [--data cifar10 --root DIR] [--seeds N] [--epochs N]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from experiment import (
    DATA,
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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from train_digits import Data, batches

import fastact

PUBLISHED = {"ReLU": 0.9921, "ELU": 0.9894, "LeakyReLU": 0.9893, "Tanh": 0.9868, "Sigmoid": 0.9814}
"""Test accuracy on MNIST. On CIFAR-10 the cross entropy did not improve at all with Sigmoid."""
BATCH_SIZE = 32
SNAPSHOTS = 40  # of gradients and activations, over the training of the first seed
BINS = {"gradients": np.linspace(-8, 0, 41), "activations": np.linspace(-2, 3, 41)}
"""Of the gradients' logarithms to base 10, and of the activations; what lies beyond counts in the last bin."""


def scaled_up(data: Data, size: int = 16) -> Data:
    if data.train_images.shape[-1] >= size:
        return data
    train, test = (F.interpolate(images, (size, size), mode="bilinear") for images in (data[0], data[2]))
    return data._replace(train_images=train, test_images=test)


def mnist_network(activation: str, images: Tensor) -> nn.Sequential:
    make = getattr(fastact, activation)
    channels, size = images.shape[1], images.shape[-1]
    net = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), make(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), make(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * (size // 4) ** 2, 128), make(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if activation in ("Sigmoid", "Tanh"):
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def cifar10_network(activation: str, images: Tensor) -> nn.Sequential:
    make = getattr(fastact, activation)
    channels, size = images.shape[1], images.shape[-1]

    def normalise() -> nn.Module:
        return nn.LocalResponseNorm(9, alpha=0.001)

    net = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), make(), nn.MaxPool2d(3, 2, padding=1), normalise()),
        *(nn.Conv2d(16, 32, 5, padding=2), make(), normalise(), nn.MaxPool2d(3, 2, padding=1), nn.Flatten()),
        *(nn.Linear(32 * (size // 4) ** 2, 192), make(), nn.Linear(192, 96), make(), nn.Linear(96, 10)),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)
    return net


NETWORKS = {"mnist": mnist_network, "cifar10": cifar10_network}


def optimizer_of(network: str, net: nn.Sequential) -> torch.optim.Optimizer:
    if network == "mnist":
        return torch.optim.Adam(net.parameters(), 1e-3)
    dense = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    others = [each for each in net.parameters() if all(each is not weight for weight in dense)]
    return torch.optim.SGD([{"params": dense, "weight_decay": 0.004}, {"params": others}], 0.1)


def histogram(of: str, numbers: Tensor) -> list[int]:
    """Percent of the numbers in each bin."""
    bins = BINS[of]
    counts, _ = np.histogram(numbers.detach().flatten().clamp(bins[0], bins[-1]).numpy(), bins)
    return np.rint(100 * counts / counts.sum()).astype(int).tolist()


def trained(network: str, activation: str, data: Data, epochs: int, seed: int) -> Row:
    """The training loss and the test accuracy of each epoch, and the snapshots."""
    net = NETWORKS[network](activation, data.train_images)
    optimizer = optimizer_of(network, net)
    per_epoch = len(data.train_images) // BATCH_SIZE
    losses, row = [], {"loss": [], "accuracy": [], "gradients": [], "activations": []}
    for step, (images, labels) in enumerate(batches(data, BATCH_SIZE, epochs, seed), 1):
        net.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        losses.append(loss.item())
        if step % max(1, epochs * per_epoch // SNAPSHOTS) == 0:
            row["gradients"].append(histogram("gradients", net[0].weight.grad.abs().log10()))
            row["activations"].append(histogram("activations", net[:2](data.test_images[:128])))
        optimizer.step()
        if step % per_epoch == 0:
            net.eval()
            with torch.no_grad():
                guesses = torch.cat([net(some).argmax(1) for some in data.test_images.split(1000)])
            row["accuracy"].append((guesses == data.test_labels).float().mean().item())
            row["loss"].append(sum(losses[-per_epoch:]) / per_epoch)
    return row


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    lines = []
    for activation, published in PUBLISHED.items():
        accuracy, loss = (values(result["rows"], column, activation=activation) for column in ("accuracy", "loss"))
        cells = [cell([run[-1] for run in accuracy], ".4f"), cell([run[-1] for run in loss], ".3f")]
        if result["settings"]["network"] == "mnist":
            cells.append(f"{published:.4f}")
        lines.append([activation, *cells])
    headings = ["activation", "test accuracy", "training loss", "published accuracy, MNIST"]
    return headings[: len(lines[0])], lines


def draw_histograms(axes: Axes, of: str, snapshots: list[list[int]], epochs: int) -> Any:
    edges = np.linspace(0, epochs, len(snapshots) + 1)
    return axes.pcolormesh(edges, BINS[of], np.transpose(snapshots), cmap="cividis", vmin=0, vmax=25, rasterized=True)


def draw(result: Result) -> Figure:
    epochs = result["settings"]["epochs"]
    title = f"Only the activation differs: the network for {DATA[result['settings']['network']]}"
    figure, found = panels("AABBCCDDEE;FFGGHHIIJJ;KKKKKLLLLL", title, result, height=2.3)
    gradients, activations, (loss, accuracy) = found[:5], found[5:10], found[10:]
    for i, activation in enumerate(PUBLISHED):
        run = {"activation": activation}
        for axes, of in ((gradients[i], "gradients"), (activations[i], "activations")):
            mesh = draw_histograms(axes, of, values(result["rows"], of, **run, seed=0)[0], epochs)
            axes.tick_params(labelleft=i == 0)
            label(axes, activation if of == "gradients" else "", "epoch")
        for axes, column in ((loss, "loss"), (accuracy, "accuracy")):
            by_epoch = list(zip(*values(result["rows"], column, **run), strict=True))
            marks = max(1, epochs // 6)
            curve(axes, range(1, epochs + 1), by_epoch, label=activation, markevery=marks, **STYLES[activation])
    gradients[0].set_yticks(range(-8, 1, 2), [f"$10^{{{power}}}$" for power in range(-8, 1, 2)])
    for axes in gradients[1:]:
        axes.set_yticks(range(-8, 1, 2))
    gradients[0].set_ylabel("|gradient|, 1st conv.")
    activations[0].set_ylabel("output, 1st conv.")
    bar = figure.colorbar(mesh, ax=gradients + activations, label="% of a snapshot", extend="max", pad=0.01)
    bar.outline.set_visible(False)
    label(loss, "Training loss", "epoch")
    label(accuracy, "Test accuracy", "epoch")
    legend(figure, loss)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    with_network = parser(__doc__, seeds=3, epochs=8)
    with_network.add_argument("--network", choices=NETWORKS, default="mnist", help="default: %(default)s")
    options = with_network.parse_args(arguments)
    data = scaled_up(loaded(options))
    rows = []
    for activation, seed in runs(options, PUBLISHED):
        row = {"activation": activation, "seed": seed} | trained(
            options.network, activation, data, options.epochs, seed
        )
        if seed:
            del row["gradients"], row["activations"]
        rows.append(row)
    size = data.train_images.shape[-1]
    setup = f"{size}x{size} pixels, {count(options.epochs, 'epoch')}"
    finish(__file__, options, setup, rows, draw, f"compare_activations_{options.network}")


if __name__ == "__main__":
    main()
