"""The Triton kernels and the C++ kernels, side by side; and the same kernels on every instruction set of this CPU."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from platform import machine

import pytest
import torch
from cases import CASES, DTYPES, LOOPS, Case, cpp_kernel, kernel, run_kernels

from fastact import libraries, ops

# In eps. A GPU's reciprocals and exponentials of two are approximate (docs/findings/028): each side may be some ULPs
# off, in float64 a derivative 4 (`test_accuracy`). 16-bit results differ where one side of the midpoint between two of
# them is rounded up and the other down.
TOLERANCE = {
    dtype: {"rtol": relative * torch.finfo(dtype).eps, "atol": absolute * torch.finfo(dtype).eps}
    for dtype, relative, absolute in (
        (torch.float64, 8, 4),
        (torch.float32, 4, 2),
        (torch.float16, 1, 1),
        (torch.bfloat16, 1, 1),
    )
}


@pytest.mark.formula
@pytest.mark.only("emulated", "cuda")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gpu_gives_what_cpp_gives(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    layouts = ["odd", "chunk", *(["channels_last", "every other"] if case in LOOPS else [])]
    if case in LOOPS or case.activation.kind == "softmax":
        layouts.append("several blocks")
    for layout in layouts:
        if layout not in case.layouts():
            continue
        x = case.input(layout, dtype, "cpu")
        like_output = case.fastact(x)
        grad = torch.randn(like_output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        ours = run_kernels(case, cpp_kernel, x, grad)
        # Arranged there: `to` would make it contiguous.
        theirs = run_kernels(case, kernel, case.input(layout, dtype, on), grad.to(on))
        for i, (got, expected) in enumerate(zip(theirs, ours, strict=True)):
            tolerance = TOLERANCE[dtype]
            if case.activation.weights and i > 1:
                # A sum that may cancel: its error is relative to the size of its terms.
                eps = torch.finfo(dtype).eps
                tolerance = {"rtol": eps, "atol": eps * case.terms(x, grad)}
            if not expected.is_floating_point():
                tolerance = {"rtol": 0, "atol": 0}
            if case.activation.name == "log_softmax" and i == 1:
                # What is subtracted of the gradient is a share of the sum of all, whose error is relative to its terms.
                share = ours[0].double().exp() * grad.double().abs().sum(-1, keepdim=True)
                scale = share.clamp_min(1).to(dtype)
                got, expected = got.cpu() / scale, expected / scale
            torch.testing.assert_close(got.cpu(), expected, **tolerance, msg=lambda m, at=layout: f"{at}: {m}")
            assert theirs[i].stride() == ours[i].stride(), layout


SCRIPT = """
import sys, torch
import cases
from fastact import libraries, ops, thresholds
print(ops.instruction_set(), file=sys.stderr)
thresholds.apply({})  # which differ by instruction set: rows of softmax's would be torch's in one alone
results = []
for case in cases.CASES:
    for dtype in cases.DTYPES:
        x = torch.cat([torch.linspace(-30, 30, 3001), torch.tensor(cases.SPECIAL)])
        x = x[: len(x) // 12 * 12].to(dtype).requires_grad_()
        torch.manual_seed(0)
        curve, _ = case.curves()
        y = curve(x)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
        results.append((str(case), y.detach(), grad))
torch.save(results, sys.argv[1])
"""


@pytest.mark.only("cpu")
def test_instruction_sets_agree(device: str, tmp_path) -> None:
    """All with fused multiply-adds give the same bits. The baseline makes them up, of two roundings in float64."""
    if ops.instruction_set() == "baseline":
        pytest.skip("this CPU has no other instruction set")
    results = {}
    for capability in ("default", "avx2", "avx512")[: 2 if ops.instruction_set() == "avx2" else 3]:
        file = tmp_path / capability
        environment = {**os.environ, "FASTACT_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, file], env=environment, capture_output=True, text=True, check=True
        )
        results[done.stderr.split()[-1]] = torch.load(file)
    assert len(results) >= 2
    baseline, (first, *rest) = results.pop("baseline"), results.values()
    for other in rest:
        for (name, *tensors), (_, *tensors_other) in zip(first, other, strict=True):
            for a, b in zip(tensors, tensors_other, strict=True):
                assert torch.equal(a.isnan(), b.isnan()), name
                a, b = a.where(~a.isnan(), math.pi), b.where(~b.isnan(), math.pi)  # NaN's sign is nobody's business
                assert torch.equal(a, b), name
                assert torch.equal(a.signbit(), b.signbit()), name
    for (name, y, grad), (_, y_other, grad_other) in zip(baseline, first, strict=True):
        for direction, a, b in (("forward", y, y_other), ("backward", grad, grad_other)):
            assert torch.equal(a.isnan(), b.isnan()), name
            a, b = a.where(~a.isnan(), math.pi), b.where(~b.isnan(), math.pi)
            if a.dtype != torch.float64:
                assert ((a == b) | (a.nextafter(b) == b)).all(), name
                continue
            finite = a.isfinite()
            assert torch.equal(a[~finite], b[~finite]), name
            # A derivative made from a saved output can differ by what two ULP of that output make of it.
            eps, slack = torch.finfo(a.dtype).eps, 2 * torch.finfo(a.dtype).eps if direction == "backward" else 0
            ulp = eps * a.abs().clamp_min(torch.finfo(a.dtype).tiny)
            assert ((a - b).abs() <= 2 * ulp + slack)[finite].all(), name


@pytest.mark.only("cpu")
def test_unknown_capability_is_refused(device: str) -> None:
    environment = {**os.environ, "FASTACT_CPU_CAPABILITY": "sse9"}
    code = "from fastact import ops; ops.instruction_set()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "FASTACT_CPU_CAPABILITY must be default, avx2 or avx512, got sse9" in done.stderr


@pytest.mark.only("cpu")
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not say who made the CPU")
def test_vendor_is_what_the_system_says(device: str) -> None:
    names = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    vendors = {value.strip() for key, _, value in lines if key.strip() == "vendor_id"} or {""}
    assert {names.get(vendor, "") for vendor in vendors} == {ops.vendor()}


@pytest.mark.only("cpu")
@pytest.mark.skipif(machine() != "x86_64" or not shutil.which("objdump"), reason="needs objdump, on x86")
def test_lines_can_be_asked_for_early(device: str) -> None:
    """Compilers may take a prefetch for something without effect, and GCC 12 did so once with all of them."""
    library = Path(ops.__file__).with_name("libfastact.so")
    code = subprocess.run(["objdump", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "prefetchw" in code


@pytest.mark.only("cpu")
def test_raw_ops_refuse_what_they_cannot_read(device: str) -> None:
    ops = torch.ops.fastact
    x = torch.randn(10)
    for call in (
        lambda: ops.relu(x.int()),
        lambda: ops.sigmoid_backward(x, x.double()),
        lambda: ops.sigmoid_backward(x, x[:5]),
        lambda: ops.relu_backward(x, torch.zeros(1, dtype=torch.uint8)),
        lambda: ops.relu_backward(x, torch.zeros(2)),
        lambda: ops.rrelu(x, torch.tensor(1.0), 0.1, 0.2),
        lambda: ops.prelu(x, torch.ones(3)),
        lambda: ops.prelu(x, torch.ones(1, dtype=torch.float64)),
        lambda: ops.prelu(x.double(), torch.ones(1)),
        lambda: ops.prelu(x.half(), torch.ones(1, dtype=torch.bfloat16)),
        lambda: ops.prelu_backward(x, x.double(), torch.ones(1)),
        lambda: ops.softmax(x, 1, x.dtype),
        lambda: ops.softmax(x, 0, torch.float16),
        lambda: ops.softmax(x.int(), 0, torch.float32),
        lambda: ops.softmax_backward(x, x[:5], 0, x.dtype),
        lambda: ops.log_softmax_backward(x, x.double(), 0, x.dtype),
        lambda: ops.softmin_backward(x, x, 0, torch.float64),
        lambda: ops.swiglu(x, x.double()),
        lambda: ops.swiglu(x, x[:5]),
        lambda: ops.swiglu_backward(x, x, x[:5]),
        lambda: ops.swiglu_backward(x, x.double(), x),
        lambda: ops.swiglu_packed(x[:9], 0, False),
        lambda: ops.swiglu_packed(x, 1, False),
        lambda: ops.swiglu_packed(x[0], 0, False),
        lambda: ops.swiglu_packed_backward(x, x, 0, False),
        lambda: ops.swiglu_packed_backward(x[:5], x.double(), 0, False),
    ):
        with pytest.raises(RuntimeError, match="fastact::"):
            call()


@pytest.mark.only("cpu")
def test_maxouts_ops_refuse_what_they_cannot_read(device: str) -> None:
    ops = torch.ops.fastact

    def forward(input: torch.Tensor, pieces: int = 2, dim: int = -1) -> None:
        ops.maxout(input, pieces, dim)
        ops.maxout_indices(input, pieces, dim)

    x, grad, indices = torch.zeros(6, 4), torch.zeros(6, 2), torch.zeros(6, 2).byte()
    forward(x)
    ops.maxout_backward(grad, indices, 2, 1)
    for call in (
        lambda: forward(x.int()),
        lambda: forward(x, 3),
        lambda: forward(x, 1),
        lambda: forward(torch.zeros(6, 512), 256),
        lambda: forward(x, dim=2),
        lambda: forward(torch.tensor(0.0)),
        lambda: ops.maxout_backward(grad.int(), indices, 2, 1),
        lambda: ops.maxout_backward(grad, indices.short(), 2, 1),
        lambda: ops.maxout_backward(grad, indices[:3], 2, 1),
        lambda: ops.maxout_backward(grad, indices, 256, 1),
        lambda: ops.maxout_backward(grad, indices, 2, -3),
    ):
        with pytest.raises(RuntimeError, match="fastact::maxout"):
            call()


def results(case: Case, layout: str, dtype: torch.dtype, on: str) -> list[torch.Tensor]:
    """The output and the gradients, of a gated unit for one tensor and for two."""
    x = case.input(layout, dtype, on)
    weights = case.weights(x)
    found = []
    calls = [(case.fastact, (x, *weights))]
    if case.activation.kind == "gated":
        calls += [(kernel(case.activation.name), halves) for halves in (x.chunk(2, -1), x.contiguous().view(2, -1))]
    for function, tensors in calls:
        inputs = [each.detach().requires_grad_() for each in tensors]
        torch.manual_seed(0)
        y = function(*inputs)
        grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(dtype).to(on).view(y.shape)
        found += y, *torch.autograd.grad(y, inputs, torch.empty_like(y).copy_(grad))
    with torch.no_grad():
        return [*found, case.fastact(x.detach(), *weights)]


@pytest.mark.skipif(not libraries.HAS_NODES, reason="nodes in C++ alone call by pointers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [*LOOPS, *(case for case in CASES if case.per_channel)], ids=str)
def test_calls_by_pointers_give_what_ops_give(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    for layout in set(case.layouts()) & {"0-d", "odd", "several blocks", "unaligned", "channels_last", "chunk"}:
        torch.ops.fastact.call_directly(0)
        try:
            expected = results(case, layout, dtype, on)  # after which a GPU's kernels are loaded
        finally:
            torch.ops.fastact.call_directly(torch.ops.fastact.direct_calls())
        for got, want in zip(results(case, layout, dtype, on), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
            assert got.stride() == want.stride()
