"""What docstrings say: their examples, which must run, and the arguments they name, which must be the signature's. And
the fragments of programs on pages, which must run too."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import torch
from torch import Tensor, nn

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


def fragments_of(page: Path) -> list[str]:
    """The page's blocks of Python but for whole scripts, which begin with a docstring: those are files of examples/."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if not block.startswith('"""')]


def run_fragments(page: Path, **given: Any) -> None:
    """Run a page's fragments one after the other, with what a reader has at hand: a model, data and a way to train."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))
    x, target, criterion = torch.randn(4, 784), torch.randint(10, (4,)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train(model: nn.Module, batch: tuple[Tensor, Tensor] = (x, target)) -> None:
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        optimizer.step()

    data = {"x": x, "target": target, "batches": [(x, target)] * 3, "bias": x[0], "residual": x.clone()}
    names = {**_GIVEN, **data, "model": model, "criterion": criterion, "optimizer": optimizer, "train": train, **given}
    try:
        for fragment in fragments_of(page):
            exec(compile(fragment, str(page), "exec"), names)
    finally:
        fastact.disable()


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
