"""Whatever a test does, torch's ops are torch's again after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastact


@pytest.fixture(autouse=True)
def _disabled_afterwards() -> Iterator[None]:
    yield
    fastact.disable()


@pytest.fixture
def enabled() -> Iterator[None]:
    """Asks for all of torch's ops to be replaced throughout the test."""
    with fastact.enable():
        yield
