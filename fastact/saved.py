"""What a forward pass keeps for backward: a table, layer by layer."""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import libraries, ops
from .convert import as_stock
from .enable import torch_kernels
from .names import folded
from .places import MODULES_CALL
from .recompute import MIN_BYTES, Hooks, recompute

__all__ = ["Kept", "Layer", "Saved", "saved"]


@dataclass(frozen=True)
class Kept:
    """A tensor that a node keeps for backward.

    Examples:
        >>> seen = fastact.saved(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.randn(2, 4))
        >>> kept = seen.rows[-1]
        >>> kept.layer, kept.node, kept.shape, kept.dtype, kept.made_by, kept.bytes
        ('1', 'TanhBackward0', (2, 8), 'float32', 'its output', 64)
    """

    layer: str
    """The innermost module that was running, named as in `model.named_modules()`; "" for the model itself."""
    node: str
    """The node's name, as "ConvolutionBackward0"; "checkpoint" where torch.utils.checkpoint keeps its inputs without a
    node; "" where the output's graph does not show it."""
    shape: tuple[int, ...]
    """As it is kept: of a mask of bits, the bytes."""
    dtype: str
    made_by: str
    """The node whose output it is; "its output", of the node that keeps it; "input", of the model; "" where that is
    unknown, as of masks and a normalisation's statistics."""
    bytes: int
    """Of its whole storage; 0 where another row has that."""
    shared_with: int | None
    """The row that has it, by its number."""
    remade: str = ""
    """The ops that make it again under `fastact.recompute()`: "relu after native_batch_norm"."""
    remade_from: tuple[str, ...] = ()
    """The layers that keep what those read."""
    recompute_bytes: int | None = None
    """Of its storage there and, where it is made again, of those that are kept for that alone; None where recompute
    cannot run."""


class Layer(NamedTuple):
    """What the rows of a layer have together.

    Examples:
        >>> seen = fastact.saved(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.randn(2, 4))
        >>> [(layer.name, layer.bytes) for layer in seen.layers]
        [('0', 32), ('1', 64)]
    """

    name: str
    bytes: int
    recompute_bytes: int | None


@dataclass(frozen=True)
class Saved:
    """What `saved` returns. As text, a table in which like layers share a row.

    Examples:
        >>> seen = fastact.saved(nn.Sequential(nn.Linear(4, 8), fastact.ReLU()), torch.randn(2, 4))
        >>> seen.bytes, seen.torch_bytes, seen.parameter_bytes
        (34, 96, 0)
    """

    rows: tuple[Kept, ...]
    """In the order of the forward pass."""
    bytes: int
    """Kept by the model as it is: with what is enabled and converted, without recompute."""
    torch_bytes: int
    """Kept by torch's ops and classes alone."""
    recompute_bytes: int | None
    """Kept under `fastact.recompute()`; None where that cannot run."""
    parameter_bytes: int
    """Of parameters and buffers that nodes keep. They are there anyway, and in no other number."""

    @property
    def layers(self) -> list[Layer]:
        """What each layer keeps, in the order of the forward pass.

        Examples:
            >>> seen = fastact.saved(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.randn(2, 4))
            >>> max(seen.layers, key=lambda layer: layer.bytes).name
            '1'
        """
        rows: dict[str, list[Kept]] = defaultdict(list)
        for row in self.rows:
            rows[row.layer].append(row)
        return [Layer(name, *_sums(each)) for name, each in rows.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dictionaries and lists, for JSON."""
        return asdict(self)

    def plot(self, path: str | Path) -> None:
        """Draw what each layer keeps, and what of it recompute makes again.

        Args:
            path: the file to write. The ending decides the format.

        Raises:
            ImportError: if matplotlib is missing (`pip install fastact[plot]`).
        """
        from .tools import plot

        plot.kept(path, self)

    def __str__(self) -> str:
        from .tools.info import readable, table

        if not self.rows:
            return "Nothing is kept for backward."
        alike: dict[tuple[str, ...], list[Kept]] = defaultdict(list)
        for row in self.rows:
            alike[self._cells(row, folded)].append(row)
        lines, small = [], []
        for cells, rows in alike.items():
            if sum(self._storage_bytes(row) for row in rows) < LEAST_SHARE * self.bytes:
                small += rows
            else:
                *about, note = cells if len(rows) > 1 else self._cells(rows[0], _whole)
                lines.append([*about, str(len(rows)), *_sizes(rows), note])
        if small:
            lines.append(["(smaller)", "", "", "", "", str(len(small)), *_sizes(small), ""])
        numbers = ["count", "kept", *["recompute"] * (self.recompute_bytes is not None)]
        header = ["layer", "node", "shape", "dtype", "made by", *numbers, ""]
        totals = f"{readable(self.bytes)} kept for backward, {readable(self.torch_bytes)} by torch alone"
        if self.recompute_bytes is not None:
            totals += f", {readable(self.recompute_bytes)} under fastact.recompute()"
        beside = f"Beside them parameters and buffers, {readable(self.parameter_bytes)}, which are there anyway."
        return "\n".join([table(header, lines, right=numbers), "", f"{totals}.", beside])

    def _cells(self, row: Kept, shown: Callable[[str], str]) -> tuple[str, ...]:
        if row.remade:
            sources = ", ".join(dict.fromkeys(map(shown, row.remade_from)))
            note = f"remade by {row.remade}" + f" from {sources}" * bool(sources)
        elif row.shared_with is not None:
            other = self.rows[row.shared_with]
            note = f"kept by {shown(other.layer)} {other.node}".rstrip()
        else:
            note = "not kept under recompute" if row.recompute_bytes == 0 else ""
        return shown(row.layer), row.node, " x ".join(map(str, row.shape)), row.dtype, row.made_by, note

    def _storage_bytes(self, row: Kept) -> int:
        return (row if row.shared_with is None else self.rows[row.shared_with]).bytes


LEAST_SHARE = 1 / 200
"""Of all bytes, for a place of its own in the table and the picture."""


def _whole(path: str) -> str:
    return path or "(model)"


def _sums(rows: Iterable[Kept]) -> tuple[int, int | None]:
    """Of bytes, without recompute and under it."""
    pairs = [(row.bytes, row.recompute_bytes) for row in rows]
    again = [under for _, under in pairs if under is not None]
    return sum(now for now, _ in pairs), sum(again) if again else None


def _sizes(rows: list[Kept]) -> list[str]:
    from .tools.info import readable

    return [readable(each) for each in _sums(rows) if each is not None]


def saved(model: nn.Module, /, *inputs: Any, **kwargs: Any) -> Saved:
    """Run a forward pass of a model, and tell what it keeps for backward.

    It tells which tensors are kept, for which node of which layer, how large they are, with whom they are shared and
    what made them; what makes them again under `fastact.recompute()`; and what torch alone would keep.

    The model runs once for each of the three, with a graph, in training or evaluation as it is. Buffers, torch's random
    state and inputs that it writes over are afterwards what they were; what else a forward changes is not undone. No
    backward runs, and of the passes nothing stays. On the `meta` device it costs no memory at all.

    A tensor counts with its whole storage, once, at the first node that keeps it, if it is still kept when the forward
    pass ends. Parameters and buffers have a number of their own. Functions count for the module that calls them.

    Three things are not seen: what a custom `autograd.Function` keeps on its `ctx` without `save_for_backward`; what
    other hooks on saved tensors pack that the model itself opens (of `torch.utils.checkpoint` its inputs are seen, of
    `save_on_cpu` nothing); and what other threads keep, as `nn.DataParallel`'s.

    Args:
        model: the module. What is enabled and converted counts as it is.
        *inputs: what to call it with.
        **kwargs: what to call it with, by name.

    Returns:
        The tensors and their sums. As text, a table.

    Raises:
        TypeError: if `model` is no module.
        RuntimeError: within a block of `fastact.recompute()`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 256), fastact.ReLU(), nn.Linear(256, 10))
        >>> seen = fastact.saved(model, torch.randn(128, 64))
        >>> [(row.node, row.shape) for row in seen.rows]
        [('AddmmBackward0', (128, 64)), ('ReLUBackward', (4096,)), ('AddmmBackward0', (128, 256))]
        >>> seen.plot("saved.png")
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fastact.saved: model must be a torch.nn.Module, got {type(model).__name__}")
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if top is not None and isinstance(getattr(top[0], "__self__", None), Hooks):
        raise RuntimeError("fastact.saved runs the model in a block of fastact.recompute(): call it outside of one")
    plain: _Pair = (lambda tensor: (tensor.detach(),), lambda packed: packed[0])
    rows, parameters = _forward(model, inputs, kwargs, plain)
    now = sum(row.bytes for row in rows)
    with _torch_alone(model):
        torchs = sum(row.bytes for row in _forward(model, inputs, kwargs, plain)[0])
    if not libraries.HAS_NODES:
        return Saved(tuple(rows), now, torchs, None, parameters)
    hooks = Hooks(MIN_BYTES)
    with recompute():
        again, _ = _forward(model, inputs, kwargs, (hooks.pack, hooks.unpack))
    return Saved(tuple(_joined(rows, again)), now, torchs, sum(row.bytes for row in again), parameters)


def _joined(rows: list[Kept], again: list[Kept]) -> Iterator[Kept]:
    """The rows with what has become of them under recompute, where some may be missing, as masks, and some be new."""
    found: dict[tuple, deque[Kept]] = defaultdict(deque)
    for row in again:
        found[row.layer, row.node, row.shape, row.dtype].append(row)
    for row in rows:
        like = found[row.layer, row.node, row.shape, row.dtype]
        if like:
            under = like.popleft()
            yield replace(row, remade=under.remade, remade_from=under.remade_from, recompute_bytes=under.bytes)
        else:
            yield replace(row, recompute_bytes=0)
    for row in (row for rest in found.values() for row in rest if row.bytes):
        yield replace(row, bytes=0, shared_with=None, recompute_bytes=row.bytes)


@contextmanager
def _torch_alone(model: nn.Module) -> Iterator[None]:
    """Let the model be of stock classes, and call torch's kernels, whatever is enabled and whoever calls."""
    before = dict(vars(ops.run))
    vars(ops.run).update(ops.decomposed_calls())
    try:
        with as_stock(model), torch_kernels():
            yield
    finally:
        vars(ops.run).update(before)


# One pass


_Pair = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]
"""Hooks that pack and unpack."""


def _forward(model: nn.Module, inputs: tuple, kwargs: dict[str, Any], hooks: _Pair) -> tuple[list[Kept], int]:
    """The rows of one pass under a pair of hooks, and the bytes of parameters and buffers."""
    recorder = _Recorder({id(module): name for name, module in model.named_modules()}, hooks)
    with _undone(model, (inputs, kwargs)), torch.inference_mode(False), torch.enable_grad():
        fixed = {key for tensor in (*model.parameters(), *model.buffers()) for key in _storages(tensor)}
        given = {key for tensor in _tensors((inputs, kwargs)) for key in _storages(tensor)}
        first = _nodes_so_far()
        try:
            with saved_tensors_hooks(recorder.pack, recorder.unpack):
                output = model(*inputs, **kwargs)
            recorder.find_nodes(_graph(output, first))
            return _rows(recorder.kept(), fixed, given)
        finally:
            torch.clear_autocast_cache()  # which would keep casts of parameters, and their nodes, for the next pass


@contextmanager
def _undone(model: nn.Module, arguments: Any) -> Iterator[None]:
    """Let buffers, the random state and the arguments be in the end what they are now."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}
    before = [(each, each._version, each.detach().clone()) for each in _tensors(arguments) if not each.is_inference()]
    used = {each.device for each in (*model.parameters(), *model.buffers(), *(each for each, *_ in before))}
    kind = next((device.type for device in used if device.type not in ("cpu", "meta")), "cuda")
    with torch.random.fork_rng([device.index for device in used if device.type == kind], device_type=kind):
        try:
            for module, own in buffers:  # not written back: torch counts no version where batch norm writes statistics
                for name, buffer in own.items():
                    if buffer is not None:
                        if id(buffer) not in copies:
                            copies[id(buffer)] = buffer.detach().clone()
                        module._buffers[name] = copies[id(buffer)]
            yield
        finally:
            for module, own in buffers:  # name by name: a ScriptModule's are no dict
                for name in set(module._buffers.keys()) - own.keys():
                    del module._buffers[name]
                for name, buffer in own.items():
                    module._buffers[name] = buffer
            for tensor, version, values in before:
                if tensor._version != version:
                    tensor.detach().copy_(values)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in containers, dataclasses and other objects, as models take and return them."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif id(value) not in seen and not isinstance(value, (str, bytes, type, nn.Module, FunctionType, ModuleType)):
            seen.add(id(value))
            if isinstance(value, Mapping):
                todo += value.values()
            elif isinstance(value, (list, tuple, set, frozenset)):
                todo += value
            elif is_dataclass(value):
                todo += (getattr(value, field.name, None) for field in fields(value))
            else:
                todo += getattr(value, "__dict__", {}).values()


def _storages(tensor: Tensor) -> dict[int, int]:
    """The sizes of a tensor's storages, by what tells them apart while they live."""
    if is_traceable_wrapper_subclass(tensor):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    elif tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        storage = tensor.untyped_storage()
        return {storage._cdata: storage.nbytes()}
    return {key: size for part in parts for key, size in _storages(part).items()}


# Who keeps what

_CHECKPOINT = str(Path(torch.__file__).with_name("utils") / "checkpoint.py")


class _Packed:
    """What a node holds in a tensor's place."""

    __slots__ = ("__weakref__", "dtype", "layer", "maker", "node", "number", "packed", "shape")
    packed: Any

    def __init__(self, tensor: Tensor, layer: str) -> None:
        self.layer, self.number = layer, _nodes_so_far() - 1
        self.shape = () if tensor.is_nested else tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        # Not the nodes themselves: the one keeps this, and the other may be it.
        self.maker = (-1, "") if tensor.grad_fn is None else _named(tensor.grad_fn)
        self.node = (-1, "")

    def held(self) -> tuple[str, list[Tensor]]:
        """The tensors that it keeps alive: what the hooks have packed or, of a recipe, which comes with the names of
        its ops, what that reads."""
        if isinstance(self.packed, tuple):
            return "", [self.packed[0]]
        names = [name.partition("::")[2] for name in torch.ops.fastact.recipe_op(self.packed).split()]
        names = ["unpacking bits" if name == "relu_backward" else name for name in names]  # of dropout's mask
        sources = torch.ops.fastact.recipe_sources(self.packed)  # among them numbers, which were tensors in C++
        return " after ".join(names), [each for each in sources if isinstance(each, Tensor)]


class _Recorder(Hooks):
    """A pair of hooks on saved tensors around another, which writes down what goes through. One of recompute's, so that
    a block that the model opens does nothing."""

    def __init__(self, names: dict[int, str], hooks: _Pair) -> None:
        self._names, self._around = names, hooks
        self._all: list[weakref.ref[_Packed]] = []  # what is freed before the end is not kept
        self._asked: list[_Packed] | None = None

    def pack(self, tensor: Tensor) -> _Packed:
        frame = sys._getframe(1)
        packed = _Packed(tensor, self._layer(frame))
        if frame.f_code.co_filename == _CHECKPOINT:
            packed.node = (-1, "checkpoint")
        self._all.append(weakref.ref(packed))  # before those that a node saves in place of its mask because of this
        packed.packed = self._around[0](tensor)
        return packed

    def unpack(self, packed: _Packed) -> Tensor:
        if self._asked is None:
            return self._around[1](packed.packed)
        self._asked.append(packed)
        return torch.empty(0)

    def kept(self) -> list[_Packed]:
        """What nodes hold now."""
        return [packed for packed in (each() for each in self._all) if packed is not None]

    def _layer(self, frame: FrameType | None) -> str:
        """The innermost of the model's modules that is being called there."""
        while frame is not None:
            if frame.f_code is MODULES_CALL and (name := self._names.get(id(frame.f_locals["self"]))) is not None:
                return name
            frame = frame.f_back
        return ""

    def find_nodes(self, graph: dict[int, Node]) -> None:
        """Find the node that holds each of them, by the numbers that nodes get when they are made.

        A node saves right after it is made, so that the last number when something is saved is its own; or one less,
        where an op in place saves a clone of what it overwrites, which has a node of its own. In place on a view, the
        node hides in `CopySlices`, which is made next, and a view may be made after that. torch's nodes and those in
        Python can be asked what they hold, and only that counts.
        """
        for packed in self.kept():
            last = packed.number
            for number in (last, last + 1, last - 1):
                node = graph.get(number)
                if node is None or packed.node[1]:
                    continue
                is_clone = number < last and packed.maker == (last, "CloneBackward0")
                if number != last and not is_clone and not _is(node, "CopySlices"):
                    continue
                self._ask(node)
                if _is(node, "CopySlices", "CppFunction"):  # those of other libraries in C++, as fastact's
                    packed.node = _named(node)

    def _ask(self, node: Node) -> None:
        """Note what a node holds, by reading its attributes for that."""
        for raw in [name for name in dir(type(node)) if name.startswith("_raw_saved_")]:
            name = raw.removeprefix("_raw")
            self._asked = []
            with suppress(RuntimeError):  # of a graph that has been used up
                getattr(node, name if hasattr(type(node), name) else name[1:])
            for packed in self._asked:
                packed.node = _named(node)
            self._asked = None


def _nodes_so_far() -> int:
    """How many nodes have been made in this thread: the next one's number."""
    return torch._C._autograd._get_sequence_nr()


def _named(node: Node) -> tuple[int, str]:
    return node._sequence_nr(), node.name().removeprefix("torch::autograd::")


def _is(node: Node, *names: str) -> bool:
    """Whether the node is of one of these classes, which have no names in Python."""
    return type(node).__name__ in names


def _graph(output: Any, first: int) -> dict[int, Node]:
    """The nodes behind the output that were made since, by their numbers."""
    last = _nodes_so_far()
    found: dict[int, Node] = {}
    todo = [tensor.grad_fn for tensor in _tensors(output)]
    while todo:
        node = todo.pop()
        if node is not None and first <= (number := node._sequence_nr()) < last and number not in found:
            found[number] = node
            todo += [before for before, _ in node.next_functions]
    return found


def _rows(kept: list[_Packed], fixed: set[int], given: set[int]) -> tuple[list[Kept], int]:
    """The table, and the bytes of parameters and buffers."""
    parameters: dict[int, int] = {}
    found: list[tuple[_Packed, str, dict[int, int]]] = []
    for packed in kept:
        recipe, tensors = packed.held()
        storages = {key: size for tensor in tensors for key, size in _storages(tensor).items()}
        parameters.update({key: size for key, size in storages.items() if key in fixed})
        storages = {key: size for key, size in storages.items() if key not in fixed}
        if recipe or any(storages.values()):
            found.append((packed, recipe, storages))
    owners: dict[int, int] = {}  # the rows that have the storages: as tensors if any, else for the first recipe
    for as_tensors in (True, False):
        for i, (_, recipe, storages) in enumerate(found):
            if as_tensors is not bool(recipe):
                for key in storages:
                    owners.setdefault(key, i)
    rows = []
    for i, (packed, recipe, storages) in enumerate(found):
        others = list(dict.fromkeys(owners[key] for key in storages if owners[key] != i))
        bytes = sum(size for key, size in storages.items() if owners[key] == i)
        made_by = "its output" if packed.maker[1] and packed.maker == packed.node else packed.maker[1]
        if storages.keys() <= given and not recipe:
            made_by = "input"
        rows.append(
            Kept(
                layer=packed.layer,
                node=packed.node[1],
                shape=packed.shape,
                dtype=packed.dtype,
                made_by=made_by,
                bytes=bytes,
                shared_with=None if recipe or bytes else others[0],
                remade=recipe,
                remade_from=tuple(dict.fromkeys(found[other][0].layer for other in others)) if recipe else (),
            )
        )
    return rows, sum(parameters.values())
