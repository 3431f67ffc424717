"""What `python -m fastact warmup` compiles is what calls launch, and launches find it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DEFAULTS, DTYPES, Case, run_kernels

from fastact.__main__ import main

HERE = Path(__file__).parent
pytestmark = pytest.mark.only("cpu")


def shapes(case: Case) -> list[tuple[int, ...]]:
    if case.activation.kind == "softmax":
        return [(4096, 512), (1024, 1008)]
    if case.activation.kind == "channelwise":
        return [(5000,), (8191,), (3, 8192)]
    return [(1,), (1000,), (4096,), (3, 4096), (2, 3, 64, 64)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_calls_launch_what_was_compiled(case: Case, dtype: torch.dtype, device: str) -> None:
    from fastact.tools import warmup
    from fastact.triton.launch import recording
    from fastact.triton.ops import KERNELS

    compiled = {launch.kind for launch in warmup.launches(case.activation, dtype)}
    with recording() as launches:
        for shape in shapes(case):
            x = torch.zeros(case.shape(*shape), dtype=dtype)
            run_kernels(case, KERNELS.__getitem__, x, case.torch(x))
        if case.activation.kind == "pointwise":
            x = torch.zeros(64, 3 * 128, dtype=dtype).chunk(3, dim=-1)[1]
            run_kernels(case, KERNELS.__getitem__, x, case.torch(x).contiguous())
    missing = {launch.kind for launch in launches} - compiled
    assert launches
    assert not missing


def test_another_process_compiles_nothing(device: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ["--activations", "relu", "--dtypes", "bfloat16", "--target", "sm_90"]
    said = python("-m", "fastact", "warmup", *options)
    kernels, anew = map(int, re.match(r"(\d+) kernels, (\d+) of them compiled anew", said).groups())
    assert kernels == anew
    assert str(tmp_path) in said
    found, compiled = map(int, python(str(HERE / "stub_gpu.py"), "stub", "relu").split())
    assert (3 <= found <= kernels, compiled) == (True, 0)
    assert int(python(str(HERE / "stub_gpu.py"), "stub", "bilinear").split()[1]) > 0, (
        "what was not asked for is not there"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_says_where_there_is_no_gpu(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["warmup"])
    assert "torch sees no GPU" in capsys.readouterr().err


def test_targets_are_read(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["warmup", "--target", "hopper"])
    assert "hopper is none like sm_90" in capsys.readouterr().err
