"""What a user may call where there is no C++ library: tests/test_no_library.py runs this in a copy without one.

Its arguments: the platform to be taken for, and what the warning says.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

sys.platform = sys.argv[1]  # torch has looked at it by now
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import fastact
    from fastact import functional as F
    from fastact import libraries
    from fastact.catalogue import ACTIVATIONS

(warning,) = told
assert warning.category is RuntimeWarning, warning
assert str(warning.message).startswith("fastact runs torch's kernels: "), warning.message
assert sys.argv[2] in str(warning.message), warning.message
assert not libraries.HAS_NODES

for row in ACTIVATIONS.values():
    if row.random:
        continue
    arguments = {**row.arguments(), **row.keywords}
    weights = [torch.full((1,), low, requires_grad=True) for low, _ in row.weights.values()]
    x = torch.randn(6, 12, requires_grad=True)
    outputs = [function(x, *weights, **arguments) for function in (getattr(F, row.function), row.reference)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), (x, *weights)) for y in outputs), rtol=0, atol=0)
    if row.inplace:
        y = x.detach() + 0
        assert getattr(F, row.function)(y, **arguments, inplace=True) is y
        torch.testing.assert_close(y, outputs[1].detach(), rtol=0, atol=0)
assert F.rrelu(-torch.ones(1000), training=True).unique().numel() > 100

x, bias = torch.randn(4, 3), torch.randn(3)
assert torch.equal(F.bias_act(x, bias, residual=x, activation="relu"), torch.relu(x + bias) + x)
assert fastact.l1_norm(F.relu(x)) == torch.relu(x).sum()

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Softmax(-1))
x = torch.randn(4, 8)
expected = model(x)
assert torch.equal(fastact.convert(model)(x), expected)
assert type(model[1]).__module__.startswith("fastact")
assert "ReluBackward0" in str(fastact.saved(model, x))
with fastact.Monitor(model) as monitor:
    model(x).sum().backward()
assert len(monitor.report().rows) == 3, monitor.report()
penalised = nn.Sequential(nn.Linear(8, 8), fastact.L1(fastact.ReLU(), 0.5))
penalised(x)
fastact.l1_penalty(penalised).backward()
assert penalised[0].weight.grad.count_nonzero() > 0
assert fastact.overrides().rows == []
assert not fastact.is_enabled()
fastact.disable()


def refusal(call: Callable[[], AbstractContextManager]) -> str:
    try:
        call().__enter__()
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{call} works")


for call in (fastact.enable, fastact.recompute, fastact.Coverage):
    assert sys.argv[2] in refusal(call)
    assert "fastact.convert(model) and fastact's modules and functions work" in refusal(call)
print(f"{len(ACTIVATIONS)} activations by torch's kernels")
