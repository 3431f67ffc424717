"""The Triton kernels and the C++ kernels, side by side; and the same kernels on every instruction set of this CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import cases
import pytest
import torch
from cases import CASES, DTYPES, LAYOUTS, Case

from fastact import cpu

# The interpreter has no fused multiply-add before Triton 3.7; hardware divides approximately.
TOLERANCE = {
    torch.float64: {"rtol": 2e-15, "atol": 1e-15},
    torch.float32: {"rtol": 5e-7, "atol": 2.5e-7},
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 8e-3, "atol": 8e-3},
}


@pytest.mark.only("interpret", "cuda")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_gives_what_cpp_gives(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    from fastact import kernels

    activation = case.activation
    for layout in ("odd", "several blocks", "channels_last", "chunk", "every other"):
        if case.per_channel and len(LAYOUTS[layout][0]) < 2:
            continue
        x = cases.random_input(layout, dtype, "cpu")
        grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        if activation.weight:
            weight = case.weight(x)
            ours = [cpu.prelu(x, *weight), *cpu.prelu_backward(grad, x, *weight)]
            on_gpu = [t.to(on) for t in (grad, x, *weight)]
            theirs = [kernels.prelu(*on_gpu[1:]), *kernels.prelu_backward(*on_gpu)]
            scale = (grad * x).double().abs().sum().item()
            tolerances = [TOLERANCE[dtype]] * 2 + [{"rtol": 0, "atol": scale * torch.finfo(dtype).eps}]
        else:
            parameters = tuple(dict(case.keywords)[name] for name in activation.parameters)
            seeds = [torch.tensor(2**62 + 12345)] if activation.random else []
            bits = activation.saved == "bits"

            def both_ways(backend, device, x=x, grad=grad, bits=bits, seeds=seeds, parameters=parameters):
                arguments = (*(seed.to(device) for seed in seeds), *parameters)
                x = x.to(device)
                y, saved = backend.forward(activation, x, arguments, False, bits)
                y_again, nothing = backend.forward(activation, x, arguments, False, False)
                assert nothing is None
                assert torch.equal(y, y_again)
                saved = saved if bits else y if activation.saved == "output" else x
                aligned = torch.empty_like(y).copy_(grad)
                return [y, backend.backward(activation, aligned, saved, arguments), saved]

            ours, theirs = both_ways(cpu, "cpu"), both_ways(kernels, on)
            tolerances = [TOLERANCE[dtype]] * 2 + [{"rtol": 0, "atol": 0} if bits else TOLERANCE[dtype]]
        for got, expected, tolerance in zip(theirs, ours, tolerances, strict=True):
            torch.testing.assert_close(got.cpu(), expected, **tolerance, msg=lambda m, at=layout: f"{at}: {m}")
            assert got.stride() == expected.stride(), layout


SCRIPT = """
import sys, torch
import cases
from fastact import always_kernels, cpu
print(cpu.instruction_set(), file=sys.stderr)
results = []
with always_kernels():
    for case in cases.CASES:
        for dtype in cases.DTYPES:
            x = torch.cat([torch.linspace(-30, 30, 3001), torch.tensor(cases.SPECIAL)]).to(dtype).requires_grad_()
            torch.manual_seed(0)
            y = case.fastact(x)
            (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
            results.append((str(case), y.detach(), grad))
torch.save(results, sys.argv[1])
"""


@pytest.mark.only("cpu")
def test_instruction_sets_agree(device: str, tmp_path) -> None:
    """Within 2 ULP: each holds the bounds of accuracy by itself, and fuses multiply-adds where it can."""
    if cpu.instruction_set() == "baseline":
        pytest.skip("this CPU has no other instruction set")
    results = {}
    for capability in ("default", "avx2", "avx512"):
        file = tmp_path / capability
        environment = {**os.environ, "FASTACT_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, file], env=environment, capture_output=True, text=True, check=True
        )
        results[done.stderr.split()[-1]] = torch.load(file)
    assert len(results) >= 2
    reference = results.pop("baseline")
    for other in results.values():
        for (name, y, grad), (_, y_other, grad_other) in zip(reference, other, strict=True):
            for a, b in ((y, y_other), (grad, grad_other)):
                assert torch.equal(a.isnan(), b.isnan()), name
                wide, wide_other = a.double().nan_to_num(), b.double().nan_to_num()
                finite = a.isfinite()
                assert torch.equal(wide[~finite], wide_other[~finite]), name
                # A derivative made from a saved output can differ by what two ULP of that output make of it.
                ulp = torch.finfo(a.dtype).eps * wide.abs().clamp_min(torch.finfo(a.dtype).tiny)
                slack = 2 * torch.finfo(a.dtype).eps if a is grad else 0
                assert ((wide - wide_other).abs() <= 2 * ulp + slack)[finite].all(), name


@pytest.mark.only("cpu")
def test_unknown_capability_is_refused(device: str) -> None:
    environment = {**os.environ, "FASTACT_CPU_CAPABILITY": "sse9"}
    code = "import fastact.cpu; fastact.cpu.instruction_set()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "FASTACT_CPU_CAPABILITY must be default, avx2 or avx512, got sse9" in done.stderr


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
        lambda: ops.prelu_backward(x, x.double(), torch.ones(1)),
    ):
        with pytest.raises(RuntimeError, match="fastact::"):
            call()
