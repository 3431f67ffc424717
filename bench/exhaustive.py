"""The largest errors over all 2^32 float32 inputs, written under bench/results/<hardware>/.

    python bench/exhaustive.py [NAME ...]

Of every activation, or of those named, with its default arguments: accuracy.json, which keeps what earlier runs
measured of others, and from it accuracy.md. Minutes for each on two cores. The exit status is 1 if an error is out of
bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, environment, folder_of, name_of
from report import table

from fastact.accuracy import samples
from fastact.catalogue import ACTIVATIONS
from fastact.validate import inputs, largest_errors, progress_bar


def measured(name: str) -> tuple[str, list[dict[str, Any]]]:
    """On one core: torch's ops on several are slower here, where tensors stay in a core's cache."""
    torch.set_num_threads(1)
    activation = ACTIVATIONS[name]
    sample = samples(activation)[0]
    steps = [(activation, sample, make) for make in inputs(activation, sample, torch.float32, exhaustive=True)]
    with progress_bar(len(steps)) as progress:
        measurements = largest_errors(steps, "cpu", progress)
    return name, [{**asdict(each), "held": each.held} for each in measurements]


def report(results: dict[str, Any]) -> str:
    """Sorted by how much of its bound each uses."""
    rows = [row for result in results.values() for row in result["measurements"]]
    rows.sort(key=lambda row: -row["error"] / row["bound"] if row["bound"] else 0)
    cells = []
    for row in rows:
        arguments = ", ".join(f"{name}={value:g}" for name, value in row["sample"].items())
        error = f"{row['error']:.3f}" if row["bound"] else "exact" if row["held"] else "not exact"
        bound = f"{row['bound']:g} {row['unit']}" if row["bound"] else "torch's bits"
        at = f"{row['input']:.9g}" if row["bound"] else ""
        mark = "" if row["held"] else " (!)"
        cells.append([f"{row['activation']}({arguments})", row["direction"], error + mark, bound, at])
    runs = sorted({(name_of(each["environment"]), each["environment"]["date"][:10]) for each in results.values()})
    lines = [
        "# The largest errors over all 2^32 float32 inputs",
        "",
        f"Made by `python bench/exhaustive.py`: {'; '.join(f'{machine}, {date}' for machine, date in runs)}. The "
        "versions and the commit of each activation's run stand in `accuracy.json`. Truth and bounds are those of "
        "`fastact/accuracy.py`; those nearest to their bounds come first.",
        "",
        table(["activation", "direction", "largest error", "allowed", "at x ="], cells, numbers_from=2),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations, by their names in the catalogue")
    names = parser.parse_args().names or list(ACTIVATIONS)
    for name in names:
        if name not in ACTIVATIONS:
            parser.error(f"no activation is called {name}")
    where = environment("cpu")
    folder: Path = RESULTS / folder_of(where)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "accuracy.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    with get_context("spawn").Pool(where["hardware"]["cores"]) as pool:
        for name, measurements in pool.imap_unordered(measured, names):
            results[name] = {"environment": where, "measurements": measurements}
            results = {each: results[each] for each in ACTIVATIONS if each in results}
            file.write_text(json.dumps(results, indent=1) + "\n")
            (folder / "accuracy.md").write_text(report(results))
    return 0 if all(row["held"] for result in results.values() for row in result["measurements"]) else 1


if __name__ == "__main__":
    sys.exit(main())
