"""Pictures of activations: which ones, with which arguments. `fastact.tools.plot` draws them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from . import modules
from .catalogue import ACTIVATIONS
from .names import row_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

# Arguments of the modules that do not show in the curve of one number.
_UNSEEN = {"device", "dim", "dtype", "gate_first", "inplace", "num_parameters"}


def plot(
    *activations: str | nn.Module,
    derivatives: int = 1,
    range: tuple[float, float] = (-5.0, 5.0),
    file: str | Path | None = None,
    overlay: bool | None = None,
    **parameters: Any,
) -> Figure:
    """Draw activations with their derivatives.

    An activation is a name of the catalogue or a module. A gated unit is drawn with x as the gate and a value of 1,
    softmax and Maxout of x and zeros, RReLU in evaluation (in a panel of its own with random numbers of training as
    dots).

    All is computed in float64, by fastact's kernels where there are any, and derivatives by autograd. Lines break where
    a function or its derivative jumps; in modules that the catalogue does not have, at 0 alone. Where a curve is flat,
    the panel is shaded, or has a strip of the curve's colour at the bottom. Flat is as for `fastact.Monitor`: the
    derivative is below 5% of its maximum, or of 1 where that is larger.

    Args:
        *activations: names ("gelu_tanh"), and modules of fastact's, torch's or your own that compute each output
            element from one input element.
        derivatives: up to which derivative, 0, 1 or 2.
        range: the least and the largest x.
        file: writes the picture too. The ending decides the format: PNG, SVG, PDF or what else matplotlib writes, or
            HTML, one page that shows values under the pointer and works offline.
        overlay: whether the activations share their panels, one for each derivative. By default two to four do, and of
            more each has a panel.
        **parameters: arguments of the named activations' modules. `negative_slope=0.2` goes to each that takes it.

    Returns:
        matplotlib's figure.

    Raises:
        ValueError: if a name is unknown, an activation refuses a value, or a module is no function of each
            element.
        TypeError: if no activation takes a parameter.
        ImportError: if matplotlib is missing (`pip install fastact[plot]`).

    Examples:
        >>> figure = fastact.plot("relu", "gelu", "leaky_relu", negative_slope=0.2, derivatives=2, file="curves.svg")
        >>> figure = fastact.plot(fastact.ELU(alpha=0.5), nn.Softplus(beta=3), range=(-6, 6))
    """
    if not activations:
        raise TypeError("plot() takes at least one activation")
    for activation in activations:
        if not isinstance(activation, str | nn.Module):
            raise TypeError(f"an activation is a name or a module, got {activation!r}")
    takes = {name: arguments_of(name) for name in activations if isinstance(name, str)}
    unknown = sorted(parameters.keys() - {argument for each in takes.values() for argument in each})
    if unknown:
        raise TypeError(f"none of the activations takes {', '.join(map(repr, unknown))}; {_offers(takes)}")
    chosen = [
        activation
        if isinstance(activation, nn.Module)
        else named(activation, **{name: parameters[name] for name in takes[activation] if name in parameters})
        for activation in activations
    ]
    from .tools import plot as pictures

    figure = pictures.activations(chosen, derivatives, range, overlay)
    if file is not None:
        pictures.save(figure, file)
    return figure


def arguments_of(name: str) -> list[str]:
    """Those arguments of the named activation's module that change its curve. Raises `ValueError` for other names."""
    parameters = inspect.signature(_class(name)).parameters.values()
    return [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD and each.name not in _UNSEEN]


def named(name: str, **arguments: Any) -> nn.Module:
    """The module of a name of the catalogue. Raises `TypeError` for arguments that it does not take, and `ValueError`
    for other names and for values that it refuses."""
    takes = arguments_of(name)
    unknown = [repr(each) for each in arguments if each not in takes]
    if unknown:
        raise TypeError(f"{name} does not take {', '.join(unknown)}; {_offers({name: takes})}")
    module = _class(name)
    try:
        return module(**{**ACTIVATIONS[name].arguments(), **arguments})
    except (AssertionError, RuntimeError, TypeError) as error:  # torch's modules differ in what they raise
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"{name} refuses {given}" + f": {error}" * bool(str(error))) from error


def _class(name: str) -> type[nn.Module]:
    return getattr(modules, row_named(name).module)


def _offers(takes: dict[str, list[str]]) -> str:
    """In words."""
    offers = [f"{name} takes {', '.join(arguments) or 'no arguments'}" for name, arguments in takes.items()]
    return "; ".join(offers or ["arguments are for activations given by name"])
