"""The core of the suite on the CPU under several releases of torch, each in an environment of its own in build/matrix/:
with the wheel that this environment's torch makes, then built from source beside the other torch.

`make test-matrix` runs it; ARGS="--torch 2.12.0 --python python3.13" takes others.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/matrix"
TORCH = ("2.11.0", "2.13.0", "2.14.1")  # the oldest, the one of development, the newest
CORE = ("values", "gradients", "memory", "paths", "modules", "gated", "maxout", "softmax")
TESTS = ["tools/test_build.py", *(f"test_{name}.py" for name in CORE)]


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    print("+", *command, flush=True)
    return subprocess.run(command, text=True, **options)


def pip(python: str | Path, *arguments: str | Path) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT, check=True)


def environment(torch: str, python: str) -> Path:
    """The Python of an environment with this torch and what tests need."""
    folder = BUILD / f"{Path(python).name}-torch-{torch}"
    if not folder.exists():
        run(python, "-m", "venv", folder, check=True)
    requirements = folder / "requirements.txt"
    text = (ROOT / "requirements-dev.txt").read_text()
    requirements.write_text(re.sub(r"(?m)^torch==.*$", f"torch=={torch}", text))
    pip(folder / "bin/python", "install", "-q", "-r", requirements)
    return folder / "bin/python"


def copy_of_sources() -> Path:
    """What is built, where no build from before or at the same time is in the way."""
    copy = BUILD / "source"
    shutil.rmtree(copy, ignore_errors=True)
    for folder in ("csrc", "fastact"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    return copy


def test(python: Path, torch: str, build: str, nodes: str) -> tuple[str, ...]:
    """A row of the table."""
    told = run(python, "-m", "fastact", "info", cwd=ROOT / "tests", check=True, stdout=subprocess.PIPE).stdout
    (ran,) = re.findall(r"(?m)^Autograd +nodes in (\S+)", told)
    results = BUILD / "results.xml"
    results.unlink(missing_ok=True)
    options = ["-q", "-n", "2", "-p", "no:cacheprovider", "--device", "cpu", "--nodes", nodes, f"--junitxml={results}"]
    options += ["-W", "default", "-W", "error:fastact:RuntimeWarning"]  # other releases warn of other things
    run(python, "-m", "pytest", *options, *TESTS, cwd=ROOT / "tests")
    counts = ElementTree.parse(results).find("testsuite").attrib
    failed, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    return torch, build, ran, str(int(counts["tests"]) - failed - skipped), str(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", nargs="+", default=TORCH, metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="of the environments; default: this one")
    options = parser.parse_args()
    source = copy_of_sources()
    pip(sys.executable, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", source, source)
    (wheel,) = source.glob("*.whl")
    rows = [("torch", "build", "nodes", "passed", "failed")]
    for torch in options.torch:
        python = environment(torch, options.python)
        in_wheel = any(f"autograd-{torch}.so" in name for name in ZipFile(wheel).namelist())
        install = "install", "-q", "--no-build-isolation", "--no-deps", "--force-reinstall"
        pip(python, *install, wheel)
        rows.append(test(python, torch, "wheel", "C++" if in_wheel else "Python"))
        pip(python, *install, source)
        rows.append(test(python, torch, "source", "C++"))
    print("\n".join("  ".join(cell.ljust(8) for cell in row).rstrip() for row in rows))
    return int(any(passed == "0" or failed != "0" for *_, passed, failed in rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
