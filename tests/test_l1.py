"""The L1 penalty: its value, its gradient, and that nothing is kept for it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from cases import CASES, DEFAULTS, DTYPES, LOOPS, Case, needs_nodes
from test_gradients import arguments, repeatable
from test_memory import saved_tensors, total_bytes
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import fastact
from fastact import libraries

WEIGHT = 0.375  # which every dtype has, so that 16-bit gradients round once here and there
POINTWISE = [case for case in CASES if case.activation.pointwise]
EACH_LOOP = [case for case in LOOPS if case.activation.pointwise]
SIZES = (0, 1, 63, 64, 2049, 70_000)  # around steps and blocks, and for more than one thread
on_devices = pytest.mark.only("cpu", "cuda")
"""The emulated GPU's tensors are the CPU's, whose kernels take the penalty, and round otherwise than its own."""
SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-30, -1e-30)


def keeps_signs(case: Case) -> bool:
    """Whether the signs of the outputs follow from what the activation saves, wherever it lets a gradient through."""
    low, high = (case.sample.get(name, 0) for name in ("min_val", "max_val"))
    return case.activation.saved != "mask" or {
        "relu": True,
        "relu6": True,
        "hardsigmoid": True,
        "threshold": case.sample.get("threshold", 0) >= 0,
        "hardtanh": low >= 0 or high <= 0,
    }.get(case.activation.name, False)


def by_torch(output: Tensor) -> Tensor:
    wide = torch.float32 if output.dtype in (torch.float16, torch.bfloat16) else None
    return output.abs().sum(dtype=wide)


def gradients(case: Case, norm: Callable[[Tensor], Tensor], input: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Of the input and the weights, where the output's gradient is `grad` and that of its norm WEIGHT."""
    tensors = [input.detach().requires_grad_(), *(w.detach().requires_grad_() for w in case.weights(input))]
    torch.manual_seed(0)
    output = case.fastact(*tensors)
    return torch.autograd.grad([output, norm(output)], tensors, [grad, torch.tensor(WEIGHT).to(by_torch(output))])


def assert_same_gradients(case: Case, input: Tensor) -> None:
    """As of torch's sum of absolute values of the same output, to the bit: each is rounded as often."""
    grad = torch.randn_like(case.fastact(input))
    for ours, expected in zip(
        gradients(case, fastact.l1_norm, input, grad), gradients(case, by_torch, input, grad), strict=True
    ):
        assert ours.stride() == expected.stride()
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@on_devices
@pytest.mark.parametrize(
    ("case", "dtype"), [(case, dtype) for case in POINTWISE for dtype in (DTYPES if case in EACH_LOOP else DTYPES[:1])]
)
def test_gradients(case: Case, dtype: torch.dtype, nodes: str, device: str, on: str) -> None:
    for size in SIZES:
        shape = (size // 4, 4) if case.per_channel else (size,)
        assert_same_gradients(case, case.randn(*shape, dtype=dtype, device=on))


@on_devices
@pytest.mark.parametrize("case", EACH_LOOP, ids=str)
def test_gradients_in_layouts(case: Case, nodes: str, device: str, on: str) -> None:
    for layout in case.layouts():
        assert_same_gradients(case, case.input(layout, torch.float32, on))


@pytest.mark.only("cpu")  # on a GPU nobody waits to see a NaN
@pytest.mark.parametrize("case", [case for case in POINTWISE if not case.per_channel], ids=str)
def test_gradients_at_special_values(case: Case, device: str) -> None:
    for number in SPECIAL:
        assert_same_gradients(case, torch.tensor([number, 1.0, -1.0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value(dtype: torch.dtype, nodes: str, device: str, on: str) -> None:
    for size in SIZES:
        x = torch.randn(size, dtype=torch.float64).to(on, dtype).requires_grad_()
        norm = fastact.l1_norm(fastact.functional.tanh(x))
        exact = fastact.functional.tanh(x).double().abs().sum()
        assert norm.dtype == by_torch(x).dtype
        eps = torch.finfo(norm.dtype).eps
        # fastact's own sum has the digits of float64, with as many roundings as summands at most.
        rtol = eps / 2 + size * torch.finfo(torch.float64).eps if on == "cpu" and libraries.HAS_NODES else size * eps
        torch.testing.assert_close(norm.double(), exact, rtol=rtol, atol=0)


def test_value_of_any_layout(device: str, on: str) -> None:
    relu = next(case for case in DEFAULTS if case.activation.name == "relu")
    for layout in relu.layouts():
        x = relu.input(layout, torch.float64, on).requires_grad_()
        output = fastact.functional.relu(x)
        torch.testing.assert_close(fastact.l1_norm(output), output.abs().sum())


@pytest.mark.only("cpu")
def test_the_value_does_not_depend_on_threads(device: str) -> None:
    output = fastact.functional.tanh(torch.randn(300_000, requires_grad=True))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fastact.l1_norm(output).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


@needs_nodes
@pytest.mark.parametrize("case", POINTWISE, ids=str)
def test_nothing_more_is_kept(case: Case, device: str, on: str) -> None:
    input = case.randn(50, 80, device=on).requires_grad_()
    weights = case.weights(input)
    alone = total_bytes(saved_tensors(case.fastact, input, *weights))
    penalised = total_bytes(saved_tensors(lambda *given: fastact.l1_norm(case.fastact(*given)), input, *weights))
    assert (penalised == alone) == keeps_signs(case)


@on_devices
@pytest.mark.parametrize("case", [case for case in DEFAULTS if not case.activation.pointwise], ids=str)
def test_of_units_that_have_several_inputs(case: Case, nodes: str, device: str, on: str) -> None:
    input = case.randn(6, 40, device=on)
    assert_same_gradients(case, input)
    if libraries.HAS_NODES:
        input.requires_grad_()
        alone = total_bytes(saved_tensors(case.fastact, input))
        penalised = total_bytes(saved_tensors(lambda x: fastact.l1_norm(case.fastact(x)), input))
        assert (penalised == alone) == (case.activation.saved != "indices")


@on_devices
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.kind == "gated"], ids=str)
def test_of_value_and_gate(case: Case, nodes: str, device: str, on: str) -> None:
    tensors = [torch.randn(2100, device=on, requires_grad=True) for _ in range(2)]
    grad, found = torch.randn(2100, device=on), []
    for norm in (fastact.l1_norm, by_torch):
        output = getattr(torch.ops.fastact, case.activation.name)(*tensors)
        found.append(torch.autograd.grad([output, WEIGHT * norm(output)], tensors, [grad, torch.ones((), device=on)]))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_without_memory() -> None:
    """As on a device whose kernels are not the CPU's."""
    for function in (fastact.functional.relu, fastact.functional.tanh, fastact.functional.silu):
        x = torch.empty(3, 5, device="meta", dtype=torch.bfloat16, requires_grad=True)
        norm = fastact.l1_norm(function(x))
        assert (norm.device, norm.dtype, norm.shape) == (x.device, torch.float32, ())
        (gradient,) = torch.autograd.grad(norm, x)
        assert (gradient.device, gradient.dtype, gradient.shape) == (x.device, x.dtype, x.shape)


@needs_nodes
@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.pointwise], ids=str)
def test_one_kernel_runs_in_backward(case: Case, kernel_calls: list[str], device: str) -> None:
    input = case.randn(50, 80).requires_grad_()
    output = case.fastact(input)
    loss = output.sum() + fastact.l1_norm(output)
    kernel_calls.clear()
    loss.backward()
    assert kernel_calls == [f"{'l1_' * keeps_signs(case)}{case.activation.name}_backward"]


@pytest.mark.parametrize("case", EACH_LOOP, ids=str)
def test_second_derivatives(case: Case, nodes: str, device: str, on: str) -> None:
    call = repeatable(case)

    def both(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        output = call(*tensors)
        return output, fastact.l1_norm(output)

    assert torch.autograd.gradcheck(both, arguments(case, on), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(both, arguments(case, on))


@on_devices
@pytest.mark.parametrize("case", EACH_LOOP, ids=str)
def test_of_the_norm_alone(case: Case, nodes: str, device: str, on: str) -> None:
    x = case.randn(5, 9, device=on).requires_grad_()
    found = []
    for norm in (fastact.l1_norm, by_torch):
        torch.manual_seed(0)
        found.append(torch.autograd.grad(norm(case.fastact(x)), x)[0])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_twice_of_one_output(nodes: str, device: str, on: str) -> None:
    x = torch.randn(100, device=on, requires_grad=True)
    output = fastact.functional.relu(x)
    (gradient,) = torch.autograd.grad(fastact.l1_norm(output) + 2 * fastact.l1_norm(output), x)
    assert gradient.equal(3.0 * (x > 0))


@needs_nodes  # torch's own sum keeps the output as it is
def test_outputs_that_change(device: str, on: str) -> None:
    """Afterwards it does not matter; before, the new numbers count."""
    x = torch.randn(100, device=on, requires_grad=True)
    output = fastact.functional.relu(x)
    norm = fastact.l1_norm(output)
    output.sub_(1)
    assert torch.autograd.grad(norm, x)[0].equal((x > 0).float())
    output = fastact.functional.relu(x)
    with torch.no_grad():
        output.sub_(1)
    norm = fastact.l1_norm(output)
    torch.testing.assert_close(norm, output.abs().sum())
    assert torch.autograd.grad(norm, x)[0].equal(output.sign() * (x > 0))


@on_devices
def test_in_place_activations(nodes: str, device: str, on: str) -> None:
    for case in DEFAULTS:
        if not case.activation.inplace:
            continue
        x, found = case.randn(7, 9, device=on).requires_grad_(), []
        for norm in (fastact.l1_norm, by_torch):
            torch.manual_seed(0)
            output = case.fastact(x * 1, inplace=True)
            found.append(torch.autograd.grad(output.sum() + norm(output), x)[0])
        torch.testing.assert_close(*found, rtol=0, atol=0)


def test_other_tensors(device: str, on: str) -> None:
    """What no node of fastact's has made as it is."""
    x = torch.randn(4, 6, device=on, requires_grad=True)
    relu = fastact.functional.relu
    calls: tuple[Callable[[Tensor], Tensor], ...] = (
        torch.sin,
        lambda x: x,
        lambda x: relu(x)[:, 1:],
        lambda x: relu(x) * 2,
        lambda x: fastact.functional.bias_act(x, torch.ones(6, device=on), activation="relu"),
    )
    for call in calls:
        found = [torch.autograd.grad(norm(call(x)), x)[0] for norm in (fastact.l1_norm, by_torch)]
        torch.testing.assert_close(*found, rtol=0, atol=0)
    assert fastact.l1_norm(torch.tensor([1, -2], device=on)).item() == 3
    with pytest.raises(TypeError, match="l1_norm: expected a tensor, got list"):
        fastact.l1_norm([1.0])
    with pytest.raises(RuntimeError, match="l1_norm: expected float16, bfloat16, float32 or float64"):
        torch.ops.fastact.l1_norm(torch.tensor([1, -2]))


def test_under_transforms(device: str, on: str) -> None:
    x = torch.randn(3, 8, device=on)
    of_row = torch.func.grad(lambda row: fastact.l1_norm(fastact.functional.relu(row)))
    assert torch.func.vmap(of_row)(x).equal((x > 0).float())


# The module.


def network(act: Callable[[], nn.Module], weight: float = 0.01) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), fastact.L1(act(), weight), nn.Linear(8, 8), fastact.L1(act(), 2 * weight))


def expected_gradients(model: nn.Sequential, x: Tensor, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """By torch's ops from the outputs of the modules within."""
    penalty = torch.zeros((), dtype=x.dtype)
    for layer in model:
        x = layer.module(x) if isinstance(layer, fastact.L1) else layer(x)
        if isinstance(layer, fastact.L1):
            penalty = penalty + layer.weight * x.abs().sum()
    loss = x.square().sum() + penalty
    return penalty, list(torch.autograd.grad(scale * loss, list(model.parameters())))


ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": fastact.ReLU,
    "in place": lambda: fastact.ReLU(inplace=True),
    "leaky_relu": fastact.LeakyReLU,
    "prelu": fastact.PReLU,
    "torch's": nn.ReLU,
    "sequence": lambda: nn.Sequential(nn.Linear(8, 8), fastact.GELU()),
}


def backward(model: nn.Module, x: Tensor, run: Callable[..., Tensor], scale: float = 1.0) -> tuple[Tensor, list]:
    output = run(model, x)
    penalty = fastact.l1_penalty(model)
    for parameter in model.parameters():
        parameter.grad = None
    (scale * (output.square().sum() + penalty)).backward()
    return penalty, [parameter.grad for parameter in model.parameters()]


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "plain": lambda model, x: model(x),
    "checkpoint": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "checkpoint of layers": lambda model, x: checkpoint(
        model[2:], checkpoint(model[:2], x, use_reentrant=False), use_reentrant=False
    ),
    "convert": lambda model, x: fastact.convert(model)(x),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("act", ACTS)
def test_module(act: str, way: str, nodes: str) -> None:
    model, x = network(ACTS[act]).double(), torch.randn(5, 6, dtype=torch.float64)
    for scale in (1.0, 1024.0):  # as a GradScaler multiplies
        expected_penalty, expected = expected_gradients(model, x, scale)
        penalty, found = backward(model, x, WAYS[way], scale)
        torch.testing.assert_close(penalty, expected_penalty)
        torch.testing.assert_close(found, expected)
        assert fastact.l1_penalty(model).item() == 0, "what is computed again is not counted again"


@needs_nodes
@pytest.mark.parametrize("block", ["enable", "recompute", "both"])
def test_module_in_blocks(block: str) -> None:
    model, x = network(nn.ReLU), torch.randn(300, 6)
    expected_penalty, expected = expected_gradients(model, x)
    enabled = fastact.enable() if block != "recompute" else nullcontext()
    with enabled, fastact.recompute(min_bytes=0) if block != "enable" else nullcontext():
        penalty, found = backward(model, x, WAYS["plain"])
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(penalty, expected_penalty, rtol=300 * 8 * eps, atol=0)
    torch.testing.assert_close(found, expected, rtol=300 * eps, atol=300 * eps)


@needs_nodes
def test_torchs_modules_keep_bits_where_they_are_enabled() -> None:
    act, x = fastact.L1(nn.ReLU(), 0.1), torch.randn(80, 100, requires_grad=True)
    with fastact.enable():
        assert total_bytes(saved_tensors(act, x)) == 1000


def test_gradients_accumulate_over_batches() -> None:
    model, parts = network(fastact.ReLU), torch.randn(2, 5, 6)
    expected = [sum(each) for each in zip(*(expected_gradients(model, part)[1] for part in parts), strict=True)]
    for part in parts:
        (model(part).square().sum() + fastact.l1_penalty(model)).backward()
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)


def test_a_module_that_is_called_twice() -> None:
    act, x = fastact.L1(fastact.ReLU(), 0.5), torch.randn(2, 7, requires_grad=True)
    act(x[0])
    act(x[1])
    torch.testing.assert_close(act.value, 0.5 * x[1].relu().sum().detach())
    penalty = fastact.l1_penalty(nn.ModuleList([act, act]))
    torch.testing.assert_close(penalty, 0.5 * x.relu().sum())
    penalty.backward()
    assert x.grad.equal(0.5 * (x > 0))


def test_when_nothing_is_noted() -> None:
    act, x = fastact.L1(fastact.ReLU(), 0.5), torch.randn(7, requires_grad=True)
    assert act.value is None
    with torch.no_grad():
        act(x)
    act.eval()
    assert act(x).equal(x.relu())
    assert fastact.l1_penalty(act).equal(torch.zeros(()))
    with pytest.raises(ValueError, match=r"the model has no fastact\.L1 modules"):
        fastact.l1_penalty(nn.ReLU())


def test_inputs_without_gradients_count() -> None:
    """In the loss that is printed."""
    act, x = fastact.L1(fastact.ReLU(), 0.5), torch.randn(7)
    act(x)
    torch.testing.assert_close(fastact.l1_penalty(act), 0.5 * x.relu().sum())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_begin_with_nothing(duplicate: Callable[[Any], Any]) -> None:
    act, x = fastact.L1(fastact.PReLU(), 0.5), torch.randn(7)
    before = act.state_dict().keys()
    act(x)
    assert list(act.state_dict()) == list(before) == ["module.weight"]
    other = duplicate(act)
    assert other.weight == 0.5
    if duplicate is not copy.copy:  # which shares all that a module has
        assert other.value is None
        assert fastact.l1_penalty(other).item() == 0
    assert fastact.l1_penalty(act).item() > 0


def test_replicas_note_for_the_module() -> None:
    """As torch.nn.DataParallel makes them."""
    act, x = fastact.L1(fastact.ReLU(), 0.5), torch.ones(7)
    act._replicate_for_data_parallel()(x)
    assert fastact.l1_penalty(act).item() == 3.5


def test_the_weight_may_change() -> None:
    act = fastact.L1(fastact.ReLU(), 1)
    assert "weight=1" in repr(act)
    act.weight = 0.25
    act(torch.ones(4))
    assert act.value.item() == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.relu, 0.1), TypeError, "module must be a torch.nn.Module, got builtin_function_or_method"),
        ((nn.ReLU(), "0.1"), TypeError, "weight must be a number, got str"),
        ((nn.ReLU(), -0.1), ValueError, "weight must be finite and at least 0, got -0.1"),
        ((nn.ReLU(), float("nan")), ValueError, "weight must be finite and at least 0, got nan"),
    ],
)
def test_bad_arguments(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"fastact.L1: {message}"):
        fastact.L1(*arguments)


def test_modules_without_one_output() -> None:
    with pytest.raises(TypeError, match="expected a tensor, got tuple"):
        fastact.L1(nn.LSTM(3, 4), 0.1)(torch.randn(2, 3))


def test_penalties_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastact.l1.MOST_CALLS", 3)
    act = fastact.L1(fastact.ReLU(), 0.5)
    act(torch.ones(4))
    act(torch.ones(4))
    with pytest.warns(RuntimeWarning, match="3 calls have noted a penalty that fastact.l1_penalty has not been asked"):
        act(torch.ones(4))


def test_reentrant_checkpoints_say_that_they_lose_it() -> None:
    model, x = network(fastact.ReLU), torch.randn(5, 6, requires_grad=True)
    output = checkpoint(model, x, use_reentrant=True)
    assert fastact.l1_penalty(model).item() == 0
    with pytest.warns(RuntimeWarning, match="use_reentrant=False counts it"):
        output.sum().backward()
    assert fastact.l1_penalty(model).item() == 0


def test_a_monitor_sees_the_activation_once() -> None:
    model, x = network(fastact.ReLU), torch.randn(5, 6)
    with fastact.Monitor(model) as monitor:
        backward(model, x, WAYS["plain"])
    rows = monitor.report().rows
    assert [(row.layer, row.activation) for row in rows] == [("1.module", "ReLU"), ("3.module", "ReLU")]
    output = model[:1](x).relu()
    assert rows[0].sparsity == (output == 0).double().mean().item()


@needs_nodes
def test_converting_modules_within() -> None:
    model = fastact.convert(network(nn.ReLU))
    assert [type(model[i].module) for i in (1, 3)] == [fastact.ReLU] * 2
    assert [layer.path for layer in fastact.conversion(model)] == ["1.module", "3.module"]


def test_compiled() -> None:
    model, x = network(fastact.ReLU), torch.randn(5, 6)

    def loss(x: Tensor) -> Tensor:
        return model(x).square().sum() + fastact.l1_penalty(model)

    expected = expected_gradients(model, x)[1]
    found = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(x), list(model.parameters()))
    torch.testing.assert_close(list(found), expected)


@needs_nodes
def test_compiled_autograd() -> None:
    model, x = network(fastact.ReLU), torch.randn(5, 6)
    expected = expected_gradients(model, x)[1]
    with compiled_autograd._enable(lambda graph: graph):
        torch.testing.assert_close(backward(model, x, WAYS["plain"])[1], expected)
        model(x)
        with pytest.raises(NotImplementedError, match="compiled autograd cannot differentiate an L1 penalty"):
            fastact.l1_penalty(model).backward()


def test_the_outermost_transform() -> None:
    x = torch.randn(5, 8)
    assert torch.equal(torch.func.vmap(fastact.l1_norm)(x), x.abs().sum(1))
