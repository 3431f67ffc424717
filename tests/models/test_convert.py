"""`convert` on the models of transformers, timm and diffusers: tiny ones with random weights, beside the stock ones."""

from __future__ import annotations

import copy
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import Any

import diffusers
import pytest
import timm
import torch
import transformers
from timm.layers import create_act
from timm.models.metaformer import MetaFormer, SepConv
from torch import Tensor, nn
from transformers.activations import ACT2FN

import fastact
from fastact import libraries
from fastact.forms import FORMS
from fastact.names import chosen, rows_named
from fastact.twins import CLASSES, known, row_of, stock_of, twin_of

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DECODER = {**SMALL, "num_key_value_heads": 1, "vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
METAFORMER = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "token_mixers": SepConv, "num_classes": 5}
UNET = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
UNET |= {"cross_attention_dim": 8, "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
UNET |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
LAYERS = {"img_size": 28, "depth": 2, "embed_dim": 24, "num_heads": 2}


def of_text(name: str, **config: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))


def of_images(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **arguments)


def t5(model: nn.Module, dtype: torch.dtype) -> Tensor:
    return model(input_ids=IDS, decoder_input_ids=IDS).last_hidden_state


def text(model: nn.Module, dtype: torch.dtype) -> Tensor:
    return model(input_ids=IDS).last_hidden_state


def images(size: int) -> Callable[[nn.Module, torch.dtype], Tensor]:
    return lambda model, dtype: model(PIXELS[..., :size, :size].to(dtype))


def unet(model: nn.Module, dtype: torch.dtype) -> Tensor:
    return model(PIXELS[:, :1, :8, :8].expand(-1, 4, -1, -1).to(dtype), 3, WORDS.to(dtype)).sample


_NUMBERS = torch.Generator().manual_seed(0)
IDS = torch.randint(2, 40, (2, 8), generator=_NUMBERS)
PIXELS = torch.randn(2, 3, 64, 64, generator=_NUMBERS)
WORDS = torch.randn(2, 3, 8, generator=_NUMBERS)

# Model, how it is called, and what of fastact runs in it. No more: of a gated layer, the unit alone.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], set[str]]] = {
    "bert": (of_text("Bert", **SMALL, vocab_size=40), text, {"gelu", "tanh"}),
    "gpt2": (of_text("GPT2", n_embd=32, n_layer=2, n_head=2, vocab_size=40), text, {"gelu_tanh"}),
    "llama": (of_text("Llama", **DECODER), text, {"swiglu"}),
    "gemma2": (of_text("Gemma2", **DECODER, head_dim=16), text, {"geglu_tanh"}),
    "phi3": (of_text("Phi3", **DECODER), text, {"swiglu"}),
    "qwen2": (of_text("Qwen2", **DECODER), text, {"swiglu"}),
    "mistral": (of_text("Mistral", **DECODER), text, {"swiglu"}),
    "modernbert": (of_text("ModernBert", **DECODER, cls_token_id=1, sep_token_id=1), text, {"geglu"}),
    "mixtral": (
        of_text("Mixtral", **DECODER, num_local_experts=4, experts_implementation="batched_mm"),
        text,
        {"swiglu"},
    ),
    "t5": (of_text("T5", **T5, feed_forward_proj="gated-gelu"), t5, {"geglu_tanh"}),
    "clip": (of_text("CLIPText", **SMALL, vocab_size=40, eos_token_id=1), text, {"quick_gelu"}),
    "apertus": (of_text("Apertus", **DECODER), text, {"xielu"}),
    "convnext": (of_images("convnext_atto", depths=(1, 1, 1, 1)), images(64), {"gelu"}),
    "vit": (of_images("vit_tiny_patch16_224", img_size=32, depth=2, act_layer="gelu_tanh"), images(32), {"gelu_tanh"}),
    "efficientnet": (of_images("efficientnet_b0"), images(64), {"silu", "sigmoid"}),
    "eva02": (of_images("eva02_tiny_patch14_224", **LAYERS), images(28), {"swiglu"}),
    "eva02_base": (of_images("eva02_base_patch14_224", **LAYERS), images(28), {"swiglu"}),
    "metaformer": (lambda: MetaFormer(**METAFORMER), images(64), {"star_relu", "squared_relu"}),
    "unet": (lambda: diffusers.UNet2DConditionModel(**UNET), unet, {"silu", "geglu"}),
}


def llama(**config: Any) -> nn.Module:
    torch.manual_seed(0)
    return of_text("Llama", **{**DECODER, "num_hidden_layers": 1, **config})().eval()


def output_and_gradients(model: nn.Module, call: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each as one vector in float64, of a scalar that weighs all outputs differently."""
    model.zero_grad()
    output = call(model, dtype)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    (output * weights.to(dtype)).sum().backward()
    gradients = [each.grad.double().flatten() for each in model.parameters() if each.grad is not None]
    return [output.detach().double().flatten(), torch.cat(gradients)]


def errors(model: nn.Module, call: Callable[..., Tensor], truth: list[Tensor]) -> list[float]:
    found = output_and_gradients(model, call, torch.float32)
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]


def assert_as_exact(ours: list[float], stock: list[float], depth: int) -> None:
    """No further from the truth than the stock model. Both err by the roundings of the same layers, at random, so that
    their distances differ by chance: by less than a factor of 2, beside a rounding of each activation."""
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine <= 2 * theirs + depth * torch.finfo(torch.float32).eps


def activations(kernel_calls: list[str]) -> set[str]:
    """Of the ops, which differ by layout, and by what is saved."""
    return {re.sub("(_packed|_mask)?(_backward|_)?$", "", name) for name in kernel_calls}


def converted_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if stock_of(type(module)) is not type(module)]


@pytest.mark.parametrize("name", MODELS)
def test_model_computes_the_same(name: str, kernel_calls: list[str]) -> None:
    make, call, expected = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    classes, shown, keys = [type(m) for m in model.modules()], repr(model), list(model.state_dict())
    truth = output_and_gradients(copy.deepcopy(model).double(), call, torch.float64)
    stock = errors(model, call, truth)
    assert not kernel_calls

    assert fastact.convert(model) is model
    ours = errors(model, call, truth)
    assert_as_exact(ours, stock, len(converted_layers(model)))
    assert activations(kernel_calls) == expected
    assert repr(model) == shown
    assert list(model.state_dict()) == keys
    assert all(isinstance(module, cls) for module, cls in zip(model.modules(), classes, strict=True))
    assert all(layer.is_converted for layer in fastact.conversion(model))

    fastact.revert(model)
    assert [type(module) for module in model.modules()] == classes
    assert errors(model, call, truth) == stock


ARGUMENTS: dict[str, dict[str, Any]] = {
    name: {"dim_in": 6, "dim_out": 4} for name in ("ApproximateGELU", "GEGLU", "GELU", "SwiGLU")
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in CLASSES for name in CLASSES[module]])
def test_class_computes_the_same(module: str, name: str, kernel_calls: list[str]) -> None:
    """Each class by its name, with each of its options; each kind of gradient."""
    cls = getattr(import_module(module), name, None)
    if cls is None:
        pytest.skip("not in this version")
    arguments = ARGUMENTS.get(name, {}) if module.startswith("diffusers") else {}
    for options in [{}, {"approximate": "tanh"}] if module.startswith("diffusers") and name == "GELU" else [{}]:
        torch.manual_seed(0)
        stock = cls(**arguments, **options).float()
        numbers = torch.cat([torch.randn(8, 6) * 4, torch.tensor([[-20.0, -3.1, -1e-3, 1e-3, 2.9, 20.0]])])
        truth = output_and_gradients(*leaf(stock, numbers.double()))
        found = [leaf(stock, numbers), leaf(fastact.convert(copy.deepcopy(stock)), numbers)]
        theirs, ours = (errors(model, call, truth) for model, call, _ in found)
        assert_as_exact(ours, theirs, 1)
        row = row_of(stock)
        assert row in known(cls).rows
        assert activations(kernel_calls) == {row}
        kernel_calls.clear()


def leaf(module: nn.Module, numbers: Tensor) -> tuple[nn.Module, Callable[..., Tensor], torch.dtype]:
    """A model of these numbers alone, as a parameter, and the module."""
    holder = copy.deepcopy(nn.ModuleList([module])).to(numbers.dtype)
    holder.register_parameter("numbers", nn.Parameter(numbers.clone()))
    return holder, lambda model, dtype: model[0](model.numbers), numbers.dtype


def test_fp32_silu_keeps_its_precision() -> None:
    silu = import_module("diffusers.models.activations").FP32SiLU()
    # In 16 bits both round a float32 once, to neighbours at most; in float64 each is within 2 ULP of SiLU in float32.
    for dtype, eps in ((torch.bfloat16, torch.finfo(torch.bfloat16).eps), (torch.float64, 4 * torch.finfo().eps)):
        input = torch.randn(100, dtype=dtype)
        torch.testing.assert_close(fastact.convert(copy.deepcopy(silu))(input), silu(input), rtol=eps, atol=0)


def test_forms_are_told_apart() -> None:
    for form in FORMS:
        namesake = type(form.name, (nn.Module,), {form.method: form.stock})
        assert known(namesake) is form


def test_lookalikes_are_left() -> None:
    swish = next(form for form in FORMS if form.name.startswith("x * torch.sigmoid(x)"))
    elsewhere = FunctionType(swish.stock.__code__, {"torch": torch.special})  # the same lines, of another `torch`
    assert known(type("Swish", (nn.Module,), {"forward": elsewhere})) is None
    assert known(type("Swish", (nn.Module,), {"forward": torch.no_grad()(swish.stock)})) is None

    star_relu = import_module("timm.models.metaformer").StarReLU
    assert row_of(star_relu()) == "star_relu"
    assert row_of(star_relu(inplace=True)) is None  # it changes its input too

    class HardSwish(import_module("timm.layers.activations").HardSwish):
        pass

    assert known(HardSwish) is None
    named = {"__module__": "timm.layers.activations", "__qualname__": "HardSwish"}
    assert known(type("HardSwish", (nn.Module,), {"forward": HardSwish.forward, **named})) is not None
    assert known(type("HardSwish", (nn.Module,), {"forward": elsewhere, **named})) is None  # replaced in the class


def test_a_forward_replaced_in_the_class_later_is_the_classs() -> None:
    class Swish(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    def forward(self: nn.Module, input: Tensor) -> Tensor:
        return 0 * input

    input = torch.ones(3)
    for cls in (Swish, nn.GELU):
        converted = fastact.convert(cls())
        assert type(converted) is not cls
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cls, "forward", forward)
            for module in (fastact.convert(cls()), fastact.revert(converted), copy.deepcopy(converted)):
                assert type(module) is cls
                assert not module(input).any()
        assert type(fastact.convert(converted)) is not cls


def test_dropout_draws_the_same_numbers() -> None:
    torch.manual_seed(0)
    model = of_text("T5", **T5, feed_forward_proj="gated-gelu")().train()
    outputs = []
    for change in (fastact.revert, fastact.convert):
        torch.manual_seed(1)
        outputs.append(t5(change(model), torch.float32).detach())
    assert float((outputs[1] - outputs[0]).abs().max()) < 0.01  # another mask would be another result


def test_in_place_stays_in_place() -> None:
    layers = import_module("timm.layers.activations")
    for name in ("Sigmoid", "Tanh", "Swish", "HardSwish", "HardSigmoid"):
        input = torch.randn(8)
        output = fastact.convert(getattr(layers, name)(inplace=True))(input)
        assert output.data_ptr() == input.data_ptr(), name


# What models are kept in and sent through.


def test_copies_pickles_saves_and_loads(kernel_calls: list[str]) -> None:
    model = fastact.convert(llama())
    expected, kinds = text(model, torch.float32), [type(module) for module in model.modules()]
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)]
    copies += [fastact.convert(llama(), only="relu")]
    copies[-1].load_state_dict(model.state_dict())
    for twin in copies[:-1]:
        assert [type(module) for module in twin.modules()] == kinds
        kernel_calls.clear()
        assert torch.equal(text(twin, torch.float32), expected)
        assert "swiglu" in kernel_calls
    assert type(copies[-1].layers[0].mlp) is stock_of(kinds[kinds.index(type(model.layers[0].mlp))])
    assert isinstance(model.layers[0].mlp, stock_of(type(model.layers[0].mlp)))
    assert type(model.layers[0].mlp).__name__ == "LlamaMLP"


def test_a_subclass_of_a_twin_is_pickled_as_itself() -> None:
    class Mine(twin_of(type(llama().layers[0].mlp.act_fn))):
        pass

    assert type(copy.deepcopy(Mine())) is Mine


@pytest.mark.skipif(not libraries.HAS_NODES, reason="recompute needs nodes in C++")
def test_gated_units_stay_fused_while_enabled_with_recompute(kernel_calls: list[str]) -> None:
    model = fastact.convert(llama())
    with fastact.enable(recompute=True):
        text(model, torch.float32)
        assert "swiglu" in kernel_calls
        handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)  # which is to see the inner ones
        kernel_calls.clear()
        text(model, torch.float32)
        handle.remove()
    assert "swiglu" not in kernel_calls


def test_hooks_are_called(kernel_calls: list[str]) -> None:
    model = fastact.convert(llama())
    mlp, calls = model.layers[0].mlp, []
    mlp.register_forward_hook(lambda *_: calls.append("mlp"))
    expected = text(model, torch.float32).detach()
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        calls.clear(), kernel_calls.clear()
        handle = getattr(mlp.act_fn, register)(lambda *_: calls.append("act"))
        output = text(model, torch.float32)
        output.sum().backward()
        assert calls.count("act") == 1
        assert calls.count("mlp") == 1
        assert "swiglu" not in kernel_calls
        eps = torch.finfo(torch.float32).eps  # one rounding more, of SiLU; the sums of a dozen layers follow
        torch.testing.assert_close(output.detach(), expected, rtol=0, atol=12 * eps * float(expected.abs().max()))
        handle.remove()
    assert torch.equal(text(model, torch.float32), expected)
    assert kernel_calls[-1] == "swiglu"


def test_keyword_and_changed_activation(kernel_calls: list[str]) -> None:
    mlp = fastact.convert(llama()).layers[0].mlp
    input = torch.randn(2, 32)
    assert torch.equal(mlp(x=input), mlp(input))
    assert kernel_calls == ["swiglu", "swiglu"]
    with pytest.raises(TypeError, match="unexpected keyword"):
        mlp(y=input)
    mlp.act_fn = ACT2FN["laplace"]
    expected = mlp.down_proj(mlp.act_fn(mlp.gate_proj(input)) * mlp.up_proj(input))
    kernel_calls.clear()
    assert torch.equal(mlp(input), expected)
    assert not kernel_calls


@pytest.mark.parametrize("first", ["convert", "hook"])
def test_accelerates_hooks(first: str, kernel_calls: list[str]) -> None:
    from accelerate import hooks

    model = llama()
    mlp, stock = model.layers[0].mlp, type(model.layers[0].mlp)
    if first == "convert":
        fastact.convert(model)
    hooks.add_hook_to_module(mlp, hooks.ModelHook())
    fastact.convert(model)
    assert all(layer.is_converted for layer in fastact.conversion(model))
    text(model, torch.float32)
    assert kernel_calls == ["swiglu"]
    if first == "hook":
        fastact.revert(model)
    hooks.remove_hook_from_module(mlp)  # leaves the class's forward on the object
    fastact.revert(model)
    text(model, torch.float32)
    assert kernel_calls == ["swiglu"]
    assert type(mlp) is stock


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_lora_on_a_converted_model(kernel_calls: list[str]) -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["gate_proj", "up_proj", "down_proj"], init_lora_weights=False)
    found = []
    for change in (fastact.revert, fastact.convert):
        model = change(llama())
        torch.manual_seed(0)
        found.append(peft.get_peft_model(model, config).eval())
    stock, ours = found
    truth = output_and_gradients(copy.deepcopy(stock).double(), text, torch.float64)
    expected = errors(stock, text, truth)
    assert not kernel_calls
    assert_as_exact(errors(ours, text, truth), expected, len(converted_layers(ours)))
    assert kernel_calls == ["swiglu", "swiglu_backward"]


# The name before transformers 5.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool, kernel_calls: list[str]) -> None:
    model = fastact.convert(llama()).train()
    expected = output_and_gradients(model, text, torch.float32)
    kernel_calls.clear()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for a, b in zip(output_and_gradients(model, text, torch.float32), expected, strict=True):
        assert torch.equal(a, b)
    assert kernel_calls == ["swiglu", "swiglu", "swiglu_backward"]


def test_compiles_to_the_stock_graph() -> None:
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    model = llama(use_cache=False)
    for change in (fastact.revert, fastact.convert):
        torch._dynamo.reset()
        text(torch.compile(change(model), backend=backend, fullgraph=True), torch.float32)
    assert len(graphs) == 2
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("name", ["vit", "eva02"])
def test_scripts_to_the_stock_functions(name: str) -> None:
    make, call, _ = MODELS[name]
    model = fastact.convert(make()).eval()
    script = torch.jit.script(model)
    assert torch.equal(call(script, torch.float32), call(fastact.revert(model), torch.float32))


# What is left alone, and what `conversion` says.


def test_only_and_exclude() -> None:
    assert {type(m) for m in converted_layers(fastact.convert(llama(), only="swiglu"))} == {
        type(fastact.convert(llama()).layers[0].mlp)
    }
    assert [type(m).__name__ for m in converted_layers(fastact.convert(llama(), exclude=["swiglu"]))] == [
        "SiLUActivation"
    ]
    assert not converted_layers(fastact.convert(llama(), only=[]))
    pair = nn.Sequential(nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU())
    assert [type(m) for m in fastact.convert(pair, only="gelu", exclude="gelu_tanh")] == [
        fastact.GELU,
        nn.GELU,
        nn.ReLU,
    ]


def test_names() -> None:
    assert rows_named("gelu") == {"gelu", "gelu_tanh"}
    assert rows_named("gelu_tanh") == {"gelu_tanh"}
    assert chosen("geglu", "geglu_tanh") == {"geglu"}
    assert chosen(exclude=["gelu", "geglu"]) == chosen() - {"gelu", "gelu_tanh", "geglu", "geglu_tanh"}
    with pytest.raises(ValueError, match=r"no activation named 'ReLu7'; did you mean 'relu' or 'rrelu' or 'relu6'"):
        fastact.convert(nn.ReLU(), only=["ReLu7"])
    with pytest.raises(ValueError, match="no activation named 'zzz'; there are relu, leaky_relu"):
        fastact.conversion(nn.ReLU(), exclude="zzz")


class Doubled(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_what_differs_is_left_and_said() -> None:
    model = llama(num_hidden_layers=6)
    blocks = [layer.mlp for layer in model.layers]
    stock = type(blocks[0])

    class Clamped(stock):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))

    class Renamed(stock):
        pass

    blocks[0].__class__ = Clamped
    blocks[1].__class__ = Renamed  # which computes what its base does
    blocks[2].act_fn = Doubled()
    blocks[3].act_fn = ACT2FN["laplace"]
    blocks[4].forward = lambda x: x
    before = [type(module) for module in model.modules()]
    told = {layer.path: layer for layer in fastact.conversion(model, exclude="silu")}
    assert [type(module) for module in model.modules()] == before
    assert {path.removeprefix("layers."): layer.outcome for path, layer in told.items()} == {
        "0.mlp": "left: its forward is none of the known forms",
        "0.mlp.act_fn": "left: by `only` or `exclude`",
        "1.mlp": "convertible",
        "1.mlp.act_fn": "left: by `only` or `exclude`",
        "2.mlp": "left: no fused unit with Doubled",
        "2.mlp.act_fn": "left: a subclass of SiLU",
        "3.mlp": "left: no fused unit with LaplaceActivation",
        "3.mlp.act_fn": "left: fastact has no such function",
        "4.mlp": "left: its forward was replaced on the object",
        "4.mlp.act_fn": "left: by `only` or `exclude`",
        "5.mlp": "convertible",
        "5.mlp.act_fn": "left: by `only` or `exclude`",
    }
    fastact.convert(model, exclude="silu")
    assert converted_layers(model) == [blocks[1], blocks[5]]
    after = {layer.path: layer for layer in fastact.conversion(model, exclude="silu")}
    for path, layer in after.items():
        assert layer.is_converted == (path in ("layers.1.mlp", "layers.5.mlp"))
        assert layer.why_left == told[path].why_left
        assert layer.activation == told[path].activation


def test_report_is_a_table() -> None:
    model = llama(num_hidden_layers=12)
    fastact.convert(model, only="swiglu")
    assert str(fastact.conversion(model)) == "\n".join(
        [
            "module               count  class           activation  outcome",
            "layers.*.mlp         12     LlamaMLP        swiglu      fastact",
            "layers.*.mlp.act_fn  12     SiLUActivation  silu        convertible",
        ]
    )
    assert str(fastact.conversion(nn.ReLU())).splitlines()[1].split() == ["(model)", "1", "ReLU", "relu", "convertible"]
    assert len(fastact.conversion(nn.Linear(2, 2)).layers) == 0


def test_nothing_else_is_imported() -> None:
    code = """
import sys, torch, fastact
fastact.revert(fastact.convert(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 2))))
fastact.conversion(torch.nn.ReLU())
assert not {"transformers", "timm", "diffusers", "peft", "accelerate"} & set(sys.modules)
for register in (fastact.register_transformers, fastact.register_timm):
    try:
        register()
        raise AssertionError
    except RuntimeError as error:
        assert "first" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# The names in configs.


def test_register_transformers(kernel_calls: list[str]) -> None:
    before = {name: dict.__getitem__(ACT2FN, name) for name in list(ACT2FN)}
    with fastact.register_transformers():
        assert all(dict.__getitem__(ACT2FN, name) is content for name, content in before.items())
        model = llama(hidden_act="squared_relu")
        text(model, torch.float32)
        assert kernel_calls == ["squared_relu"]
        for name in set(ACT2FN) - set(before):
            ACT2FN[name](torch.randn(2, 3))
        assert {"star_relu", "elu", "softplus", "snake"} <= set(ACT2FN) - set(before)
    assert {name: dict.__getitem__(ACT2FN, name) for name in list(ACT2FN)} == before

    registration = fastact.register_transformers(replace=True)
    for name in ("gelu", "gelu_new", "silu", "relu", "relu2", "xielu", "quick_gelu", "leaky_relu"):
        kernel_calls.clear()
        module = ACT2FN[name]
        module(torch.randn(4, 4, dtype=torch.bfloat16))
        assert kernel_calls == [row_of(module)]
    assert type(ACT2FN["laplace"]) is dict.__getitem__(ACT2FN, "laplace")[0] is stock_of(type(ACT2FN["laplace"]))
    registration.remove()
    registration.remove()
    assert {name: dict.__getitem__(ACT2FN, name) for name in list(ACT2FN)} == before


def test_register_timm(kernel_calls: list[str]) -> None:
    tables = (*create_act._ACT_LAYERS, *create_act._ACT_FNS)
    before = [dict(table) for table in tables]
    with fastact.register_timm():
        model = of_images("vit_tiny_patch16_224", img_size=32, depth=1, act_layer="squared_relu")().eval()
        images(32)(model, torch.float32)
        assert kernel_calls == ["squared_relu"]
        assert type(create_act.create_act_layer("star_relu", inplace=True)) is fastact.StarReLU
        assert create_act.create_act_layer("hardtanh", inplace=True).inplace
        assert type(create_act.create_act_layer("silu")) is nn.SiLU
        assert create_act.get_act_fn("softsign")(torch.ones(2), inplace=True).tolist() == [0.5, 0.5]
    assert [dict(table) for table in tables] == before
    with fastact.register_timm(replace=True):
        for name in ("silu", "swish", "gelu", "gelu_tanh", "sigmoid", "relu", "hard_swish", "hardsigmoid", "elu"):
            kernel_calls.clear()
            module = create_act.create_act_layer(name, inplace=False)
            module(torch.randn(4))
            create_act.get_act_fn(name)(torch.randn(4), inplace=False)
            assert kernel_calls == [row_of(module)] * 2
    assert [dict(table) for table in tables] == before


class WrittenOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def test_integers_become_floats_as_before() -> None:
    x = torch.arange(-3, 4)
    module = fastact.convert(WrittenOut())
    assert row_of(module) == "silu"
    assert torch.equal(module(x), WrittenOut()(x))
    wide = fastact.convert(diffusers.models.activations.FP32SiLU())
    assert torch.equal(wide(x), diffusers.models.activations.FP32SiLU()(x))
