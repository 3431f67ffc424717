"""Which classes compute what fastact computes, and the class that stands in for each: its twin.

torch.nn's twins are the modules of `fastact.modules`. Those of other libraries' classes are made when they are asked
for. Nothing is imported for it: a class is looked up by the module it was defined in and its name, or by the lines of
its forward (`fastact.forms`).

A twin is a subclass of the stock class, with its name, so that `isinstance`, `repr` and `state_dict` stay. It is
pickled as the stock class, and made a twin again where it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from types import new_class
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import functional as F
from . import modules
from .catalogue import ACTIVATIONS
from .forms import Form, form_of
from .recompute import all_modules_are_watched

T = TypeVar("T")

_TORCH: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(modules, name) for row in ACTIVATIONS.values() for name in row.twins
}
_STOCK = {ours: stock for stock, ours in _TORCH.items()}


@dataclass(frozen=True, eq=False)
class Named:
    """A class known by its name."""

    rows: tuple[str, ...]
    """The rows of the catalogue that it computes, by its options, those with the most options first."""
    forward: Callable[..., Any]
    projects: bool = False
    """Whether a linear layer of the module's own comes first: its input is not the activation's."""

    def row_of(self, module: nn.Module) -> str:
        *with_options, plain = self.rows
        return next((name for name in with_options if _has_options(module, name)), plain)


def _one(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: Any, input: Tensor) -> Tensor:
        return function(input)

    return forward


def _gelu_tanh(self: Any, input: Tensor) -> Tensor:
    return F.gelu(input, "tanh")


def _inplace(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: Any, input: Tensor) -> Tensor:
        return function(input, inplace=self.inplace)

    return forward


def _sigmoid_inplace(self: Any, input: Tensor) -> Tensor:
    return input.sigmoid_() if self.inplace else F.sigmoid(input)


def _tanh_inplace(self: Any, input: Tensor) -> Tensor:
    return input.tanh_() if self.inplace else F.tanh(input)


def _prelu(self: Any, input: Tensor) -> Tensor:
    return F.prelu(input, self.weight)


def _xielu(self: Any, input: Tensor) -> Tensor:
    alpha_p = nn.functional.softplus(self.alpha_p)
    alpha_n = self.beta + nn.functional.softplus(self.alpha_n)
    dtype = torch.promote_types(input.dtype, alpha_p.dtype)
    # beta as a number, as transformers' own kernel has it: reading the buffer would wait for a GPU.
    return F.xielu(input.to(dtype), alpha_p.to(dtype), alpha_n.to(dtype), self._beta_scalar)


def _silu_in_float32(self: Any, inputs: Tensor) -> Tensor:
    computes_so = (torch.float32, torch.float16, torch.bfloat16)  # 16-bit types compute in float32 anyway
    wide = inputs if inputs.dtype in computes_so else inputs.float()
    return F.silu(wide).to(inputs.dtype)


def _projected_gelu(self: Any, hidden_states: Tensor) -> Tensor:
    return F.gelu(self.proj(hidden_states), self.approximate)


def _projected_quick_gelu(self: Any, x: Tensor) -> Tensor:
    return F.quick_gelu(self.proj(x))


def _projected_geglu(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs:  # a scale, of long ago, which has a warning of its own
        return stock_of(type(self)).forward(self, hidden_states, *args, **kwargs)
    return F.geglu(self.proj(hidden_states))


_GELU = Named(("gelu",), _one(F.gelu))
_GELU_TANH = Named(("gelu_tanh",), _gelu_tanh)
_QUICK_GELU = Named(("quick_gelu",), _one(F.quick_gelu))
_SILU = Named(("silu",), _one(F.silu))
_MISH = Named(("mish",), _one(F.mish))
_HARDSIGMOID = Named(("hardsigmoid",), _one(F.hardsigmoid))
_HARDSWISH = Named(("hardswish",), _one(F.hardswish))

CLASSES: dict[str, dict[str, Named]] = {
    "transformers.activations": {
        "AccurateGELUActivation": _GELU_TANH,
        "FastGELUActivation": _GELU_TANH,
        "GELUActivation": _GELU,
        "GELUTanh": _GELU_TANH,
        "MishActivation": _MISH,
        "NewGELUActivation": _GELU_TANH,
        "PytorchGELUTanh": _GELU_TANH,
        "QuickGELUActivation": _QUICK_GELU,
        "ReLUSquaredActivation": Named(("squared_relu",), _one(F.squared_relu)),
        "SiLUActivation": _SILU,
        "XIELUActivation": Named(("xielu",), _xielu),
    },
    "transformers.models.bloom.modeling_bloom": {"BloomGelu": _GELU_TANH},
    "timm.layers.activations": {
        "GELU": _GELU,
        "GELUTanh": _GELU_TANH,
        "HardSigmoid": Named(("hardsigmoid",), _inplace(F.hardsigmoid)),
        "HardSwish": Named(("hardswish",), _inplace(F.hardswish)),
        "Mish": _MISH,
        "PReLU": Named(("prelu",), _prelu),
        "QuickGELU": _QUICK_GELU,
        "Sigmoid": Named(("sigmoid",), _sigmoid_inplace),
        "Swish": Named(("silu",), _inplace(F.silu)),
        "Tanh": Named(("tanh",), _tanh_inplace),
    },
    "timm.layers.activations_me": {
        "HardSigmoidMe": _HARDSIGMOID,
        "HardSwishMe": _HARDSWISH,
        "MishMe": _MISH,
        "SwishMe": _SILU,
    },
    "diffusers.models.activations": {
        "ApproximateGELU": Named(("quick_gelu",), _projected_quick_gelu, projects=True),
        "FP32SiLU": Named(("silu",), _silu_in_float32),
        "GEGLU": Named(("geglu",), _projected_geglu, projects=True),
        "GELU": Named(("gelu_tanh", "gelu"), _projected_gelu, projects=True),
    },
}
"""The other libraries' classes, by the module that defines them. A version may lack any of them."""


def _listed(stock: type[nn.Module]) -> Named | None:
    """What its name says of a class."""
    if stock in _TORCH or stock.__module__ == modules.__name__:
        rows = [row for row in ACTIVATIONS.values() if stock.__name__ in (row.module, *row.further_modules)]
        names = tuple(row.name for row in sorted(rows, key=lambda row: -len(row.options)))
        return Named(names, getattr(modules, stock.__name__).forward) if rows else None
    return CLASSES.get(stock.__module__, {}).get(stock.__qualname__)


def _named(stock: type[nn.Module]) -> Named | None:
    """None too where somebody has replaced the forward in the class, which then is not the library's own."""
    listed = _listed(stock)
    return listed if listed and stock.forward.__module__ == stock.__module__ else None


def _per_class(function: Callable[..., T]) -> Callable[..., T]:
    """`cache`, for which mypy takes classes of modules to be unhashable."""
    return cast(Any, cache(function))


def known(stock: type[nn.Module]) -> Named | Form | None:
    """What is known of a class, which must be no twin. Its methods may be replaced while the program runs."""
    return _known(stock, getattr(stock, "forward", None), getattr(stock, "_apply_gate", None))  # those of FORMS


@_per_class
def _known(stock: type[nn.Module], *methods: object) -> Named | Form | None:
    return _named(stock) or form_of(stock)


def stock_of(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that this one is the twin of, or itself."""
    return _STOCK.get(cls) or cls.__dict__.get("_fastact_stock", cls)


def twin_of(stock: type[nn.Module]) -> type[nn.Module]:
    """The class that computes the same through fastact; the class itself where there is none."""
    found = known(stock)
    if found is None or stock.__module__ == modules.__name__:
        return stock
    return _TORCH.get(stock) or _made_twin(stock, found)


@_per_class
def _made_twin(stock: type[nn.Module], found: Named | Form) -> type[nn.Module]:
    forward = {"forward": found.forward} if isinstance(found, Named) else {found.method: _fused(stock, found)}
    body = {**forward, "__module__": __name__, "__reduce_ex__": _reduce, "_fastact_stock": stock}
    return new_class(stock.__name__, (stock,), exec_body=lambda namespace: namespace.update(body))


def _reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
    reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
    stock = stock_of(type(self))
    if stock is type(self):  # a subclass of a twin
        return reduced
    _, (_, *arguments), *state = reduced
    return _restore, (stock, *arguments), *state


def _restore(stock: type[nn.Module], *arguments: Any) -> nn.Module:
    module = stock.__new__(stock, *arguments)
    module.__class__ = twin_of(stock)
    return module


def row_of(module: object) -> str | None:
    """The row of the catalogue that a module computes, given its options and the activation in it; None if none."""
    if not isinstance(module, nn.Module):
        return None
    found = known(stock_of(type(module)))
    if found is None:
        return None
    return found.row_of(module) if isinstance(found, Named) else _row_of_form(module, found)


def derived_row_of(module: nn.Module) -> tuple[str, bool] | None:
    """The row of an activation's module or, where its class derives from one's, of that; and whether the class computes
    it by a forward of its own. None for other modules."""
    cls = type(module)
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        stock = stock_of(base)
        listed = _listed(stock)
        if listed and not listed.projects:
            is_ours = cls.forward is listed.forward
            return listed.row_of(module), not is_ours and cls.forward.__module__ != stock.__module__
    return None


def _row_of_form(module: nn.Module, form: Form) -> str | None:
    if not form.child:
        return form.rows[""]
    # Not getattr, which takes microseconds where a module lacks something.
    child = module._modules.get(form.child)
    if child is None or child.__dict__.get("inplace"):  # in place, it would change its input too
        return None
    return form.rows.get(row_of(child) or "")


def _has_options(module: nn.Module, name: str) -> bool:
    return all(getattr(module, option) == value for option, value in ACTIVATIONS[name].options.items())


def _is_seen(module: nn.Module) -> bool:
    """Whether anything besides its class would notice that a module is not called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or all_modules_are_watched()
    )


@cache
def _function(name: str) -> Callable[..., Tensor]:
    row = ACTIVATIONS[name]
    function = getattr(F, row.function)
    return partial(function, **row.options) if row.options else function


def _fused(stock: type[nn.Module], form: Form) -> Callable[..., Any]:
    """The twin's method. It decides at each call, since the activation inside may have changed or got a hook."""
    original = getattr(stock, form.method)
    name = original.__code__.co_varnames[1]

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():  # the stock graph
            return original(self, *args, **kwargs)
        if not args and kwargs.keys() == {name}:
            args, kwargs = tuple(kwargs.values()), {}
        row = _row_of_form(self, form)
        if row is None or kwargs or len(args) != 1 or (form.child and _is_seen(self._modules[form.child])):
            return original(self, *args, **kwargs)
        if not form.child and not args[0].is_floating_point():  # arithmetic makes floats of integers
            return original(self, *args, **kwargs)
        return form.fused(self, *args, _function(row))

    return method
