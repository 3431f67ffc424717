"""Checks the syntax of each header of csrc/ alone: it includes what it needs. The exit status is 1 if one does not."""

from __future__ import annotations

import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools

ROOT = Path(__file__).parents[1]


def main() -> int:
    setuptools.setup = lambda **_: None  # setup.py is run for its flags alone
    setup = runpy.run_path(str(ROOT / "setup.py"))
    include, _ = setup["torch_paths"]()
    flags = [*setup["FLAGS"], *setup["INSTRUCTION_SETS"].get("Avx512", []), "-Wno-unused-function", "-Wno-attributes"]
    flags += [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
    stable = [f"-DTORCH_TARGET_VERSION={setup['TORCH_TARGET_VERSION']}"]
    foreign = {"neon"} if "Avx512" in setup["INSTRUCTION_SETS"] else {"x86", "sse2", "avx2", "avx512"}
    headers = [path for path in sorted((ROOT / "csrc").glob("*/*.h")) if path.stem not in foreign]

    def messages(header: Path) -> str:
        source = f'#include "{header.relative_to(ROOT / "csrc")}"'
        abi = [setup["standard_of"](include)] if header.parent.name == "autograd" else stable
        command = ["c++", *flags, *abi, "-Werror", "-fsyntax-only", "-x", "c++", "-"]
        return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True).stderr

    with ThreadPoolExecutor() as pool:
        found = dict(zip(headers, pool.map(messages, headers), strict=True))
    for header, text in found.items():
        if text:
            print(f"{header.relative_to(ROOT)} does not compile alone:\n{text}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
