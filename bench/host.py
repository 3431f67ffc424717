"""The host's time for a call that launches a kernel on a GPU, beside torch's for its own.

    python bench/host.py [--device cpu|cuda] [--seconds S] [--out DIR] [NAME ...]

On a GPU the time until the work is issued. Without one, thread CPU time on CPU tensors: fastact's calls go the whole
GPU path to a stand-in for the driver that counts launches and runs nothing, and torch's compute 64 numbers. What is
missing is then the driver's own work, what a GPU's allocator takes, which fastact's calls reach through the dispatcher,
and, in backward, the crossing to the thread that autograd has for a GPU. Batches of both take turns, sweep after sweep
over all rows; the lowest of each counts, for what else the machine does makes them slower only. Writes host.json and
host.md to DIR/HARDWARE after each sweep.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import emulated
import torch
from environment import RESULTS, environment, name_of, result_folder, write_result
from report import table
from torch import Tensor, nn

import fastact
from fastact import gpu
from fastact.catalogue import ACTIVATIONS, torch_module

PASSES = ("forward", "training", "both")
"""Without a gradient; with one, which makes a node; and with its backward."""
GOALS = dict(zip(PASSES, (4.0, 4.0, 5.0), strict=True))  # us more than torch's call
NUMEL = 64
BATCH_SECONDS = 1e-3
FEWEST_CALLS, MOST_CALLS = 20, 200  # the queue of launches that a GPU's driver keeps is 1024 long
FEWEST_SWEEPS, BATCHES = 3, 4

Call = Callable[[], Any]


@dataclass
class Row:
    """A call of fastact's and the same of torch's."""

    name: str
    way: str
    """"function", "module", or "enabled": torch's own function after `fastact.enable()`."""
    passes: str
    fastact: Call
    torch: Call
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What fastact's calls are made within."""
    best: dict[str, float] = field(default_factory=lambda: {"fastact": float("inf"), "torch": float("inf")})
    """Microseconds."""

    @property
    def more(self) -> float:
        return self.best["fastact"] - self.best["torch"]


def of_passes(function: Callable[..., Tensor], inputs: Sequence[Tensor], passes: str) -> Call:
    if passes == "forward":
        return partial(function, *(x.detach() for x in inputs))
    inputs = [x.detach().requires_grad_() for x in inputs]
    if passes == "training":
        return partial(function, *inputs)
    grad = torch.ones_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)


def through_module(module: nn.Module, input: Tensor, passes: str) -> Call:
    if passes == "forward":
        module, input = module.requires_grad_(False), input.detach()
        return lambda: module(input)
    input = input.detach().requires_grad_()
    if passes == "training":
        return lambda: module(input)
    inputs = [input, *module.parameters()]
    grad = torch.ones_like(module(input))
    return lambda: torch.autograd.grad(module(input), inputs, grad)


def rows(device: str) -> Iterator[Row]:
    for name in ("relu", "silu", "gelu", "prelu", "prelu, per channel", "swiglu", "softmax"):
        activation = ACTIVATIONS[name.partition(",")[0]]
        channels = 8 if "channel" in name else 1
        input = torch.randn(NUMEL // 8, 8 * activation.divisor, device=device)
        inputs = [input, *(torch.full((channels,), 0.25, device=device) for _ in activation.weights)]
        keywords = {**activation.arguments(), **activation.keywords}
        ours = partial(getattr(fastact.functional, activation.function), **keywords)
        theirs = partial(activation.reference, **keywords)
        arguments = activation.arguments() | ({"num_parameters": channels} if activation.weights else {})
        for passes in PASSES:
            yield Row(name, "function", passes, of_passes(ours, inputs, passes), of_passes(theirs, inputs, passes))
            module = getattr(fastact, activation.module)(**arguments).to(device)
            stock = torch_module(activation, module, **arguments).to(device)
            calls = (through_module(each, input, passes) for each in (module, stock))
            yield Row(name, "module", passes, *calls)


def enabled_rows(device: str) -> Iterator[Row]:
    for name in ("relu", "silu", "gelu", "softmax"):
        function = partial(torch.softmax, dim=-1) if name == "softmax" else getattr(nn.functional, name)
        for passes in PASSES:
            calls = [of_passes(function, [torch.randn(NUMEL // 8, 8, device=device)], passes) for _ in range(2)]
            yield Row(name, "enabled", passes, *calls, around=partial(fastact.enable, only=name))


class Meter:
    """Microseconds per call of a batch."""

    def __init__(self, device: str) -> None:
        self._wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        # A GPU's backward has a thread of its own, for which the caller waits.
        self._clock = time.perf_counter_ns if device == "cuda" else time.thread_time_ns

    def __call__(self, call: Call, calls: int) -> float:
        self._wait()
        start = self._clock()
        for _ in range(calls):
            call()
        elapsed = self._clock() - start
        self._wait()
        return elapsed / calls / 1e3

    def calls(self, call: Call) -> int:
        """How many make a batch."""
        self(call, FEWEST_CALLS)  # compiles
        each = self(call, FEWEST_CALLS) * 1e-6
        return max(FEWEST_CALLS, min(MOST_CALLS, round(BATCH_SECONDS / each)))


def measure(rows: Sequence[Row], device: str, seconds: float) -> Iterator[None]:
    """Sweeps over the rows for so many seconds."""
    meter = Meter(device)
    sizes: dict[int, int] = {}
    start, sweeps = time.monotonic(), 0
    while sweeps < FEWEST_SWEEPS or time.monotonic() - start < seconds:
        for row in rows:
            for _ in range(BATCHES):
                with row.around(), emulated.emulating(device == "cpu"):
                    calls = sizes.setdefault(id(row), 0) or meter.calls(row.fastact)
                    sizes[id(row)] = calls
                    row.best["fastact"] = min(row.best["fastact"], meter(row.fastact, calls))
                row.best["torch"] = min(row.best["torch"], meter(row.torch, calls))
        sweeps += 1
        yield


def report(where: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown, the worst first."""
    cells = [
        [
            *(row[key] for key in ("name", "way", "passes")),
            *(f"{row[key]:.2f}" for key in ("fastact", "torch")),
            f"**{row['more']:+.2f}**" if row["more"] > row["goal"] else f"{row['more']:+.2f}",
            f"{row['goal']:g}",
        ]
        for row in sorted(rows, key=lambda row: row["goal"] - row["more"])
    ]
    clock = (
        "Time by the host's clock until the work is issued."
        if "gpu" in where["hardware"]
        else "Thread CPU time on CPU tensors: fastact's calls take the GPU path to a stand-in for the driver that runs "
        f"nothing, torch's compute {NUMEL} numbers."
    )
    parts = [
        f"# The host's time for a launch: {name_of(where)}",
        f"Made by `python bench/host.py`, {where['date']}, commit {where['commit']}; torch "
        f"{where['versions']['torch']}. {clock} The lowest of many batches of each, in turns. float32. Passes: forward "
        "without a gradient, forward in training, both forward and backward. `enabled`: torch's own function after "
        "`fastact.enable()`.",
        f"Bold: {sum(row['more'] > row['goal'] for row in rows)} of {len(rows)} rows miss their goal, in us more than "
        f"torch: {', '.join(f'{goal:g} {passes}' for passes, goal in GOALS.items())}. The furthest from it first.",
        table(["activation", "called as", "passes", "fastact, us", "torch, us", "difference", "goal"], cells, 3),
    ]
    return "\n\n".join(parts) + "\n"


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    fixed = ({"name": row.name, "way": row.way, "passes": row.passes, "goal": GOALS[row.passes]} for row in rows)
    return [{**each, **row.best, "more": row.more} for each, row in zip(fixed, rows, strict=True)]


def take_stand_in() -> None:
    """Launches are only counted, and nothing is compiled for them."""
    emulated.be_the_driver()
    emulated.emulator.set_record_only(True)
    gpu.find = lambda name, capability: gpu.Kernel(b"", name.partition(" ")[0], 4, 0, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=60, help="in all; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    options = parser.parse_args()
    if options.device == "cpu":
        take_stand_in()
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # which takes 10 us for a GELU, on CPUs alone
    torch.manual_seed(0)
    gc.disable()  # as timeit does
    where = environment(options.device)
    folder = result_folder(where, options.out)
    done: list[dict[str, Any]] = []
    # Those come last: an op once replaced costs a little more also when it is torch's again.
    for found, share in ((list(rows(options.device)), 0.85), (list(enabled_rows(options.device)), 0.15)):
        chosen = [row for row in found if not options.names or row.name in options.names]
        for _ in measure(chosen, options.device, share * options.seconds) if chosen else ():
            now = done + results(chosen)
            write_result(folder, "host", {"environment": where, "rows": now}, report(where, now))
        done += results(chosen)
    print(report(where, done))


if __name__ == "__main__":
    main()
