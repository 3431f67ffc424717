"""What an installed wheel must do, from outside the tree: `make wheel-check` runs this with no source in sight."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn

import fastact
from fastact import ops

MODULES = {"ReLU": {}, "GELU": {}, "ELU": {"alpha": 0.5}, "PReLU": {}, "Softmax": {"dim": -1}, "GLU": {}}

assert Path(fastact.__file__).is_relative_to(sysconfig.get_path("purelib")), fastact.__file__
assert ops.HAS_NODES, ops.WHY_NO_NODES
for name, arguments in MODULES.items():
    ours, theirs = (getattr(library, name)(**arguments) for library in (fastact, nn))
    x = torch.randn(64, 1024, requires_grad=True)
    output, expected = ours(x), theirs(x)
    grad = torch.randn_like(output)
    gradients = [torch.autograd.grad(y, x, grad)[0] for y in (output, expected)]
    assert output.grad_fn.name() != expected.grad_fn.name(), "torch's own node: no kernel has run"
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(*gradients)
print(f"{', '.join(MODULES)}: forward and backward as torch's, {ops.instruction_set()}, {sys.version.split()[0]}")
