"""One row per activation: what it computes, what it saves for backward, where its paper is.

Functions, modules, kernels, tests, benchmarks, `validate`, plots and the documentation's tables all read these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Activation:
    """What the rest of the package needs to know of one activation."""

    name: str
    """Of the function here and in `torch.nn.functional`, and of the ops and formulas behind it."""
    module: str
    """Of the module here and in `torch.nn`."""
    family: str
    """The file of formulas: `csrc/<family>.h` and `fastact/kernels/<family>.py`."""
    saved: str
    """What backward needs: "bits" (one per element), "output" or "input"."""
    formula: str
    """In plain text, for tables."""
    derivative: str
    why_saved: str
    paper: str
    reference: Callable[..., Tensor]
    """torch's function of the same arguments: the torch path, and the truth that tests compare with."""
    parameters: tuple[str, ...] = ()
    """The op's scalar arguments in order, under torch's names."""
    samples: tuple[dict[str, Any], ...] = ({},)
    """Arguments that tests and benchmarks run it with; the first is the default."""
    kinks: Callable[..., tuple[float, ...]] = lambda **parameters: ()
    """Where the derivative jumps, for given parameters."""
    inplace: bool = False
    """Whether torch's function and module take `inplace`."""
    random: bool = False
    """Whether a random number is drawn for each element."""
    weight: bool = False
    """Whether a learned tensor takes part; such activations have loops of their own."""
    derivative_from_output: Callable[..., Tensor] | None = None
    """Where the output is saved: the derivative as torch ops on it, for double backward."""
    extras: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments that `reference` needs to compute the same."""


def _zero(**parameters: Any) -> tuple[float, ...]:
    return (0.0,)


ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            name="relu",
            module="ReLU",
            family="rectifiers",
            saved="bits",
            formula="max(0, x)",
            derivative="1 if x > 0 else 0",
            why_saved="The derivative has two values. torch saves the output, which a following linear layer or "
            "convolution keeps anyway: there the bit comes on top; elsewhere it stands in for a whole tensor.",
            paper="Nair & Hinton 2010, Rectified Linear Units Improve Restricted Boltzmann Machines",
            reference=F.relu,
            kinks=_zero,
            inplace=True,
        ),
        Activation(
            name="leaky_relu",
            module="LeakyReLU",
            family="rectifiers",
            saved="bits",
            formula="x if x > 0 else negative_slope x",
            derivative="1 if x > 0 else negative_slope",
            why_saved="The derivative has two values; torch saves the input.",
            paper="Maas, Hannun & Ng 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models",
            reference=F.leaky_relu,
            parameters=("negative_slope",),
            samples=({"negative_slope": 0.01}, {"negative_slope": 0.3}, {"negative_slope": -0.5}),
            kinks=_zero,
            inplace=True,
        ),
        Activation(
            name="prelu",
            module="PReLU",
            family="rectifiers",
            saved="input",
            formula="x if x > 0 else weight x, weight learned",
            derivative="1 if x > 0 else weight; by weight: 0 if x > 0 else x",
            why_saved="The weight's gradient needs the values of the negative inputs.",
            paper="He et al. 2015, Delving Deep into Rectifiers",
            reference=F.prelu,
            kinks=_zero,
            weight=True,
        ),
        Activation(
            name="rrelu",
            module="RReLU",
            family="rectifiers",
            saved="bits",
            formula="x if x > 0 else a x; a uniform in [lower, upper] per element, their mean in evaluation",
            derivative="1 if x > 0 else a",
            why_saved="The slopes are drawn again from the saved seed; torch saves the input and a tensor of slopes.",
            paper="Xu et al. 2015, Empirical Evaluation of Rectified Activations in Convolutional Network",
            reference=F.rrelu,
            parameters=("lower", "upper"),
            samples=({"lower": 1 / 8, "upper": 1 / 3}, {"lower": 0.2, "upper": 0.2}),
            kinks=_zero,
            inplace=True,
            random=True,
            extras={"training": True},
        ),
        Activation(
            name="elu",
            module="ELU",
            family="exponentials",
            saved="output",
            formula="x if x > 0 else alpha (exp(x) - 1)",
            derivative="1 if y > 0 else y + alpha",
            why_saved="The derivative follows from the output, which the next layer keeps anyway. Needs alpha >= 0.",
            paper="Clevert, Unterthiner & Hochreiter 2016, Fast and Accurate Deep Network Learning by ELUs",
            reference=F.elu,
            parameters=("alpha",),
            samples=({"alpha": 1.0}, {"alpha": 1.7}, {"alpha": 0.0}),
            kinks=lambda alpha: () if alpha == 1 else (0.0,),
            inplace=True,
            derivative_from_output=lambda y, alpha: torch.where(y > 0, torch.ones_like(y), y + alpha),
        ),
        Activation(
            name="sigmoid",
            module="Sigmoid",
            family="sigmoids",
            saved="output",
            formula="1 / (1 + exp(-x))",
            derivative="y (1 - y)",
            why_saved="The derivative follows from the output, which the next layer keeps anyway.",
            paper="Glorot & Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks",
            reference=torch.sigmoid,
            derivative_from_output=lambda y: y * (1 - y),
        ),
        Activation(
            name="tanh",
            module="Tanh",
            family="sigmoids",
            saved="output",
            formula="(exp(x) - exp(-x)) / (exp(x) + exp(-x))",
            derivative="1 - y^2",
            why_saved="The derivative follows from the output, which the next layer keeps anyway.",
            paper="LeCun et al. 1998, Efficient BackProp",
            reference=torch.tanh,
            derivative_from_output=lambda y: 1 - y * y,
        ),
        Activation(
            name="softsign",
            module="Softsign",
            family="sigmoids",
            saved="input",
            formula="x / (1 + |x|)",
            derivative="1 / (1 + |x|)^2",
            why_saved="1 - |y| has lost the derivative's digits for large x; torch saves two tensors.",
            paper="Glorot & Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks",
            reference=F.softsign,
        ),
    )
}
