"""The pictures: that they are drawn, of everything asked for, and that matplotlib stays away until then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastact import plot
from fastact.catalogue import ACTIVATIONS


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


def test_curves_draws_the_whole_catalogue(tmp_path: Path, drawn: list[Figure]) -> None:
    plot.curves(tmp_path / "curves.png")
    assert _is_a_picture(tmp_path / "curves.png")
    (figure,) = drawn
    assert _titles(figure) == [row.module for row in ACTIVATIONS.values()]
    for axes, row in zip(figure.axes, ACTIVATIONS.values(), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for label, line in lines.items():
            if label.startswith("$"):
                x, y = torch.tensor(line.get_xdata()), torch.tensor(line.get_ydata())
                input = x[~x.isnan()].requires_grad_()
                arguments = {"weight": torch.tensor([0.25], dtype=torch.float64)} if row.weight else row.samples[0]
                output = row.reference(input, **arguments)
                expected = output if label == "$f(x)$" else torch.autograd.grad(output.sum(), input)[0]
                torch.testing.assert_close(y[~x.isnan()], expected.detach(), rtol=1e-12, atol=1e-12)
        assert tuple(lines["kink"].get_xdata()) == row.kinks(**row.samples[0])


def test_a_jump_is_not_joined(tmp_path: Path, drawn: list[Figure]) -> None:
    plot.curves(tmp_path / "relu.png", [ACTIVATIONS["relu"]])
    (slope,) = (line for line in drawn[0].axes[0].lines if line.get_label() == "$f'(x)$")
    assert set(slope.get_ydata()[~torch.tensor(slope.get_ydata()).isnan()]) == {0.0, 1.0}
    at = int(torch.tensor(slope.get_xdata()).isnan().nonzero())
    assert slope.get_ydata()[at - 1] == 0
    assert slope.get_ydata()[at + 1] == 1


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
    command = "import sys, fastact, fastact.monitor; assert 'matplotlib' not in sys.modules; import fastact.plot"
    subprocess.run([sys.executable, "-c", command], check=True)
