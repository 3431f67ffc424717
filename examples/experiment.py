"""What the experiments share: options, the spread over seeds, pictures, result files, and the page that shows them.

    python examples/experiment.py docs/experiments.md

puts the tables of the results in docs/experiments/ between the markers of that page, and draws their pictures again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm
from train_digits import Data, load

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "bench"))
from environment import environment, measured_on, write_result  # noqa: E402 (they lie there)
from report import replace_block, table  # noqa: E402

Row = dict[str, Any]
Result = dict[str, Any]

RESULTS = ROOT / "docs" / "experiments"
DATA = {"digits": "scikit-learn's digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}

# Okabe and Ito's colours, which colour-blind readers can tell apart, with a marker each.
STYLES: dict[str, dict[str, Any]] = {
    "Sigmoid": {"color": "#D55E00", "marker": "s", "ls": (0, (5, 1.5))},
    "Tanh": {"color": "#CC79A7", "marker": "D", "ls": (0, (5, 1.5, 1.5, 1.5))},
    "Softsign": {"color": "0.5", "marker": "v", "ls": (0, (1.5, 1))},
    "ReLU": {"color": "#0072B2", "marker": "o", "ls": "-"},
    "LeakyReLU": {"color": "#56B4E9", "marker": "^", "ls": (0, (5, 1.5))},
    "ELU": {"color": "#009E73", "marker": "P", "ls": (0, (5, 1.5, 1.5, 1.5))},
    "SELU": {"color": "black", "marker": "X", "ls": (0, (3, 1))},
    "Maxout": {"color": "#E69F00", "marker": "h", "ls": (0, (1.5, 1))},
}
FONT = 9


# Options and data


def parser(doc: str, *, seeds: int, epochs: int | None = None, images: bool = True) -> argparse.ArgumentParser:
    """Of the options that experiments share; those on epochs and images where there are any."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--seeds", type=int, default=seeds, help="how many (default: %(default)s)")
    if epochs:
        found.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    if images:
        found.add_argument("--data", choices=DATA, default="digits", help="default: %(default)s")
        found.add_argument("--root", type=Path, default=Path("data"), help="folder with MNIST's or CIFAR-10's files")
    found.add_argument("--threads", type=int, default=1, help="more do not help networks this small (default: 1)")
    found.add_argument("--out", type=Path, default=RESULTS, help="default: docs/experiments")
    return found


def loaded(options: argparse.Namespace) -> Data:
    torch.set_num_threads(options.threads)
    return load(options.data, options.root, 0, torch.device("cpu"))


def runs(options: argparse.Namespace, *choices: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Every combination of the choices and a seed, behind a progress bar. Seeds torch each time."""
    every = list(product(*choices, range(options.seeds)))
    for each in tqdm(every, unit="run", leave=False, dynamic_ncols=True, disable=None):
        torch.manual_seed(each[-1])
        yield each


# Spread


def values(rows: Iterable[Row], column: str, **where: Any) -> list[Any]:
    """Of that column, in the rows that have these values, one for each seed."""
    return [row[column] for row in rows if all(row[name] == value for name, value in where.items())]


def cell(found: Sequence[float], form: str) -> str:
    """The median, and in brackets the range."""
    low, middle, high = (format(value, form) for value in (min(found), median(found), max(found)))
    return middle if low == high else f"{middle} ({low} to {high})"


def curve(axes: Axes, x: Sequence[float], found: Sequence[Sequence[float]], **style: Any) -> None:
    """The medians over the seeds as a line, and their range as a band."""
    axes.plot(x, [median(each) for each in found], ms=4, lw=1.5, **style)
    axes.fill_between(x, [min(each) for each in found], [max(each) for each in found], color=style["color"], alpha=0.15)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


# Pictures


def panels(mosaic: str, title: str, result: Result, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A figure at the width of a page, with what was run in its heading. Its panels are the letters of the mosaic, as
    in "AAB;CCC", rows of that height in inches."""
    figure = Figure(figsize=(9, 0.9 + height * len(mosaic.split(";"))), dpi=150)
    figure.set_layout_engine("constrained")
    figure.suptitle(f"{title}\n\n", fontsize=FONT + 2, fontweight="bold", x=0.01, ha="left")
    figure.text(0.01, 1 - 0.4 / figure.get_figheight(), result["setup"], fontsize=FONT - 1, color="0.35", va="center")
    found = [axes for _, axes in sorted(figure.subplot_mosaic(mosaic).items())]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=FONT - 1, color="0.6")
    return figure, found


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=FONT, fontweight="bold", loc="left")
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)


def legend(figure: Figure, axes: Axes) -> None:
    """Of one panel, for all of them, below."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 8)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=FONT)


# Results


def finish(
    script: str,
    options: argparse.Namespace,
    setup: str,
    rows: list[Row],
    draw: Callable[[Result], Figure],
    name: str | None = None,
) -> None:
    """Write the result and its picture, print its table. `setup` says in a line what was run on what."""
    name = name or Path(script).stem
    if hasattr(options, "data"):
        setup = f"{DATA[options.data]}; {setup}"
    settings = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
    result = {
        "script": Path(script).stem,
        "environment": environment("cpu"),
        "settings": settings,
        "setup": f"{setup}; {'median and range of ' if options.seeds > 1 else ''}{count(options.seeds, 'seed')}",
        "rows": _rounded(rows),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_result(options.out, name, result)
    draw(result).savefig(options.out / f"{name}.png")
    print(block(result))


def _rounded(value: Any) -> Any:
    """With 5 digits, so that files stay short; the spread begins well before."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return {name: _rounded(each) for name, each in value.items()} if isinstance(value, dict) else value


def block(result: Result) -> str:
    """What the page shows of a result: where and on what it was measured, and its table."""
    headings, lines = import_module(result["script"]).table(result)
    measured = measured_on(result, ("torch", "fastact"))
    return f"{measured} {result['setup']}.\n\n{table(headings, lines)}"


def committed() -> dict[str, Result]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def page(text: str) -> str:
    """The page with the tables of all results renewed."""
    for name, result in committed().items():
        text = replace_block(text, block(result), name)
    return text


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(page(path.read_text()))
    for name, result in committed().items():
        import_module(result["script"]).draw(result).savefig(RESULTS / f"{name}.png")
