"""The emulated GPU itself, on small kernels written by hand: what its instructions compute, and that it sees faults."""

from __future__ import annotations

import ctypes
import math
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import emulator
import numpy as np
import pytest
import torch
from torch import Tensor

THREADS = 128
together = partial(zip, strict=True)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    before = emulator.watch_memory()
    emulator.reset()
    yield
    emulator.reset()
    emulator.watch_memory(before)
    assert emulator.take_damage() == ""


def ptx(body: str, parameters: str = "pp", threads: int = THREADS) -> str:
    """A kernel whose parameters are in %rd0, %rd1, …, pointers where `parameters` has a p. The thread's number is in
    %r0, its place in the grid in %r1 and, in bytes of 4 each, in %rd20, the block's number in %r38."""
    kinds = {"p": ".u64 .ptr .global .align 1", "n": ".u64", "i": ".u32"}
    declared = ",\n".join(f".param {kinds[kind]} k_param_{i}" for i, kind in enumerate(parameters))
    loads = "\n".join(
        f"ld.param.{'u32' if kind == 'i' else 'b64'} %rd{i}, [k_param_{i}];" for i, kind in enumerate(parameters)
    )
    return f"""
.version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(
{declared}
)
.reqntid {threads}
{{
    .reg .pred %p<8>;
    .reg .b16 %rs<16>;
    .reg .b32 %r<40>;
    .reg .b64 %rd<40>;
    .loc 1 7 0 // by_hand.py:7:0
    {loads}
    mov.u32 %r0, %tid.x;
    mov.u32 %r38, %ctaid.x;
    mad.lo.s32 %r1, %r38, {threads}, %r0;
    mul.wide.u32 %rd20, %r1, 4;
    {body}
    ret;
}}
"""


def run(
    body: str, *arguments: Any, parameters: str | None = None, grid: int = 1, threads: int = THREADS, shared: int = 0
) -> None:
    kinds = parameters or "".join("p" if isinstance(each, Tensor) else "n" for each in arguments)
    driver = emulator.Driver()
    function = driver.load(ptx(body, kinds, threads), "k")
    driver.launch(function, grid, threads, *arguments, shared=shared)


def floats(n: int = THREADS) -> Tensor:
    return torch.randn(n)


COPY = """
add.s64 %rd21, %rd0, %rd20;
add.s64 %rd22, %rd1, %rd20;
ld.global.b32 %r2, [%rd21];
st.global.b32 [%rd22], %r2;
"""


def test_a_copy() -> None:
    for grid in (1, 5):
        x, y = floats(grid * THREADS), torch.empty(grid * THREADS)
        run(COPY, x, y, grid=grid)
        assert torch.equal(x, y)
    assert emulator.counts()["k"][:2] == (2, 6)
    assert emulator.last_fault() == ""


# Faults.


def fault(why: str, *arguments: Any, **more: Any) -> None:
    """A launch that must fail with that message, and leave the emulator as it was."""
    with pytest.raises(RuntimeError, match=why):
        run(*arguments, **more)
    assert re.search(why, emulator.last_fault())
    test_a_copy_alone()


def test_a_copy_alone() -> None:
    x, y = floats(), torch.empty(THREADS)
    run(COPY, x, y)
    assert torch.equal(x, y)


def test_out_of_bounds() -> None:
    where = r"k, block 0 of 1, line \d+ of its PTX \(by_hand.py:7:0\): "
    fault(
        where + r"ld.global.b32 %r2, \[%rd21\]: read of 4 bytes at 0x\w+ by thread 127: 4 bytes past the end of an "
        "allocation of 508 bytes",
        COPY,
        floats(127),
        torch.empty(THREADS),
    )
    y = torch.empty(THREADS)
    fault(r"write of 4 bytes at 0x\w+ by 2 threads, the first 126, the last 127: ", COPY, floats(), y[:126].clone())
    early = COPY.replace("[%rd21]", "[%rd21+-4]")
    fault("by thread 0: 4 bytes before the beginning of an allocation of 512 bytes", early, floats(), y)
    fault("128 threads, the first 0, the last 127: far from any allocation", COPY, ctypes.c_int64(64), floats())


def test_half_an_access_out_of_bounds() -> None:
    x = torch.zeros(9, dtype=torch.int8)
    fault("3 bytes past the end", "add.s64 %rd3, %rd0, 8; ld.global.b32 %r2, [%rd3];", x)
    fault("1 bytes past the end", "ld.global.v2.b64 {%rd3, %rd4}, [%rd0];", torch.zeros(15, dtype=torch.int8))


def test_bounds_of_a_grid_that_is_too_large() -> None:
    emulator.select_blocks([-1])
    fault("block 8388607 of 8388608", COPY, torch.empty(2**30 - 1), torch.empty(2**30), grid=2**23)


def test_misaligned() -> None:
    odd = COPY.replace("[%rd21]", "[%rd21+2]")
    fault(r"misaligned access of 4 bytes at 0x\w+ by 128 threads", odd, floats(129), floats())
    vector = "ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd0+4];"
    fault("misaligned access of 16 bytes", vector, floats())
    fault("misaligned access of 8 bytes", "mov.b64 %rd3, 0; st.shared.b64 [%r0], %rd3;", floats(), shared=1024)


def test_registers_that_nobody_has_written() -> None:
    store = "st.global.b32 [%rd0], %r6;"
    fault("register %r6 is used but never written, by 128 threads", store, floats())
    made = "add.s32 %r6, %r5, 1; mul.lo.s32 %r6, %r6, %r0;"
    fault(
        "register %r6 is used, and register %r5 of which it is made was never written, by 128", made + store, floats()
    )
    run(made, floats())  # is not used
    half = "setp.lt.s32 %p1, %r0, 64; @%p1 mov.b32 %r5, 1; add.s32 %r6, %r5, 1;"
    fault("register %r5 of which it is made was never written, by 64 threads, the first 64", half + store, floats())
    run(half + "@%p1 " + store, floats())
    run(half.replace("64; @", "64; mov.b32 %r5, 0; @") + store, floats())
    run(half.replace("1; add", "1; @!%p1 mov.b32 %r5, 2; add") + store, floats())
    run(half + "selp.b32 %r6, %r5, 0, %p1;" + store, floats())
    fault("never written, by 64 threads", half + "selp.b32 %r6, 0, %r5, %p1;" + store, floats())
    fault("never written, by 128 threads", "selp.b32 %r6, 0, 0, %p1;" + store, floats())
    fault("register %p2 is used but", "@%p2 mov.b32 %r5, 1;", floats())
    fault("register %rd9 is used but", "ld.global.b32 %r5, [%rd9];", floats())
    # A value that was made of nothing does not spoil what is written there next.
    run(made + "mov.b32 %r6, 0;" + store, floats())


def test_exchanges_of_registers_that_some_threads_have_written() -> None:
    body = "setp.lt.s32 %p1, %r0, 4; @%p1 mov.b32 %r5, 1; shfl.sync.bfly.b32 %r6, %r5, {}, 31, -1;"
    store = "@%p1 st.global.b32 [%rd0], %r6;"
    run(body.format(2) + store, floats())
    fault("register %r5 of which it is made was never written, by 4 threads", body.format(4) + store, floats())


SHARED = """
shl.b32 %r3, %r0, 2;
st.shared.b32 [%r3], %r0;
bar.sync 0;
xor.b32 %r4, %r3, 256;
ld.shared.b32 %r5, [%r4];
add.s64 %rd21, %rd0, %rd20;
st.global.b32 [%rd21], %r5;
"""


def test_shared_memory() -> None:
    y = torch.empty(THREADS, dtype=torch.int32)
    run(SHARED, y, shared=512)
    assert torch.equal(y, torch.arange(THREADS, dtype=torch.int32) ^ 64)
    fault("access of 4 bytes of shared memory at 508 by thread 127, of 508 bytes", SHARED, y, shared=508)
    unwritten = SHARED.replace("st.shared.b32", "st.shared.b16")
    fault("byte 258 of shared memory is read but never written, by thread 0", unwritten, y, shared=512)


def test_missing_barrier() -> None:
    y = torch.empty(THREADS, dtype=torch.int32)
    fault(
        "race: byte 256 of shared memory is read by thread 0 of warp 0, and no barrier stands between this and where "
        "another warp writes it",
        SHARED.replace("bar.sync 0;", ""),
        y,
        shared=512,
    )
    again = SHARED.replace("add.s64", "st.shared.b32 [%r3], %r0; add.s64", 1)
    fault("byte 0 of shared memory is written by thread 0 of warp 0, .* another warp reads it", again, y, shared=512)
    run(again.replace("[%r4];", "[%r4]; bar.sync 0;"), y, shared=512)
    # Within a warp no barrier is wanted.
    run(SHARED.replace("bar.sync 0;", "").replace("256", "64"), y, shared=512)


def test_two_warps_write_one_place() -> None:
    y = torch.empty(THREADS, dtype=torch.int32)
    body = "and.b32 %r3, %r0, 63; shl.b32 %r4, %r3, 2; st.shared.b32 [%r4], {};"
    run(body.format("%r3"), y, shared=256)  # the same value
    fault("race: byte 0 of shared memory is written by thread 64 of warp 2", body.format("%r0"), y, shared=256)


def test_global_memory_that_nobody_has_written() -> None:
    fault(
        "global memory is read but never written, by 128 threads, .* of 512 bytes", COPY, torch.empty(THREADS), floats()
    )
    x = torch.empty(THREADS)
    x[:100] = 1
    fault("never written, by 28 threads, the first 100, the last 127", COPY, x, floats())
    wide = "mul.wide.u32 %rd3, %r0, 8; add.s64 %rd4, %rd0, %rd3; ld.global.b64 %rd5, [%rd4];"
    doubles = torch.empty(THREADS, dtype=torch.float64)
    doubles[1:] = 1
    fault("never written, by thread 0", wide, doubles)
    narrow = "mul.wide.u32 %rd3, %r0, 2; add.s64 %rd4, %rd0, %rd3; ld.global.b16 %rs1, [%rd4];"
    halves = torch.empty(THREADS, dtype=torch.bfloat16)
    halves[:6] = halves[8:] = 1
    fault("never written, by 2 threads, the first 6, the last 7", narrow, halves)
    # All 65,536 numbers of 16 bits in a row are data.
    numbers = torch.arange(2**16).to(torch.int16)
    run(narrow.replace("%r0, 2", "%r1, 2"), numbers, grid=2**16 // THREADS)


BLOCKS = """
mul.wide.u32 %rd3, %r38, {stride};
add.s64 %rd4, %rd0, %rd3;
st.global.b32 [%rd4], %r38;
"""


def test_blocks_that_meet() -> None:
    halves = "mov.b16 %rs1, 0; mul.wide.u32 %rd3, %r38, 2; add.s64 %rd4, %rd0, %rd3; st.global.b16 [%rd4], %rs1; {}"
    run(halves.format(""), torch.empty(8), grid=2)
    first = "setp.eq.s32 %p1, %r0, 0; @%p1 bra $L__BB0_1; ret; $L__BB0_1:"
    run(first + BLOCKS.format(stride=4), torch.empty(8), grid=8)
    fault(
        r"k: blocks 0 and 1 of 8 both write the byte 0 of an allocation of 32 bytes \(lines \d+ and \d+",
        first + BLOCKS.format(stride=0),
        torch.empty(8),
        grid=8,
    )
    wider = halves.format("st.global.b16 [%rd4+2], %rs1;")
    fault("blocks 0 and 1 of 2 both write the byte 2 ", wider, torch.empty(8), grid=2)
    shifted = COPY.replace("[%rd21]", "[%rd21+4]")
    x = floats(2 * THREADS + 1)
    fault("blocks 1 and 0 of 2 write and read the byte 512 of an allocation of 1028 bytes", shifted, x, x, grid=2)
    run(COPY, x, x, grid=2)  # in place
    run(shifted, x, x[1:], grid=2)


def test_memory_that_is_not_there() -> None:
    x, y = floats(), torch.empty(THREADS)
    address = ctypes.c_int64(x.data_ptr())
    del x
    fault("in an allocation of 512 bytes that has been freed", COPY, address, y)
    array = np.ones(THREADS, np.float32)
    theirs = torch.from_numpy(array)
    fault("read of 4 bytes", COPY, theirs, y)
    with emulator.registered(theirs):
        run(COPY, theirs, y)
    fault("in an allocation of 512 bytes that has been freed", COPY, theirs, y)


def test_what_is_written_around_a_tensor_is_seen_when_it_is_freed() -> None:
    for size in (400, 2**26):
        for offset, what in ((-1, "1 bytes before"), (size + 2, "3 bytes past")):
            x = torch.zeros(size, dtype=torch.int8) if size < 2**20 else torch.empty(size, dtype=torch.int8)
            ctypes.memset(x.data_ptr() + offset, 1, 1)
            del x
            assert what in emulator.take_damage()
            assert emulator.take_damage() == ""


def test_divergence() -> None:
    """Threads part and meet again."""
    body = """
    setp.lt.s32 %p1, %r0, 40;
    mov.b32 %r5, 0;
    @%p1 bra $L__BB0_2;
    $L__BB0_1:
    add.s32 %r5, %r5, 1;
    setp.lt.s32 %p2, %r5, %r0;
    @%p2 bra $L__BB0_1;
    bra.uni $L__BB0_3;
    $L__BB0_2:
    mov.b32 %r5, -1;
    $L__BB0_3:
    bar.sync 0;
    add.s64 %rd21, %rd0, %rd20;
    st.global.b32 [%rd21], %r5;
    """
    y = torch.empty(THREADS, dtype=torch.int32)
    run(body, y)
    assert y.tolist() == [-1 if i < 40 else i for i in range(THREADS)]
    inside = body.replace("mov.b32 %r5, -1;", "mov.b32 %r5, -1; bar.sync 0;")
    fault("divergent barrier: only 40 threads, the first 0, the last 39 of 128 come to it", inside, y)
    guarded = body.replace("bar.sync 0;", "@%p1 bar.sync 0;")
    fault("divergent barrier", guarded, y)
    shuffle = body.replace("mov.b32 %r5, -1;", "shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;")
    fault("shfl.sync with 8 of the 32 threads of warp 1", shuffle, y)
    emulator.set_limit(1000)
    endless = body.replace("add.s32 %r5, %r5, 1;", "").replace("$L__BB0_3:", "", 1) + "$L__BB0_3:"
    fault("the block does not end: 1000 instructions", endless, y)


def refused(why: str, body: str, **more: Any) -> None:
    with pytest.raises(RuntimeError, match=why):
        emulator.Driver().load(ptx(body, **more), "k")
    assert re.search(why, emulator.last_fault())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("frob.b32 %r2, %r0;", r"k, line \d+ of its PTX: frob.b32 %r2, %r0: the instruction is not known"),
        ("add.frob.s32 %r2, %r0, 1;", "its modifier frob is not known"),
        ("add.s32.sat %r2, %r0, 1;", "the type sat is not known"),
        ("add.sat.s32 %r2, %r0, 1;", "its modifier sat is not known"),
        ("fma.rz.f32 %r2, %r0, %r0, %r0;", "this form of the instruction is not known|modifier rz"),
        ("cvt.rz.f32.f64 %r2, %rd0;", "modifier rz|this form"),
        ("cvt.f32.f64 %r2, %rd0;", "this form"),
        ("max.NaN.s32 %r2, %r0, %r0;", "this form"),
        ("atom.global.add.u32 %r2, [%rd0], 1;", "the instruction is not known"),
        ("ld.local.b32 %r2, [%rd0];", "this form|not known"),
        ("add.s32 %r2, %r77, 1;", "the register %r77 is not declared"),
        ("add.s64 %rd2, %r0, 1;", "%r0 has 32 bits where 64 are wanted"),
        ("add.s32 %r2, %r0;", "it has 2 operands, not 3"),
        ("add.s32 %r2, %r0, foo;", "the operand foo is not known"),
        ("mov.u32 %r2, %smid;", "the register %smid is not declared|not known"),
        ("mov.u32 %r2, %tid.y;", "the special register %tid.y is not known"),
        ("bra $L__nowhere;", "the label \\$L__nowhere is not there"),
        ("bar.sync 1;", "only the barrier 0"),
        ("ld.global.v8.b32 {%r2, %r3, %r4, %r5, %r6, %r7, %r8, %r9}, [%rd0];", "more than 16 bytes"),
        ("ld.global.v4.b32 {%r2, %r3}, [%rd0];", "the length of the vector is another"),
        ("ld.param.b64 %rd2, [k_param_9];", "this form"),
        ("ld.param.b64 %rd2, [k_param_0+4];", "it reads beyond the parameter"),
        (".local .b8 spilled[16];", "the directive"),
    ],
)
def test_what_is_not_known_is_refused(body: str, why: str) -> None:
    refused(why, body)


def test_blocks_that_are_too_large_are_refused() -> None:
    for threads in (2048, 48):
        refused(f"k wants {threads} threads, not whole warps of at most 1024", COPY, threads=threads)


def test_launches_that_a_driver_refuses() -> None:
    driver = emulator.Driver()
    function = driver.load(ptx(COPY), "k")
    x, y = floats(), torch.empty(THREADS)
    for why, grid, threads, parameters, more in (
        ("a block of 64 x 1 x 1 threads, not the 128 of its PTX", 1, 64, (x, y), {}),
        ("a grid of 0 x 1 x 1", 0, THREADS, (x, y), {}),
        ("parameter 1 of 2 is missing", 1, THREADS, (x,), {}),
        ("65536 bytes of shared memory, but at most 49152", 1, THREADS, (x, y), {"shared": 65536}),
    ):
        with pytest.raises(RuntimeError, match=f"k: {why}"):
            driver.launch(function, grid, threads, *parameters, **more)
    driver.check(driver.cuda.cuFuncSetAttribute(function, 8, 65536))
    driver.launch(function, 1, THREADS, x, y, shared=65536)
    emulator.set_terminated(True)
    driver.launch(function, 1, THREADS, x, y)
    with pytest.raises(RuntimeError, match="there are more parameters than the 2 of its PTX"):
        driver.launch(function, 1, THREADS, x, y, x)
    with pytest.raises(RuntimeError, match="no kernel other"):
        driver.load(ptx(COPY), "other")
    with pytest.raises(RuntimeError, match="not PTX"):
        driver.load(b"\x7fELF", "k")
    driver.check(driver.cuda.cuCtxSetCurrent(None))
    with pytest.raises(RuntimeError, match="no context"):
        driver.launch(function, 1, THREADS, x, y)


def test_parameters_of_several_sizes() -> None:
    body = """
    cvt.u32.u64 %r2, %rd1; add.s32 %r3, %r2, %r0; cvt.u32.u64 %r4, %rd2; shl.b32 %r5, %r4, 8; add.s32 %r6, %r3, %r5;
    add.s64 %rd21, %rd0, %rd20; st.global.b32 [%rd21], %r6;
    """
    y = torch.empty(THREADS, dtype=torch.int32)
    run(body, y, ctypes.c_uint32(1000), ctypes.c_uint64(3), parameters="pin")
    assert torch.equal(y, torch.arange(THREADS, dtype=torch.int32) + 1000 + 3 * 256)


# What tests of launches ask for.


def test_some_blocks_of_a_grid() -> None:
    emulator.select_blocks([0, 1, -1], spread=3)
    x, y = floats(10 * THREADS), torch.zeros(10 * THREADS)
    run(COPY, x, y, grid=10)
    ran = (x == y).view(10, -1).all(1)
    assert ran.nonzero().flatten().tolist() == [0, 1, 4, 9]
    assert emulator.counts()["k"].blocks == 4


def test_launches_are_counted_only() -> None:
    emulator.set_record_only(True)
    driver = emulator.Driver()
    function = driver.load(b"\x7fELF", "any")
    driver.launch(function, 7, 32, shared=10**6)
    driver.launch(function, 7, 32)
    assert emulator.counts() == {"any": (2, 0, 0)}
    emulator.set_record_only(False)
    with pytest.raises(RuntimeError, match="loaded to be counted only"):
        driver.launch(function, 7, 32)


@pytest.mark.parametrize("function", ["cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel"])
def test_failures_on_request(function: str) -> None:
    emulator.fail_next(function, 2)
    with pytest.raises(RuntimeError, match=f"{function} fails, as it was asked to"):
        test_a_copy_alone()
    test_a_copy_alone()


def test_what_the_device_says() -> None:
    cuda, number = emulator.library(), ctypes.c_int()
    emulator.set_device(86, 30)
    for attribute, expected in ((75, 8), (76, 6), (16, 30)):
        assert cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0) == 0
        assert number.value == expected
    for capturing in (1, 0):
        emulator.set_capturing(bool(capturing))
        assert cuda.cuStreamIsCapturing(None, ctypes.byref(number)) == 0
        assert number.value == capturing


# Arithmetic.

REGISTERS = {1: ("p", "pred"), 2: ("rs", "b16"), 4: ("r", "b32"), 8: ("rd", "b64")}


def compute(code: str, out: torch.dtype, *inputs: Tensor) -> Tensor:
    """Runs instructions of d, a, b, c for each element of the inputs."""
    n = inputs[0].numel()
    padded = -(-n // THREADS) * THREADS
    y = torch.empty(padded, dtype=out)
    names, body = {}, ""
    for i, (letter, each) in enumerate(zip("abc", inputs, strict=False)):
        name, type = REGISTERS[each.element_size()]
        names[letter] = f"%{name}{10 + i}"
        body += f"mul.wide.u32 %rd21, %r1, {each.element_size()}; add.s64 %rd22, %rd{i}, %rd21;"
        body += f"ld.global.{type} {names[letter]}, [%rd22];\n"
    name, type = REGISTERS[y.element_size()]
    names["d"] = f"%{name}15"
    body += re.sub(r"\b[abcd]\b(?!\.)", lambda m: names.get(m[0], m[0]), code)
    body += f"mul.wide.u32 %rd21, %r1, {y.element_size()}; add.s64 %rd22, %rd{len(inputs)}, %rd21;"
    body += f"st.global.{type} [%rd22], {names['d']};"
    full = [torch.cat([each, each[:1].expand(padded - n)]).contiguous() for each in inputs]
    run(body, *full, y, grid=padded // THREADS)
    return y[:n]


FORMATS = {torch.float16: (11, -14, 15), torch.bfloat16: (8, -126, 127), torch.float32: (24, -126, 127)}
FORMATS[torch.float64] = (53, -1022, 1023)
NAMES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32", torch.float64: "f64"}


def nearest(exact: Fraction, dtype: torch.dtype) -> float:
    """The number of a format that is nearest, ties to even."""
    digits, least, most = FORMATS[dtype]
    if exact == 0:
        return 0.0
    exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()  # or one less
    exponent = max(least, exponent - (abs(exact) < Fraction(2) ** exponent))
    ulp = Fraction(2) ** (exponent - digits + 1)
    rounded = round(exact / ulp) * ulp
    return math.copysign(math.inf, exact) if abs(rounded) >= Fraction(2) ** (most + 1) else float(rounded)


def awkward(dtype: torch.dtype, count: int, seed: int) -> Tensor:
    """Numbers of all sizes, subnormal ones among them, that often make ties."""
    digits, least, _ = FORMATS[dtype]
    generator = random.Random(seed)
    values = []
    exponents = [0, 1, 2, -digits, digits, least, least // 2, least - digits + 2]
    for _ in range(count):
        mantissa = 1 + generator.randrange(2 ** generator.choice([2, digits])) * 2.0**-digits
        values.append(generator.choice([1, -1]) * mantissa * 2.0 ** generator.choice(exponents))
    return torch.tensor(values, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("op", "exact"),
    [
        ("add.rn", lambda a, b, c: a + b),
        ("sub.rn", lambda a, b, c: a - b),
        ("mul.rn", lambda a, b, c: a * b),
        ("fma.rn", lambda a, b, c: a * b + c),
    ],
)
def test_arithmetic_is_rounded_once(op: str, exact: Callable[..., Fraction], dtype: torch.dtype) -> None:
    operands = [awkward(dtype, 500, seed) for seed in range(3)]
    # A product close to the midpoint of two numbers, and something tiny that decides.
    digits = FORMATS[dtype][0]
    one, tiny = 1 + 2.0 ** (1 - digits), 2.0 ** (FORMATS[dtype][1] // 2)
    closest = (one, one, 1.0, 1.0), (1.5, 1.5, 2.0**-digits, 2.0**-digits), (tiny, -tiny, tiny, -tiny)
    operands = [
        torch.cat([x, torch.tensor(more, dtype=torch.float64).to(dtype)]) for x, more in together(operands, closest)
    ]
    used = operands if op == "fma.rn" else operands[:2]
    expected = torch.tensor(
        [nearest(exact(*map(Fraction, each)), dtype) for each in together(*(x.tolist() for x in operands))],
        dtype=torch.float64,
    ).to(dtype)
    code = f"{op}.{NAMES[dtype]} d, a, b{', c' if op == 'fma.rn' else ''};"
    got = compute(code, dtype, *used)
    assert torch.equal(got, expected)
    if dtype.itemsize == 2:
        pairs = [x.view(torch.int32) for x in used]
        both = compute(code.replace(NAMES[dtype], NAMES[dtype] + "x2"), torch.int32, *pairs)
        assert torch.equal(both.view(dtype), expected)


def test_flushed_subnormals() -> None:
    x = torch.tensor([1e-39, -1e-39, 1.0, 2.0**-126])
    y = torch.tensor([1.0, 1.0, 2.0**-127, 0.5])
    assert compute("mul.f32 d, a, b;", torch.float32, x, y).tolist() == (x * y).tolist()
    flushed = compute("mul.ftz.f32 d, a, b;", torch.float32, x, y)
    assert flushed.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert flushed.signbit().tolist() == [False, True, False, False]


def special(dtype: torch.dtype) -> Tensor:
    finfo = torch.finfo(dtype)
    values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        finfo.max,
        finfo.min,
        finfo.tiny,
        -finfo.smallest_normal,
        math.inf,
        -math.inf,
        math.nan,
    ]
    return torch.tensor(values, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_lower_and_higher(dtype: torch.dtype) -> None:
    x = special(dtype)
    a, b = x.repeat_interleave(len(x)), x.repeat(len(x))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for op, choose in (("max", max), ("min", min)):
        # Zeros are ordered by their signs.
        expected = [
            q if math.isnan(p) else p if math.isnan(q) else choose(p, q, key=lambda v: (v, math.copysign(1, v)))
            for p, q in together(a.tolist(), b.tolist())
        ]
        got = compute(f"{op}.{NAMES[dtype]} d, a, b;", dtype, a, b)
        want = torch.tensor(expected, dtype=torch.float64).to(dtype)
        known = ~want.isnan()
        assert torch.equal(got[known].view(bits), want[known].view(bits))
        assert got[~known].isnan().all()
        if dtype is torch.float64:
            continue
        got = compute(f"{op}.NaN.{NAMES[dtype]} d, a, b;", dtype, a, b)
        any_nan = a.isnan() | b.isnan()
        assert torch.equal(got[~any_nan].view(bits), want[~any_nan].view(bits))
        assert set(got[any_nan].view(bits).tolist()) == {2 ** (8 * dtype.itemsize - 1) - 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_conversions_of_16_bits(dtype: torch.dtype) -> None:
    every = torch.arange(2**16).to(torch.int16).view(dtype)
    wide = compute(f"cvt.f32.{NAMES[dtype]} d, a;", torch.float32, every)
    assert torch.equal(wide.isnan(), every.isnan())
    assert torch.equal(wide.nan_to_num(7).view(torch.int32), every.float().nan_to_num(7).view(torch.int32))
    # What lies between two neighbours: the midpoint, and the numbers beside it.
    finite = every[every.isfinite()].float()
    step = (finite.to(dtype).view(torch.int16) + 1).view(dtype).float() - finite
    middle = finite + step / 2
    middle = torch.cat([middle[middle.isfinite()], special(torch.float32), torch.randn(1000) * 1e-40])
    x = torch.cat([middle, middle.nextafter(torch.tensor(math.inf)), middle.nextafter(torch.tensor(-math.inf))])
    expected = x.to(dtype)
    got = compute(f"cvt.rn.{NAMES[dtype]}.f32 d, a;", dtype, x)
    known = ~expected.isnan()
    assert torch.equal(got[known].view(torch.int16), expected[known].view(torch.int16))
    assert set(got[~known].view(torch.int16).tolist()) == {0x7FFF}
    even = x[: len(x) // 2 * 2]
    low, high = even.view(-1, 2).t().contiguous()
    pair = compute(f"cvt.rn.{NAMES[dtype]}x2.f32 d, a, b;", torch.int32, high, low)
    assert torch.equal(pair.view(torch.int16), got[: len(even)].view(torch.int16))
    # Of float64 rounded once: float32 on the way would round twice.
    eps = torch.finfo(dtype).eps
    half_way = torch.tensor([1 + eps / 2 + 2.0**-40, 1 + eps / 2 - 2.0**-40], dtype=torch.float64)
    assert compute(f"cvt.rn.{NAMES[dtype]}.f64 d, a;", dtype, half_way).tolist() == [1 + eps, 1.0]


def test_other_conversions() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1e20, -1e20, math.nan, 3e9, 2**31 - 1.0])
    for rounding, function in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):
        expected = [0 if v != v else max(-(2**31), min(2**31 - 1, function(v))) for v in x.tolist()]
        assert compute(f"cvt.{rounding}.s32.f32 d, a;", torch.int32, x).tolist() == expected
        whole = [v if v != v else float(function(v)) for v in x.tolist()]
        got = compute(f"cvt.{rounding}.f32.f32 d, a;", torch.float32, x)
        assert torch.equal(got.nan_to_num(7), torch.tensor(whole).nan_to_num(7))

    def single(values: list) -> list[float]:
        return [nearest(Fraction(v), torch.float32) for v in values]

    n = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 127, 128, 255, 256, 2**24 + 1], dtype=torch.int32)
    numbers = n.tolist()
    assert compute("cvt.rn.f32.s32 d, a;", torch.float32, n).tolist() == single(numbers)
    assert compute("cvt.rn.f32.u32 d, a;", torch.float32, n).tolist() == single([v % 2**32 for v in numbers])
    assert compute("cvt.rn.f64.s64 d, a;", torch.float64, n.long()).tolist() == [float(v) for v in numbers]
    assert compute("cvt.u64.u32 d, a;", torch.int64, n).tolist() == [v % 2**32 for v in numbers]
    assert compute("cvt.s64.s32 d, a;", torch.int64, n).tolist() == numbers
    assert compute("cvt.u16.u32 d, a;", torch.int16, n).tolist() == n.to(torch.int16).tolist()
    assert compute("cvt.s16.s8 d, a;", torch.int16, n.to(torch.int16)).tolist() == n.to(torch.int8).tolist()
    assert compute("cvt.u32.u8 d, a;", torch.int32, n).tolist() == [v % 256 for v in numbers]
    big = torch.tensor([2**63 - 1, -1, 2**53 + 1], dtype=torch.int64)
    assert compute("cvt.rn.f32.u64 d, a;", torch.float32, big).tolist() == single([v % 2**64 for v in big.tolist()])
    wide = awkward(torch.float64, 300, 5)
    assert compute("cvt.rn.f32.f64 d, a;", torch.float32, wide).tolist() == single(wide.tolist())


INTEGERS = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100, 255, 2**15, 2**33 + 5, 2**62]
INTEGERS += [2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def signed(value: int, bits: int) -> int:
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("kind", ["u", "s"])
def test_integers(kind: str, bits: int) -> None:
    generator = random.Random(0)
    pool = INTEGERS + [generator.randrange(2**64) for _ in range(10)]
    pairs = [(a, b) for a in pool for b in pool]
    dtype = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    read = (lambda v: signed(v, bits)) if kind == "s" else (lambda v: v % 2**bits)
    a, b = (torch.tensor([signed(pair[i], bits) for pair in pairs], dtype=dtype) for i in (0, 1))
    c = a.flip(0)
    shifts = torch.tensor([signed(pair[1], 32) for pair in pairs], dtype=torch.int32)
    x, y, z = ([read(v) for v in t.tolist()] for t in (a, b, c))
    n = [v % 2**32 for v in shifts.tolist()]

    def check(code: str, expected: list[int], *inputs: Tensor) -> None:
        got = compute(code.replace("T", f"{kind}{bits}").replace("B", f"b{bits}"), dtype, *inputs)
        assert got.tolist() == [signed(v, bits) for v in expected], code

    check("add.T d, a, b;", [p + q for p, q in together(x, y)], a, b)
    check("sub.T d, a, b;", [p - q for p, q in together(x, y)], a, b)
    check("mul.lo.T d, a, b;", [p * q for p, q in together(x, y)], a, b)
    check("mul.hi.T d, a, b;", [p * q >> bits for p, q in together(x, y)], a, b)
    check("mad.lo.T d, a, b, c;", [p * q + r for p, q, r in together(x, y, z)], a, b, c)
    check("mad.hi.T d, a, b, c;", [(p * q >> bits) + r for p, q, r in together(x, y, z)], a, b, c)
    check("min.T d, a, b;", list(map(min, x, y)), a, b)
    check("max.T d, a, b;", list(map(max, x, y)), a, b)
    divisor, q = torch.where(b == 0, 1, b), [v or 1 for v in y]
    quotients = [abs(p) // abs(r) * (1 if (p < 0) == (r < 0) else -1) for p, r in together(x, q)]
    check("div.T d, a, b;", quotients, a, divisor)
    check("rem.T d, a, b;", [p - s * r for p, r, s in together(x, q, quotients)], a, divisor)
    check("shl.B d, a, b;", [p << min(s, 64) for p, s in together(x, n)], a, shifts)
    check("shr.T d, a, b;", [p >> min(s, 64) for p, s in together(x, n)], a, shifts)
    check("xor.B d, a, b;", [p ^ r for p, r in together(x, y)], a, b)
    check("and.B d, a, b;", [p & r for p, r in together(x, y)], a, b)
    check("or.B d, a, b;", [p | r for p, r in together(x, y)], a, b)
    check("not.B d, a;", [~p for p in x], a)
    if kind == "s":
        check("neg.T d, a;", [-p for p in x], a)
        check("abs.T d, a;", [abs(p) for p in x], a)
    if bits < 64:
        twice = {16: torch.int32, 32: torch.int64}[bits]
        wide = compute(f"mul.wide.{kind}{bits} d, a, b;", twice, a, b)
        assert wide.tolist() == [signed(p * r, 2 * bits) for p, r in together(x, y)]
        wide = compute(f"mad.wide.{kind}{bits} d, a, b, c;", twice, a, b, c.to(twice))
        assert wide.tolist() == [signed(p * r + s, 2 * bits) for p, r, s in together(x, y, c.tolist())]
    if bits >= 32:
        for position, length in ((0, 0), (0, 5), (3, 8), (bits - 4, 4), (bits - 4, 9), (bits, 3), (0, bits), (7, 255)):

            def field(p: int, position: int = position, length: int = length) -> int:
                whole = p >> position if kind == "s" else p % 2**bits >> position
                end = min(position + length, bits) - position
                if length == 0 or end <= 0:
                    return 0 if length == 0 or kind == "u" or p >= 0 else -1
                return signed(whole, end) if kind == "s" else whole % 2**end

            check(f"bfe.T d, a, {position}, {length};", [field(p) for p in x], a)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_comparisons(dtype: torch.dtype) -> None:
    x = special(dtype)
    a, b = x.repeat_interleave(len(x)), x.repeat(len(x))
    ordered = {"eq": a == b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    nan = a.isnan() | b.isnan()
    expected = {**ordered, "ne": (a != b) & ~nan, "nan": nan, "num": ~nan, "neu": a != b}
    expected |= {f"{name}u": holds | nan for name, holds in ordered.items()}
    for name, holds in expected.items():
        code = f"setp.{name}.{NAMES[dtype]} %p1, a, b; selp.b32 d, 1, 0, %p1;"
        assert torch.equal(compute(code, torch.int32, a, b).bool(), holds), name
        code = f"setp.eq.b32 %p3, %r0, %r0; setp.{name}.and.{NAMES[dtype]} %p1|%p2, a, b, %p3; selp.b32 d, 0, 1, %p2;"
        assert torch.equal(compute(code, torch.int32, a, b).bool(), holds), name
        if dtype.itemsize == 2:
            even = len(a) // 2 * 2
            code = f"setp.{name}.{NAMES[dtype]}x2 %p1|%p2, a, b; selp.b32 %r5, 1, 0, %p1;"
            code += "selp.b32 %r6, 2, 0, %p2; or.b32 d, %r5, %r6;"
            got = compute(code, torch.int32, a[:even].view(torch.int32), b[:even].view(torch.int32))
            assert torch.equal(torch.stack([got % 2, got // 2], 1).flatten().bool(), holds[:even]), name


def test_signs() -> None:
    for dtype, name in NAMES.items():
        x = special(dtype)[:-1]
        assert torch.equal(compute(f"abs.{name} d, a;", dtype, x), x.abs())
        got = compute(f"neg.{name} d, a;", dtype, x)
        assert torch.equal(got, -x)
        assert torch.equal(got.signbit(), ~x.signbit())


def test_bytes_and_halves() -> None:
    a, b = (torch.tensor(values, dtype=torch.int64).to(torch.int32) for values in ([0x44332281], [0x88776655]))
    selections = {0x3210: 0x44332281, 0x7654: 0x88776655, 0x0123: 0x81223344, 0x7771: 0x88888822, 0x8FB9: 0xFFFF0000}
    for selector, expected in selections.items():
        assert compute(f"prmt.b32 d, a, b, {hex(selector)}U;", torch.int32, a, b).item() % 2**32 == expected
    assert compute("popc.b32 d, b;", torch.int32, a, b).item() == 0x88776655.bit_count()
    assert compute("mov.b32 {%rs1, %rs2}, a; mov.b32 d, {%rs2, %rs1};", torch.int32, a).item() == 0x22814433
    assert (
        compute("mov.b64 {_, %r5}, a; mov.b32 d, %r5;", torch.int32, torch.tensor([0x1122334455667788])).item()
        == 0x11223344
    )
    assert compute("mov.b64 d, {a, b};", torch.int64, a, b).item() % 2**64 == 0x8877665544332281
    for shift in (0, 8, 31, 33):
        both = 0x88776655_44332281
        got = compute(f"shf.l.wrap.b32 d, a, b, {shift};", torch.int32, a, b).item()
        assert got % 2**32 == (both << (shift & 31) >> 32) % 2**32
        got = compute(f"shf.r.wrap.b32 d, a, b, {shift};", torch.int32, a, b).item()
        assert got % 2**32 == (both >> (shift & 31)) % 2**32


def test_immediates() -> None:
    x = torch.zeros(1)
    assert compute("add.f32 d, a, 0f3F800000;", torch.float32, x).item() == 1
    assert compute("cvt.f64.f32 %rd5, a; add.f64 d, %rd5, 0d3FF8000000000000;", torch.float64, x).item() == 1.5
    assert compute("mov.b16 %rs1, 0xBF80; cvt.f32.bf16 d, %rs1;", torch.float32, x).item() == -1
    assert compute("mov.b32 d, -7;", torch.int32, x).item() == -7


def test_division_and_roots() -> None:
    a, b = torch.randn(1000) * 100, torch.randn(1000)
    assert torch.equal(compute("div.rn.f32 d, a, b;", torch.float32, a, b), a / b)
    assert torch.equal(compute("div.rn.f64 d, a, b;", torch.float64, a.double(), b.double()), a.double() / b.double())
    roots = torch.from_numpy(np.sqrt(a.abs().numpy()))  # torch's own may be rounded otherwise
    assert torch.equal(compute("sqrt.rn.f32 d, a;", torch.float32, a.abs()), roots)
    assert (
        compute("div.approx.f32 d, a, b;", torch.float32, torch.tensor([2.0**127]), torch.tensor([2.0**127])).item()
        == 0
    )
    assert (
        compute("div.full.f32 d, a, b;", torch.float32, torch.tensor([2.0**127]), torch.tensor([2.0**127])).item() == 1
    )


@pytest.mark.parametrize("noise", [False, True])
def test_approximations(noise: bool) -> None:
    emulator.set_noise(noise)
    x, b = torch.linspace(-130, 130, 5001), torch.randn(5001)
    for code, exact, ulps, inputs in (
        ("ex2.approx.ftz.f32 d, a;", x.double().exp2(), 2, (x,)),
        ("rcp.approx.ftz.f32 d, a;", 1 / b.double(), 1, (b,)),
        ("div.full.f32 d, a, b;", x.double() / b.double(), 2, (x, b)),
    ):
        got = compute(code, torch.float32, *inputs)
        normal = (exact.abs() < 2.0**127) & (exact.abs() > 2.0**-125)
        ulp = 2.0 ** (exact.abs()[normal].log2().floor() - 23)
        error = ((got[normal].double() - exact[normal]) / ulp).abs().max().item()
        assert (0.9 * ulps if noise else 0.4) < error <= (ulps if noise else 0.52)
        assert torch.equal(compute(code, torch.float32, *inputs), got)
    ends = torch.tensor([-math.inf, math.inf, -200.0, 200.0, math.nan])
    assert compute("ex2.approx.ftz.f32 d, a;", torch.float32, ends).tolist()[:4] == [0, math.inf, 0, math.inf]
    assert compute("ex2.approx.ftz.f32 d, a;", torch.float32, ends)[4].isnan()
    assert compute("rcp.approx.ftz.f32 d, a;", torch.float32, torch.tensor([0.0, -0.0, math.inf])).tolist() == [
        math.inf,
        -math.inf,
        0,
    ]


# Between threads.


@pytest.mark.parametrize("mode", ["bfly", "idx", "up", "down"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(mode: str, width: int) -> None:
    for by in (1, 3, 16):
        clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
        y = torch.empty(THREADS, dtype=torch.int32)
        run(
            f"shfl.sync.{mode}.b32 %r2|%p1, %r0, {by}, {clamp}, -1; selp.b32 %r3, 1000, 0, %p1; add.s32 %r4, %r2, %r3;"
            "add.s64 %rd21, %rd0, %rd20; st.global.b32 [%rd21], %r4;",
            y,
        )
        for i, got in enumerate(y.tolist()):
            start = i // width * width
            j = {"bfly": i ^ by, "idx": start + by % width, "up": i - by, "down": i + by}[mode]
            # An exchange may reach back into what lies before.
            valid = j < start + width and (mode == "bfly" or j >= start)
            assert got == (j + 1000 if valid else i), (by, i)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices(transposed: bool) -> None:
    """Each warp has four matrices of 8 x 8 numbers in 512 bytes, a row to a thread."""
    trans = ".trans" if transposed else ""
    numbers = torch.arange(THREADS * 8, dtype=torch.int16)
    fill = """
    mul.wide.u32 %rd21, %r0, 16;
    add.s64 %rd22, %rd0, %rd21;
    add.s64 %rd23, %rd1, %rd21;
    shl.b32 %r2, %r0, 4;
    """
    rows = "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd22]; st.shared.v4.b32 [%r2], {%r4, %r5, %r6, %r7}; bar.sync 0;"
    load = f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r2];"
    store = f"stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r2], {{%r4, %r5, %r6, %r7}};"
    out = "st.global.v4.b32 [%rd23], {%r4, %r5, %r6, %r7};"
    matrices = numbers.view(4, 4, 8, 8)  # warp, matrix, row, column
    seen = matrices.transpose(2, 3) if transposed else matrices
    # Lane l has the numbers 2 (l % 4) and the next of row l / 4 of each matrix.
    fragments = seen.reshape(4, 4, 32, 2).transpose(1, 2).contiguous()  # warp, lane, matrix, two
    y = torch.empty_like(numbers)
    run(fill + rows + load + out, numbers, y, shared=2048)
    assert torch.equal(y.view(4, 32, 4, 2), fragments)
    y = torch.empty_like(numbers)
    loads = "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd22];"
    back = "bar.sync 0; ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r2];"
    run(fill + loads + store + back + out, fragments.flatten(), y, shared=2048)
    assert torch.equal(y, numbers)
    fault("misaligned row of a matrix", fill + rows + load.replace("[%r2]", "[%r2+4]"), numbers, y, shared=2048)
    beyond = fill + rows + load.replace("[%r2]", "[%r2+16]")
    fault("access of 16 bytes of shared memory at 2048", beyond, numbers, y, shared=2048)
