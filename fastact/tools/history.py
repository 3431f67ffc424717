"""Pictures of what a monitor saw over a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..monitor import Snapshot
from ..monitor.report import Row
from ..monitor.statistics import EXPONENTS
from .plot import Figure, save


class _Map(NamedTuple):
    """A panel of layers over time."""

    title: str
    field: str
    logarithm: bool = False


_MAPS = (
    _Map("Dead units", "dead"),
    _Map("Flat inputs (saturated)", "saturated"),
    _Map("Outputs of zero", "sparsity"),
    _Map("Gradient's root mean square, log10", "grad_norm", logarithm=True),
)
_HISTOGRAMS = {"histogram": "outputs", "grad_histogram": "gradients"}
_HIGHEST = 24
"""Layers whose histograms are drawn; more are too small to read."""


def draw(history: Sequence[Snapshot], file: str | Path | None = None) -> Figure:
    """A figure of a monitor's history, which is written to the file, if there is one."""
    if file is not None and Path(file).suffix == ".html":
        _write_page(history, Path(file))
    figure = _figure(history)
    if file is not None and Path(file).suffix != ".html":
        save(figure, file)
    return figure


class _Numbers(NamedTuple):
    """A field of all layers that have it, over the snapshots."""

    layers: list[str]
    values: list[list[float]]
    """By layer and snapshot; NaN where there is none."""


def _numbers(history: Sequence[Snapshot], panel: _Map) -> _Numbers:
    layers, values = [], []
    for layer, rows in _rows(history).items():
        found = [math.nan if row is None else _value(row, panel) for row in rows]
        if not all(map(math.isnan, found)):
            layers.append(layer)
            values.append(found)
    return _Numbers(layers, values)


def _rows(history: Sequence[Snapshot]) -> dict[str, list[Row | None]]:
    """By layer, in the order of the last report."""
    reports = [{row.layer: row for row in report.rows} for _, report in history]
    names = dict.fromkeys(name for report in reversed(reports) for name in report)
    return {name: [report.get(name) for report in reports] for name in names}


def _value(row: Row, panel: _Map) -> float:
    value = getattr(row, panel.field)
    if value is None or not panel.logarithm:
        return math.nan if value is None else value
    return math.log10(value) if value > 0 else math.nan


def _figure(history: Sequence[Snapshot]) -> Figure:
    panels = [(panel, _numbers(history, panel)) for panel in _MAPS]
    panels = [(panel, numbers) for panel, numbers in panels if numbers.layers]
    histograms = _histograms(history)
    if not panels and not histograms:
        raise ValueError("there is nothing to draw: no activation was seen before the snapshots")
    heights = [0.6 + 0.22 * len(numbers.layers) for _, numbers in panels] + [1.3] * len(histograms)
    figure = Figure(figsize=(9, max(2.0, sum(heights) + 0.5 * len(heights))), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    steps = [step for step, _ in history]
    edges = _edges(steps)
    for ax, (panel, numbers) in zip(axes, panels, strict=False):
        limits = {} if panel.logarithm else {"vmin": 0, "vmax": 1}
        drawn = ax.pcolormesh(edges, range(len(numbers.layers) + 1), numbers.values, cmap="cividis", **limits)
        ax.set_yticks([i + 0.5 for i in range(len(numbers.layers))], numbers.layers, fontsize="small")
        ax.invert_yaxis()
        ax.set_title(panel.title, loc="left", fontsize="medium")
        figure.colorbar(drawn, ax=ax, pad=0.01, format=None if panel.logarithm else _percent)
    for ax, (title, values) in zip(axes[len(panels) :], histograms, strict=True):
        drawn = ax.pcolormesh(edges, _exponent_edges(), _shown_shares(values), cmap="cividis", vmin=-3, vmax=0)
        ticks = _exponent_ticks()
        ax.set_yticks([*ticks], [f"${label}$" for label in ticks.values()], fontsize="small")
        ax.set_ylim(*_used(values))
        ax.set_title(title, loc="left", fontsize="medium")
        figure.colorbar(drawn, ax=ax, pad=0.01, ticks=[-3, -2, -1, 0], format=lambda power, _: f"{10.0**power:.1%}")
    for ax in axes:
        ax.set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel("step")
    return figure


def _percent(share: float, position: Any = None) -> str:
    return f"{share:.0%}"


def _edges(steps: Sequence[int]) -> list[float]:
    """Each snapshot is about what was before it."""
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)
    return [first, *steps]


def _histograms(history: Sequence[Snapshot]) -> list[tuple[str, list[list[float]]]]:
    """By title: the shares, by bin and snapshot."""
    found = []
    for layer, rows in list(_rows(history).items())[:_HIGHEST]:
        for field, what in _HISTOGRAMS.items():
            shares = [getattr(row, field) if row else None for row in rows]
            if any(shares):
                nothing = [math.nan] * (2 * len(EXPONENTS) + 1)
                by_bin = zip(*(each or nothing for each in shares), strict=True)
                found.append((f"{layer}: {what} by magnitude", [list(each) for each in by_bin]))
    return found


def _shown_shares(values: list[list[float]]) -> list[list[float]]:
    return [[math.log10(share) if share > 0 else math.nan for share in of_bin] for of_bin in values]


def _exponent_edges() -> list[float]:
    n = 2 * len(EXPONENTS) + 1
    return [i - n / 2 for i in range(n + 1)]


def _used(values: list[list[float]]) -> tuple[float, float]:
    """The least and the highest edge of bins with numbers, with a bin to spare; zero is always shown."""
    edges = _exponent_edges()
    used = [i for i, of_bin in enumerate(values) if any(share > 0 for share in of_bin)] + [len(EXPONENTS)]
    return edges[min(used)] - 1, edges[max(used) + 1] + 1


def _exponent_ticks() -> dict[int, str]:
    """Some powers of two, by where they are, in TeX."""
    ticks = {0: "0"}
    for exponent in EXPONENTS:
        if exponent % 8 == 0 and exponent > EXPONENTS[0]:
            at = exponent - EXPONENTS[0] + 1
            ticks |= {at: f"2^{{{exponent}}}", -at: f"-2^{{{exponent}}}"}
    return ticks


def _magnitudes(bin: int) -> str:
    """Between which numbers a bin is."""
    which = bin - len(EXPONENTS)
    if which == 0:
        return f"0, or smaller than 2^{EXPONENTS[0] - 1}"
    exponent, sign = abs(which) - 1 + EXPONENTS[0], "-" if which < 0 else ""
    return f"{sign}2^{exponent - 1} to {sign}2^{exponent}"


def _write_page(history: Sequence[Snapshot], file: Path) -> None:
    """An interactive page with all that it needs in it."""
    try:
        from bokeh.embed import file_html
        from bokeh.layouts import column
        from bokeh.models import BasicTicker, ColumnDataSource, FactorRange, FixedTicker, LinearColorMapper, Range1d
        from bokeh.models.annotations import ColorBar
        from bokeh.models.widgets import Div
        from bokeh.palettes import Cividis256
        from bokeh.plotting import figure
        from bokeh.resources import INLINE
    except ImportError as error:
        raise ImportError("an interactive page needs bokeh: pip install fastact[play]") from error

    edges = _edges([step for step, _ in history])

    def over_time(title: str, y_range: Any, height: int, tooltips: list[tuple[str, str]]) -> Any:
        drawn = figure(
            title=title,
            y_range=y_range,
            height=height,
            x_range=Range1d(start=edges[0], end=edges[-1]),
            sizing_mode="stretch_width",
            x_axis_label="step",
            tools="xpan,xwheel_zoom,reset,save,hover",
            tooltips=tooltips,
        )
        drawn.grid.visible = False
        return drawn

    parts: list[Any] = [Div(text=_findings(history))]
    for panel in _MAPS:
        numbers = _numbers(history, panel)
        if not numbers.layers:
            continue
        cells: dict[str, list[Any]] = {key: [] for key in ("left", "right", "layer", "step", "value", "shown")}
        for layer, values in zip(numbers.layers, numbers.values, strict=True):
            for i, value in enumerate(values):
                shown = "nothing" if math.isnan(value) else f"{10**value:.2e}" if panel.logarithm else f"{value:.1%}"
                cell = (edges[i], edges[i + 1], layer, history[i].step, value, shown)
                for key, entry in zip(cells, cell, strict=True):
                    cells[key].append(entry)
        finite = [value for value in cells["value"] if not math.isnan(value)]
        low, high = (min(finite), max(finite)) if panel.logarithm else (0, 1)
        colours = LinearColorMapper(palette=Cividis256, low=low, high=high, nan_color="white")
        named = panel.title.removesuffix(", log10")
        drawn = over_time(
            panel.title,
            FactorRange(factors=numbers.layers[::-1]),
            110 + 24 * len(numbers.layers),
            [("layer", "@layer"), ("up to step", "@step"), (named, "@shown")],
        )
        source = ColumnDataSource(cells)
        drawn.hbar(
            left="left", right="right", y="layer", height=1, source=source, line_color=None,
            fill_color={"field": "value", "transform": colours},
        )  # fmt: skip
        drawn.add_layout(ColorBar(color_mapper=colours, ticker=BasicTicker(desired_num_ticks=4)), "right")
        parts.append(drawn)
    for title, by_bin in _histograms(history):
        bins: dict[str, list[Any]] = {
            key: [] for key in ("left", "right", "low", "high", "size", "step", "value", "shown")
        }
        limits = _exponent_edges()
        for bin, shares in enumerate(by_bin):
            for i, share in enumerate(shares):
                if share > 0:
                    of_bin = (limits[bin], limits[bin + 1], _magnitudes(bin))
                    entries = (edges[i], edges[i + 1], *of_bin, history[i].step, math.log10(share), f"{share:.2%}")
                    for key, entry in zip(bins, entries, strict=True):
                        bins[key].append(entry)
        least, most = _used(by_bin)
        shown_as = [("numbers", "@size"), ("up to step", "@step"), ("share", "@shown")]
        drawn = over_time(title, Range1d(start=least, end=most), 220, shown_as)
        colours = LinearColorMapper(palette=Cividis256, low=-3, high=0)
        drawn.quad(
            left="left", right="right", bottom="low", top="high", source=ColumnDataSource(bins), line_color=None,
            fill_color={"field": "value", "transform": colours},
        )  # fmt: skip
        ticks = _exponent_ticks()
        drawn.yaxis.ticker = [*ticks]
        drawn.yaxis.major_label_overrides = {at: label.replace("{", "").replace("}", "") for at, label in ticks.items()}
        powers = {power: f"{10.0**power:.1%}" for power in (-3, -2, -1, 0)}
        bar = ColorBar(color_mapper=colours, ticker=FixedTicker(ticks=[*powers]), major_label_overrides=powers)
        drawn.add_layout(bar, "right")
        parts.append(drawn)
    page = column(*parts, sizing_mode="stretch_width")
    file.write_text(file_html(page, INLINE, "What happened inside"), encoding="utf-8")


def _findings(history: Sequence[Snapshot]) -> str:
    """In words, what is wrong in the last snapshot."""
    found = [
        f"<li><b>{escape(finding.rule)}</b> {escape(str(finding))}</li>" for finding in history[-1].report.findings
    ]
    listed = f"<ul>{''.join(found)}</ul>" if found else "<p>Nothing is wrong.</p>"
    return f"<h2>What a monitor saw</h2><p>At step {history[-1].step}:</p>{listed}"
