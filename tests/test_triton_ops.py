"""The Triton kernels as implementations of the ops torch.ops.fastact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DEFAULTS, Case

pytestmark = pytest.mark.only("interpret", "cuda")

def implementations() -> dict:
    from fastact.triton.ops import IMPLEMENTATIONS

    return IMPLEMENTATIONS


@pytest.mark.parametrize(("dim", "gate_first"), [(-1, False), (1, True)])
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.kind == "gated"], ids=str)
def test_gated_units_of_one_tensor(case: Case, dim: int, gate_first: bool, device: str, on: str) -> None:
    ops, name, order = implementations(), case.activation.name, slice(None, None, -1 if gate_first else 1)
    x = torch.randn(3, 8, 12, device=on)
    value, gate = x.chunk(2, dim)[order]
    y = ops[f"{name}_packed"](x, dim, gate_first)
    assert torch.equal(y, ops[name](value, gate))
    gradient = ops[f"{name}_packed_backward"](y, x, dim, gate_first)
    assert torch.equal(gradient, torch.cat(ops[f"{name}_backward"](y, value, gate)[order], dim))


@pytest.mark.parametrize("dim", range(-3, 3))
def test_maxout(dim: int, device: str, on: str) -> None:
    """The gradient lies as the input did, also where that cannot be seen from one group's numbers."""
    ops = implementations()
    x = torch.randn(4, 8, 12, device=on)
    for input in (x, x.transpose(0, 2), x.movedim(0, 1), *(x.narrow(i, 0, 2).contiguous() for i in range(3)), x[:0]):
        y, indices = ops["maxout_indices"](input, 2, dim)
        best, winners = input.unflatten(dim, (-1, 2)).max(dim if dim < 0 else dim + 1)
        assert torch.equal(y, best)
        assert torch.equal(indices, winners.byte())
        assert torch.equal(ops["maxout"](input, 2, dim), y)
        gradient = ops["maxout_backward"](y, indices, 2, dim)
        assert torch.equal(gradient, torch.where(input == y.repeat_interleave(2, dim), input, 0.0))
        assert gradient.stride() == input.stride() or input.numel() == 0


REGISTERED = """
import warnings
warnings.simplefilter("error", UserWarning)
import torch
from fastact.triton import launch, ops

x = torch.randn(6, 40)
expected = torch.ops.fastact.relu(x)
ops.register("CPU")
names = []
start = launch._start_anew

def start_anew(launch, key):
    names.append(launch.name)
    start(launch, key)

launch._start_anew = start_anew
assert torch.equal(torch.ops.fastact.relu(x), expected)
y = x.clone()
torch.ops.fastact.relu_(y)
assert torch.equal(y, expected)
torch.ops.fastact.softmax(x, -1, torch.float32)
assert names == ["fastact_relu_forward", "fastact_relu_forward", "fastact_softmax_forward"]

def fail(launch, key):
    raise RuntimeError("Failed to find C compiler.")

launch._start_anew = fail
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        assert torch.equal(torch.ops.fastact.relu(x), expected)
        y = x.clone()
        torch.ops.fastact.relu_(y)
        assert torch.equal(y, expected)
assert ["from now on" in str(each.message) for each in said] == [True], said
"""


@pytest.mark.only("interpret")
def test_registered_for_the_cpu(device: str) -> None:
    """In the place of the C++ kernels, which still run where Triton's cannot."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", REGISTERED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
