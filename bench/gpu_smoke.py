"""Every op and dtype on a GPU beside the C++ kernels on the CPU, in a line each.

    python bench/gpu_smoke.py [--device cuda|emulated] [--processes N] [--dtypes ...] [--shapes RxC ...] [OP ...]

Forward and backward at three sizes, through autograd. A line says "ok", or where the largest difference is, or what
went wrong; the next op goes on. The numbers are in parts of the tolerance. Kernels that nobody has compiled yet are
compiled by so many processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context

import emulated
import torch
from torch import Tensor

from fastact import gpu, ops

DTYPES = ("bfloat16", "float32", "float16", "float64")
SHAPES = {"cuda": ((5, 13), (64, 1000), (512, 4096)), "emulated": ((1, 3), (5, 13), (2, 1032))}
"""Of outputs: a few elements, rows that no vector divides, and several programs of each kernel."""
EPS = {"float32": 8, "float64": 16}  # in other dtypes 2: each side rounds once
MISSING: list[str] = []
"""Why kernels could not be had."""


def numbers(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2).to(dtype)


def arguments(op: ops.Op, shape: tuple[int, int], dtype: torch.dtype) -> tuple[list[Tensor], list]:
    """Tensors, and what follows them."""
    row, (rows, columns) = op.activation, shape
    scalars = [row.samples[0][name] for name in row.scalars]
    one = numbers(rows, columns * (row.divisor if op.packed or row.kind == "maxout" else 1), seed=1, dtype=dtype)
    if row.kind == "softmax":
        return [one], [-1, dtype]
    if op.packed:
        return [one], [-1, False]
    if row.kind == "maxout":
        return [one], [*scalars, -1]
    if row.kind == "gated":
        return [one, numbers(rows, columns, seed=2, dtype=dtype)], []
    if op.biased:
        bias = numbers(columns, seed=2, dtype=dtype)
        return [one, bias, numbers(rows, columns, seed=3, dtype=dtype)], scalars
    weights = [torch.linspace(low, high, columns, dtype=torch.float64).to(dtype) for low, high in row.weights.values()]
    seed = [torch.tensor(2**62 + 12345)] if row.random else []
    return [one, *weights], [*seed, *scalars]


def results(op: ops.Op, shape: tuple[int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Output and gradients, on the CPU."""
    tensors, others = arguments(op, shape, dtype)
    inputs = [tensor.to(device).requires_grad_() for tensor in tensors]
    others = [each.to(device) if isinstance(each, Tensor) else each for each in others]
    output = ops.overload(op.name)(*inputs, *others)
    grad = numbers(*output.shape, seed=4, dtype=dtype).to(device)
    return [each.detach().cpu() for each in (output, *torch.autograd.grad(output, inputs, grad))]


def difference(got: Tensor, expected: Tensor, scale: float) -> tuple[float, str]:
    """The largest, in parts of the tolerance, and where it is."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf"), f"{got.dtype} {tuple(got.shape)} for {expected.dtype} {tuple(expected.shape)}"
    got, expected = got.double().flatten(), expected.double().flatten()
    off = ((got - expected).abs() / (scale * (1 + expected.abs()))).nan_to_num(float("inf"))
    off[got.isnan() & expected.isnan()] = 0
    worst = int(off.argmax())
    return float(off[worst]), f"element {worst} is {got[worst]:.9g}, on the CPU {expected[worst]:.9g}"


def check(task: tuple[str, str], device: str, shapes: Sequence[tuple[int, int]]) -> tuple[bool, str]:
    """Whether all is well, and the line."""
    name, dtype_name = task
    op, dtype = ops.OPS[name], getattr(torch, dtype_name)
    start, worst = time.perf_counter(), (0.0, "")
    MISSING.clear()
    try:
        for shape in shapes:
            with emulated.emulating(device == "emulated"):
                ours = results(op, shape, dtype, "cuda" if device == "cuda" else "cpu")
            with emulated.emulating(False):
                theirs = results(op, shape, dtype, "cpu")
            for i, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
                # The gradients of weights are sums over as many terms as there are rows.
                terms = shape[0] if got.dim() == 1 else 1
                scale = EPS.get(dtype_name, 2) * torch.finfo(dtype).eps * terms
                found, where = difference(got, expected, scale)
                what = "output" if i == 0 else f"gradient {i}"
                worst = max(worst, (found, f"{shape[0]}x{shape[1]}, {what}: {where}"))
    except Exception as error:
        worst = float("inf"), f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if MISSING:  # and torch's ops ran
        worst = float("inf"), MISSING[0]
    found, where = worst
    seconds = f"{time.perf_counter() - start:.1f} s"
    if found <= 1:
        return True, f"ok     {name:24} {dtype_name:9} {found:5.2f}  {seconds}"
    return False, f"WRONG  {name:24} {dtype_name:9} {found:5.2f}  {seconds}  {where}"


def prepare(device: str) -> None:
    """In each process."""
    torch.set_num_threads(1)
    gpu.report_no_kernel = lambda device, text, for_now: MISSING.append(text)  # the next op is tried again
    if device == "emulated":
        emulated.emulator.take_the_gpus_place()


def checks(tasks: Sequence[tuple[str, str]], processes: int, device: str, shapes: Sequence) -> Iterator:
    work = partial(check, device=device, shapes=shapes)
    if processes == 1:
        prepare(device)
        yield from map(work, tasks)
        return
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(processes, get_context("spawn"), prepare, (device,)) as pool:
        yield from pool.map(work, tasks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: all")
    parser.add_argument("--device", choices=("cuda", "emulated"), default="cuda")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--shapes", nargs="+", type=lambda text: tuple(map(int, text.split("x"))), metavar="RxC")
    options = parser.parse_args()
    if unknown := set(options.ops) - set(ops.OPS):
        parser.error(f"no such op: {', '.join(sorted(unknown))}")
    if options.device == "emulated":
        emulated.be_the_driver()
    tasks = list(product(options.ops or ops.OPS, options.dtypes))
    shapes = options.shapes or SHAPES[options.device]
    start, wrong = time.perf_counter(), 0
    for is_right, line in checks(tasks, options.processes, options.device, shapes):
        print(line, flush=True)
        wrong += not is_right
    print(f"{len(tasks) - wrong} of {len(tasks)} right, in {time.perf_counter() - start:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
