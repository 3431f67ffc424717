"""What fresh memory costs a large activation on the CPU, and what a user can do about it.

    python bench/page_faults.py

Each new output of 32 MiB or more comes from the system, page by page, and goes back when it is freed. Times ReLU
without gradients on 2^24 float32 numbers, torch's and fastact's, in place as well, and a copy into memory that exists,
under several settings of the allocators, which are environment variables. Writes page_faults.json and page_faults.md
under bench/results/<hardware>/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

import torch
from environment import environment, name_of, result_folder, write_result
from measure import Race, by_host_clock
from report import table

import fastact.functional as F

NUMEL = 1 << 24
SECONDS = 1.0
SETTINGS = {
    "as it is": {},
    "huge pages, by torch": {"THP_MEM_ALLOC_ENABLE": "1"},
    "huge pages, by glibc": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "memory kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28)},
}
"""What a user may set. The last: memory freed stays with the process, which costs what it has needed at most."""
CALLS = ("torch's ReLU", "fastact's", "in place", "copy")


def measured() -> dict[str, dict[str, float]]:
    """Milliseconds and page faults of each call, in this process."""
    x, y = torch.randn(NUMEL), torch.zeros(NUMEL)
    calls = {
        "torch's ReLU": lambda: torch.relu(x),
        "fastact's": lambda: F.relu(x),
        "in place": lambda: F.relu(x, inplace=True),
        "copy": lambda: y.copy_(x),
    }
    race = Race({name: by_host_clock(call) for name, call in calls.items()}, SECONDS).run()
    result = {}
    for name, call in calls.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        result[name] = {"ms": 1e3 * race.median(name), "page_faults": faults}
    return result


def report(results: dict[str, dict[str, dict[str, float]]], where: dict) -> str:
    """The table, with what was set."""
    rows = []
    for setting, calls in results.items():
        variables = " ".join(f"`{name}={value}`" for name, value in SETTINGS[setting].items())
        cells = [f"{calls[name]['ms']:.1f} ms, {calls[name]['page_faults']:,} faults" for name in CALLS]
        rows.append([setting, variables or "nothing", *cells])
    return (
        f"# ReLU on 2^24 float32 numbers and fresh memory\n\nMade by `python bench/page_faults.py`: {name_of(where)}, "
        f"torch {where['versions']['torch']}, {where['date'][:10]}. Medians; page faults of one call.\n\n"
        + table(["allocator", "set", *CALLS], rows, numbers_from=2)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="print the figures of this process alone, as JSON")
    if parser.parse_args().here:
        print(json.dumps(measured()))
        return
    results = {}
    for setting, variables in SETTINGS.items():
        command = [sys.executable, __file__, "--here"]
        output = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True).stdout
        results[setting] = json.loads(output)
    where = environment("cpu")
    text = report(results, where)
    write_result(result_folder(where), "page_faults", {"environment": where, "results": results}, text)
    print(text)


if __name__ == "__main__":
    main()
