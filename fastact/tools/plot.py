"""Pictures: the activations with their derivatives, how a training went, and what it keeps. Needs matplotlib
(`fastact[plot]`)."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import functional
from ..catalogue import ACTIVATIONS, Activation, of_one_variable
from ..convert import convert
from ..monitor.flat import FLAT
from ..names import folded
from ..plot import named
from ..saved import LEAST_SHARE, Saved
from ..twins import row_of
from .info import readable

try:
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'fastact[plot]'") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["activations", "curves", "gradient_histograms", "kept", "loss_curves", "save"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey stands in for yellow, pale on white.
_BLUE, _VERMILION, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
_COLOURS = (_BLUE, _VERMILION, _GREEN, "#CC79A7", _ORANGE, "#56B4E9", "black", "0.6")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1.5, 1.5)))
_GREY = "0.45"
_COLUMNS = 4
_BARS = 24
_POINTS = 1001
_STRIP = 0.025  # of a panel's height
_NEXT_TO_0 = 1e-290  # not smaller: kernels take subnormal numbers and products for 0
_SYMBOLS = ("$f(x)$", "$f'(x)$", "$f''(x)$")
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": _BLUE, "lw": 2},
    {"color": _VERMILION, "lw": 1.6, "ls": (0, (3, 1.5))},
    {"color": _GREEN, "lw": 1.4, "ls": (0, (1, 1))},
)
_FLAT = "flat"
# What `of_one_variable` puts in, where x alone is not the whole input.
_INPUTS = {"gated": "gate x, value 1", "maxout": "of (x, 0)", "softmax": "of (x, 0)"}


@dataclass(frozen=True)
class _Curve:
    """An activation as a function of one number."""

    name: str
    arguments: dict[str, object]
    input: str
    """In words, where it is not x alone."""
    x: Tensor
    """In order, with 0 and each kink between two neighbours."""
    orders: list[Tensor]
    """At each x: the function, its derivative and, if asked for, its second derivative."""
    draws: Tensor | None
    """At each x, of a random function in training."""
    steepest: float
    """The largest absolute value of the derivative, also beyond the picture, but at most 1."""
    candidates: tuple[float, ...]
    """Where a jump may be."""

    @property
    def label(self) -> str:
        """As one writes it, with what it is a function of, where that is not x alone."""
        return ", ".join(filter(None, (_call(self.name, self.arguments), self.input)))

    @property
    def note(self) -> str:
        """All but the name."""
        given = [f"{name} = {_number(value)}" for name, value in self.arguments.items()]
        return ", ".join(filter(None, (*given, self.input)))

    def jumps(self, order: int) -> list[int]:
        """The indices where this derivative jumps: between neighbours in float64 it else moves by rounding alone."""
        y = self.orders[order]
        at = [int(torch.searchsorted(self.x, place)) for place in self.candidates]
        return [i for i in at if not torch.isclose(y[i - 1], y[i + 1], rtol=1e-6, atol=1e-9, equal_nan=True)]

    @property
    def kinks(self) -> list[int]:
        """The indices where the function or its derivative jumps."""
        return sorted({*self.jumps(0), *self.jumps(1)})

    @property
    def flat(self) -> list[tuple[float, float]]:
        """From where to where it is flat, as `fastact.Monitor` has it. Maxima and minima are left out, where the
        derivative only passes zero."""
        slope = self.orders[1]
        flat = slope.abs() < FLAT * self.steepest if self.steepest > 0 else slope == 0
        runs = [list(run) for is_flat, run in groupby(range(len(slope)), lambda i: bool(flat[i])) if is_flat]
        ends = [(run[0], run[-1]) for run in runs if slope[run[0]] * slope[run[-1]] >= 0]
        return [(self.x[first].item(), self.x[last].item()) for first, last in ends if first < last]


def _call(name: str, arguments: Mapping[str, object]) -> str:
    given = ", ".join(f"{name}={_number(value)}" for name, value in arguments.items())
    return f"{name}({given})" if given else name


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _curve_of(module: nn.Module, low: float, high: float, derivatives: int) -> _Curve:
    """The curve of a module between two numbers. Raises `ValueError` if it has none."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return _curve(copy.deepcopy(module), low, high, derivatives)
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError) as error:
        _, name, arguments = _described(module)
        raise ValueError(f"{_call(name, arguments)} cannot be drawn: {error}") from error


def _described(module: nn.Module) -> tuple[Activation | None, str, dict[str, object]]:
    """Its row of the catalogue, if it has one, its name, and those arguments that change its curve."""
    is_leaf = next(module.children(), None) is None
    row = ACTIVATIONS[name] if is_leaf and (name := row_of(module)) else None
    cls = type(module).__name__
    if row is None or cls != row.module:  # other libraries' classes have attributes of their own
        return row, repr(module).removesuffix("()") if is_leaf else cls, {}
    names = [*row.samples[0], *row.options, *row.weights]
    return row, cls, {name: _value(getattr(module, name)) for name in names if name != "dim"}


def _curve(module: nn.Module, low: float, high: float, derivatives: int) -> _Curve:
    """The same of a module that it may change."""
    row, name, arguments = _described(module)
    module = convert(module.to("cpu", torch.float64).eval())
    function: Callable[[Tensor], Tensor] = module
    if row is not None and not row.pointwise:
        function = partial(of_one_variable(row, getattr(functional, row.function)), **arguments)
    kinks = row.kinks(**{name: arguments.get(name, value) for name, value in row.samples[0].items()}) if row else ()
    candidates = sorted({kink for kink in (0.0, *kinks) if low < kink < high})
    around = [[_next(x, -1), x, _next(x, 1)] for x in candidates]
    options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    x = torch.cat([torch.linspace(low, high, _POINTS, **options), torch.tensor(around, **options).flatten()]).unique()
    orders = _derivatives(function, x, max(1, derivatives))
    if not orders[0].isfinite().any():
        raise ValueError(f"{_call(name, arguments)} has no finite value between {low:g} and {high:g}")
    wide = _derivatives(function, torch.linspace(-30, 30, 6001, **options), 1)[1]
    steepest = torch.cat([orders[1], wide]).nan_to_num(0).abs().max().clamp(max=1).item()
    draws = None
    if row is not None and row.random:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            draws = module.train()(x).detach()
    inputs = _INPUTS.get(row.kind, "") if row is not None else ""
    return _Curve(name, arguments, inputs, x, orders, draws, steepest, tuple(candidates))


def _next(x: float, sign: int) -> float:
    """The neighbour among numbers, or of 0."""
    return math.nextafter(x, sign * math.inf) if x else sign * _NEXT_TO_0


def _value(value: object) -> object:
    """A learned number as a number, several in words."""
    if not isinstance(value, Tensor):
        return value
    return value.item() if value.numel() == 1 else f"{value.numel()} numbers"


def _derivatives(function: Callable[[Tensor], Tensor], x: Tensor, count: int) -> list[Tensor]:
    """The function of each number in x and so many of its derivatives."""
    x = x.clone().requires_grad_()
    orders = [function(x.clone())]  # a copy, for what works in place
    alone = function(x[::2].clone())
    if orders[0].shape != x.shape or not torch.allclose(orders[0][::2], alone, equal_nan=True):
        raise RuntimeError("an output does not belong to one input")
    for _ in range(count):
        if not orders[-1].requires_grad:  # a constant
            orders.append(torch.zeros_like(x))
            continue
        gradients = torch.autograd.grad(orders[-1].sum(), x, create_graph=True, materialize_grads=True)
        orders.append(gradients[0])
    return [order.detach() for order in orders]


def activations(
    modules: Sequence[nn.Module], derivatives: int, range: tuple[float, float], overlay: bool | None
) -> Figure:
    """The figure that `fastact.plot` returns, of modules."""
    if not (isinstance(derivatives, int) and 0 <= derivatives <= 2):
        raise ValueError(f"derivatives must be 0, 1 or 2, got {derivatives!r}")
    try:
        low, high = map(float, range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"range must be two finite numbers, the smaller first, got {range!r}")
    drawn = [_curve_of(module, low, high, derivatives) for module in modules]
    reach = max(-low, high, 1.0)
    if overlay is None:
        overlay = 1 < len(drawn) <= 4
    if overlay:
        figure, panels = _panels(derivatives + 1, size=(4.2, 3.4))
        for order, axes in enumerate(panels):
            limits = _limits((curve.orders[order] for curve in drawn), reach)
            axes.set(xlim=(low, high), ylim=limits)
            _overlaid(axes, drawn, order)
        figure.supxlabel("input $x$", fontsize=10)
    else:
        figure, panels = _panels(len(drawn), size=(2.9, 2.4) if len(drawn) > 2 else (5.2, 3.8))
        limits = _limits((order for curve in drawn for order in curve.orders[: derivatives + 1]), reach)
        for axes, curve in zip(panels, drawn, strict=True):
            _alone(axes, curve, derivatives)
            axes.set(xlim=(low, high), ylim=limits)
        _label(figure, panels, "input $x$", ", ".join(_SYMBOLS[: derivatives + 1]))
    _legend(figure, panels, ncols=min(4, 1 + len(panels)) if overlay else 5, above=True)
    return figure


def _limits(curves: Iterable[Tensor], reach: float) -> tuple[float, float]:
    """Between which values curves are shown: as far up and down as left and right, but a curve that lies mostly beyond
    that is shown whole."""
    ends = []
    for values in curves:
        finite = values[values.isfinite()]
        near = finite[finite.abs() <= reach]
        ends += [near if 2 * len(near) >= len(finite) else finite]
    shown = torch.cat(ends)
    low, high = (shown.min().item(), shown.max().item()) if len(shown) else (0.0, 0.0)
    margin = 0.06 * (high - low) if high - low > 1e-9 else 1.0
    return low - margin, high + margin


def save(figure: Figure, file: str | Path) -> None:
    """Write a figure in the format that the file's suffix names, in HTML too."""
    suffix = Path(file).suffix.lower()[1:]
    formats = sorted([*figure.canvas.get_supported_filetypes(), "html"])
    if suffix not in formats:
        raise ValueError(f"{file}: the suffix must be one of {', '.join(formats)}")
    if suffix == "html":
        Path(file).write_text(_page(figure), encoding="utf-8")
    else:
        figure.savefig(file)


def _page(figure: Figure) -> str:
    """A page with the figure in it, and its lines' values under the pointer."""
    svg = io.StringIO()
    with rc_context({"savefig.bbox": "standard", "svg.hashsalt": "fastact"}):
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    panels = []
    for axes in figure.axes:
        box = axes.get_position()  # of the picture just written
        lines = [
            {
                "label": str(line.get_label()).replace("$", ""),
                "points": [[_rounded(x), _rounded(y)] for x, y in np.asarray(line.get_xydata()) if not math.isnan(x)],
            }
            for line in axes.lines
            if str(line.get_label())[0] != "_" and line.get_linestyle() != "None"
        ]
        title = " ".join(filter(None, (axes.get_title("left"), axes.get_title("right")))).replace("$", "")
        frame = [box.x0, 1 - box.y1, box.x1, 1 - box.y0]
        panels.append({"title": title, "box": frame, "x": axes.get_xlim(), "lines": lines})
    picture = svg.getvalue()
    data = json.dumps(panels).replace("<", "\\u003c")
    return _HTML.replace("PICTURE", picture[picture.index("<svg") :]).replace("PANELS", data)


def _rounded(value: float) -> float:
    """To six digits, the neighbours of 0 to 0."""
    return float(f"{value:.6g}") if not abs(value) <= _NEXT_TO_0 else 0.0


_HTML = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Activations</title>
<style>
  body { margin: 1em; font: 13px sans-serif }
  svg { width: 100%; height: auto; max-height: 95vh }
  #line, #values { position: fixed; pointer-events: none; visibility: hidden }
  #line { width: 1px; background: #999 }
  #values { padding: .4em .6em; white-space: pre; background: #fffd; border: 1px solid #999 }
</style>
PICTURE
<div id="line"></div>
<div id="values"></div>
<script>
const panels = PANELS;
const [svg, line, values] = ["svg", "#line", "#values"].map((name) => document.querySelector(name));
function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle; else high = middle;
  }
  return x - points[low][0] < points[high][0] - x ? points[low] : points[high];
}
svg.addEventListener("pointermove", (event) => {
  const frame = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  const scale = Math.min(frame.width / view.width, frame.height / view.height);
  const width = scale * view.width, height = scale * view.height;
  const left = frame.left + (frame.width - width) / 2, top = frame.top + (frame.height - height) / 2;
  const across = (event.clientX - left) / width, down = (event.clientY - top) / height;
  const panel = panels.find(({box}) => box[0] <= across && across <= box[2] && box[1] <= down && down <= box[3]);
  line.style.visibility = values.style.visibility = panel ? "visible" : "hidden";
  if (!panel) return;
  const {box, title, lines, x: [first, last]} = panel;
  const x = first + (across - box[0]) / (box[2] - box[0]) * (last - first);
  const rows = lines.map(({label, points}) => label + " = " + nearest(points, x)[1]);
  values.textContent = [title, "x = " + nearest(lines[0].points, x)[0], ...rows].join("\\n");
  Object.assign(line.style, {left: event.clientX + "px", top: top + box[1] * height + "px"});
  line.style.height = (box[3] - box[1]) * height + "px";
  const isRight = event.clientX > frame.left + frame.width / 2;
  values.style.left = event.clientX + (isRight ? -14 - values.offsetWidth : 14) + "px";
  values.style.top = event.clientY + 10 + "px";
});
svg.addEventListener("pointerleave", () => { line.style.visibility = values.style.visibility = "hidden"; });
</script>
</html>
"""


def curves(path: str | Path, activations: Iterable[Activation] | None = None) -> None:
    """Draw each activation (default: the whole catalogue) and its derivative, as fastact's kernels compute them."""
    rows = ACTIVATIONS.values() if activations is None else activations
    drawn = [_curve_of(named(row.name), -5, 5, 1) for row in rows]
    figure, panels = _panels(len(drawn), "Activations and their derivatives")
    for axes, curve in zip(panels, drawn, strict=True):
        _alone(axes, curve, 1)
        axes.set(xlim=(-5, 5), ylim=(-3.2, 3.2), xticks=range(-4, 5, 2), yticks=range(-3, 4))
    _label(figure, panels, "input $x$", "$f(x)$, $f'(x)$")
    _legend(figure, panels)
    figure.savefig(path)


def _alone(axes: Axes, curve: _Curve, derivatives: int) -> None:
    """One activation with its derivatives."""
    _zeros(axes)
    for first, last in curve.flat:
        axes.axvspan(first, last, color="0.93", lw=0, zorder=-1, label=_FLAT)
    if curve.draws is not None:
        axes.plot(curve.x[::3], curve.draws[::3], ".", color=_BLUE, alpha=0.5, ms=3, mew=0)
    for order, style in enumerate(_STYLES[: derivatives + 1]):
        _line(axes, curve, order, label=_SYMBOLS[order], **style)
    if curve.kinks:
        axes.plot(curve.x[curve.kinks], curve.orders[0][curve.kinks], "o", color=_BLUE, ms=5, label="kink")
    axes.set_title(curve.name, fontsize=11, fontweight="bold", loc="left")
    axes.set_title(curve.note, fontsize=7, color=_GREY, loc="right")


def _overlaid(axes: Axes, curves: Sequence[_Curve], order: int) -> None:
    """One derivative of several activations. A strip of its colour says where each is flat, below all curves."""
    _zeros(axes)
    flat = [i for i, curve in enumerate(curves) if curve.flat]
    for i, curve in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        style = {"color": colour, "ls": _DASHES[i % len(_DASHES)], "lw": 2, "alpha": 0.9}
        _line(axes, curve, order, label=curve.label, **style)
        if order == 0:
            axes.plot(curve.x[curve.kinks], curve.orders[0][curve.kinks], "o", color=colour, ms=4)
        for first, last in curve.flat:
            bottom = _STRIP * flat.index(i)
            axes.axvspan(first, last, bottom, bottom + 0.8 * _STRIP, color=colour, alpha=0.6, lw=0)
    if flat:
        axes.fill_between([], [], color="0.7", label=_FLAT)
        low, high = axes.get_ylim()
        axes.set_ylim(bottom=high - (high - low) / (1 - _STRIP * len(flat)))
    axes.set_title(_SYMBOLS[order], fontsize=11, loc="left")


def _zeros(axes: Axes) -> None:
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)


def _line(axes: Axes, curve: _Curve, order: int, **style: Any) -> None:
    # Gaps before and after each jump, across which no line is drawn.
    at = curve.jumps(order)
    gaps = sorted(at + [i + 1 for i in at])
    x, y = (np.insert(values.numpy(), gaps, np.nan) for values in (curve.x, curve.orders[order]))
    axes.plot(x, y, **style)


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
    _legend(figure, panels)
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
    _legend(figure, panels)
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


def _panels(count: int, title: str = "", size: tuple[float, float] = (2.9, 2.4)) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of that size in inches, at most `_COLUMNS` in a row."""
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(size[0] * columns, 6.6) + 0.6, size[1] * rows + 1), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    if title:
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


def _legend(figure: Figure, panels: list[Axes], ncols: int = 4, above: bool = False) -> None:
    """Name what the panels show, each once: beside the title, or above the panels where there is none."""
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    loc: Any = "outside upper left" if above else "upper right"
    figure.legend(shown.values(), shown.keys(), loc=loc, ncols=ncols, frameon=False, fontsize=10)
