"""What is deprecated still works, and says so (docs/versions.md)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastact


def test_always_kernels() -> None:
    with pytest.warns(FutureWarning, match="always_kernels does nothing") as seen, fastact.always_kernels():
        pass
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.filterwarnings("ignore:fastact.always_kernels:FutureWarning")
def test_always_kernels_within_a_compiled_function() -> None:
    def step(x: Tensor) -> Tensor:
        with fastact.always_kernels():
            return F.relu(x) + 1

    x = torch.randn(4)
    assert torch.equal(torch.compile(step, backend="eager", fullgraph=True)(x), x.relu() + 1)


def test_variables() -> None:
    """That have no meaning any more."""
    run = [sys.executable, "-c", "import fastact"]
    told = [
        subprocess.run(run, env=os.environ | more, check=True, stderr=subprocess.PIPE, text=True).stderr
        for more in ({}, {"FASTACT_ALWAYS_KERNELS": "1"})
    ]
    assert told[0] == ""
    assert "FutureWarning: fastact: the environment variable FASTACT_ALWAYS_KERNELS does nothing" in told[1]
