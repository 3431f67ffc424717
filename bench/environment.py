"""Where figures were measured: hardware, versions, date and commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import fastact
from fastact import ops
from fastact.thresholds import cpu_model

RESULTS = Path(__file__).parent / "results"

LIMITS = ("FASTACT_CPU_CAPABILITY", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""What holds each library to the instructions of an older CPU."""


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _compiler() -> str | None:
    library = Path(ops.__file__).with_name("libfastact.so").read_bytes()
    found = re.search(rb"(GCC: \([^)]*\)|clang version) [\d.]+", library)
    return found and found[0].decode()


def _commit() -> str | None:
    """Of the sources; FASTACT_COMMIT says it where they were copied without their history."""
    if said := os.environ.get("FASTACT_COMMIT"):
        return said
    commit = _output("git", "rev-parse", "HEAD")
    changed = _output(
        "git", "status", "--porcelain", "--", ":(top)", ":(top,exclude)bench/results", ":(top,exclude)docs/experiments"
    )
    return commit and commit.strip() + ("-dirty" if changed else "")


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(device: str) -> dict[str, Any]:
    """Of this process."""
    hardware: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": ops.instruction_set(),
    }
    if limits := [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]:
        hardware["held_to"] = " ".join(limits)
    if device == "cuda":
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        hardware |= {"gpu": torch.cuda.get_device_name(), "driver": driver and driver.split()[0]}
    return {
        "device": device,
        "hardware": hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": package_version("triton"),
            "fastact": fastact.__version__,
            "compiler": _compiler(),
            **({"cuda": torch.version.cuda} if device == "cuda" else {}),
        },
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
    }


def name_of(environment: dict[str, Any]) -> str:
    """Of the hardware, in a line."""
    hardware = environment["hardware"]
    if "gpu" in hardware:
        return hardware["gpu"]
    threads = f"{hardware['threads']} thread{'s' if hardware['threads'] > 1 else ''}"
    held = "held to " if "held_to" in hardware else ""
    return f"{_plain(hardware['cpu'])}, {held}{hardware['instruction_set']}, {threads}"


def measured_on(result: dict[str, Any], libraries: Iterable[str]) -> str:
    """The hardware, the versions of these libraries, and the date."""
    where = result["environment"]
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in libraries if where["versions"].get(name))
    return f"Measured on {name_of(where)}; {versions}, {where['date'][:10]}."


def folder_of(environment: dict[str, Any]) -> str:
    """Of the results on this hardware: `cpu-intel-xeon-avx512`, `nvidia-h200`."""
    hardware = environment["hardware"]
    name = hardware.get("gpu") or f"cpu {_plain(hardware['cpu'])} {hardware['instruction_set']}"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def result_folder(environment: dict[str, Any], out: Path = RESULTS) -> Path:
    """Where results of this hardware go."""
    folder = out / folder_of(environment)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_result(folder: Path, stem: str, result: dict[str, Any], text: str | None = None) -> None:
    """As JSON and, given a text, as Markdown."""
    (folder / f"{stem}.json").write_text(one_row_a_line(result) + "\n")
    if text is not None:
        (folder / f"{stem}.md").write_text(text)


def one_row_a_line(value: Any, levels: int = 2) -> str:
    """JSON with a line for each item of the outer levels, so that a changed row is one changed line."""
    if not levels or not isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, dict):
        lines = [f"{json.dumps(str(key))}: {one_row_a_line(each, levels - 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    return "[\n" + ",\n".join(one_row_a_line(each, levels - 1) for each in value) + "\n]"


def _plain(cpu_model: str) -> str:
    return " ".join(re.sub(r"\((R|TM|r|tm)\)|@.*|\bCPU\b|\bProcessor\b", " ", cpu_model).split())
