"""From an op to a kernel: which one a layout asks for, what a launch says when it fails, and what the emulated GPU sees
of faults that are planted in kernels and in their parameters."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import cpp_kernel, kernel
from gpu import emulator
from torch import Tensor

from fastact import functional as F
from fastact import gpu

pytestmark = pytest.mark.only("emulated")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch.ops.fastact.forget_kernels()
    yield
    torch.ops.fastact.forget_kernels()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels in the order in which they are asked for; none runs."""
    names: list[str] = []

    def find(name: str, capability: int) -> gpu.Kernel:
        names.append(name)
        return gpu.Kernel(b"", "kernel", 4, 0, 4096)

    monkeypatch.setattr(gpu, "find", find)
    emulator.set_record_only(True)
    yield names
    emulator.set_record_only(False)


def weights(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(count, dtype=dtype)


ASKED: dict[str, Callable[[], Any]] = {
    "relu forward float32": lambda: kernel("relu")(torch.zeros(9)),
    "relu mask float64": lambda: kernel("relu_mask")(torch.zeros(3, 4).double().t()),
    "relu forward float16 ": lambda: kernel("relu_")(torch.zeros(9).half()),
    "silu forward float32 unaligned": lambda: kernel("silu")(torch.zeros(9)[1:]),
    "silu forward float32 rows": lambda: kernel("silu")(torch.zeros(4, 64)[:, :8]),
    "silu forward float32  ": lambda: kernel("silu")(torch.zeros(4, 64)[:, :20]),  # ragged rows are copied
    "silu backward bfloat16": lambda: kernel("silu_backward")(*torch.zeros(2, 64).bfloat16()),
    "swiglu forward float32 rows": lambda: kernel("swiglu_packed")(torch.zeros(4, 64), 1, False),
    "prelu forward float32 channel=number": lambda: kernel("prelu")(torch.zeros(9), weights(1)),
    "prelu forward float32 channel=one": lambda: kernel("prelu")(torch.zeros(2, 3, 4, 4), weights(3)),
    "prelu forward float32 channel=two": lambda: kernel("prelu")(torch.zeros(2, 3, 7, 7), weights(3)),
    "prelu forward float32 channel=any": lambda: kernel("prelu")(torch.zeros(2, 3, 5), weights(3)),
    "prelu forward float32 channel=next": lambda: kernel("prelu")(torch.zeros(5, 16), weights(16)),
    "prelu forward float32 channel=any ": lambda: kernel("prelu")(torch.zeros(5, 16), weights(17)[1:]),
    "prelu forward bfloat16 channel=number weights=float32": lambda: kernel("prelu")(
        torch.zeros(9).bfloat16(), weights(1)
    ),
    "bias_silu forward float32 residual channel=next": lambda: kernel("bias_silu")(
        torch.zeros(5, 16), weights(16), torch.zeros(5, 16)
    ),
    "log_softmax forward float32 float32 rows 128x16 one divisor=2": lambda: kernel("log_softmax")(
        torch.zeros(5, 10), 1, torch.float32
    ),
    "softmax forward float32 float32 strided 64x16 one divisor=8": lambda: kernel("softmax")(
        torch.zeros(10, 64), 0, torch.float32
    ),
    "softmax forward bfloat16 float32 rows 1x8192 two": lambda: kernel("softmax")(
        torch.zeros(2, 50257).bfloat16(), 1, torch.float32
    ),
    "maxout forward float32 adjacent together=2": lambda: kernel("maxout")(torch.zeros(5, 10), 2, 1),
    "maxout forward float32 apart together=0 eights": lambda: kernel("maxout")(torch.zeros(10, 16), 2, 0),
}


@pytest.mark.parametrize("name", ASKED, ids=str)
def test_the_kernel_that_is_asked_for(name: str, asked: list[str], device: str) -> None:
    ASKED[name]()
    assert asked == [name.strip()]


def test_sums_have_a_second_kernel(asked: list[str], device: str) -> None:
    x = torch.zeros(4, 16)
    kernel("prelu_backward")(x, x, weights(16))
    kernel("prelu_backward")(x.bfloat16(), x.bfloat16(), weights(1))
    assert asked == [
        "prelu backward float32 channel=outer",
        "parts float32 float32 1",
        "prelu backward bfloat16 channel=number weights=float32",
    ]


def test_a_kernel_serves_every_size(asked: list[str], device: str) -> None:
    """And each of its own: a model with many shapes must not compile many, and none takes another's place."""
    for n in (1, 7, 16, 1000, 4096, 2**20 + 1):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(n, dtype=dtype)
            for op in ("relu", "silu", "gelu"):
                kernel(op)(x)
            kernel("silu_backward")(x, x)
            kernel("softmax")(torch.zeros(n % 100, 16, dtype=dtype), 1, dtype)
    assert len(asked) == len(set(asked)) == 10


def test_threads_may_ask_at_one_time(device: str) -> None:
    x = torch.randn(5000)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: F.mish(x), range(32)):
            assert torch.equal(y, F.mish(x))


def test_a_thread_without_a_context(device: str) -> None:
    """Like autograd's own: the emulated driver refuses launches where none is set."""
    x = torch.randn(100, requires_grad=True)
    with ThreadPoolExecutor(1) as pool:
        (gradient,) = pool.submit(lambda: torch.autograd.grad(F.silu(x).sum(), x)).result()
    torch.testing.assert_close(gradient, torch.autograd.grad(torch.nn.functional.silu(x).sum(), x)[0])


def test_a_launch_that_fails_raises(device: str) -> None:
    x = torch.randn(100)
    F.silu(x)
    emulator.fail_next("cuLaunchKernel", 719)
    with pytest.raises(RuntimeError, match=r"a kernel's launch failed: .*\(719\)"):
        F.silu(x)
    assert torch.isfinite(F.silu(x)).all()


def test_nothing_is_loaded_while_a_graph_is_captured(device: str) -> None:
    x = torch.randn(100, requires_grad=True)
    before = F.silu(x)
    torch.ops.fastact.forget_kernels()
    emulator.set_capturing(True)
    try:
        with pytest.warns(RuntimeWarning, match=r"\(silu forward float32\) has not run yet.*before the capture"):
            y = F.silu(x)
        assert type(y.grad_fn).__name__ == "SiluBackward0"
        with pytest.raises(RuntimeError, match=r"\(silu backward float32\).*before the capture"):
            before.sum().backward()
    finally:
        emulator.set_capturing(False)
    assert F.silu(x).grad_fn.name() == "SiLUBackward"


def test_an_error_that_passes_is_tried_again(device: str) -> None:
    x = torch.randn(100)
    emulator.fail_next("cuModuleLoadData", 2)  # out of memory
    with pytest.warns(RuntimeWarning, match=r"torch's op on cpu this time, since cuModuleLoadData failed: .*\(2\)"):
        F.softsign(x)
    before = emulator.counts().get("fastact_softsign_forward")
    F.softsign(x)
    assert before is None or emulator.counts()["fastact_softsign_forward"].launches > before.launches
    assert "fastact_softsign_forward" in emulator.counts()


def test_an_interrupted_search_is_raised(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(100)

    def find(name: str, capability: int) -> gpu.Kernel:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gpu, "find", find)
        with pytest.raises(KeyboardInterrupt):
            F.mish(x)
    torch.testing.assert_close(F.mish(x), torch.nn.functional.mish(x))


def test_a_missing_backward_in_a_capture(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph could not hold the way to the CPU, which is taken outside."""
    x = torch.randn(100, requires_grad=True)
    y = F.silu(x)

    def find(name: str, capability: int) -> gpu.Kernel:
        raise OSError("No space left on device.")

    torch.ops.fastact.forget_kernels()
    monkeypatch.setattr(gpu, "find", find)
    with pytest.warns(RuntimeWarning, match="No space left"):
        torch.autograd.grad(y.sum(), x, retain_graph=True)
    emulator.set_capturing(True)
    try:
        with pytest.raises(RuntimeError, match="No space left"):
            torch.autograd.grad(y.sum(), x)
    finally:
        emulator.set_capturing(False)


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_weights_of_other_dtypes(shape: tuple[int, ...], device: str) -> None:
    """One in float32 beside one of 16 bits; a bias in float32 that backward does not read."""
    x = torch.randn(5, 16).half()
    arguments = x, torch.full(shape, 0.8).half(), torch.full((1,), 0.7), 0.5
    results = [op("xielu_backward")(x, *arguments) for op in (kernel, cpp_kernel)]
    bias = torch.linspace(-1, 1, 16)
    terms = (x.double().abs() * (1 + x.double().abs() + x.double() ** 2)).sum().item()
    for op in (kernel, cpp_kernel):
        _, mask = op("bias_relu_mask")(x, bias, None)
        results.append(op("bias_relu_backward")(x, mask, bias))
    for ours, theirs in (results[:2], results[2:]):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            # Both compute in float32 and round once; sums that cancel have an error relative to their terms.
            rounding, sum_of_terms = torch.finfo(torch.half).eps, torch.finfo(torch.float).eps * terms
            torch.testing.assert_close(a, b, rtol=rounding, atol=sum_of_terms)


def test_no_driver() -> None:
    code = """
import warnings, torch, fastact
torch.ops.fastact.emulate_gpu(True)
x = torch.randn(10)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        assert torch.equal(fastact.functional.silu(x), torch.nn.functional.silu(x))
(warning,) = said
assert "from now on, since the CUDA driver does not load: no/such/driver.so" in str(warning.message), warning.message
"""
    environment = {**os.environ, "FASTACT_LIBCUDA": "no/such/driver.so", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Faults, planted in a kernel's source: the file, what stands there, and what takes its place.

PLANTED = {
    "a mask that lets in one eighth more": (
        "elementwise",
        "tl.minimum(n // 8 - first, EIGHTHS)",
        "tl.minimum(n // 8 - first + 1, EIGHTHS)",
        lambda: kernel("silu")(torch.randn(256)),
        "past the end of an allocation",
    ),
    "no mask": (
        "elementwise",
        "places, ys[i].to(outs[i].dtype.element_ty), mask=mask)",
        "places, ys[i].to(outs[i].dtype.element_ty))",
        lambda: kernel("silu")(torch.randn(256)),
        "past the end of an allocation|register .* never written",
    ),
    "parameters in another order": (
        "elementwise",
        "ins, outs, row, strides, inner, count, scalars, formulas, n,\n    NAME",
        "outs, ins, row, strides, inner, count, scalars, formulas, n,\n    NAME",
        lambda: kernel("silu")(torch.randn(256)),
        "global memory is read but never written",
    ),
    "a product in 32 bits": (
        "softmax",
        "tl.program_id(0).to(tl.int64)",
        "tl.program_id(0)",
        lambda: large(lambda x: kernel("softmax")(x, 1, x.dtype), MANY // 2048 * 3, 1024),
        "bytes before|past the end|in no allocation",
    ),
}


def large(call: Callable[[Tensor], Any], *shape: int) -> None:
    """Of a tensor whose memory nobody needs: only the last program runs."""
    emulator.select_blocks([-1])
    try:
        call(torch.empty(shape, dtype=torch.bfloat16))
    finally:
        emulator.select_blocks()


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    from fastact.triton import sources

    def plant(module: str, text: str, fault: str) -> None:
        original = getattr(sources, module)
        source = Path(original.__file__).read_text()
        assert text in source
        file = tmp_path / f"{module}.py"
        file.write_text(source.replace(text, fault))
        spec = importlib.util.spec_from_file_location(f"{original.__name__}_planted", file)
        planted = importlib.util.module_from_spec(spec)
        planted.__package__ = original.__package__
        spec.loader.exec_module(planted)
        monkeypatch.setattr(sources, module, planted)

    return plant


@pytest.mark.parametrize("fault", PLANTED, ids=str)
def test_a_planted_fault_is_seen(fault: str, plant: Callable[[str, str, str], None], device: str) -> None:
    module, text, other, call, seen = PLANTED[fault]
    call()
    torch.ops.fastact.forget_kernels()
    plant(module, text, other)
    with pytest.raises(RuntimeError, match=seen):
        call()


def test_a_missing_barrier_is_seen(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the parts of a sum that warps leave in shared memory and their reader: taken out of the PTX, since Triton
    writes it."""
    find = gpu.find
    x = torch.randn(2, 5000)
    kernel("softmax")(x, 1, x.dtype)

    def without_barriers(name: str, capability: int) -> gpu.Kernel:
        found = find(name, capability)
        return found._replace(code=found.code.replace(b"bar.sync \t0;", b""))

    torch.ops.fastact.forget_kernels()
    monkeypatch.setattr(gpu, "find", without_barriers)
    with pytest.raises(RuntimeError, match="shared memory"):
        kernel("softmax")(x, 1, x.dtype)


# Tensors of more elements than 32 bits count, without their memory.

MANY = 1 << 31
LARGE: dict[str, tuple[Callable[[Tensor], tuple[str, tuple]], tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "flat": (lambda x: ("relu_mask", (x,)), (2 * MANY + 2067,), lambda x: x),
    "nearly 2^31": (lambda x: ("silu", (x,)), (MANY - 3,), lambda x: x),
    "rows": (lambda x: ("silu", (x,)), (MANY // 4096 + 3, 8192), lambda x: x[:, :4096]),
    "halves of long rows": (lambda x: ("silu", (x,)), (3, 2 * MANY + 64), lambda x: x[:, MANY + 32 :]),
    "gated": (lambda x: ("swiglu_packed", (x, 1, False)), (MANY // 2048 + 5, 8192), lambda x: x),
    "images": (lambda x: ("prelu", (x, ramp(1536))), (600, 1536, 48, 50), lambda x: x),
    "ragged images": (lambda x: ("prelu", (x, ramp(1536))), (600, 1536, 49, 49), lambda x: x),
    "channels innermost": (lambda x: ("prelu", (x, ramp(1536))), (MANY // 512, 1536), lambda x: x),
    "wide dividers": (lambda x: ("prelu", (x, ramp(64))), (1 << 29, 64), lambda x: x),
    "rows of a softmax": (lambda x: ("softmax", (x, 1, x.dtype)), (MANY // 512 + 3, 1024), lambda x: x),
    "columns of a softmax": (lambda x: ("log_softmax", (x, 0, x.dtype)), (40, MANY // 16), lambda x: x),
    "pieces apart": (lambda x: ("maxout_indices", (x, 2, 0)), (4, MANY // 2 + 24), lambda x: x),
}


def end_of(x: Tensor) -> Tensor:
    """The last elements of the last row."""
    return x[(-1,) * (x.dim() - 1)][-32:]


def ramp(count: int) -> Tensor:
    return torch.linspace(0.1, 0.9, count).bfloat16()


@pytest.mark.parametrize("layout", LARGE, ids=str)
def test_more_elements_than_32_bits_count(layout: str, device: str) -> None:
    """The first programs, some between and the last touch nothing beyond, and what lies in their tensors' last place is
    right."""
    call, shape, arrange = LARGE[layout]
    x = arrange(torch.empty(shape, dtype=torch.bfloat16))
    last = end_of(x)
    last.copy_(torch.linspace(-3, 3, 32).bfloat16())
    op, arguments = call(x)
    emulator.select_blocks([0, -1], spread=3)
    try:
        result = kernel(op)(*arguments)
    finally:
        emulator.select_blocks()
    y = result[0] if isinstance(result, tuple) else result
    if op in ("silu", "relu_mask"):
        assert torch.equal(end_of(y), cpp_kernel(op.removesuffix("_mask"))(last.clone()))
    elif op == "prelu":
        weight = arguments[1][-1:] if x.dim() > 2 else arguments[1][-32:]
        assert torch.equal(end_of(y), cpp_kernel("prelu")(last.clone()[None], weight)[0])
