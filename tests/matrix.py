"""A wheel and the core of the suite on the CPU under several releases of torch, each in an environment of its own in
build/matrix/: the wheel alone with torch (tests/clean.py), the core with the wheel, then built from source beside the
other torch.

`make test-matrix` runs it; ARGS="--torch 2.12.0 --python python3.13" takes others. With "--wheels dist --smoke" it is
the wheel that `make wheels` has made, not one by this environment's torch, and alone with torch only.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from wheels import RELEASES, run  # noqa: E402

BUILD = ROOT / "build/matrix"
TORCH = (RELEASES[0], "2.13.0", RELEASES[-1])  # the oldest, the one of development, the newest
CORE = ("values", "calls", "gradients", "memory", "dispatch", "modules", "gated", "maxout", "softmax")
TESTS = ["tools/test_build.py", *(f"test_{name}.py" for name in CORE)]


def pip(python: str | Path, *arguments: str | Path) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def environment(torch: str, python: str, needs: list[str]) -> Path:
    """The Python of an environment with this torch and what these lines of requirements ask for."""
    folder = BUILD / f"{Path(python).name}-torch-{torch}"
    if not folder.exists():
        run(python, "-m", "venv", folder)
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join([f"torch=={torch}", *needs]))
    pip(folder / "bin/python", "install", "-q", "-r", requirements)
    return folder / "bin/python"


def needs_of_tests() -> list[str]:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("torch==")]


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
    told = run(python, "-m", "fastact", "info", cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True).stdout
    (ran,) = re.findall(r"(?m)^Autograd +nodes in (\S+)", told)
    results = BUILD / "results.xml"
    results.unlink(missing_ok=True)
    options = ["-q", "-n", "2", "-p", "no:cacheprovider", "--device", "cpu", "--nodes", nodes, f"--junitxml={results}"]
    options += ["-W", "default", "-W", "error:fastact:RuntimeWarning"]  # other releases warn of other things
    run(python, "-m", "pytest", *options, *TESTS, cwd=ROOT / "tests", check=False)
    counts = ElementTree.parse(results).find("testsuite").attrib
    failed, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    return torch, build, ran, str(int(counts["tests"]) - failed - skipped), str(failed)


def smoke(python: Path, torch: str, wheels: Path, nodes: str) -> tuple[str, ...]:
    """Likewise, of the wheel alone with torch."""
    command = [python, ROOT / "tests/clean.py", wheels, BUILD / "clean", "--nodes", nodes]
    failed = run(*command, check=False).returncode != 0
    return torch, "alone", nodes, str(int(not failed)), str(int(failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", nargs="+", default=TORCH, metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="of the environments; default: this one")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels; default: one made by this environment's torch")
    parser.add_argument("--smoke", action="store_true", help="run the wheel alone with torch, and no more")
    options = parser.parse_args()
    wheels = options.wheels or BUILD / "dist"
    if options.wheels is None:
        run(sys.executable, ROOT / "tools/wheels.py", "--installed", "--out", wheels)
    (wheel,) = wheels.glob(f"*_{platform.machine()}.whl")
    rows = [("torch", "build", "nodes", "passed", "failed")]
    for torch in options.torch:
        python = environment(torch, options.python, ["packaging"] if options.smoke else needs_of_tests())
        in_wheel = any(f"autograd-{torch}.so" in name for name in ZipFile(wheel).namelist())
        nodes = "C++" if in_wheel else "Python"
        rows.append(smoke(python, torch, wheels, nodes))
        if not options.smoke:
            install = "install", "-q", "--no-build-isolation", "--no-deps", "--force-reinstall"
            pip(python, *install, wheel)
            rows.append(test(python, torch, "wheel", nodes))
            pip(python, *install, copy_of_sources())
            rows.append(test(python, torch, "source", "C++"))
    print("\n".join("  ".join(cell.ljust(8) for cell in row).rstrip() for row in rows))
    return int(any(passed == "0" or failed != "0" for *_, passed, failed in rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
