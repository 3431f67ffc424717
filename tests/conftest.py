"""Where the suite runs: `--device cpu`, `cuda` or `emulated`; by default on the CPU, and on the GPU if there is one.

`emulated` sends CPU tensors down the whole GPU path: a stand-in for CUDA's driver runs the PTX of Triton's kernels on
their memory (tests/gpu/emulator.cpp).
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda", "emulated"), default=None, help="where the kernels run")
    help = "which autograd nodes run, those of the library for this torch or those in Python; default: %(default)s"
    parser.addoption("--nodes", choices=("C++", "Python"), default="C++", help=help)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(device): runs on that device only, whatever the others do")
    config.addinivalue_line("markers", "large: needs most of a GPU's memory, and no other process beside it")
    config.addinivalue_line("markers", "formula: is about formulas, so that every activation needs it on every device")
    config.addinivalue_line("markers", "browser: drives Chromium, and is collected where -m asks for it only")
    config.addinivalue_line("markers", "nodes: is about autograd nodes, so that both kinds need it")
    if config.getoption("--nodes") == "Python":
        os.environ["FASTACT_NODES"] = "python"  # before anything imports fastact
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    if config.getoption("--device") == "emulated":
        from gpu import emulator

        emulator.take_the_gpus_place()


def _devices(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--device")
    return [chosen] if chosen else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        devices = [name for name in _devices(metafunc.config) if only is None or name in only.args]
        metafunc.parametrize("device", devices, scope="session")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose text shows that none of its tests runs, by what they would have to ask for, is not even imported:
    half of the time that collection takes goes to what those files import."""
    asked = [r"\b(device|on)[:,)]"] if "cpu" not in _devices(config) else []
    asked += [r"\bnodes[:,)]|mark\.nodes"] if config.getoption("-m") == "nodes" else []
    if not asked or not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    text = collection_path.read_text()
    return True if any(re.search(each, text) is None for each in asked) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need no device run once, with the CPU's; those without a device to run on are not collected, nor those
    that need a browser, unless `-m browser` asks for them."""
    chosen = _devices(config)
    keep, drop = [], []
    for item in items:
        if "nodes" in getattr(item, "fixturenames", ()):
            item.add_marker("nodes")
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        needs_device = "device" in getattr(item, "fixturenames", ())
        runs = (parameters.get("device") if needs_device else "cpu") in chosen
        if item.get_closest_marker("browser"):
            runs = runs and "browser" in config.getoption("-m")
        if chosen == ["emulated"]:
            runs = runs and _worth_emulating(item, parameters)
        (keep if runs else drop).append(item)
    if drop:
        config.hook.pytest_deselected(items=drop)
        items[:] = keep


def pytest_collection_finish() -> None:
    """What was imported and collected stays, and the garbage collector need not walk over it each time: that takes most
    of a second, in tests that collect and in all others."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or libraries report at exit what was not freed


def _worth_emulating(item: pytest.Item, parameters: dict[str, Any]) -> bool:
    """A kernel takes a quarter of a second to compile. What is not about a formula is tested on one activation of each
    way through the loops and one of the 16-bit types, and accuracy with the default arguments."""
    from cases import LOOPS

    from fastact.tools.accuracy import samples

    if "case" in parameters and item.get_closest_marker("formula") is None:
        case = parameters["case"]
        stands_for_others = case in LOOPS or (case.per_channel and case.activation.name == "prelu")
        return stands_for_others and parameters.get("dtype") is not torch.float16
    if "row" in parameters:
        return parameters["row"] in [case.activation for case in LOOPS]
    if "op" in parameters:
        return parameters["op"].activation in [case.activation for case in LOOPS]
    if "sample" in parameters:
        default = parameters["sample"] == samples(parameters["activation"])[0]
        return default and parameters.get("dtype") is not torch.float16
    return True


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _what_is_said_once_is_said_again() -> None:
    """Or what a test hears would depend on those that this process ran before."""
    from fastact import dispatch

    dispatch.warn_once.cache_clear()


@pytest.fixture(autouse=True, scope="session")
def _all_rows_are_ours() -> None:
    """Or some softmax rows, by the machine's thresholds, would be torch compared with itself."""
    from fastact import thresholds

    thresholds.apply({})


@pytest.fixture
def nodes(pytestconfig: pytest.Config) -> str:
    """Asks for a test to run with both kinds of autograd nodes; this process has one, "C++" or "Python"."""
    return pytestconfig.getoption("--nodes")


@pytest.fixture
def kernel_calls() -> Iterator[list[str]]:
    """The names of fastact's ops whose kernels have run, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "fastact":
                calls.append(func._opname)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield calls


@pytest.fixture
def on(device: str) -> str:
    """The torch device of the tensors."""
    return "cpu" if device == "emulated" else device


@pytest.fixture(autouse=True)
def _kernels_run() -> Iterator[None]:
    """Or torch's ops would be compared with themselves."""
    from fastact import dispatch

    yield
    left, dispatch._without_kernels = dispatch._without_kernels, set()
    assert not left, dispatch._reported.text


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_written_beside_memory(pytestconfig: pytest.Config) -> Iterator[None]:
    yield
    if pytestconfig.getoption("--device") == "emulated":
        from gpu import emulator

        gc.collect()
        assert emulator.take_damage() == ""


@pytest.fixture(scope="session")
def in_python() -> ModuleType:
    """`fastact.dispatch` without answers in C++."""
    from fastact import libraries

    spec = find_spec("fastact.dispatch")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libraries, "CALLS", None)
        spec.loader.exec_module(module)
    return module
