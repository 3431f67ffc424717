"""The pictures: that they are drawn, of everything asked for, and that matplotlib stays away until then."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import truth
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor, nn

import fastact
from fastact.catalogue import ACTIVATIONS, Activation, of_one_variable
from fastact.tools import plot

SYMBOLS = ("$f(x)$", "$f'(x)$", "$f''(x)$")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title("left") for axes in figure.axes if axes.get_title("left")]


def _is_a_picture(path: Path) -> bool:
    pixels = imread(path)
    height, width = pixels.shape[:2]
    return height > 400 and width > 800 and pixels[..., :3].std() > 0.05


def torchs_curve(row: Activation, sample: dict[str, Any], x: Tensor) -> Tensor:
    arguments = {**sample, **row.options}
    if row.weights:
        return getattr(fastact, row.module)(**arguments).double()(x)
    return of_one_variable(row, truth(row, torch.float64))(x, **arguments)


def _compare(axes: Axes, row: Activation, sample: dict[str, Any]) -> int:
    """Compares the lines with torch's values, and says how many there are."""
    lines = {line.get_label(): line for line in axes.lines}
    symbols = [symbol for symbol in SYMBOLS if symbol in lines]
    for order, symbol in enumerate(symbols):
        x, y = torch.tensor(lines[symbol].get_xdata()), torch.tensor(lines[symbol].get_ydata())
        shown = ~x.isnan()
        for kink in row.kinks(**sample):  # next to it torch's vectors and scalars may disagree
            shown &= (x == kink) | ((x - kink).abs() > 1e-9)
        if order == 2:  # which many do not have at 0
            shown &= x.abs() > 1e-9
        input = x[shown].requires_grad_()
        expected = torchs_curve(row, sample, input)
        for _ in range(order):
            if expected.requires_grad:
                (expected,) = torch.autograd.grad(expected.sum(), input, create_graph=True, materialize_grads=True)
            else:
                expected = torch.zeros_like(input)
        few = (8, 8, 5000)[order] * torch.finfo(torch.float64).eps  # ULPs of both, and what torch's derivatives cancel
        torch.testing.assert_close(y[shown], expected.detach(), rtol=few, atol=few)
    return len(symbols)


def _kinks(axes: Axes) -> tuple[float, ...]:
    return tuple(x for line in axes.lines if line.get_label() == "kink" for x in line.get_xdata())


def _shaded(axes: Axes) -> list[tuple[float, float]]:
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def test_curves_draws_the_whole_catalogue(tmp_path: Path, drawn: list[Figure], monkeypatch) -> None:
    plot.curves(tmp_path / "curves.png")
    monkeypatch.setattr(fastact.functional, "takes", lambda _: False)
    assert _is_a_picture(tmp_path / "curves.png")
    (figure,) = drawn
    assert _titles(figure) == [row.module for row in ACTIVATIONS.values()]
    for axes, row in zip(figure.axes, ACTIVATIONS.values(), strict=True):
        assert _compare(axes, row, row.samples[0]) == 2
        assert _kinks(axes) == tuple(kink for kink in row.kinks(**row.samples[0]) if abs(kink) < 5)


def test_titles_tell_what_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    plot.curves(tmp_path / "curves.png", [ACTIVATIONS[name] for name in ("glu", "log_softmax", "gelu_tanh", "prelu")])
    titles = [(axes.get_title("left"), axes.get_title("right")) for axes in drawn[0].axes]
    assert titles == [
        ("GLU", "gate x, value 1"),
        ("LogSoftmax", "of (x, 0)"),
        ("GELU", "approximate = tanh"),
        ("PReLU", "weight = 0.25"),
    ]


class TestPlot:
    @pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
    def test_every_activation_with_each_of_its_arguments(self, row: Activation, monkeypatch) -> None:
        modules = [getattr(fastact, row.module)(**{**sample, **row.options}) for sample in row.samples]
        figure = fastact.plot(*modules, derivatives=2, range=(-6, 7), overlay=False)
        monkeypatch.setattr(fastact.functional, "takes", lambda _: False)
        for axes, sample in zip(figure.axes, row.samples, strict=True):
            assert _compare(axes, row, sample) == 3
            assert axes.get_xlim() == (-6, 7)
            assert set(_kinks(axes)) <= set(row.kinks(**sample))
        (named,) = fastact.plot(row.name).axes
        (default,) = fastact.plot(modules[0]).axes
        assert named.get_title("right") == default.get_title("right")

    @pytest.mark.parametrize("name", ["relu", "hardtanh", "hardshrink", "selu"])
    def test_a_jump_is_not_joined(self, name: str) -> None:
        row = ACTIVATIONS[name]
        kinks = row.kinks(**row.samples[0])
        (axes,) = fastact.plot(name).axes
        assert _kinks(axes) == kinks
        (slope,) = (line for line in axes.lines if line.get_label() == "$f'(x)$")
        assert np.isnan(slope.get_ydata()).sum() == 2 * len(kinks)
        assert not (np.abs(np.diff(slope.get_ydata())) > 0.1).any()

    def test_a_jump_of_the_second_derivative_is_not_joined(self) -> None:
        for name in ("elu", "celu", "squared_relu", "softsign", "xielu"):
            (axes,) = fastact.plot(name, derivatives=2).axes
            assert _kinks(axes) == ()
            joined = {line.get_label(): not np.isnan(line.get_ydata()).any() for line in axes.lines}
            assert [joined[symbol] for symbol in SYMBOLS] == [True, True, False], name

    def test_flat_regions_are_shaded(self) -> None:
        low, high = -6.0, 6.0
        found = {
            name: _shaded(axes)
            for name in ("relu", "hardtanh", "tanh", "gelu", "silu", "bilinear", "softplus", "hardshrink")
            for axes in fastact.plot(name, range=(low, high)).axes
        }
        edge = math.atanh(math.sqrt(0.95))  # where 1 - tanh^2 is 5%
        step = (high - low) / 1000
        assert found["relu"] == [(low, 0)]
        assert found["hardtanh"] == [(low, -1), (1, high)]
        assert found["hardshrink"] == [(-0.5, 0.5)]
        assert found["tanh"] == [(low, pytest.approx(-edge, abs=step)), (pytest.approx(edge, abs=step), high)]
        assert found["softplus"] == [(low, pytest.approx(math.log(0.05 / 0.95), abs=step))]
        assert len(found["gelu"]) == len(found["silu"]) == 1  # not around the minimum
        assert found["bilinear"] == []

    def test_flat_is_not_a_matter_of_what_is_in_the_picture(self) -> None:
        for activation, shown in (("relu", (-6, -1)), ("tanh", (3, 6)), (fastact.Threshold(1e3, 0), (-5, 5))):
            (axes,) = fastact.plot(activation, range=shown).axes
            assert _shaded(axes) == [shown]
        (axes,) = fastact.plot("squared_relu").axes  # where 2x is below 5% of 1, though it goes up to 10 here
        assert _shaded(axes) == [(-5, pytest.approx(0.025, abs=0.01))]

    def test_several_share_a_panel_for_each_derivative(self) -> None:
        names = ("relu", "leaky_relu", "elu", "celu")
        figure = fastact.plot(*names, negative_slope=0.2, alpha=0.5, derivatives=2)
        labels = ["ReLU", "LeakyReLU(negative_slope=0.2)", "ELU(alpha=0.5)", "CELU(alpha=0.5)"]
        assert _titles(figure) == list(SYMBOLS)
        for order, axes in enumerate(figure.axes):
            lines = {line.get_label(): line for line in axes.lines}
            assert [label for label in lines if label[0] != "_"] == labels
            assert len({lines[label].get_color() for label in labels}) == len(labels)
            values = lines["ELU(alpha=0.5)"]
            at = np.flatnonzero(values.get_xdata() < -1e-9)
            x = values.get_xdata()[at]
            np.testing.assert_allclose(values.get_ydata()[at], 0.5 * (np.exp(x) - (order == 0)), rtol=0, atol=1e-15)
            low = axes.get_ylim()[0]  # below the strips' upper end no curve is drawn
            top = low + max(patch.get_y() + patch.get_height() for patch in axes.patches) * np.diff(axes.get_ylim())
            assert all(np.nanmin(lines[label].get_ydata()) > top for label in labels)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [*labels, "flat"]

    @pytest.mark.parametrize(("count", "panels"), [(1, 1), (2, 2), (4, 2), (5, 5), (8, 8)])
    def test_panels(self, count: int, panels: int) -> None:
        names = list(ACTIVATIONS)[:count]
        assert len(fastact.plot(*names).axes) == panels
        assert len(fastact.plot(*names, overlay=True).axes) == 2
        assert len(fastact.plot(*names, overlay=False).axes) == count

    def test_torchs_modules_are_drawn_by_fastacts_kernels(self) -> None:
        modules = [nn.Softplus(beta=3), nn.ReLU(inplace=True), nn.Hardsigmoid(), nn.Softmax(dim=1), nn.PReLU(init=-0.5)]
        before = [(type(module), module.training) for module in modules]
        figure = fastact.plot(*modules, derivatives=2)  # torch's Hardsigmoid has no second derivative
        assert [(type(module), module.training) for module in modules] == before
        assert modules[-1].weight.dtype == torch.float32
        titles = [(axes.get_title("left"), axes.get_title("right")) for axes in figure.axes]
        assert titles[0] == ("Softplus", "beta = 3, threshold = 20")
        assert titles[-1] == ("PReLU", "weight = -0.5")

    def test_modules_of_ones_own(self) -> None:
        class Swish(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.beta = nn.Parameter(torch.tensor(2.0))

            def forward(self, x: Tensor) -> Tensor:
                return x * torch.sigmoid(self.beta * x)

            def extra_repr(self) -> str:
                return "beta=2"

        with torch.inference_mode():
            figure = fastact.plot(Swish(), nn.Sequential(nn.Tanh(), nn.Hardtanh(0, 1)), overlay=False, derivatives=2)
        assert _titles(figure) == ["Swish(beta=2)", "Sequential"]
        (line,) = (line for line in figure.axes[0].lines if line.get_label() == "$f(x)$")
        x = line.get_xdata()
        np.testing.assert_allclose(line.get_ydata(), x / (1 + np.exp(-2 * x)), rtol=1e-14)
        assert _kinks(figure.axes[1]) == (0.0,)

    def test_curves_that_leave_the_picture(self) -> None:
        """A parabola is cut off, so that the others stay visible; what lies above as a whole is not."""
        (axes,) = fastact.plot("squared_relu", range=(-6, 6), derivatives=0).axes
        assert 6 <= axes.get_ylim()[1] < 7
        (axes,) = fastact.plot(fastact.Threshold(0.5, 20)).axes
        assert axes.get_ylim()[1] > 20

    def test_random_numbers_stay_the_users(self) -> None:
        before = torch.get_rng_state()
        (axes,) = fastact.plot("rrelu").axes
        assert torch.equal(torch.get_rng_state(), before)
        (draws,) = (line for line in axes.lines if line.get_linestyle() == "None" and line.get_marker() == ".")
        x, y = draws.get_xdata(), draws.get_ydata()
        slopes = (y / x)[x < 0]
        assert slopes.min() >= 1 / 8
        assert slopes.max() <= 1 / 3
        assert slopes.std() > 0.03

    @pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
    def test_files(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"curves.{suffix}"
        assert isinstance(fastact.plot("relu", file=path), Figure)
        starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
        assert path.read_bytes().startswith(starts[suffix])

    def test_a_page(self, tmp_path: Path) -> None:
        path = tmp_path / "curves.html"
        fastact.plot("relu", "elu", "swiglu", alpha=0.5, file=path, derivatives=2)
        text = path.read_text()
        references: list[tuple[str, str]] = []

        class Parser(HTMLParser):
            def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
                names = ("src", "href", "xlink:href", "data", "srcset", "action", "poster")
                references.extend((name, value or "") for name, value in attributes if name in names)

        Parser().feed(text)
        assert references  # those of the picture's glyphs
        assert {value[0] for _, value in references} == {"#"}
        assert "//" not in re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"', "", text)
        assert "@import" not in text
        (found,) = re.findall("const panels = (.*);", text)
        panels = json.loads(found, parse_constant=pytest.fail)
        assert [panel["title"] for panel in panels] == ["f(x)", "f'(x)", "f''(x)"]
        assert [line["label"] for line in panels[0]["lines"]] == ["ReLU", "ELU(alpha=0.5)", "SwiGLU, gate x, value 1"]
        x, y = torch.tensor(panels[0]["lines"][1]["points"], dtype=torch.float64).T
        torch.testing.assert_close(y, torch.nn.functional.elu(x, 0.5), rtol=1e-5, atol=1e-5)
        for panel in panels:
            left, top, right, bottom = panel["box"]
            assert 0 < left < right < 1
            assert 0 < top < bottom < 1
            assert panel["x"] == [-5, 5]

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error", "message"),
        [
            ((), {}, TypeError, "at least one activation"),
            ((nn.ReLU,), {}, TypeError, "a name or a module, got <class"),
            (("geluu",), {}, ValueError, "no activation named 'geluu'; did you mean 'gelu'"),
            (("relu", "elu"), {"slope": 1}, TypeError, "none of the activations takes 'slope'.*elu takes alpha"),
            ((nn.ELU(),), {"alpha": 1}, TypeError, "arguments are for activations given by name"),
            (("elu",), {"alpha": "x"}, ValueError, r"ELU\(alpha=x\) cannot be drawn: .*must be Number, not str"),
            (("hardtanh",), {"min_val": 2}, ValueError, "hardtanh refuses min_val=2"),
            (("xielu",), {"alpha_p_init": -1}, ValueError, "alpha_p_init must be above 0"),
            ((nn.PReLU(3),), {}, ValueError, "PReLU.* cannot be drawn"),
            ((nn.Linear(1, 1),), {}, ValueError, "Linear.* cannot be drawn"),
            ((nn.Sequential(nn.Softmax(0)),), {}, ValueError, "Sequential cannot be drawn: an output"),
            ((nn.Hardtanh(math.nan, math.nan),), {}, ValueError, "no finite value between -5 and 5"),
            (("relu",), {"derivatives": 3}, ValueError, "derivatives must be 0, 1 or 2, got 3"),
            (("relu",), {"derivatives": 1.5}, ValueError, "derivatives must be 0, 1 or 2, got 1.5"),
            (("relu",), {"range": (1, 2, 3)}, ValueError, "range must be two finite numbers"),
            (("relu",), {"range": 5}, ValueError, "range must be two finite numbers"),
            (("relu",), {"range": (1, 1)}, ValueError, "range must be two finite numbers"),
            (("relu",), {"range": (0, math.inf)}, ValueError, "range must be two finite numbers"),
            (("relu",), {"range": (math.nan, 1)}, ValueError, "range must be two finite numbers"),
            (("relu",), {"file": "curves.doc"}, ValueError, "curves.doc: the suffix must be one of .*html.*pdf"),
            (("relu",), {"file": "curves"}, ValueError, "curves: the suffix must be one of"),
        ],
        ids=lambda value: None if isinstance(value, str) else str(value),
    )
    def test_errors(self, arguments: Any, keywords: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            fastact.plot(*arguments, **keywords)


def test_loss_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    losses = {name: {"torch.nn": [2.0, 1.0, 0.5], "fastact": [2.0, 1.0, 0.25]} for name in ("ReLU", "Tanh", "Sigmoid")}
    plot.loss_curves(tmp_path / "losses.png", losses)
    assert _is_a_picture(tmp_path / "losses.png")
    assert _titles(drawn[0]) == ["ReLU", "Tanh", "Sigmoid"]
    assert drawn[0].axes[0].get_title("right") == "max difference 0.2"


def test_gradient_histograms(tmp_path: Path, drawn: list[Figure]) -> None:
    torch.manual_seed(0)
    sizes = {"ReLU": 1e-2, "Sigmoid": 1e-5}
    gradients = {name: [size * torch.randn(4, 3, 3) for _ in range(300)] for name, size in sizes.items()}
    gradients["Tanh"] = [torch.zeros(4, 3, 3)] * 300
    plot.gradient_histograms(tmp_path / "gradients.png", gradients, "the weights")
    assert _is_a_picture(tmp_path / "gradients.png")
    assert _titles(drawn[0]) == ["ReLU", "Sigmoid", "Tanh"]
    # The median of |x| for normal x is 0.67 of its standard deviation.
    assert [axes.get_title("right") for axes in drawn[0].axes[:2]] == ["median 7e-03", "median 7e-06"]


def test_matplotlib_is_imported_by_plot_only() -> None:
    """And what is said without it."""
    code = """
import sys, fastact
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = None
try:
    fastact.plot("relu")
except ImportError as error:
    print(error)
del sys.modules["matplotlib"]
fastact.plot("relu")
assert "matplotlib" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "pictures need matplotlib: pip install 'fastact[plot]'\n"
