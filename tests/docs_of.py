"""What docstrings say: their examples, which must run, and the arguments they name, which must be the signature's."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import griffe
import torch
from torch import nn

import fastact

_GIVEN = {"torch": torch, "nn": nn, "fastact": fastact}
"""What an example may use without an import."""


def methods_of(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of fastact's defines."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def run_examples(name: str, thing: Any) -> int:
    """Run the examples in the docstrings of a function or of a class and its methods, and return how many there are."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = doctest.DocTestFinder().find(thing, name, globs=_GIVEN)
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
    return runner.tries


def documented_arguments(thing: Any) -> list[str]:
    """The names in the docstring's section of arguments, as the site's parser of docstrings reads it."""
    sections = griffe.Docstring(inspect.getdoc(thing) or "").parse("google")
    return [
        each.name for section in sections if section.kind is griffe.DocstringSectionKind.parameters
        for each in section.value
    ]  # fmt: skip


def signature_arguments(thing: Any) -> list[str]:
    """The names of its parameters, with their stars; those with an underscore are no part of what is promised."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    called = thing.__init__ if inspect.isclass(thing) else thing
    if called is nn.Module.__init__:  # which takes any, and refuses them
        return []
    parameters = inspect.signature(called).parameters.values()
    return [
        stars.get(each.kind, "") + each.name for each in parameters
        if each.name != "self" and not each.name.startswith("_")
    ]  # fmt: skip
