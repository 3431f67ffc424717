"""docs/adding-an-activation.md: its diffs, and no other edit, make activations that keep the contracts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-an-activation.md"
NEW = "cubed_relu or mishglu or frelu or CubedReLU or MishGLU or FReLU"
CONTRACTS = (
    "values gradients gated memory accuracy dispatch ops every_size modules autocast subnormals bias_act kernels "
    "docstrings"
)


def build_in(copy: Path) -> None:
    """A copy with the three activations. It is not optimised, which takes half the time."""
    for name in ("csrc", "fastact", "tests", "bench"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "results"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    built = Path("build", "emulator")  # of the same sources
    (ROOT / built).mkdir(parents=True, exist_ok=True)
    (copy / built).parent.mkdir()
    (copy / built).symlink_to(ROOT / built)
    diffs = re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(diffs) == 3
    for diff in diffs:
        command = ["git", "apply", "--unidiff-zero", "-C1", "-"]
        done = subprocess.run(command, input=diff, cwd=copy, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    environment = {**os.environ, "CXXFLAGS": "-O0"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(build, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_diffs_make_activations(tmp_path: Path) -> None:
    """On both devices in one test: two would each build a copy where two processes run them."""
    build_in(tmp_path)
    files = [f"tests/test_{name}.py" for name in CONTRACTS.split()]
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    environment["PYTHONPATH"] = str(tmp_path)
    for where, least in (("cpu", 300), ("emulated", 30)):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", where, "-k", NEW, *files]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:]
        assert int(re.search(r"(\d+) passed", done.stdout)[1]) > least


def test_the_edits_are_few() -> None:
    """As CONTRIBUTING promises: what an activation takes beside its formula."""
    for diff in re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL):
        files = re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)
        lines = re.findall(r"^\+(?!\+\+)", diff, re.MULTILINE)
        assert len(files) <= 9
        assert len(lines) <= 90
