"""The pictures: that they are drawn, of everything asked for, and that matplotlib stays away until then."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import truth
from matplotlib.figure import Figure
from matplotlib.image import imread

import fastact
from fastact.catalogue import ACTIVATIONS, Activation, of_one_variable
from fastact.tools import plot


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


def torchs_curve(row: Activation, x: torch.Tensor) -> torch.Tensor:
    arguments = {**row.samples[0], **row.options}
    if row.weights:
        return getattr(fastact, row.module)(**arguments).double()(x)
    return of_one_variable(row, truth(row, torch.float64))(x, **arguments)


def test_curves_draws_the_whole_catalogue(tmp_path: Path, drawn: list[Figure], monkeypatch) -> None:
    plot.curves(tmp_path / "curves.png")
    monkeypatch.setattr(fastact.functional, "takes", lambda _: False)
    assert _is_a_picture(tmp_path / "curves.png")
    (figure,) = drawn
    assert _titles(figure) == [row.module for row in ACTIVATIONS.values()]
    for axes, row in zip(figure.axes, ACTIVATIONS.values(), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for label, line in lines.items():
            if label.startswith("$"):
                x, y = torch.tensor(line.get_xdata()), torch.tensor(line.get_ydata())
                shown = ~x.isnan()
                for kink in row.kinks(**row.samples[0]):  # next to it torch's vectors and scalars may disagree
                    shown &= (x == kink) | ((x - kink).abs() > 1e-9)
                input = x[shown].requires_grad_()
                output = torchs_curve(row, input)
                expected = output if label == "$f(x)$" else torch.autograd.grad(output.sum(), input)[0]
                few = 8 * torch.finfo(torch.float64).eps  # ULPs of both, and what torch's derivatives cancel
                torch.testing.assert_close(y[shown], expected.detach(), rtol=few, atol=few)
        assert tuple(lines["kink"].get_xdata()) == row.kinks(**row.samples[0])


@pytest.mark.parametrize(
    "row",
    [ACTIVATIONS["relu"], replace(ACTIVATIONS["relu"], module="Hardtanh", kinks=lambda: (-1.0, 1.0))],
    ids=lambda row: row.module,
)
def test_a_jump_is_not_joined(row: Activation, tmp_path: Path, drawn: list[Figure], monkeypatch) -> None:
    monkeypatch.setattr(plot, "modules", torch.nn)
    plot.curves(tmp_path / "curve.png", [row])
    (slope,) = (line for line in drawn[0].axes[0].lines if line.get_label() == "$f'(x)$")
    values = slope.get_ydata()
    assert set(values[~np.isnan(values)]) == {0.0, 1.0}
    joined = np.abs(np.diff(values)) > 0
    assert not joined.any()
    assert np.isnan(values).sum() == 2 * len(row.kinks())


def test_titles_tell_what_is_drawn(tmp_path: Path, drawn: list[Figure], monkeypatch) -> None:
    monkeypatch.setattr(plot, "modules", torch.nn)
    monkeypatch.setattr(plot, "functional", torch.nn.functional)
    relu = ACTIVATIONS["relu"]
    rows = [
        replace(relu, name="glu", module="GLU", kind="gated"),
        replace(relu, name="log_softmax", module="LogSoftmax", kind="softmax"),
        replace(relu, name="gelu_tanh", module="GELU", public="gelu", options={"approximate": "tanh"}),
    ]
    plot.curves(tmp_path / "curves.png", [replace(row, kinks=lambda: ()) for row in rows])
    titles = [(axes.get_title("left"), axes.get_title("right")) for axes in drawn[0].axes]
    assert titles == [
        ("GLU", "gate x, value 1"),
        ("LogSoftmax", "of (x, 0)"),
        ("GELU", "approximate = tanh"),
    ]
    log_softmax = drawn[0].axes[1].lines[2]
    assert log_softmax.get_label() == "$f(x)$"
    x = torch.tensor(log_softmax.get_xdata())
    torch.testing.assert_close(torch.tensor(log_softmax.get_ydata()), torch.nn.functional.logsigmoid(x))


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
    command = "import sys, fastact, fastact.monitor; assert 'matplotlib' not in sys.modules; import fastact.tools.plot"
    subprocess.run([sys.executable, "-c", command], check=True)
