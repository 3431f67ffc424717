"""Installs fastact as a new user would, from a folder of wheels, into an environment that has torch and what torch
requires, and no more; and runs tests/smoke.py there, where no compiler is to be found.

    python tests/clean.py DIST ENVIRONMENT [--nodes Python]

torch and what it requires are this environment's, by links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(requirement: Requirement, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The files and folders in site-packages of a distribution, and of what it requires, by what asks for them."""
    try:
        package = distribution(requirement.name)
    except PackageNotFoundError:  # of another system, say
        return found
    found[str(requirement)] = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
    for each in map(Requirement, package.requires or ()):
        asked = ("", *requirement.extras)
        if str(each) not in found and (each.marker is None or any(each.marker.evaluate({"extra": x}) for x in asked)):
            required(each, found)
    return found


def main() -> None:
    dist, environment, *options = sys.argv[1:]
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = Path(environment).absolute() / "bin/python"
    (there,) = Path(environment).glob("lib/python*/site-packages")
    for name in set().union(*required(Requirement("torch"), {}).values()):
        (there / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", python]
    subprocess.run(
        [*pip, "install", "--no-index", f"--find-links={dist}", "--only-binary=:all:", "fastact"], check=True
    )
    for triton in there.glob("triton*"):  # which torch's builds for GPUs require; here none may be needed
        triton.unlink()
    script = Path(__file__).with_name("smoke.py").absolute()
    clean = {"PATH": str(python.parent), "HOME": os.environ["HOME"]}
    subprocess.run(
        [python, "-I", "-W", "error::RuntimeWarning", script, *options], cwd=environment, env=clean, check=True
    )


if __name__ == "__main__":
    main()
