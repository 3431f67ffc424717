"""What the benchmarks time, and how: calls made from the catalogue's rows, timed in turn."""

from __future__ import annotations

import ctypes
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastact
from fastact.catalogue import Activation, torch_module

Call = Callable[[], Any]
Meter = Callable[[], float]

BATCH_SECONDS = 2e-3  # about what one timing covers, so that reading the clock costs nothing beside it
MOST_CALLS = 512
SETTLING_CALLS = 16
"""Before each timing: what came before shows in the calls that follow, though less in each (docs/findings/024). Fewer,
at least one, of calls so long that they take more time than BATCH_SECONDS; and as many at the start for those."""
WARM_UP_SECONDS = 5e-3
CALLS_OF_A_GRAPH = 50
MOST_HOLES, HOLE_BYTES = 256, 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in malloc.h
FEWEST_ROUNDS, MOST_ROUNDS = 5, 400
FLAG_GEMS = {"swiglu": "silu_and_mul", "geglu": "gelu_and_mul"}
SAME = 2 * torch.finfo(torch.bfloat16).eps  # a peer computes the same function if it agrees to bfloat16's last digits


def by_host_clock(call: Call, device: str = "cpu", issuing_only: bool = False) -> Meter:
    """Measures seconds per call over a batch. On a GPU up to the end of the work, or only until it is issued."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def measure(calls: int, settling: int) -> float:
        for _ in range(settling):
            call()
        wait()
        start = perf_counter()
        for _ in range(calls):
            call()
        if not issuing_only:
            wait()
        elapsed = perf_counter() - start
        wait()
        return elapsed / calls

    # The first calls compile, allocate, find cold caches and a slow clock; a batch sized by them would be of one call.
    start = perf_counter()
    while perf_counter() - start < WARM_UP_SECONDS:
        measure(1, 0)
    calls = 1
    while calls < MOST_CALLS and calls * (each := min(measure(calls, 0) for _ in range(3))) < BATCH_SECONDS / 2:
        calls *= 2
    if calls == 1:
        each = measure(1, SETTLING_CALLS)
    return partial(measure, calls, max(1, min(SETTLING_CALLS, round(BATCH_SECONDS / each))))


def by_device_events(call: Call) -> Meter:
    """Measures seconds per call on the GPU alone, each call with a cold cache."""
    from triton.testing import do_bench

    return lambda: do_bench(call, warmup=2, rep=8, return_mode="median") * 1e-3


def by_graph_replay(call: Call) -> Meter:
    """Measures seconds per call on the GPU alone, in a graph of many calls: the host leaves no gaps between them. What
    the cache holds of the last call is there."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are loaded, and memory is taken, before the capture
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_OF_A_GRAPH):
            call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def measure() -> float:
        graph.replay()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / CALLS_OF_A_GRAPH

    return measure


def settle_heap() -> None:
    """Lets glibc map only tensors of 32 MiB and more anew, as it does in any process that has freed one a little
    smaller (mallopt(3), M_MMAP_THRESHOLD), and keep the others' memory. Left to itself it returns what is free at the
    heap's end beyond twice the largest so far: at 4 MiB, and with that threshold at 16 MiB, a few bytes or what else
    the process holds decide whose outputs come back at each call as a thousand page faults."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every system's C library is glibc
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def holes_filled(output: Tensor) -> Iterator[None]:
    """Takes, while it is open, the places that freed tensors of this size and masks of its bits have left in glibc's
    heap, so that an output lies where the one of the call before lay. In a heap with many such holes each call is given
    the next: the outputs of a hundred calls, 128 KiB each, had a hundred addresses, and nothing of that was in the
    cache (docs/findings/026). A mask between two outputs of 4 MiB has the same effect on those."""
    sizes = (output.nbytes, output.numel() // 8)
    taken = [
        torch.empty(size, dtype=torch.uint8)
        for size in sizes
        for _ in range(min(MOST_HOLES, HOLE_BYTES // max(1, size)))
    ]
    yield
    taken.clear()


def balanced_orders(count: int) -> list[list[int]]:
    """Orders of so many contenders in which each follows each other one equally often (Williams 1949): it finds the
    caches that the one before it left, and where that was always the same, two that run the same code were seen to
    differ by 5%."""
    zigzag = [(-1) ** place * ((place + 1) // 2) for place in range(count)]
    orders = [[(shift + step) % count for step in zigzag] for shift in range(count)]
    return orders if count % 2 == 0 else orders + [order[::-1] for order in orders]


class Race:
    """Times contenders in turn, round by round: whatever else the machine is doing falls on all of them alike."""

    def __init__(self, meters: dict[str, Meter], seconds: float) -> None:
        self.meters = meters
        self._clear()
        start = perf_counter()
        self.run_round()
        rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, round(seconds / (perf_counter() - start))))
        together = len(balanced_orders(len(meters)))
        self.rounds = -(-rounds // together) * together
        self._clear()

    def _clear(self) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in self.meters}

    def run_round(self) -> dict[str, float]:
        """One timing of each contender."""
        names = list(self.meters)
        orders = balanced_orders(len(names))
        for place in orders[len(self.times[names[0]]) % len(orders)]:
            self.times[names[place]].append(self.meters[names[place]]())
        return {name: times[-1] for name, times in self.times.items()}

    def run(self) -> Race:
        for _ in range(self.rounds):
            self.run_round()
        return self

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def _ratios(self, name: str, to: str) -> list[float]:
        return [a / b for a, b in zip(self.times[name], self.times[to], strict=True)]

    def ratio(self, name: str, to: str) -> float:
        """The median of the ratio within each round, which a slower half of the run leaves as it is."""
        return statistics.median(self._ratios(name, to))

    def ratio_quartiles(self, name: str, to: str) -> list[float]:
        """Of the ratio within each round: how far the rounds agree."""
        ratios = self._ratios(name, to)
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return [low, high]


class Contender(NamedTuple):
    name: str
    call: Call


class Saved(NamedTuple):
    """Bytes kept for backward: all, and those that are neither the input's nor the output's."""

    total: int
    extra: int


class _Recorder(TorchDispatchMode):
    """Notes the ops that run. Detaching a saved tensor is a by-product of looking, and no work."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Contender] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if op is not torch.ops.aten.detach.default:
            name = f"aten.{op._schema.name.removeprefix('aten::')}"
            self.ops.append(Contender(name, partial(op, *args, **kwargs)))
        return op(*args, **kwargs)


def _as_one_op(name: str, call: Call) -> Contender:
    """The ATen op that `call` comes down to, without the Python and the autograd around it; where there are several,
    the call itself."""
    with _Recorder() as recorder:
        call()
    if len(recorder.ops) == 1:
        return recorder.ops[0]
    return Contender(f"{name} ({len(recorder.ops)} aten ops)", call)


def _bound(op: Any, values: dict[str, Any]) -> Call:
    """The op with its arguments, found by their names in its schema."""
    return partial(op, *(values[argument.name] for argument in op._schema.arguments))


def nbytes(*tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


class Case:
    """One activation, as torch and fastact compute it: by their raw ops, and through their modules. `numel` elements
    come out; along the last dimension, where it matters, so many times more go in as the activation divides them by."""

    def __init__(
        self, activation: Activation, dtype: torch.dtype, numel: int, layout: str = "contiguous", device: str = "cpu"
    ) -> None:
        self.activation = activation
        self.sample = activation.samples[0]
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        arguments = activation.arguments()
        self.module = getattr(fastact, activation.module)(**arguments).to(**options)
        self.stock = torch_module(activation, self.module, **arguments).to(**options)
        self.input = _input(numel, activation.divisor, layout, options).requires_grad_()
        with torch.no_grad():
            self.output = self.stock(self.input)
        self.grad = torch.randn_like(self.output)

    def _reference(self, *inputs: Tensor) -> Tensor:
        return self.activation.reference(*inputs, **self.sample, **self.activation.keywords)

    def _inputs(self, module: nn.Module) -> list[Tensor]:
        return [self.input, *module.parameters()]

    def raw_op(self, direction: str, keep_mask: bool) -> tuple[Call, int]:
        """fastact's op, and the bytes that it must move."""
        row = self.activation
        values: dict[str, Any] = {"seed": torch.tensor(1), "grad": self.grad, **self.sample}
        values |= {name: getattr(self.module, name).detach() for name in row.weights}
        values["input"] = self.input.detach()
        name = f"{row.name}_mask" if keep_mask or (row.saved == "mask" and direction == "backward") else row.name
        forward = _bound(getattr(torch.ops.fastact, name).default, values)
        result = forward()
        outputs = result if isinstance(result, tuple) else (result,)
        if direction == "forward":
            return forward, nbytes(*forward.args, *outputs)
        values |= {"output": outputs[0], "mask": outputs[-1]}
        backward = _bound(getattr(torch.ops.fastact, f"{row.name}_backward").default, values)
        gradients = backward()
        return backward, nbytes(*backward.args, *(gradients if isinstance(gradients, tuple) else (gradients,)))

    def aten_op(self, direction: str) -> Contender:
        """ATen's op for the same; where ATen has no single one, torch's function or its autograd."""
        inputs = [
            self.input,
            *(getattr(self.module, name).detach().requires_grad_() for name in self.activation.weights),
        ]
        if direction == "forward":
            detached = [x.detach() for x in inputs]
            return _as_one_op("torch", lambda: self._reference(*detached))
        output = self._reference(*inputs)
        gradient = partial(torch.autograd.grad, output, inputs, self.grad, retain_graph=True)
        return _as_one_op("torch.autograd", gradient)

    def through(self, module: Callable[[Tensor], Tensor], direction: str, inputs: list[Tensor] | None = None) -> Call:
        """A call through a module with autograd: "forward", "backward" or "both"."""
        inputs = [self.input] if inputs is None else inputs
        if direction == "forward":
            return lambda: module(self.input)
        if direction == "backward":
            return partial(torch.autograd.grad, module(self.input), inputs, self.grad, retain_graph=True)
        return lambda: torch.autograd.grad(module(self.input), inputs, self.grad)

    def fastact_module(self, direction: str) -> Call:
        return self.through(self.module, direction, self._inputs(self.module))

    def peers(self, direction: str, which: str) -> Iterator[Contender]:
        """The same through others' modules: torch's first, then the "compiled" one or "all"."""
        yield Contender("torch", self.through(self.stock, direction, self._inputs(self.stock)))
        if which != "torch":
            torch._dynamo.reset()
            # Its backward may else recycle what the graph holds, and could run only once.
            torch._functorch.config.donated_buffer = False
            module = torch.compile(self.stock, fullgraph=True, dynamic=False)
            yield Contender("torch.compile", self.through(module, direction, self._inputs(self.stock)))
        if which == "all" and self.input.is_cuda and not self._inputs(self.stock)[1:]:
            for name, function in self._other_libraries():
                if direction == "forward" or function(self.input).requires_grad:
                    yield Contender(name, self.through(function, direction))

    def _other_libraries(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """What installed libraries call by the same name, where it takes the same arguments and gives the same."""
        row, arguments = self.activation, self.activation.arguments()
        for library, path, attribute in (
            ("liger-kernel", "liger_kernel.transformers.functional", f"liger_{row.name}"),
            ("flag-gems", "flag_gems.ops", row.function),
            ("flag-gems", "flag_gems.fused", FLAG_GEMS.get(row.name)),
            ("attorch", "attorch", row.module),
        ):
            try:
                function = getattr(importlib.import_module(path), attribute)
                if row.kind == "gated" and row.stock is None:
                    function = partial(_of_halves, function)
                else:
                    function = function(**arguments) if isinstance(function, type) else partial(function, **arguments)
                torch.testing.assert_close(function(self.input).detach(), self.output, atol=SAME, rtol=SAME)
            except Exception:  # not installed, or another signature: no peer in this row
                continue
            yield library, function

    def saved(self, module: Callable[[Tensor], Tensor]) -> Saved:
        """What one forward through a module keeps for backward, each storage counted once."""
        storages: dict[int, int] = {}
        whole = self.input.untyped_storage().data_ptr()

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            size = min(tensor.nbytes, storage.nbytes())  # less than the storage in a view, than the tensor if expanded
            if storage.data_ptr() == whole:
                size = self.input.nbytes  # a part of the input, as the gate, keeps all of it
            storages[storage.data_ptr()] = max(size, storages.get(storage.data_ptr(), 0))
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = module(self.input)
        inputs_and_output = {x.untyped_storage().data_ptr() for x in (self.input, output)}
        return Saved(
            sum(storages.values()),
            sum(size for address, size in storages.items() if address not in inputs_and_output),
        )

    def module_bytes(self, direction: str) -> int:
        """What fastact's module must move: the tensors in and out, and what it keeps for backward."""
        saved = self.saved(self.module)
        forward = nbytes(self.input, self.output) + saved.extra
        backward = nbytes(self.grad, self.input) + saved.total
        return {"forward": forward, "backward": backward, "both": forward + backward}[direction]


def _of_halves(function: Callable[[Tensor, Tensor], Tensor], input: Tensor) -> Tensor:
    """Where gate and value are arguments of their own, in this order: other libraries' gated units."""
    value, gate = input.chunk(2, -1)
    return function(gate, value)


def _input(numel: int, divisor: int, layout: str, options: dict[str, Any]) -> Tensor:
    """Normal numbers, from which rows of 1024 are computed. "rows": each second half of rows twice as long. "odd": a
    number of elements that no power of two above 2 divides. "columns=N": rows of N, as many as come near. "values=A,B":
    uniform numbers from A to B."""
    if layout.startswith("values="):
        low, high = map(float, layout.removeprefix("values=").split(","))
        shape = numel // 1024, 1024 * divisor
        # Of infinities and NaN there is no range.
        input = torch.full(shape, low, **options)
        return input + (high - low) * torch.rand(shape, **options) if low < high else input
    if layout.startswith("columns="):
        columns = int(layout.removeprefix("columns="))
        return torch.randn(numel // columns, columns * divisor, **options)
    if layout == "odd":
        return torch.randn(numel // 1024 + 1, 1022 * divisor, **options)
    if numel % 1024:
        return torch.randn(numel * divisor, **options)
    if layout == "rows":
        return torch.randn(numel // 1024, 2048 * divisor, **options)[:, 1024 * divisor :]
    return torch.randn(numel // 1024, 1024 * divisor, **options)


def limits(input: Tensor) -> dict[str, tuple[Call, int]]:
    """The streams that a kernel over `input` is held against, with the bytes they move: a copy, and two reads and a
    write. Into memory that exists: what a fresh output costs is the contenders' own affair."""
    a, b, c = (torch.ones(-(-input.nbytes // 4), dtype=torch.int32, device=input.device) for _ in range(3))
    return {"copy": (lambda: b.copy_(a), nbytes(a, b)), "stream": (lambda: torch.add(a, b, out=c), nbytes(a, b, c))}


def peak_bytes(call: Call) -> int:
    """The GPU memory that a call takes at most, beyond what was taken before."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
