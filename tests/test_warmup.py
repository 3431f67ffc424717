"""What `python -m fastact warmup` compiles is what calls ask for, and calls find it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DTYPES
from gpu import emulator

from fastact.__main__ import main
from fastact.catalogue import ACTIVATIONS, Activation
from fastact.tools import warmup

SCRIPT = Path(__file__).with_name("asked_kernels.py")
pytestmark = pytest.mark.only("cpu")


def python(*arguments: str | Path, **environment: str) -> str:
    """What another process prints."""
    everywhere = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, *arguments], env=everywhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked_kernels(*arguments: str, **environment: str) -> dict[str, list[str]]:
    """What that script says."""
    return json.loads(python(SCRIPT, *arguments, FASTACT_LIBCUDA=str(emulator.build()), **environment))


@pytest.fixture(scope="module")
def asked() -> dict[str, list[str]]:
    """By activation and dtype, the kernels that calls of common layouts and sizes ask for."""
    return asked_kernels("names", *ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
def test_calls_ask_for_what_is_compiled(
    row: Activation, dtype: torch.dtype, device: str, asked: dict[str, list[str]]
) -> None:
    names = asked[f"{row.name} {dtype}"]
    assert {name.split()[1] for name in names} >= {"forward", "backward", *["mask"] * (row.saved == "mask")}
    assert not set(names) - set(warmup.names(row, dtype))


def test_every_kind_of_kernel_is_asked_for(device: str, asked: dict[str, list[str]]) -> None:
    """Of each kind some at least: the names are those that C++ makes."""

    def kinds(names: set[str]) -> set[str]:
        return {re.sub(r"^(bias_)?\w+ |b?float\d+ ?|\d+x\d+", r"\1", name) for name in names}

    compiled = {name for row in ACTIVATIONS.values() for dtype in DTYPES for name in warmup.names(row, dtype)}
    seldom = {"forward rows channel=one", "forward rows channel=two", "backward rows"}
    assert kinds(compiled) - kinds({name for names in asked.values() for name in names}) <= seldom


def test_another_process_compiles_nothing(device: str, tmp_path: Path) -> None:
    cache = {"TRITON_CACHE_DIR": str(tmp_path)}
    options = ["--activations", "bilinear", "--dtypes", "bfloat16", "--target", "sm_90", "--processes", "1"]
    said = python("-m", "fastact", "warmup", *options, **cache)
    kernels, anew = map(int, re.match(r"(\d+) kernels, (\d+) of them compiled anew", said).groups())
    assert kernels == anew == len(set(warmup.names(ACTIVATIONS["bilinear"], torch.bfloat16)))
    assert str(tmp_path) in said
    facts = asked_kernels("kernels", "bilinear", "silu", **cache)
    counts = [len(facts[key]) for key in ("found", "compiled", "said")]
    assert counts == [4, 2, 0], "only SiLU's, which was not warmed up, are compiled"


def test_a_kernel_that_does_not_compile_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"^no such kernel does not compile for sm_90: no kernel has the name"):
        warmup._compile("no such kernel", 90, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_says_where_there_is_no_gpu(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["warmup"])
    assert "torch sees no GPU" in capsys.readouterr().err


def test_targets_are_read(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["warmup", "--target", "hopper"])
    assert "hopper is none like sm_90" in capsys.readouterr().err
