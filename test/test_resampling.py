"""Bicubic resampling, against Pillow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dkn_ros.buffers import Buffers
from dkn_ros.resampling import resample, taps

FloatImage = NDArray[np.float32]
Size = tuple[int, int]

SIZES: list[tuple[Size, Size]] = [
    ((16, 12), (64, 48)),
    ((16, 12), (128, 96)),
    ((64, 48), (16, 12)),
    ((64, 48), (8, 6)),
    ((37, 23), (101, 59)),
    ((101, 59), (37, 23)),
    ((20, 60), (60, 20)),
    ((33, 7), (32, 8)),
    ((64, 48), (64, 12)),
    ((64, 12), (64, 48)),
    ((13, 11), (14, 11)),
    ((1, 1), (1, 1)),
    ((1, 1), (7, 5)),
    ((7, 5), (1, 1)),
    ((2, 3), (9, 2)),
    ((1, 9), (40, 3)),
    ((3, 1), (2, 50)),
    ((500, 3), (3, 500)),
]


def image(width: int, height: int) -> FloatImage:
    return np.random.default_rng(width * 1000 + height).random((height, width), np.float32)


def by_pillow(given: FloatImage, width: int, height: int) -> FloatImage:
    return np.asarray(Image.fromarray(given).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
def test_gives_what_pillow_gives(given: Size, wanted: Size) -> None:
    before = image(*given)
    after = resample(before, *wanted)
    assert after.shape == wanted[::-1] and after.dtype == np.float32
    np.testing.assert_allclose(after, by_pillow(before, *wanted), rtol=0, atol=1e-6)


def test_gives_what_pillow_gives_for_any_size(rng: np.random.Generator) -> None:
    for _ in range(100):
        given, wanted = (tuple(int(side) for side in rng.integers(1, 70, 2)) for _ in range(2))
        before = image(given[0], given[1])
        after = by_pillow(before, wanted[0], wanted[1])
        found = resample(before, wanted[0], wanted[1])
        np.testing.assert_allclose(found, after, rtol=0, atol=1e-6, err_msg=f"{given} to {wanted}")


@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
@pytest.mark.parametrize("value", [1.0, 0.1, -3.7, 5000.0])
def test_a_flat_image_stays_flat(given: Size, wanted: Size, value: float) -> None:
    flat = np.full(given[::-1], value, np.float32)
    np.testing.assert_allclose(resample(flat, *wanted), np.full(wanted[::-1], value, np.float32), rtol=1e-6)


@pytest.mark.parametrize("given", [1, 2, 7, 40, 640])
@pytest.mark.parametrize("wanted", [1, 3, 8, 39, 640])
def test_every_pixel_is_made_of_pixels_of_the_image(given: int, wanted: int) -> None:
    """The compiled loops check no index."""
    first, weight = taps(given, wanted)
    assert first.shape == (wanted,) and weight.shape[0] == wanted
    assert first.min() >= 0 and (first + weight.shape[1]).max() <= given
    np.testing.assert_allclose(weight.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1, ::-1],
        lambda a: a[::2, 1::3],
        lambda a: a.T,
        lambda a: np.asfortranarray(a),
        lambda a: a[3:-2, 5:-4],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
    ids=["turned", "strided", "transposed", "fortran", "cut out", "one row again and again"],
)
def test_views_that_must_not_be_written_count_as_what_they_show(view: Callable[[FloatImage], FloatImage]) -> None:
    shown = view(image(50, 40))
    shown.flags.writeable = False
    for size in ((80, 70), (9, 70), (9, 8)):
        np.testing.assert_array_equal(resample(shown, *size), resample(shown.copy(), *size))


@pytest.mark.parametrize("buffers", [None, Buffers()], ids=["alone", "with buffers"])
@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
def test_out_is_written_and_returned(given: Size, wanted: Size, buffers: Buffers | None) -> None:
    before = image(*given)
    kept, out = before.copy(), np.full(wanted[::-1], np.nan, np.float32)
    assert resample(before, *wanted, buffers, out) is out
    np.testing.assert_array_equal(out, resample(before, *wanted))
    np.testing.assert_array_equal(before, kept)


def test_an_image_that_has_the_size_is_returned_itself() -> None:
    before = image(16, 12)
    assert resample(before, 16, 12) is before
    assert resample(before, 16, 12, Buffers()) is before


def test_buffers_serve_again_and_a_new_array_is_made_without_them() -> None:
    before, buffers = image(16, 12), Buffers()
    first = resample(before, 64, 48, buffers)
    kept = first.copy()
    assert resample(1 - before, 64, 48, buffers) is first
    assert np.abs(first - kept).max() > 0.1
    assert resample(before, 64, 48) is not resample(before, 64, 48)
