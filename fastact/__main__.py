"""`python -m fastact info` and `python -m fastact validate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .catalogue import ACTIVATIONS
from .info import report
from .validate import validate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastact", description="Activation kernels for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, hardware, and which backend each activation takes")
    check = commands.add_parser(
        "validate",
        help="measure accuracy and speed on this machine",
        description="Measures the largest errors of each activation and its derivative against float64, and its speed "
        "against torch and a plain copy. The exit status is 1 if an error is out of bounds; speed does not change it.",
    )
    check.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    check.add_argument(
        "--activations",
        nargs="+",
        choices=ACTIVATIONS,
        default=list(ACTIVATIONS),
        metavar="NAME",
        help=f"only these, of {', '.join(ACTIVATIONS)}",
    )
    check.add_argument("--exhaustive", action="store_true", help="all 2^32 float32 inputs (minutes to hours)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE as well")
    options = parser.parse_args(arguments)

    if options.command == "info":
        print(report())
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        check.error("--device cuda: torch sees no GPU")
    results = validate([ACTIVATIONS[name] for name in options.activations], options.device, options.exhaustive)
    print(results)
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=2) + "\n")
    return 1 if results.out_of_bounds else 0


if __name__ == "__main__":
    sys.exit(main())
