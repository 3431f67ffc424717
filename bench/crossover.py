"""Find the sizes from which fastact's kernels beat torch's functions, and write them into fastact/crossover.py.

    python bench/crossover.py [--device cpu|cuda] [--out DIR] [NAME ...]

For each activation, or those named, without gradients and with (forward + backward), the public function on the kernel
path races torch's, from the largest size downwards, until it loses. So it has won at the size that is written down and
at every larger one measured. A loss counts if the median of three races is one, the last two of which are longer. Every
ratio stands in results/crossover/, a file for each kind of device. It grows with each activation and keeps what earlier
runs measured of others: a run that was stopped can be gone on with.

What an x86 CPU without AVX2 would do is measured with all libraries held to its instructions: bench/README.md says how.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import torch
from environment import RESULTS, environment, name_of, write_result
from measure import Call, Case, Race, by_host_clock, holes_filled, settle_heap

import fastact
from fastact.catalogue import ACTIVATIONS
from fastact.cpu import lacks_avx2, maker

TABLES = {
    "cpu by AMD": {"CPU_AMD": torch.float32, "CPU_AMD_16_BIT": torch.bfloat16},
    "cpu by Intel": {"CPU_INTEL": torch.float32, "CPU_INTEL_16_BIT": torch.bfloat16},
    "cpu without AVX2": {"CPU_WITHOUT_AVX2": torch.float32},
    "cuda": {"CUDA": torch.float32},
}
"""In fastact/crossover.py, and the dtype that each is measured with."""
MAKERS = {"amd": "cpu by AMD", "intel": "cpu by Intel"}
MODES = {"inference": False, "training": True}
TABLE = Path(__file__).parents[1] / "fastact" / "crossover.py"
SIZES = [1 << power for power in range(25, 5, -1)]
LARGEST_OUTPUT = 64 << 20  # bytes
FIRST_MAPPED = 32 << 20
"""On the CPU outputs of so many bytes, the first that glibc maps anew, are not measured, and are torch's if the next
smaller ones lose: on virtual machines that give free memory back to their host chance decides whether their huge pages
come fast or slowly, which is a factor of six (bench/notes.md)."""
TIE = 0.97
"""The ratio that still counts as won: the noise of a short race."""
TIE_WITH_LESS_MEMORY = 0.95
"""The same where bits or bytes stand in for a tensor of torch's: worth a twentieth of the activation's own time."""


def tables_of(device: str) -> str:
    """The key in TABLES of what this machine measures."""
    if device != "cpu":
        return device
    if lacks_avx2():
        return "cpu without AVX2"
    if maker() not in MAKERS:
        raise SystemExit(
            f"there are tables for CPUs by {' and '.join(MAKERS)}; for others the larger sizes of both count"
        )
    return MAKERS[maker()]


def race(calls: dict[str, Call], device: str, seconds: float) -> float:
    """Time of torch over time of fastact."""
    meters = {name: by_host_clock(call, device) for name, call in calls.items()}
    return Race(meters, seconds).run().ratio("torch", "fastact")


def calls(name: str, dtype: torch.dtype, numel: int, training: bool, device: str) -> dict[str, Call]:
    """On so many elements of input, which is what the choice of path counts."""
    case = Case(ACTIVATIONS[name], dtype, numel // ACTIVATIONS[name].divisor, device=device)
    if training:
        return {"fastact": case.fastact_module("both"), **dict(case.peers("both", compiled=False))}
    case.input.requires_grad_(False)
    return {"fastact": case.fastact_module("forward"), **dict(case.peers("forward", compiled=False))}


class Contest:
    """fastact and torch at one size. Each ratio is measured on further tensors: in which pages theirs and the outputs
    lie is chance, and at some MiB can be worth a third of the time (bench/notes.md)."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.held: list[dict[str, Call]] = []  # so that the next tensors lie elsewhere

    def ratio(self, seconds: float) -> float:
        name, dtype, numel, _, device = self.arguments
        contenders = calls(*self.arguments)
        self.held.append(contenders)
        with holes_filled(output_bytes(name, dtype, numel) if device == "cpu" else 0):
            return race({key: contenders[key] for key in ("fastact", "torch")}, device, seconds)


def output_bytes(name: str, dtype: torch.dtype, numel: int) -> int:
    return numel // ACTIVATIONS[name].divisor * dtype.itemsize


def find(name: str, dtype: torch.dtype, training: bool, device: str, seconds: float) -> dict[str, Any]:
    """The smallest size won, with every ratio measured on the way."""
    smallest, ratios = None, {}
    tie = TIE_WITH_LESS_MEMORY if training and ACTIVATIONS[name].saved in ("bits", "bytes") else TIE
    with torch.set_grad_enabled(training), fastact.always_kernels():
        for numel in SIZES:
            nbytes = output_bytes(name, dtype, numel)
            if nbytes > LARGEST_OUTPUT or (device == "cpu" and nbytes == FIRST_MAPPED):
                continue
            contest = Contest(name, dtype, numel, training, device)
            ratios[numel] = contest.ratio(seconds)
            if ratios[numel] < tie:
                ratios[numel] = median([ratios[numel], contest.ratio(2 * seconds), contest.ratio(2 * seconds)])
            if ratios[numel] < tie:
                break
            smallest = numel
    return {"from": smallest, "ratios": ratios}


def with_table(text: str, table: str, rows: dict[str, Any]) -> str:
    """The source of fastact/crossover.py with one table replaced."""
    machines = {
        f"{name_of(each)}, torch {each['versions']['torch']}, {each['date'][:10]}"
        for each in (row["environment"] for row in rows.values())
    }
    lines = ["# Generated by bench/crossover.py. Measured on"]
    lines += [f"# {machine}" for machine in sorted(machines)]
    lines.append(f"{table}: dict[str, tuple[int, int]] = {{")
    for name, row in rows.items():
        sizes = (row[mode]["from"] for mode in MODES)
        shown = ", ".join("NEVER" if size is None else f"1 << {size.bit_length() - 1}" for size in sizes)
        lines.append(f'    "{name}": ({shown}),')
    written = "\n".join((*lines, "}\n"))
    replaced, count = re.subn(rf"^(?:#[^\n]*\n)+{table}: .*?^}}\n", lambda _: written, text, flags=re.M | re.S)
    if count != 1:
        raise SystemExit(f"found no table {table} to replace")
    return replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the ratios go to DIR/crossover")
    parser.add_argument("--table", type=Path, default=TABLE, help="the file to write the sizes into")
    parser.add_argument("--seconds", type=float, default=0.15, help="time for each race")
    parser.add_argument("--threads", type=int, help="default: torch's; 1 where other programs share the cores")
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations, by their names in the catalogue")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ACTIVATIONS):
        parser.error(f"no activation is called {', '.join(sorted(unknown))}")
    if options.threads:
        torch.set_num_threads(options.threads)
    settle_heap()

    here: dict[str, Any] = environment(options.device)
    tables = tables_of(options.device)
    folder, stem = options.out / "crossover", tables.replace(" ", "-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}.json"
    results: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    for table, dtype in TABLES[tables].items():
        of_dtype = str(dtype).removeprefix("torch.")
        for name in options.names or ACTIVATIONS:
            found = {mode: find(name, dtype, train, options.device, options.seconds) for mode, train in MODES.items()}
            rows = results.get(of_dtype, {}) | {name: {"environment": here, **found}}
            results[of_dtype] = {each: rows[each] for each in ACTIVATIONS if each in rows}
            write_result(folder, stem, results)
            shown = [each["from"] or "never" for each in found.values()]
            print(f"{table:10} {name:16} inference from {shown[0]:>8}, training from {shown[1]:>8}", flush=True)
        if missing := [name for name in ACTIVATIONS if name not in results[of_dtype]]:
            print(f"{table} stays as it is until these are measured too: {' '.join(missing)}")
        else:
            options.table.write_text(with_table(options.table.read_text(), table, results[of_dtype]))


if __name__ == "__main__":
    main()
