"""The examples in the docstrings of what meets other libraries, the arguments that these name; the page of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docs_of import documented_arguments, run_examples, run_fragments, signature_arguments
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

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


def test_the_page_of_models_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    LlamaForCausalLM(small).save_pretrained(tmp_path)
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda name: load(tmp_path))
    run_fragments(Path(__file__).parents[2] / "docs" / "models.md")
