"""The emulated GPU (tests/gpu/) in a GPU's place: rehearses what is measured on one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from gpu import emulator


def be_the_driver() -> None:
    """Starts this program anew with the emulated GPU as its driver, unless it has one: fastact looks for that when it
    is imported."""
    if "FASTACT_LIBCUDA" not in os.environ:
        os.environ["FASTACT_LIBCUDA"] = str(emulator.build())
        os.execv(sys.executable, [sys.executable, *sys.argv])


@contextmanager
def emulating(on: bool = True) -> Iterator[None]:
    """CPU tensors go down the GPU path, or do not."""
    before = torch.ops.fastact.emulate_gpu(on)
    try:
        yield
    finally:
        torch.ops.fastact.emulate_gpu(before)
