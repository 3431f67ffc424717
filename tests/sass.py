"""Compiles, without a GPU, the very kernels that the launch path would run, and reads their machine code."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Launch(NamedTuple):
    kernel: Any
    arguments: tuple
    options: dict[str, Any]

    def compile_arguments(self) -> tuple[dict[str, str], dict, dict]:
        """What the compiler is told of the arguments, as at a real launch: types, constants, divisibility."""
        signature, constexprs, attributes = {}, {}, {}
        for i, (parameter, value) in enumerate(zip(self.kernel.params, self.arguments, strict=True)):
            signature[parameter.name], attribute = _type_and_attributes(parameter, value)
            if signature[parameter.name] == "constexpr":
                constexprs[(i,)] = value
            elif attribute:
                attributes[(i,)] = attribute
        return signature, constexprs, attributes

    def key(self) -> str:
        """Launches with equal keys run the same compiled kernel."""
        return repr((self.kernel.__name__, *self.compile_arguments()))

    def _argument(self, name: str) -> Any:
        return self.arguments[[parameter.name for parameter in self.kernel.params].index(name)]

    def elements_per_thread(self) -> int:
        names = {parameter.name for parameter in self.kernel.params}
        block = math.prod(self._argument(name) for name in names & {"BLOCK", "TILE_COLUMNS", "LANES", "COLUMNS"})
        return block // (32 * self.options["num_warps"])

    def accesses(self, dtype: torch.dtype) -> tuple[int, int]:
        """How many elements a thread loads and stores of the tensors that are about as large as the activation."""
        sizes = {
            parameter.name: argument.numel()
            for parameter, argument in zip(self.kernel.params, self.arguments, strict=True)
            if isinstance(argument, torch.Tensor) and argument.dtype == dtype
        }
        large = {name: size for name, size in sizes.items() if size > max(sizes.values()) / 4}
        counts = [0, 0]
        for name, size in large.items():
            stored = re.fullmatch(r"(y|out|grad_\w+)_ptr", name) is not None
            counts[stored] += self.elements_per_thread() * size // min(large.values())
        return counts[0], counts[1]


def record_launches(monkeypatch: Any, call: Callable[[], Any]) -> list[Launch]:
    """What `call` would launch: the kernels run nowhere, and their outputs hold nothing."""
    from fastact.kernels import launch

    launches: list[Launch] = []

    def record(kernel: Any, programs: int, device: torch.device, *arguments: Any, num_warps: int = 4) -> None:
        launches.append(Launch(kernel, arguments, {**launch.OPTIONS, "num_warps": num_warps}))

    monkeypatch.setattr(launch, "_launch", record)
    call()
    return launches


def _type_and_attributes(parameter: Any, value: Any) -> tuple[str, list | None]:
    divisible = [["tt.divisibility", 16]]
    if parameter.is_constexpr or value is None:
        return "constexpr", None
    if isinstance(value, torch.Tensor):
        name = {
            torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16",
            torch.uint8: "u8", torch.int64: "i64",
        }[value.dtype]  # fmt: skip
        return f"*{name}", divisible if value.data_ptr() % 16 == 0 else None
    if parameter.annotation_type:
        return parameter.annotation_type, None
    assert isinstance(value, int)
    if value == 1 and not parameter.do_not_specialize:
        return "constexpr", None
    specialized = not parameter.do_not_specialize and value % 16 == 0
    return "i64" if value >= 2**31 else "i32", divisible if specialized else None


def _compile(launch: Launch, capability: int) -> Any:
    source = ASTSource(launch.kernel, *launch.compile_arguments())
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)


def name_of(launch: Launch) -> str:
    """The compiled kernel's name, as profilers show it."""
    return _compile(launch, 90).metadata.name


def compile_for(launch: Launch, capability: int) -> Counter[str]:
    """The kernel's instructions for compute capability 80, 90 or 100, counted by name."""
    compiled = _compile(launch, capability)
    disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(compiled.asm["cubin"])
        text = subprocess.run([disassembler, cubin], check=True, capture_output=True, text=True).stdout
    line = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]+)", re.MULTILINE)
    return Counter(line.findall(text))
