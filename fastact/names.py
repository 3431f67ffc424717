"""The names by which users choose activations, and those of layers in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from .catalogue import ACTIVATIONS, Activation


def rows_named(name: str) -> frozenset[str]:
    """The catalogue's rows with this name, or whose function has it: "gelu" is gelu and gelu_tanh.

    Raises `ValueError`, with the names that are near, if there are none.
    """
    rows = frozenset(row.name for row in ACTIVATIONS.values() if name in (row.name, row.function))
    if not rows:
        raise _unknown(name)
    return rows


def row_named(name: str) -> Activation:
    """The catalogue's row of this name: "gelu" is GELU without its approximation alone.

    Raises `ValueError`, with the names that are near, if there is none.
    """
    if name not in ACTIVATIONS:
        raise _unknown(name)
    return ACTIVATIONS[name]


def _unknown(name: str) -> ValueError:
    near = get_close_matches(str(name).lower(), ACTIVATIONS, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; there are {', '.join(ACTIVATIONS)}"
    return ValueError(f"fastact has no activation named {name!r}{hint}")


def chosen(only: Iterable[str] | str | None = None, exclude: Iterable[str] | str | None = None) -> frozenset[str]:
    """The names of the catalogue's rows that `only` names (by default all of them) without those of `exclude`.

    Either takes a name or several, of rows or of functions, as `rows_named` reads them. Raises `ValueError` for others.

    >>> sorted(chosen(only=["gelu", "relu"], exclude="gelu_tanh"))
    ['gelu', 'relu']
    """
    return (frozenset(ACTIVATIONS) if only is None else _rows(only)) - _rows(exclude or ())


def _rows(names: Iterable[str] | str) -> frozenset[str]:
    return frozenset().union(*map(rows_named, [names] if isinstance(names, str) else names))


def folded(path: str, leaves: bool = True) -> str:
    """The path of a module where like layers share a row: with a star for each number, the last name's too if `leaves`
    of one container are alike."""
    return re.sub(rf"(?<![^.])\d+(?={'[.]|$' if leaves else '[.]'})", "*", path) or "(model)"
