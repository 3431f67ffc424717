"""`python -m fastact` with one of the commands info, validate, warmup, tune, coverage, plot and play."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from . import libraries
from .catalogue import ACTIVATIONS
from .dispatch import triton_is_installed
from .enable import enable
from .names import rows_named
from .plot import named, plot
from .tools import coverage, play
from .tools.info import as_json, report, thresholds
from .tools.tune import tune
from .tools.validate import validate
from .tools.warmup import default_processes, summary, warmup
from .torch_ops import needs_nodes

_DTYPES = ("float32", "float16", "bfloat16", "float64")


def _capability(target: str) -> int:
    found = re.fullmatch(r"sm_(\d+)", target)
    if not found:
        raise argparse.ArgumentTypeError(f"{target} is none like sm_90")
    return int(found[1])


def _names(text: str) -> frozenset[str]:
    try:
        return frozenset().union(*map(rows_named, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _activation(text: str) -> nn.Module:
    """The module that `elu` or `softplus:beta=3,threshold=5` says."""
    name, colon, rest = text.partition(":")
    arguments = {}
    for argument in rest.split(",") if colon else []:
        key, sign, value = argument.partition("=")
        if not sign:
            raise argparse.ArgumentTypeError(
                f"{text!r} is none like relu, elu:alpha=0.5 or softplus:beta=3,threshold=5"
            )
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = value
    try:
        return named(name, **arguments)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is none from 1 to 65535")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastact", description="Drop-in activations for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    tell = commands.add_parser("info", help="versions, hardware, and which backend each activation takes")
    tell.add_argument("--json", action="store_true", help="as JSON, for a bug report or a program")
    check = commands.add_parser(
        "validate",
        help="measure accuracy and speed on this machine",
        description="Measures the largest errors of each activation and its derivative against float64, and its speed "
        "against torch and a plain copy. The exit status is 1 if an error is out of bounds; speed does not change it.",
    )
    check.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    warm = commands.add_parser(
        "warmup",
        help="compile the GPU's kernels ahead",
        description="Compiles the kernels into Triton's cache, so that training finds them there, or into a bundle: "
        "for dense and row-strided tensors of any size, and where the kernel depends on the shape (softmax, learned "
        "numbers for each channel) for common ones. For the current GPU, or with --target on a machine without one.",
    )
    warm.add_argument(
        "--dtypes", nargs="+", choices=_DTYPES, default=["float32", "bfloat16"], help="default: %(default)s"
    )
    warm.add_argument(
        "--target",
        type=_capability,
        action="append",
        metavar="sm_NN",
        help="a compute capability, as sm_90 for an H200; may be given several times",
    )
    warm.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="write the kernels to this folder, from which processes run them without Triton, where FASTACT_BUNDLE "
        "names it or it is fastact/bundle",
    )
    warm.add_argument("--processes", type=int, default=default_processes(), help="default: %(default)s")
    commands.add_parser(
        "tune",
        help="measure which softmax rows torch computes faster",
        description="Races each kind of rows against torch's, forward and backward, in under a minute, and keeps the "
        "result in the user's cache folder. It decides on arithmetic alone: what is saved and the node do not change.",
    )
    cover = commands.add_parser(
        "coverage",
        help="run a program, and show which activation calls ran fastact's kernels",
        description="Runs a script, or with -m a module, with fastact enabled (fastact.enable), and prints its calls "
        "of activations by the line and the module where they come from, and why some were torch's. The exit status is "
        "the program's.",
    )
    cover.add_argument("--only", type=_names, metavar="NAME,NAME", help="enable only these activations")
    cover.add_argument("--exclude", type=_names, metavar="NAME,NAME", help="leave these to torch")
    cover.add_argument("--disabled", action="store_true", help="enable nothing, and show what there is to enable")
    cover.add_argument("-m", action="store_true", dest="as_module", help="PROGRAM is a module, as for python -m")
    cover.add_argument("program", metavar="PROGRAM")
    cover.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the program's own arguments")
    draw = commands.add_parser(
        "plot",
        help="draw activations with their derivatives",
        description="Draws curves, derivatives, kinks and where each is flat, as fastact.plot does: PNG, SVG, PDF, or "
        "HTML, a page that shows values under the pointer and works offline. Needs matplotlib (fastact[plot]).",
    )
    draw.add_argument(
        "activations",
        nargs="+",
        type=_activation,
        metavar="NAME[:ARGUMENT=VALUE,...]",
        help="as relu, elu:alpha=0.5 or softplus:beta=3,threshold=5",
    )
    draw.add_argument("--out", type=Path, required=True, metavar="FILE", help="its suffix says the format")
    draw.add_argument(
        "--range", nargs=2, type=float, default=(-5, 5), metavar=("LOW", "HIGH"), help="of inputs, default: -5 5"
    )
    draw.add_argument("--derivatives", type=int, choices=(0, 1, 2), default=1, help="how many, default: %(default)s")
    draw.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        help="all in one panel for each derivative; default: two to four activations",
    )
    page = commands.add_parser(
        "play",
        help="train small networks on a local page, and see what happens inside",
        description="Serves a page on which one chooses an activation or types one, trains a small network, and "
        "watches dead and saturated units, outputs and gradients. Needs Bokeh and scikit-learn (fastact[play]), and no "
        "network.",
    )
    page.add_argument("--host", default="localhost", help="where to listen, as browsers write it, default: %(default)s")
    page.add_argument("--port", type=_port, default=5006, help="default: %(default)s")
    page.add_argument("--no-browser", action="store_true", help="print the address only")
    page.add_argument("--load", type=Path, metavar="FILE", help="show the statistics that a Monitor has recorded")
    for command in (check, warm):
        command.add_argument(
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

    if options.command in ("tune", "validate", "warmup") and not libraries.HAS_KERNELS:
        parser.error(f"{options.command} needs kernels, and {libraries.WHY_NO_KERNELS}")
    if options.command == "info":
        print(json.dumps(as_json(), indent=2) if options.json else report())
        return 0
    if options.command == "tune":
        tune()
        print(thresholds())
        return 0
    if options.command == "coverage":
        if options.disabled and (options.only or options.exclude):
            cover.error("--disabled enables nothing: without --only and --exclude")
        if not options.as_module and not Path(options.program).exists():
            cover.error(f"there is no {options.program}")
        try:
            if not options.disabled:
                enable(options.only, options.exclude)
            needs_nodes("python -m fastact coverage")
        except (RuntimeError, ValueError) as error:
            cover.error(str(error))
        coverage.run(options.program, options.arguments, as_module=options.as_module)
        return 0
    if options.command == "plot":
        shown, out, overlay = tuple(options.range), options.out, options.overlay
        try:
            plot(*options.activations, derivatives=options.derivatives, range=shown, file=out, overlay=overlay)
        except (ImportError, OSError, ValueError) as error:
            draw.error(str(error))
        return 0
    if options.command == "play":
        try:
            play.serve(options.host, options.port, not options.no_browser, options.load)
        except (ImportError, OSError, ValueError) as error:
            page.error(str(error))
        return 0
    if options.command == "warmup":
        if not triton_is_installed():
            warm.error("Triton is not installed")
        if options.target is None and not torch.cuda.is_available():
            warm.error("torch sees no GPU; --target sm_90, say, compiles for one that is elsewhere")
        major, minor = (0, 0) if options.target else torch.cuda.get_device_capability()
        dtypes = [getattr(torch, name) for name in options.dtypes]
        targets = options.target or [10 * major + minor]
        print(summary(warmup(options.activations, dtypes, targets, options.processes, options.bundle), options.bundle))
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
