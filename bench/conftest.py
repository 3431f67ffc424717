from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from environment import environment
from measure import settle_heap

DEADLINE = pytest.StashKey[float]()
ROWS = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastact's benchmark; bench/run.py sets these")
    group.addoption("--bench-device", choices=("cpu", "cuda", "emulated"), default="cpu")
    group.addoption("--bench-quick", action="store_true", help="a selection of the rows")
    group.addoption("--bench-compile", action="store_true", help="torch.compile as a peer on the CPU too")
    group.addoption("--bench-seconds", type=float, default=0.3, help="for each row, where five rounds take no longer")
    group.addoption("--bench-budget", type=float, default=float("inf"), help="seconds after which no row is begun")
    group.addoption("--bench-rows", type=Path, help="a file that each row is appended to as soon as it is measured")


def _append(config: pytest.Config, **found: Any) -> None:
    with config.stash[ROWS].open("a") as file:
        file.write(json.dumps(found) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    load = os.getloadavg()[0]
    device = config.getoption("bench_device")
    settle_heap()
    config.stash[DEADLINE] = time.monotonic() + config.getoption("bench_budget")
    config.stash[ROWS] = config.getoption("bench_rows") or Path(os.devnull)
    if device == "emulated":
        from emulated import emulator

        emulator.take_the_gpus_place()
    where = environment("cuda" if device == "cuda" else "cpu")
    _append(config, environment=where | {"load_average_before": load})


@pytest.fixture
def add_row(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    from fastact import dispatch

    def add(row: dict[str, Any]) -> None:
        # Or torch has been measured beside itself.
        assert not dispatch._without_kernels, "torch's ops ran in the place of kernels"
        _append(request.config, row=row)

    return add


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def _within_budget(request: pytest.FixtureRequest) -> None:
    if time.monotonic() > request.config.stash[DEADLINE]:
        pytest.skip("out of time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    report = yield
    if report.skipped:
        _append(item.config, missing={"row": report.nodeid, "why": report.longrepr[2]})
    elif report.failed:
        _append(item.config, missing={"row": report.nodeid, "why": str(call.excinfo.value).partition("\n")[0]})
    return report
