"""bfloat16 in compiled loops, against PyTorch."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dkn_ros.bfloat16 import number, store


@numba.njit
def stored(values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        store(out, i, values[i])


@numba.njit
def numbers(values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        out[i] = number(values[i])


def of_bits(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The finite ones of the floats of these bits."""
    values = bits.astype(np.uint32).view(np.float32)
    return np.ascontiguousarray(values[np.isfinite(values)])


UPPER = np.arange(2**16, dtype=np.uint32) << 16
VALUES = {
    "any": of_bits(np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)),
    "every bfloat16": of_bits(UPPER),
    "every tie": of_bits(UPPER | 0x8000),
    "just below every tie": of_bits(UPPER | 0x7FFF),
    "just above every tie": of_bits(UPPER | 0x8001),
    "denormal": of_bits(np.random.default_rng(1).integers(0, 2**23, 20_000, np.uint32)),
    "in 0..1": np.random.default_rng(2).random(20_000, np.float32),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_a_number_is_stored_as_the_nearest_bfloat16(values: NDArray[np.float32]) -> None:
    bits = np.empty(len(values), np.uint16)
    stored(values, bits)
    wanted = torch.from_numpy(values).to(torch.bfloat16)
    np.testing.assert_array_equal(bits, wanted.view(torch.uint16).numpy())


def test_every_finite_bfloat16_is_read_as_its_number_and_comes_back() -> None:
    given = np.ascontiguousarray((of_bits(UPPER).view(np.uint32) >> 16).astype(np.uint16))
    assert len(given) == 2 * (2**15 - 2**7)
    read, back = np.empty(len(given), np.float32), np.empty_like(given)
    numbers(given, read)
    np.testing.assert_array_equal(read, torch.from_numpy(given).view(torch.bfloat16).float().numpy())
    stored(read, back)
    np.testing.assert_array_equal(back, given)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_float32_is_stored_and_read_as_it_is(values: NDArray[np.float32]) -> None:
    kept, read = np.empty_like(values), np.empty_like(values)
    stored(values, kept)
    numbers(kept, read)
    np.testing.assert_array_equal(read.view(np.uint32), values.view(np.uint32))


def test_both_are_for_compiled_code_alone() -> None:
    for call in (lambda: number(np.float32(1)), lambda: store(np.zeros(1, np.float32), 0, np.float32(1))):
        with pytest.raises(TypeError, match="for compiled code"):
            call()
