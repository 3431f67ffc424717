"""Other libraries' models need torchvision, whose wheel from PyPI needs a CUDA build of torch for its ops."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch

try:
    importlib.import_module("torchvision")
except ImportError:
    pass  # what needs it is skipped
except RuntimeError:  # its ops do not exist: stand-ins, which nothing here calls
    _OPS = torch.library.Library("torchvision", "DEF")
    _OPS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Layers of a few hundred elements take hundreds of times as long where other processes keep a core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
