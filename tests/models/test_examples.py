"""The examples in the docstrings of what meets other libraries, and the arguments that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docs_of import documented_arguments, run_examples, signature_arguments

import fastact
from fastact.integrations import lightning, transformers

THINGS = [
    fastact.register_timm,
    fastact.register_transformers,
    lightning.MonitorCallback,
    transformers.MonitorCallback,
]


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: f"{thing.__module__}.{thing.__qualname__}")
def test_examples_run(thing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_examples(thing.__qualname__, thing) > 0, "it has no example"
    assert documented_arguments(thing) == signature_arguments(thing)
