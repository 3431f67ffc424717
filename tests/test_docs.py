"""What the documentation says of the activations is what the catalogue says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readmes_table_is_the_catalogues() -> None:
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    readme = make.README.read_text()
    assert make.with_table(readme) == readme, "run `make docs`"
