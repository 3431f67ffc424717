"""Launches reuse what was compiled for the first of their kind. A stub stands in for the GPU; see `stub_gpu`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.only("cpu")

SCRIPT = """
import torch
from cases import DEFAULTS, run_kernels
from stub_gpu import StubDriver, driver
from fastact.triton.ops import KERNELS
from fastact.triton import launch

started = []

def launcher(source, metadata):
    return lambda *arguments: started.append((metadata.hash, arguments[:3], len(arguments)))

StubDriver.launcher_cls = staticmethod(launcher)
driver.set_active(StubDriver())
class Forgetful(dict):
    def __setitem__(self, *item):
        pass

seen = []
for launch._compiled in (Forgetful(), kept := {}, kept):
    for case in DEFAULTS:
        if case.activation.name in ("hardshrink", "bilinear"):
            x = torch.zeros(64, 64, dtype=torch.bfloat16)
            flat, wide = torch.zeros(4100), torch.zeros(64, 136)
            for x in (flat, flat[2:], flat[4:], x, x.t(), x.chunk(2)[1], wide[:, :64], wide[:, :128].chunk(2, -1)[1]):
                run_kernels(case, KERNELS.__getitem__, x, case.torch(x))
    seen.append(list(started))
    started.clear()
assert len(seen[0]) > 40 and len({hash for hash, *_ in seen[0]}) > 10
assert seen[0] == seen[1] == seen[2], "the same kernels, with the same grids"
assert len(kept) < len(seen[0]) / 2
"""


def test_the_same_kernels_are_launched(device: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
