"""Every public docstring has an example that runs, and names exactly the arguments that there are.

What the pages call, in fragments of programs, there is too, with these arguments.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from docs_of import documented_arguments, methods_of, run_examples, signature_arguments
from torch import nn

import fastact
import fastact.monitor  # has names that are not fastact's own

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def public() -> Iterator[tuple[str, Any]]:
    """What `__all__` names, in fastact and its modules, and the functions of `fastact.functional`. The integrations,
    which need what they are for, are tests/models/test_examples.py's."""
    seen = set()
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] == "fastact" and not path.startswith("fastact.integrations"):
            for name in getattr(module, "__all__", ()):
                thing = getattr(module, name)
                if callable(thing) and id(thing) not in seen:
                    seen.add(id(thing))
                    yield f"{path}.{name}", thing
    for name, thing in vars(fastact.functional).items():
        if inspect.isfunction(thing) and thing.__module__ == fastact.functional.__name__:
            yield f"fastact.functional.{name}", thing


PUBLIC = dict(public())
CALLED = {
    **{name: thing for name, thing in PUBLIC.items() if not is_dataclass(thing) and not hasattr(thing, "_fields")},
    **{
        f"{name}.{method}": member
        for name, thing in PUBLIC.items()
        if inspect.isclass(thing) and not issubclass(thing, nn.Module)
        for method, member in methods_of(thing)
        if not isinstance(member, property)
    },
}
"""All that a user calls: not what is only returned, whose fields have docstrings of their own."""


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples write their files to the current folder, and switch torch's ops."""
    monkeypatch.chdir(tmp_path)
    yield
    fastact.disable()


@pytest.mark.parametrize("name", [name for name in PUBLIC if "register_" not in name])  # those are tests/models's
def test_examples_run(name: str) -> None:
    assert run_examples(name, PUBLIC[name]) > 0, "it has no example"


@pytest.mark.parametrize("name", CALLED)
def test_arguments_are_the_signatures(name: str) -> None:
    assert documented_arguments(CALLED[name]) == signature_arguments(CALLED[name])


@pytest.mark.parametrize("name", [*fastact.modules.__all__, "relu", "softmax", "swiglu"])
def test_what_the_catalogue_adds(name: str) -> None:
    thing = getattr(fastact, name, None) or getattr(fastact.functional, name)
    for title in ("Shape", "Dtypes", "Saved for backward", "Raises", "References"):
        assert f"\n{title}:\n    " in inspect.getdoc(thing), title


def calls_in(page: Path) -> Iterator[tuple[str, list[ast.expr], list[str]]]:
    """Which of fastact's names the page's blocks of Python call, and with what."""
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)).startswith("fastact."):
                yield name, node.args, [each.arg for each in node.keywords if each.arg]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_call_what_there_is(page: Path) -> None:
    for name, positional, keywords in calls_in(page):
        called = functools.reduce(getattr, name.split(".")[1:], fastact)
        inspect.signature(called).bind_partial(*positional, **dict.fromkeys(keywords))


def test_pages_have_calls() -> None:
    assert sum(len([*calls_in(page)]) for page in PAGES) > 10
