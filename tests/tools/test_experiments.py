"""The experiments under examples/, at small sizes: each shows its effect, and the page has the committed results."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import compare_activations
import dying_relu
import experiment
import pinn
import pytest
import sparsity_l1
import torch
import vanishing_gradient
import zero_centred
from matplotlib.image import imread
from train_digits import Data, load

import fastact

PAGE = experiment.RESULTS.with_suffix(".md")


@pytest.fixture(scope="module")
def data() -> Data:
    return load("digits", Path(), 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def enlarged(data: Data) -> Data:
    return compare_activations.scaled_up(Data(data.train_images[:320], data.train_labels[:320], *data[2:]))


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def test_the_page() -> None:
    assert experiment.page(PAGE.read_text()) == PAGE.read_text(), "run `examples/experiment.py docs/experiments.md`"


def test_the_page_shows_every_picture() -> None:
    pictures = {path.stem for path in experiment.RESULTS.glob("*.png")}
    assert pictures == {path.stem for path in experiment.RESULTS.glob("*.json")}
    assert [name for name in pictures if f"]({experiment.RESULTS.name}/{name}.png)" not in PAGE.read_text()] == []


def test_results_say_where_they_come_from() -> None:
    for path in experiment.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert {"commit", "date", "hardware", "versions"} <= result["environment"].keys(), path
        assert (experiment.ROOT / "examples" / f"{result['script']}.py").exists(), path
        assert len({row["seed"] for row in result["rows"]}) == result["settings"]["seeds"] > 1, path


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        sparsity_l1.main(["--seeds", "1", "--epochs", "1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "sparsity_l1.json").read_text())
    assert len(result["rows"]) == len(sparsity_l1.WIDTHS) * len(sparsity_l1.WEIGHTS)
    assert "scikit-learn's digits" in result["setup"]
    assert experiment.block(result) in capsys.readouterr().out
    assert imread(tmp_path / "sparsity_l1.png").shape[1] == 9 * 150


@pytest.mark.parametrize("name", experiment.committed())
def test_pictures_name_the_data_and_the_spread(name: str) -> None:
    result = experiment.committed()[name]
    figure = import_module(result["script"]).draw(result)
    assert result["setup"] in [text.get_text() for text in figure.texts]
    assert f"median and range of {result['settings']['seeds']} seeds" in result["setup"]
    assert all(axes.has_data() for axes in figure.axes)


def test_a_cell_is_the_median_and_the_range() -> None:
    assert experiment.cell([3.0, 1.0, 2.0], ".0f") == "2 (1 to 3)"
    assert experiment.cell([1.0, 1.1], ".0f") == "1"


class TestVanishingGradient:
    def first(self, activation: str, depth: int, start: str, data: Data) -> float:
        return vanishing_gradient.gradients(activation, depth, start, data)[0]

    @pytest.mark.parametrize("start", vanishing_gradient.STARTS)
    def test_sigmoid(self, start: str, data: Data) -> None:
        """Eight layers more, each with a derivative of at most a quarter: 4^-8 is below 10^-4."""
        assert self.first("Sigmoid", 10, start, data) < 1e-3 * self.first("Sigmoid", 2, start, data)

    @pytest.mark.parametrize("activation", ["ReLU", "SELU"])
    def test_what_its_own_rule_prevents(self, activation: str, data: Data) -> None:
        assert 0.1 < self.first(activation, 10, "proper", data) < 10
        assert self.first(activation, 10, "small", data) < 0.1


class TestDyingUnits:
    def test_a_high_rate_kills_relu(self, data: Data) -> None:
        low, high = (dying_relu.trained("ReLU", rate, data, 1, 0) for rate in (0.001, 0.05))
        assert low["dead"] < 0.1 < high["dead"]

    def test_maxout_has_no_dead_units(self, data: Data) -> None:
        found = dying_relu.trained("Maxout", 0.001, data, 1, 0)
        assert found["dead"] is None
        assert found["finite"]

    def test_divergence_is_not_death(self, data: Data) -> None:
        found = dying_relu.trained("ELU", 10.0, data, 1, 0)
        assert not found["finite"]
        assert found["dead"] is None


class TestZeroCentred:
    @pytest.mark.parametrize(("activation", "agree"), [("Sigmoid", True), ("ReLU", True), ("Tanh", False)])
    def test_gradients_of_one_example(
        self, activation: str, agree: bool, data: Data, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(zero_centred, "STEPS", 50)
        share = zero_centred.network_agreement(activation, data, 1, 0)
        assert share == 1 if agree else share < 0.7

    def test_agreement(self) -> None:
        gradient = torch.tensor([[1.0, 2.0, -1.0, 0.0], [-1.0, -1.0, -2.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
        assert zero_centred.agreement(gradient) == pytest.approx((2 / 3 + 1) / 2)

    def test_two_weights_take_a_detour(self) -> None:
        sigmoid, tanh = (zero_centred.measured(zero_centred.path(name, 1)) for name in ("Sigmoid", "Tanh"))
        assert sigmoid["length"] > 2 * tanh["length"]
        assert sigmoid["steps"] > 2 * tanh["steps"]


class TestPinn:
    def test_the_source_is_that_of_the_solution(self) -> None:
        x = torch.linspace(-1, 1, 21, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(pinn.exact(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        torch.testing.assert_close(-curvature, pinn.source(x))

    def test_relu_has_no_curvature(self) -> None:
        assert set(pinn.solved("ReLU", 40)["residuals"]) == {1.0}

    def test_sine_learns(self) -> None:
        assert pinn.solved("Sine", 100)["residuals"][-1] < 0.1


class TestCompareActivations:
    def test_the_images_are_scaled_up(self, enlarged: Data) -> None:
        assert enlarged.train_images.shape[1:] == enlarged.test_images.shape[1:] == (1, 16, 16)
        large = Data(*(torch.zeros(2, 1, 28, 28), torch.zeros(2)) * 2)
        assert compare_activations.scaled_up(large) is large

    @pytest.mark.parametrize("network", compare_activations.NETWORKS)
    @pytest.mark.parametrize("size", [16, 28, 32])
    def test_the_networks_take_images_of_that_size(self, network: str, size: int) -> None:
        images = torch.randn(2, 3, size, size)
        assert compare_activations.NETWORKS[network]("ReLU", images)(images).shape == (2, 10)

    def test_weight_decay_is_on_the_dense_layers(self, enlarged: Data) -> None:
        net = compare_activations.cifar10_network("ReLU", enlarged.train_images)
        dense, others = compare_activations.optimizer_of("cifar10", net).param_groups
        assert [weight.dim() for weight in dense["params"]] == [2, 2, 2]
        assert others["weight_decay"] == 0
        assert len(dense["params"]) + len(others["params"]) == len(list(net.parameters()))

    def test_sigmoid_gets_smaller_gradients(self, enlarged: Data) -> None:
        def median_bin(activation: str) -> float:
            torch.manual_seed(0)
            first = compare_activations.trained("cifar10", activation, enlarged, 1, 0)["gradients"][0]
            return next(i for i in range(len(first)) if sum(first[: i + 1]) >= 50)

        per_decade = 5  # bins
        assert median_bin("Sigmoid") < median_bin("ReLU") - per_decade


class TestSparsity:
    def test_the_penalty_switches_units_off(self, data: Data) -> None:
        without, penalised = (sparsity_l1.trained(64, weight, data, 3, 0) for weight in (0.0, 1e-3))
        assert penalised["sparsity"] > without["sparsity"] + 0.1
        assert without["accuracy"] > 0.5

    def test_the_penalty_is_that_of_fastact(self) -> None:
        net = sparsity_l1.network(4, 8, 0.5)
        layers = [layer for layer in net if isinstance(layer, fastact.L1)]
        assert [layer.weight for layer in layers] == [0.5, 0.5]
