"""setup.py, as far as it decides something, and what is said where the nodes in C++ are missing."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools
import torch
from setuptools.errors import CompileError

from fastact import bundle, libraries
from fastact.nodes import nodes_library
from fastact.tools import info

ROOT = Path(__file__).parents[2]
ERROR = "csrc/autograd/nodes.cpp:5:10: fatal error: torch/csrc/autograd/saved_variable.h: No such file or directory"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py defines."""
    return defined(monkeypatch)


def defined(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same; and, as "asked", what it asks setuptools for."""
    asked: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", asked.update)
    return runpy.run_path("setup.py") | {"asked": asked}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("#if !defined(_MSC_VER) && __cplusplus < 201703L\n#error C++17 or later", "-std=c++17"),  # 2.11
        ("#if !defined(_MSC_VER) && __cplusplus < 202002L\n#error C++20 or later", "-std=c++20"),  # 2.14
        ("#include <ATen/Context.h>", "-std=c++20"),
    ],
)
def test_nodes_are_compiled_as_torchs_headers_ask(setup, tmp_path, header, expected):
    (tmp_path / "ATen").mkdir()
    (tmp_path / "ATen/ATen.h").write_text(header)
    assert setup["standard_of"](tmp_path) == expected


def test_the_installed_headers_name_a_standard(setup):
    include = Path(torch.__file__).parent / "include"
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    assert setup["standard_of"](include) == ("-std=c++20" if version >= (2, 14) else "-std=c++17")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.13.0", "libfastact_autograd-2.13.0.so"),
        ("2.13.0+cpu", "libfastact_autograd-2.13.0.so"),
        ("2.13.0+cu130", "libfastact_autograd-2.13.0.so"),
        ("2.15.0.dev20261128+cpu", "libfastact_autograd-2.15.0.dev20261128.so"),
        ("2.14.0a0+git4c2b1f0", "libfastact_autograd-2.14.0a0-git4c2b1f0.so"),
        ("2.14.0a0", "libfastact_autograd-2.14.0a0.so"),
    ],
)
def test_nodes_are_named_after_a_release(version, expected):
    assert nodes_library(version) == expected


def test_setup_makes_the_library_that_is_looked_for(setup):
    build = setup["BuildLibraries"](setuptools.Distribution())
    build.build_lib = "lib"
    for path in (
        build.get_ext_fullpath(f"fastact.{setup['NODES']}_0"),
        build.get_ext_filename(f"lib.fastact.{setup['NODES']}_0"),
    ):
        assert path == f"lib/fastact/{nodes_library(torch.__version__)}"
        assert "+" not in path


def torch_folder(folder: Path, version: str) -> Path:
    """As much of a torch as setup.py looks at before it compiles."""
    (folder / "include/torch/csrc/stable").mkdir(parents=True)
    (folder / "include/torch/csrc/stable/library.h").touch()
    (folder / "include/ATen").mkdir()
    (folder / "include/ATen/ATen.h").touch()
    (folder / "version.py").write_text(f"__version__ = {version!r}\n")
    return folder


def commands(setup: dict[str, Any], tmp_path: Path, compiler: str) -> list[list[str]]:
    """What would be run to build all libraries."""
    build, ran = setup["BuildLibraries"](setuptools.Distribution()), []
    build.build_lib, build.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    build.compiler, build.run = SimpleNamespace(compiler_cxx=[compiler]), ran.append
    for extension in setup["asked"]["ext_modules"]:
        build.build_library(extension)
    return ran


def a_compiler_for(machine: str, folder: Path) -> str:
    compiler = folder / "compiler"
    compiler.write_text(f"#!/bin/sh\necho {machine}\n")
    compiler.chmod(0o755)
    return str(compiler)


def test_nodes_for_several_releases_and_another_machine(monkeypatch, tmp_path):
    torches = [torch_folder(tmp_path / version, version) for version in ("2.11.0+cu130", "2.14.1+cpu")]
    monkeypatch.setenv("FASTACT_TORCHES", os.pathsep.join(map(str, torches)))
    ran = commands(defined(monkeypatch), tmp_path, a_compiler_for("aarch64-linux-gnu", tmp_path))
    made = {Path(command[-1]).name: command for command in ran}
    assert {name for name in made if name.endswith(".so")} == {
        "libfastact.so",
        "libfastact_autograd-2.11.0.so",
        "libfastact_autograd-2.14.1.so",
    }
    assert {name for name in made if name.startswith("kernels")} == {"kernels_Baseline.o"}
    for torch_of, name in zip(torches, ("2.11.0", "2.14.1"), strict=True):
        assert f"-isystem{torch_of}/include" in made[f"libfastact_autograd-{name}.o"]
        assert f"-L{torch_of}/lib" in made[f"libfastact_autograd-{name}.so"]
    assert f"-isystem{torches[0]}/include" in made["ops.o"]


def test_without_pythons_headers(monkeypatch, tmp_path, capsys):
    """The nodes are built, and the build says what is missing."""
    monkeypatch.setenv("FASTACT_TORCHES", str(torch_folder(tmp_path / "torch", "2.13.0")))
    setup = defined(monkeypatch)
    build, links = setup["BuildLibraries"](setuptools.Distribution()), []
    build.build_lib, build.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    build.compiler = SimpleNamespace(compiler_cxx=[a_compiler_for("x86_64", tmp_path)])

    def run(command):
        if setup["PYTHON"] in command:
            raise CompileError("python.cpp: fatal error: Python.h: No such file or directory")
        links.extend(command for _ in range("-shared" in command))

    build.run = run
    build.build_library(setup["asked"]["ext_modules"][1])
    (link,) = links
    assert [Path(each).name for each in link if each.endswith(".o")] == ["libfastact_autograd-2.13.0.o"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastact: calls of few elements take longer")
    assert line.endswith("Python.h: No such file or directory")


@pytest.mark.parametrize(("machine", "sets"), [("arm64", ["Baseline"]), ("x86_64", ["Avx2", "Avx512", "Baseline"])])
def test_on_a_mac(monkeypatch, tmp_path, machine, sets):
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = commands(defined(monkeypatch), tmp_path, a_compiler_for(f"{machine}-apple-darwin23.6.0", tmp_path))
    assert sorted(Path(each[-1]).stem for each in ran if "csrc/kernels/kernels.cpp" in each) == [
        f"kernels_{name}" for name in sets
    ]
    links = [command for command in ran if "-shared" in command]
    assert len(links) == 2
    assert all("dynamic_lookup" in command and "-ltorch_cpu" not in command for command in links)


def test_on_windows_there_are_no_kernels(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert defined(monkeypatch)["asked"]["ext_modules"] == []
    assert "no kernels for Windows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "without", "message"),
    [
        ("2.10.0", "", "fastact needs torch 2.11 or newer to build and run, found 2.10.0"),
        ("2.13.0", "include/torch/csrc/stable/library.h", "No C[+][+] headers in"),
    ],
)
def test_a_torch_that_does_not_do(monkeypatch, tmp_path, version, without, message):
    folder = torch_folder(tmp_path / "torch", version)
    if without:
        (folder / without).unlink()
    monkeypatch.setenv("FASTACT_TORCHES", str(folder))
    setup = defined(monkeypatch)
    with pytest.raises(SystemExit, match=message):
        setup["BuildLibraries"](setuptools.Distribution()).build_extensions()


def test_without_torch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    setup = defined(monkeypatch)
    with pytest.raises(SystemExit, match="run `pip install torch` first"):
        setup["BuildLibraries"](setuptools.Distribution()).build_extensions()


def test_a_wheel_carries_a_bundle(tmp_path):
    """Without the libraries, which take a compiler minutes."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "fastact", tmp_path / "fastact", ignore=shutil.ignore_patterns("*.so", "__pycache__", "bundle")
    )
    kernel = bundle.Kernel(b"\x7fELF", "relu", 4, 0, 2048)
    bundle.write(tmp_path / "fastact/bundle", {90: {"relu forward float32": kernel}})
    build = "import setuptools; setuptools.setup(script_args=['-q', 'bdist_wheel'])"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    find = "from fastact import bundle; print(bundle.find('relu forward float32', 90).symbol)"
    for library in (ROOT / "fastact").glob("*.so"):
        (tmp_path / "site/fastact" / library.name).symlink_to(library)
    there = {"PYTHONPATH": str(tmp_path / "site"), "FASTACT_BUNDLE": ""}
    found = subprocess.run(
        [sys.executable, "-c", find], env=os.environ | there, cwd=tmp_path / "site", stdout=subprocess.PIPE, check=True
    )
    assert found.stdout == b"relu\n"


def failing(setup, message: str) -> setuptools.Command:
    build = setup["BuildLibraries"](setuptools.Distribution())

    def build_library(ext):
        raise CompileError(setup["first_error"](message))

    build.build_library = build_library
    return build


def test_a_build_without_nodes_says_so_once(setup, capfd):
    message = f"In file included from csrc/autograd/nodes.cpp:1:\n{ERROR}\n    5 | #include\ncompilation terminated.\n"
    _, nodes = setup["asked"]["ext_modules"]
    failing(setup, message).build_extension(nodes)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fastact: ")
    assert torch.__version__ in line
    assert line.endswith(ERROR)


def test_a_build_without_kernels_fails(setup):
    with pytest.raises(CompileError, match=r"the C\+\+ build failed: c.cpp:1: error: no"):
        failing(setup, "c.cpp:1: error: no").build_extension(setuptools.Extension("fastact.libfastact", []))


@pytest.mark.parametrize("message", ["c++: killed\n", ""])
def test_a_compiler_that_names_no_error(setup, message):
    assert setup["first_error"](message) == (message.strip() or "no message")


def autograd_line(monkeypatch: pytest.MonkeyPatch, why_no_nodes: str) -> str:
    monkeypatch.setattr(info, "WHY_NO_NODES", why_no_nodes)
    monkeypatch.setattr(info, "HAS_NODES", not why_no_nodes)
    (line,) = (line for line in info.report().splitlines() if line.startswith("Autograd"))
    return " ".join(line.split()[1:])


def test_info_says_that_nodes_are_in_cpp(monkeypatch):
    assert autograd_line(monkeypatch, "") == "nodes in C++ on the CPU"


def test_info_says_that_the_library_of_nodes_is_missing(monkeypatch, tmp_path):
    line = autograd_line(monkeypatch, libraries._load_nodes(tmp_path / "none.so"))
    assert line.startswith(f"nodes in Python (no library for torch {torch.__version__};")


def test_info_says_why_the_library_of_nodes_does_not_load(monkeypatch, tmp_path):
    library = tmp_path / "libfastact_autograd-2.13.0.so"
    library.write_text("no library" * 100)
    with pytest.warns(UserWarning, match="slower autograd nodes, in Python: .*invalid ELF header") as warnings:
        reason = libraries._load_nodes(library)
    assert len(warnings) == 1
    line = autograd_line(monkeypatch, reason)
    assert line == f"nodes in Python (those in C++ failed to load: {library}: invalid ELF header)"
