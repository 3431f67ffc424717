"""Two processes: gradients are those of one, and fastact's ops run on each process's part."""

from __future__ import annotations

from pathlib import Path

import pytest
import two_processes


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_processes")
    two_processes.run(folder)
    return folder


@pytest.mark.parametrize("check", [check.__name__ for check in two_processes.CHECKS])
def test_distributed(check: str, results: Path) -> None:
    for rank in (0, 1):
        said = (results / f"{check} {rank}").read_text()
        assert said == "passed", f"process {rank}: {said}"
