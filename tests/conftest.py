"""Where the suite runs: `--device cpu`, `cuda` or `interpret`; by default on the CPU, and on the GPU if there is one.

`interpret` sends CPU tensors down the whole GPU path, in Triton's interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda", "interpret"), default=None, help="where the kernels run")
    help = "what autograd nodes on the CPU this build has for this torch; default: %(default)s"
    parser.addoption("--nodes", choices=("C++", "Python"), default="C++", help=help)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(device): runs on that device only, whatever the others do")
    config.addinivalue_line("markers", "large: needs most of a GPU's memory, and no other process beside it")
    config.addinivalue_line("markers", "formula: is about formulas, so that every activation needs it on every device")
    if config.getoption("--device") == "interpret":
        os.environ["FASTACT_INTERPRET"] = os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def _devices(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--device")
    return [chosen] if chosen else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        devices = [name for name in _devices(metafunc.config) if only is None or name in only.args]
        metafunc.parametrize("device", devices, scope="session")
    if "nodes" in metafunc.fixturenames:
        in_cpp = "cpu" in _devices(metafunc.config) and metafunc.config.getoption("--nodes") == "C++"
        kinds = ["C++", "Python"] if in_cpp else ["Python"]
        metafunc.parametrize("nodes", kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need no device run once, with the CPU's; those without a device to run on are not collected."""
    chosen = _devices(config)
    keep, drop = [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        needs_device = "device" in getattr(item, "fixturenames", ())
        runs = (parameters.get("device") if needs_device else "cpu") in chosen
        if chosen == ["interpret"]:
            runs = runs and _worth_interpreting(item, parameters)
        elif parameters.get("nodes") == "Python" and config.getoption("--nodes") == "C++":
            runs = runs and _one_of_a_kind(parameters.get("case"))
        (keep if runs else drop).append(item)
    if drop:
        config.hook.pytest_deselected(items=drop)
        items[:] = keep


def _worth_interpreting(item: pytest.Item, parameters: dict[str, Any]) -> bool:
    """The interpreter takes a thousand times as long. There, what is not about a formula is tested on one activation of
    each way through the loops, and accuracy with the default arguments, and on one of the 16-bit types."""
    from cases import LOOPS

    from fastact.accuracy import samples

    if "case" in parameters and item.get_closest_marker("formula") is None:
        case = parameters["case"]
        return case in LOOPS or (case.per_channel and case.activation.name == "prelu")
    if "row" in parameters:
        return parameters["row"] in [case.activation for case in LOOPS]
    if "sample" in parameters:
        default = parameters["sample"] == samples(parameters["activation"])[0]
        return default and parameters.get("dtype") is not torch.float16
    return True


def _one_of_a_kind(case: Any) -> bool:
    """Nodes in Python are the same code for all activations of one way through the loops."""
    from cases import LOOPS

    return case is None or case in LOOPS


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _kernels_at_every_size() -> Iterator[None]:
    """Below the crossover sizes the torch path runs, and a test would compare torch with itself."""
    import fastact

    with fastact.always_kernels():
        yield


@pytest.fixture
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of autograd nodes on the CPU: where the library of those in C++ is missing, they are in Python."""
    if request.param == "Python":
        monkeypatch.setattr("fastact.cpu.HAS_NODES", False)
    return request.param


@pytest.fixture
def on(device: str) -> str:
    """The torch device of the tensors."""
    return "cpu" if device == "interpret" else device
