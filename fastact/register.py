"""fastact's activations under the names by which transformers and timm make theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from . import functional, modules
from .catalogue import ACTIVATIONS, Activation
from .twins import twin_of

_MISSING = object()


class Registration:
    """Names that were added to a library's tables. Leaving a `with` block puts the tables back, as `remove` does."""

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, Any], str, Any]] = []

    def remove(self) -> None:
        """Put the tables back as they were."""
        while self._undo:
            table, name, before = self._undo.pop()
            if before is _MISSING:
                table.pop(name, None)
            else:
                table[name] = before

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _set(self, table: dict[str, Any], name: str, value: Any) -> None:
        # Not table[name]: transformers' table makes a module of what it has.
        self._undo.append((table, name, dict.get(table, name, _MISSING)))
        table[name] = value


def register_transformers(replace: bool = False) -> Registration:
    """Let transformers' configs name any activation of fastact: `hidden_act="star_relu"`, "squared_relu", "elu".

    It adds to `transformers.activations.ACT2FN` the names of the catalogue's pointwise activations that are missing
    there. Models that exist are `convert`'s.

    Args:
        replace: whether the names that are there make fastact's modules too, where fastact computes the same:
            "gelu_new", "silu", "relu2", but not "laplace".

    Returns:
        A context manager that takes the names back, and so does its `remove()`.

    Raises:
        RuntimeError: if transformers has not been imported.

    Examples:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
        >>> with fastact.register_transformers():
        ...     model = LlamaModel(LlamaConfig(hidden_act="squared_relu", num_hidden_layers=1, **sizes))
        >>> model.layers[0].mlp.act_fn
        SquaredReLU()
    """
    table = _imported("transformers", "transformers.activations").ACT2FN
    registration = Registration()
    for row in _pointwise():
        if row.name not in table:
            registration._set(table, row.name, (getattr(modules, row.module), row.arguments()))
    if replace:
        for name in list(table):
            content = dict.__getitem__(table, name)
            cls, arguments = content if isinstance(content, tuple) else (content, {})
            registration._set(table, name, (twin_of(cls), arguments))
    return registration


def register_timm(replace: bool = False) -> Registration:
    """Let timm's models name any activation of fastact: `timm.create_model(name, act_layer="star_relu")`.

    It adds to what `create_act_layer` and `get_act_fn` look in the names of the catalogue's pointwise activations that
    are missing there. All take `inplace`, as timm's do; those that cannot work in place ignore it. What learns
    something is no function.

    Args:
        replace: whether the names that are there, "relu", "silu", "gelu" and so on, are fastact's too.

    Returns:
        A context manager that takes the names back, and so does its `remove()`.

    Raises:
        RuntimeError: if timm has not been imported.

    Examples:
        >>> from timm.layers import create_act_layer
        >>> with fastact.register_timm():
        ...     create_act_layer("star_relu")
        StarReLU()
    """
    create_act = _imported("timm", "timm.layers.create_act")
    registration = Registration()
    for row in _pointwise():
        if row.name not in create_act._ACT_LAYER_DEFAULT:
            registration._set(create_act._ACT_LAYER_DEFAULT, row.name, _layer(row))
        if row.name not in create_act._ACT_FN_DEFAULT and not row.weights:
            registration._set(create_act._ACT_FN_DEFAULT, row.name, _function(row))
    if replace:
        for layers in create_act._ACT_LAYERS:
            for name, cls in list(layers.items()):
                if isinstance(cls, type) and issubclass(cls, nn.Module):
                    registration._set(layers, name, twin_of(cls))
        for functions in create_act._ACT_FNS:
            for name in list(functions):
                row_name = _TIMM_NAMES.get(name, name)
                if row_name in ACTIVATIONS:
                    registration._set(functions, name, _function(ACTIVATIONS[row_name]))
    return registration


_TIMM_NAMES = {"swish": "silu", "hard_sigmoid": "hardsigmoid", "hard_swish": "hardswish"}


def _imported(library: str, module: str) -> Any:
    if module not in sys.modules:
        raise RuntimeError(f"import {library} first")
    return sys.modules[module]


def _pointwise() -> list[Activation]:
    return [row for row in ACTIVATIONS.values() if row.pointwise]


def _layer(row: Activation) -> Callable[..., nn.Module]:
    cls: type[nn.Module] = getattr(modules, row.module)

    def layer(inplace: bool = False, **arguments: Any) -> nn.Module:
        own = {"inplace": inplace} if row.inplace else {}
        return cls(**{**row.arguments(), **own, **arguments})

    return layer


def _function(row: Activation) -> Callable[..., Tensor]:
    function = partial(getattr(functional, row.function), **row.arguments())

    def act(x: Tensor, inplace: bool = False) -> Tensor:
        return function(x, inplace=inplace) if row.inplace else function(x)

    return act
