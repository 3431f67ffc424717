"""What two short networks keep for backward, as torch, as fastact and under fastact.recompute(), counted and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import fastact
from fastact.saved import Kept, Saved
from fastact.tools.info import readable

_KEPT, _AGAIN = "#0072B2", "#E69F00"  # as in saved.png
_WIDTH, _HEIGHT, _LINE = 0.9, 0.66, 1.05  # of a whole tensor, and from one line of tensors to the next
_SMALL = 0.01  # of the largest tensor: statistics per channel are not drawn


class Chain(NamedTuple):
    layers: nn.Sequential
    x: Tensor


def chains() -> list[Chain]:
    """Both with tensors of one size, 1 MiB."""
    torch.manual_seed(0)
    return [
        Chain(
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, padding=1, bias=False),
            ),
            torch.randn(8, 32, 32, 32),
        ),
        Chain(
            nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 256)), torch.randn(1024, 256)
        ),
    ]


def counted(chain: Chain) -> tuple[Saved, Saved]:
    """As torch, and as fastact."""
    stock = fastact.saved(chain.layers, chain.x)
    with fastact.enable():
        return stock, fastact.saved(chain.layers, chain.x)


def draw(path: str | Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(9, 7), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.1)
    for panel, chain in zip(figure.subplots(2), chains(), strict=True):
        _draw_chain(panel, chain)
    handles = [Rectangle((0, 0), 1, 1, color=_KEPT), Rectangle((0, 0), 1, 1, fill=False, ec=_AGAIN, ls="--", lw=1.6)]
    names = ["kept for backward", "made again in backward"]
    figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    figure.savefig(path)


def _draw_chain(axes: Axes, chain: Chain) -> None:
    """Layers stand in a row, each tensor below the arrow that it is, a mask below its layer; a line for each way."""
    stock, ours = counted(chain)
    last = 2 * len(chain.layers)
    for i, layer in enumerate(chain.layers):
        box = {"boxstyle": "round,pad=0.3", "fc": "0.94", "ec": "0.4"}
        axes.text(2 * i + 1, 0, type(layer).__name__, ha="center", va="center", fontsize=9, bbox=box)
    for place in range(0, last + 1, 2):
        axes.annotate("", (place + 0.35, 0), (place - 0.35, 0), arrowprops={"arrowstyle": "->", "color": "0.4"})
    assert ours.recompute_bytes is not None
    lines = {
        "torch": (stock.bytes, stock.rows, False),
        "fastact": (ours.bytes, ours.rows, False),
        "fastact.recompute()": (ours.recompute_bytes, ours.rows, True),
    }
    whole = chain.x.nbytes
    for number, (name, (bytes, rows, under)) in enumerate(lines.items(), 1):
        floor = -number * _LINE
        axes.text(-0.65, floor + _HEIGHT / 2, name, ha="right", va="center", fontsize=10, fontweight="bold")
        axes.text(last + 0.4, floor + _HEIGHT / 2, readable(bytes), va="center", fontsize=10, fontweight="bold")
        for row in rows:
            if row.bytes < _SMALL * whole:
                continue
            place, kept = _place(row), (row.recompute_bytes if under else row.bytes) or 0
            height = _HEIGHT * kept / whole
            axes.add_patch(Rectangle((place - _WIDTH / 2, floor), _WIDTH, height, color=_KEPT, lw=0))
            if kept < row.bytes:
                again = Rectangle((place - _WIDTH / 2, floor), _WIDTH, _HEIGHT, fill=False, ec=_AGAIN, ls="--", lw=1.6)
                axes.add_patch(again)
            if under and row.remade:
                for source in _sources(row, rows):
                    _draw_arrow(axes, source, place, floor)
                axes.text(place, floor + _HEIGHT / 2, _wrapped(row.remade), ha="center", va="center", fontsize=7)
            elif not row.made_by:
                axes.text(place, floor + _HEIGHT / 2, "mask", ha="center", va="center", fontsize=8, color="white")
    axes.set(xlim=(-2.6, last + 1.5), ylim=(-3 * _LINE - 0.5, 0.4))
    axes.axis("off")


def _place(row: Kept) -> int:
    """Odd below a layer, even between two."""
    layer = int(row.layer)
    return 2 * layer if row.made_by else 2 * layer + 1


def _sources(row: Kept, rows: tuple[Kept, ...]) -> Iterator[int]:
    """Where what it is made from lies."""
    largest = {each.layer: each for each in sorted(rows, key=lambda each: each.bytes)}
    return (_place(largest[layer]) for layer in row.remade_from)


def _draw_arrow(axes: Axes, source: int, target: int, floor: float) -> None:
    style = {"arrowstyle": "->", "color": _AGAIN, "lw": 1.4, "connectionstyle": "arc3,rad=0.25"}
    axes.annotate("", (target, floor - 0.03), (source, floor - 0.03), arrowprops=style)


def _wrapped(ops: str) -> str:
    """An op in each line, in the order in which they run."""
    return "\n".join(reversed(ops.replace("native_", "").replace("unpacking ", "").split(" after ")))
