"""What tests of `fastact.recompute` share: a training step with it and without, and the bytes that forward keeps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import fastact

seed = torch.default_generator.manual_seed  # torch.manual_seed keeps the stack for other devices
Around = Callable[[], AbstractContextManager[Any]]


def recompute() -> AbstractContextManager[Any]:
    """For tensors of all sizes: those of tests are small."""
    return fastact.recompute(min_bytes=0)


class Net(nn.Module):
    """A network of these modules, called as `forward(net, *inputs)`."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self._forward(self, *inputs)


class Act(nn.Module):
    """A function with its learned tensors."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(each.clone()) for each in weights)

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, *self.weights)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors(each)]
    return [value] if isinstance(value, Tensor) else []


def grad_of(output: Tensor) -> Tensor:
    """Some gradient to begin with: neither zero nor the same for all."""
    values = torch.linspace(-1, 1.5, output.numel(), device=output.device) if output.numel() else output.new_zeros(0)
    return values.to(output.dtype).reshape(output.shape)


def step(build: Callable[[], nn.Module], *inputs: Tensor, around: Around = nullcontext) -> dict[str, Tensor]:
    """All that a training step leaves: outputs, gradients, parameters, buffers and the state of the random numbers."""
    seed(3)
    model = build()
    leaves = [each.detach().clone(memory_format=torch.preserve_format) for each in inputs]
    for leaf, each in zip(leaves, inputs, strict=True):
        leaf.requires_grad_(each.requires_grad)
    with around():
        outputs = tensors(model(*leaves))
    found = {f"output {i}": each.detach().clone() for i, each in enumerate(outputs)}
    found["random state after forward"] = torch.get_rng_state()
    differentiable = [each for each in outputs if each.requires_grad]
    torch.autograd.backward(differentiable, [grad_of(each) for each in differentiable])
    found["random state after backward"] = torch.get_rng_state()
    named = [*((f"input {i}", leaf) for i, leaf in enumerate(leaves)), *model.named_parameters()]
    found |= {f"gradient of {name}": each.grad for name, each in named if each.grad is not None}
    return found | {f"after it {name}": each.detach().clone() for name, each in model.state_dict().items()}


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that all is the same, bit for bit."""
    assert got.keys() == expected.keys()
    for name, mine in got.items():
        theirs = expected[name]
        assert (mine.dtype, mine.shape, mine.stride()) == (theirs.dtype, theirs.shape, theirs.stride()), name
        if not torch.equal(bits(mine), bits(theirs)):
            raise AssertionError(f"{name} differs by up to {(mine.double() - theirs.double()).abs().max().item():.3g}")


@dataclass(frozen=True)
class Memory:
    """Of what a call allocated, in bytes."""

    kept: int
    """Still there at its end."""
    peak: int
    result: Any
    marks: dict[str, int]
    """There at each `mark`."""


def mark(name: str) -> None:
    """Remember under this name what is allocated now."""
    with record_function(f"mark {name}"):
        pass


def memory(call: Callable[[], Any]) -> Memory:
    """What a call allocates and has at its end, to the byte, without the collector of reference cycles."""
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = call()
    finally:
        gc.enable()
    events = profiler.profiler.kineto_results.events()
    now = peak = 0
    marks = {}
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
        elif event.name().startswith("mark "):
            marks[event.name().removeprefix("mark ")] = now
    return Memory(now, peak, result, marks)


def kept(build: Callable[[], nn.Module], *inputs: Tensor, around: Around = nullcontext) -> int:
    """The bytes that forward leaves: the output, and what the graph keeps for backward beside parameters and inputs."""
    seed(3)
    model = build()

    def forward() -> Any:
        with around():
            return model(*inputs)

    return memory(forward).kept


def run_forward(model: nn.Module, inputs: Iterable[Tensor], around: Around = recompute) -> Any:
    with around():
        return model(*inputs)


@contextmanager
def both(first: Around, second: Around) -> Iterator[None]:
    with first(), second():
        yield


def hooks_are_gone() -> bool:
    """Whether no hooks for saved tensors are open in this thread."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None
