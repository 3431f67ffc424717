"""Other libraries' models need torchvision, whose wheel from PyPI needs a CUDA build of torch for its ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import zoo

zoo.torchvision_stand_in()


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Layers of a few hundred elements take hundreds of times as long where other processes keep a core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
