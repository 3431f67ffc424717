"""What the documentation says of the activations is what the catalogue says, and what is measured."""

from __future__ import annotations

import re
from pathlib import Path

import chains
import make
import pytest
import torch

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


def test_the_page_of_the_monitor() -> None:
    assert make.MONITOR.read_text() == make.monitor_page(), "run `make docs`"


def test_the_page_of_curves(tmp_path: Path) -> None:
    assert make.PLOT.read_text() == make.plot_page(tmp_path / "plot.png"), "run `make docs`"
    assert (tmp_path / "plot.png").stat().st_size > 0


@pytest.mark.skipif(not ops.HAS_NODES, reason="recompute is in C++")
class TestThePageOfRecompute:
    def test_is_renewed(self) -> None:
        assert make.RECOMPUTE.read_text() == make.recompute_page(), "run `make docs`"

    def test_names_what_is_made_again(self) -> None:
        text = make.RECOMPUTE.read_text()
        producers = {name.partition(".")[0] for name in torch.ops.fastact.producers()}
        assert producers
        assert [name for name in producers if f"`{name}`" not in text] == []

    def test_its_picture(self, tmp_path: Path) -> None:
        mib = 2**20  # a tensor
        for chain in chains.chains():
            stock, ours = chains.counted(chain)
            assert [stock.bytes // mib, ours.bytes // mib] == [4, 4]
            assert ours.recompute_bytes is not None
            assert 2 * mib < ours.recompute_bytes <= 2 * mib + mib // 32 + 256  # bits, and two numbers per channel
        chains.draw(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 0


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
