"""What a forward pass keeps for backward: counted by hand, and counted without a trace."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import needs_nodes
from matplotlib.figure import Figure
from test_memory import bytes_left_by
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.checkpoint import checkpoint

import fastact
from fastact import libraries, ops
from fastact.saved import Kept, Layer, Saved


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    before = dict(vars(ops.run))
    yield
    fastact.disable()
    assert vars(ops.run) == before


def short(seen: Saved) -> list[tuple[str, str, str, int, int | None]]:
    return [(row.layer, row.node, row.made_by, row.bytes, row.shared_with) for row in seen.rows]


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3))


IMAGES = 4 * 2 * 3 * 8 * 8
MAPS = 4 * 2 * 4 * 6 * 6
PARAMETERS = 4 * (4 * 3 * 3 * 3 + 4 + 4 + 4 + 5 * 4 * 3 * 3)
"""The weights, and batch norm's statistics; no biases."""


class Mlp(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Of(nn.Module):
    """A module of a function."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(self, *inputs, **kwargs)


# What is counted


def test_convolutions() -> None:
    model, x = convolutions(), torch.randn(2, 3, 8, 8)
    seen = fastact.saved(model, x)
    norm = "NativeBatchNormBackward0"
    assert short(seen) == [
        ("0", "ConvolutionBackward0", "input", IMAGES, None),
        ("1", norm, "ConvolutionBackward0", MAPS, None),
        ("1", norm, "", 4 * 4, None),
        ("1", norm, "", 4 * 4, None),
        ("2", "ReluBackward0", "its output", MAPS, None),
        ("3", "ConvolutionBackward0", "ReluBackward0", 0, 4),
    ]
    assert [row.shape for row in seen.rows] == [(2, 3, 8, 8), (2, 4, 6, 6), (4,), (4,), (2, 4, 6, 6), (2, 4, 6, 6)]
    assert {row.dtype for row in seen.rows} == {"float32"}
    assert seen.bytes == seen.torch_bytes == IMAGES + 2 * MAPS + 32
    assert seen.parameter_bytes == PARAMETERS
    assert [layer[:2] for layer in seen.layers] == [("0", IMAGES), ("1", MAPS + 32), ("2", MAPS), ("3", 0)]


@needs_nodes
def test_enabled() -> None:
    model, x = convolutions(), torch.randn(2, 3, 8, 8)
    with fastact.enable():
        seen = fastact.saved(model, x)
    assert short(seen)[4:] == [
        ("2", "ReLUBackward", "", MAPS // 32, None),
        ("3", "ConvolutionBackward0", "ReLUBackward", MAPS, None),
    ]
    assert (seen.rows[4].shape, seen.rows[4].dtype) == ((MAPS // 32,), "uint8")
    assert seen.bytes == IMAGES + 2 * MAPS + 32 + MAPS // 32
    assert seen.torch_bytes == IMAGES + 2 * MAPS + 32


@pytest.mark.nodes
def test_converted() -> None:
    model, x = convolutions(), torch.randn(2, 3, 8, 8)
    fastact.convert(model)
    seen = fastact.saved(model, x)
    assert type(model[2]) is fastact.ReLU
    assert [(row.layer, row.bytes) for row in seen.rows[4:]] == [("2", MAPS // 32), ("3", MAPS)]
    assert seen.rows[4].node.startswith("ReLU")
    assert (seen.bytes, seen.torch_bytes) == (IMAGES + 2 * MAPS + 32 + MAPS // 32, IMAGES + 2 * MAPS + 32)


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=needs_nodes)])
def test_mlp(own: bool) -> None:
    rows = 4 * 8 * 16
    x = torch.randn(8, 16, requires_grad=True)
    with fastact.enable(only=["gelu"] if own else []) if libraries.HAS_NODES else torch.enable_grad():
        seen = fastact.saved(nn.Sequential(Mlp(), Mlp()), x)
    gelu = "GELUBackward" if own else "GeluBackward0"
    block = [
        ("norm", "NativeLayerNormBackward0", "input", rows, None),
        ("norm", "NativeLayerNormBackward0", "", 4 * 8, None),
        ("norm", "NativeLayerNormBackward0", "", 4 * 8, None),
        ("up", "AddmmBackward0", "NativeLayerNormBackward0", rows, None),
        ("act", gelu, "AddmmBackward0", 4 * rows, None),
        ("down", "AddmmBackward0", gelu, 4 * rows, None),
    ]
    first = [(f"0.{layer}", *rest) for layer, *rest in block]
    second = [(f"1.{layer}", *rest) for layer, *rest in block]
    second[0] = ("1.norm", "NativeLayerNormBackward0", "AddBackward0", rows, None)
    assert short(seen) == first + second
    assert seen.bytes == seen.torch_bytes == 2 * (10 * rows + 64)
    # Of layer norm weight and bias, of linear layers the weight.
    assert seen.parameter_bytes == 2 * 4 * (2 * 16 + 2 * 16 * 64)


def test_attention_shares_what_was_projected_at_once() -> None:
    def attend(self: Any, x: Tensor) -> Tensor:
        query, key, value = (each.view(2, 10, 2, 8).transpose(1, 2) for each in self.project(x).chunk(3, -1))
        return F.scaled_dot_product_attention(query, key, value)

    seen = fastact.saved(Of(attend, project=nn.Linear(16, 48)), torch.randn(2, 10, 16))
    tokens, node = 4 * 2 * 10 * 16, "ScaledDotProductFlashAttentionForCpuBackward0"
    assert short(seen) == [
        ("project", "AddmmBackward0", "input", tokens, None),
        ("", node, "TransposeBackward0", 3 * tokens, None),
        ("", node, "TransposeBackward0", 0, 1),
        ("", node, "TransposeBackward0", 0, 1),
        ("", node, "", 4 * 2 * 2 * 10, None),  # the logarithm of each softmax's sum
        ("", node, "its output", tokens, None),
    ]


def test_a_module_called_twice() -> None:
    shared = nn.Linear(8, 8)
    seen = fastact.saved(nn.Sequential(shared, nn.Tanh(), shared, nn.Sigmoid()), torch.randn(4, 8))
    assert short(seen) == [
        ("0", "AddmmBackward0", "input", 128, None),
        ("1", "TanhBackward0", "its output", 128, None),
        ("0", "AddmmBackward0", "TanhBackward0", 0, 1),
        ("3", "SigmoidBackward0", "its output", 128, None),
    ]
    assert seen.parameter_bytes == 4 * 8 * 8
    assert [layer.name for layer in seen.layers] == ["0", "1", "3"]


@pytest.mark.parametrize("act", [nn.SiLU(), fastact.SiLU()])
@pytest.mark.parametrize("reentrant", [False, True])
def test_of_a_checkpoint_the_inputs(reentrant: bool, act: nn.Module) -> None:
    calls = []

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.middle, self.act(self.first(x)), use_reentrant=reentrant))

    model = Of(forward, first=nn.Linear(16, 16), act=act, middle=Mlp(), last=nn.Linear(16, 16))
    model.middle.register_forward_hook(lambda *_: calls.append(1))
    seen = fastact.saved(model, torch.randn(4, 16))
    node, maker = ("CheckpointFunctionBackward",) * 2 if reentrant else ("checkpoint", "AddBackward0")
    silu = seen.rows[1].node
    assert short(seen) == [
        ("first", "AddmmBackward0", "input", 256, None),
        ("act", silu, "AddmmBackward0", 256, None),
        ("", node, silu, 256, None),
        ("last", "AddmmBackward0", maker, 256, None),
    ]
    assert silu.startswith("SiLU" if type(act) is fastact.SiLU else "SiluBackward0")
    assert len(calls) == (3 if libraries.HAS_NODES else 2), "nothing is computed again to find the nodes"


def test_what_is_freed_in_between_is_not_kept() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(x)
        self.head(x).exp().sum()
        return self.head(features)

    seen = fastact.saved(Of(forward, body=Mlp(), head=nn.Linear(16, 16)), torch.randn(4, 16))
    assert short(seen) == [("head", "AddmmBackward0", "", 256, None)]
    assert (seen.bytes, seen.parameter_bytes) == (256, 0)


def test_nothing() -> None:
    model = Mlp().requires_grad_(False)
    seen = fastact.saved(model, torch.randn(4, 16))
    assert (seen.rows, seen.bytes, seen.torch_bytes, seen.layers) == ((), 0, 0, [])
    assert str(seen) == "Nothing is kept for backward."


def test_gradients_are_on_whatever_is_around() -> None:
    with torch.inference_mode():
        inside = torch.ones(4, 16)
        model = Mlp()
    model, x = Mlp(), torch.randn(4, 16)
    expected = fastact.saved(model, x)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert fastact.saved(model, x) == expected
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        fastact.saved(model, inside)


Pair = namedtuple("Pair", "first second")


@dataclass
class Result:
    states: list[Tensor]
    loss: Tensor | None = None


class Plain:
    def __init__(self, state: Tensor) -> None:
        self.state, self.itself = state, self


@pytest.mark.parametrize(
    "pack",
    [
        lambda a, b: (a, b),
        lambda a, b: [None, {"a": a, "more": (3, [b])}],
        Pair,
        lambda a, b: Result([a], b),
        lambda a, b: Pair(Plain(a), b),
    ],
)
def test_outputs_of_any_kind(pack: Callable[..., Any]) -> None:
    model = Of(lambda self, x: pack(self.a(x), self.b(x).tanh()), a=nn.Linear(16, 16), b=nn.Linear(16, 16))
    assert short(fastact.saved(model, torch.randn(4, 16))) == [
        ("a", "AddmmBackward0", "input", 256, None),
        ("b", "AddmmBackward0", "input", 0, 0),
        ("", "TanhBackward0", "its output", 256, None),
    ]


def test_what_is_in_no_output_has_no_node() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.kept = [self.a(x).tanh()]
        return self.b(x)

    model = Of(forward, a=nn.Linear(16, 16), b=nn.Linear(16, 16))
    assert short(fastact.saved(model, torch.randn(4, 16))) == [
        ("a", "", "input", 256, None),
        ("", "", "TanhBackward0", 256, None),
        ("b", "AddmmBackward0", "input", 0, 0),
    ]


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=needs_nodes)])
def test_in_place(own: bool) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU6(inplace=True), nn.Mish(inplace=True), nn.Linear(16, 16))
    with fastact.enable(only=["relu6", "mish"] if own else []) if libraries.HAS_NODES else torch.enable_grad():
        seen = fastact.saved(model, torch.randn(4, 16))
    name = "{}Backward" if own else "{}Backward0"
    assert short(seen) == [
        ("0", "AddmmBackward0", "input", 256, None),
        ("1", "ReLU6Backward", "", 8, None) if own else ("1", "HardtanhBackward0", "CloneBackward0", 256, None),
        ("2", name.format("Mish"), "CloneBackward0", 256, None),
        ("3", "AddmmBackward0", name.format("Mish"), 256, None),
    ]
    assert seen.torch_bytes == 4 * 256


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=needs_nodes)])
def test_in_place_on_views(own: bool) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :4].relu_()
        y[:, 4:8].mul_(y[:, 8:12].detach())
        y[:, 8:].sigmoid_()
        return y

    with fastact.enable(only=["relu"] if own else []) if libraries.HAS_NODES else torch.enable_grad():
        seen = fastact.saved(Of(forward, a=nn.Linear(16, 16)), torch.randn(4, 16))
    assert {row.node for row in seen.rows[1:]} == {"CopySlices"}
    # All are parts of y, but the mask.
    assert [row.bytes for row in seen.rows] == ([256, 2, 256, 0] if own else [256, 256, 0, 0])


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, None, x + 1)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def test_functions_of_users() -> None:
    model = Of(lambda self, x: Doubled.apply(self.a(x)), a=nn.Linear(16, 16))
    assert short(fastact.saved(model, torch.randn(4, 16))) == [
        ("a", "AddmmBackward0", "input", 256, None),
        ("", "DoubledBackward", "AddmmBackward0", 256, None),
        ("", "DoubledBackward", "", 256, None),
    ]


def test_gradients_within_forward() -> None:
    """Unpacking goes on meanwhile, and what that graph alone kept is gone afterwards."""

    def penalty(self: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(self.a(x).tanh().sum(), x, create_graph=True)
        torch.autograd.grad(self.a(x).exp().sum(), x)
        return first.square().sum()

    model, x = Of(penalty, a=nn.Linear(16, 16)), torch.randn(4, 16)
    seen, found = fastact.saved(model, x), []

    def pack(tensor: Tensor) -> Tensor:
        found.append(weakref.ref(kept := tensor.detach()))
        return kept

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    storages = {kept.untyped_storage() for kept in (each() for each in found) if kept is not None}
    weight = model.a.weight.untyped_storage()
    sizes = {each._cdata: each.nbytes() for each in storages if each._cdata != weight._cdata}
    assert output.requires_grad
    assert seen.bytes == sum(sizes.values())
    assert ("", "TanhBackwardBackward0") in {(row.layer, row.node) for row in seen.rows}


def test_tied_and_frozen_parameters() -> None:
    embed, head = nn.Embedding(10, 16), nn.Linear(16, 10, bias=False)
    head.weight = embed.weight
    seen = fastact.saved(nn.Sequential(embed, head), torch.tensor([[1, 2, 3]]))
    assert short(seen) == [
        ("0", "EmbeddingBackward0", "input", 3 * 8, None),
        ("1", "MmBackward0", "ViewBackward0", 3 * 64, None),
    ]
    assert seen.parameter_bytes == 4 * 10 * 16
    embed.requires_grad_(False)
    x = torch.randn(3, 16, requires_grad=True)
    assert (fastact.saved(head, x).bytes, fastact.saved(head, x).parameter_bytes) == (0, 640)


def test_autocast() -> None:
    """Casts of parameters are memory of their own, and are not kept in autocast's cache."""
    model, x = nn.Sequential(nn.Linear(16, 16), nn.GELU()), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = fastact.saved(model, x.requires_grad_())
        assert fastact.saved(model, x) == seen
    assert [(row.node, row.dtype, row.made_by, row.bytes) for row in seen.rows] == [
        ("AddmmBackward0", "bfloat16", "ToCopyBackward0", 128),
        ("AddmmBackward0", "bfloat16", "TBackward0", 512),
        ("GeluBackward0", "bfloat16", "AddmmBackward0", 128),
    ]


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model, x = Mlp(1024), torch.empty(1 << 16, 1024)
    seen, small = fastact.saved(model, x), fastact.saved(Mlp(), torch.randn(8, 16))
    assert [row.node for row in seen.rows] == [row.node for row in small.rows]
    assert seen.bytes == 4 * (1 << 16) * (10 * 1024 + 2)


def wrapped() -> tuple[Tensor, int]:
    return TwoHalves(torch.randn(4, 16), torch.randn(4, 16)), 2 * 256


class TwoHalves(Tensor):
    """A subclass of two tensors, whose sum it stands for."""

    @staticmethod
    def __new__(cls, a: Tensor, b: Tensor) -> TwoHalves:
        return Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype, device=a.device)

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> TwoHalves:
        return TwoHalves(**inner)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return return_and_correct_aliasing(func, args, kwargs or {}, cls(func(args[0].a), func(args[0].b)))
        args = [each.a + each.b if isinstance(each, cls) else each for each in args]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("call", "make", "bytes"),
    [
        (torch.sparse.mm, lambda: torch.eye(16).to_sparse(), 16 * (2 * 8 + 4)),
        (torch.sparse.mm, lambda: torch.eye(16).to_sparse_csr(), 17 * 8 + 16 * (2 * 8 + 4)),  # with the rows
        (torch.mm, lambda: TwoHalves(torch.randn(4, 16), torch.randn(4, 16)), 2 * 256),
        (F.linear, lambda: torch.nested.nested_tensor([torch.randn(3, 16), torch.randn(5, 16)]), 8 * 64),
    ],
)
def test_tensors_of_several_parts(call: Callable[..., Tensor], make: Callable[[], Tensor], bytes: int) -> None:
    model = Of(lambda self, x: call(x, self.a.weight), a=nn.Linear(16, 16))
    seen = fastact.saved(model, make())
    assert [(row.made_by, row.bytes) for row in seen.rows] == [("input", bytes)]


def test_a_module_of_another_model() -> None:
    """Its work counts for the module that calls it."""
    other = nn.Linear(16, 16)
    inner = Of(lambda self, x: other(x).tanh())
    assert [row.layer for row in fastact.saved(nn.Sequential(inner), torch.randn(4, 16)).rows] == ["0", "0"]


# Beside plain torch


@pytest.mark.nodes
@pytest.mark.parametrize("name", ["SwiGLU", "GEGLU", "ReGLU"])
def test_gated_units_beside_their_parts(name: str) -> None:
    gate = nn.Linear(16, 64)
    model = nn.Sequential(gate, getattr(fastact, name)(), nn.Linear(32, 16))
    seen = fastact.saved(model, torch.randn(4, 16))
    packed, half = 4 * 4 * 64, 4 * 4 * 32
    assert seen.bytes == 256 + packed + half
    # The packed input, the activation's output, and the product; ReLU keeps its output alone.
    assert seen.torch_bytes == 256 + packed + 2 * half
    assert seen.rows[1].made_by == "AddmmBackward0"


@pytest.mark.nodes
def test_functions_of_fastact_beside_torchs() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return fastact.functional.hardtanh(fastact.functional.relu(self.a(x), inplace=True))

    before = dict(vars(ops.run))
    seen = fastact.saved(Of(forward, a=nn.Linear(16, 16)), torch.randn(4, 16))
    assert (seen.bytes, seen.torch_bytes) == (256 + 8 + 8, 256 + 256)
    assert vars(ops.run) == before


# What is left as it was


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", None)
        self.body.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = x.detach()
        self.register_buffer("new", torch.ones(1))
        return F.dropout(self.body(x), training=self.training)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_state(training: bool, fails: bool) -> None:
    model, x = Stateful().train(training), torch.randn(2, 3, 8, 8)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss = model(x).sum()
    del model._buffers["new"]
    tensors = [*model.parameters(), *model.buffers(), *(each.grad for each in model.parameters())]
    before, values, numbers = dict(model.named_buffers()), state(model), torch.get_rng_state()
    versions = [each._version for each in tensors]
    if fails:
        model.body.last.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fastact.saved(model, x)
    else:
        fastact.saved(model, x)
    assert all(each is before[name] for name, each in model.named_buffers())
    assert before.keys() == dict(model.named_buffers()).keys()
    assert [each._version for each in tensors] == versions
    assert state(model).keys() == values.keys()
    assert all(torch.equal(values[name], each) for name, each in state(model).items())
    assert all((each.grad == 1).all() for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert model.training == training
    loss.backward()  # of a graph that is older


def test_inputs_that_the_model_writes_over() -> None:
    x = torch.randn(2, 3, 8, 8)
    values = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3))
    fastact.saved(model, x)
    assert torch.equal(x, values)


@pytest.mark.parametrize("enabled", [False, pytest.param(True, marks=needs_nodes)])
def test_nothing_stays(enabled: bool) -> None:
    model = nn.Sequential(Stateful(), fastact.convert(Stateful()), Wide(nn.SiLU(inplace=True)), Mlp(28))
    model[1].body[0], model[2].first = nn.Conv2d(5, 4, 3), nn.Conv2d(5, 32, 1)
    x = torch.randn(2, 3, 36, 36)
    with fastact.enable() if enabled else torch.enable_grad():
        assert bytes_left_by(partial(fastact.saved, model, x)) == 0
        seen = weakref.ref(model[0].body[0]), weakref.ref(x)
        gc.disable()
        try:
            found = fastact.saved(model, x)
            del model, x
            assert [each() for each in seen] == [None, None]
        finally:
            gc.enable()
    assert found.recompute_bytes is None or found.recompute_bytes < found.bytes


def test_a_model_is_needed() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        fastact.saved(lambda x: x, torch.randn(3))


def test_arguments_by_name() -> None:
    model = Of(lambda self, x, model, scale=1.0: self.a(x) * model * scale, a=nn.Linear(16, 16))
    seen = fastact.saved(model, torch.randn(4, 16), model=torch.randn(4, 1), scale=2)
    assert [(row.node, row.made_by, row.bytes) for row in seen.rows] == [
        ("AddmmBackward0", "input", 256),
        ("MulBackward0", "input", 16),
    ]


# Under recompute


class Wide(nn.Module):
    """Large enough for recompute: 128 KiB a map."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.act = activation
        self.last = nn.Conv2d(32, 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.first(x))))


WIDE_IMAGES, WIDE_MAPS = 4 * 3 * 32 * 32, 4 * 32 * 32 * 32


@needs_nodes
def test_recompute() -> None:
    model, x = Wide(nn.SiLU()), torch.randn(1, 3, 32, 32)
    with fastact.enable():
        seen = fastact.saved(model, x)
    assert [(row.layer, row.bytes, row.recompute_bytes, row.remade, row.remade_from) for row in seen.rows] == [
        ("first", WIDE_IMAGES, WIDE_IMAGES, "", ()),
        ("norm", WIDE_MAPS, WIDE_MAPS, "", ()),
        ("norm", 128, 128, "", ()),
        ("norm", 128, 128, "", ()),
        ("act", WIDE_MAPS, 0, "native_batch_norm", ("norm",)),
        ("last", WIDE_MAPS, 0, "silu after native_batch_norm", ("norm",)),
    ]
    assert seen.bytes == seen.torch_bytes == WIDE_IMAGES + 3 * WIDE_MAPS + 256
    assert seen.recompute_bytes == WIDE_IMAGES + WIDE_MAPS + 256
    assert seen.layers == [
        Layer("first", WIDE_IMAGES, WIDE_IMAGES),
        Layer("norm", WIDE_MAPS + 256, WIDE_MAPS + 256),
        Layer("act", WIDE_MAPS, 0),
        Layer("last", WIDE_MAPS, 0),
    ]


@needs_nodes
def test_recompute_of_dropout_keeps_bits() -> None:
    seen = fastact.saved(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)), torch.randn(128, 64))
    row = seen.rows[1]
    assert (row.node, row.bytes, row.recompute_bytes) == (
        "MulBackward0",
        4 * 128 * 64,
        128 * 64 // 8 + 4,
    )  # and what a kept element is multiplied by
    assert (row.remade, row.remade_from) == ("unpacking bits", ())


@needs_nodes
def test_recompute_drops_masks() -> None:
    """That of a ReLU whose output the next layer keeps as it is, since nothing keeps its input."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    with fastact.enable():
        seen = fastact.saved(model, torch.randn(128, 64))
    values = 4 * 128 * 64
    assert [(row.node, row.bytes, row.recompute_bytes, row.remade) for row in seen.rows] == [
        ("AddmmBackward0", values, values, ""),
        ("ReLUBackward", values // 32, 0, ""),
        ("AddmmBackward0", values, values, ""),
    ]
    assert (seen.bytes, seen.torch_bytes, seen.recompute_bytes) == (2 * values + values // 32, 2 * values, 2 * values)
    assert str(seen).count("not kept under recompute") == 1


@needs_nodes
@pytest.mark.parametrize("where", ["model", "enable", "convert"])
def test_a_model_that_recomputes_already(where: str) -> None:
    x = torch.randn(1, 3, 32, 32)
    with fastact.enable():
        expected = fastact.saved(Wide(nn.SiLU(inplace=True)), x)
    model = Wide(nn.SiLU(inplace=True))
    if where == "model":
        model.forward = fastact.recompute()(model.forward)
    if where == "convert":
        fastact.convert(model, recompute=True)
    with fastact.enable(recompute=where == "enable"):
        seen = fastact.saved(model, x)
    numbers = (expected.bytes, expected.torch_bytes, expected.recompute_bytes)
    assert (seen.bytes, seen.torch_bytes, seen.recompute_bytes) == numbers
    if where == "convert":
        kept = []
        with saved_tensors_hooks(lambda x: kept.append(x.detach()), lambda x: x), pytest.warns(RuntimeWarning):
            model(x)  # its own block is still there


@needs_nodes
def test_within_recompute() -> None:
    with fastact.recompute(), pytest.raises(RuntimeError, match=r"outside of one"):
        fastact.saved(Mlp(), torch.randn(4, 16))


# Beside what the allocator says


def residual(self: Any, x: Tensor) -> Tensor:
    x = self.body(x)
    gate = self.act(x.mean((2, 3), keepdim=True))
    return F.dropout(x * gate, 0.1) + x


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(Mlp(64), Mlp(64)), (128, 64)),
        (lambda: nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 256), fastact.SwiGLU(), nn.Dropout(0.2)), (128, 64)),
        (lambda: Wide(nn.ReLU(inplace=True)), (1, 3, 32, 32)),
        (lambda: Wide(nn.SiLU(inplace=True)), (1, 3, 32, 32)),
        (lambda: Wide(nn.Hardswish()), (1, 3, 32, 32)),
        (lambda: Of(residual, body=Wide(nn.LeakyReLU(inplace=True)), act=nn.Hardsigmoid()), (4, 3, 64, 64)),
        (lambda: nn.TransformerEncoderLayer(64, 2, 128, batch_first=True, activation="gelu"), (4, 32, 64)),
    ],
)
@pytest.mark.parametrize("way", ["torch", "enabled", "recompute"])
def test_bytes_that_stay_allocated(make: Callable[[], nn.Module], shape: tuple[int, ...], way: str) -> None:
    if way != "torch" and not libraries.HAS_NODES:
        pytest.skip("torch's ops are replaced in C++")
    model, x = make(), torch.randn(shape)
    kept: list[Tensor] = []

    def use() -> None:
        with fastact.recompute() if way == "recompute" else torch.enable_grad():
            kept.append(model(x))

    with fastact.enable() if way != "torch" else torch.enable_grad():
        seen = fastact.saved(model, x)
        left = bytes_left_by(use)
    counted = seen.recompute_bytes if way == "recompute" else seen.bytes
    inputs = sum(row.bytes for row in seen.rows if row.made_by == "input")  # which are there before
    assert left == counted - inputs + kept[0].nbytes


# How it is shown


def test_as_text() -> None:
    seen = fastact.saved(nn.Sequential(Mlp(), Mlp()), torch.randn(8, 16))
    recompute = seen.recompute_bytes is not None
    header, rule, *rows, _, totals, beside = str(seen).splitlines()
    assert (
        header.split()
        == ["layer", "node", "shape", "dtype", "made", "by", "count", "kept", "recompute"][: 8 + recompute]
    )
    assert set(rule) == {"-", " "}
    assert rows[0].split()[:7] == ["0.norm", "NativeLayerNormBackward0", "8", "x", "16", "float32", "input"]
    (gelu,) = [row for row in rows if "GeluBackward0  " in row and "*.act" in row]
    assert re.search(r"AddmmBackward0 +2 +4\.0 KiB", gelu)
    assert not any("(smaller)" in row for row in rows)
    assert totals.startswith("10.1 KiB kept for backward, 10.1 KiB by torch alone")
    assert beside.startswith("Beside them parameters and buffers, 16.2 KiB")


def test_little_ones_share_a_line() -> None:
    rows = [
        Kept("a", "SumBackward0", (9,), "int64", "", 10000, None, "", (), 10000),
        Kept("b.0", "MulBackward0", (1,), "float32", "", 40, None, "", (), 8),
        Kept("b.0", "ExpBackward0", (1,), "float32", "", 9, None, "", (), 9),
        Kept("c", "MulBackward0", (9,), "int64", "", 0, 0, "", (), 0),
        Kept("c", "MulBackward0", (1,), "float32", "", 0, 1, "", (), 0),
        Kept("d", "MulBackward0", (1,), "float32", "input", 50, None, "", (), 50),
    ]
    text = str(Saved(tuple(rows), 10099, 1 << 20, 10067, 3 << 30))
    lines = [re.split("  +", line) for line in text.splitlines()[2:]]
    assert lines == [
        ["a", "SumBackward0", "9", "int64", "1", "9.8 KiB", "9.8 KiB"],
        ["c", "MulBackward0", "9", "int64", "1", "0 B", "0 B", "kept by a SumBackward0"],
        ["(smaller)", "4", "99 B", "67 B"],
        [""],
        ["9.9 KiB kept for backward, 1.0 MiB by torch alone, 9.8 KiB under fastact.recompute()."],
        ["Beside them parameters and buffers, 3.0 GiB, which are there anyway."],
    ]


def test_as_json() -> None:
    seen = fastact.saved(convolutions(), torch.randn(2, 3, 8, 8))
    found = json.loads(json.dumps(seen.to_dict()))
    assert found["bytes"] == seen.bytes
    assert Kept(**{**found["rows"][0], "shape": (2, 3, 8, 8), "remade_from": ()}) == seen.rows[0]


def test_as_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), save(self, path)))
    rows = [
        Kept(name, "AddmmBackward0", (1,), "float32", "", 8 << 20, None, "gelu" * remade, (), (8 << 20) * (1 - remade))
        for name, remade in (("b.0.fc1", 0), ("b.0.fc2", 1), ("b.1.fc1", 0), ("b.1.fc2", 1), ("head", 0))
    ]
    small = Kept("tail", "AddmmBackward0", (1,), "float32", "", 9, None, "", (), 9)
    seen = Saved((*rows, small), 40 << 20, 48 << 20, 24 << 20, 0)
    seen.plot(tmp_path / "kept.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b.*.fc1", "b.*.fc2", "head", "(1 others)"]
    kept, again = ([round(bar.get_width(), 1) for bar in bars] for bars in axes.containers)
    assert (kept, again) == ([16, 0, 8, 0], [0, 16, 0, 0])
    assert axes.get_title("left") == "torch 48.0 MiB   fastact 40.0 MiB   with recompute 24.0 MiB"
    assert (tmp_path / "kept.png").stat().st_size > 1000


def test_scripted_modules() -> None:
    """Their buffers are in no dict."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    x = torch.randn(2, 3, 8, 8)
    for model in (torch.jit.script(layers), nn.Sequential(torch.jit.trace(layers, x))):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        assert fastact.saved(model, x).bytes > 0
        after = dict(model.named_buffers())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
