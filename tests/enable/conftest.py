"""Whatever a test does, torch's ops are torch's again after it. `fastact.enable` needs the autograd nodes in C++."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import fastact

if os.environ.get("FASTACT_NODES") == "python":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _disabled_afterwards() -> Iterator[None]:
    yield
    fastact.disable()


@pytest.fixture
def enabled() -> Iterator[None]:
    """Asks for all of torch's ops to be replaced throughout the test."""
    with fastact.enable():
        yield
