"""What a release is made of: its version, its wheels, what a citation and conda read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import wheels

import fastact

ROOT = Path(__file__).parents[2]


def test_one_version() -> None:
    (recipe,) = re.findall(r'(?m)^  version: "(.+?)"', (ROOT / "conda/recipe.yaml").read_text())
    (changelog, *_) = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert fastact.__version__ == recipe == changelog


def test_the_stable_library_needs_nothing_else() -> None:
    """Whoever built it: of torch its stable functions, of Python nothing. Names of files and of what libstdc++ and
    libtorch_cpu.so both have are mended in wheels alone."""
    in_wheels = re.compile(r"is not stripped|names a file|uses _ZN?K?St")
    faults = wheels.foreign(ROOT / "fastact/libfastact.so", is_stable=True)
    assert [fault for fault in faults if not in_wheels.match(fault)] == []


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with all faults."""
    folder = tmp_path_factory.mktemp("library")
    code = r"""
    extern "C" void *PyList_New(long), *_PyList_Extend(void*, void*);
    namespace c10 { struct Device; void of_torch(Device*); }
    extern "C" const char* aoti_torch_abi();
    const char* path = __FILE__;
    void* all() { c10::of_torch(nullptr); aoti_torch_abi(); return _PyList_Extend(PyList_New(0), nullptr); }
    """
    (folder / "faults.cpp").write_text(code)
    output, lib = folder / "faults.so", Path(torch.__file__).parent / "lib"
    command = ["c++", "-shared", "-fPIC", str(folder / "faults.cpp"), "-o", str(output), f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, "-Wl,--no-as-needed", f"-L{lib}", "-ltorch_cpu", "-ltorch", "-lm"], check=True)
    return output


@pytest.mark.parametrize("is_stable", [True, False])
def test_what_is_foreign_is_found(library: Path, is_stable: bool) -> None:
    faults = list(wheels.foreign(library, is_stable))
    stable = ["uses _ZN3c108of_torchEPNS_6DeviceE", "uses PyList_New"] if is_stable else []
    expected = [
        f"names a file of the machine that built it: {library.parent}/faults.cpp",
        "is not stripped: it has .symtab",
        "needs libtorch.so",
        f"has a search path of its own: {library.parent}",
        *stable,
        "uses _PyList_Extend",
    ]
    assert sorted(faults) == sorted(expected)


def test_a_wheel_without_nodes_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "fastact-1-py3-none-any.whl"
    with wheels.ZipFile(wheel, "w") as archive:
        archive.write(ROOT / "fastact/libfastact.so", "fastact/libfastact.so")
    with pytest.raises(SystemExit, match=r"has \['libfastact.so'\], and not .*libfastact_autograd-2.13.0.so"):
        wheels.check(wheel, ["2.13.0+cpu"])
