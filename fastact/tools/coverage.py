"""Run a program as it is, and show which of its activation calls ran fastact's kernels."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..coverage import Coverage


def run(program: str, arguments: Sequence[str], *, as_module: bool = False) -> None:
    """Run a script, or a module as `python -m` does, and print the table however it ends.

    What it raises, its exit status included, is the caller's to see.
    """
    sys.argv = [program, *arguments]
    if not as_module and Path(program).is_file() and not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(program).resolve().parent)
    process = os.getpid()
    seen = Coverage()
    try:
        with seen:
            if as_module:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program, run_name="__main__")
    finally:
        if os.getpid() == process:  # and no process that the program has forked
            with suppress(OSError, ValueError):  # from a stdout that the program has closed
                print(f"\n{seen}", flush=True)
