"""What the page trains: the data, a small network, its statistics at each look. Nothing here draws."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import functional
from ...catalogue import ACTIVATIONS, of_one_variable
from ...monitor import Monitor, Report, Row
from ...plot import arguments_of, named
from .formula import SHOWN, Formula, sampled

POINTS = 900
"""Of the sets in two dimensions, a third of them for testing. A finding of dead units needs 500 of training."""
LIMITS = {"depth": (1, 10), "width": (1, 64), "seed": (0, 9999)}
WIDEST = 512
"""How many outputs a linear layer may have, so that a step stays short."""


# ---- data ------------------------------------------------------------------------------------------------------------

Labelled = tuple[np.ndarray, np.ndarray]


def _circles(seed: int) -> Labelled:
    from sklearn.datasets import make_circles

    return make_circles(POINTS, noise=0.08, factor=0.5, random_state=seed)


def _moons(seed: int) -> Labelled:
    from sklearn.datasets import make_moons

    return make_moons(POINTS, noise=0.15, random_state=seed)


def _blobs(seed: int) -> Labelled:
    from sklearn.datasets import make_blobs

    return make_blobs(POINTS, centers=[(-1, -1), (1, 1)], cluster_std=0.6, random_state=seed)


def _spirals(seed: int) -> Labelled:
    random = np.random.default_rng(seed)
    arm = np.arange(POINTS) % 2
    radius = np.sqrt(random.uniform(0.01, 1, POINTS))
    angle = 3 * np.pi * radius + np.pi * arm
    points = radius * np.stack([np.cos(angle), np.sin(angle)])
    return points.T + random.normal(0, 0.03, (POINTS, 2)), arm


def _squares(seed: int, per_side: int) -> Labelled:
    points = np.random.default_rng(seed).uniform(0, per_side, (POINTS, 2))
    return points, np.floor(points).sum(1).astype(int) % 2


def _digits(seed: int) -> Labelled:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    return images[order], labels[order]


DATA: dict[str, Callable[[int], Labelled]] = {
    "circles": _circles,
    "moons": _moons,
    "spirals": _spirals,
    "xor": partial(_squares, per_side=2),
    "checkerboard": partial(_squares, per_side=4),
    "blobs": _blobs,
    "digits": _digits,
}


class Data(NamedTuple):
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@cache
def load(name: str, seed: int) -> Data:
    """A set by its name, of mean 0 and variance 1, a third of it for testing. Needs scikit-learn for most."""
    inputs, labels = DATA[name](seed)
    axis = None if name == "digits" else 0  # some pixels are always white
    inputs = (inputs - inputs.mean(axis)) / inputs.std(axis)
    train = len(labels) * 2 // 3
    x, y = torch.from_numpy(inputs).float(), torch.from_numpy(labels).long()
    return Data(x[:train], y[:train], x[train:], y[train:])


# ---- settings --------------------------------------------------------------------------------------------------------

INITIALISATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "torch's own": None,
    "He normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "Glorot normal": nn.init.xavier_normal_,
    "LeCun normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "standard normal": nn.init.normal_,
    "zeros": nn.init.zeros_,
}
"""How weights start; biases then start from 0."""


@dataclass(frozen=True)
class Settings:
    """Of one experiment."""

    data: str = "circles"
    activation: str = "relu"
    arguments: Mapping[str, float] = field(default_factory=dict)
    formula: str = ""
    """In place of the activation, if there is one."""
    depth: int = 3
    width: int = 8
    learning_rate: float = 0.1
    initialisation: str = "He normal"
    batch_size: int = 32
    seed: int = 0

    @property
    def divisor(self) -> int:
        """How many inputs each unit has."""
        row = ACTIVATIONS[self.activation]
        return 1 if self.formula else row.divisor_with({**row.arguments(), **self.arguments})


class Preset(NamedTuple):
    """A story: what to set, and what to look at."""

    title: str
    look_at: str
    settings: Settings


_DYING = Settings(depth=6, width=8, learning_rate=1.0)
_DEEP = Settings(activation="sigmoid", depth=10, width=16, initialisation="torch's own")
PRESETS = (
    Preset(
        "ReLU dies at a high learning rate",
        "Within 300 steps every unit of some layer is dead. No gradient passes it, the layers before it stop learning, "
        "and the decision surface freezes. Lower the learning rate and press Reset.",
        _DYING,
    ),
    Preset(
        "LeakyReLU lives",
        "The same network, data and learning rate. Some gradient passes everywhere, so that no unit is dead, and the "
        "loss falls.",
        replace(_DYING, activation="leaky_relu", arguments={"negative_slope": 0.1}),
    ),
    Preset(
        "Sigmoid in ten layers: the gradient vanishes",
        "Look at the gradient of each layer: from layer 10 to layer 1 it loses eight powers of ten. The loss stays "
        "where guessing leaves it.",
        _DEEP,
    ),
    Preset(
        "The same with He initialisation",
        "Larger weights make the gradient of layer 1 a thousand times larger, which is still too small to learn from: "
        "it is the sigmoid itself that shrinks it.",
        replace(_DEEP, initialisation="He normal"),
    ),
    Preset(
        "ReLU in ten layers: the gradient arrives",
        "He's initialisation was made for ReLU. All ten gradients have about the same size, and the circles are told "
        "apart in a few hundred steps.",
        replace(_DEEP, activation="relu", initialisation="He normal"),
    ),
    Preset(
        "Standard normal weights saturate tanh",
        "Look at the outputs of layers 2 to 4: they pile up at -1 and 1, where tanh is flat. Take Glorot's "
        "initialisation to see them spread.",
        Settings(activation="tanh", depth=4, width=32, initialisation="standard normal"),
    ),
    Preset(
        "Handwritten digits: a healthy network",
        "Nothing is dead, gradients are alike in both layers, and what is left are digits that are hard to read.",
        Settings("digits", "gelu", depth=2, width=32),
    ),
)


def arguments_with_defaults(activation: str) -> dict[str, float]:
    """The numbers that the named activation's module takes."""
    row = ACTIVATIONS[activation]
    signature = inspect.signature(type(named(activation))).parameters
    defaults = {name: row.arguments().get(name, signature[name].default) for name in arguments_of(activation)}
    return {name: value for name, value in defaults.items() if isinstance(value, int | float)}


# ---- the experiment --------------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """At a network between two steps, on all of the data."""

    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    report: Report
    outputs: dict[str, Tensor]
    """Of each layer, by its name, for the training data."""
    gradients: dict[str, Tensor]
    """Of the training loss, with respect to these."""
    predictions: Tensor
    """Of the test data."""


class Experiment:
    """A network of `depth` linear layers with activations, and a last one without, trained by plain SGD.

    Raises `ValueError`, in words for who chose them, for settings that an activation or a formula refuses.
    """

    def __init__(self, settings: Settings) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(settings, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(settings, name)}")
        if settings.width * settings.divisor > WIDEST:
            raise ValueError(f"{settings.width} units of {settings.divisor} inputs each are more than {WIDEST} inputs")
        self.settings, self.step = settings, 0
        self.data = load(settings.data, settings.seed)
        try:
            self.curve = self._curve()
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(settings.seed)
                self.model = self._network()
        except (ArithmeticError, RuntimeError, TypeError) as error:  # torch's ops differ in what they raise
            raise ValueError(f"{self.title}: {str(error).splitlines()[0]}") from error
        self.layers = [name for name, module in self.model.named_children() if not isinstance(module, nn.Linear)]
        self._batches = self._shuffled(torch.Generator().manual_seed(settings.seed))
        self._optimiser = torch.optim.SGD(self.model.parameters(), settings.learning_rate)

    @property
    def title(self) -> str:
        """The activation, as one writes it."""
        given = ", ".join(f"{name}={value:.3g}" for name, value in self.settings.arguments.items())
        label = ACTIVATIONS[self.settings.activation].label
        return self.settings.formula or (f"{label}({given})" if given else label)

    def _activation(self) -> nn.Module:
        settings = self.settings
        return Formula(settings.formula) if settings.formula else named(settings.activation, **settings.arguments)

    def _curve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, the activation and its derivative. A gated unit is taken with x at its gate and a value of 1, softmax
        and Maxout of x and zeros."""
        row = ACTIVATIONS[self.settings.activation]
        function: Callable[[Tensor], Tensor] = self._activation().eval()
        if not self.settings.formula and not row.pointwise:
            arguments = {**row.arguments(), **self.settings.arguments}
            function = partial(of_one_variable(row, getattr(functional, row.function)), **arguments)
        x = torch.linspace(*SHOWN, 501)
        return (x, *sampled(function, x))

    def _network(self) -> nn.Sequential:
        settings, model = self.settings, nn.Sequential()
        inputs = self.data.train_inputs.shape[1]
        for i in range(1, settings.depth + 1):
            model.add_module(f"linear {i}", nn.Linear(inputs, settings.width * settings.divisor))
            model.add_module(f"layer {i}", self._activation())
            inputs = settings.width
        model.add_module("linear out", nn.Linear(inputs, int(self.data.train_labels.max()) + 1))
        initialise = INITIALISATIONS[settings.initialisation]
        for module in model:
            if isinstance(module, nn.Linear) and initialise is not None:
                initialise(module.weight)
                nn.init.zeros_(module.bias)
        return model

    def _shuffled(self, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(self.data.train_labels), generator=generator).split(self.settings.batch_size)

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next step on."""
        self._optimiser.param_groups[0]["lr"] = learning_rate

    def train(self, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            batch = next(self._batches)
            loss = F.cross_entropy(self.model(self.data.train_inputs[batch]), self.data.train_labels[batch])
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
        self.step += steps

    def look(self) -> Look:
        """At the network as it is, through `fastact.Monitor`."""
        data, outputs = self.data, {}
        with Monitor(self.model) as monitor:
            logits = data.train_inputs
            for name, module in self.model.named_children():
                logits = module(logits)
                if name in self.layers:
                    outputs[name] = logits
            loss = F.cross_entropy(logits, data.train_labels)
            gradients = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))
            report = monitor.report()
        outputs = {name: each.detach() for name, each in outputs.items()}
        if self.settings.formula:
            report = Report([_row(name, outputs[name], gradients[name]) for name in outputs])
        with torch.no_grad():
            test_logits = self.model(data.test_inputs)
            test_loss = F.cross_entropy(test_logits, data.test_labels)
        predictions = test_logits.argmax(1)
        return Look(
            self.step,
            loss.item(),
            _accuracy(logits.argmax(1), data.train_labels),
            test_loss.item(),
            _accuracy(predictions, data.test_labels),
            report,
            outputs,
            gradients,
            predictions,
        )

    def surface(self, points_per_side: int, reach: float) -> np.ndarray:
        """The probability of class 1 at a square of points in two dimensions, row by row from below."""
        side = torch.linspace(-reach, reach, points_per_side)
        with torch.no_grad():
            logits = self.model(torch.cartesian_prod(side, side).flip(1))
        return logits.softmax(1)[:, 1].reshape(points_per_side, -1).numpy()


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return (predictions == labels).double().mean().item()


def _row(layer: str, output: Tensor, gradient: Tensor) -> Row:
    """Of a formula, which a monitor does not know: what needs no knowledge of where it is flat."""
    finite, finite_gradient = output[output.isfinite()].double(), gradient[gradient.isfinite()].double()
    nan, grad_nan = int(output.isnan().sum()), int(gradient.isnan().sum())
    bad, bad_gradient = output.numel() - len(finite), gradient.numel() - len(finite_gradient)
    return Row(
        layer,
        "formula",
        dead=None,
        saturated=None,
        sparsity=(output == 0).double().mean().item(),
        mean=finite.mean().item(),
        std=(finite - finite.mean()).square().mean().sqrt().item(),
        grad_norm=finite_gradient.square().mean().sqrt().item(),
        min=finite.min().item() if len(finite) else math.nan,
        max=finite.max().item() if len(finite) else math.nan,
        nan=nan,
        inf=bad - nan,
        grad_nan=grad_nan,
        grad_inf=bad_gradient - grad_nan,
        first_bad=0 if bad else None,
        grad_first_bad=0 if bad_gradient else None,
    )


# ---- a run's recorded statistics -------------------------------------------------------------------------------------


def recorded(text: str) -> list[tuple[int, Report]]:
    """The steps and reports of a JSON file: a list of `{"step": step, **report.to_dict()}`.

    Raises `ValueError`, in words, for anything else.
    """
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise TypeError("no list")
        history = [(int(entry["step"]), Report([_checked(row) for row in entry["rows"]])) for entry in entries]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("this is no file of a Monitor's statistics") from error
    if not history:
        raise ValueError("this file has no report")
    return history


def _checked(values: dict[str, object]) -> Row:
    row = Row(**{each.name: values[each.name] for each in fields(Row) if each.name in values})  # type: ignore[arg-type]
    for each in fields(Row):
        value = getattr(row, each.name)
        kind = (str,) if each.name in ("layer", "activation", "note") else (int, float, list, type(None))
        if not isinstance(value, kind):
            raise TypeError(f"{each.name} is {value!r}")
    return row
