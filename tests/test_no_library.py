"""Without the C++ library, as on Windows or where it does not load, everything runs torch's kernels, and says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a copy of the package without its libraries."""
    shutil.copytree(
        ROOT / "fastact", tmp_path / "fastact", ignore=shutil.ignore_patterns("*.so", "__pycache__", "bundle")
    )
    return tmp_path


def run(package: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    there = os.environ | {"PYTHONPATH": str(package)}
    return subprocess.run([sys.executable, *arguments], cwd=package, env=there, capture_output=True, text=True)


def test_no_library(package: Path) -> None:
    result = run(package, ROOT / "tests/no_library.py", "win32", "there is no C++ library")
    assert result.returncode == 0, result.stderr


def test_a_library_of_another_machine(package: Path) -> None:
    (package / "fastact/libfastact.so").write_text("no library" * 100)
    result = run(package, ROOT / "tests/no_library.py", "linux", "the C++ library failed to load: ")
    assert result.returncode == 0, result.stderr


COMMANDS = """
from fastact.__main__ import main
main(["info", "--json"])
print("---")
main(["info"])
for command in ("tune", "validate", "warmup"):
    try:
        main([command])
    except SystemExit as exit:
        print(command, "exits with", exit.code)
"""


def test_commands(package: Path) -> None:
    result = run(package, "-c", COMMANDS)
    assert result.returncode == 0, result.stderr
    in_json, _, rest = result.stdout.partition("---\n")
    told = json.loads(in_json)
    assert told["environment"]["Kernels"].startswith("torch's (there is no C++ library")
    assert {row["cpu"] for row in told["activations"]} == {"torch"}
    assert "Torch does all of the arithmetic." in rest
    for command in ("tune", "validate", "warmup"):
        assert f"{command} exits with 2\n" in rest
        assert f"{command} needs kernels, and there is no C++ library" in result.stderr
