"""Completes the docstrings of the functions and modules when the package is imported.

In the source a docstring says what a function does, which arguments only this one has, what it raises, and how to call
it. Added here is what the catalogue knows (formula, derivative, what is saved, the paper) and what holds for all of a
kind (shapes, dtypes, the common arguments), unless the source has a section of its own. A module takes what its
docstring leaves open from its function's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from textwrap import fill
from typing import Any

from . import functional, modules
from .catalogue import ACTIVATIONS, Activation

_ARGUMENTS = {
    "input": "the input.",
    "inplace": "whether to overwrite the input with the output.",
    "gate": "the gate, where it is a tensor of its own. If its shape or dtype is not the input's, torch broadcasts or "
    "refuses.",
    "gate_first": "whether the first half of one tensor is the gate, as some models pack their weights; else it is the "
    "value, as in GLU.",
    "device": "where the parameters are.",
    "dtype": "the dtype of the parameters.",
}
"""Those that mean the same everywhere."""

_SHAPES = {
    "pointwise": "    Any, which is the output's too.",
    "channelwise": "    Any, which is the output's too. The channels are dimension 1.",
    "softmax": "    Any, which is the output's too.",
    "gated": "    One tensor has an even size along `dim`, of which the output has half. Two have the output's shape.",
    "maxout": "    The size along `dim` is a multiple of `pieces`. The output's is that size divided by `pieces`.",
}
"""By the kind of activation."""

_DTYPES = """\
    float32, float64, float16 and bfloat16 run fastact's kernels, on the CPU and on GPUs. 16-bit types compute in
    float32 and round once. Any other goes to torch."""
_RAISES = "    Exception: what torch raises for the same call. fastact hands over what its kernels do not take."

_SECTION = re.compile(r"^(Args|Shape|Raises|Examples):\n", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)


def complete() -> None:
    """Complete the docstrings of the catalogue's functions and modules."""
    by_function: dict[str, list[Activation]] = defaultdict(list)
    for row in ACTIVATIONS.values():
        by_function[row.function].append(row)
    for name, rows in by_function.items():
        function = getattr(functional, name)
        if not function.__doc__:  # python -OO
            return
        shared = _shared(rows)
        source = _Source(function.__doc__)
        function.__doc__ = source.completed(shared, function)
        for module in (rows[0].module, *rows[0].further_modules):
            cls = getattr(modules, module)
            cls.__doc__ = _Source(cls.__doc__ or "", source).completed(shared, cls.__init__)


class _Source:
    """A docstring of the source in its parts, with those of a function's behind it."""

    def __init__(self, text: str, behind: _Source | None = None) -> None:
        indent = text[text.rfind("\n") + 1 :]  # of the closing quotes; from Python 3.13 on the compiler removes it
        parts: list[str] = _SECTION.split(text.replace(f"\n{indent}", "\n"))
        self.summary, _, notes = parts[0].rstrip().partition("\n\n")
        sections = {title: body.rstrip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}
        arguments = dict(_ARGUMENT.findall(sections.pop("Args", "")))
        self.notes, self.arguments, self.sections = [notes], arguments, sections
        if behind is not None:
            self.notes += behind.notes
            self.arguments = {**behind.arguments, **arguments}
            self.sections = {**behind.sections, **sections}

    def completed(self, shared: dict[str, str], called: Callable[..., Any]) -> str:
        """The whole docstring of what is called with the arguments of `called`."""
        sections = {**shared, "Args": self._arguments(called), **self.sections}
        sections["Raises"] = "\n".join(filter(None, (self.sections.get("Raises"), _RAISES)))
        titles = ("Args", "Shape", "Dtypes", "Saved for backward", "Raises", "Examples", "References")
        bodies = [f"{title}:\n{sections[title]}" for title in titles if sections.get(title)]
        return "\n\n".join(filter(None, (self.summary, shared["Formula"], *self.notes, *bodies)))

    def _arguments(self, called: Any) -> str:
        names = called.__code__.co_varnames[: called.__code__.co_argcount]
        defaults = called.__defaults__ or ()
        texts = {**_ARGUMENTS, **self.arguments}
        lines = []
        for name, value in zip(names, (*[None] * (len(names) - len(defaults)), *defaults), strict=True):
            shown = round(value, 4) if isinstance(value, float) else repr(value)
            default = "" if value is None else f" Default: {shown}."
            if name in texts and not name.startswith("_"):
                lines.append(f"    {name}: {texts[name]}{default}")
        return "\n".join(lines)


def _shared(rows: list[Activation]) -> dict[str, str]:
    """The sections that follow from the rows of one function."""
    formulas = []
    for row in rows:
        chosen = "".join(f"{name}={value!r}: " for name, value in row.options.items())
        formulas += [f"    {chosen}y = {row.formula}", f"    {chosen}derivative: {row.derivative}"]
    return {
        "Formula": "\n".join(formulas),
        "Shape": _SHAPES[rows[0].kind],
        "Dtypes": _DTYPES,
        "Saved for backward": _indented(rows[0].saved_in_words),
        "References": _indented(rows[0].paper),
    }


def _indented(text: str) -> str:
    if len(text) > 116:
        text = fill(text, width=116).replace("\n", "\n    ")  # which takes longer than all else here
    return f"    {text}"
