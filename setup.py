"""Builds csrc/ into fastact/libfastact.so; everything else about the package stands in pyproject.toml.

The library uses LibTorch's stable ABI only, so the wheel serves every Python and every torch from 2.11 on. Libraries of
a second kind, csrc/autograd/, are for one release of torch each, whose version is in the name; others do without them.
With Python's headers these also have the ops as functions of Python's, by its stable ABI.

FASTACT_TORCHES names folders of torch to build for (as `torch` in an unpacked wheel), divided by colons, in place of
the installed one: their headers and libraries suffice, and they may be for another machine, for which CXX compiles.
"""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools import __version__ as setuptools_version

if int(setuptools_version.partition(".")[0]) < 77:  # older ones refuse pyproject.toml's `license`
    raise SystemExit(f"fastact needs setuptools 77 or newer, not {setuptools_version}: pip install 'setuptools>=77'")

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NODES = "libfastact_autograd"
PYTHON = "csrc/autograd/python.cpp"
# Importing the package would load its libraries.
nodes_library = runpy.run_path(str(Path(__file__).parent / "fastact/nodes.py"))["nodes_library"]

TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11, the oldest torch that the binary runs with

# -ffp-contract=off: the formulas say themselves where they want fused multiply-adds (csrc/math/).
# -fno-trapping-math, -fno-math-errno: let selects and square roots be vectorised; no value changes.
FLAGS = ["-Icsrc", "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
FLAGS += os.environ.get("CXXFLAGS", "").split()


def instruction_sets(machine):
    """The flags of each for which kernels.cpp is compiled; the widest that the CPU has is chosen when the library is
    loaded. (A CPU without PREFETCHW takes it for a NOP: nobody has to ask for it.)"""
    sets = {"Baseline": []}
    if machine in ("x86_64", "amd64"):
        sets["Avx2"] = ["-mavx2", "-mfma", "-mf16c", "-mprfchw"]
        sets["Avx512"] = [*sets["Avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
        sets["Avx512"] += ["-mprefer-vector-width=512"]
    return sets


def torch_folders():
    """Of each torch to build for; none without one, when packages of sources can be made all the same."""
    named = os.environ.get("FASTACT_TORCHES")
    found = importlib.util.find_spec("torch")
    folders = named.split(os.pathsep) if named else [Path(found.origin).parent] if found else []
    return [Path(folder).resolve() for folder in folders]  # the names of headers by which compilers go


def version_of(torch):
    return runpy.run_path(str(torch / "version.py"))["__version__"]


def check(torch):
    """Refuse a torch that the sources do not compile with."""
    version = version_of(torch)
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 11):
        raise SystemExit(f"fastact needs torch 2.11 or newer to build and run, found {version}.")
    if not (torch / "include/torch/csrc/stable/library.h").exists():
        raise SystemExit(f"No C++ headers in {torch}/include: reinstall torch from an official wheel.")


def standard_of(include):
    """The C++ standard that torch's headers ask for: C++17 until 2.13. The stable ABI's are content with that."""
    found = re.search(r"__cplusplus < 20(\d\d)", (include / "ATen/ATen.h").read_text())
    return f"-std=c++{found[1] if found else 20}"


def first_error(messages):
    """The line of a compiler's or linker's output that says what is wrong."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line or "undefined reference" in line), lines[-1])


class BuildLibraries(build_ext):
    """Plain shared libraries, which torch.ops.load_library opens."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or len(self.extensions)

    def get_ext_filename(self, fullname):
        *package, name = fullname.split(".")  # setuptools asks for names with and without the package
        return "/".join([*package, FILES[name]])

    def build_extensions(self):
        if not TORCHES:
            raise SystemExit(
                "fastact is compiled against PyTorch: run `pip install torch` first, then "
                "`pip install --no-build-isolation .`, so that the build sees it."
            )
        for torch in TORCHES:
            check(torch)
        # What earlier builds left, of other sources or for another torch, must not be taken for this one's.
        for stale in Path(self.get_ext_fullpath("fastact.libfastact")).parent.glob("libfastact*.so"):
            stale.unlink()
        super().build_extensions()

    def build_extension(self, ext):
        try:
            self.build_library(ext)
        except CompileError as error:
            if not ext.optional:
                raise CompileError(f"fastact: the C++ build failed: {error}") from None
            # setuptools's own warning is not seen under -q.
            print(
                f"fastact: the autograd nodes in C++ could not be built with torch {version_of(ext.torch)}, so slower "
                f"ones in Python run in their place: {error}",
                file=sys.stderr,
            )

    def build_library(self, ext):
        compiler = self.compiler.compiler_cxx[0] if hasattr(self.compiler, "compiler_cxx") else "c++"
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"No C++ compiler: `{compiler}` was not found. Install one (on Debian: apt install g++) or set CXX."
            )
        machine = subprocess.check_output([compiler, "-dumpmachine"], text=True).partition("-")[0]
        build = Path(self.build_temp) / machine
        build.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        include = ext.torch / "include"
        headers = [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
        headers += [f"-ffile-prefix-map={ext.torch}=torch"]  # messages name headers, and no folder of this machine
        of_python = sysconfig.get_path("include")
        python = [standard_of(include), *headers, f"-isystem{of_python}", f"-ffile-prefix-map={of_python}=python"]
        # What torch's headers make of pybind11, and nobody calls, is for one release of Python.
        python += ["-ffunction-sections", "-fdata-sections"]
        jobs = {
            "csrc/runtime/ops.cpp": [("ops", [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", *headers])],
            "csrc/kernels/kernels.cpp": [
                (f"kernels_{name}", [f"-DFASTACT_INSTRUCTION_SET={name}", *flags])
                for name, flags in instruction_sets(machine).items()
            ],
            "csrc/autograd/nodes.cpp": [(output.stem, [standard_of(include), *headers])],  # the last -std counts
            PYTHON: [(f"{output.stem}_python", python)],
        }

        def compile_one(job):
            source, (stem, flags) = job
            target = build / f"{stem}.o"
            try:
                self.run([compiler, *FLAGS, *flags, "-c", source, "-o", str(target)])
            except CompileError as error:
                if source != PYTHON:
                    raise
                print(
                    f"fastact: calls of few elements take longer than they need to, without Python's headers (on "
                    f"Debian: apt install python3-dev): {error}",
                    file=sys.stderr,
                )
                return None
            return str(target)

        with ThreadPoolExecutor() as pool:
            compiled = list(pool.map(compile_one, [(source, job) for source in ext.sources for job in jobs[source]]))
        # torch has opened its libraries by the time ours are loaded, so no search path is recorded.
        # libstdc++ first: some releases of libtorch_cpu.so export parts of it, which would be taken from there.
        libraries = [f"-L{ext.torch / 'lib'}", "-lstdc++", "-ltorch_cpu", "-lc10", "-ldl"]
        if PYTHON in ext.sources and None not in compiled:
            libraries += ["-ltorch_python", "-Wl,--gc-sections"]
        if sys.platform == "darwin":  # where a name without a path is not found among those that are open
            libraries = ["-undefined", "dynamic_lookup", "-Wl,-dead_strip"]
        libraries += os.environ.get("LDFLAGS", "").split()
        self.run([compiler, *FLAGS, "-shared", *filter(None, compiled), *libraries, "-o", str(output)])

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
    """Tagged for every Python 3: of Python no more than its stable ABI is used."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


TORCHES = [] if sys.platform == "win32" else torch_folders()
FILES = {"libfastact": "libfastact.so"} | {
    f"{NODES}_{i}": nodes_library(version_of(torch)) for i, torch in enumerate(TORCHES)
}
"""The libraries' names, by their extensions': setuptools would take a dot for a package's."""


def extensions():
    sources = sorted(str(path) for path in Path("csrc").rglob("*.*"))
    kernels = Extension("fastact.libfastact", ["csrc/runtime/ops.cpp", "csrc/kernels/kernels.cpp"], depends=sources)
    yield kernels
    kernels.torch = TORCHES[0] if TORCHES else None
    # The stable ABI is for objects of a Python with a GIL.
    of_nodes = ["csrc/autograd/nodes.cpp", *[PYTHON] * (not sysconfig.get_config_var("Py_GIL_DISABLED"))]
    for i, torch in enumerate(TORCHES):
        # Without it everything runs, with nodes in Python: no reason to fail with a torch whose insides are new.
        nodes = Extension(f"fastact.{NODES}_{i}", of_nodes, depends=sources, optional=True)
        nodes.torch = torch
        yield nodes


if sys.platform == "win32":
    print("fastact has no kernels for Windows: the package is installed without, and torch's run.", file=sys.stderr)
setup(
    ext_modules=[] if sys.platform == "win32" else list(extensions()),
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
