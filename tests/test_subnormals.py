"""No subnormal number comes out of the CPU's kernels, or is met inside, where the inputs are normal numbers."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Iterator

import pytest
import torch
from cases import CASES, DETERMINISTIC, Case
from torch import Tensor

from fastact.tools.accuracy import REFERENCES

x86_only = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="Arm keeps subnormal results")
pytestmark = [pytest.mark.only("cpu"), x86_only]

DENORMAL_OPERAND = 0x2  # of MXCSR: an instruction has read a subnormal number
FLUSH_TO_ZERO = 0x8000
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def mxcsr() -> int:
    """This thread's control and status register."""
    environment = (ctypes.c_uint32 * 8)()  # glibc's fenv_t: 28 bytes for x87, then MXCSR
    ctypes.CDLL("libm.so.6").fegetenv(environment)
    return environment[7]


def clear_exceptions() -> None:
    default_environment = ctypes.c_void_p(-1)  # FE_DFL_ENV
    ctypes.CDLL("libm.so.6").fesetenv(default_environment)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that all kernels run on the thread whose register is read."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal_numbers(count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Of both signs and all magnitudes: half of them between 2^-8 and 2^8, where curves bend and tails end."""
    generator = torch.Generator().manual_seed(seed)
    info = torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal), math.log2(info.max)
    exponents = torch.rand(count, dtype=torch.float64, generator=generator)
    exponents = torch.where(torch.arange(count) % 2 == 0, exponents * 16 - 8, low + exponents * (high - low))
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    numbers = (exponents.exp2() * signs).to(dtype)
    return torch.where(numbers.abs() < info.smallest_normal, info.smallest_normal, numbers)


def subnormals(tensor: Tensor) -> Tensor:
    return tensor[(tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).smallest_normal)]


def run(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of everything that has one."""
    input = normal_numbers(math.prod(case.shape(90, 77)), dtype).view(case.shape(90, 77)).requires_grad_()
    weights = [tensor.requires_grad_() for tensor in case.weights(input)]
    torch.manual_seed(0)
    output = case.fastact(input, *weights)
    grad = normal_numbers(output.numel(), dtype, seed=1).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, (input, *weights), grad)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_subnormal_number_comes_out_or_is_met(case: Case, dtype: torch.dtype, device: str) -> None:
    run(case, dtype)  # whatever happens at a first call only
    clear_exceptions()
    results = run(case, dtype)
    met = mxcsr() & DENORMAL_OPERAND
    for result in results:
        assert not subnormals(result).numel(), subnormals(result)[:5]
    assert not met


def test_the_flag_that_is_read_is_set_by_subnormal_numbers(device: str) -> None:
    clear_exceptions()
    assert not mxcsr() & DENORMAL_OPERAND
    torch.full((64,), 1e-40) * 0.5
    assert mxcsr() & DENORMAL_OPERAND


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax"])
def test_rows_of_all_lengths(name: str, dtype: torch.dtype, dim: int, device: str) -> None:
    """In rows of moderate numbers most results of a softmax are far below its largest."""
    import fastact.functional as F

    for length in (3, 17, 40, 1000):
        shape = (length, 70) if dim == 0 else (70, length)
        generator = torch.Generator().manual_seed(length)
        input = (torch.randn(shape, dtype=torch.float64, generator=generator) * 60).to(dtype).requires_grad_()
        grad = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
        clear_exceptions()
        output = getattr(F, name)(input, dim)
        (gradient,) = torch.autograd.grad(output, input, grad)
        met = mxcsr() & DENORMAL_OPERAND
        assert not subnormals(output).numel()
        assert not subnormals(gradient).numel()
        assert not met


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_results_below_the_smallest_normal_number_are_zeros_of_the_right_sign(name: str, device: str) -> None:
    import fastact.functional as F

    smallest = torch.finfo(torch.float32).smallest_normal
    input = torch.linspace(-92.5, -91.5, 4096)
    truth = input.double() * input.double().exp()  # this far left
    output = getattr(F, name)(input)
    is_zero, is_far_below = output == 0, truth.abs() < smallest * 0.99
    assert 0 < is_zero.sum() < input.numel()
    assert torch.equal(is_zero | is_far_below, is_zero)
    assert not is_zero[truth.abs() > smallest * 1.01].any()
    assert output.signbit().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_where_gelus_left_tail_ends(approximate: str, dtype: torch.dtype, device: str) -> None:
    """What is left of it makes normal numbers with gradients of its size: torch's formulas are zero long before, and a
    column of subnormal numbers slows a matrix product tenfold on Intel's CPUs."""
    import fastact.functional as F

    input = torch.linspace(-16, -5, 4096).to(dtype).requires_grad_()
    truth = REFERENCES["gelu" if approximate == "none" else "gelu_tanh"].forward(input.detach().double())
    output = F.gelu(input, approximate)
    (gradient,) = torch.autograd.grad(output, input, torch.ones_like(output))
    is_zero = output == 0
    assert not is_zero[truth.abs() > 2.0**-63 * 1.001].any()
    assert is_zero[truth.abs() < 2.0**-63 * 0.999].all()
    assert 0 < is_zero.sum() < input.numel()
    assert output.signbit().all()
    assert torch.equal(gradient == 0, is_zero)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in DETERMINISTIC if case.activation.pointwise], ids=str)
def test_the_smallest_numbers(case: Case, dtype: torch.dtype, device: str) -> None:
    """There most activations are lines: results are those at 2^100 times the input, as far as they are numbers."""
    smallest, scale = torch.finfo(dtype).smallest_normal, 2.0**100
    input = torch.linspace(1, 40, 1280, dtype=torch.float64).mul(smallest).to(dtype)
    for x in (input, -input):
        far = case.fastact(x * scale).double()
        slopes = far / (x.double() * scale)
        if case.fastact(torch.zeros_like(x)).any() or slopes.std() > 2.0**-7 * slopes.abs().mean():
            continue
        output, expected = case.fastact(x).double(), far / scale
        is_number, is_none = (expected.abs() > smallest * (1 + 2.0**-6)), (expected.abs() < smallest * (1 - 2.0**-6))
        torch.testing.assert_close(output[is_number], expected[is_number], rtol=2.0**-6, atol=0)
        assert not output[is_none].any()
        if case.activation.name not in ("xielu", "snake"):  # sums, in which -0 and 0 are 0
            assert torch.equal(output[is_none].signbit(), expected[is_none].signbit())


@pytest.mark.parametrize("flush", [False, True])
def test_the_threads_own_setting_is_put_back(flush: bool, device: str) -> None:
    import fastact.functional as F

    torch.set_num_threads(2)
    n = 1 << 18
    torch.set_flush_denormal(flush)
    try:
        for _ in range(2):
            assert bool(mxcsr() & FLUSH_TO_ZERO) is flush
            F.gelu(torch.full((n,), -14.0))
        products = torch.full((n,), 2.0**-100) * 2.0**-30  # by both threads
        # torch sets its other threads' registers only when they start: those keep what they had.
        assert (products[: n // 2] == 0).all() if flush else (products == 2.0**-130).all()
    finally:
        torch.set_flush_denormal(False)


def test_float16_keeps_its_subnormal_numbers(device: str) -> None:
    """They are normal ones in float32, where they are computed. A softmax of 2^15 equal classes would be all zeros."""
    import fastact.functional as F

    output = F.softmax(torch.zeros(2, 1 << 15, dtype=torch.float16), -1)
    assert (output == 2.0**-15).all()
    assert F.leaky_relu(torch.full((64,), -(2.0**-10), dtype=torch.float16), 2.0**-10).unique().item() == -(2.0**-20)
