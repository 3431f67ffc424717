"""What setup.py compiles with, for those that compile the same sources otherwise."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any
from unittest.mock import patch


def of_setup() -> dict[str, Any]:
    """All that it defines."""
    with patch("setuptools.setup"):
        return runpy.run_path(str(Path(__file__).parents[1] / "setup.py"))
