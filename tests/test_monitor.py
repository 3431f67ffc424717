"""Monitor: what it finds, and that the model never notices."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import fastact
from fastact.monitor import Monitor, Row


def _network(dead_bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), fastact.ReLU(inplace=True), nn.Conv2d(16, 8, 3), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(8 * 16, 32), fastact.Tanh(), nn.Linear(32, 4),
    )  # fmt: skip
    nn.init.constant_(net[2].bias, dead_bias)
    return net


def _images() -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def _rows(monitor: Monitor) -> dict[str, Row]:
    return {row.layer: row for row in monitor.report().rows}


def test_a_dead_layer_is_found() -> None:
    net = _network(dead_bias=-100.0)
    with Monitor(net) as monitor:
        net(_images()).square().mean().backward()
    rows = _rows(monitor)
    assert list(rows) == ["1", "3", "6"]
    assert rows["1"].dead == 0
    assert 0.2 < rows["1"].sparsity < 0.8
    assert rows["3"].dead == 1
    assert rows["3"].sparsity == 1
    assert rows["3"].mean == rows["3"].std == 0
    assert rows["1"].grad_norm == 0  # nothing comes back through the dead layer
    assert rows["3"].grad_norm > 0


def test_dead_units_are_counted_over_all_steps_and_by_channel() -> None:
    layer = nn.Sequential(fastact.ReLU())
    x = -torch.ones(5, 4, 3)
    with Monitor(layer) as monitor:
        for channel in (0, 2):
            awake = x.clone()
            awake[4, channel, 1] = 1
            layer(awake)
    assert _rows(monitor)["0"].dead == pytest.approx(2 / 4)
    with Monitor(layer, unit_dim=-1) as monitor:
        layer(awake)
    assert _rows(monitor)["0"].dead == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("module", "edge", "side"),
    [
        (nn.Sigmoid(), 4.357, 1),  # y(1 - y) = 0.05 / 4
        (fastact.Tanh(), 2.178, 1),  # 1 - y^2 = 0.05
        (nn.Softsign(), 3.472, 1),  # (1 + |x|)^2 = 20
        (fastact.Softsign(), 3.472, -1),
        (fastact.ELU(), 2.996, -1),  # exp(x) = 0.05
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_saturation_begins_where_the_derivative_falls_below_a_twentieth(
    module: nn.Module, edge: float, side: int
) -> None:
    x = torch.full((2, 10), side * (edge - 0.01))
    x[:, :3] = side * (edge + 0.01)
    with Monitor(module) as monitor:
        module(x)
    (row,) = monitor.report().rows
    assert row.saturated == pytest.approx(0.3)
    assert row.dead == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "PReLU", "RReLU"])
def test_a_rectifier_is_off_up_to_zero(name: str) -> None:
    module = getattr(fastact, name)()
    with Monitor(module) as monitor:
        module(torch.tensor([[-3.0, -1e-30, 0.0, 1e-30, 2.0]]))
    (row,) = monitor.report().rows
    assert row.dead == pytest.approx(3 / 5)
    assert row.saturated is None


def test_statistics_are_those_of_all_elements_of_all_steps() -> None:
    net, outputs, gradients = nn.Sequential(fastact.Sigmoid()), [], []
    with Monitor(net) as monitor:
        for step in range(3):
            y = net((torch.randn(7 + step, 11) + step).requires_grad_())
            outputs.append(y.detach().flatten())
            gradients.append(torch.randn_like(y))
            y.backward(gradients[-1])
    (row,) = monitor.report().rows
    every = torch.cat(outputs).double()
    assert row.mean == pytest.approx(every.mean().item(), rel=1e-6)
    assert row.std == pytest.approx(every.std(correction=0).item(), rel=1e-6)
    squares = torch.cat([grad.flatten() for grad in gradients]).double().square()
    assert row.grad_norm == pytest.approx(squares.mean().sqrt().item(), rel=1e-6)


def test_gradients_and_random_numbers_stay_the_same() -> None:
    plain = _network()
    plain.insert(1, fastact.RReLU(inplace=True))
    watched = copy.deepcopy(plain)
    torch.manual_seed(3)
    plain(_images()).square().mean().backward()
    torch.manual_seed(3)
    with Monitor(watched) as monitor:
        watched(_images()).square().mean().backward()
    assert all(row.grad_norm > 0 for row in monitor.report().rows)
    for expected, got in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(expected.grad, got.grad)


def test_hooks_go_even_on_an_error() -> None:
    net = _network()
    assert _hooks(net) == 0
    with pytest.raises(RuntimeError, match="stop"), Monitor(net) as monitor:  # noqa: PT012
        assert _hooks(net) == 6
        loss = net(_images()).mean()
        raise RuntimeError("stop")
    assert _hooks(net) == 0
    loss.backward()  # through the tensor hooks that the graph still holds
    assert all(row.grad_norm is None for row in monitor.report().rows)


def test_no_tensor_is_kept() -> None:
    net, held = _network(), []
    net[1].register_forward_hook(lambda module, args, output: held.append(weakref.ref(output)))
    with Monitor(net):
        net(_images()).mean().backward()
        gc.collect()
        assert held[0]() is None


def test_every_other_call() -> None:
    net = nn.Sequential(nn.ReLU())
    with Monitor(net, every=2) as monitor:
        for step in range(4):
            net(torch.full((2, 2), float(step)))
    assert _rows(monitor)["0"].mean == pytest.approx((0 + 2) / 2)
    with pytest.raises(ValueError, match="every"):
        Monitor(net, every=0)


def test_inference_mode_and_16_bits() -> None:
    net = _network().bfloat16()
    with torch.inference_mode(), Monitor(net) as monitor:
        net(_images().bfloat16())
    before = _rows(monitor)["1"]
    assert 0.2 < before.sparsity < 0.8
    assert before.grad_norm is None


def test_a_module_called_twice_and_one_never_called() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = fastact.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.used(x)[:, :1] - 1)

    net = Net()
    with Monitor(net) as monitor:
        net(torch.ones(2, 3))
    rows = _rows(monitor)
    assert rows["used"].dead == pytest.approx(1 / 4)  # three units of the first call, one of the second
    assert rows["unused"] == Row("unused", "ReLU", None, None, None, None, None, None)


def test_the_table_is_aligned() -> None:
    net = _network(dead_bias=-100.0)
    with Monitor(net) as monitor:
        net(_images()).mean().backward()
    head, *lines = str(monitor.report()).splitlines()
    assert head.split() == ["layer", "activation", "dead", "saturated", "sparsity", "mean", "std", "grad_norm"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert lines[1].split()[:5] == ["3", "ReLU", "100.0%", "-", "100.0%"]


def test_transforms_and_tracing_go_on_under_a_monitor() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    input = torch.randn(5, 3)
    expected = model(input)
    with Monitor(model) as monitor:
        torch.testing.assert_close(torch.func.vmap(model)(input), expected)
        torch.testing.assert_close(torch.jit.trace(model, input)(input), expected)
    assert monitor.report().rows[0].layer == "1"
    with Monitor(model, unit_dim=2), pytest.raises(ValueError, match="unit_dim=2: the input of layer 1 has 2"):
        model(input)
