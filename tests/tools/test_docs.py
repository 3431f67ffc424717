"""What the documentation says of the activations is what the catalogue says, and what is measured."""

from __future__ import annotations

import re
from pathlib import Path

import make
import pytest

from fastact import ops

ROOT = Path(__file__).parents[2]


def test_the_readmes_table() -> None:
    text = make.README.read_text()
    assert make.with_block(text, "activations", make.short_table()) == text, "run `make docs`"


def test_the_page_of_activations() -> None:
    assert make.PAGE.read_text() == make.page(), "run `make docs`"


def test_the_page_of_models() -> None:
    assert make.MODELS.read_text() == make.models(), "run `make docs`"


def test_the_page_of_enable() -> None:
    assert make.ENABLE.read_text() == make.enable(), "run `make docs`"


@pytest.mark.skipif(not ops.HAS_NODES, reason="torch's ops are replaced in C++")
def test_the_page_of_saved() -> None:
    assert make.SAVED.read_text() == make.saved_page(), "run `make docs`"


def test_the_guides_example() -> None:
    text = make.GUIDE.read_text()
    assert make.with_block(text, "example", make.example()) == text, "run `make docs`"
    assert re.search("<!-- output:begin -->\n```\nrelu, learning rate .*grad_norm", text, re.DOTALL)


def test_the_page_of_speed() -> None:
    text = make.SPEED.read_text()
    assert make.with_block(text, "page-faults", make.page_faults()) == text, "run `make docs`"


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
