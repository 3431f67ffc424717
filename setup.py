"""Builds csrc/ into fastact/libfastact.so; everything else about the package stands in pyproject.toml.

The library uses LibTorch's stable ABI only, so the wheel serves every Python and every torch from 2.11 on.
"""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11, the oldest torch that the binary runs with

# -ffp-contract=off: the formulas say themselves where they want fused multiply-adds (csrc/vecmath.h).
# -fno-trapping-math, -fno-math-errno: let selects and square roots be vectorised; no value changes.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
FLAGS += os.environ.get("CXXFLAGS", "").split()

# kernels.cpp is compiled once for each; the widest that the CPU has is chosen when the library is loaded.
INSTRUCTION_SETS = {"Baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["Avx2"] = ["-mavx2", "-mfma", "-mf16c"]
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


class BuildLibrary(build_ext):
    """A plain shared library, which torch.ops.load_library opens: no Python symbol in it."""

    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext):
        include, lib = torch_paths()
        compiler = self.compiler.compiler_cxx if hasattr(self.compiler, "compiler_cxx") else ["c++"]
        if shutil.which(compiler[0]) is None:
            raise SystemExit(
                f"No C++ compiler: `{compiler[0]}` was not found. Install one (on Debian: apt install g++) or set CXX."
            )
        build = Path(self.build_temp)
        build.mkdir(parents=True, exist_ok=True)
        jobs = [("library.cpp", "library", [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-isystem{include}"])]
        for name, flags in INSTRUCTION_SETS.items():
            jobs.append(("kernels.cpp", f"kernels_{name}", [f"-DFASTACT_INSTRUCTION_SET={name}", *flags]))

        def compile_one(job):
            source, stem, flags = job
            target = build / f"{stem}.o"
            self.run([compiler[0], *FLAGS, *flags, "-c", f"csrc/{source}", "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_one, jobs))
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        # torch has opened its libraries by the time ours is loaded, so no search path is recorded.
        self.run([compiler[0], *FLAGS, "-shared", *objects, f"-L{lib}", "-ltorch_cpu", "-o", str(output)])

    def run(self, command=None):
        if command is None:
            return super().run()
        print(" ".join(command))
        if subprocess.run(command).returncode != 0:
            raise SystemExit("fastact: the C++ build failed; the compiler's message stands above.")


class AnyPythonWheel(bdist_wheel):
    """Tagged for every Python 3, since no Python symbol is used."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


sources = sorted(str(path) for path in Path("csrc").iterdir())
setup(
    ext_modules=[Extension("fastact.libfastact", sources=["csrc/library.cpp", "csrc/kernels.cpp"], depends=sources)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
)
