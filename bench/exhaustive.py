"""The largest errors over all 2^32 float32 inputs, written under bench/results/accuracy/.

    python bench/exhaustive.py [NAME ...]

Of every activation, or of those named, with the catalogue's first sample of arguments: accuracy.json, which keeps what
earlier runs measured of others, and from it accuracy.md. The exit status is 1 if an error is out of bounds.

Activations that are linear by parts are compared with torch, in the instruction set that this process runs. For the
others the truth is fastact's own float64 kernels, and exhaustive.cpp compares the float32 kernels of all instruction
sets with them: half a minute to five minutes for each direction on one core. The float64 kernels are held against the
formulas of fastact/tools/accuracy.py, in the same units, at one input in 4,099. Softmax and its like, of whole rows,
are left to the tests.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, environment, name_of, write_result
from report import table

from fastact import functional, ops
from fastact.catalogue import ACTIVATIONS, Activation
from fastact.tools import accuracy
from fastact.tools.accuracy import (
    REFERENCES,
    Measurement,
    bind,
    bit_patterns,
    evaluate,
    is_exact,
    judge,
    measure,
    samples,
)
from fastact.tools.validate import largest_errors, progress_bar

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import flags as setup_flags  # noqa: E402

OUT = RESULTS / "accuracy"  # of any machine: no value depends on it
DIRECTIONS = ("forward", "derivative")
PATTERNS = (0, 1 << 32)
_SPARSELY = 4099  # a prime, so that every mantissa's ending comes up
_NEGLIGIBLE = 1e-3  # of the truth, in float32's ULPs
_SLICE = 1 << 28  # of the patterns, for one process: 16 keep all of them busy to the end
_CHUNK = 1 << 21

Row = dict[str, Any]


def build(folder: Path) -> Path:
    """Compile the kernels with the flags of setup.py, and exhaustive.cpp with them."""
    folder.mkdir(parents=True, exist_ok=True)
    setup = setup_flags.of_setup()
    compiler = os.environ.get("CXX", "c++")

    def kernels(name: str, flags: list[str]) -> Path:
        target = folder / f"kernels_{name}.o"
        source = ["-c", "csrc/kernels/kernels.cpp", "-o", target.resolve()]
        command = [compiler, *setup["FLAGS"], *flags, f"-DFASTACT_INSTRUCTION_SET={name}", *source]
        subprocess.run(command, cwd=ROOT, check=True)
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(kernels, *zip(*setup["instruction_sets"](platform.machine()).items(), strict=True)))
    program = folder / "exhaustive"
    flags = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-unknown-pragmas"]
    sources = [f"-I{ROOT / 'csrc'}", ROOT / "bench/exhaustive.cpp", *objects]
    subprocess.run([compiler, *flags, *sources, "-o", program], check=True)
    return program


def rounded(activation: Activation, sample: dict[str, Any]) -> dict[str, float]:
    """The arguments as float32 kernels take them."""
    return {name: torch.tensor(value, dtype=torch.float32).item() for name, value in sample.items()}


def unit(activation: Activation, sample: dict[str, Any], direction: str) -> dict[str, Iterable[float]]:
    """What exhaustive.cpp divides errors by, which are the rules of `accuracy.judge`."""
    reference, arguments = REFERENCES[activation.name], rounded(activation, sample)
    rules: dict[str, Iterable[float]] = {"limit": [reference.limit(**arguments)], "zero_below": [reference.zero_below]}
    if direction == "forward":
        rules["difference"] = [float(reference.difference)]
        if reference.term is not None:
            terms = reference.term(torch.tensor([0.0, 1.0], dtype=torch.float64), **arguments)
            rules |= {"term_at_0": terms[:1].tolist(), "term_at_1": terms[1:].tolist()}
    elif activation.saved == "output":
        rules["absolute"] = [accuracy.DERIVATIVE_FROM_OUTPUT * reference.scale(**arguments)]
    else:
        anywhere = reference.crosses_anywhere
        rules["points"] = [0.0] if anywhere else reference.zero_crossings
        rules["radius"] = [math.inf if anywhere else accuracy.NEAR_ZERO_CROSSING]
        rules["least"] = [accuracy.LEAST_ULP_THERE]
    return rules


def errors_by_instruction_set(
    program: Path, activation: Activation, sample: dict[str, Any], direction: str, patterns: tuple[int, int]
) -> tuple[dict[str, float], float, list[float]]:
    """By instruction set; the largest difference between two of them; input, result and truth of the largest error."""
    arguments = rounded(activation, sample)
    numbers = unit(activation, sample, direction) | {
        "scalars": [arguments[name] for name in activation.scalars],
        "weights": [arguments[name] for name in activation.weights],
        "first": patterns[:1],
        "last": patterns[1:],
    }
    given = [f"{key}={','.join(map(repr, values))}" for key, values in numbers.items() if values]
    command = [program, activation.name, direction, *given]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {name: tuple(map(float, rest)) for name, *rest in map(str.split, lines)}
    worst = max(found.values())
    at = torch.tensor([int(worst[1])]).to(torch.int32).view(torch.float32).item()
    errors = {name.lower(): error for name, (error, *_) in found.items()}
    return errors, max(difference for *_, difference in found.values()), [at, *worst[2:4]]


def error_of_truth(activation: Activation, sample: dict[str, Any], patterns: tuple[int, int]) -> tuple[float, ...]:
    """The float64 kernels' largest errors, forward and derivative, in float32's units."""
    first, last = patterns
    x = torch.arange(first + -first % _SPARSELY, last, _SPARSELY).to(torch.int32).view(torch.float32)
    function = getattr(functional, activation.function)
    arguments = rounded(activation, sample)
    results = evaluate(bind(function, activation, arguments, x.double()), x.double())
    return tuple(each.error for each in judge(activation, sample, x, *results))


def of_formula(program: Path, name: str, patterns: tuple[int, int]) -> list[Row]:
    """Errors in both directions."""
    torch.set_num_threads(1)
    activation, rows = ACTIVATIONS[name], []
    sample = samples(activation)[0]
    bounds = measure(activation, sample, torch.zeros(1))
    of_truth = error_of_truth(activation, sample, patterns)
    for direction, bound, truth in zip(DIRECTIONS, bounds, of_truth, strict=True):
        errors, difference, numbers = errors_by_instruction_set(program, activation, sample, direction, patterns)
        row = _row(bound, errors, numbers) | {"difference": difference, "error_of_truth": truth}
        rows.append(row | {"held": row["held"] and truth < _NEGLIGIBLE})
    return rows


def of_torch(name: str, patterns: tuple[int, int]) -> list[Row]:
    """Whether every bit is torch's, in both directions."""
    torch.set_num_threads(1)  # on several, torch's ops are slower here, where tensors stay in a core's cache
    activation = ACTIVATIONS[name]
    sample, end = samples(activation)[0], patterns[1]
    steps = [
        (activation, sample, partial(bit_patterns, torch.float32, first, min(first + _CHUNK, end)))
        for first in range(*patterns, _CHUNK)
    ]
    with progress_bar(len(steps)) as progress:
        worst = largest_errors(steps, "cpu", progress)
    return [_row(each, {ops.instruction_set(): each.error}, [each.input, each.result, each.expected]) for each in worst]


def _row(bound: Measurement, errors: dict[str, float], numbers: list[float]) -> Row:
    return {
        "activation": bound.activation,
        "sample": bound.sample,
        "direction": bound.direction,
        "errors": errors,
        "bound": bound.bound,
        "unit": bound.unit,
        "held": max(errors.values()) <= bound.bound,
        **dict(zip(("input", "result", "expected"), numbers, strict=True)),
    }


def merge(slices: list[list[Row]]) -> list[Row]:
    """The rows of consecutive slices of the patterns as those of all."""
    merged = []
    for rows in zip(*slices, strict=True):
        worst = max(rows, key=lambda row: max(row["errors"].values()))
        errors = {name: max(row["errors"][name] for row in rows) for name in worst["errors"]}
        largest = {key: max(row[key] for row in rows) for key in ("difference", "error_of_truth") if key in worst}
        merged.append(worst | {"errors": errors, "held": all(row["held"] for row in rows)} | largest)
    return merged


def report(results: dict[str, Any]) -> str:
    """Sorted by how much of its bound each uses."""
    rows = [row for result in results.values() for row in result["rows"]]
    rows.sort(key=lambda row: -max(row["errors"].values()) / row["bound"] if row["bound"] else 0)
    sets = list(dict.fromkeys(name for row in rows for name in row["errors"]))
    cells, exact = [], []
    for row in rows:
        arguments = ", ".join(f"{name}={value:g}" for name, value in row["sample"].items())
        name = f"{row['activation']}({arguments})"
        mark = "" if row["held"] else " (!)"
        if row["bound"]:
            errors = [f"{row['errors'][each]:.3f}" if each in row["errors"] else "" for each in sets]
            allowed = f"{row['bound']:g} {row['unit']}{mark}"
            cells.append([name, row["direction"], *errors, allowed, f"{row['input']:.9g}", f"{row['difference']:.2f}"])
        else:
            exact.append(f"{name} {row['direction']}{mark}")
    runs = sorted({(name_of(each["environment"]), each["environment"]["date"][:10]) for each in results.values()})
    of_truth = max((row["error_of_truth"] for row in rows if row["bound"]), default=0.0)
    lines = [
        "# The largest errors over all 2^32 float32 inputs",
        "",
        f"Made by `python bench/exhaustive.py`: {'; '.join(f'{machine}, {date}' for machine, date in runs)}. The "
        "versions and the commit of each activation's run stand in `accuracy.json`. Units and bounds are those of "
        "`fastact/tools/accuracy.py`; (!) is out of bounds, what is nearest to its bound comes first. The truth is the "
        f"float64 kernels, whose own largest error, in the same units, is {of_truth:.1g} at one input in "
        f"{_SPARSELY:,}. Empty where the machine lacks the instruction set. The last column: how far apart, in these "
        "units, two instruction sets' results are at most.",
        "",
        table(["activation", "direction", *sets, "allowed", "at x =", "apart"], cells, numbers_from=2),
        "",
        "Every bit is that of torch's vector code (but for NaN's) in: " + (", ".join(exact) or "not run yet") + ".",
    ]
    return "\n".join(lines) + "\n"


def _rows_of(program: Path, task: tuple[str, int]) -> list[Row]:
    name, first = task
    patterns = first, first + _SLICE
    return of_torch(name, patterns) if is_exact(ACTIVATIONS[name]) else of_formula(program, name, patterns)


def main() -> int:
    choices = [name for name, row in ACTIVATIONS.items() if row.kind != "softmax"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations, by their names in the catalogue")
    names = parser.parse_args().names or choices
    for name in names:
        if name not in choices:
            parser.error(f"no activation of one variable is called {name}")
    where = environment("cpu")
    file = OUT / "accuracy.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    program = build(ROOT / "build" / "exhaustive")
    starts = range(*PATTERNS, _SLICE)
    with get_context("spawn").Pool(where["hardware"]["cores"]) as pool:
        slices = pool.imap(partial(_rows_of, program), product(names, starts))
        for name in names:
            rows = merge(list(islice(slices, len(starts))))
            results[name] = {"environment": where, "rows": rows}
            results = {each: results[each] for each in ACTIVATIONS if each in results}
            write_result(OUT, "accuracy", results, report(results))
            print(name, "within its bounds" if all(row["held"] for row in rows) else "OUT OF BOUNDS", flush=True)
    return 0 if all(row["held"] for result in results.values() for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
