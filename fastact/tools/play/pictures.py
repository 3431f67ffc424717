"""What the page shows of an experiment: Bokeh's figures, the table of layers and the findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    Div,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    PrintfTickFormatter,
    Range1d,
)
from bokeh.palettes import Greys256, interp_palette
from bokeh.plotting import figure
from bokeh.themes import Theme

from ...monitor import Report, Row
from .experiment import Experiment, Look
from .formula import SHOWN

# Okabe and Ito's colours, which colour-blind readers can tell apart, without those that a light or dark page swallows.
BLUE, VERMILION = "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[list[int], ...] = ([], [8, 3], [2, 2], [8, 3, 2, 3])
REACH = 2.6  # of the standardised points in two dimensions
SIDE = 60  # of the decision surface, in pixels
ROWS, COLUMNS = 4, 6  # of digits
KEPT = 2000  # points of a line
BINS = 40
POWERS = (-12, 2)  # of ten, between which gradients are counted
WORST = 3  # findings that are shown
PARTS = ("train", "test")
SHARES = {"dead": "Dead units", "saturated": "Saturated inputs", "sparsity": "Outputs that are zero"}


def _theme(ink: str, quiet: str, line: str) -> Theme:
    axis = {f"{part}_line_color": line for part in ("axis", "major_tick")} | {"minor_tick_line_color": None}
    for part in ("major_label", "axis_label"):
        axis |= {f"{part}_text_color": quiet, f"{part}_text_font_size": "12px", f"{part}_text_font_style": "normal"}
    return Theme(
        json={
            "attrs": {
                "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None},
                "Title": {"text_color": ink, "text_font_size": "14px"},
                "Axis": axis,
                "Grid": {"grid_line_color": line, "grid_line_alpha": 0.5},
                "Legend": {
                    "label_text_color": ink,
                    "label_text_font_size": "12px",
                    "background_fill_alpha": 0,
                    "border_line_color": None,
                },
            }
        }
    )


LIGHT, DARK = _theme("#1f2328", "#59636e", "#d1d9e0"), _theme("#e6e8eb", "#a8b0b8", "#444c56")


def grid(least: int) -> dict[str, str]:
    """A layout of as many columns of at least so many pixels as there is place for."""
    return {"display": "grid", "grid-template-columns": f"repeat(auto-fit, minmax(min(100%, {least}px), 1fr))"}


def dead(row: Row) -> float | None:
    """The share of units that no gradient passes. Of a leaky rectifier a monitor counts those that stay on the side
    that leaks, and some does pass them."""
    return 0.0 if row.dead is not None and row.leaks else row.dead


def findings(report: Report) -> str:
    """The worst, in HTML, with a sign before each."""
    items = [
        f'<li><b class="warn">⚠ {escape(each.layer)}</b>: {escape(each.evidence)}; {escape(each.remedy)}.</li>'
        for each in report.findings
    ]
    if len(items) > WORST:
        items = [*items[: WORST - 1], f"<li>… and {len(items) - WORST + 1} more like these.</li>"]
    return f"<ul>{''.join(items)}</ul>" if items else "<p>✓ Nothing wrong that a monitor can tell.</p>"


def table(report: Report) -> str:
    """In HTML, with a sample of each layer's line."""
    heads = ("layer", "activation", "dead units", "saturated", "zeros", "mean", "deviation", "gradient")
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    lines = "".join(f"<tr>{_cells(i, row)}</tr>" for i, row in enumerate(report.rows))
    return f"<table><caption>Layers now</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cells(i: int, row: Row) -> str:
    style = _line(i)
    dashes = " ".join(map(str, style["line_dash"]))
    stroke = f'stroke="{style["line_color"]}" stroke-width="3" stroke-dasharray="{dashes}"'
    sample = f'<svg width="30" height="8" aria-hidden="true"><line y1="4" x2="30" y2="4" {stroke}/></svg>'
    shares = [_number(value, ".1%") for value in (dead(row), row.saturated, row.sparsity)]
    values = [_number(value, ".3g") for value in (row.mean, row.std, row.grad_norm)]
    cells = "".join(f"<td>{each}</td>" for each in (escape(row.activation), *shares, *values))
    return f'<th scope="row">{sample} {escape(row.layer)}</th>{cells}'


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(i: int) -> dict[str, Any]:
    """How the lines of a layer are drawn."""
    return {"line_color": COLOURS[i % len(COLOURS)], "line_dash": DASHES[i % len(DASHES)], "line_width": 2}


def _figure(title: str, x: str, y: str, **options: Any) -> figure:
    options = {"height": 250, "sizing_mode": "stretch_width", "toolbar_location": None, "tools": "", **options}
    return figure(title=title, x_axis_label=x, y_axis_label=y, **options)


def _over_steps(title: str, y: str, **options: Any) -> figure:
    shown = _figure(title, "step", y, **options)
    shown.add_tools(HoverTool(tooltips=[("", "$name"), ("step", "@step"), ("", "$y")]))
    return shown


def _share(title: str, y: str, **options: Any) -> figure:
    shown = _over_steps(title, y, y_range=Range1d(-0.03, 1.03), **options)
    shown.yaxis.formatter = NumeralTickFormatter(format="0%")
    return shown


class Pictures:
    """All that follows an experiment; `panels` is their layout."""

    def __init__(self, style: str) -> None:
        self.layers: list[str] = []
        self.history = ColumnDataSource()
        self.surface, self.digits = self._make_surface(), self._make_digits()
        self.loss = _over_steps("Loss", "cross entropy (nats)", height=280)
        self.accuracy = _share("Accuracy", "share that is right", height=280)
        for what, shown in (("loss", self.loss), ("accuracy", self.accuracy)):
            for i, part in enumerate(PARTS):
                name = f"{part} {what}"
                shown.line("step", name, source=self.history, legend_label=part, name=name, **_line(i))
        self.accuracy.legend.location = "bottom_right"
        self.curve = _figure("Activation", "x", "f(x) and f'(x)", x_range=Range1d(*SHOWN))
        self.curve_points = ColumnDataSource({"x": [], "f": [], "slope": []})
        for i, name in enumerate(("f", "slope")):
            self.curve.line("x", name, source=self.curve_points, legend_label=name, **_line(i))
        self.curve.legend.location = "top_left"
        gradient = _over_steps("Gradient of each layer", "root mean square", y_axis_type="log")
        gradient.yaxis.formatter = PrintfTickFormatter(format="%.1e")
        gradient.yaxis.ticker.desired_num_ticks = 4
        shares = {name: _share(title, "share of the layer") for name, title in SHARES.items()}
        self.of_layers = {"grad_norm": gradient, **shares}
        for shown in (self.accuracy, *self.of_layers.values()):
            shown.x_range = self.loss.x_range
        self.histograms = {
            "outputs": _figure("Outputs of each layer now", "output", "", y_range=Range1d()),
            "gradients": _figure("Gradients of each layer now", "absolute value, power of ten", "", y_range=Range1d()),
        }
        self.bars = {name: ColumnDataSource({"x": [], "y": [], "colour": []}) for name in self.histograms}
        for name, shown in self.histograms.items():
            shown.patches("x", "y", source=self.bars[name], color="colour", fill_alpha=0.6)
            shown.ygrid.visible = False
        self.findings = Div(stylesheets=[style], sizing_mode="stretch_width", margin=0)
        across = {"overflow-x": "auto", "grid-column": "1 / -1"}
        self.table = Div(stylesheets=[style], sizing_mode="stretch_width", margin=0, styles=across)
        self.of_experiment = (self.loss, self.accuracy, self.curve, *self.histograms.values())
        first, later = (self.surface, self.digits, self.loss, self.accuracy), (self.curve, *self.of_layers.values())
        panels = (*first, self.table, *later, *self.histograms.values())
        self.panels = column(*panels, sizing_mode="stretch_width", styles={**grid(290), "gap": "12px"})

    def _make_surface(self) -> figure:
        shown = _figure("Decision surface", "x₁ (standardised)", "x₂ (standardised)", height=280)
        shown.x_range = shown.y_range = Range1d(-REACH, REACH)
        self.probability = ColumnDataSource({"image": []})
        mapper = LinearColorMapper(interp_palette([BLUE, "#f4f4f4", VERMILION], 64), low=0, high=1, nan_color="grey")
        place = {"x": -REACH, "y": -REACH, "dw": 2 * REACH, "dh": 2 * REACH}
        shown.image("image", source=self.probability, color_mapper=mapper, **place)
        self.points = [ColumnDataSource({"x": [], "y": []}) for _ in range(2)]
        for i, marker in enumerate(("circle", "triangle")):
            style = {"color": COLOURS[i], "line_color": "white", "line_width": 0.7, "size": 6}
            shown.scatter("x", "y", source=self.points[i], marker=marker, legend_label=f"class {i}", **style)
        shown.legend.update(location="top_left", orientation="horizontal", padding=2, margin=4)
        shown.legend.update(background_fill_color="white", background_fill_alpha=0.8, label_text_color="black")
        return shown

    def _make_digits(self) -> figure:
        shown = _figure("Test digits: ✗ answer (truth)", "", "", height=280, frame_align=False, min_border=4)
        shown.update(x_range=Range1d(0, COLUMNS), y_range=Range1d(ROWS, 0))
        shown.axis.visible = shown.grid.visible = False
        shown.background_fill_color = "white"  # also on a dark page: digits are black
        self.said = ColumnDataSource({"x": [], "y": [], "image_y": [], "image": [], "text": [], "frame": []})
        mapper = LinearColorMapper(Greys256[::-1])
        place = {"dw": 0.7, "dh": 0.6, "anchor": "center", "origin": "top_left"}
        shown.image("image", "x", "image_y", source=self.said, color_mapper=mapper, **place)
        frame = {"fill_color": None, "line_color": VERMILION, "line_width": "frame"}
        shown.rect("x", "y", 0.94, 0.96, source=self.said, **frame)
        words = {"y_offset": 21, "text_align": "center", "text_baseline": "middle", "text_font_size": "12px"}
        shown.text("x", "y", "text", source=self.said, **words)
        return shown

    def begin(self, report: Report, experiment: Experiment | None) -> None:
        """Empty pictures of the layers of a report, in an experiment or a recorded run."""
        self.layers = [row.layer for row in report.rows]
        wholes = [f"{part} {what}" for part in PARTS for what in ("loss", "accuracy")]
        of_layers = [f"{name} {layer}" for name in self.of_layers for layer in self.layers]
        for shown in self.of_layers.values():
            shown.renderers = []
        self.history.data = {name: [] for name in ("step", *wholes, *of_layers)}
        for name, shown in self.of_layers.items():
            shown.visible = any(getattr(row, name) is not None for row in report.rows)
            for i, layer in enumerate(self.layers):
                shown.line("step", f"{name} {layer}", source=self.history, name=layer, **_line(i))
        for shown in self.histograms.values():
            shown.y_range.update(start=len(self.layers) + 0.1, end=-0.1)
            shown.yaxis.ticker = [i + 0.5 for i in range(len(self.layers))]
            shown.yaxis.major_label_overrides = {i + 0.5: layer for i, layer in enumerate(self.layers)}
        for shown in self.of_experiment:
            shown.visible = experiment is not None
        is_digits = experiment is not None and experiment.settings.data == "digits"
        self.digits.visible, self.surface.visible = is_digits, experiment is not None and not is_digits
        if experiment is not None:
            self._begin(experiment)

    def _begin(self, experiment: Experiment) -> None:
        x, f, slope = (each.numpy() for each in experiment.curve)
        self.curve_points.data = {"x": x, "f": f, "slope": slope}
        self.curve.title.text = f"Activation: {experiment.title}"
        data = experiment.data
        if self.surface.visible:
            for label, source in enumerate(self.points):
                x, y = data.train_inputs[data.train_labels == label].numpy().T
                source.data = {"x": x, "y": y}

    def show(self, look: Look, experiment: Experiment) -> None:
        """An experiment as it is now."""
        lines = {f"{part} {what}": getattr(look, f"{part}_{what}") for part in PARTS for what in ("loss", "accuracy")}
        self._stream(look.step, look.report, lines)
        self.show_report(look.report)
        self._show_histograms(look)
        if self.surface.visible:
            self.probability.data = {"image": [experiment.surface(SIDE, REACH)]}
            return
        count = ROWS * COLUMNS
        at = np.arange(count)
        images = experiment.data.test_inputs[:count].reshape(-1, 8, 8).numpy()
        pairs = list(zip(look.predictions[:count].tolist(), experiment.data.test_labels[:count].tolist(), strict=True))
        texts = [f"{said}" if said == is_ else f"✗ {said} ({is_})" for said, is_ in pairs]
        frames = [3 * (said != is_) for said, is_ in pairs]
        place = {"x": at % COLUMNS + 0.5, "y": at // COLUMNS + 0.5, "image_y": at // COLUMNS + 0.4}
        self.said.data = {**place, "image": list(images), "text": texts, "frame": frames}

    def show_history(self, history: Sequence[tuple[int, Report]]) -> None:
        """A recorded run."""
        self.begin(history[-1][1], None)
        for step, report in history:
            self._stream(step, report, {})
        self.show_report(history[-1][1])

    def show_report(self, report: Report) -> None:
        """In words and numbers."""
        self.findings.text, self.table.text = findings(report), table(report)

    def _stream(self, step: int, report: Report, lines: dict[str, float]) -> None:
        new = dict.fromkeys(self.history.data, math.nan) | {"step": step} | lines
        for row in report.rows:
            gradient = row.grad_norm or None  # a logarithm has no 0
            shares = {"dead": dead(row), "saturated": row.saturated, "sparsity": row.sparsity}
            for name, value in (shares | {"grad_norm": gradient}).items():
                if value is not None and row.layer in self.layers:
                    new[f"{name} {row.layer}"] = value
        self.history.stream({name: [value] for name, value in new.items()}, rollover=KEPT)

    def _show_histograms(self, look: Look) -> None:
        outputs = [_finite(each.flatten().numpy()) for each in look.outputs.values()]
        least = min((each.min() for each in outputs if len(each)), default=0.0)
        most = max((each.max() for each in outputs if len(each)), default=0.0)
        edges = np.linspace(least, most if most > least else least + 1, BINS + 1)
        self.bars["outputs"].data = _ridges(outputs, edges)
        sizes = [_finite(each.flatten().abs().numpy()) for each in look.gradients.values()]
        logarithms = [np.log10(each[each > 0]) for each in sizes]
        self.bars["gradients"].data = _ridges(logarithms, np.linspace(*POWERS, BINS + 1))


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _ridges(values: Sequence[np.ndarray], edges: np.ndarray) -> dict[str, list[Any]]:
    """A histogram above each layer's base line, the first layer at the top."""
    x, y = [], []
    for i, each in enumerate(values):
        counts, _ = np.histogram(each.clip(edges[0], edges[-1]), edges)
        heights = 0.92 * counts / max(counts.max(), 1)
        x.append(edges.repeat(2))
        y.append(i + 1 - np.concatenate([[0], heights.repeat(2), [0]]))
    return {"x": x, "y": y, "colour": [_line(i)["line_color"] for i in range(len(values))]}
