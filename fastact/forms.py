"""Forwards that many classes have in common, word for word, and what computes the same through fastact.

The gated layers of language models are dozens of classes with the same few lines in them. A class is recognised by
these lines, as Python compiled them, and so wherever it comes from. One that differs in anything (a clamp, a cast, a
decorator) is another form, and not known.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F

_SIGNATURE = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


@dataclass(frozen=True, eq=False)
class Form:
    """A forward of one tensor, and what replaces it."""

    name: str
    """Whose it is, for tables."""
    stock: Callable[..., Any]
    """The lines themselves. They are compared, never run."""
    fused: Callable[..., Any]
    """The same, of the module, the input and fastact's function for the row."""
    rows: Mapping[str, str]
    """The row of the catalogue that it computes, by that of the activation inside."""
    child: str = ""
    """The attribute which holds that activation. Without one, the only row is that of ""."""
    method: str = "forward"


def form_of(cls: type) -> Form | None:
    """The form whose lines a class has, if any."""
    return next((form for form in FORMS if _is_same(getattr(cls, form.method, None), form.stock)), None)


def _is_same(function: object, other: object) -> bool:
    """Whether two functions have the same instructions, of the same globals. Names of variables make no difference."""
    if not (isinstance(function, FunctionType) and isinstance(other, FunctionType)):
        return False
    if _shape(function) != _shape(other):
        return False
    steps = list(dis.get_instructions(function))
    if list(map(_step, steps)) != list(map(_step, dis.get_instructions(other))):
        return False
    names = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    return all(_global(function, name) is _global(other, name) for name in names)


def _shape(function: FunctionType) -> tuple[object, ...]:
    code = function.__code__
    return code.co_argcount, code.co_kwonlyargcount, code.co_flags & _SIGNATURE, function.__defaults__


def _step(instruction: dis.Instruction) -> tuple[object, ...]:
    if instruction.opcode in dis.haslocal:
        return instruction.opname, instruction.arg
    return instruction.opname, type(instruction.argval), instruction.argval


def _global(function: FunctionType, name: str) -> object:
    return function.__globals__.get(name, getattr(builtins, name, None))


# The stock lines. Their names of attributes and globals, and the order of everything, are what is compared.


def _llama(self: Any, x: Any) -> Any:
    down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return down_proj


def _qwen2_5_vl(self: Any, x: Any) -> Any:
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def _t5gemma(self: Any, x: Any) -> Any:
    hidden_states = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
    hidden_states = self.dropout(hidden_states)
    down_proj = self.down_proj(hidden_states)
    return down_proj


def _t5(self: Any, hidden_states: Any) -> Any:
    hidden_gelu = self.act(self.wi_0(hidden_states))
    hidden_linear = self.wi_1(hidden_states)
    hidden_states = hidden_gelu * hidden_linear
    hidden_states = self.dropout(hidden_states)
    if (
        isinstance(self.wo.weight, torch.Tensor)
        and hidden_states.dtype != self.wo.weight.dtype
        and self.wo.weight.dtype != torch.int8
    ):
        hidden_states = hidden_states.to(self.wo.weight.dtype)
    hidden_states = self.wo(hidden_states)
    return hidden_states


def _phi3(self: Any, hidden_states: Any) -> Any:
    up_states = self.gate_up_proj(hidden_states)
    gate, up_states = up_states.chunk(2, dim=-1)
    up_states = up_states * self.activation_fn(gate)
    return self.down_proj(up_states)


def _granitemoe(self: Any, hidden_states: Any) -> Any:
    hidden_states = self.input_linear(hidden_states)
    chunked_hidden_states = hidden_states.chunk(2, dim=-1)
    hidden_states = self.activation(chunked_hidden_states[0]) * chunked_hidden_states[1]
    hidden_states = self.output_linear(hidden_states)
    return hidden_states


def _modernbert(self: Any, hidden_states: Any) -> Any:
    input, gate = self.Wi(hidden_states).chunk(2, dim=-1)
    return self.Wo(self.drop(self.act(input) * gate))


def _experts(self: Any, gate_up_out: Any) -> Any:
    gate, up = gate_up_out.chunk(2, dim=-1)
    return self.act_fn(gate) * up


def _lfm2(self: Any, x: Any) -> Any:
    return self.w2(F.silu(self.w1(x)) * self.w3(x))


def _timm_glu_mlp(self: Any, x: Any) -> Any:
    x = self.fc1(x)
    x1, x2 = x.chunk(2, dim=self.chunk_dim)
    x = x1 * self.act(x2) if self.gate_last else self.act(x1) * x2
    x = self.drop1(x)
    x = self.norm(x)
    x = self.fc2(x)
    x = self.drop2(x)
    return x


def _timm_swiglu(self: Any, x: Any) -> Any:
    x_gate = self.fc1_g(x)
    x = self.fc1_x(x)
    x = self.act(x_gate) * x
    x = self.drop1(x)
    x = self.norm(x)
    x = self.fc2(x)
    x = self.drop2(x)
    return x


def _diffusers_swiglu(self: Any, hidden_states: Any) -> Any:
    hidden_states = self.proj(hidden_states)
    hidden_states, gate = hidden_states.chunk(2, dim=-1)
    return hidden_states * self.activation(gate)


def _star_relu(self: Any, x: Any) -> Any:
    return self.scale * self.relu(x) ** 2 + self.bias


def _squared_relu(self: Any, x: Any) -> Any:
    return torch.square(self.relu(x))


def _swish(self: Any, x: Any) -> Any:
    return x * torch.sigmoid(x)


def _quick_gelu(self: Any, x: Any) -> Any:
    return x * torch.sigmoid(1.702 * x)


def _new_gelu(self: Any, x: Any) -> Any:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


# The fused ones. Layers are called in the stock order, which dropout's random numbers follow.


def _fused_gate_up(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    gate = self.gate_proj(x)
    return self.down_proj(unit(self.up_proj(x), gate))


def _fused_t5gemma(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    gate = self.gate_proj(x)
    return self.down_proj(self.dropout(unit(self.up_proj(x), gate)))


def _fused_t5(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    gate = self.wi_0(x)
    hidden = self.dropout(unit(self.wi_1(x), gate))
    weight = self.wo.weight
    if isinstance(weight, torch.Tensor) and hidden.dtype != weight.dtype and weight.dtype != torch.int8:
        hidden = hidden.to(weight.dtype)
    return self.wo(hidden)


def _fused_phi3(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return self.down_proj(unit(self.gate_up_proj(x), gate_first=True))


def _fused_granitemoe(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return self.output_linear(unit(self.input_linear(x), gate_first=True))


def _fused_modernbert(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return self.Wo(self.drop(unit(self.Wi(x), gate_first=True)))


def _fused_experts(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return unit(x, gate_first=True)


def _fused_lfm2(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    gate = self.w1(x)
    return self.w2(unit(self.w3(x), gate))


def _fused_timm_glu_mlp(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    x = unit(self.fc1(x), dim=self.chunk_dim, gate_first=not self.gate_last)
    return self.drop2(self.fc2(self.norm(self.drop1(x))))


def _fused_timm_swiglu(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    gate = self.fc1_g(x)
    x = unit(self.fc1_x(x), gate)
    return self.drop2(self.fc2(self.norm(self.drop1(x))))


def _fused_diffusers_swiglu(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return unit(self.proj(x))


def _fused_star_relu(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return unit(x, self.scale, self.bias)


def _fused_pointwise(self: Any, x: Any, unit: Callable[..., Any]) -> Any:
    return unit(x)


_GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh", "relu": "reglu"}

FORMS = (
    Form("gate_proj, up_proj, down_proj: Llama, Mistral, Qwen, Gemma", _llama, _fused_gate_up, _GATED, "act_fn"),
    Form("gate_proj, up_proj, down_proj: Qwen2.5-VL, Idefics", _qwen2_5_vl, _fused_gate_up, _GATED, "act_fn"),
    Form("the same with dropout: T5Gemma, GTE", _t5gemma, _fused_t5gemma, _GATED, "act_fn"),
    Form("wi_0, wi_1, wo: T5 with a gate, mT5, UMT5", _t5, _fused_t5, _GATED, "act"),
    Form("gate_up_proj, down_proj: Phi-3, GLM", _phi3, _fused_phi3, _GATED, "activation_fn"),
    Form("input_linear, output_linear: Granite", _granitemoe, _fused_granitemoe, _GATED, "activation"),
    Form("Wi, Wo: ModernBERT", _modernbert, _fused_modernbert, _GATED, "act"),
    Form(
        "_apply_gate of experts, batched or grouped: Mixtral", _experts, _fused_experts, _GATED, "act_fn", "_apply_gate"
    ),
    Form("w1, w2, w3: LFM2, Meta's Llama", _lfm2, _fused_lfm2, {"": "swiglu"}),
    Form("GluMlp, SwiGLUPacked: timm", _timm_glu_mlp, _fused_timm_glu_mlp, _GATED, "act"),
    Form("SwiGLU: timm", _timm_swiglu, _fused_timm_swiglu, _GATED, "act"),
    Form("SwiGLU: diffusers", _diffusers_swiglu, _fused_diffusers_swiglu, _GATED, "activation"),
    Form("StarReLU: timm's MetaFormer", _star_relu, _fused_star_relu, {"relu": "star_relu"}, "relu"),
    Form("SquaredReLU: timm's MetaFormer", _squared_relu, _fused_pointwise, {"relu": "squared_relu"}, "relu"),
    Form("x * torch.sigmoid(x)", _swish, _fused_pointwise, {"": "silu"}),
    Form("x * torch.sigmoid(1.702 * x): CLIP", _quick_gelu, _fused_pointwise, {"": "quick_gelu"}),
    Form("0.5 * x * (1.0 + torch.tanh(...)): GPT-2", _new_gelu, _fused_pointwise, {"": "gelu_tanh"}),
)
"""The first that fits is taken; no two have the same lines."""
