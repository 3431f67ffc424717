"""What an installed wheel must do, alone with torch: no source in sight, no compiler, no Triton, nothing else.

`make wheel-check` runs this (tests/clean.py), on the torch of development; `make test-matrix` on others. `--nodes
Python` says that the wheel has no nodes in C++ for this torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fastact
from fastact import functional, libraries, ops
from fastact.__main__ import main

MODULES = {"ReLU": {}, "GELU": {}, "ELU": {"alpha": 0.5}, "PReLU": {}, "Softmax": {"dim": -1}, "GLU": {}}
COMPILERS = ("cc", "gcc", "clang", "c++", "g++", "clang++", os.environ.get("CXX", "c++"))


def modules_are_torchs() -> None:
    for name, arguments in MODULES.items():
        ours, theirs = (getattr(library, name)(**arguments) for library in (fastact, nn))
        x = torch.randn(64, 1024, requires_grad=True)
        output, expected = ours(x), theirs(x)
        grad = torch.randn_like(output)
        gradients = [torch.autograd.grad(y, x, grad)[0] for y in (output, expected)]
        assert output.grad_fn.name() != expected.grad_fn.name(), "torch's own node: no kernel has run"
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(*gradients)


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.GELU())
    return model, torch.randn(128, 32)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


def models_train_as_before() -> None:
    model, x = network()
    expected = gradients(model, x)
    torch.testing.assert_close(gradients(fastact.convert(model), x), expected)
    assert type(model[2]) is not nn.ReLU
    assert type(fastact.revert(model)[2]) is nn.ReLU
    if not libraries.HAS_NODES:
        for refused in (fastact.enable, fastact.recompute):
            assert "fastact.convert(model)" in error_of(lambda refused=refused: refused().__enter__())
        return
    nodes = [torch.relu(model(x)).grad_fn.name()]
    with fastact.enable():
        assert fastact.is_enabled()
        nodes.append(torch.relu(model(x)).grad_fn.name())
        assert nodes[0] != nodes[1]
        torch.testing.assert_close(gradients(model, x), expected)
        enabled = gradients(model, x)
        with fastact.recompute():
            torch.testing.assert_close(gradients(model, x), enabled, rtol=0, atol=0)
    assert not fastact.is_enabled()
    with fastact.Coverage() as seen, fastact.enable():
        model(x)
    assert "relu" in str(seen)


def watching() -> None:
    model, x = network()
    with fastact.Monitor(model) as monitor:
        model(x).sum().backward()
    assert {row.layer for row in monitor.report().rows} == {"2", "4"}
    seen = fastact.saved(model, x)
    assert seen.bytes > 0
    assert (seen.recompute_bytes is not None) == libraries.HAS_NODES


def penalties() -> None:
    act = fastact.L1(fastact.ReLU(), 0.5)
    x = torch.randn(100, requires_grad=True)
    act(x).sum().backward(retain_graph=True)
    penalty = fastact.l1_penalty(act)
    torch.testing.assert_close(penalty, 0.5 * x.relu().sum())
    (grad,) = torch.autograd.grad(penalty, x)
    torch.testing.assert_close(grad, 0.5 * (x > 0).float())


def error_of(call: Callable[[], object]) -> str:
    """What the error says that the call ends with."""
    try:
        call()
    except (ImportError, RuntimeError) as error:
        return str(error)
    raise AssertionError("no error")


def told_by(*arguments: str, status: int = 0) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            ended = main(arguments)
        except SystemExit as error:
            ended = error.code
    assert ended == status, out.getvalue()
    return out.getvalue()


def what_is_missing_is_named() -> None:
    assert "pip install 'fastact[plot]'" in error_of(lambda: fastact.plot("relu"))
    with tempfile.TemporaryDirectory() as folder:
        assert "fastact[plot]" in told_by("plot", "relu", "--out", str(Path(folder) / "relu.png"), status=2)
    assert "fastact[play]" in told_by("play", "--no-browser", status=2)
    assert "Triton is not installed" in told_by("warmup", "--target", "sm_90", status=2)


def commands(nodes: str) -> None:
    told = json.loads(told_by("info", "--json"))
    assert told["environment"]["Autograd"].startswith(f"nodes in {nodes}"), told["environment"]["Autograd"]
    assert told["environment"]["Triton"] == "not installed"
    assert told["environment"]["Compiler"] in told_by("info")
    assert "softsign" in told_by("validate", "--activations", "softsign")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--nodes", choices=("C++", "Python"), default="C++")
nodes = parser.parse_args().nodes
assert Path(fastact.__file__).is_relative_to(sysconfig.get_path("purelib")), fastact.__file__
assert not [name for name in COMPILERS if shutil.which(name)], "a compiler is there"
assert not [name for name in ("triton", "matplotlib", "bokeh", "numpy") if importlib.util.find_spec(name)]
assert (nodes == "C++") == libraries.HAS_NODES, libraries.WHY_NO_NODES
assert (libraries.CALLS is not None) == libraries.HAS_NODES, libraries.WHY_NO_CALLS
modules_are_torchs()
models_train_as_before()
watching()
penalties()
assert functional.bias_act(torch.ones(2, 3), torch.ones(3), activation="relu").sum() == 12
what_is_missing_is_named()
commands(nodes)
print(f"fastact {fastact.__version__}: the public API works, {ops.instruction_set()}, nodes in {nodes}")
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}")
