"""Compiles kernels by their names.

A name says which kernel and all that it is specialized for, in fields with blanks between them. csrc/gpu makes names
and launches what comes of them; its parameters are those listed here, in order, and two null pointers that Triton adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from ..catalogue import ACTIVATIONS, Activation
from . import elementwise, gated, lowp, maxout, programs, softmax


class Source(NamedTuple):
    """What the compiler is told, and what a launch needs to know."""

    kernel: Any
    signature: dict[str, Any]
    """By parameter: types, in tuples where the parameter is one."""
    constants: dict[tuple[int, ...], Any]
    """By the parameter's place."""
    attributes: dict[tuple[int, ...], list[list[Any]]]
    """By the parameter's place: what its value can be divided by."""
    num_warps: int
    block: int
    """Elements of a tile, or its columns."""
    tile_rows: int


class _Dtype(NamedTuple):
    pointer: str
    itemsize: int
    compute: tl.dtype
    """What formulas compute in."""
    block: int
    """64 bytes per thread of four warps: four 128-bit accesses in flight for each operand. For float64, whose divisions
    are calls, half of that: with more numbers alive across the calls, some are spilled."""


_DTYPES = {
    "float32": _Dtype("*fp32", 4, tl.float32, 2048),
    "float64": _Dtype("*fp64", 8, tl.float64, 512),
    "float16": _Dtype("*fp16", 2, tl.float32, 4096),
    "bfloat16": _Dtype("*bf16", 2, tl.float32, 4096),
}


class _Formulas(tuple):
    """Formulas that are a kernel's constant. Triton's cache has kernels by their source and that of functions that it
    calls or is given, but of what is in a tuple by the name alone."""

    @property
    def cache_key(self) -> str:
        return " ".join(_Formulas(each).cache_key if isinstance(each, tuple) else each.cache_key for each in self)


class _Program(NamedTuple):
    """What an elementwise kernel computes."""

    name: str
    """In profilers, after "fastact_"."""
    function: Any
    """One of `programs`."""
    formulas: tuple[Any, ...]
    """That the function composes."""
    inputs: tuple[str, ...]
    """Kinds of operands. A channel's may turn out to be a number."""
    outputs: tuple[str, ...]


def _formula(family: str, name: str, dtype: str) -> Any:
    """Returns the formula of a family, or its shorter variant for 16-bit types; None if it has none."""
    shorter = getattr(lowp, name, None) if _DTYPES[dtype].itemsize == 2 else None
    return shorter or getattr(import_module(f".{family}", __package__), name, None)


@cache
def _program(row: Activation, part: str, dtype: str) -> _Program:
    """Returns what computes the forward, the same with a mask, or the backward of an activation."""

    def find(*parts: str) -> tuple[Any, ...]:
        """The formulas of these parts that there are."""
        found = (_formula(row.family, f"{row.name}_{part}", dtype) for part in parts)
        return tuple(formula for formula in found if formula is not None)

    name = f"{row.name}_{'backward' if part == 'backward' else 'forward'}"
    tile, seed, weights = ("tile",), ("seed",) * row.random, ("channel",) * len(row.weights)
    if row.kind == "gated":
        family, gate = gated.GATES[row.name]
        formulas = tuple(_formula(family, f"{gate}_{part}", dtype) for part in ("forward", "derivative"))
        if part == "forward":
            return _Program(name, programs.gated_forward, formulas[:1], tile * 2, tile)
        return _Program(name, programs.gated_backward, find("backward") or formulas, tile * 3, tile * 2)
    if row.kind == "channelwise":
        if part == "forward":
            return _Program(name, programs.weighted_forward, find("forward"), tile + weights, tile)
        formulas = find("grad_input", *(f"grad_{weight}" for weight in row.weights))
        sums = ("sum",) * len(row.weights)
        return _Program(name, programs.weighted_backward, formulas, tile * 2 + weights, tile + sums)
    if part != "backward":
        function = programs.random_forward if row.random else programs.forward
        mask = (part,) * (part == "mask")
        return _Program(name, function, find("forward", *("keep" for _ in mask)), tile + seed, tile + mask)
    if row.saved == "mask":
        function = programs.random_mask_backward if row.random else programs.mask_backward
        return _Program(name, function, find("dropped", "kept"), ("tile", "mask", *seed), tile)
    if formulas := find("gradient"):
        return _Program(name, programs.gradient_backward, formulas, tile * 2, tile)
    return _Program(name, programs.derivative_backward, find("derivative"), tile * 2, tile)


@cache
def _bias_program(row: Activation, part: str, dtype: str, tiles: int = 1) -> _Program:
    """Returns what computes the same of an input with a bias."""
    alone = _program(row, part, dtype)
    if part != "backward":
        function, inputs, outputs = programs.bias_forward, ("tile",) * tiles + ("channel",), alone.outputs
    else:
        if row.saved == "output":
            formulas = alone.formulas + _program(row, "forward", dtype).formulas
            alone = alone._replace(function=programs.recomputed_backward, formulas=formulas)
        bias = () if row.saved == "mask" else ("channel",)
        function, inputs, outputs = programs.bias_backward, alone.inputs + bias, ("tile", "sum")
    return _Program(f"bias_{alone.name}", function, (alone.function, alone.formulas), inputs, outputs)


class _Fields:
    """A name's fields, read one after another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._left = name.split(" ")

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"no kernel has the name {self.name!r}: {what}")

    def op(self) -> str:
        return self._left.pop(0)

    def tile(self) -> tuple[int, int]:
        """The next field, two powers of 2 and an x between them."""
        field = self._left.pop(0) if self._left else ""
        sizes = field.split("x")
        if len(sizes) != 2 or not all(size.isdecimal() and int(size).bit_count() == 1 for size in sizes):
            raise self.wrong(f"for its tile it has {field!r}, not two powers of 2 as in 4x512")
        return int(sizes[0]), int(sizes[1])

    def choice(self, what: str, choices: Sequence[str]) -> str:
        """The next field, which must be one of these."""
        field = self._left.pop(0) if self._left else ""
        if field not in choices:
            raise self.wrong(f"for its {what} it has {field!r}, not one of {', '.join(choices)}")
        return field

    def dtype(self) -> str:
        return self.choice("dtype", tuple(_DTYPES))

    def flag(self, field: str) -> bool:
        """Whether the next field is this one."""
        found = self._left[:1] == [field]
        del self._left[:found]
        return found

    def end(self) -> None:
        if self._left:
            raise self.wrong(f"{self._left[0]!r} does not belong there")


_DIVIDER_TYPES = {False: ("u32",) * 3, True: ("u64",) * 3}
_ALIGNMENT = 16


def _source(
    kernel: Any, types: dict[str, Any], constants: dict[str, Any], divisors: dict[tuple, int],
    num_warps: int, block: int, tile_rows: int = 1,
) -> Source:  # fmt: skip
    """Of parameters by their names. Divisors are by a parameter's name and, in a tuple, the place there."""
    places = {name: place for place, name in enumerate(kernel.arg_names)}
    empty = {name: () for name, each in types.items() if each == ()}
    constants = constants | empty
    return Source(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names},
        {(places[name],): value for name, value in constants.items()},
        {(places[name], *rest): [["tt.divisibility", by]] for (name, *rest), by in divisors.items()},
        num_warps,
        block,
        tile_rows,
    )


def _elementwise(op: str, fields: _Fields) -> Source:
    biased = op.startswith("bias_")
    row = ACTIVATIONS.get(op.removeprefix("bias_"))
    kinds = ("pointwise",) if biased else ("pointwise", "channelwise", "gated")
    if row is None or row.kind not in kinds or (biased and row.random):
        raise fields.wrong(f"there is no op {op!r}")
    part = fields.choice("part", ("forward", *("mask",) * (row.saved == "mask"), "backward"))
    dtype = fields.dtype()
    if biased:
        residual = part != "backward" and fields.flag("residual")
        program = _bias_program(row, part, dtype, 1 + residual)
    else:
        program = _program(row, part, dtype)
    return (_with_sums if "sum" in program.outputs else _flat)(program, dtype, fields)


def _computed(program: _Program, inputs: tuple[str, ...], dtype: str) -> dict[str, Any]:
    """The constants of both elementwise kernels: what is computed, of inputs of these kinds, and in what."""
    return {
        "formulas": _Formulas(program.formulas),
        "NAME": program.name,
        "FN": program.function,
        "IN": tuple(elementwise.KINDS[kind] for kind in inputs),
        "OUT": tuple(elementwise.KINDS[kind] for kind in program.outputs),
        "COMPUTE": _DTYPES[dtype].compute,
    }


def _flat(program: _Program, dtype: str, fields: _Fields) -> Source:
    """Parameters: inputs; outputs; a divider and strides of rows; dividers of channels; scalars; n."""
    is_aligned, in_rows = not fields.flag("unaligned"), fields.flag("rows")
    span, weights = None, dtype
    inputs = program.inputs
    if "channel" in inputs:
        span = fields.choice("channels", [f"channel={each}" for each in ("number", "one", "next", "two", "any")])
        span = span.removeprefix("channel=")
        weights = "float32" if fields.flag("weights=float32") else dtype
    divider = _DIVIDER_TYPES[fields.flag("wide")]
    fields.end()
    if span == "number":
        inputs = tuple("number" if kind == "channel" else kind for kind in inputs)
        span = None
    pointers = {"tile": _DTYPES[dtype].pointer, "mask": "*u8", "seed": "*i64"}
    pointers |= dict.fromkeys(("channel", "number"), _DTYPES[weights].pointer)
    aligned = {*["tile"] * is_aligned, *["channel"] * (span == "next")}
    types = {
        "ins": tuple(pointers[kind] for kind in inputs),
        "outs": tuple(pointers[kind] for kind in program.outputs),
        "row": divider if in_rows else (),
        "strides": ("i64",) * (inputs + program.outputs).count("tile") if in_rows else (),
        "inner": divider if span in ("one", "two", "any") else (),
        "count": divider if span else (),
        "scalars": ("fp64",) * _scalars(program),
        "n": "i64",
    }
    divisors = {
        (name, place): _ALIGNMENT
        for name, kinds in (("ins", inputs), ("outs", program.outputs))
        for place, kind in enumerate(kinds)
        if kind in aligned
    }
    if is_aligned:
        by = _ALIGNMENT // _DTYPES[dtype].itemsize
        divisors |= {("strides", place): by for place in range(len(types["strides"]))}
    block = _DTYPES[dtype].block
    constants = _computed(program, inputs, dtype) | {"SPAN": span, "BLOCK": block}
    return _source(elementwise.elementwise, types, constants, divisors, 4, block)


def _with_sums(program: _Program, dtype: str, fields: _Fields) -> Source:
    """Parameters: inputs; outputs; parts; scalars; outer, count, inner; splits; a divider of runs."""
    is_aligned = not fields.flag("unaligned")
    channel = fields.choice("channels", [f"channel={each}" for each in ("number", "inner", "outer")])
    channel = channel.removeprefix("channel=")
    ragged = channel != "number" and fields.flag("ragged")
    inputs = program.inputs
    weights = "float32" if "channel" in inputs and fields.flag("weights=float32") else dtype
    divider = _DIVIDER_TYPES[channel == "inner" and fields.flag("wide")]
    fields.end()
    if channel == "number":
        inputs = tuple("number" if kind == "channel" else kind for kind in inputs)
    pointer, itemsize, compute, _ = _DTYPES[dtype]
    pointers = {"tile": pointer, "mask": "*u8", **dict.fromkeys(("channel", "number"), _DTYPES[weights].pointer)}
    types = {
        "ins": tuple(pointers[kind] for kind in inputs),
        "outs": (pointer,),
        "parts": "*fp64" if compute == tl.float64 else "*fp32",
        "scalars": ("fp64",) * _scalars(program),
        **dict.fromkeys(("outer", "count", "inner"), "i64"),
        "splits": "i32",
        "run": divider if channel == "inner" else (),
    }
    divisors = {}
    if is_aligned:
        tiles = [("ins", place) for place, kind in enumerate(inputs) if kind == "tile"]
        divisors = dict.fromkeys([*tiles, ("outs", 0)], _ALIGNMENT)
    if not ragged and channel != "number":
        divisors["inner" if channel == "inner" else "count",] = 8
    lanes = 4 * 32 * 2 // itemsize
    rounds = 1 if ragged else 2  # sums, and addresses of single elements, take registers
    columns = 64
    constants = _computed(program, inputs, dtype) | {
        "CHANNEL": channel,
        "RAGGED": ragged,
        "ROUNDS": rounds,
        "LANES": lanes,
        "COLUMNS": columns,
    }
    kernel, block = elementwise.elementwise_with_sums, rounds * lanes * 8
    if channel == "outer":
        return _source(kernel, types, constants, divisors, 4, columns, block // columns)
    return _source(kernel, types, constants, divisors, 4, block)


def _parts(fields: _Fields) -> Source:
    """Parameters: parts; outputs; splits; count."""
    parts = fields.choice("parts' dtype", ("float32", "float64"))
    weights, sums = fields.dtype(), int(fields.choice("sums", ("1", "2")))
    fields.end()
    types = {"parts": _DTYPES[parts].pointer, "outs": (_DTYPES[weights].pointer,) * sums}
    types |= {"splits": "i32", "count": "i64"}
    constants = {"NAME": "parts", "SPLITS": 512, "CHANNELS": 8}
    return _source(elementwise.add_parts, types, constants, {}, 8, 8)


def _scalars(program: _Program) -> int:
    """How many scalars the op has."""
    op = program.name.removeprefix("bias_").rpartition("_")[0]
    return len(ACTIVATIONS[op].scalars)


def _softmax(op: str, fields: _Fields) -> Source:
    """Parameters: x, y or grad, y, grad_input; lanes, columns, inner."""
    forward = fields.choice("part", ("forward", "backward")) == "forward"
    first, last = fields.dtype(), fields.dtype()
    in_rows = fields.choice("layout", ("rows", "strided")) == "rows"
    lanes, columns = fields.tile()
    one_pass = fields.choice("passes", ("one", "two")) == "one"
    divisor = next((by for by in (8, 4, 2) if fields.flag(f"divisor={by}")), 1)
    wide = fields.flag("wide")
    fields.end()
    tiles = {"x_ptr": first, "y_ptr": last} if forward else {"grad_ptr": first, "y_ptr": first, "grad_input_ptr": last}
    types = {name: _DTYPES[dtype].pointer for name, dtype in tiles.items()}
    types |= {"lanes": "i64", "columns": "i64" if wide else "i32", "inner": "i64"}
    divisors = {(name,): _ALIGNMENT for name in tiles}
    if divisor > 1:
        divisors |= dict.fromkeys([("columns",)] if in_rows else [("lanes",), ("inner",)], divisor)
    constants = {
        "NAME": f"{op}_{'forward' if forward else 'backward'}",
        "ACTIVATION": op,
        "ROWS": in_rows,
        "COMPUTE": _DTYPES[first].compute,
        "LANES": lanes,
        "COLUMNS": columns,
        "ONE_PASS": one_pass,
    }
    if forward:
        constants["EXACT"] = _DTYPES[first].itemsize == 2
    tile = lanes * columns
    to_a_thread = 8 if in_rows and not one_pass else 32 if in_rows and tile == 16384 else 16
    kernel = softmax.softmax_forward if forward else softmax.softmax_backward
    return _source(kernel, types, constants, divisors, max(1, tile // to_a_thread // 32), columns, lanes)


def _maxout(fields: _Fields) -> Source:
    """Parameters: x, y, indices or grad, indices, grad_input; pieces; a divider of what lies between pieces; n."""
    forward = fields.choice("part", ("forward", "backward")) == "forward"
    pointer, _, compute, block = _DTYPES[fields.dtype()]
    adjacent = fields.choice("layout", ("adjacent", "apart")) == "adjacent"
    choices = [f"together={each}" for each in ("0", *("2", "4") * adjacent)]
    together = int(fields.choice("pieces", choices).removeprefix("together="))
    in_eighths = not adjacent and fields.flag("eights")
    is_aligned = not fields.flag("unaligned")
    divider = _DIVIDER_TYPES[fields.flag("wide")]
    fields.end()
    order = ("x_ptr", "y_ptr", "indices_ptr") if forward else ("grad_ptr", "indices_ptr", "grad_input_ptr")
    types = {name: "*u8" if name == "indices_ptr" else pointer for name in order}
    types |= {"pieces": "i32", "inner": divider, "n": "i64"}
    block //= together or 2
    constants = {
        "NAME": f"maxout_{'forward' if forward else 'backward'}",
        "ADJACENT": adjacent,
        "TOGETHER": together,
        "IN_EIGHTHS": in_eighths,
        "BLOCK": block,
    }
    if forward:
        constants["COMPUTE"] = compute
    divisors = dict.fromkeys(((name,) for name in order), _ALIGNMENT) if is_aligned else {}
    kernel = maxout.maxout_forward if forward else maxout.maxout_backward
    return _source(kernel, types, constants, divisors, 4, block)


def source(name: str) -> Source:
    """What the name stands for. Raises ValueError where it stands for nothing."""
    fields = _Fields(name)
    op = fields.op()
    if op == "parts":
        return _parts(fields)
    if op == "maxout":
        return _maxout(fields)
    if op in ACTIVATIONS and ACTIVATIONS[op].kind == "softmax":
        return _softmax(op, fields)
    return _elementwise(op, fields)


def compile(name: str, target: GPUTarget) -> CompiledKernel:
    """For a GPU; from Triton's cache, if it is there."""
    kernel, signature, constants, attributes, num_warps, *_ = source(name)
    options = {"num_warps": num_warps, "enable_fp_fusion": False}  # formulas say themselves where they fuse
    return triton.compile(ASTSource(kernel, signature, constants, attributes), target=target, options=options)
