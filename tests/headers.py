"""Checks the syntax of each header of csrc/ alone: it includes what it needs. The exit status is 1 if one does not.

Not those of csrc/autograd: one file alone includes them, and torch's own headers, which they need, would take three
quarters of the time. The stable ones, which others need, are compiled ahead, once, for all headers that bring them in:
none gets to see one that it would not.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import flags as setup_flags  # noqa: E402

CSRC = ROOT / "csrc"
PRECOMPILED = "runtime/memory.h"
"""What this brings in."""


@cache
def torchs(header: str) -> frozenset[str]:
    """Which headers of torch one of ours brings in, itself or through others."""
    text = (CSRC / header).read_text()
    own = re.findall(r"#include <((?:torch|ATen|c10)/.*)>", text)
    return frozenset(own).union(*map(torchs, re.findall(r'#include "(.*)"', text)))


def main() -> int:
    setup = setup_flags.of_setup()
    include = setup["TORCHES"][0] / "include"
    sets = setup["instruction_sets"](platform.machine())
    flags = [*setup["FLAGS"], *sets.get("Avx512", []), "-Wno-unused-function", "-Wno-attributes"]
    flags += [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
    flags.append(f"-DTORCH_TARGET_VERSION={setup['TORCH_TARGET_VERSION']}")
    foreign = {"neon"} if "Avx512" in sets else {"x86", "sse2", "avx2", "avx512"}
    headers = [path.relative_to(CSRC) for path in sorted(CSRC.glob("*/*.h")) if path.stem not in foreign]
    headers = [str(header) for header in headers if header.parent.name != "autograd"]

    def messages(source: str, *arguments: str) -> str:
        command = ["c++", *flags, "-Werror", *arguments]
        return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True).stderr

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        ahead = Path(folder, "ahead.h")
        ahead.write_text("".join(f"#include <{each}>\n" for each in sorted(torchs(PRECOMPILED))))
        if text := messages("", "-x", "c++-header", str(ahead), "-o", f"{ahead}.gch"):
            raise SystemExit(text)

        def check(header: str) -> str:
            most = [f"-include{ahead}"] if torchs(PRECOMPILED) <= torchs(header) else []
            return messages(f'#include "{header}"', *most, "-Winvalid-pch", "-fsyntax-only", "-x", "c++", "-")

        found = dict(zip(headers, pool.map(check, headers), strict=True))
    for header, text in found.items():
        if text:
            print(f"csrc/{header} does not compile alone:\n{text}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
