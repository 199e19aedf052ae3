"""The preview: colours that follow the scene slowly."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.preview import Preview, colours

HEIGHT, WIDTH = 60, 80


def ramp(near: float = 1.0, far: float = 3.0) -> NDArray[np.float32]:
    return np.tile(np.linspace(near, far, WIDTH, dtype=np.float32), (HEIGHT, 1))


def drawn(
    preview: Preview, depth: NDArray[np.float32], seconds: float = 0.0, near: float = 0, far: float = 0
) -> NDArray[np.uint8]:
    out = np.full((*depth.shape, 3), 77, np.uint8)
    preview.draw(depth, seconds, out, near, far)
    return out


def index(picture: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Which colour of the table each pixel has."""
    return np.abs(picture[..., None, :].astype(int) - colours()).sum(axis=-1).argmin(axis=-1)


def test_near_is_blue_far_is_red_and_invalid_black() -> None:
    depth = ramp()
    depth[:10] = np.nan
    picture = drawn(Preview(), depth)
    assert (picture[:10] == 0).all()
    left, right = picture[30, 10].astype(int), picture[30, -10].astype(int)
    assert left[2] > left[0] + 50 and right[0] > right[2] + 50
    steps = np.diff(index(picture)[30])
    assert (steps >= 0).all() and index(picture)[30, 0] == 0 and index(picture)[30, -1] == 255


def test_given_ends_are_kept() -> None:
    np.testing.assert_allclose(index(drawn(Preview(), ramp(1, 3), 0, 1.0, 5.0))[0], np.linspace(0, 127, WIDTH), atol=1)
    far_only = index(drawn(Preview(), ramp(1, 3), 0, 0, 9.0))[0]
    assert far_only[0] <= 2 and 50 < far_only[-1] < 80


def test_a_few_wild_pixels_do_not_change_the_colours(rng: np.random.Generator) -> None:
    depth = ramp()
    wild = depth.copy()
    wild[rng.random(depth.shape) < 0.01] = 60.0
    same = wild == depth
    difference = index(drawn(Preview(), wild)) - index(drawn(Preview(), depth))
    assert np.abs(difference[same]).max() <= 6  # that percent itself; with the plain range it is above 200


def test_the_range_follows_slowly_and_gets_there() -> None:
    """Something near comes into view: the colours of the rest move by little in a frame, and by all in some seconds."""
    depth, changed = ramp(2, 4), ramp(2, 4)
    changed[:, :20] = 0.5
    preview = Preview()
    before = index(drawn(preview, depth, 10.0))
    next_frame = index(drawn(preview, changed, 10.033))
    shift = np.abs(next_frame - before)[:, 20:].max()
    alone = index(drawn(Preview(), changed))
    assert shift <= 8 < np.abs(alone - before)[:, 20:].max()
    for second in range(11, 20):
        last = index(drawn(preview, changed, float(second)))
    assert np.abs(last - alone).max() <= 2


def test_a_stamp_that_goes_back_starts_anew() -> None:
    preview = Preview()
    drawn(preview, ramp(5, 9), 100.0)
    np.testing.assert_array_equal(drawn(preview, ramp(1, 3), 1.0), drawn(Preview(), ramp(1, 3)))


def test_an_empty_frame_is_black_and_forgets_nothing() -> None:
    preview, empty = Preview(), np.full((HEIGHT, WIDTH), np.nan, np.float32)
    assert (drawn(preview, empty, 0.0) == 0).all()
    first = drawn(preview, ramp(), 1.0)
    assert (drawn(preview, empty, 2.0) == 0).all()
    np.testing.assert_array_equal(drawn(preview, ramp(), 3.0), first)


def test_a_wall_is_of_about_one_colour(rng: np.random.Generator) -> None:
    wall = (2 + 0.002 * rng.standard_normal((HEIGHT, WIDTH))).astype(np.float32)
    assert np.ptp(index(drawn(Preview(), wall))) < 60


@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (480, 640)])
def test_any_size_without_new_arrays(shape: tuple[int, int]) -> None:
    depth, out, preview = np.ones(shape, np.float32), np.empty((*shape, 3), np.uint8), Preview()
    preview.draw(depth, 0.0, out)
    tracemalloc.start()
    try:
        preview.draw(depth, 1.0, out)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()
