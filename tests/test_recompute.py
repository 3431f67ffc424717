"""`fastact.recompute`: what backward makes again is bit for bit what forward made, and nothing is kept that can be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, DEFAULTS, Case
from recomputed import Act, Net, both, kept, recompute, same, seed, step
from torch import Tensor, nn

import fastact

if os.environ.get("FASTACT_NODES") == "python":
    pytest.skip("needs the autograd nodes in C++", allow_module_level=True)


@pytest.fixture(autouse=True)
def _disabled_afterwards() -> Iterator[None]:
    yield
    fastact.disable()


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"torch": nullcontext, "enabled": fastact.enable}


def check(build: Callable[[], nn.Module], *inputs: Tensor, less: bool | None = None) -> None:
    """Assert that `recompute` changes no result, with torch's ops and with fastact's in their place, and that it never
    keeps more: than without it, and than torch; with fastact's ops `less`, if that is known."""
    kept_before = []
    for setting, around in SETTINGS.items():
        with around():
            same(step(build, *inputs, around=recompute), step(build, *inputs))
            kept_before.append(kept(build, *inputs))
            now = kept(build, *inputs, around=recompute)
        assert now <= min(kept_before), (setting, now, kept_before)
    if less is not None:
        assert (now < kept_before[0]) == less, (now, kept_before)


# Every activation.


def mask_bytes(n: int) -> int:
    return (n + 7) // 8


OUTPUT_IN_PLACE_OF_MASK = ("relu", "relu6", "hardtanh", "leaky_relu")
"""Whose mask follows from the output: it is not kept beside an output that is."""
ROWS, WIDTH = 16, 24


def act_of(case: Case) -> Act:
    weights = case.weights(case.randn(2, WIDTH))
    return Act(case.fastact, *weights)


def stock_act_of(case: Case) -> Act:
    return Act(case.stock, *case.weights(case.randn(2, WIDTH)))


def linear_act_linear(case: Case, act: Callable[[Case], nn.Module] = act_of) -> nn.Module:
    return nn.Sequential(nn.Linear(8, WIDTH * case.divisor), act(case), nn.Linear(WIDTH, 5))


def kept_by_act_itself(case: Case, n: int) -> int:
    """Beside input and output."""
    if case.activation.saved == "indices":
        return n
    if case.activation.saved == "mask":
        return mask_bytes(n) + (8 if case.activation.random else 0)
    return 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_activation_linear(case: Case) -> None:
    x = torch.randn(ROWS, 8)
    build, stock = partial(linear_act_linear, case), partial(linear_act_linear, case, stock_act_of)
    same(step(build, x, around=recompute), step(build, x))
    elements = ROWS * WIDTH
    expected = 4 * ROWS * 5 + 4 * elements  # the result, and one of input and output
    if case.activation.saved == "input":
        expected += 4 * elements * (case.divisor - 1)
    elif not (case.activation.name in OUTPUT_IN_PLACE_OF_MASK and case.sample.get("negative_slope", 1) > 0):
        expected += kept_by_act_itself(case, elements)
    assert kept(build, x, around=recompute) == expected
    assert expected <= kept(stock, x)


def conv_norm_act_conv(case: Case, act: Callable[[Case], nn.Module]) -> nn.Module:
    channels = 6
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, bias=False),
        nn.BatchNorm2d(channels),
        act(case),
        nn.Conv2d(channels // case.divisor, 4, 3),
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_convolution_norm_activation_convolution(case: Case, training: bool) -> None:
    x = torch.randn(2, 3, 8, 8)
    if case.activation.kind == "softmax":
        case = Case(case.activation, {**case.sample, "dim": 1})
    more = {} if case.activation.pointwise or case.activation.kind == "softmax" else {"dim": 1}
    weights = [each[:1] for each in case.weights(x)]

    def build(function: Callable[..., Tensor]) -> nn.Module:
        model = conv_norm_act_conv(case, lambda case: Act(lambda *tensors: function(*tensors, **more), *weights))
        return model.train(training)

    ours, stock = partial(build, case.fastact), partial(build, case.stock)
    same(step(ours, x, around=recompute), step(ours, x))
    elements = 2 * 6 * 6 * 6  # of the first convolution
    result, statistics = 4 * 2 * 4 * 4 * 4, (2 * 4 * 6 if training else 0)
    expected = 4 * elements + result + statistics + kept_by_act_itself(case, elements // case.divisor)
    assert kept(ours, x, around=recompute) == expected
    assert expected <= kept(stock, x)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_torchs_modules_enabled(case: Case) -> None:
    if case.activation.stock is None:
        return

    def build() -> nn.Module:
        act = case.activation.stock(**case.activation.arguments())
        return nn.Sequential(nn.Linear(8, WIDTH * case.divisor), act, nn.Linear(WIDTH, 5))

    check(build, torch.randn(ROWS, 8))
    check(build, torch.randn(ROWS, 8, requires_grad=True))


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.inplace], ids=str)
def test_in_place(case: Case) -> None:
    """Where torch keeps a copy of the input, the output is made of it again."""

    def build(function: Callable[..., Tensor], norm: bool = False) -> nn.Module:
        between = [nn.BatchNorm1d(WIDTH)] if norm else []
        return nn.Sequential(nn.Linear(8, WIDTH), *between, Act(partial(function, inplace=True)), nn.Linear(WIDTH, 5))

    x = torch.randn(ROWS, 8)
    for norm in (False, True):
        ours, stock = partial(build, case.fastact, norm), partial(build, case.stock, norm)
        same(step(ours, x, around=recompute), step(ours, x))
        assert kept(ours, x, around=recompute) <= kept(stock, x)
    elements, result = ROWS * WIDTH, 4 * ROWS * 5
    expected = result + 4 * elements
    if case.activation.saved == "mask" and case.activation.name not in OUTPUT_IN_PLACE_OF_MASK:
        expected += kept_by_act_itself(case, elements)
    assert kept(partial(build, case.fastact), x, around=recompute) == expected


@pytest.mark.parametrize("second", ["gelu", "elu", "relu", "leaky_relu", "softmax", "dropout", "snake"])
@pytest.mark.parametrize("first", ["silu", "tanh", "relu6", "hardshrink", "log_softmax", "dropout", "swiglu", "rrelu"])
def test_activation_of_activation(first: str, second: str) -> None:
    by_name = {case.activation.name: case for case in DEFAULTS}

    def act(name: str) -> nn.Module:
        return nn.Dropout(0.3) if name == "dropout" else act_of(by_name[name])

    def build() -> nn.Module:
        wide = 2 * WIDTH if first == "swiglu" else WIDTH
        return nn.Sequential(nn.Linear(8, wide), act(first), act(second), nn.Tanhshrink(), nn.Linear(WIDTH, 5))

    check(build, torch.randn(ROWS, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_dtypes(case: Case, dtype: torch.dtype) -> None:
    def build() -> nn.Module:
        return nn.Sequential(linear_act_linear(case), nn.Dropout(0.25), nn.LayerNorm(5), nn.Linear(5, 3)).to(dtype)

    x = torch.randn(ROWS, 8, dtype=dtype)
    same(step(build, x, around=recompute), step(build, x))
    assert kept(build, x, around=recompute) < kept(build, x)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_autocast(case: Case) -> None:
    def build() -> nn.Module:
        return nn.Sequential(linear_act_linear(case), nn.LayerNorm(5), nn.Linear(5, 3))

    def forward(*around: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
        return partial(both, lambda: torch.autocast("cpu", torch.bfloat16), *around)

    x = torch.randn(ROWS, 8)
    same(step(build, x, around=forward(recompute)), step(build, x, around=forward(nullcontext)))
    assert kept(build, x, around=forward(recompute)) < kept(build, x, around=forward(nullcontext))


@pytest.mark.parametrize("function", ["gelu", "relu", "sigmoid", "hardshrink"])
def test_bias_act(function: str) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.first(x)
        y = fastact.functional.bias_act(h, m.bias, None, function)
        z = fastact.functional.bias_act(m.second(y), m.bias, h, function)
        return m.last(z)

    def build() -> nn.Module:
        layers = {"first": nn.Linear(8, WIDTH), "second": nn.Linear(WIDTH, WIDTH), "last": nn.Linear(WIDTH, 5)}
        return Net(forward, bias=nn.Parameter(torch.randn(WIDTH)), **layers)

    x = torch.randn(ROWS, 8)
    same(step(build, x, around=recompute), step(build, x))
    before, now = kept(build, x), kept(build, x, around=recompute)
    assert now <= before if function in ("relu", "hardshrink") else now < before  # masks are small already


# Normalisations.


def linear_norm(norm: Callable[[], nn.Module], *shape: int) -> nn.Module:
    """Between a convolution, of the shape's dimensions, and an activation before another."""
    layer = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    first, last = (layer(shape[1], shape[1], *([1] if len(shape) > 2 else [])) for _ in range(2))
    return nn.Sequential(first, norm(), nn.SiLU(), last)


SHAPES = {2: (8, 6), 3: (4, 6, 10), 4: (3, 6, 5, 4), 5: (2, 6, 3, 4, 2)}
BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
WITHOUT: dict[str, dict[str, Any]] = {
    "with all": {},
    "without affine": {"affine": False},
    "without statistics": {"track_running_stats": False},
    "without either": {"affine": False, "track_running_stats": False},
    "cumulative": {"momentum": None},
    "eps": {"eps": 0.1, "momentum": 0.9},
}


def ready(norm: nn.Module) -> nn.Module:
    """With other weights and statistics than those it begins with."""
    with torch.no_grad():
        for each in norm.parameters():
            each.copy_(torch.linspace(0.4, 1.7, each.numel()).view(each.shape))
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.copy_(torch.linspace(-1, 1, norm.running_mean.numel()))
            norm.running_var.copy_(torch.linspace(0.5, 2, norm.running_var.numel()))
    return norm


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("arguments", WITHOUT.values(), ids=WITHOUT.keys())
@pytest.mark.parametrize("dims", BATCH_NORMS)
def test_batch_norms(dims: int, arguments: dict[str, Any], training: bool) -> None:
    shape = SHAPES[dims]

    def build() -> nn.Module:
        return linear_norm(lambda: ready(BATCH_NORMS[dims](6, **arguments)), *shape).train(training)

    check(build, torch.randn(shape), less=True)
    if dims in CHANNELS_LAST:
        x = torch.randn(shape).to(memory_format=CHANNELS_LAST[dims])
        check(lambda: build().to(memory_format=CHANNELS_LAST[dims]), x, less=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dims", INSTANCE_NORMS)
def test_instance_norms(dims: int, affine: bool, tracks: bool, training: bool) -> None:
    def build() -> nn.Module:
        norm = ready(INSTANCE_NORMS[dims](6, affine=affine, track_running_stats=tracks))
        return linear_norm(lambda: norm, *SHAPES[dims]).train(training)

    check(build, torch.randn(SHAPES[dims]))
    if dims in CHANNELS_LAST:
        check(build, torch.randn(SHAPES[dims]).to(memory_format=CHANNELS_LAST[dims]))


ROW_NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(6),
    "layer without weights": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "layer without bias": lambda: nn.LayerNorm(6, bias=False),
    "layer of two dimensions": lambda: nn.LayerNorm((3, 6), eps=0.01),
    "rms": lambda: nn.RMSNorm(6),
    "rms with eps": lambda: nn.RMSNorm(6, eps=0.1),
    "rms without weights": lambda: nn.RMSNorm(6, elementwise_affine=False),
    "rms of two dimensions": lambda: nn.RMSNorm((3, 6)),
    "layer function": lambda: Act(lambda x: F.layer_norm(x, (6,))),
    "rms function": lambda: Act(lambda x: F.rms_norm(x, (6,))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ROW_NORMS)
def test_row_norms(name: str, dtype: torch.dtype) -> None:
    def build() -> nn.Module:
        layers = nn.Linear(6, 6), ready(ROW_NORMS[name]()), nn.GELU(), nn.Linear(6, 6), nn.Linear(6, 2)
        return nn.Sequential(*layers[:2], *layers[3:4], ready(ROW_NORMS[name]()), *layers[2:3], layers[4]).to(dtype)

    check(build, torch.randn(4, 3, 6, dtype=dtype), less=True)
    check(build, torch.randn(4, 3, 6, dtype=dtype, requires_grad=True), less=True)


GROUP_NORMS: dict[str, Callable[[], nn.Module]] = {
    "two": lambda: nn.GroupNorm(2, 6),
    "one": lambda: nn.GroupNorm(1, 6),
    "each": lambda: nn.GroupNorm(6, 6, affine=False),
    "function": lambda: Act(lambda x: F.group_norm(x, 3)),
}


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", GROUP_NORMS)
def test_group_norms(name: str, dims: int) -> None:
    def build() -> nn.Module:
        return linear_norm(lambda: ready(GROUP_NORMS[name]()), *SHAPES[dims])

    check(build, torch.randn(SHAPES[dims]), less=dims > 2 or None)
    if dims == 4:
        check(build, torch.randn(SHAPES[dims]).to(memory_format=torch.channels_last), less=True)


def test_batch_norm_of_16_bit_inputs_with_weights_in_float32() -> None:
    def build() -> nn.Module:
        model = linear_norm(lambda: ready(nn.BatchNorm2d(6)), *SHAPES[4]).bfloat16()
        model[1].float()
        return model

    check(build, torch.randn(SHAPES[4], dtype=torch.bfloat16), less=True)


@pytest.mark.parametrize("kind", ["layer", "batch", "group"])
def test_norms_of_what_is_no_number(kind: str) -> None:
    """NaN and infinity come out where they came out."""
    norms = {"layer": lambda: nn.LayerNorm(6), "batch": lambda: nn.BatchNorm1d(6), "group": lambda: nn.GroupNorm(2, 6)}
    x = torch.randn(8, 6)
    x[1, 2], x[3, 4], x[5] = math.nan, math.inf, 0
    check(lambda: nn.Sequential(nn.Identity(), norms[kind](), nn.ReLU(), nn.Linear(6, 2)), x.requires_grad_())


def test_batch_norm_of_large_and_constant_channels() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1))

    scale = torch.tensor([1e-30, 1e4, 1e15, 0.0]).view(4, 1, 1)
    check(build, (torch.randn(3, 4, 5, 5) * scale + torch.tensor([0, 1e4, 0, 3.0]).view(4, 1, 1)).requires_grad_())


# Blocks that models are made of: (network, input, whether less is kept than by torch).


def linears(*widths: int) -> dict[str, nn.Module]:
    return {f"l{i}": nn.Linear(a, b) for i, (a, b) in enumerate(pairwise(widths))}


def residual(m: Any, x: Tensor) -> Tensor:
    y = m.n1(m.c1(x)).relu_()
    y = m.n2(m.c2(y))
    y += x
    return m.c3(F.relu_(y))


def residual_network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    convs = {f"c{i}": nn.Conv2d(6, 6, 3, padding=1, bias=False) for i in (1, 2, 3)}
    return Net(residual, n1=norm(6), n2=norm(6), **convs)


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.n(m.c1(x)), inplace=True)
    gate = m.s2(F.silu(m.s1(y.mean((2, 3), keepdim=True)))).sigmoid()
    return m.c2(y * gate)


def squeeze_excite_network() -> nn.Module:
    convs = {"c1": nn.Conv2d(6, 6, 3), "s1": nn.Conv2d(6, 2, 1), "s2": nn.Conv2d(2, 6, 1), "c2": nn.Conv2d(6, 4, 1)}
    return Net(squeeze_excite, n=nn.BatchNorm2d(6), **convs)


def attention(m: Any, x: Tensor, scores: Callable[[Tensor], Tensor] = lambda x: x, p: float = 0.2) -> Tensor:
    q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in m.qkv(m.norm(x)).chunk(3, -1))
    weights = F.dropout(F.softmax(scores(q @ k.mT * 0.5), -1), p, m.training)
    return x + F.dropout(m.out((weights @ v).transpose(1, 2).flatten(2)), p, m.training)


def fused_attention(m: Any, x: Tensor, **more: Any) -> Tensor:
    q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in m.qkv(m.norm(x)).chunk(3, -1))
    return x + m.out(F.scaled_dot_product_attention(q, k, v, **more).transpose(1, 2).reshape(x.shape))


def attention_network(forward: Callable[..., Tensor]) -> nn.Module:
    return Net(forward, norm=nn.LayerNorm(8), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))


def mlp_block(m: Any, x: Tensor, act: Callable[..., Tensor]) -> Tensor:
    return x + m.scale * F.dropout(m.l1(act(m.l0(m.norm(x)))), 0.1)


def mlp_block_network(act: Callable[..., Tensor] = F.gelu) -> nn.Module:
    return Net(
        partial(mlp_block, act=act),
        norm=nn.LayerNorm(8),
        scale=nn.Parameter(torch.full((8,), 0.1)),
        **linears(8, 32, 8),
    )


def gated(m: Any, x: Tensor, act: Callable[..., Tensor], norm: bool = True) -> Tensor:
    h = m.norm(x) if norm else x
    return x + m.down(act(m.gate(h)) * m.up(h))


def gated_network(act: Callable[..., Tensor] = F.silu) -> nn.Module:
    layers = {"gate": nn.Linear(8, 16), "up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}
    return Net(partial(gated, act=act), norm=nn.RMSNorm(8), **layers)


def convnext(m: Any, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x).permute(0, 2, 3, 1))
    return x + (m.gamma * m.l1(F.gelu(m.l0(y)))).permute(0, 3, 1, 2)


def convnext_network() -> nn.Module:
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    return Net(convnext, conv=conv, norm=nn.LayerNorm(6), gamma=nn.Parameter(torch.rand(6)), **linears(6, 24, 6))


def dense(m: Any, x: Tensor) -> Tensor:
    y = m.c1(F.relu(m.n1(x)))
    x = torch.cat([x, y], 1)
    return torch.cat([x, m.c2(F.relu(m.n2(x)))], 1)


def dense_network() -> nn.Module:
    norms = {"n1": nn.BatchNorm2d(6), "n2": nn.BatchNorm2d(10)}
    return Net(dense, c1=nn.Conv2d(6, 4, 3, padding=1), c2=nn.Conv2d(10, 4, 3, padding=1), **norms)


def shifted_windows(m: Any, x: Tensor) -> Tensor:
    y = m.norm(x).unflatten(1, (4, 4)).roll((-1, -1), (1, 2))
    y = y.unflatten(2, (2, 2)).unflatten(1, (2, 2)).transpose(2, 3).reshape(-1, 4, 8)
    y = attention(m.attention, y).unflatten(0, (-1, 2, 2)).unflatten(3, (2, 2)).transpose(2, 3).flatten(1, 4)
    return m.last(F.gelu(x + y))


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool | None]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), (16, 8), True),
    "mlp with dropout": (
        lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 8), nn.Dropout(0.2)),
        (16, 8),
        True,
    ),
    "mlp block": (mlp_block_network, (4, 5, 8), True),
    "mlp block with ReLU": (partial(mlp_block_network, F.relu), (4, 5, 8), True),
    "gated mlp": (gated_network, (4, 5, 8), True),
    "gated mlp of tanh": (partial(gated_network, torch.tanh), (4, 5, 8), True),
    "residual": (residual_network, (2, 6, 7, 7), True),
    "residual with group norm": (partial(residual_network, lambda n: nn.GroupNorm(2, n)), (2, 6, 7, 7), True),
    "squeeze and excite": (squeeze_excite_network, (2, 6, 7, 7), True),
    "attention": (lambda: attention_network(attention), (3, 5, 8), True),
    "attention with ReLU": (lambda: attention_network(partial(attention, scores=F.relu)), (3, 5, 8), True),
    "fused attention": (lambda: attention_network(fused_attention), (3, 5, 8), True),
    "causal attention": (lambda: attention_network(partial(fused_attention, is_causal=True)), (3, 5, 8), True),
    "fused attention with dropout": (
        lambda: attention_network(partial(fused_attention, dropout_p=0.3)),
        (3, 5, 8),
        True,
    ),
    "convnext": (convnext_network, (2, 6, 7, 7), True),
    "dense": (dense_network, (2, 6, 7, 7), True),
    "shifted windows": (
        lambda: Net(
            shifted_windows, norm=nn.LayerNorm(8), attention=attention_network(attention), last=nn.Linear(8, 3)
        ),
        (2, 16, 8),
        True,
    ),
    "multihead attention": (
        lambda: Net(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, 0.1, batch_first=True)),
        (3, 5, 8),
        None,
    ),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, 0.1, F.gelu, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        ),
        (3, 5, 8),
        True,
    ),
    "transformer, norms last": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True),
        (3, 5, 8),
        True,
    ),
    "lstm": (lambda: Net(lambda m, x: m.l0(F.relu(m.r(x)[0])), r=nn.LSTM(8, 6), **linears(6, 3)), (4, 3, 8), None),
    "gru cell": (
        lambda: Net(lambda m, x: F.silu(m.r(x, m.r(x))), r=nn.GRUCell(8, 8)),
        (4, 8),
        None,
    ),
}


@pytest.mark.parametrize("grad", [False, True], ids=["", "input needs a gradient"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, grad: bool) -> None:
    build, shape, less = BLOCKS[name]
    check(build, torch.randn(shape, requires_grad=grad), less=less)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_in_evaluation(name: str) -> None:
    build, shape, _ = BLOCKS[name]
    check(lambda: build().eval(), torch.randn(shape))


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "lstm"])
def test_blocks_in_other_dtypes(name: str) -> None:
    build, shape, _ = BLOCKS[name]
    for dtype in (torch.float64, torch.bfloat16):
        check(lambda dtype=dtype: build().to(dtype), torch.randn(shape, dtype=dtype, requires_grad=True))


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "lstm"])  # oneDNN has no such one
def test_blocks_under_autocast(name: str) -> None:
    """The casts that autocast makes are made again too."""
    build, shape, less = BLOCKS[name]

    def cast(model: nn.Module) -> nn.Module:
        def forward(m: Any, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return m.model(x)

        return Net(forward, model=model)

    check(lambda: cast(build()), torch.randn(shape), less=less)
    check(lambda: cast(build()), torch.randn(shape, requires_grad=True), less=less)


@pytest.mark.parametrize("name", [name for name, (_, shape, _) in BLOCKS.items() if len(shape) == 4])
def test_blocks_in_channels_last(name: str) -> None:
    build, shape, less = BLOCKS[name]
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    check(lambda: build().to(memory_format=torch.channels_last), x.requires_grad_(), less=less)


# To the byte.


def test_bytes_of_an_mlp_with_dropout() -> None:
    build, shape, _ = BLOCKS["mlp"]
    n, result = 16 * 32, 4 * 16 * 8
    with fastact.enable():
        assert kept(build, torch.randn(shape)) == 4 * 2 * n + result
        assert kept(build, torch.randn(shape), around=recompute) == 4 * n + result

    def dropped() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 8))

    with fastact.enable():
        expected = 4 * n + mask_bytes(n) + 4 + result  # 4: what dropout multiplies by
        assert kept(dropped, torch.randn(shape), around=recompute) == expected


def test_bytes_of_a_gated_mlp() -> None:
    """The gate's and the other projection's output, and of the norm a number a row."""
    x = torch.randn(4, 5, 8, requires_grad=True)
    with fastact.enable():
        assert kept(gated_network, x, around=recompute) == 4 * (2 * 4 * 5 * 16 + 4 * 5 + 4 * 5 * 8)


def test_bytes_of_a_residual_block() -> None:
    """The convolutions' outputs, with two numbers a channel and a bit for each of two ReLUs: neither norms nor sums."""
    build, shape, _ = BLOCKS["residual"]
    n = math.prod(shape)
    with fastact.enable():
        assert kept(build, torch.randn(shape), around=recompute) == 3 * 4 * n + 2 * (2 * 4 * 6) + 2 * mask_bytes(n)


def test_bytes_of_attention() -> None:
    """Queries, keys, values, weights and a bit for each, the result: neither scores nor dropped weights."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.l0(x), m.l1(x), m.l2(x)
        return F.dropout(F.softmax(q @ k.mT * 0.5, -1), 0.2) @ v

    def build() -> nn.Module:
        return Net(forward, l0=nn.Linear(8, 6), l1=nn.Linear(8, 6), l2=nn.Linear(8, 6))

    weights, rows = 3 * 7 * 7, 4 * 3 * 7 * 6
    with fastact.enable():
        assert (
            kept(build, torch.randn(3, 7, 8), around=recompute) == 4 * rows + 4 * weights + mask_bytes(weights) + 4 + 8
        )  # the factors


def test_bytes_under_autocast() -> None:
    """Of the network's own input the 16-bit copy, of the first layer its result: no weights, no output."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.model(x)

    def build() -> nn.Module:
        return Net(forward, model=BLOCKS["mlp"][0]())

    with fastact.enable():
        assert kept(build, torch.randn(16, 8), around=recompute) == 2 * (16 * 8 + 16 * 32 + 16 * 8)


def test_bytes_of_normalised_layers() -> None:
    """Of linear, norm, linear the norm's input and two numbers a row."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 24), nn.LayerNorm(24), nn.Linear(24, 5))

    assert kept(build, torch.randn(16, 8), around=recompute) == 4 * (16 * 24 + 2 * 16 + 16 * 5)


# Views.


def views_of(view: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = F.gelu(m.l0(x))
        seen = view(y)
        return (seen * seen, seen.exp(), seen.matmul(seen.mT), y.sigmoid() * y)

    return lambda: Net(forward, **linears(8, 24))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "transposed": lambda x: x.mT,
    "permuted": lambda x: x.permute(2, 0, 1),
    "reshaped": lambda x: x.view(6, -1, 4),
    "unflattened": lambda x: x.unflatten(-1, (3, 8)),
    "chunk": lambda x: x.chunk(2, -1)[1],
    "chunk in front": lambda x: x.chunk(2, 1)[1],
    "split": lambda x: x.split((3, 5, 16), -1)[2],
    "unbound": lambda x: x.unbind(1)[2],
    "row": lambda x: x[1],
    "every other": lambda x: x[..., 1::2],
    "middle": lambda x: x[:, 1:3, 5:9],
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 7),
    "expanded in front": lambda x: x.expand(3, *x.shape),
    "diagonal": lambda x: x.diagonal(dim1=1, dim2=2),
    "unfolded": lambda x: x.unfold(-1, 4, 3),
    "overlapping": lambda x: x.as_strided((3, 5, 4), (7, 3, 2), 2),
    "rolled": lambda x: x.roll(2, 1),
    "rolled in two": lambda x: x.roll((1, -3), (0, 2)),
    "rolled flat": lambda x: x.roll(5),
    "flipped": lambda x: x.flip(1),
    "cloned": lambda x: x.clone(),
    "transposed and cloned": lambda x: x.mT.clone(),
    "transposed and contiguous": lambda x: x.mT.contiguous(),
    "cloned as contiguous": lambda x: x.mT.clone(memory_format=torch.contiguous_format),
    "cast": lambda x: x.double(),
    "cast back": lambda x: x.bfloat16().float(),
    "cast and seen": lambda x: x.mT.bfloat16()[..., 1:],
    "scaled": lambda x: x * 0.5,
    "scaled by a tensor": lambda x: x * torch.tensor(3, dtype=torch.int64),
    "scaled by rows": lambda x: x * torch.linspace(0, 2, x.shape[-1]),
    "masked": lambda x: x * (torch.arange(x.shape[-1]) % 3 > 0),
    "times integers": lambda x: torch.arange(x.shape[1])[:, None] * x,
    "times itself transposed": lambda x: x.mT * x.mT,
    "detached": lambda x: x.detach() * x,
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * 1j).flatten(-2),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    check(views_of(VIEWS[name]), torch.randn(3, 4, 8))
    build, x = (lambda: views_of(VIEWS[name])().bfloat16()), torch.randn(3, 4, 8, dtype=torch.bfloat16)
    with fastact.enable():
        same(step(build, x, around=recompute), step(build, x))


@pytest.mark.parametrize("name", ["transposed", "chunk", "every other", "expanded", "permuted", "unfolded", "rolled"])
@pytest.mark.parametrize(
    "act", ["gelu", "tanh", "relu", "softmax", "dropout", "layer_norm", "clone", "double", "silu_"]
)
def test_functions_of_views(act: str, name: str) -> None:
    """Their outputs keep the order in memory that torch gives them."""
    functions = {
        "softmax": lambda x: F.softmax(x, 1),
        "dropout": lambda x: F.dropout(x, 0.3),
        "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
        "clone": lambda x: x.clone(),
        "double": lambda x: x.double(),
        "silu_": lambda x: F.silu((x * 1), inplace=True),
    }
    function = functions.get(act) or getattr(torch, act, None) or getattr(F, act)

    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = function(VIEWS[name](m.l0(x)))
        return y * y, y.exp(), y.flatten(1).sigmoid() * 2.0, y.sum()

    check(lambda: Net(forward, **linears(8, 24)), torch.randn(3, 4, 8))


# Dropout.

DROPOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "nearly all": lambda x: F.dropout(x, 0.97),
    "nearly none": lambda x: F.dropout(x, 1e-7),
    "none": lambda x: F.dropout(x, 0.0),
    "all": lambda x: F.dropout(x, 1.0),
    "evaluation": lambda x: F.dropout(x, 0.5, training=False),
    "in place": lambda x: F.dropout(x * 2.0, 0.3, inplace=True),
    "in place, all": lambda x: F.dropout(x * 2.0, 1.0, inplace=True),
    "in place, none": lambda x: F.dropout(x * 2.0, 0.0, inplace=True),
    "twice": lambda x: F.dropout(F.dropout(x, 0.2), 0.4),
    "channels of 1-d": lambda x: F.dropout1d(x, 0.3),
    "channels of 2-d": lambda x: F.dropout2d(x[:, None], 0.3)[:, 0],
    "channels of 3-d": lambda x: F.dropout3d(x[:, None, None], 0.3)[:, 0, 0],
    "alpha": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "alpha, channels": lambda x: F.feature_alpha_dropout(x, 0.3, training=True),
    "native": lambda x: torch.native_dropout(x, 0.3, True)[0],
    "native in evaluation": lambda x: torch.native_dropout(x, 0.3, False)[0],
    "of a transposed tensor": lambda x: F.dropout(x.mT, 0.3).mT,
    "of an expanded tensor": lambda x: F.dropout(x[:, :1].expand(-1, 4, -1), 0.3),
    "of rows": lambda x: F.dropout(x[:, ::2], 0.3),
    "of nothing": lambda x: torch.cat([F.dropout(x[:0], 0.3), x]),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.6)),
    "drop path": lambda x: x * x.new_empty(3, 1, 1).bernoulli_(0.6).div_(0.6),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropouts(name: str) -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = DROPOUTS[name](m.l0(x))
        return y.exp(), m.l1(y), F.rrelu(y, training=True)

    check(lambda: Net(forward, **linears(8, 24, 3)), torch.randn(3, 4, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [8, 65, 1001, 5000])
def test_dropout_sizes_and_dtypes(size: int, dtype: torch.dtype) -> None:
    """The same numbers are dropped, and the state of the random numbers goes on as with torch."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = F.dropout(x * m.weight, 0.3)
        return y, y * y, F.dropout(y, 0.5)

    check(lambda: Net(forward, weight=nn.Parameter(torch.ones(size, dtype=dtype))), torch.randn(size, dtype=dtype))


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_wrong_probabilities(p: float) -> None:
    x = torch.randn(8, requires_grad=True)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        torch.dropout(x, p, True)
    with recompute(), pytest.raises(expected.type) as got:
        torch.dropout(x, p, True)
    assert str(got.value) == str(expected.value)


# What networks do that is odd.


def overwritten(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.l0(x))
    y += 1  # before anyone keeps it
    return m.l1(y)


def overwritten_beneath(m: Any, x: Tensor) -> Tensor:
    h = m.l0(x)
    y = F.relu(h)
    h.mul_(2)  # a ReLU has no need of its input
    return m.l1(y) + m.l1(h)


def overwritten_copy(m: Any, x: Tensor) -> Tensor:
    h = m.l0(x)
    y = h.clone()
    h.mul_(2)
    return m.l1(y) * m.l1(F.gelu(h))


def overwritten_view(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.l0(x))
    y[:, 1:3] = 0
    return m.l1(y)


def overwritten_out_of_sight(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.l0(x))
    with torch.no_grad():
        y.clamp_(max=1.0)
    return m.l1(y)


def overwritten_as_detached(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.l0(x))
    y.detach().mul_(2)
    return m.l1(y)


def overwritten_norm(m: Any, x: Tensor) -> Tensor:
    y = F.layer_norm(m.l0(x), (24,))
    y.mul_(2).add_(1)
    return m.l1(F.gelu(y))


def in_place_chain(m: Any, x: Tensor) -> Tensor:
    y = F.layer_norm(m.l0(x), (24,))
    return m.l1(F.hardtanh_(F.silu(F.leaky_relu_(y, 0.1) * 2, inplace=True) + 1))


def filled_part(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), 24)
    y[:, :12] = F.gelu(m.l0(x))[:, :12]
    y[:, 12:] = F.tanh(m.l0(x))[:, 12:]
    return m.l1(F.silu(y))


def two_outputs(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = F.gelu(m.l0(x))
    return y, m.l1(y), F.softmax(y, -1)


def unused(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.l0(x))
    m.l1(F.silu(y))  # its graph goes at once
    return m.l1(y)


def many_readers(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.l0(x))
    return m.l1(y) + m.l1(y * 2) + m.l1(y * y) + m.l1(y.exp()) + F.linear(y, m.l1.weight * 0.5)


def many_times(m: Any, x: Tensor) -> Tensor:
    y = m.l0(x)
    for _ in range(4):
        y = m.square(F.tanh(y))
    return m.l1(y)


def overwritten_chunks(m: Any, x: Tensor) -> Tensor:
    """As in a cell of a recurrent network: parts with a count of versions of their own."""
    y = F.layer_norm(m.l0(x), (24,))
    y.add_(1.0)
    a, b = y.unsafe_chunk(2, 1)
    return a.exp_().clone() * b + F.relu_(b * 2) * a


def overwritten_by_wider(m: Any, x: Tensor) -> Tensor:
    y = m.l0(x).bfloat16()
    y = y.gelu() if hasattr(y, "gelu") else F.gelu(y)
    y *= m.l0(x).double()
    y += m.l0.bias
    return F.linear(y, m.l1.weight.bfloat16()) * y


def running_buffers(m: Any, x: Tensor) -> Tensor:
    """Small tensors that are added, which needs none of them in backward, and then go on."""
    mean = torch.zeros(24)
    for _ in range(3):
        y = F.gelu(m.l0(x)) + mean
        x = x + m.l1(F.silu(y) * 2)[:, :8] + m.l1(y)[:, :8]
        mean.lerp_(y.detach().mean(0), 0.1)
    return x * mean[:8]


def strided_batch_norm(m: Any, x: Tensor) -> Tensor:
    y = torch.cat([m.l0(x), m.l1(m.l0(x))], 1)
    return m.l1(F.silu(m.norm(y[:, ::2])) + F.silu(m.norm(m.l0(x).mT.contiguous().mT)))


def functions_of_weights(m: Any, x: Tensor) -> Tensor:
    y = F.linear(x, F.softplus(m.l0.weight), m.l0.bias)
    return F.linear(F.gelu(y), F.softmax(m.l1.weight, 0) * 2)


def some_without_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = F.gelu(m.l0(x))
    return m.l1(y * F.gelu(m.l0(x)))


def stopped_gradient(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.l0(x))
    return m.l1(y - y.detach() + y.detach() * F.silu(y))


def memory_used_again(m: Any, x: Tensor) -> Tensor:
    """Where an output was, other tensors come to lie."""
    total = m.l1(F.gelu(m.l0(x)))
    for i in range(20):
        F.gelu(m.l0(x))
        other = torch.full((len(x), 24), float(i)) * m.l0.bias.detach() + 0.0
        total = total + F.linear(other, m.l1.weight) + F.linear(F.gelu(m.l0(x) + other), m.l1.weight)
    return total


def selections(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.l0(x))
    y = torch.where(y > 0, y, F.silu(y)) / (1 + y * y)
    return (
        m.l1(y.index_select(0, torch.arange(len(x)).flip(0)))
        + y.topk(3, -1)[0].logsumexp(-1, True)
        + y.cumsum(0).mean()
    )


def joined(m: Any, x: Tensor) -> Tensor:
    y, z = F.gelu(m.l0(x)).chunk(2, -1)
    return m.l1(torch.cat([F.silu(z), y * z.sigmoid()], -1)) + torch.stack([y, z]).relu().sum()


def products(m: Any, x: Tensor) -> Tensor:
    """Of tensors of which not all need gradients."""
    y = F.gelu(m.l0(x))
    mask = (torch.arange(24) % 3 > 0).expand(len(x), -1)
    return m.l1(y * mask) + m.l1(y * mask * 2.5) + m.l1(mask * y.sigmoid() * y) + m.l1(y * torch.rand(len(x), 1))


def frozen(m: Any, x: Tensor) -> Tensor:
    return m.l1(F.gelu(m.square(F.silu(m.l0(x)))))


def frozen_network() -> nn.Module:
    model = Net(frozen, square=nn.Linear(24, 24), **linears(8, 24, 24))
    model.square.requires_grad_(False)
    return model


def batch_norm_twice(m: Any, x: Tensor) -> Tensor:
    """As of a discriminator for real and for false: statistics go on in between."""
    return m.l1(F.silu(m.norm(m.l0(x)))) - m.l1(F.silu(m.norm(m.l0(x * 2 + 1))))


def norm_with_weights_made(m: Any, x: Tensor) -> Tensor:
    weight, bias = m.l0(x).mean(0).chunk(2)
    y = F.batch_norm(m.l0(x)[:, :12], None, None, weight * 2, bias * 3, training=True)
    return m.l0.bias * F.silu(F.layer_norm(m.l0(x)[:, :12], (12,), weight, bias * 1.5) + y).repeat(1, 2)


def recurrent(m: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(len(x), 24)
    for _ in range(5):
        state = F.tanh(m.l0(x) + m.square(F.dropout(state, 0.1)))
    return m.l1(state)


ODD: dict[str, Callable[[Any, Tensor], Any]] = {
    function.__name__.replace("_", " "): function
    for function in (
        overwritten, overwritten_beneath, overwritten_copy, overwritten_view, overwritten_out_of_sight,
        overwritten_as_detached, overwritten_norm, in_place_chain, filled_part, two_outputs, unused, many_readers,
        many_times, overwritten_chunks, overwritten_by_wider, running_buffers,
        strided_batch_norm, functions_of_weights, some_without_gradients, stopped_gradient, memory_used_again,
        selections, joined, products, batch_norm_twice, norm_with_weights_made, recurrent,
    )
}  # fmt: skip


def odd_network(name: str) -> nn.Module:
    return Net(ODD[name], square=nn.Linear(24, 24), norm=nn.BatchNorm1d(24), **linears(8, 24, 24))


@pytest.mark.parametrize("grad", [False, True], ids=["", "input needs a gradient"])
@pytest.mark.parametrize("name", ODD)
def test_odd_networks(name: str, grad: bool) -> None:
    check(partial(odd_network, name), torch.randn(16, 8, requires_grad=grad))


@pytest.mark.parametrize("name", ODD)
def test_odd_networks_under_autocast(name: str) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return ODD[name](m, x)

    layers = {"square": nn.Linear(24, 24), "norm": nn.BatchNorm1d(24), **linears(8, 24, 24)}
    x = torch.randn(16, 8)
    if name == "filled part":  # of one dtype alone
        return
    check(lambda: _copy(forward, layers), x)


def _copy(forward: Callable[..., Any], layers: dict[str, nn.Module]) -> nn.Module:
    import copy

    return Net(forward, **copy.deepcopy(layers))


def test_frozen_layers() -> None:
    check(frozen_network, torch.randn(16, 8))
    check(frozen_network, torch.randn(16, 8, requires_grad=True))


def test_shapes_without_elements() -> None:
    for shape in ((0, 8), (1, 8), (2, 0, 8)):
        check(
            lambda: nn.Sequential(*BLOCKS["mlp with dropout"][0](), nn.LayerNorm(8), nn.Linear(8, 2)),
            torch.randn(shape),
        )


@pytest.mark.parametrize("write", [lambda y: y.add_(1), lambda y: y[0].zero_(), F.relu_, lambda y: y.detach().mul_(2)])
@pytest.mark.parametrize("act", [F.gelu, F.tanh, lambda x: F.layer_norm(x, (24,)), lambda x: F.dropout(x, 0.2)])
def test_a_write_over_what_was_saved(act: Callable[..., Tensor], write: Callable[[Tensor], Tensor]) -> None:
    """Is autograd's error, or harms nothing: what was saved is not what is overwritten."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = act(m.l0(x))
        z = m.l1(y)
        write(y)
        return z

    def build() -> nn.Module:
        return Net(forward, **linears(8, 24, 3))

    def untouched() -> nn.Module:
        return Net(lambda m, x: m.l1(act(m.l0(x))), **linears(8, 24, 3))

    x = torch.randn(16, 8)
    for around in SETTINGS.values():
        with around():
            expected = step(untouched, x)
            try:
                got = step(build, x, around=recompute)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
            else:
                same(got, expected)


@pytest.mark.parametrize("act", [F.gelu, F.silu, lambda x: F.layer_norm(x, (24,))])
def test_a_write_over_what_an_output_is_made_of(act: Callable[..., Tensor]) -> None:
    """Is the error that it is without: backward of the function itself reads it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.l0(x)
        z = m.l1(act(h))
        h.mul_(2)
        return z

    for around in (nullcontext, recompute):
        with fastact.enable(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
            step(lambda: Net(forward, **linears(8, 24, 3)), torch.randn(16, 8), around=around)


def test_what_is_made_of_a_tensor_outlives_its_other_readers() -> None:
    """The node that kept it may be gone before, or overwritten what it kept without ever running backward."""

    def results(around: Callable[[], AbstractContextManager[Any]], write: bool, free: bool) -> list[Tensor]:
        seed(0)
        first, last = nn.Linear(8, 24), nn.Linear(24, 3)
        with around():
            h = first(torch.randn(16, 8))
            u = F.gelu(h)
            z = last(h.roll(1, 0)) + last(h.clone() * 2) + last(F.dropout(h, 0.3))
            if write:
                h.mul_(3)
        found = [] if write else list(torch.autograd.grad(u.sum(), h))
        if free:
            del u
        return [*found, *torch.autograd.grad(z.sum(), list(last.parameters()))]

    for write in (False, True):
        for free in (False, True):
            with fastact.enable():
                expected = results(nullcontext, write, free)
                try:
                    got = results(recompute, write, free)
                except RuntimeError as error:
                    assert write
                    assert "modified by an inplace operation" in str(error)  # noqa: PT017
                    continue
            for mine, theirs in zip(got, expected, strict=True):
                assert torch.equal(mine, theirs)


def test_a_write_over_what_a_dropped_branch_saved() -> None:
    """torch has no error, since that takes no part in backward; here a recipe may read it, which says so."""

    def gradients(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        first, last = nn.Linear(8, 24), nn.Linear(24, 3)
        with around():
            h = first(torch.randn(16, 8))
            dropped = h.square()
            y = last(F.silu(h, inplace=True)) * last(F.hardtanh_(h * 2))
            del dropped
        return list(torch.autograd.grad(y.sum(), [*first.parameters(), *last.parameters()]))

    for around in SETTINGS.values():
        with around():
            expected = gradients(nullcontext)
            try:
                got = gradients(recompute)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
                continue
        for mine, theirs in zip(got, expected, strict=True):
            assert torch.equal(mine, theirs)


# Parameters that change before backward.


def stepped(name: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if path.endswith(name):
                    parameter.mul_(1.5).add_(1)

    return change


def change_buffers(model: nn.Module) -> None:
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.mul_(2)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "weights": stepped("weight"),
    "biases": stepped("bias"),
    "the last layer": stepped("5.weight"),
    "the norm's weight": stepped("1.weight"),
    "the norm's bias": stepped("1.bias"),
    "buffers": change_buffers,
    "optimiser": lambda model: _optimise(model),
}


def _optimise(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), 0.5).step()
    model.zero_grad()


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("norm", ["batch", "batch in evaluation", "layer", "group", "weights"])
@pytest.mark.parametrize("change", CHANGES)
def test_parameters_that_change_before_backward(change: str, norm: str, autocast: bool) -> None:
    """Gradients are right, or there is autograd's error: never others in silence."""
    layer = {
        "layer": lambda: nn.LayerNorm(24),
        "group": lambda: nn.GroupNorm(3, 24),
        "weights": lambda: Net(lambda m, x: F.linear(x, m.weight * 2, m.bias * 3), **_weights()),
    }.get(norm, lambda: ready(nn.BatchNorm1d(24)))

    def gradients(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        model = nn.Sequential(nn.Linear(8, 24), layer(), nn.SiLU(), nn.Linear(24, 24), nn.PReLU(), nn.Linear(24, 3))
        model.train(norm != "batch in evaluation")
        with around(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(torch.randn(16, 8))
        CHANGES[change](model)
        return list(torch.autograd.grad(output.sum(), list(model.parameters())))

    for setting in SETTINGS.values():
        with setting():
            outcomes = []
            for around in (nullcontext, recompute):
                try:
                    outcomes.append(gradients(around))
                except RuntimeError as error:
                    assert "modified by an inplace operation" in str(error)  # noqa: PT017
                    outcomes.append(None)
        expected, got = outcomes
        if got is not None:
            assert expected is not None, "an error of autograd's is gone"
            for mine, theirs in zip(got, expected, strict=True):
                assert torch.equal(mine, theirs)


def _weights() -> dict[str, nn.Parameter]:
    return {"weight": nn.Parameter(torch.randn(24, 24)), "bias": nn.Parameter(torch.randn(24))}


# What is left alone.


def test_dropout_of_single_numbers() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        return m.l1(x) * F.dropout(m.l0(x).sum(), 0.3), F.dropout(m.l0(x)[:1, :1], 0.6).exp()

    build = lambda: Net(forward, **linears(8, 24), l1=nn.Linear(8, 3))  # noqa: E731
    x = torch.randn(4, 8)
    same(step(build, x, around=recompute), step(build, x))


def test_small_tensors_are_left_alone() -> None:
    """From 16 KiB on by default."""
    for rows, less in ((127, False), (128, True)):  # of 128 bytes
        x = torch.randn(rows, 8)
        with fastact.enable():
            before = kept(BLOCKS["mlp"][0], x)
            assert (kept(BLOCKS["mlp"][0], x, around=fastact.recompute) < before) == less
            assert (kept(BLOCKS["mlp"][0], x, around=lambda: fastact.recompute(min_bytes=1 << 20))) == before
            assert kept(BLOCKS["mlp"][0], x, around=lambda rows=rows: fastact.recompute(min_bytes=128 * rows)) < before


@pytest.mark.parametrize("wrong", [-1, 1.5, "16 KiB", None])
def test_wrong_sizes(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="min_bytes"):
        fastact.recompute(min_bytes=wrong)


def test_no_gradient_no_effect() -> None:
    seed(0)
    model, x = BLOCKS["residual"][0](), torch.randn(BLOCKS["residual"][1])
    other = BLOCKS["residual"][0]()
    other.load_state_dict(model.state_dict())
    for mode in (torch.no_grad, torch.inference_mode):
        with fastact.enable(), mode():
            expected = other(x)
            with recompute():
                got = model(x)
        assert torch.equal(got, expected)
        assert not got.requires_grad
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_other_tensors_are_left_alone() -> None:
    """Complex and sparse ones, subclasses, those without memory."""

    class Meters(Tensor):
        pass

    from torch.testing._internal.two_tensor import TwoTensor

    def results(make: Callable[[], Tensor], around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        with around():
            x = make().requires_grad_()
            y = x * 2.0
            output = y * y.clone()
            if not x.is_complex() and not x.is_meta:
                output = torch.relu(F.layer_norm(F.gelu(output), (6,))) * y
        return [output, *torch.autograd.grad(output, x, torch.ones_like(output))]

    makes = {
        "complex": lambda: torch.randn(4, 6, dtype=torch.complex64),
        "subclass": lambda: torch.randn(4, 6).as_subclass(Meters),
        "wrapper": lambda: TwoTensor(torch.randn(4, 6), torch.randn(4, 6)),
        "meta": lambda: torch.randn(4, 6, device="meta"),
        "conjugate": lambda: torch.randn(4, 6, dtype=torch.complex64).conj(),
        "negative": lambda: torch._neg_view(torch.randn(4, 6)),
    }
    for name, make in makes.items():
        with fastact.enable():
            expected, got = results(make, nullcontext), results(make, recompute)
        for mine, theirs in zip(got, expected, strict=True):
            assert type(mine) is type(theirs), name
            assert mine.is_meta or bool((mine == theirs).all()), name


def test_sparse_tensors_are_left_alone() -> None:
    x = torch.eye(4).to_sparse().requires_grad_()
    with recompute():
        y = (x * 2.0).to_dense()
        z = y * y
    z.sum().backward()
    assert torch.equal(x.grad.to_dense(), 8 * torch.eye(4))


def test_fake_tensors_are_left_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), fastact.enable(), recompute():
        model = BLOCKS["mlp with dropout"][0]()
        model(torch.randn(16, 8)).sum().backward()
        assert model[0].weight.grad.shape == (32, 8)


# At the size of a small model, and with the default arguments.


@contextmanager
def _default() -> Iterator[None]:
    with fastact.recompute():
        yield


def test_a_larger_network_with_the_default_size() -> None:
    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(inplace=True)]
        return nn.Sequential(*layers, nn.Conv2d(8, 2, 1))

    x = torch.randn(2, 8, 24, 24)
    with fastact.enable():
        same(step(build, x, around=_default), step(build, x))
        assert kept(build, x, around=_default) < 0.6 * kept(build, x)
