"""Pictures: the activations with their derivatives, how a training went, and what it keeps. Needs matplotlib
(`fastact[plot]`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import functional, modules
from ..catalogue import ACTIVATIONS, Activation, of_one_variable
from ..names import folded
from ..saved import LEAST_SHARE, Saved
from .info import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves", "gradient_histograms", "kept", "loss_curves"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _VERMILION, _ORANGE = "#0072B2", "#D55E00", "#E69F00"
_GREY = "0.45"
_COLUMNS = 4
_BARS = 24
# What `of_one_variable` puts in, where x alone is not the whole input.
_INPUTS = {"gated": "gate x, value 1", "maxout": "of (x, 0)", "softmax": "of (x, 0)"}


def curves(path: str | Path, activations: Iterable[Activation] | None = None) -> None:
    """Draw each activation (default: the whole catalogue) and its derivative, as fastact's kernels compute them."""
    rows = list(ACTIVATIONS.values() if activations is None else activations)
    figure, panels = _panels(len(rows), "Activations and their derivatives")
    for axes, row in zip(panels, rows, strict=True):
        _draw_curve(axes, row)
        axes.set(xlim=(-5, 5), ylim=(-3.2, 3.2), xticks=range(-4, 5, 2), yticks=range(-3, 4))
    _label(figure, panels, "input $x$", "$f(x)$, $f'(x)$")
    _legend(figure, panels[0])
    figure.savefig(path)


def _draw_curve(axes: Axes, row: Activation) -> None:
    arguments = row.samples[0]
    kinks = row.kinks(**arguments)
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    for kink in kinks:  # a point at either side, so that a jump is drawn where it is
        around = [math.nextafter(kink, -math.inf), kink, math.nextafter(kink, math.inf)]
        x = torch.cat((x, torch.tensor(around, dtype=torch.float64))).unique()
    x.requires_grad_()
    module = getattr(modules, row.module)(**row.arguments()).double()
    if row.random:
        draws = module(x.detach())
        axes.plot(x.detach()[::5], draws[::5], ".", color=_BLUE, alpha=0.5, ms=3, mew=0)
    if row.pointwise:
        y = module.eval()(x)
    else:
        y = of_one_variable(row, getattr(functional, row.function))(x, **arguments, **row.options)
    (slope,) = torch.autograd.grad(y.sum(), x)
    x, y = x.detach(), y.detach()
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    # Gaps before and after each kink, across which no line is drawn.
    at = [int(torch.searchsorted(x, kink)) for kink in kinks]
    gaps = sorted(at + [i + 1 for i in at])
    broken = (np.insert(values.numpy(), gaps, np.nan) for values in (x, y, slope))
    gapped_x, gapped_y, gapped_slope = broken
    axes.plot(gapped_x, gapped_y, color=_BLUE, lw=2, label="$f(x)$")
    axes.plot(gapped_x, gapped_slope, color=_VERMILION, lw=1.6, ls=(0, (3, 1.5)), label="$f'(x)$")
    axes.plot(x[at], y[at], "o", color=_BLUE, ms=5, label="kink")
    axes.set_title(row.module, fontsize=11, fontweight="bold", loc="left")
    note = [f"{name} = {_number(value)}" for name, value in row.arguments().items() if name != "dim"]
    note += [_INPUTS[row.kind]] if row.kind in _INPUTS else []
    axes.set_title(", ".join(note), fontsize=7, color=_GREY, loc="right")


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def loss_curves(path: str | Path, losses: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw the loss of each step, one panel per activation; `losses[activation]` holds torch's and then fastact's."""
    figure, panels = _panels(len(losses), "Training loss: fastact's curve on torch's")
    styles: tuple[dict[str, Any], ...] = ({"color": _ORANGE, "lw": 4.5, "alpha": 0.6}, {"color": _BLUE, "lw": 1})
    for axes, (name, pair) in zip(panels, losses.items(), strict=True):
        for (library, values), style in zip(pair.items(), styles, strict=True):
            axes.plot(range(1, len(values) + 1), values, label=library, solid_capstyle="round", **style)
        torchs, ours = pair.values()
        difference = np.abs(np.subtract(torchs, ours)).max()
        axes.set_title(name, fontsize=11, fontweight="bold", loc="left")
        axes.set_title(f"max difference {difference:.1g}", fontsize=8, color=_GREY, loc="right")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, lw=0.6)
    low, high = (choose(axes.get_ylim()[i] for axes in panels) for i, choose in enumerate((min, max)))
    for axes in panels:
        axes.set_ylim(low, high)
    _label(figure, panels, "training step", "cross entropy (nats)")
    _legend(figure, panels[0])
    figure.savefig(path)


def gradient_histograms(path: str | Path, gradients: Mapping[str, Sequence[Tensor]], parameter: str) -> None:
    """Draw how the size of a parameter's gradient is distributed, step by step, one panel per activation.

    `gradients[activation]` holds the gradient after each step; `parameter` names it in the title.
    """
    sizes = {name: torch.stack([grad.flatten() for grad in steps]).abs() for name, steps in gradients.items()}
    seen = torch.cat([size[size > 0].flatten() for size in sizes.values()]).double().log10()
    low, high = np.quantile(seen[seen.isfinite()], (0.002, 1))
    bins = np.linspace(low, high, 49)
    figure, panels = _panels(len(sizes), f"Gradient of {parameter} over training")
    for axes, (name, size) in zip(panels, sizes.items(), strict=True):
        steps = len(size)
        # Zeros and what lies below the picture count in its lowest row.
        logarithms = size.double().clamp(min=10**low).log10()
        columns = min(steps, 110)
        step = np.repeat(np.arange(steps) + 0.5, size[0].numel())
        counts, edges, _ = np.histogram2d(
            step, logarithms.flatten().numpy(), (np.linspace(0, steps, columns + 1), bins)
        )
        share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)  # none where all are NaN
        mesh = axes.pcolormesh(edges, bins, share.T, cmap="cividis", vmin=0, vmax=12, rasterized=True)
        medians = logarithms.median(1).values
        axes.plot(np.arange(steps) + 0.5, medians, color="black", lw=1, label="median")
        axes.set_title(name, fontsize=11, fontweight="bold", loc="left")
        axes.set_title(f"median {10 ** medians.median():.0e}", fontsize=8, color=_GREY, loc="right")
        ticks = range(math.ceil(low), math.floor(high) + 1)
        axes.set(ylim=(low, high), yticks=ticks, yticklabels=[f"$10^{{{tick}}}$" for tick in ticks])
    _label(figure, panels, "training step", "absolute value of a weight's gradient")
    bar = figure.colorbar(mesh, ax=panels, label="share of a step's weights (%)", extend="max", pad=0.015)
    bar.outline.set_visible(False)
    _legend(figure, panels[0])
    figure.savefig(path)


def kept(path: str | Path, seen: Saved) -> None:
    """Draw a bar for what each layer keeps for backward, in the order of the forward pass, and mark what of it
    `fastact.recompute` makes again. Like layers share a bar; those that keep little share the last."""
    sums: dict[str, np.ndarray] = {}
    for layer in seen.layers:
        under = layer.bytes if layer.recompute_bytes is None else layer.recompute_bytes
        pair = np.array([under, max(0, layer.bytes - under)])
        name = folded(layer.name, leaves=False)
        sums[name] = sums.get(name, np.zeros(2)) + pair
    most = sorted(sums, key=lambda name: -sums[name].sum())[: _BARS - 1]
    least = [name for name, pair in sums.items() if name not in most or pair.sum() < LEAST_SHARE * seen.bytes]
    if least:
        others = sum(sums.pop(name) for name in least)
        sums[f"({len(least)} others)"] = np.asarray(others)
    names = list(sums)
    under, again = np.array(list(sums.values())).reshape(-1, 2).T / 2**20
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(names)), dpi=150)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.barh(names, under, color=_BLUE, label="kept")
    if seen.recompute_bytes is not None:
        axes.barh(names, again, left=under, color=_ORANGE, label="made again by fastact.recompute()")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="0.6")
    axes.set_xlabel("MiB kept for backward", fontsize=10)
    totals = {"torch": seen.torch_bytes, "fastact": seen.bytes, "with recompute": seen.recompute_bytes}
    texts = [f"{name} {readable(bytes)}" for name, bytes in totals.items() if bytes is not None]
    axes.set_title("   ".join(texts), fontsize=11, fontweight="bold", loc="left")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `_COLUMNS` in a row."""
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(2.9 * columns, 6.6) + 0.6, 2.4 * rows + 1), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    figure.suptitle(title, fontsize=14, x=0.01, ha="left")
    panels = [figure.add_subplot(rows, columns, 1 + i) for i in range(count)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, color="0.6")
    return figure, panels


def _label(figure: Figure, panels: list[Axes], x: str, y: str) -> None:
    """Name the axes, and number them only in the first column and where no panel follows below."""
    for i, axes in enumerate(panels):
        axes.tick_params(which="both", labelleft=i % _COLUMNS == 0, labelbottom=i + _COLUMNS >= len(panels))
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)


def _legend(figure: Figure, panel: Axes) -> None:
    figure.legend(*panel.get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False, fontsize=10)
