"""What only a GPU can show: devices, streams, threads, graphs, sizes beyond 32 bits, and the same bits in each run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import DEFAULTS, DETERMINISTIC, LOOPS, Case
from torch import Tensor

import fastact
from fastact import functional as F
from fastact import gpu

pytestmark = pytest.mark.only("cuda")


def step(case: Case, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients."""
    x = x.detach().requires_grad_()
    weights = tuple(w.requires_grad_() for w in case.weights(x))
    y = case.fastact(x, *weights)
    return y.detach(), *torch.autograd.grad(y, (x, *weights), grad)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_each_run_gives_the_same_bits(case: Case, device: str) -> None:
    x, grad = case.randn(64, 1000, device=device), torch.randn(64, 1000, device=device)
    first = step(case, x, grad)
    for _ in range(5):
        for a, b in zip(first, step(case, x, grad), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.deterministic], ids=str)
def test_follows_the_current_stream(case: Case, device: str) -> None:
    """Work that another stream is still busy with must not be read before it is done."""
    x, grad = case.randn(1 << 20, device=device), torch.randn(1 << 20, device=device)
    expected = step(case, x, grad)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)  # clock cycles
        late.copy_(x)
        results = step(case, late, grad)
    torch.cuda.current_stream().wait_stream(stream)
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.deterministic], ids=str)
def test_runs_on_the_tensors_device(case: Case, device: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x, grad = case.randn(3, 1000), torch.randn(3, 1000)
    here, there = (step(case, x.to(f"cuda:{i}"), grad.to(f"cuda:{i}")) for i in range(2))
    assert torch.cuda.current_device() == 0
    for a, b in zip(here, there, strict=True):
        assert b.device.index == 1
        assert torch.equal(a, b.to(a.device))


def test_threads_that_never_touched_cuda(device: str) -> None:
    """They have no context, each has a stream of its own, and all load the kernels at one time."""
    cases = [case for case in LOOPS if case.deterministic]
    inputs = [(case.randn(5000, device=device), torch.randn(5000, device=device)) for case in cases]
    expected = [step(case, *each) for case, each in zip(cases, inputs, strict=True)]
    torch.cuda.synchronize()
    torch.ops.fastact.forget_kernels()

    def work(number: int) -> list[tuple[Tensor, ...]]:
        if number == 0:
            return [step(case, *each) for case, each in zip(cases, inputs, strict=True)]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            results = [step(case, *each) for case, each in zip(cases, inputs, strict=True)]
        stream.synchronize()
        return results

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    torch.cuda.synchronize()
    for results in found:
        for got, wanted in zip(results, expected, strict=True):
            assert all(map(torch.equal, got, wanted))


def test_the_device_that_the_process_sees(device: str) -> None:
    """CUDA_VISIBLE_DEVICES numbers them anew, for the driver as for torch."""
    code = (
        "import torch, fastact; x = torch.randn(1000, device='cuda', requires_grad=True); y = fastact.silu(x);"
        "y.backward(x.detach()); torch.testing.assert_close(y, torch.nn.functional.silu(x)); print(x.device)"
    )
    last = str(torch.cuda.device_count() - 1)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": last, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("cuda:0\n", 0), done.stderr


@pytest.mark.parametrize("name", ["ReLU", "GELU", "PReLU", "SwiGLU", "Softmax"])
def test_graphed_callables(name: str, device: str) -> None:
    """Forward and backward as two graphs, which torch captures after calls of its own."""
    module = getattr(fastact, name)(**({"dim": -1} if name == "Softmax" else {})).to(device)
    x = torch.randn(64, 1000, device=device, requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(module, (x,))
    x = torch.randn_like(x).requires_grad_()
    results = []
    for function in (graphed, module):
        y = function(x)
        results.append((y.detach().clone(), *torch.autograd.grad(y, (x, *module.parameters()), torch.ones_like(y))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.only("emulated", "cuda")
@pytest.mark.parametrize("case", [case for case in LOOPS if case.activation.pointwise], ids=str)
def test_one_kernel_for_all_sizes(case: Case, device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with many shapes must not compile many kernels."""
    asked = []

    def note(name: str, capability: int) -> gpu.Kernel:
        asked.append(name)
        return find(name, capability)

    find = gpu.find
    monkeypatch.setattr(gpu, "find", note)
    torch.ops.fastact.forget_kernels()
    for n in (1, 2, 16, 1000, 4096, 5001):
        step(case, case.randn(n, device=on), torch.randn(n, device=on))
    sums = bool(case.activation.weights)
    assert [name.split(" ")[1] for name in asked if not name.startswith("parts ")] == [
        "mask" if case.activation.saved == "mask" else "forward",
        "backward",
    ]
    assert len(asked) == 2 + sums


@pytest.fixture
def whole_memory() -> Iterator[None]:
    """The GPU's. Of several processes, each would count on the same gigabytes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("needs the GPU's memory for itself: run without -n")
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


@pytest.mark.large
@pytest.mark.usefixtures("whole_memory")
@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_more_elements_than_32_bits_count(case: Case, device: str) -> None:
    """The last ones, beyond 2^31, are what they are in a tensor of their own."""
    row = 1 << 10
    rows = (1 << 21) + 3
    if 16 * rows * row * case.divisor > torch.cuda.mem_get_info()[0]:
        pytest.skip("too little memory on this GPU")
    tail = case.randn(5, row, dtype=torch.bfloat16, device=device)
    x = torch.zeros(case.shape(rows, row), dtype=torch.bfloat16, device=device)
    x[-5:] = tail
    if not case.deterministic:
        x, tail = x.abs_(), tail.abs()  # whose slopes are 1, not drawn
    x.requires_grad_()
    y = case.fastact(x)
    grad = torch.ones_like(y)
    (grad_x,) = torch.autograd.grad(y, x, grad)
    y_tail = case.fastact(tail.requires_grad_())
    (expected,) = torch.autograd.grad(y_tail, tail, grad[-5:])
    assert torch.equal(y[-5:], y_tail)
    assert torch.equal(grad_x[-5:], expected)


@pytest.mark.large
@pytest.mark.usefixtures("whole_memory")
@pytest.mark.parametrize("case", [case for case in LOOPS if not case.activation.pointwise], ids=str)
def test_rows_whose_elements_lie_far_apart(case: Case, device: str) -> None:
    """Along a dimension that is not the innermost, with more elements in memory than 32 bits count."""
    rows, columns = 1 << 21, 1026
    if 16 * rows * columns > torch.cuda.mem_get_info()[0]:
        pytest.skip("too little memory on this GPU")
    x = torch.zeros(columns, rows, dtype=torch.bfloat16, device=device)
    tail = torch.randn(columns, 5, dtype=torch.bfloat16, device=device)
    x[:, -5:] = tail
    along = {**case.sample, "dim": 0}
    results = []
    for each in (x, tail):
        each.requires_grad_()
        y = getattr(F, case.activation.function)(each, **along, **case.activation.keywords)
        (gradient,) = torch.autograd.grad(y, each, torch.ones_like(y))
        results.append((y[:, -5:].detach(), gradient[:, -5:]))
    for got, expected in zip(*results, strict=True):  # sums of softmax may be taken in another order
        torch.testing.assert_close(got, expected, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-6)
