"""`enable` as users call it: kept, used again, in blocks within blocks, under other defaults."""

from __future__ import annotations

import torch

import fastact
from fastact.enable import enabled


def test_a_kept_block_enables_each_time() -> None:
    kept = fastact.enable(only="relu")
    fastact.disable()
    for _ in range(2):
        with kept:
            assert enabled() == {"relu"}
        assert not fastact.is_enabled()
    with fastact.enable(only="tanh"):
        with kept, kept:
            assert enabled() == {"relu"}
        assert enabled() == {"tanh"}
    assert not fastact.is_enabled()


def test_a_block_ends_with_what_the_call_found() -> None:
    fastact.enable(only="tanh")
    kept = fastact.enable(only="relu")
    with kept:
        fastact.disable()
    assert enabled() == {"tanh"}
    with kept, fastact.enable(only="silu"):
        assert enabled() == {"silu"}
    assert enabled() == {"tanh"}


def test_bytes_of_overrides_are_those_of_float32() -> None:
    expected = fastact.overrides()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        assert fastact.overrides() == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
