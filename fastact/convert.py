"""Swap the activations of an existing model for fastact's, and back, and say which are swapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TypeVar

from torch import nn

from .forms import Form
from .names import chosen, folded
from .recompute import no_recompute_around, recompute_around
from .twins import CLASSES, known, row_of, stock_of, twin_of

__all__ = ["Conversion", "Layer", "conversion", "convert", "revert"]

M = TypeVar("M", bound=nn.Module)
Names = Iterable[str] | str | None

_PROJECTIONS = (("gate_proj", "up_proj"), ("gate_up_proj",), ("wi_0", "wi_1"), ("w1", "w2", "w3"))
"""Attributes by which a gated layer shows."""
_KEPT_FORWARDS = ("forward", "_old_forward")
"""Where a module may keep a forward of its own: accelerate puts its own into the first, the class's into the second."""


@dataclass(frozen=True)
class Layer:
    """What `convert` makes, or has made, of one module.

    Examples:
        >>> [layer] = fastact.conversion(nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh")))
        >>> layer.path, layer.stock, layer.activation, layer.is_converted
        ('1', 'GELU', 'gelu_tanh', False)
    """

    path: str
    """As in `model.named_modules()`."""
    stock: str
    """The library's class."""
    activation: str | None
    """The catalogue's row; None where there is none."""
    is_converted: bool
    """Whether its class is fastact's now."""
    why_left: str | None
    """Why `convert` would leave it as it is; None where it would not."""

    @property
    def outcome(self) -> str:
        """What comes of it: "fastact", "convertible", or "left" and why."""
        if self.is_converted:
            return "fastact"
        return "convertible" if self.why_left is None else f"left: {self.why_left}"


@dataclass(frozen=True)
class Conversion:
    """The activations of a model and what `convert` makes of each. As text, a table in which like layers share a row.

    Examples:
        >>> found = fastact.conversion(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Softmax(dim=-1)), exclude="softmax")
        >>> [layer.outcome for layer in found]
        ['convertible', 'left: by `only` or `exclude`']
    """

    layers: tuple[Layer, ...]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __str__(self) -> str:
        alike = Counter(
            (
                folded(layer.path),
                layer.stock,
                layer.activation or "",
                layer.outcome,
            )
            for layer in self.layers
        )
        rows = [["module", "count", "class", "activation", "outcome"]]
        rows += [[path, str(count), *rest] for (path, *rest), count in alike.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def convert(model: M, only: Names = None, exclude: Names = None, *, recompute: bool = False) -> M:
    """Make the activations in a model fastact's, in place, and return the model.

    These are torch.nn's modules, those of transformers, timm and diffusers, and gated layers. A gated layer is an MLP
    that multiplies one projection by an activation of another. In one of the forms that fastact knows it runs the fused
    unit, as down(SwiGLU(up(x), gate(x))) in Llama. docs/models.md lists the classes and forms. Parameters, buffers,
    hooks, `state_dict` and `repr` stay as they are. Only classes change, to subclasses, which copy and pickle.

    It leaves alone what a model does by calling functions, subclasses of activations, and gated layers that differ in
    anything from the known forms. `conversion` lists what was found, before and after.

    `revert` undoes it. Do that before torch.fx, TorchScript or quantisation take the model apart, which look for the
    stock classes. ELU, SELU, CELU and LogSigmoid save their output (torch their input), so that a model which
    overwrites it in place gets autograd's error for that.

    Args:
        model: the module to convert, itself included.
        only: names of the activations to convert; by default all. A name is a function's in `fastact.functional` or a
            more exact one of the catalogue: "gelu" is GELU with and without its approximation, "gelu_tanh" with it
            alone.
        exclude: names of activations to leave as they are.
        recompute: whether each call of the model opens a block of `fastact.recompute`, by hooks on the module.
            Converting again without it leaves that as it was.

    Returns:
        The same model.

    Raises:
        ValueError: if a name is unknown.
        RuntimeError: with `recompute`, if the library of autograd nodes for this release of torch is missing.

    Examples:
        >>> model = fastact.convert(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Softmax(dim=-1)), exclude="softmax")
        >>> [type(module).__module__ for module in model]
        ['torch.nn.modules.linear', 'fastact.modules', 'torch.nn.modules.activation']
    """
    rows = chosen(only, exclude)
    for module in model.modules():
        if row_of(module) in rows and _keeps_forward(module):
            _become(module, twin_of(stock_of(type(module))))
    if recompute:
        recompute_around(model)
    return model


def revert(model: M) -> M:
    """Make all that is fastact's in a model the stock class again, in place, and undo `recompute`.

    Modules of fastact that no library has stay, as `fastact.SquaredReLU`.

    Args:
        model: the module to revert, itself included.

    Returns:
        The same model.

    Examples:
        >>> model = fastact.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        >>> type(fastact.revert(model)[1]) is nn.ReLU
        True
    """
    for module in model.modules():
        _become(module, stock_of(type(module)))
        no_recompute_around(module)
    return model


@contextmanager
def as_stock(model: nn.Module) -> Iterator[None]:
    """Let the modules of `model` be of stock classes until the block ends."""
    classes = [(module, type(module)) for module in model.modules()]
    try:
        for module, cls in classes:
            _become(module, stock_of(cls))
        yield
    finally:
        for module, cls in classes:
            _become(module, cls)


def conversion(model: nn.Module, only: Names = None, exclude: Names = None) -> Conversion:
    """List the activations and gated layers of a model, and what `convert` makes of each. It changes nothing.

    Args:
        model: the module to look at, itself included.
        only: names, as for `convert`.
        exclude: names, as for `convert`.

    Returns:
        For each, whether it is fastact's, whether `convert` would make it so with these arguments, and if not, why.

    Raises:
        ValueError: if a name is unknown.

    Examples:
        >>> print(fastact.conversion(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), fastact.SiLU())))
        module  count  class  activation  outcome
        *       1      ReLU   relu        convertible
        *       1      SiLU   silu        fastact
    """
    rows = chosen(only, exclude)
    layers = (_layer(path, module, rows) for path, module in model.named_modules())
    return Conversion(tuple(layer for layer in layers if layer is not None))


def _layer(path: str, module: nn.Module, rows: frozenset[str]) -> Layer | None:
    """One module; None where it looks like no activation and no gated layer."""
    stock, row = stock_of(type(module)), row_of(module)
    if row is None:
        why: str | None = _why_unknown(module)
        if why is None:
            return None
    elif row not in rows:
        why = "by `only` or `exclude`"
    elif not _keeps_forward(module):
        why = "its forward was replaced on the object"
    else:
        why = None
    is_converted = type(module) is not stock or (row is not None and twin_of(stock) is stock)
    return Layer(path, stock.__name__, row, is_converted, why)


def _why_unknown(module: nn.Module) -> str | None:
    """Why a module that has no row, but looks as if it had one, has none."""
    cls = type(module)
    found = known(stock_of(cls))
    if isinstance(found, Form):
        return f"no fused unit with {type(getattr(module, found.child, None)).__name__}"
    if any(all(hasattr(module, name) for name in names) for names in _PROJECTIONS):
        return "its forward is none of the known forms"
    if any(module.children()):
        return None
    base = next((base for base in cls.__mro__[1:] if known(stock_of(base)) is not None), None)
    if base is not None:
        return f"a subclass of {base.__name__}"
    return "fastact has no such function" if cls.__module__ in CLASSES else None


def _own_forward(module: nn.Module, name: str) -> bool:
    """Whether what the module keeps under this name is its class's forward."""
    kept = module.__dict__.get(name)
    return isinstance(kept, MethodType) and kept.__self__ is module and kept.__func__ is type(module).forward


def _keeps_forward(module: nn.Module) -> bool:
    """Whether the forward of the module's class is the one that runs when it is called."""
    return "forward" not in module.__dict__ or any(_own_forward(module, name) for name in _KEPT_FORWARDS)


def _become(module: nn.Module, cls: type[nn.Module]) -> None:
    # A change of class, not of object: parameters, buffers, hooks and training flags stay what and where they are.
    if type(module) is cls:
        return
    kept = [name for name in _KEPT_FORWARDS if _own_forward(module, name)]
    module.__class__ = cls
    for name in kept:
        module.__dict__[name] = MethodType(cls.forward, module)
