"""Monitors see other libraries' activations as modules, and not what those are made of."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

import fastact
from fastact.catalogue import ACTIVATIONS
from fastact.twins import CLASSES, derived_row_of

CONVERTED = [False, True]


@pytest.mark.parametrize("converted", CONVERTED, ids=["stock", "converted"])
@pytest.mark.parametrize(("module", "name"), [(module, name) for module in CLASSES for name in CLASSES[module]])
def test_class(module: str, name: str, converted: bool) -> None:
    cls = getattr(import_module(module), name, None)
    if cls is None:
        pytest.skip("not in this version")
    named = CLASSES[module][name]
    activation = cls(6, 6) if named.projects else cls()
    if converted:
        activation = fastact.convert(activation)
    x = (4 * torch.randn(32, 6)).requires_grad_()
    with fastact.Monitor(activation) as monitor:
        output = activation(x)
        output.sum().backward()
    (row,) = monitor.report().rows
    if named.projects:  # what follows the projection, by its line
        assert derived_row_of(activation) is None
        assert row.activation in ("gelu", "geglu", "quick_gelu", "sigmoid")
        return
    assert (row.layer, row.activation) == ("", cls.__name__)  # the one it had before, of some
    # Less the median of the first, the middle and the last: a difference and a sum of three in each lane, four
    # roundings of 2^-24 at most.
    numbers = output.detach().double().flatten()
    rounding = 4 * 2**-24 * (numbers - numbers[[0, len(numbers) // 2, -1]].median()).abs().mean().item()
    assert row.mean == pytest.approx(numbers.mean().item(), rel=0, abs=rounding)
    assert row.grad_norm == 1
    if ACTIVATIONS[named.rows[0]].kind == "pointwise":
        assert (row.note, row.dead) == ("", 0)


@pytest.mark.parametrize("converted", CONVERTED, ids=["stock", "converted"])
def test_gpt2_is_no_network_of_tanh(converted: bool) -> None:
    model: nn.Module = GPT2Model(GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=100))
    if converted:
        model = fastact.convert(model)
    with fastact.Monitor(model, unit_dim=-1) as monitor:
        model(torch.randint(100, (2, 8)))
    rows = monitor.report().rows
    assert [(row.layer, row.activation) for row in rows] == [(f"h.{i}.mlp.act", "NewGELUActivation") for i in range(2)]
