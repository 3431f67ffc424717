"""What the documentation says of the activations is what the catalogue says, and what is measured."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import chains
import losses
import make
import pytest
import torch
import train_digits
from cases import needs_nodes
from docs_of import fragments_of, run_fragments

import fastact
from fastact import libraries
from fastact.catalogue import ACTIVATIONS

ROOT = Path(__file__).parents[2]


def test_the_readmes_losses() -> None:
    assert make.README.read_text() == make.readme(), "run `make docs`"


def test_losses_are_counted_as_far_as_the_digits_shown() -> None:
    ratios = {"a": 0.9951, "b": 0.9949, "c": 0.5, "d": 1.2}
    assert losses.slower(ratios) == "2 of 4 (c 0.50, b 0.99)"
    assert losses.larger(ratios) == "1 of 4 (d 1.20)"
    assert losses.larger({"a": 1.004}) == "0 of 1"
    assert losses.slower(dict.fromkeys("abcd", 0.5)).endswith("(a 0.50, b 0.50, c 0.50, …)")


def test_the_page_of_benchmarks() -> None:
    assert make.BENCHMARKS.read_text() == make.benchmarks(), "run `make docs`"


def test_the_page_of_commands() -> None:
    assert make.COMMANDS.read_text() == make.commands_page(), "run `make docs`"


class TestTheGallery:
    def test_is_renewed(self) -> None:
        assert make.GALLERY.read_text() == make.gallery(), "run `make docs`"

    def test_has_a_picture_for_each_activation(self) -> None:
        pictures = list(make.GALLERY.with_suffix("").iterdir())
        assert {path.stem for path in pictures} == ACTIVATIONS.keys()
        assert sum(path.stat().st_size for path in pictures) < 2 << 20

    def test_is_drawn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(make, "ACTIVATIONS", {"gelu": ACTIVATIONS["gelu"]})
        texts = []
        for folder in (tmp_path / "once", tmp_path / "again"):
            make.draw_gallery(folder)
            texts.append((folder / "gelu.svg").read_text())
        assert texts[0] == texts[1]
        assert "<svg" in texts[0]


def test_the_logo() -> None:
    assert make.LOGO.read_text() == make.logo(), "run `make docs`"


class TestTheExampleOnSeveralProcesses:
    def test_is_on_its_page(self) -> None:
        assert make.DISTRIBUTED.read_text() == make.distributed_page(run=False), "run `make docs`"

    @needs_nodes
    def test_no_unit_is_dead_that_one_process_needs(self) -> None:
        command = [sys.executable, make.DISTRIBUTED_EXAMPLE]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        alone, together = (re.search(r"1 +ReLU +([\d.]+)%", part) for part in output.split("both:"))
        assert alone is not None
        assert together is not None
        assert float(alone[1]) > 5
        assert float(together[1]) == 0


DOCUMENTED = [
    name
    for page in sorted((ROOT / "docs" / "api").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]


def public(module: ModuleType) -> list[object]:
    """What is defined there under a name without an underscore."""
    values = (value for name, value in vars(module).items() if name[0] != "_")
    return [value for value in values if getattr(value, "__module__", None) == module.__name__]


def test_every_public_name_is_in_the_api_reference() -> None:
    known: list[object] = []
    for path in DOCUMENTED:
        place, _, name = path.rpartition(".")
        if not place.startswith("fastact.integrations"):
            each = getattr(importlib.import_module(place), name)
            known += public(each) if isinstance(each, ModuleType) else [each]
    expected = {name: getattr(fastact, name) for name in fastact.__all__ if name != "functional"}
    expected |= {value.__name__: value for value in public(fastact.functional)}
    assert len(expected) > 80
    # By name: other tests import modules anew.
    documented = {(each.__module__, each.__qualname__) for each in known}
    assert [name for name, each in expected.items() if (each.__module__, each.__qualname__) not in documented] == []


def test_every_integration_is_in_the_api_reference() -> None:
    # Without an import, for which each needs its library.
    texts = {path.stem: path.read_text() for path in ROOT.glob("fastact/integrations/[a-z]*.py")}
    names = [
        f"fastact.integrations.{stem}.{name}"
        for stem in texts
        for name in re.findall(r"^class (\w+)", texts[stem], re.M)
    ]
    assert len(names) >= 2
    assert set(names) <= set(DOCUMENTED)


def test_the_page_of_activations() -> None:
    assert make.PAGE.read_text() == make.page(), "run `make docs`"


def test_the_page_of_models() -> None:
    assert make.MODELS.read_text() == make.models(), "run `make docs`"


def test_the_page_of_enable() -> None:
    assert make.ENABLE.read_text() == make.enable(), "run `make docs`"


@needs_nodes
def test_the_page_of_saved() -> None:
    assert make.SAVED.read_text() == make.saved_page(), "run `make docs`"


def test_the_page_of_the_monitor() -> None:
    assert make.MONITOR.read_text() == make.monitor_page(), "run `make docs`"


def test_the_page_of_curves(tmp_path: Path) -> None:
    assert make.PLOT.read_text() == make.plot_page(tmp_path / "plot.png"), "run `make docs`"
    assert (tmp_path / "plot.png").stat().st_size > 0


@pytest.mark.skipif(not libraries.HAS_NODES, reason="recompute is in C++")
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


@needs_nodes
@pytest.mark.parametrize(
    "page", [page for page in PAGES if fragments_of(page) and page.name != "models.md"], ids=lambda page: page.name
)  # that one, which needs other libraries, is tests/models's
def test_fragments_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_fragments(page)


@pytest.mark.parametrize(
    ("path", "steps"), [(make.EXAMPLE, 1), (make.MONITOR_EXAMPLE, 11)], ids=["dead_units", "inside"]
)
def test_examples_that_train_run(path: Path, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_batches = train_digits.batches
    monkeypatch.setattr(train_digits, "batches", lambda *args, **options: islice(all_batches(*args, **options), steps))
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "picture.png")])
    assert runpy.run_path(str(path))["monitor"].report().rows


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
