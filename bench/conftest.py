from __future__ import annotations

import os
import time
from typing import Any

import pytest
from environment import environment
from measure import settle_heap

DEADLINE = pytest.StashKey[float]()
LOAD = pytest.StashKey[float]()
_missing: list[dict[str, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastact's benchmark; bench/run.py sets these")
    group.addoption("--bench-device", choices=("cpu", "cuda"), default="cpu")
    group.addoption("--bench-quick", action="store_true", help="a selection of the rows")
    group.addoption("--bench-compile", action="store_true", help="torch.compile as a peer on the CPU too")
    group.addoption("--bench-seconds", type=float, default=0.3, help="for each row, where five rounds take no longer")
    group.addoption("--bench-budget", type=float, default=float("inf"), help="seconds after which no row is begun")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LOAD] = os.getloadavg()[0]
    settle_heap()
    config.stash[DEADLINE] = time.monotonic() + config.getoption("bench_budget")


@pytest.fixture(autouse=True)
def _within_budget(request: pytest.FixtureRequest) -> None:
    if time.monotonic() > request.config.stash[DEADLINE]:
        pytest.skip("out of time")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _missing.append({"row": report.nodeid, "why": report.longrepr[2]})
    elif report.failed:
        _missing.append({"row": report.nodeid, "why": report.longreprtext.splitlines()[-1]})


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return environment(config.getoption("bench_device")) | {"load_average_before": config.stash[LOAD]}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    output_json["missing"] = _missing
    for row in output_json["benchmarks"]:
        del row["stats"]["data"]  # every single timing: megabytes
        del row["params"], row["options"]  # extra_info says it in figures; the options are for another way of running
