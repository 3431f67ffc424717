"""Builds csrc/ into fastact/libfastact.so; everything else about the package stands in pyproject.toml.

The library uses LibTorch's stable ABI only, so the wheel serves every Python and every torch from 2.11 on. A second
one, csrc/autograd/, is for one release of torch, whose version is in its name; others do without it.
"""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NODES = "libfastact_autograd"
nodes_library = runpy.run_path("fastact/nodes.py")["nodes_library"]  # importing the package would load its libraries

TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11, the oldest torch that the binary runs with

# -ffp-contract=off: the formulas say themselves where they want fused multiply-adds (csrc/math/).
# -fno-trapping-math, -fno-math-errno: let selects and square roots be vectorised; no value changes.
FLAGS = ["-Icsrc", "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
FLAGS += os.environ.get("CXXFLAGS", "").split()

# kernels.cpp is compiled once for each; the widest that the CPU has is chosen when the library is loaded. (A CPU
# without PREFETCHW takes it for a NOP: nobody has to ask for it.)
INSTRUCTION_SETS = {"Baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["Avx2"] = ["-mavx2", "-mfma", "-mf16c", "-mprfchw"]
    INSTRUCTION_SETS["Avx512"] = [*INSTRUCTION_SETS["Avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    INSTRUCTION_SETS["Avx512"] += ["-mprefer-vector-width=512"]


def torch_paths():
    """The include and library directories of the installed torch."""
    try:
        import torch
    except ModuleNotFoundError:
        raise SystemExit(
            "fastact is compiled against PyTorch: run `pip install torch` first, then "
            "`pip install --no-build-isolation .`, so that the build sees it."
        ) from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        raise SystemExit(f"fastact needs torch 2.11 or newer to build and run, found {torch.__version__}.")
    root = Path(torch.__file__).parent
    if not (root / "include/torch/csrc/stable/library.h").exists():
        raise SystemExit(f"No C++ headers in {root}/include: reinstall torch from an official wheel.")
    return root / "include", root / "lib"


def torch_version():
    """Of the installed torch; nothing without one, when packages of sources can be made all the same."""
    try:
        import torch
    except ModuleNotFoundError:
        return "none"
    return torch.__version__


def standard_of(include):
    """The C++ standard that torch's headers ask for: C++17 until 2.13. The stable ABI's are content with that."""
    found = re.search(r"__cplusplus < 20(\d\d)", (include / "ATen/ATen.h").read_text())
    return f"-std=c++{found[1] if found else 20}"


def first_error(messages):
    """The line of a compiler's or linker's output that says what is wrong."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line or "undefined reference" in line), lines[-1])


class BuildLibraries(build_ext):
    """Plain shared libraries, which torch.ops.load_library opens: no Python symbol in them."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or len(self.extensions)

    def get_ext_filename(self, fullname):
        *package, name = fullname.split(".")  # setuptools asks for names with and without the package
        file = nodes_library(torch_version()) if name == NODES else f"{name}.so"
        return "/".join([*package, file])

    def build_extension(self, ext):
        try:
            self.build_library(ext)
        except CompileError as error:
            if not ext.optional:
                raise CompileError(f"fastact: the C++ build failed: {error}") from None
            # setuptools's own warning is not seen under -q.
            print(
                f"fastact: the autograd nodes in C++ could not be built with torch {torch_version()}, so slower ones "
                f"in Python run in their place: {error}",
                file=sys.stderr,
            )

    def build_library(self, ext):
        include, lib = torch_paths()
        compiler = self.compiler.compiler_cxx if hasattr(self.compiler, "compiler_cxx") else ["c++"]
        if shutil.which(compiler[0]) is None:
            raise SystemExit(
                f"No C++ compiler: `{compiler[0]}` was not found. Install one (on Debian: apt install g++) or set CXX."
            )
        build = Path(self.build_temp)
        build.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        # What earlier builds left, of other sources or for another torch, must not be taken for this one's.
        for stale in output.parent.glob(f"{ext.name.rpartition('.')[2]}[.-]*"):
            stale.unlink()
        headers = [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
        jobs = {
            "csrc/runtime/ops.cpp": [("ops", [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", *headers])],
            "csrc/kernels/kernels.cpp": [
                (f"kernels_{name}", [f"-DFASTACT_INSTRUCTION_SET={name}", *flags])
                for name, flags in INSTRUCTION_SETS.items()
            ],
            "csrc/autograd/nodes.cpp": [("nodes", [standard_of(include), *headers])],  # the last -std counts
        }

        def compile_one(job):
            source, (stem, flags) = job
            target = build / f"{stem}.o"
            self.run([compiler[0], *FLAGS, *flags, "-c", source, "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_one, [(source, job) for source in ext.sources for job in jobs[source]]))
        # torch has opened its libraries by the time ours are loaded, so no search path is recorded.
        self.run(
            [compiler[0], *FLAGS, "-shared", *objects, f"-L{lib}", "-ltorch_cpu", "-lc10", "-ldl", "-o", str(output)]
        )

    def copy_extensions_to_source(self):
        for stale in Path("fastact").glob("libfastact_autograd-*.so"):
            stale.unlink()
        super().copy_extensions_to_source()

    def run(self, command=None):
        if command is None:
            return super().run()
        print(" ".join(command))
        in_english = {**os.environ, "LC_ALL": "C"}
        finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=in_english)
        print(finished.stderr, end="", file=sys.stderr)
        if finished.returncode != 0:
            raise CompileError(first_error(finished.stderr))


class AnyPythonWheel(bdist_wheel):
    """Tagged for every Python 3, since no Python symbol is used."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


sources = sorted(str(path) for path in Path("csrc").rglob("*.*"))
setup(
    ext_modules=[
        Extension("fastact.libfastact", sources=["csrc/runtime/ops.cpp", "csrc/kernels/kernels.cpp"], depends=sources),
        # Without it everything runs, with nodes in Python: no reason to fail with a torch whose insides are new.
        Extension(f"fastact.{NODES}", sources=["csrc/autograd/nodes.cpp"], depends=sources, optional=True),
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
