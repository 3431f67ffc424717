"""The elementwise kernels: they load operands, call a function on them, and store or sum what that returns.

Dtypes, masks, row strides, bits, channels and random numbers are handled here and nowhere else. What is computed comes
in as a function FN of `programs` and the formulas that it composes.

A tile is made of eighths: eight consecutive elements, whose bits make one byte. A mask that is the same for all eight
leaves Triton its 128-bit accesses. At most seven elements at a tensor's end are in no whole eighth; the program that
comes upon them takes them in one more, small access.
"""

from typing import Any

import triton
import triton.language as tl

from .math import sum_error

KINDS = {kind: number for number, kind in enumerate(("tile", "number", "channel", "seed", "mask", "sum"))}
"""What an operand holds. Inputs: a value for each element of the tensor (tile), one for all (number), one for each of
its channels (channel), a random number's seed, one bit for each element (mask). Outputs: tile, mask, or the sum over
all elements, or over each channel's, in parts that are still to be added (sum)."""
_TILE, _NUMBER, _CHANNEL, _SEED, _MASK, _SUM = map(tl.constexpr, KINDS.values())


def kernel_name(specialization: Any) -> str:
    """What profilers show."""
    return f"fastact_{specialization.constants['NAME']}"


@triton.jit
def quotient(x, divider):
    """x // d of unsigned numbers below half their range, by a multiplication (Granlund & Montgomery 1994). A divider is
    d, the multiplier and the shift."""
    return (tl.umulhi(x, divider[1]) + x) >> divider[2]


@triton.jit
def remainder(x, divider):
    return x - quotient(x, divider) * divider[0]


@triton.jit
def signed(x):
    """An unsigned number of elements as an offset: the compiler knows more of sums of signed numbers."""
    return x.to(tl.int64 if x.dtype.primitive_bitwidth == 64 else tl.int32)


@triton.jit
def eighths(first, EIGHTHS: tl.constexpr, like):
    """The numbers of a tile's eighths, in an unsigned number's type."""
    return first.to(like.dtype) + tl.arange(0, EIGHTHS).to(like.dtype)


@triton.jit
def in_eighths(number):
    """From the numbers of eighths, those of their elements."""
    return number[:, None] * 8 + tl.arange(0, 8)[None, :].to(number.dtype)


@triton.jit
def whole_eighths(first, n, EIGHTHS: tl.constexpr):
    """Which of a tile's eighths are whole."""
    return (tl.arange(0, EIGHTHS) < tl.minimum(n // 8 - first, EIGHTHS).to(tl.int32))[:, None]


@triton.jit
def count_blocks(n, SIZE: tl.constexpr):
    """How many blocks of SIZE make up n > 0. The sum in tl.cdiv has no room in 32 bits for the largest n."""
    return (n - 1) // SIZE + 1


@triton.jit
def _uniforms(seed_ptr, first, EIGHTHS: tl.constexpr):
    """Philox4x32-10 as in csrc/kernels/philox.h: element i takes word i % 4 of the block with counter i / 4."""
    counter = first * 2 + (tl.arange(0, EIGHTHS)[:, None] * 2 + tl.arange(0, 2)[None, :]).to(tl.int64)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    zero = low & 0
    a, b, c, d = tl.philox(tl.load(seed_ptr), low, high, zero, zero)
    words = tl.join(tl.join(a, c), tl.join(b, d)).reshape(EIGHTHS, 8)
    return (words >> 8).to(tl.int32).to(tl.float32) * (2.0**-24)


@triton.jit
def _channels(first, inner, count, SPAN: tl.constexpr, EIGHTHS: tl.constexpr):
    """The channel of each element: they change after `inner` elements. SPAN says how they lie in an eighth: "one"
    channel for all, "next", each element in the channel after the last one's, at most "two", or "any". But for the
    last, one division does for eight elements."""
    eighth = eighths(first, EIGHTHS, count[0])
    if SPAN == "next":
        channel = in_eighths(remainder(eighth, count))
    elif SPAN == "one":
        channel = remainder(quotient(eighth, inner), count)[:, None]
    elif SPAN == "two":
        row = quotient(eighth * 8, inner)
        channel = remainder(row, count)
        following = tl.where(channel + 1 == count[0], 0, channel + 1)
        left = (inner[0] - (eighth * 8 - row * inner[0])).to(tl.int64)
        channel = tl.where(tl.arange(0, 8)[None, :] < left[:, None], channel[:, None], following[:, None])
    else:
        channel = remainder(quotient(in_eighths(eighth), inner), count)
    return signed(channel)


@triton.jit
def _scalars(scalars, COMPUTE: tl.constexpr):
    p = ()
    for i in tl.static_range(len(scalars)):
        p += (tl.full((), scalars[i], COMPUTE),)
    return p


@triton.jit
def _places(ptr, first, row, strides, i: tl.constexpr, EIGHTHS: tl.constexpr):
    """Where the elements of tensor i lie."""
    if len(row) == 0:
        return ptr + first * 8 + in_eighths(tl.arange(0, EIGHTHS))
    else:
        eighth = eighths(first, EIGHTHS, row[0])
        number = quotient(eighth, row)
        return ptr + (number.to(tl.int64) * strides[i])[:, None] + in_eighths(signed(eighth - number * row[0]))


@triton.jit
def bits_of(bytes):
    """Eight booleans of each byte."""
    return ((bytes.to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0


@triton.jit
def _block(
    ins, outs, row, strides, inner, count, p, formulas, first, n,
    FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, SPAN: tl.constexpr, COMPUTE: tl.constexpr,
    EIGHTHS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Of so many eighths from number `first` on those that are whole; or of the last one what there is."""
    byte = first + tl.arange(0, EIGHTHS)
    if WHOLE:
        mask = whole_eighths(first, n, EIGHTHS)
        byte_mask = tl.arange(0, EIGHTHS) < tl.minimum(n // 8 - first, EIGHTHS).to(tl.int32)
    else:
        mask = tl.arange(0, 8)[None, :] < (n % 8).to(tl.int32)
        byte_mask = None
    loaded = ()  # before anything waits for a weight
    for i in tl.static_range(len(ins)):
        if IN[i] == _TILE:
            places = _places(ins[i], first, row, strides, i, EIGHTHS)
            loaded += (tl.load(places, mask=mask, other=None if WHOLE else 0.0),)
        elif IN[i] == _MASK:
            loaded += (tl.load(ins[i] + byte, mask=byte_mask),)
    if SPAN is not None:
        channel = _channels(first, inner, count, SPAN, EIGHTHS)
    xs = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _TILE:
            x = loaded[i].to(COMPUTE)
        elif IN[i] == _MASK:
            x = bits_of(loaded[i])
        elif IN[i] == _SEED:
            x = _uniforms(ins[i], first, EIGHTHS)
        elif IN[i] == _NUMBER:
            x = tl.load(ins[i]).to(COMPUTE)
        else:
            x = tl.load(ins[i] + channel, mask=mask).to(COMPUTE)
        xs += (x,)
    ys = FN(xs, p, formulas)
    TILES: tl.constexpr = len(outs) - 1 if OUT[len(outs) - 1] == _MASK else len(outs)  # these have strides
    for i in tl.static_range(len(outs)):
        if OUT[i] == _MASK:
            bits = tl.sum(ys[i].to(tl.int32) << tl.arange(0, 8)[None, :], axis=1)
            tl.store(outs[i] + byte, bits.to(tl.uint8), mask=byte_mask)
        else:
            places = _places(outs[i], first, row, strides, len(strides) - TILES + i, EIGHTHS)
            tl.store(places, ys[i].to(outs[i].dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def elementwise(
    ins, outs, row, strides, inner, count, scalars, formulas, n,
    NAME: tl.constexpr, FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, SPAN: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores FN(ins, scalars, formulas) in outs, for n elements. IN and OUT are the operands' KINDS, tiles first.
    `row`, unless empty, are the eighths of a row, as a divider; rows lie `strides` elements apart in the inputs and the
    outputs. `inner` and `count`, where an operand needs them, are the elements to a channel and the number of channels,
    as dividers of what `_channels` divides."""
    first = tl.program_id(0).to(tl.int64) * (BLOCK // 8)
    p = _scalars(scalars, COMPUTE)
    _block(ins, outs, row, strides, inner, count, p, formulas, first, n,
           FN, IN, OUT, SPAN, COMPUTE, BLOCK // 8, True)  # fmt: skip
    IN_EIGHTHS: tl.constexpr = len(row) > 0 or SPAN == "one" or SPAN == "next"
    if not IN_EIGHTHS:
        if (n % 8 != 0) & (n // 8 - first < BLOCK // 8):
            _block(ins, outs, row, strides, inner, count, p, formulas, n // 8, n,
                   FN, IN, OUT, SPAN, COMPUTE, 1, False)  # fmt: skip


@triton.jit
def _tile_of_sums(
    ins, outs, weights, p, formulas, places, bits, mask,
    FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, RAGGED: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Stores the tiles, and returns the sums over a tile's first dimension. `bits` are the places of an eighth's byte
    or, where elements of it may be missing, of the elements' bits."""
    xs = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _TILE:
            xs += (tl.load(ins[i] + places, mask=mask),)
        elif IN[i] == _MASK and RAGGED:
            xs += (tl.load(ins[i] + bits // 8, mask=mask).to(tl.int32) >> (bits % 8).to(tl.int32),)
        elif IN[i] == _MASK:
            xs += (tl.load(ins[i] + bits, mask=mask).to(tl.int32) >> tl.arange(0, 8)[None, None, :],)
    values = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _TILE:
            values += (xs[i].to(COMPUTE),)
        elif IN[i] == _MASK:
            values += ((xs[i] & 1) != 0,)
        else:
            values += (weights[i - len(xs)].to(COMPUTE),)
    ys = FN(values, p, formulas)
    sums = ()
    for i in tl.static_range(len(ys)):
        if OUT[i] == _SUM:
            sums += (tl.sum(tl.where(mask, ys[i], 0.0), axis=0),)
        else:
            tl.store(outs[i] + places, ys[i].to(outs[i].dtype.element_ty), mask=mask)
    return sums


@triton.jit
def _add(sums, terms, BY_COLUMN: tl.constexpr):
    """Adds terms to sums, each of which has beside it what rounding took from it."""
    added = ()
    for i in tl.static_range(len(terms)):
        term = terms[i] if BY_COLUMN else tl.sum(terms[i], axis=1)
        high = sums[2 * i] + term
        added += (high, sums[2 * i + 1] + sum_error(sums[2 * i], term, high))
    return added


@triton.jit(repr=kernel_name)
def elementwise_with_sums(
    ins, outs, parts, scalars, formulas, outer, count, inner, splits, run,
    NAME: tl.constexpr, FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, CHANNEL: tl.constexpr,
    RAGGED: tl.constexpr, COMPUTE: tl.constexpr, ROUNDS: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes the same for a tensor of outer x count x inner elements, and sums over each of `count` channels. CHANNEL
    is how they lie: all elements are of one ("number"), or a channel's lie `inner` in a row ("inner"), or they change
    from element to element ("outer"). RAGGED: eighths may be of several rows. `run`, for "inner", is `inner` as a
    divider of eighths or, if ragged, of elements.

    A channel's tiles, or those of so many COLUMNS, are shared out between `splits` programs. Each walks many, with its
    sums in registers, and stores one part of each. A tile is ROUNDS x LANES eighths. A round is one access for each
    thread; what a thread has of all rounds is added first."""
    E: tl.constexpr = COLUMNS // 8
    TILE: tl.constexpr = ROUNDS * LANES * 8
    ROWS: tl.constexpr = ROUNDS * LANES // E
    BY_COLUMN: tl.constexpr = CHANNEL == "outer"
    p = _scalars(scalars, COMPUTE)
    if CHANNEL == "number":
        groups = 1
        tiles = count_blocks(inner, TILE)
    elif CHANNEL == "inner":
        groups = count.to(tl.int32)
        tiles = count_blocks(outer * inner, TILE)
    else:
        groups = count_blocks(count, COLUMNS).to(tl.int32)
        tiles = count_blocks(outer, ROWS)
    split = tl.program_id(0) // groups
    group = tl.program_id(0) % groups
    lane = tl.arange(0, LANES)[None, :, None]
    each = tl.arange(0, 8)[None, None, :]
    eighth = tl.arange(0, ROUNDS)[:, None, None] * LANES + lane
    column = group.to(tl.int64) * COLUMNS + (lane % E * 8 + each)
    weights = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _NUMBER:
            weights += (tl.load(ins[i]),)
        elif IN[i] == _CHANNEL and BY_COLUMN:
            weights += (tl.load(ins[i] + column, mask=column < count),)
        elif IN[i] == _CHANNEL:
            weights += (tl.load(ins[i] + group),)
    sums = ()
    for i in tl.static_range(len(OUT)):
        if OUT[i] == _SUM:
            zeros = tl.zeros((LANES, 8) if BY_COLUMN else (LANES,), COMPUTE)
            sums += (zeros, zeros)
    for tile in range(split, tiles.to(tl.int32), splits):
        if CHANNEL == "number":
            first = tile.to(tl.int64) * (TILE // 8)
            places = first * 8 + (eighth * 8 + each)
            bits = first + eighth
            mask = eighth < tl.minimum(inner // 8 - first, TILE // 8).to(tl.int32)
        elif CHANNEL == "outer":
            row = tile.to(tl.int64) * ROWS + eighth // E
            places = row * count + column
            bits = places if RAGGED else (row * count + (group.to(tl.int64) * COLUMNS + lane % E * 8)) // 8
            mask = (row < outer) & (column < count)
        else:
            if RAGGED:
                number = tile.to(run[0].dtype) * TILE + (eighth * 8 + each).to(run[0].dtype)
                mask = signed(number) < outer * inner
            else:
                number = tile.to(run[0].dtype) * (TILE // 8) + eighth.to(run[0].dtype)
                mask = signed(number) < outer * inner // 8
            row = quotient(number, run)
            place = signed(number - row * run[0])
            begin = row.to(tl.int64) * (count * inner) + group.to(tl.int64) * inner
            places = begin + place if RAGGED else begin + (place * 8 + each)
            bits = places if RAGGED else begin // 8 + place
        terms = _tile_of_sums(ins, outs, weights, p, formulas, places, bits, mask, FN, IN, OUT, RAGGED, COMPUTE)
        sums = _add(sums, terms, BY_COLUMN)
    totals = ()
    for i in tl.static_range(len(sums) // 2):
        low = sums[2 * i + 1]
        total = tl.where(low == low, sums[2 * i] + low, sums[2 * i])  # of an infinite sum, that is NaN
        totals += (tl.sum(total.reshape(LANES // E, COLUMNS) if BY_COLUMN else total, axis=0),)
    if CHANNEL == "number":
        if (inner % 8 != 0) & (split == splits - 1):
            places = inner // 8 * 8 + each
            mask = places < inner
            terms = _tile_of_sums(ins, outs, weights, p, formulas, places, places, mask, FN, IN, OUT, True, COMPUTE)
            more = ()
            for i in tl.static_range(len(terms)):
                more += (totals[i] + tl.sum(tl.sum(terms[i], axis=1), axis=0),)
            totals = more
    for i in tl.static_range(len(totals)):
        part = parts + (i * splits + split).to(tl.int64) * count
        if BY_COLUMN:
            columns = group.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
            tl.store(part + columns, totals[i], mask=columns < count)
        else:
            tl.store(part + group, totals[i])


@triton.jit(repr=kernel_name)
def add_parts(
    parts, outs, splits, count,
    NAME: tl.constexpr, SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Adds what `elementwise_with_sums` stored: each channel's parts, of each sum."""
    channel = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    split = tl.arange(0, SPLITS)[:, None]
    for i in tl.static_range(len(outs)):
        total = tl.zeros((SPLITS, CHANNELS), tl.float64)
        for first in range(0, splits, SPLITS):
            mask = (first + split < splits) & (channel < count)
            part = parts + (i * splits + first + split).to(tl.int64) * count + channel
            total += tl.load(part, mask=mask, other=0.0).to(tl.float64)
        places = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
        tl.store(outs[i] + places, tl.sum(total, axis=0).to(outs[i].dtype.element_ty), mask=places < count)
