"""Whole models, as their libraries build them, with fastact's activations beside stock: values, training, and what a
training script does around a model. Tiny sizes, random weights."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import models
import pytest
import torch
import zoo
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint

import fastact

FACTOR = 8
"""Of eps for each layer, relative to the largest value: layers pass on what came in, and the activation of each adds
the difference of two roundings of its formula. What was found is half an eps for each layer at most."""

VARIETY = [
    *("MLP, LeakyReLU", "resnet18", "mobilenetv2_100", "caformer_s18"),
    *("BERT", "GPT-2", "Llama", "Gemma 2", "T5, gated", "CLIP, text", "wav2vec 2.0", "UNet2DModel"),
]
"""For what takes time: a model of each way to write and to call activations."""

COMPILED = ["MLP, GELU", "resnet18", "Llama"]


def _installed(names: Iterable[str]) -> list[Any]:
    """Models as parameters of tests, skipped where their library is not there."""
    return [
        pytest.param(
            zoo.MODELS[name],
            id=name,
            marks=pytest.mark.skipif(
                find_spec(zoo.MODELS[name].library) is None, reason=f"needs {zoo.MODELS[name].library}"
            ),
        )
        for name in names
    ]


every_model = pytest.mark.parametrize("model", _installed(zoo.MODELS))
some_models = pytest.mark.parametrize("model", _installed(VARIETY))
with_ours = pytest.mark.parametrize("mode", ["enabled", "converted"])


def depth(module: nn.Module) -> int:
    """Layers without layers of their own."""
    return sum(not list(each.children()) for each in module.modules())


def tolerance(module: nn.Module, dtype: torch.dtype) -> float:
    return FACTOR * torch.finfo(dtype).eps * depth(module)


def is_rough(module: nn.Module) -> bool:
    """Whether its gradient may jump with a last digit, and torch's is of float32's digits only: Hardswish rounds
    differently in the two libraries, the ReLUs behind it see the other side of zero now and then, and torch's gradient
    of Hardsigmoid has a sixth in float32 in all dtypes."""
    return any(isinstance(each, nn.Hardsigmoid) for each in module.modules())


@pytest.mark.parametrize("model", _installed(name for name, model in zoo.MODELS.items() if model.float64))
@with_ours
def test_outputs_and_gradients_in_float64(model: zoo.Model, mode: str) -> None:
    stock = models.prepared(model, "tiny", "stock").to(torch.float64)
    ours = models.prepared(model, "tiny", mode).to(torch.float64)
    expected, expected_gradients = models.gradients(stock)
    with models.active(mode):
        output, gradients = models.gradients(ours)
    assert output.dtype == torch.float64
    assert models.difference([output], [expected]) <= tolerance(stock.module, torch.float64)
    gradient_dtype = torch.float32 if is_rough(stock.module) else torch.float64
    assert models.difference(gradients, expected_gradients) <= tolerance(stock.module, gradient_dtype)


@every_model
@with_ours
def test_outputs_and_gradients_in_float32(model: zoo.Model, mode: str) -> None:
    stock, ours = models.prepared(model, "tiny", "stock"), models.prepared(model, "tiny", mode)
    expected, expected_gradients = models.gradients(stock)
    with models.active(mode):
        output, gradients = models.gradients(ours)
    assert models.difference([output], [expected]) <= tolerance(stock.module, torch.float32)
    if not is_rough(stock.module):
        assert models.difference(gradients, expected_gradients) <= tolerance(stock.module, torch.float32)


@every_model
def test_conversion_keeps_names(model: zoo.Model) -> None:
    """And what they name."""
    stock, ours = (models.prepared(model, "tiny", mode).module.state_dict() for mode in ("stock", "converted"))
    assert list(ours) == list(stock)
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@every_model
def test_every_activation_is_reached(model: zoo.Model) -> None:
    """Forward and backward, by whatever name and in whatever class the model calls it."""
    network = models.prepared(model, "tiny", "enabled")
    with fastact.enable(), models.Count() as count:
        models.gradients(network)
    found = models.coverage(count.elements)
    assert found["activations"]["elements"] > 0
    assert found["activations"]["share"] == 1, found["left_to_torch"]
    assert not {"aten._softmax", "aten._log_softmax"} & set(found["left_to_torch"])


@some_models
def test_twenty_steps_stay_together(model: zoo.Model) -> None:
    """A step adds its own roundings, so that what differs grows about in proportion to the steps where training is
    stable: gradients are clipped, or that of a small batch through a deep model throws it about."""
    steps, losses = 20, {}
    dtype = torch.float64 if model.float64 else torch.float32
    for each in ("stock", "enabled"):
        network = models.prepared(model, "tiny", each).to(dtype)
        optimiser = torch.optim.SGD(network.module.parameters(), 1e-3)
        torch.manual_seed(0)
        losses[each] = []
        with models.active(each):
            for _ in range(steps):
                optimiser.zero_grad()
                loss = network.loss(network.output())
                loss.backward()
                nn.utils.clip_grad_norm_(network.module.parameters(), 1.0)
                optimiser.step()
                losses[each].append(loss.detach())
    assert losses["stock"][-1] != losses["stock"][0]
    assert models.difference(losses["enabled"], losses["stock"]) <= steps * tolerance(network.module, dtype)


@some_models
def test_autocast(model: zoo.Model) -> None:
    """Which last bit of bfloat16 a result is rounded to matters in deep models; it must not take the output farther
    from that in float32 than bfloat16 does anyway."""
    torch.manual_seed(0)
    exact = models.prepared(model, "tiny", "stock").output()
    found = {}
    for each in ("stock", "enabled"):
        network = models.prepared(model, "tiny", each)
        torch.manual_seed(0)
        with models.active(each), torch.autocast("cpu", torch.bfloat16):
            output = network.output()
            loss = network.loss(output)
        with models.active(each):
            loss.backward()
        assert all(p.grad.isfinite().all() for p in network.module.parameters() if p.grad is not None)
        found[each] = output.dtype, loss.dtype, models.difference([output.float()], [exact])
    *dtypes, error = found["enabled"]
    *stock_dtypes, stock_error = found["stock"]
    assert dtypes == stock_dtypes
    assert error <= 2 * stock_error + torch.finfo(torch.bfloat16).eps


def _checkpointed(network: zoo.Network, use_reentrant: bool) -> list[Tensor]:
    """Gradients, through a checkpoint around the whole model: its forward runs twice, with the same random numbers."""
    torch.manual_seed(0)
    start = torch.zeros((), requires_grad=True)  # the reentrant kind needs an input with a gradient

    def forward(start: Tensor) -> Tensor:
        return network.output() + start

    output = checkpoint(forward, start, use_reentrant=use_reentrant)
    network.loss(output).backward()
    return [p.grad for p in network.module.parameters() if p.grad is not None]


@some_models
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointed_gradients_are_the_same(model: zoo.Model, use_reentrant: bool) -> None:
    with fastact.enable():
        _, expected = models.gradients(models.prepared(model, "tiny", "enabled"))
        network = models.prepared(model, "tiny", "enabled")
        gradients = _checkpointed(network, use_reentrant)
    assert models.difference(gradients, expected) <= tolerance(network.module, torch.float32)


@pytest.mark.parametrize("model", _installed(COMPILED))
def test_compilers_see_the_stock_graph(model: zoo.Model) -> None:
    """So that they fuse activations as ever."""
    torch._dynamo.reset()
    ops: set[str] = set()

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        ops.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    expected, expected_gradients = models.gradients(models.prepared(model, "tiny", "stock"))
    network = models.prepared(model, "tiny", "enabled")
    network = network._replace(module=torch.compile(network.module, backend=aot_autograd(fw_compiler=compiler)))
    with fastact.enable():
        output, gradients = models.gradients(network)
    assert any(op.startswith("aten.") for op in ops)
    assert not any(op.startswith("fastact.") for op in ops)
    assert models.difference([output], [expected]) <= tolerance(network.module, torch.float32)
    assert models.difference(gradients, expected_gradients) <= tolerance(network.module, torch.float32)
