"""Compiles, without a GPU, the very kernels that the launch path would run, and reads their machine code."""

from __future__ import annotations

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


def record_launches(monkeypatch: Any, call: Callable[[], Any]) -> list[Launch]:
    """What `call` would launch: the kernels run nowhere, and their outputs hold nothing."""
    from fastact.kernels import launch

    launches: list[Launch] = []

    def record(kernel: Any, programs: int, device: torch.device, *arguments: Any) -> None:
        launches.append(Launch(kernel, arguments, launch.OPTIONS))

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


class MachineCode(NamedTuple):
    text: str
    blocks: list[list[str]]
    """The instructions' names, cut into basic blocks."""

    @property
    def instructions(self) -> Counter[str]:
        return Counter(name for block in self.blocks for name in block)

    @property
    def main_block(self) -> Counter[str]:
        """The block that handles whole, unmasked blocks: the one with the widest loads."""
        return Counter(max(self.blocks, key=lambda block: sum(name.endswith(".128") for name in block)))


def compile_for(launch: Launch, capability: int) -> MachineCode:
    """The kernel's machine code for compute capability 80, 90 or 100."""
    signature, constexprs, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(launch.kernel.params, launch.arguments, strict=True)):
        signature[parameter.name], attribute = _type_and_attributes(parameter, value)
        if signature[parameter.name] == "constexpr":
            constexprs[(i,)] = value
        elif attribute:
            attributes[(i,)] = attribute
    source = ASTSource(launch.kernel, signature, constexprs, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(compiled.asm["cubin"])
        text = subprocess.run([disassembler, cubin], check=True, capture_output=True, text=True).stdout
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if re.match(r"^\.L_\w+:", line):
            blocks.append([])
        elif match := re.match(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]+)", line):
            blocks[-1].append(match[1])
            if match[1].split(".")[0] in ("BRA", "EXIT", "RET"):
                blocks.append([])
    return MachineCode(text, blocks)
