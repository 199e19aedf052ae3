"""Vectors in compiled loops, and the sigmoid that is made of them, against NumPy."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros import vectors as v
from dkn_ros.sampling import fused

F = np.float32


@numba.njit
def arithmetic(a, b, out):  # type: ignore[no-untyped-def]
    x, y = v.load(a, 0), v.load(b, 0)
    v.keep(out, 0, x + y)
    v.keep(out, 16, x - y)
    v.keep(out, 32, x * y)
    v.keep(out, 48, x / y)
    v.keep(out, 64, x + F(2))
    v.keep(out, 80, F(2) - x)
    v.keep(out, 96, F(2) * x)
    v.keep(out, 112, x / F(2))
    v.keep(out, 128, v.spread(F(7)))


@numba.njit
def chosen(a, b, out):  # type: ignore[no-untyped-def]
    v.keep(out, 0, v.where_less(v.load(a, 0), v.load(b, 0), v.spread(F(1)), v.spread(F(0))))


@numba.njit
def floors(values, out):  # type: ignore[no-untyped-def]
    for i in range(0, len(values), 16):
        v.keep(out, i, v.floor(v.load(values, i)))


@numba.njit
def powers(exponents, out):  # type: ignore[no-untyped-def]
    for i in range(0, len(exponents), 16):
        v.keep(out, i, v.power_of_two(v.load(exponents, i)))


@numba.njit
def moved(values, start, out):  # type: ignore[no-untyped-def]
    v.keep(out, start, v.load(values, start))


@numba.njit
def in_fours(values, start, out):  # type: ignore[no-untyped-def]
    v.keep_fours(out, start, v.load(values, 0), v.load(values, 16), v.load(values, 32), v.load(values, 48))


@numba.njit
def squares(image, pitch, places, share):  # type: ignore[no-untyped-def]
    total = v.no_square()
    for i in range(len(places)):
        total = v.add_square(total, share, 4 * i, image, places[i], places[i] + pitch)
    return v.sum_of_square(total)


@numba.njit
def sigmoids(values, out):  # type: ignore[no-untyped-def]
    for i in range(0, len(values), 16):
        v.keep(out, i, F(1) / fused._below_sigmoid(v.load(values, i)))


def some(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-5, 5, count).astype(F)


def test_arithmetic_of_vectors_and_of_vectors_with_numbers() -> None:
    a, b, out = some(16), some(16, 1), np.empty(9 * 16, F)
    arithmetic(a, b, out)
    wanted = [a + b, a - b, a * b, a / b, a + F(2), F(2) - a, F(2) * a, a / F(2), np.full(16, 7, F)]
    np.testing.assert_array_equal(out.reshape(9, 16), wanted)


def test_what_is_not_less_and_nan_is_the_other() -> None:
    a = np.array([0, 1, 2, np.nan, 1, np.nan, -np.inf, np.inf, 0, -0.0, *[3] * 6], F)
    b = np.array([1, 1, 1, 1, np.nan, np.nan, 0, 0, np.inf, 0, *range(6)], F)
    out = np.empty(16, F)
    chosen(a, b, out)
    np.testing.assert_array_equal(out, (a < b).astype(F))
    assert 0 < out.sum() < 16


def test_floors_are_exact() -> None:
    special = [-8, -1, -0.5, -0.0, 0, 0.5, 0.99999994, 1, 7.99, 1e6, -1e6 - 0.5, 3e38, -3e38, np.inf, -np.inf, np.nan]
    values = np.concatenate([some(48, 2), special]).astype(F)
    out = np.empty_like(values)
    floors(values, out)
    np.testing.assert_array_equal(out, np.floor(values))


def test_powers_of_two_are_exact() -> None:
    exponents = np.append(np.arange(-126, 128), [0, 0]).astype(F)
    out = np.empty_like(exponents)
    powers(exponents, out)
    np.testing.assert_array_equal(out, np.ldexp(F(1), exponents.astype(np.int32)))


@pytest.mark.parametrize("start", [0, 1, 3, 16, 31])
def test_numbers_go_where_they_shall_and_nowhere_else(start: int) -> None:
    """Also from places that no vector register would choose."""
    values, out, whole = some(48), np.full(48, 9, F), np.full(48, 9, np.int32)
    moved(values, start, out)
    moved(values, start, whole)
    inside = slice(start, start + 16)
    np.testing.assert_array_equal(out[inside], values[inside])
    np.testing.assert_array_equal(whole[inside], values[inside].astype(np.int32))
    assert (np.delete(out, np.r_[inside]) == 9).all() and (np.delete(whole, np.r_[inside]) == 9).all()


@pytest.mark.parametrize("start", [0, 5])
def test_bfloat16_is_read_as_its_number(start: int) -> None:
    values, out = some(48), np.zeros(48, F)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    moved(bits, start, out)
    inside = slice(start, start + 16)
    np.testing.assert_array_equal(out[inside], (bits.astype(np.uint32) << 16).view(F)[inside])


def test_fours_stand_side_by_side() -> None:
    values, out = some(64), np.full(70, 9, F)
    in_fours(values, 3, out)
    np.testing.assert_array_equal(out[3:67].reshape(16, 4), values.reshape(4, 16).T)
    assert (out[:3] == 9).all() and (out[67:] == 9).all()


def test_squares_of_an_image_are_added_up() -> None:
    image, share = some(60).reshape(6, 10), some(12, 1).reshape(3, 4)
    places = np.array([0, 23, 48])
    wanted = sum(
        (image[p // 10 : p // 10 + 2, p % 10 : p % 10 + 2].reshape(4) * s).sum()
        for p, s in zip(places, share, strict=True)
    )
    found = squares(image.reshape(-1), 10, places, share.reshape(-1))
    assert found == pytest.approx(wanted, abs=1e-4)


def sigmoid(values: Any) -> NDArray[np.float32]:
    """Of any count of numbers, in vectors."""
    values = np.asarray(values, F)
    padded = np.zeros(-(-len(values) // 16) * 16, F)
    padded[: len(values)] = values
    found = np.empty_like(padded)
    sigmoids(padded, found)
    return found[: len(values)]


def test_the_sigmoid_is_right_to_seven_digits() -> None:
    x = np.concatenate([np.linspace(-100, 100, 200_001), np.linspace(-1e-3, 1e-3, 2001)]).astype(F)
    found = sigmoid(x)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=0, atol=3e-7)
    assert found.min() >= 0 and found.max() <= 1


def test_the_sigmoid_of_large_numbers_is_0_or_1() -> None:
    found = sigmoid([-np.inf, -3e38, -1e4, 1e4, 3e38, np.inf])
    np.testing.assert_allclose(found, [0, 0, 0, 1, 1, 1], rtol=0, atol=3e-7)
