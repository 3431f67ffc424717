"""Train a small convolutional network on handwritten digits, once per activation, three ways: with torch.nn's modules,
with the same under `fastact.enable()`, and with fastact's modules.

The networks start from the same weights, see the same batches and take their steps in turn, so that losses and times
compare. Prints a table; writes it (table.md), everything measured (results.json) and pictures to the folder `--out`.

The data are scikit-learn's 1,797 digits of 8x8 pixels, which need no download, or MNIST or CIFAR-10 files at hand:

    python examples/train_digits.py --activations ReLU Sigmoid GEGLU
    python examples/train_digits.py --data cifar10 --root ~/data --epochs 5
"""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean, median
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm

import fastact
from fastact.catalogue import ACTIVATIONS, Activation, torch_module
from fastact.libraries import HAS_NODES
from fastact.monitor import Monitor
from fastact.tools import plot

# The batch: large enough that the first layers' activations are of a size at which kernels matter on that device.
BATCH_SIZE = {"cpu": 128, "cuda": 512}
# At a batch of 128; larger batches go through the data more often, for about as many steps.
EPOCHS = {"digits": 20, "mnist": 1, "cifar10": 2}
CHOICES = {row.label: row for row in ACTIVATIONS.values()}
DEFAULT = (
    "ReLU",
    "LeakyReLU",
    "PReLU",
    "RReLU",
    "ELU",
    "Sigmoid",
    "Tanh",
    "Softsign",
    "GELU",
    "SiLU",
    "Maxout",
    "SwiGLU",
)
MONITORED = 10_000  # images at most
LITTLE = 0.2  # of the test images right, where guessing gets a tenth
WIDTH = 120  # of what is printed


class Data(NamedTuple):
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


# ---- data ------------------------------------------------------------------------------------------------------------


def load_digits(seed: int) -> Data:
    """scikit-learn's digits, a fifth of them kept for testing."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    images = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], torch.from_numpy(labels)[order]
    train = len(images) * 4 // 5
    return Data(images[:train], labels[:train], images[train:], labels[train:])


def load_mnist(root: Path) -> Data:
    """MNIST's four idx files, plain or gzipped."""
    stems = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    folder = _folder_with(
        root,
        ("", "MNIST/raw", "mnist"),
        stems,
        ("", ".gz"),
        "the four files of yann.lecun.com/exdb/mnist",
    )
    arrays = [_read_idx(folder / stem) for stem in stems]
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return Data(images[:, None].float(), labels.long(), test_images[:, None].float(), test_labels.long())


def _read_idx(path: Path) -> np.ndarray:
    content = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    dimensions = content[3]
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an idx file of unsigned bytes.")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def load_cifar10(root: Path) -> Data:
    """CIFAR-10's Python batches."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    folder = _folder_with(
        root,
        ("", "cifar-10-batches-py"),
        names,
        ("",),
        "unpacked from cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html",
    )
    batches = []
    for name in names:
        with (folder / name).open("rb") as file:
            batches.append(_ArraysOnly(file, encoding="bytes").load())
    images = [torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32)).float() for batch in batches]
    labels = [torch.tensor(batch[b"labels"]) for batch in batches]
    return Data(torch.cat(images[:-1]), torch.cat(labels[:-1]), images[-1], labels[-1])


class _ArraysOnly(pickle.Unpickler):
    """A pickle may call anything; CIFAR-10's need no more than this."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in ("_reconstruct", "ndarray", "dtype", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a CIFAR-10 batch does not hold {module}.{name}")


def _folder_with(root: Path, folders: Sequence[str], names: Sequence[str], endings: Sequence[str], origin: str) -> Path:
    """The first of the folders under `root` that has every name, with any of the endings."""
    for folder in folders:
        if all(any((root / folder / f"{name}{ending}").exists() for ending in endings) for name in names):
            return root / folder
    wanted = ", ".join(names) + "".join(f" (or {ending})" for ending in endings if ending)
    raise SystemExit(f"No {wanted} under {root}: put there {origin}, or name another folder with --root.")


def load(name: str, root: Path, seed: int, device: torch.device) -> Data:
    """The data, each channel of the images with mean 0 and standard deviation 1 over the training set."""
    data = load_digits(seed) if name == "digits" else {"mnist": load_mnist, "cifar10": load_cifar10}[name](root)
    std, mean = torch.std_mean(data.train_images, (0, 2, 3), keepdim=True)
    data = data._replace(train_images=(data.train_images - mean) / std, test_images=(data.test_images - mean) / std)
    return Data(*(tensor.to(device) for tensor in data))


# ---- networks --------------------------------------------------------------------------------------------------------


def network(row: Activation, images: Tensor, library: str = "fastact") -> nn.Sequential:
    """Two convolutions and two linear layers with the activation between them, for images of that shape.

    Where an activation makes one channel of several, as a gated unit does, the layer before it has as many more.
    """
    channels, size = images.shape[1:3]
    arguments = row.arguments(dim=1)

    def activation() -> nn.Module:
        ours = getattr(fastact, row.module)(**arguments)
        return ours if library == "fastact" else torch_module(row, ours, **arguments)

    net = nn.Sequential(
        nn.Conv2d(channels, 32 * row.divisor, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64 * row.divisor, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 512 * row.divisor),
        activation(),
        nn.Linear(512, 10),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if row.family == "sigmoids":
                nn.init.xavier_uniform_(layer.weight)  # Glorot & Bengio 2010
            else:
                # He et al. 2015. ReLU halves the mean square, the larger of two such numbers keeps it.
                gain_of = "linear" if row.name == "maxout" else "relu"
                nn.init.kaiming_uniform_(layer.weight, nonlinearity=gain_of)
            nn.init.zeros_(layer.bias)
    return net


def is_activation(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.Flatten)


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Library:
    """What was measured of one library's network."""

    accuracy: float
    step_ms: float
    activations_saved_bytes: int
    network_saved_bytes: int
    losses: list[float]


@dataclass
class Result:
    """What was measured of one activation."""

    activation: str
    random: bool
    fastact: Library
    enabled: Library
    """torch's network under `fastact.enable()`."""
    torch: Library
    kernels_ran: int
    """In how many of the activation layers fastact's node is in the graph."""
    enabled_ran: int
    """The same under `fastact.enable()`: what torch composes of several ops ends in another."""
    monitor: list[dict[str, Any]]
    """`fastact.monitor.Row` per layer, of fastact's network after training."""
    findings: list[str] = field(default_factory=list)
    """What the monitor found wrong there, in words."""

    @property
    def loss_difference(self) -> float:
        """With fastact's modules and torch's, the largest of all steps; NaN where a loss is, or both are infinite."""
        return float(np.max(np.abs(np.subtract(self.fastact.losses, self.torch.losses))))

    @property
    def gradient_kept(self) -> float | None:
        """What the first layer's gradient is of the last one's."""
        norms = [row["grad_norm"] for row in self.monitor]
        return norms[0] / norms[-1] if norms and norms[-1] else None

    def layers_mean(self, column: str) -> float | None:
        values = [row[column] for row in self.monitor if row[column] is not None]
        return fmean(values) if values else None


class Trainer:
    """One network and its optimizer, and whether it runs under `fastact.enable()`."""

    def __init__(self, net: nn.Sequential, lr: float, enabled: bool = False) -> None:
        self.net = net
        self.kernels = fastact.enable if enabled and HAS_NODES else nullcontext
        self.optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, images: Tensor, labels: Tensor) -> None:
        with self.kernels():
            _synchronize(images)
            start = time.perf_counter()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(images), labels)
            loss.backward()
            self.optimizer.step()
            _synchronize(images)
            self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        self.net.eval()
        with torch.no_grad(), self.kernels():
            right = [
                (self.net(some).argmax(1) == labels_of_some).sum().item()
                for some, labels_of_some in zip(images.split(1000), labels.split(1000), strict=True)
            ]
        return sum(right) / len(labels)

    def saved_bytes(self, images: Tensor) -> tuple[int, int, int]:
        with self.kernels():
            return saved_bytes(self.net, images)

    def measured(self, data: Data, batch_size: int) -> Library:
        activations, everything, _ = self.saved_bytes(data.train_images[:batch_size])
        accuracy = self.accuracy(data.test_images, data.test_labels)
        return Library(accuracy, 1000 * median(self.seconds), activations, everything, self.losses)


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def saved_bytes(net: nn.Sequential, images: Tensor) -> tuple[int, int, int]:
    """The bytes that one training step's forward keeps for backward: by the activations, by all layers together (a
    tensor that several keep counts once); and in how many activation layers a kernel of fastact's ran."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    # The storages themselves are held, so that no address is used twice.
    by_activations: dict[int, torch.UntypedStorage] = {}
    everything: dict[int, torch.UntypedStorage] = {}
    kernels_ran = 0
    net.train()
    x = images
    for layer in net:
        active = is_activation(layer)

        def keep(tensor: Tensor, active: bool = active) -> None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                everything[storage.data_ptr()] = storage
                if active:
                    by_activations[storage.data_ptr()] = storage

        with saved_tensors_hooks(keep, lambda nothing: nothing):
            x = layer(x)
        # Nodes of torch's own ops are called ReluBackward0 and the like, fastact's ReLUBackward.
        kernels_ran += active and x.grad_fn.name().endswith("Backward")
    totals = [sum(storage.nbytes() for storage in kept.values()) for kept in (by_activations, everything)]
    return totals[0], totals[1], kernels_ran


def batches(data: Data, batch_size: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_images), generator=generator).to(data.train_images.device)
        for chosen in order.split(batch_size):
            if len(chosen) == batch_size:
                yield data.train_images[chosen], data.train_labels[chosen]


class Trainers(NamedTuple):
    fastact: Trainer
    enabled: Trainer
    torch: Trainer


def start(row: Activation, data: Data, options: argparse.Namespace) -> Trainers:
    """The networks, with the same weights."""
    torch.manual_seed(options.seed)
    ours, enabled, stock = (network(row, data.train_images, library) for library in ("fastact", "torch", "torch"))
    for other in (enabled, stock):
        other.load_state_dict(ours.state_dict())
    ours, enabled, stock = (net.to(data.train_images.device) for net in (ours, enabled, stock))
    return Trainers(Trainer(ours, options.lr), Trainer(enabled, options.lr, True), Trainer(stock, options.lr))


def train(
    row: Activation, data: Data, options: argparse.Namespace, advance: Callable[[], object]
) -> tuple[Result, list[Tensor]]:
    """Train the networks in turns; also returns the first convolution's gradient after each step of fastact's."""
    trainers = start(row, data, options)
    ours = trainers.fastact
    gradients = []
    for number, (images, labels) in enumerate(batches(data, options.batch_size, options.epochs, options.seed)):
        # Whoever goes second finds warm caches: take turns.
        first = number % len(trainers)
        for trainer in trainers[first:] + trainers[:first]:
            trainer.step(images, labels)
            advance()
        gradients.append(ours.net[0].weight.grad.detach().cpu().clone())
    ours.net.eval()
    with Monitor(ours.net) as monitor:
        seen = (tensor[:MONITORED].split(options.batch_size) for tensor in data[:2])
        for images, labels in zip(*seen, strict=True):
            F.cross_entropy(ours.net(images), labels).backward()
    result = Result(
        activation=row.label,
        random=row.random,
        **{name: trainer.measured(data, options.batch_size) for name, trainer in trainers._asdict().items()},
        kernels_ran=ours.saved_bytes(data.train_images[: options.batch_size])[2],
        enabled_ran=trainers.enabled.saved_bytes(data.train_images[: options.batch_size])[2],
        monitor=[asdict(layer) for layer in monitor.report().rows],
        findings=[str(finding) for finding in monitor.report().findings],
    )
    return result, gradients


# ---- showing ---------------------------------------------------------------------------------------------------------

# Group over the column, column, cell.
COLUMNS: tuple[tuple[str, str, Callable[[Result], str]], ...] = (
    ("", "activation", lambda r: r.activation + "\N{DAGGER}" * r.random),
    ("test", "right", lambda r: f"{r.fastact.accuracy:.1%}"),
    ("ms per step", "fastact", lambda r: f"{r.fastact.step_ms:.2f}"),
    ("ms per step", "enable", lambda r: f"{r.enabled.step_ms:.2f}"),
    ("ms per step", "torch", lambda r: f"{r.torch.step_ms:.2f}"),
    ("ms per step", "ratio", lambda r: f"{r.torch.step_ms / r.fastact.step_ms:.2f}"),
    ("MiB saved", "fastact", lambda r: _size(r.fastact.activations_saved_bytes)),
    ("MiB saved", "enable", lambda r: _size(r.enabled.activations_saved_bytes)),
    ("MiB saved", "torch", lambda r: _size(r.torch.activations_saved_bytes)),
    ("network MiB", "fastact", lambda r: _size(r.fastact.network_saved_bytes)),
    ("network MiB", "torch", lambda r: _size(r.torch.network_saved_bytes)),
    ("at the end", "dead", lambda r: _share(r.layers_mean("dead"))),
    ("at the end", "flat", lambda r: _share(r.layers_mean("saturated"))),
    ("at the end", "zero", lambda r: _share(r.layers_mean("sparsity"))),
    ("at the end", "grad", lambda r: _number(r.gradient_kept)),
    ("loss", "differs", lambda r: f"{r.loss_difference:.1g}"),
)


def _size(size: int) -> str:
    return f"{size / 2**20:.2f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def terminal_table(results: list[Result]) -> str:
    names = [name for _, name, _ in COLUMNS]
    cells = [names, *([cell(result) for _, _, cell in COLUMNS] for result in results)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [""] * (1 + len(cells))
    columns = zip(COLUMNS, widths, zip(*cells, strict=True), strict=True)
    for group, members in groupby(columns, key=lambda column: column[0][0]):
        blocks = [[f"{cell:{'>' if group else '<'}{width}}" for cell in column] for _, width, column in members]
        rows = [" ".join(row) for row in zip(*blocks, strict=True)]
        title = f"{group:^{len(rows[0])}}"
        lines = [f"{line}{cell:>{len(title)}}  " for line, cell in zip(lines, (title, *rows), strict=True)]
    lines = [line.rstrip() for line in lines]
    rule = "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * max(map(len, lines))
    return "\n".join((*lines[:2], rule, *lines[2:], rule))


def markdown_table(results: list[Result]) -> str:
    lines = [[f"{group} {name}".strip() for group, name, _ in COLUMNS], ["---", *["---:"] * (len(COLUMNS) - 1)]]
    lines += [[cell(result) for _, _, cell in COLUMNS] for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(results: list[Result], data: Data) -> list[str]:
    """What a reader must know of the columns."""
    layers = len(results[0].monitor)
    seen = min(MONITORED, len(data.train_images))
    found = [
        "fastact: its modules; enable: torch.nn's under fastact.enable(), which replaces torch's own ops, the loss's "
        "log_softmax too; torch: torch.nn's alone.",
        "ms per step: median of the whole training step, the networks in turns; ratio: torch / fastact, above 1 "
        "fastact is faster.",
        "MiB saved: what the activations keep of one step's forward for backward, even where a neighbour keeps the "
        "same tensor; network MiB: what all layers keep, each tensor counted once.",
        f"dead: share of fastact's units that stay on the activation's flat side for all of {seen:,} training images; "
        f"flat: share of elements where the derivative is below 5% of its maximum; both: mean of {layers} layers, "
        "'-' where the activation has no flat side; zero: share of outputs that are exactly zero; grad: the first "
        "activation's, root mean square, over the last one's, far below 1 where it vanishes on the way back.",
        "test right: the share of test images, with fastact's modules; loss differs: by how much at most, over all "
        "training steps, the losses with these and with torch's differ.",
    ]
    if any(result.random for result in results):
        found.append(
            "\N{DAGGER} draws its slopes at random, and fastact's are not torch's: losses and accuracies differ."
        )
    stuck = [r.activation for r in results if max(r.fastact.accuracy, r.enabled.accuracy, r.torch.accuracy) < LITTLE]
    if stuck:
        found.append(
            f"Below {LITTLE:.0%} right in all networks after this many steps: {', '.join(stuck)}. "
            "gradients.png shows how gradients vanish or explode, docs/which-activation.md says why."
        )
    found += [f"{r.activation}, layer {finding}." for r in results for finding in r.findings[:1]]
    fell_back = [f"{r.activation} ({r.kernels_ran} of {layers} layers)" for r in results if r.kernels_ran < layers]
    if fell_back:
        found.append(f"torch's own function is used in some layers; fastact's kernels ran in: {', '.join(fell_back)}.")
    else:
        found.append(f"fastact's kernels ran in all {layers} activation layers.")
    composed = [r.activation for r in results if r.enabled_ran < layers]
    if not HAS_NODES:
        found.append("enable: torch's kernels, since fastact's C++ library for this release of torch is missing.")
    elif composed:
        found.append(
            f"enable: torch has no op for {', '.join(composed)}; of its parts, those that are activations ran."
        )
    return found


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = [name for name in DEFAULT if name in CHOICES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--activations",
        nargs="+",
        choices=CHOICES,
        default=default,
        metavar="NAME",
        help=f"of {', '.join(CHOICES)} (default: {' '.join(default)})",
    )
    parser.add_argument("--data", choices=tuple(EPOCHS), default="digits")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder with MNIST's or CIFAR-10's files")
    parser.add_argument("--device", choices=tuple(BATCH_SIZE), default="cpu")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}, more for larger batches")
    parser.add_argument("--batch-size", type=int, help=f"default: {BATCH_SIZE}")
    parser.add_argument("--lr", type=float, default=0.01, help="of SGD with momentum 0.9 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device")
    options.batch_size = options.batch_size or BATCH_SIZE[options.device]
    options.epochs = options.epochs or EPOCHS[options.data] * max(1, options.batch_size // 128)
    return options


def estimate(rows: list[Activation], data: Data, options: argparse.Namespace, steps: int) -> float:
    """Seconds that training will take, judged by a few steps of each activation."""
    images, labels = (tensor[: options.batch_size] for tensor in data[:2])
    seconds = 0.0
    for row in rows:
        for trainer in start(row, data, options):
            for _ in range(5):
                trainer.step(images, labels)
            seconds += median(trainer.seconds) * steps
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    rows = [row for name, row in CHOICES.items() if name in options.activations]
    data = load(options.data, options.root, options.seed, torch.device(options.device))
    options.batch_size = min(options.batch_size, len(data.train_images))
    steps = options.epochs * (len(data.train_images) // options.batch_size)
    seconds = estimate(rows, data, options, steps)
    announcement = (
        f"{options.data}: {len(data.train_images):,} images to train on, {len(data.test_images):,} to test on; "
        f"{len(rows)} activations x 3 networks x {steps} steps of {options.batch_size} images on {options.device}: "
        f"about {max(1, seconds):.0f} s."
    )
    print(fill(announcement, WIDTH))
    results, gradients = [], {}
    with tqdm(total=3 * steps * len(rows), unit="step", leave=False, dynamic_ncols=True) as bar:
        for row in rows:
            bar.set_description(row.label)
            result, gradients[row.label] = train(row, data, options, bar.update)
            results.append(result)

    text = [terminal_table(results), *(fill(note, WIDTH, subsequent_indent="  ") for note in notes(results, data))]
    print("\n".join(text))
    options.out.mkdir(parents=True, exist_ok=True)
    listed = "\n".join(f"- {note}" for note in notes(results, data))
    (options.out / "table.md").write_text(f"{markdown_table(results)}\n\n{listed}\n", encoding="utf-8")
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    settings |= {"steps": steps, "torch": torch.__version__, "fastact": fastact.__version__}
    settings |= {"threads": torch.get_num_threads(), "machine": platform.machine()}
    if options.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    report = {"settings": settings, "results": [asdict(result) for result in results]}
    (options.out / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot.curves(options.out / "activations.png", rows)
    losses = {r.activation: {"torch.nn": r.torch.losses, "fastact": r.fastact.losses} for r in results}
    plot.loss_curves(options.out / "losses.png", losses)
    plot.gradient_histograms(options.out / "gradients.png", gradients, "the first convolution's weights")
    print(f"Written to {options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")


if __name__ == "__main__":
    main()
