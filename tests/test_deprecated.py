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
    """That have no meaning any more. Nothing is said of others."""
    code = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import fastact
print(*(f"{each.category.__name__}: {each.message}" for each in told), sep="\\n")
"""
    run = [sys.executable, "-c", code]
    there = os.environ | {"FASTACT_ALWAYS_KERNELS": "1"}
    done = subprocess.run(run, env=there, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("FutureWarning: fastact: the environment variable FASTACT_ALWAYS_KERNELS does nothing")
