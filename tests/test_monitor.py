"""Monitor: what it finds, and that the model never notices."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import needs_nodes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import fastact
from fastact.catalogue import ACTIVATIONS, Activation, torch_module
from fastact.enable import TORCH_OPS
from fastact.monitor import EXPONENTS, Monitor, Report, Row, flat, layers
from fastact.monitor.flat import flat_intervals
from fastact.monitor.logging import bin_limits
from fastact.ops import OPS, Op
from fastact.twins import CLASSES, Named, derived_row_of

# What float32's mean and variance of one step may lose in a tensor of some thousand elements.
FEW = 4 * torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True, params=[False, pytest.param(True, marks=needs_nodes)], ids=["", "enabled"])
def _enabled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs again with torch's own modules on fastact's kernels."""
    with fastact.enable() if request.param else nullcontext():
        yield


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


@pytest.mark.parametrize(
    ("reference", "kinks", "expected"),
    [
        (F.hardsigmoid, (-3.0, 3.0), [(-math.inf, -3.0), (3.0, math.inf)]),
        (F.hardshrink, (-0.5, 0.5), [(-0.5, 0.5)]),
        (lambda x: F.relu(x).square(), (), [(-math.inf, 0.025)]),  # a derivative of 2 x has no maximum
        (lambda x: F.leaky_relu(x, 0.3), (0.0,), [(-math.inf, 0.0)]),
    ],
)
def test_where_an_activation_is_flat(reference, kinks: tuple[float, ...], expected: list) -> None:
    row = replace(ACTIVATIONS["relu"], reference=reference, kinks=lambda: kinks)
    found, saturates = flat_intervals(row, {})
    assert found.flatten().tolist() == pytest.approx([x for pair in expected for x in pair])
    assert saturates == (kinks != (0.0,))  # one kink makes two lines


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
def test_every_activation_is_watched(row: Activation) -> None:
    ours = getattr(fastact, row.module)(**row.arguments(dim=1))
    for module in (ours, torch_module(row, ours, **row.arguments(dim=1))) if row.stock else (ours,):
        with Monitor(nn.Sequential(module)) as monitor:
            output = module(torch.randn(4, 6 * row.divisor, 3, 3, requires_grad=True))
            output.sum().backward()
        found = _rows(monitor)["0"]
        assert found.activation == row.module
        assert found.mean == pytest.approx(output.double().mean().item(), abs=FEW * output.abs().max().item())
        assert found.grad_norm == 1
        assert (found.dead is not None) == (row.kind == "pointwise" or row.name == "prelu")
        assert found.saturated is None or found.dead is not None
        assert found.note == ""


@pytest.mark.parametrize("module", [nn.Softmax2d(), fastact.Softmax2d()])
def test_modules_that_share_a_row(module: nn.Module) -> None:
    with Monitor(module) as monitor:
        module(torch.ones(2, 4, 3, 3))
    (row,) = monitor.report().rows
    assert (row.activation, row.mean, row.dead) == ("Softmax2d", 0.25, None)


def test_a_gate_of_its_own_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gated(nn.Module):
        def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
            return input * gate

    gated = {Gated.__qualname__: Named(("reglu",), Gated.forward)}
    monkeypatch.setitem(CLASSES, Gated.__module__, gated)
    module, x = Gated(), torch.ones(3, 4)
    with Monitor(module) as monitor:
        module(x, x)
        module(x, gate=3 * x)
        module(gate=5 * x, input=x)
    (row,) = monitor.report().rows
    assert row.mean == pytest.approx(3)
    assert row.dead is row.saturated is None


class Derived(nn.GELU):
    pass


class WithItsOwn(nn.GELU):
    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(2 * input)


@pytest.mark.parametrize(
    ("module", "row"),
    [
        (nn.GELU(), ("gelu", False)),
        (nn.GELU("tanh"), ("gelu_tanh", False)),
        (fastact.GELU("tanh"), ("gelu_tanh", False)),
        (Derived("tanh"), ("gelu_tanh", False)),
        (fastact.convert(Derived("tanh")), ("gelu_tanh", False)),
        (WithItsOwn(), ("gelu", True)),
        (nn.ReLU6(), ("relu6", False)),  # which derives from Hardtanh
        (fastact.SquaredReLU(), ("squared_relu", False)),
        (nn.Linear(2, 2), None),
    ],
    ids=str,
)
def test_the_most_specific_class_and_its_options_decide(module: nn.Module, row: tuple[str, bool] | None) -> None:
    assert derived_row_of(module) == row


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
    assert row.mean == pytest.approx(every.mean().item(), rel=FEW)
    assert row.std == pytest.approx(every.std(correction=0).item(), rel=FEW)
    squares = torch.cat([grad.flatten() for grad in gradients]).double().square()
    assert row.grad_norm == pytest.approx(squares.mean().sqrt().item(), rel=FEW)


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
        assert _hooks(net) == 8  # two of them on the model, for functions
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


class Nothing(nn.Module):
    """Returns that."""

    def forward(self, x: Tensor) -> None:
        F.relu(x)


class TestEvery:
    """Each k-th call of the model is looked at, all of its activations."""

    @staticmethod
    def run(net: nn.Module, calls: int, **options: int) -> Monitor:
        with Monitor(net, **options) as monitor:
            for step in range(calls):
                net(torch.full((2, 2), float(step)))
        assert _hooks(net) == 0
        return monitor

    def test_other_call_of_the_model(self) -> None:
        net = nn.Sequential(nn.ReLU())
        monitor = self.run(net, 4, every=2)
        assert _rows(monitor)["0"].mean == (0 + 2) / 2
        with pytest.raises(ValueError, match="every"):
            Monitor(net, every=0)

    def test_call_of_a_model_that_is_an_activation(self) -> None:
        (row,) = self.run(nn.ReLU(), 60, every=10).report().rows
        assert row.seen_per_unit == 6 * 2

    @pytest.mark.parametrize("functional", [True, False])
    def test_all_places_of_a_module_that_is_shared(self, functional: bool) -> None:
        """As many as there are, so that k-th calls of the module would be at one place alone."""
        relu = nn.ReLU()
        net = nn.Sequential(relu, nn.Hardtanh(-9, 9), relu)
        rows = _rows(self.run(net, 7, every=3, functional=functional))
        assert rows["0"].seen_per_unit == 2 * rows["1"].seen_per_unit == 2 * 3 * 2

    @pytest.mark.parametrize("every", [2, 3, 10])
    def test_call_of_a_model_that_calls_itself(self, every: int) -> None:
        class Tree(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.relu = nn.ReLU()

            def forward(self, x: Tensor, depth: int = 2) -> Tensor:
                children = [self(x, depth - 1) for _ in range(2)] if depth else [x]
                return F.gelu(self.relu(sum(children)))

        rows = self.run(Tree(), 12, every=every).report().rows
        assert [row.seen_per_unit for row in rows] == [-(-12 // every) * 7 * 2] * 2

    def test_call_of_a_part(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()), nn.Tanh())
        with Monitor(net, every=3) as monitor:
            for _ in range(4):
                net(torch.ones(5, 2))
                net[1](torch.ones(7, 2))
        assert _rows(monitor)["1.0"].seen_per_unit == 2 * 5 + 2 * 7
        assert _rows(monitor)["2"].seen_per_unit == 2 * 5

    def test_block_of_functions_beside_others(self) -> None:
        net = nn.Sequential(nn.ReLU(), nn.Tanh())
        with Monitor(net, every=3) as monitor:
            for step in range(12):
                with monitor.functions():
                    torch.sigmoid(net[0](torch.full((2, 2), float(step))))
                net[1](torch.ones(2, 2))
        rows = {row.activation: row for row in monitor.report().rows}
        assert [rows[name].seen_per_unit for name in ("ReLU", "sigmoid", "Tanh")] == [4 * 2] * 3
        assert rows["ReLU"].mean == (0 + 3 + 6 + 9) / 4

    @pytest.mark.parametrize("every", [2, 3])
    def test_block_of_functions_within(self, every: int) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.relu = nn.ReLU()

            def forward(self, x: Tensor) -> Tensor:
                with monitor.functions():
                    return self.relu(x)

        net = Model()
        with Monitor(net, every=every) as monitor:
            for _ in range(12):
                net(torch.ones(2, 2))
        assert monitor.report().rows[0].seen_per_unit == 12 // every * 2

    def test_call_of_a_model_that_returns_nothing_while_an_error_is_handled(self) -> None:
        net = Nothing()
        with Monitor(net, every=2) as monitor:
            try:
                raise ValueError
            except ValueError:
                for _ in range(6):
                    net(torch.ones(2, 2))
        assert monitor.report().rows[0].seen_per_unit == 3 * 2

    def test_a_branch_that_is_never_looked_at_says_so(self) -> None:
        class Branches(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.even, self.odd, self.never = nn.ReLU(), nn.ReLU(), nn.ReLU()
                self.calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return self.odd(x) if self.calls % 2 else self.even(x)

        rows = _rows(self.run(Branches(), 6, every=2))
        assert rows["odd"].seen_per_unit == 3 * 2
        assert "only where the monitor did not look" in rows["even"].note
        assert (rows["odd"].note, rows["never"].note) == ("", "")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_call_that_is_not_looked_at_fails(self, error: type[BaseException]) -> None:
        net = nn.Sequential(Interrupted(None, error, None, None), nn.ReLU())
        with Monitor(net, every=2) as monitor:
            net(torch.ones(2, 2))
            with pytest.raises(error):
                net(torch.ones(2, 2))
            for _ in range(2):
                net(torch.ones(2, 2))
        assert [row.seen_per_unit for row in monitor.report().rows] == [4, 4, 4]
        assert _hooks(net) == 0

    def test_after_an_interrupt_from_a_deeper_place(self) -> None:
        net = nn.Sequential(Interrupted(*[None] * 10, KeyboardInterrupt, *[None] * 20))

        def deeper(depth: int) -> None:
            if depth:
                deeper(depth - 1)
            else:
                net(torch.ones(2, 2))

        with Monitor(net, every=10) as monitor:
            for _ in range(10):
                net(torch.ones(2, 2))
            with pytest.raises(KeyboardInterrupt):
                net(torch.ones(2, 2))
            for _ in range(20):
                deeper(9)
        assert [row.seen_per_unit for row in monitor.report().rows] == [(1 + 1 + 2) * 2, (1 + 2) * 2]

    def test_block_of_functions_after_an_interrupt(self) -> None:
        net = nn.Sequential(Interrupted(KeyboardInterrupt))
        with Monitor(net, every=2) as monitor:
            with pytest.raises(KeyboardInterrupt):
                net(torch.ones(2, 2))
            for _ in range(4):
                with monitor.functions():
                    torch.tanh(torch.ones(2, 2))
        assert [row.seen_per_unit for row in monitor.report().rows] == [2, 4]

    def test_an_interrupt_within_an_activation(self) -> None:
        class Interrupts(nn.ReLU):
            error = True

            def forward(self, input: Tensor) -> Tensor:
                if self.error:
                    raise KeyboardInterrupt
                return super().forward(input)

        net = nn.Sequential(Interrupts())
        with Monitor(net, every=2) as monitor:
            with pytest.raises(KeyboardInterrupt), monitor.functions():
                net[0](torch.ones(2, 2))
            net[0].error = False
            net[0](torch.ones(2, 2))
            net[0](torch.ones(2, 2))
        assert torch._C._len_torch_function_stack() == 0

    def test_threads(self) -> None:
        """A call that is looked at sees all of its activations."""
        net, steps = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid()), 200

        def run() -> None:
            for _ in range(steps):
                net(torch.ones(2, 2))

        with Monitor(net, every=2) as monitor:
            threads = [threading.Thread(target=run) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        seen = [row.seen_per_unit for row in monitor.report().rows]
        assert min(seen) >= steps * 4 / 2 * 2
        assert max(seen) <= steps * 4 * 2

    def test_gradients_of_a_backward_within(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Sequential(nn.Linear(2, 2), nn.Tanh())

            def forward(self, x: Tensor) -> Tensor:
                output = checkpoint(self.body, x, use_reentrant=True)
                output.sum().backward()
                return output.detach()

        net = Model()
        with Monitor(net, every=3) as monitor:
            for step in range(12):
                net(torch.ones(2, 2, requires_grad=True) * step)
        seen = monitor._layers[0].seen
        assert (seen.outputs.total().tensors, seen.gradients.total().tensors) == (4, 4)


def test_inference_mode_and_16_bits() -> None:
    net = _network().bfloat16()
    with torch.inference_mode(), Monitor(net) as monitor:
        net(_images().bfloat16())
    before = _rows(monitor)["1"]
    assert 0.2 < before.sparsity < 0.8
    assert before.grad_norm is None


def test_inference_and_training_in_turns() -> None:
    net = nn.Sequential(nn.Tanh())
    with Monitor(net) as monitor:
        with torch.inference_mode():
            net(torch.full((1, 2), 5.0))
        net(torch.tensor([[5.0, 0.0]], requires_grad=True)).sum().backward()
        with torch.inference_mode():
            net(torch.full((1, 2), 5.0))
    (row,) = monitor.report().rows
    assert row.dead == pytest.approx(1 / 2)
    assert row.saturated == pytest.approx(5 / 6)
    assert row.grad_norm == 1


@pytest.mark.parametrize(
    ("shape", "unit_dim", "units"),
    [
        ((6,), 1, 6),
        ((6,), -1, 6),
        ((2, 3), 0, 2),
        ((2, 3), 1, 3),
        ((2, 3), -2, 2),
        ((2, 3, 4), 2, 4),
        ((2, 3, 4), 1, 3),
    ],
)
def test_units_are_counted_along_their_dimension(shape: tuple[int, ...], unit_dim: int, units: int) -> None:
    """A vector is one row of features."""
    module, input = nn.ReLU(), -torch.ones(shape)
    input.view(-1)[-1] = 1
    with Monitor(module, unit_dim=unit_dim) as monitor:
        module(input)
    assert monitor.report().rows[0].dead == pytest.approx(1 - 1 / units)


@pytest.mark.parametrize(("shape", "unit_dim"), [((6,), 2), ((6,), -3), ((2, 3), 2), ((2, 3), -3), ((2, 3, 4), 3)])
def test_units_along_no_dimension(shape: tuple[int, ...], unit_dim: int) -> None:
    """They are no reason to stop the model."""
    module = nn.ReLU()
    with Monitor(module, unit_dim=unit_dim) as monitor:
        module(torch.ones(shape))
    (row,) = monitor.report().rows
    assert (row.dead, row.mean) == (None, 1)
    assert row.note == f"unit_dim={unit_dim}: the input has {max(len(shape), 2)} dimensions"


def test_empty_inputs_and_later_contexts_change_nothing() -> None:
    module = nn.Sigmoid()
    monitor = Monitor(module)
    for value in (0.0, 20.0):
        with monitor:
            assert monitor.report().rows[0].mean is None, "each context begins anew"
            module(torch.empty(0, 3))
            output = module(torch.full((2, 3), value, requires_grad=True))
            module(torch.empty(0, 3))
            (2 * output).sum().backward()
            assert monitor.report().rows[0].mean == output.mean().item()
        module(torch.full((2, 3), 1.0))
        (row,) = monitor.report().rows
        assert (row.mean, row.std, row.grad_norm) == (output.mean().item(), 0, 2)
        assert row.saturated == row.dead == (value == 20)


def test_a_wide_row_of_large_numbers_keeps_its_digits() -> None:
    module = nn.ReLU()
    for dtype in (torch.float64, torch.float32, torch.float16):
        input = (torch.rand(500, 200, dtype=torch.float64) + 100).to(dtype)
        with Monitor(module) as monitor:
            module(input)
        (row,) = monitor.report().rows
        assert row.mean == pytest.approx(input.double().mean().item(), rel=FEW)
        assert row.std == pytest.approx(
            input.double().std(correction=0).item(), rel=1e-2
        )  # of numbers 300 times as large
        assert row.sparsity == 0


def test_subclasses_are_watched_as_what_they_are() -> None:
    class Mine(nn.ReLU6):
        pass

    module = Mine()
    with Monitor(module) as monitor:
        module(torch.tensor([[7.0, 3.0, -1.0, 8.0, 0.0]]))
    (row,) = monitor.report().rows
    assert (row.layer, row.activation) == ("", "Mine")
    assert row.saturated == row.dead == pytest.approx(4 / 5)


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
        torch.testing.assert_close(torch.jit.trace(model, input, check_trace=False)(input), expected)
        assert make_fx(model)(input).graph.nodes
    (row,) = monitor.report().rows
    assert (row.layer, row.mean) == ("1", None)
    assert row.note == "input, output: within a transform of torch.func; input, output: while a graph is traced"


@needs_nodes
@pytest.mark.parametrize("_enabled", [False], indirect=True, ids=[""])
@pytest.mark.parametrize("row", [row for row in ACTIVATIONS.values() if row.stock], ids=lambda row: row.name)
def test_enabled_modules_of_torch_show_what_fastacts_do(row: Activation) -> None:
    """And what torch's kernels do, but for rounding."""
    options = {**row.arguments(dim=1), **({"inplace": True} if row.inplace else {})}
    ours = getattr(fastact, row.module)(**options)
    stock, input, found = torch_module(row, ours, **options), torch.randn(4, 6 * row.divisor, 3, 3), {}
    for way, module in {"fastact": ours, "enabled": stock, "torch": stock}.items():
        torch.manual_seed(1)
        x = input.clone().requires_grad_()
        with fastact.enable(only=None if way == "enabled" else []), Monitor(module) as monitor:
            output = module(x * 1)
            output.square().sum().backward()
        found[way] = (monitor.report().rows[0], output.detach(), x.grad)
    if row.name in TORCH_OPS:
        assert found["enabled"][0] == found["fastact"][0]
        assert all(map(torch.equal, found["enabled"][1:], found["fastact"][1:]))
    enabled, alone = (vars(found[way][0]) for way in ("enabled", "torch"))
    for name, value in alone.items() if not row.random else ():
        rounded = name in ("mean", "std", "min", "max", "grad_norm")
        assert enabled[name] == (pytest.approx(value, abs=2 * FEW * output.abs().max().item()) if rounded else value)


class TestCallsAreCountedOnce:
    """What goes in and what comes out, of calls that are run again too."""

    @staticmethod
    def report(run, net: nn.Module, every: int = 1, steps: int = 2) -> list[Row]:
        with Monitor(net, every=every) as monitor:
            for step in range(steps):
                generator = torch.Generator().manual_seed(step)
                input = torch.randn(64, 8, generator=generator).requires_grad_()
                run(input).square().sum().backward()
        return monitor.report().rows

    @pytest.mark.parametrize("every", [1, 2])
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_under_checkpointing(self, reentrant: bool, every: int) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 8), fastact.Tanh(), nn.Linear(8, 8), nn.ReLU(inplace=True))
        nn.init.normal_(net[0].weight, std=3)
        expected = self.report(net, net, every)
        assert expected[0].saturated > 0.5
        assert expected[0].grad_norm > 0
        recomputed = partial(checkpoint, net, use_reentrant=reentrant)
        assert self.report(recomputed, net, every) == expected

    @pytest.mark.parametrize("every", [1, 2])
    def test_after_a_call_that_fails(self, every: int) -> None:
        class Fails(nn.Tanh):
            fail = False

            def forward(self, input: Tensor) -> Tensor:
                if self.fail:
                    raise RuntimeError("out of memory")
                return super().forward(input)

        net = nn.Sequential(Fails(), nn.Tanh())
        Fails.forward.__module__ = "torch"  # where it is flat is known then

        def run(input: Tensor) -> Tensor:
            net[0].fail = True
            with pytest.raises(RuntimeError, match="out of memory"):
                net(torch.full_like(input, 9.0))
            net[0].fail = False
            return net(input)

        assert self.report(run, net, every) == self.report(net, net, every)


def _sparse() -> Tensor:
    return torch.tensor([[-1.0, 0.0], [0.0, 2.0]]).to_sparse()


@pytest.mark.filterwarnings("ignore")  # of torch, of quantised and nested tensors
@pytest.mark.parametrize(
    ("module", "make", "reason"),
    [
        (nn.Tanh(), lambda: torch.randn(4, 4, dtype=torch.complex64), "torch.complex64, on cpu"),
        (nn.ReLU(), lambda: torch.tensor([[-1, 2], [3, -4]]), "torch.int64, on cpu"),
        (nn.Hardtanh(0, 1), lambda: torch.tensor([[1, 0]], dtype=torch.uint8), "torch.uint8, on cpu"),
        (nn.ReLU(), _sparse, "torch.sparse_coo, torch.float32, on cpu"),
        (nn.ReLU(), lambda: torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 128, torch.quint8), "torch.quint8"),
        (nn.ReLU(), lambda: torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)]), "a nested tensor"),
        (nn.ReLU(), lambda: torch.randn(3, 4, device="meta"), "torch.float32, on meta"),
        (nn.ReLU(), lambda: FakeTensorMode().from_tensor(torch.randn(3, 4)), "a FakeTensor"),
    ],
    ids=lambda value: None if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_what_has_no_numbers_is_noted(module: nn.Module, make, reason: str) -> None:
    module(make())
    with Monitor(module) as monitor:
        module(make())
        (row,) = monitor.report().rows
        assert (row.dead, row.mean, row.std) == (None, None, None)
        assert row.note.startswith(f"input, output: {reason}")
        assert row.note in str(monitor.report())
        module(torch.ones(2, 2))  # what has them is seen all the same
        assert monitor.report().rows[0].mean > 0


def test_subclasses_of_tensors_are_looked_at() -> None:
    class Mine(Tensor):
        pass

    module = nn.ReLU()
    with Monitor(module) as monitor:
        assert type(module(torch.tensor([[-1.0, 3.0]]).as_subclass(Mine))) is Mine
        module(nn.Parameter(torch.tensor([[-1.0, 3.0]])))
    (row,) = monitor.report().rows
    assert (row.dead, row.mean, row.note) == (0.5, 1.5, "")


def test_gradients_of_many_at_once_are_noted() -> None:
    net, input = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3)
    weight, batch = net[0].weight, torch.eye(6).reshape(6, 2, 3)

    def within_vmap() -> Tensor:
        output = net(input)
        return torch.func.vmap(lambda grad: torch.autograd.grad(output, weight, grad)[0])(batch)

    reason = "within a transform of torch.func"
    for run, note in {
        lambda: torch.autograd.functional.jacobian(net, input, vectorize=True): "gradient: batched",
        lambda: torch.autograd.grad(net(input), weight, batch, is_grads_batched=True)[0]: "gradient: batched",
        within_vmap: f"gradient: {reason}",
        lambda: torch.func.jacrev(net)(input): f"input, output, gradient: {reason}",
    }.items():
        expected = run()
        with Monitor(net) as monitor:
            assert torch.equal(run(), expected)
        (row,) = monitor.report().rows
        assert (row.grad_norm, row.note) == (None, note)


@needs_nodes
class TestInCpp:
    """From a layer's second call on, C++ looks at tensors on the CPU."""

    @pytest.fixture
    def net(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    @staticmethod
    def rows(module: nn.Module, steps: int, every: int) -> tuple[list[Row], int]:
        generator, layers = torch.Generator().manual_seed(0), Monitor(nn.Sequential(module), every=every)
        with layers as monitor:
            for step in range(steps):
                torch.manual_seed(step)  # of random slopes
                x = torch.randn(8, 12, 5, generator=generator).requires_grad_()
                module(x.clone()).square().sum().backward()
                if step == 3:
                    monitor.snapshot(step)
            inputs = monitor._layers[0].seen.inputs
        return [monitor.history[0].report.rows[0], monitor.report().rows[0]], sum(map(len, inputs.counts.values()))

    @pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
    def test_the_same_as_in_python(self, row: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
        calls, watch = [], layers._WATCH

        def counted(*args: object) -> bool:
            calls.append(watch(*args))
            return calls[-1]

        make = partial(getattr(fastact, row.module), **row.arguments(dim=1))
        for module in (make(), make(inplace=True)) if row.inplace else (make(),):
            calls.clear()
            monkeypatch.setattr(layers, "_WATCH", counted)
            in_cpp = self.rows(module, 9, 2)
            # Every second call is looked at: 0, 2, and after the snapshot of step 3 calls 4, 6 and 8.
            assert calls == [True] * 3
            monkeypatch.setattr(layers, "_WATCH", None)
            assert in_cpp == self.rows(module, 9, 2)

    def test_gradients_of_many_at_once_are_noted(self, net: nn.Module) -> None:
        input, weight, batch = torch.randn(2, 3), net[0].weight, torch.eye(6).reshape(6, 2, 3)

        def within_vmap() -> None:
            output = net(input)
            torch.func.vmap(lambda grad: torch.autograd.grad(output, weight, grad)[0])(batch)

        for run, reason in {
            lambda: torch.autograd.functional.jacobian(net, input, vectorize=True): "batched",
            lambda: torch.autograd.grad(net(input), weight, batch, is_grads_batched=True): "batched",
            within_vmap: "within a transform of torch.func",
        }.items():
            with Monitor(net) as monitor:
                net(input)
                run()
            (row,) = monitor.report().rows
            assert (row.grad_norm, row.note) == (None, f"gradient: {reason}")

    def test_sparse_gradients_are_noted(self, net: nn.Module) -> None:
        with Monitor(net[1]) as monitor:
            for _ in range(2):
                x = torch.ones(2, 3, requires_grad=True)
                with suppress(RuntimeError):
                    net[1](x).backward(torch.ones(2, 3).to_sparse())
        (row,) = monitor.report().rows
        assert row.grad_norm is None
        assert row.note == "gradient: torch.sparse_coo, torch.float32, on cpu; gradient: not dense"

    def test_compiled_autograd_is_noted(self, net: nn.Module) -> None:
        torch.compiler.reset()
        x = torch.ones(2, 3)
        with Monitor(net) as monitor:
            net(x)
            output = net(x).sum()
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
                output.backward()
        (row,) = monitor.report().rows
        assert (row.grad_norm, row.note) == (None, "gradient: in compiled autograd")

    @pytest.mark.parametrize("scale", [8.0, torch.tensor(8.0)])
    def test_the_scale_is_that_of_backward(self, net: nn.Module, scale: float | Tensor) -> None:
        with Monitor(net) as monitor:
            net(torch.ones(2, 3))
            output = net(torch.ones(2, 3))
            monitor.grad_scale = scale
            output.sum().backward()
            (row,) = monitor.report().rows
            if isinstance(scale, Tensor):
                assert row.grad_norm is None
                assert row.note == "gradient: divided by no number: grad_scale became a tensor after forward"
                net(torch.ones(2, 3)).sum().backward()
                (row,) = monitor.report().rows
            assert row.grad_norm == 1 / 8

    def test_a_snapshot_between_forward_and_backward(self, net: nn.Module) -> None:
        with Monitor(net) as monitor:
            net(torch.ones(2, 3)).sum().backward()
            output = net(torch.ones(2, 3))
            monitor.snapshot(1)
            monitor.history  # noqa: B018 read, and no longer changed
            (2 * output).sum().backward()
        assert monitor.history[0].report.rows[0].grad_norm == 1
        assert monitor.report().rows[0].grad_norm == 2

    def test_an_error_in_a_hook_stays_there(self, net: nn.Module) -> None:
        with Monitor(net) as monitor:
            net(torch.ones(2, 3))
            (layer,) = monitor._layers
            *before, gradients, control, unseen = layer.tensors
            layer.tensors = (*before, gradients.float(), control, unseen)  # which the kernel refuses
            net(torch.ones(2, 3)).sum().backward()
        (row,) = monitor.report().rows
        assert (row.grad_norm, row.note) == (None, "gradient: an error while it was looked at")

    def test_nothing_is_seen_once_closed(self, net: nn.Module) -> None:
        with Monitor(net) as monitor:
            net(torch.ones(2, 3))
            output = net(torch.ones(2, 3))
        output.sum().backward()
        assert monitor.report().rows[0].grad_norm is None


class TestGraphs:
    @pytest.fixture
    def net(self) -> nn.Module:
        torch.compiler.reset()
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def test_compiled(self, net: nn.Module) -> None:
        input = torch.randn(4, 4)
        with Monitor(net) as monitor:
            compiled = torch.compile(net, backend="eager", fullgraph=True)
            assert torch.equal(compiled(input), net(input))
        (row,) = monitor.report().rows
        assert isinstance(row.dead, float)
        assert row.note == "calls in a compiled graph are not seen"

    def test_exported(self, net: nn.Module) -> None:
        input = torch.randn(4, 4)
        with Monitor(net) as monitor:
            torch.export.export(net, (input,), strict=True)
            output = net(input)
            torch.export.export(net, (input,))
        (row,) = monitor.report().rows
        assert row.mean == pytest.approx(output.mean().item())
        assert row.note == ""

    def test_compiled_before(self, net: nn.Module) -> None:
        compiled = torch.compile(net, backend="eager")
        compiled(torch.randn(4, 4))
        for watched in (net, compiled):
            with Monitor(watched) as monitor:
                compiled(torch.randn(4, 4))
            (row,) = monitor.report().rows
            assert row.mean is None
            assert row.note.startswith("no call seen: ")

    def test_a_part_compiled_before(self, net: nn.Module) -> None:
        model = nn.Sequential(net, nn.Tanh())
        net.compile(backend="eager")
        model(torch.randn(4, 4))
        with Monitor(model) as monitor:
            model(torch.randn(4, 4))
        inner, outer = monitor.report().rows
        assert "compiled" in inner.note
        assert (outer.note, outer.mean is None) == ("", False)


class TestSubclasses:
    """Of torch's activations, with forwards of their own."""

    @pytest.mark.parametrize(
        "call",
        [lambda module, x: module(x), lambda module, x: module(values=x), lambda module, x: module((x, 2 * x))],
        ids=["positional", "keyword", "tuple"],
    )
    def test_calls(self, call) -> None:
        class Mine(nn.ReLU):
            def forward(self, values):
                return super().forward(values) if isinstance(values, Tensor) else tuple(map(super().forward, values))

        module, x = Mine(), torch.tensor([[-1.0, 3.0]])
        expected = call(module, x)
        with Monitor(nn.Sequential(module)) as monitor:
            got = call(module, x)
        (row,) = monitor.report().rows
        assert row.dead is None
        assert row.note.startswith("where it is flat is not known: it has a forward of its own")
        if isinstance(got, tuple):
            assert all(map(torch.equal, got, expected))
            assert row.note.endswith("; output: a tuple, not a tensor")
        else:
            assert row.mean == 1.5

    def test_arguments_that_are_learned(self) -> None:
        module = nn.Hardtanh()
        module.max_val = nn.Parameter(torch.tensor(1.0))
        x = torch.tensor([[-2.0, 0.0, 2.0]])
        with Monitor(module) as monitor:
            pass
        assert monitor.report().rows[0].note.startswith("where it is flat is not known: max_val is a Parameter")

        class Learned(nn.Softplus):
            def __init__(self) -> None:
                super().__init__()
                del self.beta
                self.beta = nn.Parameter(torch.tensor(2.0))

            def forward(self, input: Tensor) -> Tensor:
                return F.softplus(self.beta * input) / self.beta

        module = Learned()
        with Monitor(module) as monitor:
            module(x).sum().backward()
        (row,) = monitor.report().rows
        assert row.dead is row.saturated is None
        assert row.grad_norm == 1
        assert "forward of its own" in row.note


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("module", "mean", "spread"),
    [(nn.Sigmoid(), 9, 0.5), (nn.Sigmoid(), 4, 0.01), (nn.ReLU(), 1000, 0.01), (nn.ReLU(), -3, 5)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_small_spread_around_a_large_mean(module: nn.Module, mean: float, spread: float, dtype: torch.dtype) -> None:
    outputs = []
    with Monitor(module) as monitor:
        for step in range(70):  # more than are kept apart
            input = torch.randn(16, 33, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            outputs.append(module((mean + spread * input).to(dtype)))
    (row,) = monitor.report().rows
    every = torch.stack(outputs).double()
    assert row.std == pytest.approx(every.std(correction=0).item(), rel=1e-6)
    # float32 is rounded in sums of 32 differences from numbers in the middle.
    off = 0.0 if dtype == torch.float64 else 34 * 2**-24 * (every - every.median()).abs().mean().item()
    assert row.mean == pytest.approx(every.mean().item(), rel=1e-12, abs=off)
    assert (row.min, row.max) == (every.min().item(), every.max().item())


def test_nan_and_infinity_are_counted_apart() -> None:
    module = nn.LeakyReLU(1.0)
    x = torch.tensor([[1.0, math.nan, 3.0], [math.inf, -math.inf, math.nan]], requires_grad=True)
    with Monitor(module) as monitor:
        module(x).backward(torch.tensor([[math.inf, 3.0, 4.0], [math.nan, 0.0, math.nan]]))
        (row,) = monitor.report().rows
        assert (row.nan, row.inf, row.grad_nan, row.grad_inf) == (2, 2, 2, 1)
        assert (row.mean, row.std, row.min, row.max) == (2, 1, 1, 3)
        assert row.grad_norm == pytest.approx(5 / math.sqrt(3))
        assert str(monitor.report()).splitlines()[0].split()[-4:] == ["nan", "inf", "grad_nan", "grad_inf"]
    with Monitor(module) as monitor:
        module(torch.full((2, 2), math.nan))
    (row,) = monitor.report().rows
    assert row.nan == 4
    assert math.isnan(row.mean)
    assert math.isnan(row.std)
    assert row.sparsity == 0


def test_tensors_without_memory_of_their_own() -> None:
    module, x = nn.ReLU(), torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    with Monitor(module) as monitor:
        module(x).backward(torch._efficientzerotensor((1, 3)))
        module(x).backward(torch.ones(()).expand(1, 3))
        module(torch.tensor([[1 - 1j, -2 + 2j, 3 - 3j]]).conj().imag)
    (row,) = monitor.report().rows
    assert row.grad_norm == pytest.approx(math.sqrt(1 / 2))
    assert row.mean == pytest.approx(4 / 3)
    assert row.note == ""


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_gradients_of_any_size(size: float) -> None:
    module, x = nn.ReLU(), torch.ones(3, 5, requires_grad=True)
    with Monitor(module) as monitor:
        module(x).backward(torch.full((3, 5), size))
    assert monitor.report().rows[0].grad_norm == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize(
    ("module", "value"),
    [
        (nn.Hardtanh(0, 50), 60.0), (nn.Hardtanh(-100, 100), 200.0), (nn.Threshold(-40, 0), -50.0),
        (nn.Softplus(beta=0.01), -1000.0), (nn.CELU(100.0), -1000.0), (nn.Hardtanh(-1e-3, 1e-3), 2e-3),
        (nn.Hardtanh(-1e12, 1e12), 2e12), (nn.ReLU(), -math.inf), (nn.Sigmoid(), math.inf),
    ],
    ids=str,
)  # fmt: skip
def test_flat_at_any_scale(module: nn.Module, value: float) -> None:
    x = torch.full((4, 4), value, requires_grad=True)
    with Monitor(module) as monitor:
        output = module(x)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert grad.abs().max() < 1e-3
    (row,) = monitor.report().rows
    assert row.dead == 1
    with Monitor(module) as monitor:
        module(torch.zeros(2, 2) + (module.threshold + 1 if isinstance(module, nn.Threshold) else 1e-4))
    assert monitor.report().rows[0].dead == 0


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_not_watched(way: str) -> None:
    net = _network()
    with Monitor(net) as monitor:
        twin = copy.deepcopy(net) if way == "deepcopy" else pickle.loads(pickle.dumps(net))
        twin(_images()).sum().backward()
        assert all(row.mean is None for row in monitor.report().rows)
        net(_images())
    expected = monitor.report()
    twin(_images())
    assert monitor.report() == expected
    hooks = [hook for module in twin.modules() for hook in module._forward_hooks.values()]
    assert all(hook.__func__.__module__ == "contextlib" for hook in hooks), "loads where fastact is not"


def test_gradients_of_a_scaled_loss() -> None:
    module, x = nn.ReLU(), torch.tensor([[1.0, 2.0, -3.0]], requires_grad=True)
    found = []
    for scale in (1.0, 1024.0, torch.tensor(1024.0)):
        with Monitor(module, grad_scale=scale) as monitor:
            (module(x).square().sum() * scale).backward()
            monitor.grad_scale = 2.0
            (module(x).square().sum() * 2).backward()
        found.append(monitor.report().rows[0].grad_norm)
    assert found[0] == found[1] == found[2] == pytest.approx(math.sqrt((4 + 16) / 3))
    with pytest.raises(ValueError, match="grad_scale must be above 0, got 0"):
        Monitor(module, grad_scale=0)
    for wrong in (torch.ones(2), None, "2"):
        with pytest.raises(TypeError, match="grad_scale must be a number or a tensor of one"):
            monitor.grad_scale = wrong
    assert monitor.grad_scale == 2.0


@pytest.mark.parametrize(
    "scale", [torch.tensor([65536], dtype=torch.int32), torch.full((1, 1), 32768.0, dtype=torch.float16)]
)
def test_a_scale_is_a_tensor_of_any_dtype_and_shape(scale: torch.Tensor) -> None:
    x = torch.randn(4, 8, requires_grad=True)
    with Monitor(nn.ReLU(), grad_scale=scale) as monitor:
        (monitor._model(x) * scale.item()).sum().backward()
    assert monitor.report().rows[0].grad_norm == 1


def test_a_parameter_that_an_activation_clamps_is_not_followed() -> None:
    weight, module = nn.Parameter(torch.randn(8)), nn.ReLU(inplace=True)
    with Monitor(module) as monitor:
        for _ in range(3):
            with torch.no_grad():
                module(weight)
            (weight * 2).sum().backward()
    assert not weight._backward_hooks
    assert monitor.report().rows[0].grad_norm is None


def test_an_output_can_be_saved(tmp_path: Path) -> None:
    x = torch.randn(4, 8, requires_grad=True)
    with Monitor(nn.Sequential(nn.Linear(8, 8), nn.ReLU())) as monitor:
        torch.save(monitor._model(x), tmp_path / "output")  # a warning would be an error here


def test_every_is_an_int() -> None:
    with pytest.raises(TypeError, match="every must be an int"):
        Monitor(nn.ReLU(), every=1.5)


def test_a_monitor_opens_once_at_a_time() -> None:
    module = nn.ReLU()
    with Monitor(module) as monitor:
        with pytest.raises(RuntimeError, match="open already"), monitor:
            pass
        module(torch.ones(2, 2))
    assert monitor.report().rows[0].mean == 1
    assert _hooks(module) == 0


def test_whatever_the_default_device() -> None:
    module = nn.Softplus(beta=0.3)
    with torch.device("meta"), Monitor(module) as monitor:
        module(torch.full((2, 2), -30.0, device="cpu"))
    (row,) = monitor.report().rows
    assert (row.dead, row.note) == (1, "")


class TestFindings:
    HEALTHY = (
        nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
        nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Softplus, fastact.QuickGELU,
    )  # fmt: skip

    @staticmethod
    def net(activation: type[nn.Module] = nn.ReLU, depth: int = 4, width: int = 64) -> nn.Sequential:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(depth):
            linear = nn.Linear(width, width)
            nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, activation()]
        return nn.Sequential(*layers, nn.Linear(width, 8))

    @staticmethod
    def report(net: nn.Module, steps: int = 10, input: Tensor | None = None) -> Report:
        optimizer, generator = torch.optim.SGD(net.parameters(), lr=0.01), torch.Generator().manual_seed(1)
        with Monitor(net) as monitor:
            for _ in range(steps):
                optimizer.zero_grad()
                batch = torch.randn(100, 64, generator=generator) if input is None else input
                F.cross_entropy(net(batch), torch.randint(8, (len(batch),), generator=generator)).backward()
                optimizer.step()
        return monitor.report()

    @pytest.mark.parametrize("activation", HEALTHY)
    def test_a_healthy_network_gives_none(self, activation: type[nn.Module]) -> None:
        assert self.report(self.net(activation)).findings == []

    def test_a_dead_layer_is_named_first(self) -> None:
        net = self.net()
        with torch.no_grad():
            net[4].bias[:26] = -100
        first = self.report(net).findings[0]
        assert (first.rule, first.layer) == ("dead-units", "5")
        assert str(first) == "5: 41% of the units are dead: lower the learning rate, or take a LeakyReLU"

    def test_the_most_dead_is_named_first(self) -> None:
        net = self.net()
        for layer, dead in ((2, 20), (4, 64), (6, 30)):
            nn.init.constant_(net[layer].bias[:dead], -100)
        found = self.report(net).findings
        assert [each.layer for each in found[:3]] == ["5", "7", "3"]
        assert found[0].evidence == "100% of the units are dead"

    def test_few_examples_tell_nothing(self) -> None:
        net = self.net()
        nn.init.constant_(net[4].bias, -100)
        assert "dead-units" not in {each.rule for each in self.report(net, steps=4).findings}

    def test_where_gradients_leak_no_unit_is_dead(self) -> None:
        net = self.net(nn.LeakyReLU)
        nn.init.constant_(net[4].bias, -100)
        report = self.report(net)
        assert report.rows[2].dead == 1
        assert "dead-units" not in {each.rule for each in report.findings}

    def test_saturation_is_named_first(self) -> None:
        net = self.net(nn.Tanh)
        with torch.no_grad():
            net[2].weight *= 30
        first = self.report(net, steps=2).findings[0]
        assert (first.rule, first.layer) == ("saturation", "3")
        assert "where Tanh is flat" in str(first)

    def test_saturated_units_that_are_dead(self) -> None:
        net = self.net(nn.Sigmoid)
        nn.init.constant_(net[4].bias, 100)
        first = self.report(net).findings[0]
        assert (first.rule, first.layer) == ("dead-units", "5")
        assert "normalise" in first.remedy

    def test_nan_is_named_where_it_begins(self) -> None:
        net = self.net()
        net[2].register_forward_hook(lambda module, args, output: output / 0)
        first, *_ = self.report(net).findings
        assert (first.rule, first.layer) == ("not-finite", "3")
        assert "infinite, here first" in first.evidence

    def test_a_gradient_that_is_nan(self) -> None:
        net = self.net()
        net[6].register_full_backward_hook(lambda module, grads, outputs: (grads[0] * math.nan,))
        with Monitor(net) as monitor:
            net(torch.randn(9, 64)).sum().backward()
        first, *_ = monitor.report().findings
        assert (first.rule, first.layer) == ("gradient-not-finite", "5")
        first, *_ = self.report(net).findings  # by the weights it is in all outputs then
        assert (first.rule, first.layer) == ("gradient-not-finite", "5")

    def test_nan_after_a_while(self) -> None:
        """Whatever the number of calls that are merged."""
        module = nn.Tanh()
        with Monitor(module) as monitor:
            for step in range(150):
                module(torch.full((2, 2), math.nan if step in (97, 120) else 1.0))
                if step in (10, 70):
                    assert monitor.report().rows[0].first_bad is None
        assert monitor.report().rows[0].first_bad == 97

    def test_a_gradient_vanishes(self) -> None:
        (only,) = self.report(self.net(nn.Sigmoid, depth=16)).findings
        assert (only.rule, only.layer) == ("vanishing-gradient", "1")

    def test_a_gradient_explodes(self) -> None:
        net = self.net(depth=8)
        with torch.no_grad():
            for layer in net[2:-1:2]:
                layer.weight *= 6
        (only,) = self.report(net, steps=1).findings
        assert (only.rule, only.layer) == ("exploding-gradient", "1")

    def test_as_a_dictionary(self) -> None:
        net = self.net()
        nn.init.constant_(net[4].bias, -100)
        report = self.report(net)
        read = json.loads(json.dumps(report.to_dict()))
        assert read["rows"][2]["dead"] == 1
        assert read["findings"][0] == vars(report.findings[0])
        assert Row(**read["rows"][0]) == report.rows[0]


class Functional(nn.Module):
    """Calls of functions, each on a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.module = nn.Linear(8, 16), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(x))
        x = x.clone().sigmoid_()
        x = F.leaky_relu(x, negative_slope=0.1)
        x = F.gelu(self.module(x), approximate="tanh")
        for _ in range(2):
            x = fastact.functional.hardtanh(x, -0.5, 0.5)
        return torch.softmax(x, 1)


class TestFunctions:
    def test_are_seen_by_the_line_that_calls(self) -> None:
        net, x = Functional(), torch.randn(32, 8)
        with Monitor(net) as monitor:
            net(x).square().sum().backward()
        rows = monitor.report().rows
        assert [row.activation for row in rows] == [
            "relu", "sigmoid", "leaky_relu", "Tanh", "gelu", "hardtanh", "softmax",
        ]  # fmt: skip
        first = Functional.forward.__code__.co_firstlineno
        lines = [int(row.layer.split(":")[1].rstrip(")")) - first for row in rows if row.activation != "Tanh"]
        assert lines == [1, 2, 3, 4, 6, 7]
        assert all(Path(__file__).name in row.layer for row in rows if row.activation != "Tanh")
        relu, hidden = rows[0], net.inner(x)
        assert relu.sparsity == pytest.approx((hidden <= 0).double().mean().item())
        assert relu.dead == (hidden <= 0).all(0).double().mean().item()
        assert all(row.grad_norm > 0 for row in rows[:-1])
        assert rows[5].seen_per_unit == 2 * 32  # both turns of the loop

    def test_results_stay_the_same(self) -> None:
        net, x = Functional(), torch.randn(32, 8)
        grads = []
        for context in (nullcontext(), Monitor(net)):
            net.zero_grad()
            with context:
                output = net(x)
                output.square().sum().backward()
            grads.append([output, *(each.grad for each in net.parameters())])
        assert all(map(torch.equal, *grads))

    def test_name_the_module_that_runs(self) -> None:
        net = nn.Sequential(nn.Sequential(Functional()), nn.ReLU())
        with Monitor(net) as monitor:
            net(torch.randn(4, 8))
        names = [row.layer.split(" (")[0] for row in monitor.report().rows]
        assert names == ["0.0", "0.0", "0.0", "0.0.module", "0.0", "0.0", "0.0", "1"]

    def test_every_kth_forward(self) -> None:
        net = Functional()
        with Monitor(net, every=3) as monitor:
            for _ in range(4):
                net(torch.randn(5, 8))
        rows = {row.activation: row for row in monitor.report().rows}
        assert rows["relu"].seen_per_unit == rows["Tanh"].seen_per_unit == 2 * 5

    def test_after_a_forward_that_fails(self) -> None:
        class Fails(Functional):
            def forward(self, x: Tensor) -> Tensor:
                F.relu(x)
                raise RuntimeError("out of memory")

        net = Fails()
        with Monitor(net) as monitor:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="out of memory"):
                    net(torch.randn(5, 8))
            assert torch._C._len_torch_function_stack() == 0
            F.relu(torch.ones(3))  # outside of the model
        (row,) = (row for row in monitor.report().rows if row.activation == "relu")
        assert row.seen_per_unit == 2 * 5

    def test_can_be_left_alone(self) -> None:
        net = Functional()
        with Monitor(net, functional=False) as monitor:
            assert _hooks(net) == 2
            net(torch.randn(5, 8))
        assert [row.activation for row in monitor.report().rows] == ["Tanh"]

    def test_in_compiled_models_are_left_alone(self) -> None:
        torch.compiler.reset()
        net = Functional()
        net.inner = nn.Sequential(nn.Linear(8, 16))
        net.inner.compile(backend="eager")
        with Monitor(net) as monitor:
            net(torch.randn(5, 8))
        assert [row.activation for row in monitor.report().rows] == ["Tanh"]

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_under_checkpointing(self, reentrant: bool) -> None:
        net, x = Functional(), torch.randn(32, 8, requires_grad=True)
        found = []
        for run in (net, partial(checkpoint, net, use_reentrant=reentrant)):
            with Monitor(net) as monitor:
                run(x).square().sum().backward()
            found.append(monitor.report().rows)
        assert found[0] == found[1]


class TestSnapshots:
    @staticmethod
    def run(net: nn.Module, *inputs: list[float]) -> Monitor:
        """One snapshot after each row of inputs."""
        with Monitor(net) as monitor:
            for step, row in enumerate(inputs):
                net(torch.tensor([row]))
                monitor.snapshot(10 * (step + 1))
            net(torch.tensor([inputs[-1]]))
        return monitor

    def test_are_about_what_came_between(self) -> None:
        monitor = self.run(nn.ReLU(), [1.0, 3.0], [-1.0, 5.0])
        assert [step for step, _ in monitor.history] == [10, 20]
        assert [report.rows[0].mean for _, report in monitor.history] == [2, 2.5]
        assert [report.rows[0].dead for _, report in monitor.history] == [0, 0.5]
        assert monitor.report().rows[0].dead == 0.5
        assert monitor.history == monitor.history
        monitor.reset()
        assert monitor.history == []
        assert monitor.report().rows[0].mean is None

    def test_since_when_units_are_dead_and_which_revived(self) -> None:
        monitor = self.run(
            nn.ReLU(), [1.0, 1.0, 1.0, -1.0], [1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0]
        )
        rows = [report.rows[0] for _, report in monitor.history]
        assert [row.dead for row in rows] == [0.25, 0.75, 1, 0.5]
        assert [row.dead_since for row in rows] == [None, 10, 10, None]
        assert [row.revived for row in rows] == [None, 0, 0, 0.5]
        (finding,) = Report([replace(rows[1], seen_per_unit=1000)]).findings
        assert finding.evidence == "75% of the units are dead, half of them or more since step 10"

    def test_of_a_layer_that_is_not_called(self) -> None:
        monitor = self.run(nn.Sequential(nn.ReLU()), [1.0, -1.0])
        with monitor:
            monitor.snapshot(1)
            monitor.snapshot(2)
        assert [report.rows[0].dead for _, report in monitor.history] == [None, None]

    def test_are_saved(self, tmp_path: Path) -> None:
        monitor = self.run(nn.ReLU(), [1.0, 3.0], [-1.0, 5.0])
        monitor.save(tmp_path / "run.json")
        saved = json.loads((tmp_path / "run.json").read_text())
        assert [each["step"] for each in saved] == [10, 20]
        assert saved[1]["rows"][0]["dead"] == 0.5
        assert saved[1] == {"step": 20, **monitor.history[1].report.to_dict()}


class TestHistograms:
    def test_count_magnitudes(self) -> None:
        values = [0.0, 1.0, 1.5, 2.0, 3.0, -0.25, 2.0**-40, -1e9, math.inf, math.nan]
        with Monitor(nn.Tanh(), histograms=True) as monitor:
            monitor._model(torch.zeros(1, 10, requires_grad=True)).backward(torch.tensor([values]))
        (row,) = monitor.report().rows
        counts = {
            limit: round(9 * share) for limit, share in zip(bin_limits(), row.grad_histogram, strict=True) if share
        }
        least = 2.0 ** (EXPONENTS[0] - 1)
        # All that is too large is in the last bins, by the limit of the negative one nearest to zero.
        assert counts == {-(2.0**15): 1, -0.25: 1, least: 2, 2.0: 2, 4.0: 2, 2.0**16: 1}
        assert row.histogram[len(EXPONENTS)] == 1

    def test_of_a_large_tensor_are_of_a_sample(self) -> None:
        with Monitor(nn.Tanh(), histograms=True) as monitor:
            monitor._model(torch.full((1000, 1000), 0.6))
        (row,) = monitor.report().rows
        (at,) = (i for i, share in enumerate(row.histogram) if share)
        assert row.histogram[at] == 1
        assert bin_limits()[at - 1] <= math.tanh(0.6) < bin_limits()[at]

    def test_are_off_by_default(self) -> None:
        with Monitor(nn.Tanh()) as monitor:
            monitor._model(torch.ones(2, 2))
        assert monitor.report().rows[0].histogram is None


class TestWhatGoesOnAround:
    """What a monitor computes of its own is seen by nothing that is on around the model."""

    @pytest.fixture(autouse=True)
    def _nothing_known(self) -> None:
        flat._intervals.cache_clear()

    def test_checkpointing_of_the_first_call(self) -> None:
        class Net(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return F.softplus(x, beta=1.25)

        net, x = Net(), torch.randn(4, 8, requires_grad=True)
        with Monitor(net) as monitor:
            checkpoint(net, x, use_reentrant=False).sum().backward()
        (row,) = monitor.report().rows
        assert row.saturated is not None
        assert row.grad_norm == 1

    def test_hooks_on_saved_tensors(self) -> None:
        packed = []
        net = Functional()

        def pack(tensor: Tensor) -> Tensor:
            packed.append(tensor)
            return tensor

        counts = []
        for context in (nullcontext(), Monitor(net)):
            packed.clear()
            with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                net(torch.randn(4, 8))
            counts.append(len(packed))
        assert counts[0] == counts[1]

    def test_modes_for_functions(self) -> None:
        class Counting(torch.overrides.TorchFunctionMode):
            calls = 0

            def __torch_function__(self, func, types, args=(), kwargs=None):
                Counting.calls += 1
                return func(*args, **(kwargs or {}))

        net, counts = nn.Sequential(nn.Linear(8, 8), nn.Softplus(1.25), nn.Tanh()), []
        for context in (nullcontext(), Monitor(net)):
            Counting.calls = 0
            with context, Counting():
                net(torch.randn(4, 8)).sum().backward()
            counts.append(Counting.calls)
        assert counts[0] == counts[1]

    def test_another_monitor(self) -> None:
        net, x = Functional(), torch.randn(32, 8)
        with Monitor(net) as outer, Monitor(net) as inner:
            net(x).square().sum().backward()
        assert outer.report() == inner.report()
        assert [row.activation for row in outer.report().rows][:2] == ["relu", "sigmoid"]

    @pytest.mark.parametrize("every", [1, 2])
    def test_tracing_after_a_call(self, every: int) -> None:
        net, x = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), Functional()), torch.randn(2, 2)
        with Monitor(net, every=every):
            expected = [net(x), net(x)][0]
            traced = torch.jit.trace(net, x)
        assert torch.equal(traced(x), expected)

    def test_scripting(self) -> None:
        net = nn.Sequential(nn.ReLU())
        with Monitor(net), pytest.raises(AttributeError, match="script it before or after"):
            torch.jit.script(net)
        assert torch.equal(torch.jit.script(net)(-torch.ones(2)), torch.zeros(2))

    def test_tracing(self) -> None:
        net, x = Functional().eval(), torch.randn(4, 8)
        plain = make_fx(net)(x).graph.nodes
        with Monitor(net) as monitor:
            traced = make_fx(net)(x).graph.nodes
            net(x)
        assert [node.target for node in traced] == [node.target for node in plain]
        assert all(row.dead is not None for row in monitor.report().rows if row.activation in ("relu", "Tanh", "gelu"))


class Interrupted(nn.Module):
    def __init__(self, *errors: type[BaseException] | None) -> None:
        super().__init__()
        self.errors = [*errors]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        error = self.errors.pop(0)
        if error is not None:
            raise error
        return F.gelu(x)


class TestCallsThatFail:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_leave_no_mode_on(self, error: type[BaseException]) -> None:
        net = Interrupted(error)
        with pytest.raises(error), Monitor(net) as monitor:
            net(torch.ones(2, 2))
        assert torch._C._len_torch_function_stack() == 0
        F.tanh(torch.ones(2, 2))
        assert [row.activation for row in monitor.report().rows] == ["relu"]

    def test_within_the_context_do_not_end_it(self) -> None:
        net = Interrupted(KeyboardInterrupt, None)
        with Monitor(net) as monitor:
            with pytest.raises(KeyboardInterrupt):
                net(torch.ones(2, 2))
            net(torch.ones(2, 2))
            assert torch._C._len_torch_function_stack() == 0
        assert [(row.activation, row.seen_per_unit) for row in monitor.report().rows] == [("relu", 4), ("gelu", 2)]

    def test_a_monitor_closed_within(self) -> None:
        class Closes(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                with torch.overrides.BaseTorchFunctionMode():
                    monitor.__exit__()
                    return F.relu(x)

        net = Closes()
        monitor = Monitor(net).__enter__()
        net(torch.ones(2, 2))
        assert torch._C._len_torch_function_stack() == 0

    @pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_forward_hook"])
    def test_a_monitor_closed_by_a_hook(self, register: str) -> None:
        net = nn.Sequential(nn.Tanh())
        getattr(net[0], register)(lambda *_: monitor.__exit__())
        monitor = Monitor(net).__enter__()
        net(torch.ones(2, 2))
        assert torch._C._len_torch_function_stack() == 0

    @pytest.mark.parametrize("other", [nullcontext, torch.overrides.BaseTorchFunctionMode])
    def test_functions_beside_a_module_that_fails(self, other: Callable[[], AbstractContextManager]) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.act = nn.Tanh()

            def forward(self, x: Tensor) -> Tensor:
                with other():
                    x = F.gelu(self.act(x))
                    with suppress(TypeError):
                        self.act(None)
                    return F.relu(x)

        with Monitor(Net()) as monitor:
            monitor._model(torch.ones(2, 2))
            assert torch._C._len_torch_function_stack() == 0
        assert [row.activation for row in monitor.report().rows] == ["Tanh", "gelu", "relu"]

    def test_a_hook_that_raises_within_a_module_of_modules(self) -> None:
        class Outer(nn.Tanh):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Sigmoid()
                self.inner.register_forward_pre_hook(refuse)

            def forward(self, x: Tensor) -> Tensor:
                with torch.overrides.BaseTorchFunctionMode(), suppress(ValueError):
                    self.inner(x)
                assert torch._C._len_torch_function_stack() == 0
                return super().forward(x)

        def refuse(*_: object) -> None:
            raise ValueError

        net = nn.Sequential(Outer())
        with Monitor(net):
            net(torch.ones(2, 2))
            assert torch._C._len_torch_function_stack() == 0

    def test_what_comes_after_is_seen(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.softmax = nn.Softmax(7)

            def forward(self, x: Tensor) -> Tensor:
                for call in (partial(F.softmax, dim=7), self.softmax):
                    with suppress(IndexError):
                        call(x)
                    x = F.gelu(x)
                return x

        net = Net()
        with Monitor(net) as monitor:
            net(torch.ones(2, 2))
        rows = {row.activation: row for row in monitor.report().rows}
        assert rows["gelu"].seen_per_unit == 4

    def test_take_back_their_own_input(self) -> None:
        class Fails(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.threshold(x, 0, 0)  # which complex numbers have not

        net = Fails()
        with Monitor(net) as monitor:
            net(torch.ones(3, 2))
            with pytest.raises(RuntimeError):
                net(torch.ones(3, 2, dtype=torch.complex64))
            net(torch.ones(3, 2))
        assert monitor.report().rows[0].seen_per_unit == 6

    def test_models_that_return_nothing(self) -> None:
        net = Nothing()
        with Monitor(net, every=2) as monitor:
            for _ in range(4):
                net(torch.ones(3, 2))
        assert monitor.report().rows[0].seen_per_unit == 6


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_every_op_is_seen(op: Op) -> None:
    row, call = op.activation, getattr(torch.ops.fastact, op.name).default
    numbers, x = row.samples[-1], torch.randn(4, 6)
    tensors = {"input": x, "value": x, "gate": x + 1, "bias": x[0], "residual": None, "seed": torch.tensor(1)}
    weights = {name: torch.rand(1) for name in row.weights}
    given = {"dim": 1, "gate_first": False, "dtype": x.dtype, **tensors, **weights, **numbers}
    arguments = [given[each.name] for each in call._schema.arguments]

    class Net(nn.Module):
        def forward(self) -> Tensor:
            return call(*arguments)

    net = Net()
    with Monitor(net) as monitor:
        output = net()
    (seen,) = monitor.report().rows
    assert (seen.activation, seen.note) == (row.function, "")
    assert seen.mean == pytest.approx(output.double().mean().item(), abs=FEW * output.abs().max().item())
    (layer,), intervals = monitor._layers, None if op.biased else flat_intervals(row, numbers)[0]
    assert layer.bounds is intervals is None or torch.equal(layer.bounds, intervals)


def test_threads() -> None:
    net = Functional()

    def run() -> None:
        torch.manual_seed(0)
        for _ in range(50):
            net(torch.ones(3, 8))

    with Monitor(net) as monitor:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = monitor.report().rows
    assert [row.seen_per_unit for row in rows] == [600, 600, 600, 600, 600, 1200, None]


def test_threads_and_snapshots() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sigmoid())

    def run() -> None:
        torch.manual_seed(0)
        for _ in range(100):
            net(torch.ones(3, 8, requires_grad=True)).sum().backward()

    with Monitor(net) as monitor:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        step = 0
        while any(thread.is_alive() for thread in threads):
            monitor.snapshot(step)
            step += 1
        for thread in threads:
            thread.join()
        monitor.snapshot(step)
    for layer in range(2):
        rows = [snapshot.report.rows[layer] for snapshot in monitor.history]
        assert sum((row.seen_per_unit or 0) for row in rows) == 3 * 100 * 3


def test_a_subclass_that_refuses_hooks() -> None:
    class Strict(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is Tensor.register_hook:
                raise RuntimeError("no hooks here")
            return super().__torch_function__(func, types, args, kwargs)

    x = torch.randn(2, 3, requires_grad=True).as_subclass(Strict)
    net = nn.Sequential(nn.ReLU())
    with Monitor(net) as monitor:
        net(x).sum().backward()
    assert monitor.report().rows[0].mean is not None


class TestNames:
    def test_of_two_functions_on_a_line_differ(self) -> None:
        class Net(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.tanh(x) * torch.sigmoid(x) * F.leaky_relu(F.leaky_relu(x, 0.1), 0.2)

        net = Net()
        with Monitor(net) as monitor:
            net(torch.randn(4, 4))
        names = [row.layer for row in monitor.report().rows]
        assert len(set(names)) == len(names) == 4
        assert names[1] == f"{names[0]} sigmoid"
        assert names[3] == f"{names[0]} leaky_relu(negative_slope=0.2)"

    def test_of_a_function_whose_arguments_vary(self) -> None:
        class Net(nn.Module):
            def forward(self, x: Tensor, slope: float) -> Tensor:
                return F.leaky_relu(x, slope)

        net = Net()
        with Monitor(net) as monitor:
            for step in range(50):
                net(torch.randn(4, 4), step / 50)
        rows = monitor.report().rows
        assert len(rows) == 9
        assert rows[-1].layer.endswith("leaky_relu(varying arguments)")
        assert rows[-1].note == "where it is flat is not known: its arguments vary"
        assert rows[-1].mean is not None


def test_reset_begins_anew_with_functions_too() -> None:
    net = Functional()
    with Monitor(net, every=2) as monitor:
        net(torch.randn(4, 8))
        monitor.reset()
        net(torch.randn(4, 8))
    rows = {row.activation: row for row in monitor.report().rows}
    assert rows["relu"].seen_per_unit == rows["Tanh"].seen_per_unit == 4


def test_refuses_what_is_no_step() -> None:
    with Monitor(nn.ReLU()) as monitor:
        for step, error in (
            (None, TypeError),
            ("a", TypeError),
            (1.5, TypeError),
            (-1, ValueError),
            (1 << 70, ValueError),
        ):
            with pytest.raises(error):
                monitor.snapshot(step)
    assert monitor.history == []
    with pytest.raises(RuntimeError, match="not open"), monitor.functions():
        pass
