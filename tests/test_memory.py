"""The memory promise: what each activation saves for backward, to the byte, and never more than torch plus one bit."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import CASES, DEFAULTS, DTYPES, LOOPS, Case
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import fastact


def saved_tensors(function, *arguments: Tensor) -> dict[int, Tensor]:
    """What the call saves, by storage, its learned arguments aside."""
    saved: dict[int, Tensor] = {}
    weights = {w.untyped_storage().data_ptr() for w in arguments[1:]}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in weights:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*arguments)
    return saved


def total_bytes(saved: dict[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_saved_bytes(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    for n in (0, 1, 7, 8, 1001, 4096):
        input = case.randn(n, dtype=dtype, device=on).requires_grad_()
        weights = case.weights(input)
        saved = saved_tensors(case.fastact, input, *weights)
        expected = {
            "mask": (n + 7) // 8 + (8 if case.activation.random else 0),  # the seed
            "indices": n,
            "output": n * input.element_size(),
            "input": input.nbytes,
        }
        assert total_bytes(saved) == expected[case.activation.saved]
        if case.activation.saved == "input" and n > 0:
            assert list(saved) == [input.untyped_storage().data_ptr()], "the input itself, not a copy"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_never_more_than_torch_but_for_one_bit(case: Case, device: str, on: str) -> None:
    input = case.randn(4, 2048, device=on).requires_grad_()
    weight = case.weights(input)
    ours = total_bytes(saved_tensors(case.fastact, input, *weight))
    theirs = total_bytes(saved_tensors(case.torch, input, *weight))
    assert ours <= theirs + input.numel() // 8


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_saves_nothing_without_gradients(case: Case, device: str, on: str) -> None:
    input = case.randn(100, device=on)
    assert not saved_tensors(case.fastact, input)
    with torch.no_grad():
        assert not saved_tensors(case.fastact, input.clone().requires_grad_())


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_hooks_on_saved_tensors_see_all_of_it(case: Case, device: str, on: str) -> None:
    """Offloading to the host, as users of saved_tensors_hooks do, gives the same gradients."""
    input = case.randn(1000, device=on).requires_grad_()
    weight = tuple(w.requires_grad_() for w in case.weights(input))
    torch.manual_seed(0)
    plain = torch.autograd.grad(case.fastact(input, *weight).sum(), (input, *weight))
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.cpu().clone(), lambda t: t.to(on)):
        output = case.fastact(input, *weight)
    offloaded = torch.autograd.grad(output.sum(), (input, *weight))
    for a, b in zip(plain, offloaded, strict=True):
        assert torch.equal(a, b)


def bytes_left_by(use: Callable[[], object]) -> int:
    """Of what it allocates on the CPU, without the collector of reference cycles."""
    use()  # what happens once has happened
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            use()
    finally:
        gc.enable()
    return sum(event.self_cpu_memory_usage for event in profiler.events())


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_graphs_are_freed(case: Case, nodes: str, device: str, on: str) -> None:
    """As soon as nothing refers to them, whether or not they were used."""
    input = case.randn(1000, device=on).requires_grad_()
    weights = tuple(w.requires_grad_() for w in case.weights(input))

    def use() -> None:
        case.fastact(input, *weights)
        if case.activation.inplace:
            case.fastact(input * 1, inplace=True)
        for create_graph in (False, True):
            output = case.fastact(input, *weights)
            torch.autograd.grad(output.sum(), (input, *weights), create_graph=create_graph)

    assert bytes_left_by(use) == 0


def test_a_kept_graph_is_seen() -> None:
    kept, input = [], torch.randn(1000, requires_grad=True)
    assert bytes_left_by(lambda: kept.append(fastact.functional.sigmoid(input))) == 4000


SMAPS, HUGE_PAGES = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _flags_of_mapping(tensor: Tensor) -> list[str]:
    """Of the memory in the tensor's midst."""
    address, inside = tensor.view(-1)[tensor.numel() // 3].data_ptr(), False
    for line in SMAPS.read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise LookupError(hex(address))


@pytest.mark.only("cpu")
@pytest.mark.skipif(not (SMAPS.exists() and HUGE_PAGES.exists()), reason="the system has no huge pages")
@pytest.mark.parametrize("layout", ["dense", "rows", "expanded"])
@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_large_outputs_ask_for_huge_pages(case: Case, layout: str, nodes: str, device: str) -> None:
    """However the tensors are walked."""
    wide = case.shape(1 << 12, 1 << 11)[-1]
    zeros = {
        "dense": lambda: torch.zeros(1 << 12, wide),
        "rows": lambda: torch.zeros(1 << 12, 2 * wide)[:, :wide],
        "expanded": lambda: torch.zeros(1, wide).expand(1 << 12, wide),
    }
    input = zeros[layout]().requires_grad_()
    output = case.fastact(input)
    (gradient,) = torch.autograd.grad(output, input, torch.zeros_like(output))
    assert output.nbytes == 32 << 20
    assert "hg" in _flags_of_mapping(output)
    assert "hg" in _flags_of_mapping(gradient)


@pytest.mark.only("cpu")
@pytest.mark.skipif(not (SMAPS.exists() and HUGE_PAGES.exists()), reason="the system has no huge pages")
def test_other_memory_is_left_as_it_comes(device: str) -> None:
    assert "hg" not in _flags_of_mapping(torch.sigmoid(torch.zeros(1 << 23)))
