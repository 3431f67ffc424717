"""Swap the activations of an existing model for fastact's, and back."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from . import modules
from .catalogue import ACTIVATIONS

_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(modules, name) for row in ACTIVATIONS.values() for name in row.twins
}
_STOCK = {ours: stock for stock, ours in _TWINS.items()}

M = TypeVar("M", bound=nn.Module)


def _swap(model: M, classes: dict[type[nn.Module], type[nn.Module]]) -> M:
    # A change of class, not of object: parameters, buffers, hooks and training flags stay what and where they are.
    for module in model.modules():
        replacement = classes.get(type(module))
        if replacement is not None:
            module.__class__ = replacement
    return model


def convert(model: M) -> M:
    """Make every torch.nn activation in `model` (itself included) fastact's, in place, and return the model.

    Subclasses of torch.nn's activations are left alone. `revert` undoes it: do that before `torch.fx` or quantisation
    take the model apart, which know torch's modules by their exact class. ELU, SELU, CELU and LogSigmoid save their
    output (torch their input), so a model that overwrites it in place gets autograd's error for that.
    """
    return _swap(model, _TWINS)


def revert(model: M) -> M:
    """Make every fastact activation in `model` that has a twin in torch.nn that twin again, in place."""
    return _swap(model, _STOCK)
