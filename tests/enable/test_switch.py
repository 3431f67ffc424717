"""The switch itself: what is chosen, for how long, and what is said where it cannot be."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from stock import OPS, functional, node
from torch import Tensor

import fastact
from fastact.catalogue import ACTIVATIONS
from fastact.enable import enabled

ROOT = Path(__file__).parents[2]


def replaced() -> set[str]:
    """The activations that calls reach."""
    inputs = {name: torch.linspace(-1, 1, 8).view(2, 4).requires_grad_() for name in OPS}
    return {name for name in OPS if functional(name)(inputs[name]).grad_fn.name() == node(name)}


def test_all_by_default() -> None:
    assert replaced() == set()
    fastact.enable()
    assert replaced() == set(OPS) == {row.activation for row in fastact.overrides().rows if row.enabled}
    assert fastact.is_enabled()
    fastact.disable()
    assert replaced() == set() == {row.activation for row in fastact.overrides().rows if row.enabled}
    assert not fastact.is_enabled()
    fastact.disable()


@pytest.mark.parametrize("name", OPS)
def test_each_alone_and_all_others(name: str) -> None:
    with fastact.enable(only=name):
        expected = {row for row in OPS if name in (row, ACTIVATIONS[row].function)}
        assert replaced() == expected
    with fastact.enable(exclude=name):
        assert replaced() == set(OPS) - expected


def test_choices() -> None:
    fastact.enable(only=["gelu", "relu"], exclude="gelu_tanh")
    assert replaced() == {"gelu", "relu"}
    fastact.enable(["silu"])  # replaces what was chosen
    assert replaced() == {"silu"}
    fastact.enable(only=(name for name in ("tanh",)))
    assert replaced() == {"tanh"}
    fastact.enable(only=[])
    assert replaced() == set()
    assert not fastact.is_enabled()
    fastact.enable(exclude=["swiglu", "softmin", "quick_gelu"])  # which torch has no ops for
    assert replaced() == set(OPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": "geluu"}, "no activation named 'geluu'; did you mean .*gelu"),
        ({"exclude": ["relu", "sofmax"]}, "did you mean 'softmax'"),
        ({"only": ["xyz"]}, "no activation named 'xyz'"),
        ({"only": ["gelu", "softmin", "quick_gelu"]}, "torch has no op for quick_gelu, softmin, .*fastact.convert"),
        ({"only": "swiglu"}, "torch has no op for swiglu"),
    ],
)
def test_wrong_names(arguments: dict, message: str) -> None:
    with fastact.enable(only="relu"):
        with pytest.raises(ValueError, match=message):
            fastact.enable(**arguments)
        assert replaced() == {"relu"}


def test_blocks_nest_and_end_with_exceptions() -> None:
    with fastact.enable(only="relu") as outer:
        inner = fastact.enable(only="gelu", exclude="gelu_tanh")
        assert replaced() == {"gelu"}
        with pytest.raises(ZeroDivisionError), inner:
            1 / 0  # noqa: B018
        assert replaced() == {"relu"}
        with fastact.enable():
            fastact.disable()
            assert replaced() == set()
        assert replaced() == {"relu"}
        assert "1 activations" in repr(outer) or "1 activation" in repr(outer)
    assert replaced() == set()
    assert "0 activations" in repr(outer)


def test_from_a_thread_for_all() -> None:
    thread = threading.Thread(target=fastact.enable, kwargs={"only": "gelu"})
    thread.start()
    thread.join()
    assert replaced() == {"gelu", "gelu_tanh"}


def test_a_second_import() -> None:
    fastact.enable(only="gelu")
    again = importlib.reload(sys.modules["fastact.enable"])
    assert again.is_enabled()
    assert fastact.is_enabled()
    assert replaced() == {"gelu", "gelu_tanh"}
    again.disable()
    assert replaced() == set()
    assert not fastact.is_enabled()


def test_the_list() -> None:
    rows = {row.activation: row for row in fastact.overrides().rows}
    assert set(rows) == set(OPS)
    for name, row in rows.items():
        assert row.torch_op == f"aten::{OPS[name]}" or name == "celu"
        # One bit per element beyond torch's at most.
        assert row.bytes <= row.torch_bytes + 1 / 8, name
        assert row.saves == ACTIVATIONS[name].saved
    with fastact.enable(only="relu"):
        listed = str(fastact.overrides())
        assert replaced() == {"relu"}  # as before
    lines = listed.splitlines()
    assert len(lines) == 2 + len(OPS)
    assert len({len(line.rstrip()) for line in lines[:2]}) == 1
    relu = next(line for line in lines if line.startswith("relu "))
    assert relu.split() == ["relu", "aten::relu", "yes", "0.125", "/", "4"]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)


def test_without_the_library() -> None:
    process = run(
        "import fastact; print(fastact.is_enabled(), fastact.overrides().rows); fastact.disable(); fastact.enable()",
        FASTACT_NODES="python",
    )
    assert process.stdout == "False []\n"
    assert process.stderr.strip().splitlines()[-1] == (
        f"RuntimeError: fastact.enable needs fastact's C++ library for torch {torch.__version__}: FASTACT_NODES=python "
        "asks for them. Without it, fastact.convert(model) and fastact's modules and functions work."
    )


def test_a_process_ends_well_while_enabled() -> None:
    process = run(
        "import atexit, torch, fastact\n"
        "fastact.enable()\n"
        "atexit.register(lambda: print(torch.relu(torch.ones(1, requires_grad=True)).grad_fn.name()))\n"
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "ReLUBackward\n", "")


def test_another_library_over_fastacts() -> None:
    """Who replaces torch's op later is called first, and fastact's again once that is gone."""
    with fastact.enable():
        with torch.library._scoped_library("aten", "IMPL") as library:
            library.impl("gelu", lambda x, approximate="none": x + 1, "AutogradCPU")
            assert F.gelu(torch.zeros(1)).item() == 1
        assert F.gelu(torch.zeros(1, requires_grad=True)).grad_fn.name() == "GELUBackward"


def test_another_library_under_fastacts() -> None:
    """Who replaced torch's op before is still called."""
    process = run(
        "import torch, fastact\n"
        "with torch.library._scoped_library('aten', 'IMPL') as library:\n"
        "    library.impl('gelu', lambda x, approximate='none': x + 1, 'AutogradCPU')\n"
        "    fastact.enable()\n"
        "    print(torch._C._nn.gelu(torch.zeros(1)).item(), end=' ')\n"
        "for switch in (fastact.disable, fastact.enable):\n"
        "    switch()\n"
        "    print(torch._C._nn.gelu(torch.zeros(1)).item(), end=' ')\n"
    )
    assert (process.returncode, process.stdout) == (0, "1.0 0.0 0.0 "), process.stderr


def test_torchs_function_within_fastacts() -> None:
    """Where fastact hands over to torch's function, that may be fastact's op in turn, but never without end."""
    with fastact.enable():
        sparse = torch.eye(3).to_sparse().requires_grad_()
        assert fastact.functional.relu(sparse).is_sparse
        input: Tensor = torch._neg_view(torch.ones(3)).requires_grad_()
        assert torch.equal(fastact.functional.gelu(input), F.gelu(input))


def test_a_kept_block_enables_each_time() -> None:
    kept = fastact.enable(only="relu")
    fastact.disable()
    for _ in range(2):
        with kept:
            assert enabled() == {"relu"}
        assert not fastact.is_enabled()
    with fastact.enable(only="tanh"):
        with kept, kept:
            assert enabled() == {"relu"}
        assert enabled() == {"tanh"}
    assert not fastact.is_enabled()


def test_a_block_ends_with_what_the_call_found() -> None:
    fastact.enable(only="tanh")
    kept = fastact.enable(only="relu")
    with kept:
        fastact.disable()
    assert enabled() == {"tanh"}
    with kept, fastact.enable(only="silu"):
        assert enabled() == {"silu"}
    assert enabled() == {"tanh"}


def test_bytes_of_overrides_are_those_of_float32() -> None:
    expected = fastact.overrides()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        assert fastact.overrides() == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
