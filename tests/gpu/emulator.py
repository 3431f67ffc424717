"""The emulated GPU (emulator.cpp), built when it is needed, and what tests ask of it.

It takes the place of the driver's library, and runs launches on the memory of CPU tensors: those that torch allocated
after `watch_memory`, and what is `registered`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "emulator"
SOURCES = [HERE / name for name in ("emulator.cpp", "allocator.cpp", "memory.h")]

# -ffp-contract=off: a GPU rounds as often as its instructions say. -fno-math-errno, -fno-trapping-math: let loops be
# vectorised. -O3 gives no faster code, in twice the time.
FLAGS = "-std=c++20 -fwrapv -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -fPIC -shared"
FLAGS += " -O2 -ftree-vectorize -fvect-cost-model=dynamic"


def build() -> Path:
    """Returns the library, built of these sources for this CPU and this torch. Of processes that ask at one time, one
    builds."""
    flags = FLAGS.split()
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        flags += ["-mavx2", "-mfma", "-mf16c"]
    parts = [*(source.read_bytes() for source in SOURCES), " ".join(flags).encode(), torch.__version__.encode()]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    library = BUILD / f"libcuda-{key}.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            root = Path(torch.__file__).parent
            unfinished = library.with_suffix(".tmp")
            sources = [str(source) for source in SOURCES if source.suffix == ".cpp"]
            torch_flags = [f"-isystem{root / 'include'}", f"-L{root / 'lib'}", "-lc10"]
            command = [os.environ.get("CXX", "c++"), *flags, *sources, *torch_flags, "-o", str(unfinished)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"the emulated GPU was not built: {done.stderr[-3000:]}")
            for stale in BUILD.glob("libcuda-*.so"):
                stale.unlink()
            unfinished.rename(library)
    return library


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build()))
    for name in ("emulator_last_fault", "emulator_counts", "emulator_take_damage"):
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.emulator_add_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    loaded.emulator_remove_memory.argtypes = [ctypes.c_void_p]
    loaded.emulator_select_blocks.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_int, ctypes.c_int]
    return loaded


def watch_memory(on: bool = True) -> bool:
    """Whether the emulated GPU knows the memory of tensors that are made from now on. Returns what it was before."""
    return bool(library().emulator_watch_memory(on))


@contextmanager
def registered(tensor: torch.Tensor) -> Iterator[None]:
    """Lets launches touch the memory of a tensor that torch did not allocate, or not under `watch_memory`."""
    storage = tensor.untyped_storage()
    library().emulator_add_memory(storage.data_ptr(), storage.nbytes(), 0)
    try:
        yield
    finally:
        library().emulator_remove_memory(storage.data_ptr())


def reset() -> None:
    """Counters to zero, and all of the settings below to what they are at first."""
    library().emulator_reset()


def set_noise(on: bool) -> None:
    """Approximate instructions are off by what their documentation allows, in directions that depend on the result."""
    library().emulator_set_noise(on)


def set_limit(instructions: int) -> None:
    """How many instructions a block may take before it is said not to end."""
    library().emulator_set_limit(ctypes.c_uint64(instructions))


def set_record_only(on: bool) -> None:
    """Launches are only counted. Modules that are loaded meanwhile can be of anything."""
    library().emulator_set_record_only(on)


def set_device(capability: int, multiprocessors: int) -> None:
    library().emulator_set_device(capability, multiprocessors)


def set_capturing(on: bool) -> None:
    """What cuStreamIsCapturing says of every stream."""
    library().emulator_set_capturing(on)


def set_terminated(on: bool) -> None:
    """Parameters must end with a null pointer, so that their number is checked."""
    library().emulator_set_terminated(on)


def select_blocks(numbers: Sequence[int] = (), spread: int = 0) -> None:
    """Of each grid only these blocks run, negative ones counted from its end, and `spread` more, from the first to the
    last at equal distances; all, if there are none of either."""
    library().emulator_select_blocks((ctypes.c_int64 * len(numbers))(*numbers), len(numbers), spread)


def fail_next(function: str, error: int) -> None:
    """The next call of a driver function returns this error."""
    library().emulator_fail_next(function.encode(), error)


def last_fault() -> str:
    return library().emulator_last_fault().decode()


def take_damage() -> str:
    """What was written around memory that has been freed since the last call, by whomever; nothing, if all is well."""
    return library().emulator_take_damage().decode()


class Count(NamedTuple):
    launches: int
    blocks: int
    instructions: int
    """Each of a whole block."""


def counts() -> dict[str, Count]:
    """What has run since the last `reset`, by the kernels' names."""
    lines = library().emulator_counts().decode().splitlines()
    return {name: Count(*map(int, numbers)) for name, *numbers in map(str.split, lines)}


@contextmanager
def ptx_only() -> Iterator[None]:
    """Triton's compilation for NVIDIA ends with PTX: it is the binary of the compiled kernel, `CompiledKernel.kernel`.
    Its cache keeps such kernels apart from others."""
    from triton.backends import backends

    before = backends["nvidia"]

    class Backend(before.compiler):  # type: ignore[name-defined, misc]
        def __init__(self, target: Any) -> None:
            super().__init__(target)
            self.binary_ext = "ptx"

        def hash(self) -> str:
            return f"ptx-{self.target.arch}"

        def add_stages(self, stages: dict[str, Any], *arguments: Any) -> None:
            super().add_stages(stages, *arguments)
            del stages["cubin"]

    backends["nvidia"] = dataclasses.replace(before, compiler=Backend)
    try:
        yield
    finally:
        backends["nvidia"] = before


def take_the_gpus_place() -> None:
    """Makes this process's CPU tensors go down fastact's GPU path. Nothing may have imported fastact."""
    watch_memory()
    set_terminated(True)
    os.environ["FASTACT_LIBCUDA"] = str(build())
    from fastact import gpu

    compile, lock = gpu.compile, threading.Lock()

    def compile_to_ptx(name: str, capability: int) -> gpu.Kernel:
        with lock, ptx_only():
            return compile(name, capability)

    gpu.compile = compile_to_ptx
    torch.ops.fastact.emulate_gpu(True)

    from triton.runtime import driver

    driver.set_active(TritonDriver())


class Driver:
    """The driver's functions, as the library calls them."""

    def __init__(self) -> None:
        self.cuda = library()
        context = ctypes.c_void_p()
        self.check(self.cuda.cuInit(0))
        self.check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self.check(self.cuda.cuCtxSetCurrent(context))

    def check(self, error: int) -> None:
        if error:
            why = ctypes.c_char_p()
            self.cuda.cuGetErrorString(error, ctypes.byref(why))
            raise RuntimeError((why.value or b"").decode())

    def load(self, ptx: str | bytes, name: str) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        image = ptx if isinstance(ptx, bytes) else ptx.encode()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), image))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        return function

    def launch(
        self, function: ctypes.c_void_p, grid: int, threads: int, *parameters: Any, shared: int = 0, end: Any = None
    ) -> None:
        """Parameters are ctypes numbers, or tensors for their addresses."""
        values = [ctypes.c_uint64(each.data_ptr()) if isinstance(each, torch.Tensor) else each for each in parameters]
        pointers = (ctypes.c_void_p * (len(values) + 1))(*(ctypes.addressof(each) for each in values), end)
        self.check(self.cuda.cuLaunchKernel(function, grid, 1, 1, threads, 1, 1, shared, None, pointers, None))


class _Utils:
    """What Triton's JIT asks of a driver about a device and a binary, which is PTX here."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 49152}

    def load_binary(self, name: str, ptx: bytes, shared: int, device: int) -> tuple[Any, ...]:
        function = Driver().load(ptx, name)
        return function, function, 0, 0, 1024  # the module, which is not unloaded; registers, spills, most threads

    def unload_module(self, module: Any) -> None:
        pass


class _Launcher:
    """Launches a kernel of Triton's JIT, with the arguments that are parameters of its PTX."""

    _TYPES: ClassVar[dict[str, Any]] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64}

    def __init__(self, source: Any, metadata: Any) -> None:
        self.types = list(source.signature.values())
        self.threads, self.shared = metadata.num_warps * 32, metadata.shared

    def __call__(self, grid: int, _y: int, _z: int, _stream: int, function: Any, *more: Any) -> None:
        arguments = more[-len(self.types) :]
        parameters = [
            each if isinstance(each, torch.Tensor) else self._TYPES[type](each)
            for type, each in zip(self.types, arguments, strict=True)
            if type != "constexpr"
        ]
        scratch = [ctypes.c_uint64(0)] * 2
        Driver().launch(function, grid, self.threads, *parameters, *scratch, shared=self.shared)


class TritonDriver:
    """In the place of Triton's driver: `kernel[grid](...)` runs on the memory of CPU tensors, under `ptx_only`."""

    launcher_cls, utils = _Launcher, _Utils()

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
