"""An activation that is typed: an expression of x, read by a small interpreter. Nothing of it runs as Python."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 200
SHOWN = (-5.0, 5.0)
"""The inputs at which a formula must be finite, and which the picture of an activation shows."""

_CONSTANTS = {"pi": math.pi, "e": math.e}
_UNARY = (
    "abs",
    "atan",
    "cos",
    "erf",
    "exp",
    "expm1",
    "log",
    "log1p",
    "relu",
    "sigmoid",
    "sin",
    "sqrt",
    "square",
    "tanh",
)
_FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    **{name: (1, getattr(torch, name)) for name in _UNARY},
    "softplus": (1, F.softplus),
    "maximum": (2, torch.maximum),
    "minimum": (2, torch.minimum),
    "clamp": (3, torch.clamp),
    "where": (3, torch.where),
}
_OPERATORS: dict[type[ast.AST], Callable[..., Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ALLOWED = f"x, pi, e, numbers, + - * / **, comparisons, and {', '.join(sorted(_FUNCTIONS))}"
"""What a formula may be made of, in words."""


class Formula(nn.Module):
    """The function of each element that an expression says.

    Raises `ValueError`, in words for who typed it, if the expression holds anything but `ALLOWED`, or if it or its
    derivative is not finite somewhere in `SHOWN`.

    >>> Formula("where(x > 0, x, 0.1 * (exp(x) - 1))")
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text.strip()
        if len(self.text) > LONGEST:
            raise ValueError(f"a formula has at most {LONGEST} characters, this one {len(self.text)}")
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError("this is no formula, as x * sigmoid(x) is one") from None
        x = torch.arange(-500, 501) * (SHOWN[1] / 500)  # with 0 itself, which linspace may miss
        for what, values in zip(("the formula", "its derivative"), sampled(self, x), strict=True):
            if not values.isfinite().all():
                at = int((~values.isfinite()).nonzero()[0])
                raise ValueError(f"{what} is {values[at]:.0f} at x = {x[at]:.3g}")

    def forward(self, x: Tensor) -> Tensor:
        try:
            y = _value(self._tree, x)
        except (RuntimeError, TypeError) as error:  # torch's, of true and false among numbers
            raise ValueError(f"this cannot be computed: {str(error).splitlines()[0]}") from error
        if y.dtype != x.dtype:
            raise ValueError("the formula is true or false; where(x > 0, x, 0) is a number")
        if y.shape != x.shape:
            raise ValueError("the formula does not depend on x")
        return y

    def extra_repr(self) -> str:
        return self.text


def sampled(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A function and its derivative, which autograd takes, at each x."""
    x = x.clone().requires_grad_()
    y = function(x)
    if not y.requires_grad:
        return y, torch.zeros_like(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def _value(node: ast.AST, x: Tensor) -> Tensor:
    """Of one part of an expression. Numbers are tensors too, so that none grows without bound, as Python's do."""

    def value(of: ast.AST) -> Tensor:
        return _value(of, x)

    match node:
        case ast.Name(id="x"):
            return x
        case ast.Name(id=name) if name in _CONSTANTS:
            return x.new_tensor(_CONSTANTS[name])
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return x.new_tensor(float(number))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](value(left), value(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](value(left), value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            takes, function = _FUNCTIONS[name]
            if len(args) != takes:
                raise ValueError(f"{name} takes {takes} argument{'s' * (takes > 1)}, not {len(args)}")
            return function(*map(value, args))
    raise ValueError(f"{_shown(node)} is not allowed; a formula is made of {ALLOWED}")


def _shown(node: Any) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 40 else f"{text[:40]}..."
