"""From camera images to the network's: no shift between the grids, no unit, no holes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.preprocess import (
    LUMINANCE,
    coarse_size,
    fill_holes,
    graded_validity,
    guidance_image,
    pool,
    shrink,
    smooth_holes,
    target_image,
    working_size,
)
from dkn_ros.resampling import resample

FloatImage = NDArray[np.float32]

# (colour width, height), (depth width, height): whole ratios, others, different ones in x and y, shrinking, equal.
GRIDS = [
    ((64, 48), (16, 12)),
    ((96, 64), (12, 16)),
    ((61, 47), (16, 12)),
    ((90, 53), (48, 42)),
    ((37, 41), (36, 40)),
    ((40, 30), (64, 50)),
    ((33, 24), (33, 24)),
]
grids = pytest.mark.parametrize(("size", "depth_size"), GRIDS, ids=str)


def plane(width: int, height: int, x: float = 0.0, y: float = 0.0, start: float = 1.0) -> FloatImage:
    """A plane sampled at the pixel centres of a grid that spans 0..1 in x and in y."""
    columns, rows = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    return (start + x * columns[None] + y * rows[:, None]).astype(np.float32)


def interior(size: tuple[int, int], depth_size: tuple[int, int]) -> tuple[slice, slice]:
    """Where bicubic resampling does not reach beyond the border: two pixels of the coarser grid."""
    columns, rows = (3 * max(1, -(-full // low)) for full, low in zip(size, depth_size, strict=True))
    return slice(rows, -rows), slice(columns, -columns)


def holey(rng: np.random.Generator, height: int, width: int, share: float) -> FloatImage:
    """Random depth of which `share` is measured, at least one pixel."""
    depth = rng.uniform(1, 5, (height, width)).astype(np.float32)
    depth[rng.random(depth.shape) > share] = np.nan
    depth[height // 2, width // 3] = 2.5
    return depth


@grids
@pytest.mark.parametrize(("x", "y"), [(1.0, 0.0), (0.0, -2.0), (0.7, 0.4)], ids=["x", "y", "both"])
def test_a_ramp_stays_the_same_ramp_on_every_grid(
    size: tuple[int, int], depth_size: tuple[int, int], x: float, y: float
) -> None:
    """Half a pixel of shift would be 0.008 and more."""
    resampled = resample(plane(*depth_size, x, y), *size)
    assert resampled.shape == size[::-1] and resampled.dtype == np.float32
    inside = interior(size, depth_size)
    np.testing.assert_allclose(resampled[inside], plane(*size, x, y)[inside], rtol=0, atol=1e-3)


@grids
def test_the_target_is_the_depth_on_the_colour_grid_scaled_to_its_range(
    size: tuple[int, int], depth_size: tuple[int, int]
) -> None:
    depth = plane(*depth_size, 0.7, 0.4)
    target = target_image(depth, *size)
    assert (target.low, target.high) == (float(depth.min()), float(depth.max()))
    inside = interior(size, depth_size)
    metres = target.low + (target.high - target.low) * target.image
    np.testing.assert_allclose(metres[inside], plane(*size, 0.7, 0.4)[inside], rtol=0, atol=1e-3)
    assert target.image.dtype == np.float32 and abs(target.image.mean() - 0.5) < 0.02
    ratio = np.sqrt(size[0] * size[1] / (depth_size[0] * depth_size[1]))
    for whole, value in ((target.validity, graded_validity(ratio)), (target.distance, 0)):
        assert whole.shape == size[::-1] and whole.dtype == np.float32
        np.testing.assert_allclose(whole, value, rtol=1e-6)


@pytest.mark.parametrize(("ratio", "validity"), [(0.5, 1), (1, 1), (2, 7 / 8), (4, 6 / 8), (16, 4 / 8), (1e6, 1 / 8)])
def test_validity_of_measured_depth_falls_with_the_ratio_but_stays_above_that_of_a_hole(
    ratio: float, validity: float
) -> None:
    assert graded_validity(ratio) == pytest.approx(validity)


def test_target_does_not_depend_on_unit_and_offset(rng: np.random.Generator) -> None:
    depth = holey(rng, 12, 16, 0.8)
    target, other = target_image(depth, 50, 40), target_image(3.5 * depth + 2, 50, 40)
    np.testing.assert_allclose(other.image, target.image, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(other.validity, target.validity)
    np.testing.assert_array_equal(other.distance, target.distance)


@pytest.mark.parametrize("holes", [False, True])
def test_a_flat_frame_stays_flat(holes: bool) -> None:
    depth = np.full((6, 8), 1.234, np.float32)
    if holes:
        depth[1:3, 2:6] = np.nan
    target = target_image(depth, 30, 25)
    assert target.low == float(np.float32(1.234)) and target.high > target.low
    assert (target.image == 0).all()


def test_a_frame_without_depth_is_refused() -> None:
    for refuse in (fill_holes, lambda depth: target_image(depth, 10, 10)):
        with pytest.raises(ValueError, match="depth holds no valid pixel; wanted: at least one"):
            refuse(np.full((4, 5), np.nan, np.float32))


def test_range_is_that_of_the_measured_pixels(rng: np.random.Generator) -> None:
    depth = holey(rng, 10, 10, 0.5)
    target = target_image(depth, 40, 40)
    assert (target.low, target.high) == (float(np.nanmin(depth)), float(np.nanmax(depth)))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("shape", [(23, 31), (40, 17), (1, 30), (12, 1)], ids=str)
def test_holes_take_the_nearest_measured_depth(rng: np.random.Generator, shape: tuple[int, int], share: float) -> None:
    depth = holey(rng, *shape, share)
    filled, distance = fill_holes(depth)
    y, x = np.indices(shape)
    known_y, known_x = np.nonzero(~np.isnan(depth))
    away = np.hypot(y[..., None] - known_y, x[..., None] - known_x)
    nearest = away.min(axis=-1)
    # OpenCV's distance transform is off by up to 2 %, so of two pixels that are nearly as near either may be taken.
    np.testing.assert_allclose(distance, nearest, rtol=0.025, atol=1e-6)
    allowed = away <= 1.05 * nearest[..., None]
    assert (allowed & (depth[known_y, known_x] == filled[..., None])).any(axis=-1).all()
    np.testing.assert_array_equal(filled[~np.isnan(depth)], depth[~np.isnan(depth)])
    assert filled.dtype == distance.dtype == np.float32


def test_filling_leaves_the_input_alone(rng: np.random.Generator) -> None:
    depth = holey(rng, 8, 9, 0.5)
    before = depth.copy()
    depth.flags.writeable = False
    target_image(depth, 30, 30)
    np.testing.assert_array_equal(depth, before)


@grids
def test_validity_shows_the_depth_pixel_that_a_colour_pixel_lies_in(
    rng: np.random.Generator, size: tuple[int, int], depth_size: tuple[int, int]
) -> None:
    depth = holey(rng, depth_size[1], depth_size[0], 0.6)
    validity = target_image(depth, *size).validity
    assert len(np.unique(validity)) == 2 and validity.min() == 0
    right = np.zeros(validity.shape, bool)
    for tie_x, tie_y in itertools.product((-1e-6, 1e-6), repeat=2):  # a centre on the border of two lies in either
        column, row = (
            ((np.arange(full) + 0.5) * low / full + tie).astype(int)
            for full, low, tie in zip(size, depth_size, (tie_x, tie_y), strict=True)
        )
        right |= (validity > 0) == ~np.isnan(depth[row[:, None], column])
    assert right.all()


@pytest.mark.parametrize("ratio", [1, 4, 2.5])
def test_distance_grows_by_a_pixel_a_pixel_of_the_colour_grid(ratio: float) -> None:
    depth = np.full((4, 20), np.nan, np.float32)
    depth[:, :5] = 2.0
    depth[:, 4] = 3.0
    width = round(20 * ratio)
    distance = target_image(depth, width, round(4 * ratio)).distance
    away = np.arange(width) + 0.5 - 5 * ratio  # from the border between measured and unknown
    wanted = np.broadcast_to(np.maximum(away, 0), distance.shape)
    inside = np.s_[:, : width - int(np.ceil(ratio / 2))]  # the last half of a depth pixel has no further neighbour
    np.testing.assert_allclose(distance[inside], wanted[inside], rtol=0, atol=0.26 * ratio)
    assert (np.diff(distance[0]) >= 0).all()


def test_luminance_is_that_of_bt_601(rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    guidance = guidance_image(rgb)
    assert guidance.shape == (1, 9, 11) and guidance.dtype == np.float32
    wanted = (0.299 * rgb[..., 0].astype(float) + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]) / 255
    np.testing.assert_allclose(guidance[0], wanted, rtol=0, atol=2e-7)
    assert sum(LUMINANCE) == pytest.approx(1)


def test_grey_is_its_own_luminance(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (9, 11), dtype=np.uint8)
    grey[0, :2] = 0, 255
    mono = guidance_image(grey)
    np.testing.assert_array_equal(mono[0], grey.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(guidance_image(np.repeat(grey[..., None], 3, axis=2)), mono, rtol=0, atol=2e-7)


def test_colour_guidance_has_red_green_blue(rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    guidance = guidance_image(rgb, colour=True)
    assert guidance.shape == (3, 9, 11)
    np.testing.assert_allclose(guidance, np.moveaxis(rgb, 2, 0) / 255, rtol=0, atol=1e-7)
    grey = guidance_image(rgb[..., 1], colour=True)
    np.testing.assert_array_equal(grey, np.repeat(guidance[1:2], 3, axis=0))


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 1), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5), np.uint16),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
    ids=lambda rgb: f"{rgb.dtype}{rgb.shape}",
)
def test_refuses_what_is_no_colour_image(rgb: NDArray) -> None:
    with pytest.raises(ValueError, match="wanted: HxWx3 or HxW, uint8") as raised:
        guidance_image(rgb)
    assert f"rgb is {rgb.dtype} of shape {rgb.shape}" in str(raised.value)


def test_smoothing_takes_the_mean_in_holes_and_leaves_what_was_measured(rng: np.random.Generator) -> None:
    filled = rng.random((9, 11), np.float32)
    distance = np.zeros_like(filled)
    distance[4, 5] = distance[0, 0] = 1
    smooth = smooth_holes(filled, distance)
    assert smooth[4, 5] == pytest.approx(filled[3:6, 4:7].mean(), rel=1e-5)
    corner = np.pad(filled, 1, mode="edge")[:3, :3]
    assert smooth[0, 0] == pytest.approx(corner.mean(), rel=1e-5)
    measured = distance == 0
    np.testing.assert_array_equal(smooth[measured], filled[measured])


def test_a_guess_stands_in_the_holes_alone_and_within_the_measured_range() -> None:
    depth = plane(16, 12, x=2.0)
    depth[4:8, 4:8] = np.nan
    guess = np.full((12, 16), 2.5, np.float32)
    guess[5, 5], guess[6, 6] = 9.0, -1.0
    target = target_image(depth, 16, 12, guess)
    metres = target.low + (target.high - target.low) * target.image
    hole = np.isnan(depth)
    np.testing.assert_allclose(metres[~hole], depth[~hole], rtol=1e-6)
    wanted = np.clip(guess, np.nanmin(depth), np.nanmax(depth))
    np.testing.assert_allclose(metres[hole], wanted[hole], rtol=1e-6)
    assert not target.validity[hole].any() and target.distance[hole].all()


def test_pooling_averages_what_is_measured() -> None:
    depth = np.arange(1, 33, dtype=np.float32).reshape(4, 8)
    depth[0, 0] = depth[0, 6] = depth[0, 7] = depth[1, 7] = np.nan  # three of the last block's four: a quarter is left
    depth[2:, 2:4] = np.nan
    wanted = [[(2 + 9 + 10) / 3, (3 + 4 + 11 + 12) / 4, (5 + 6 + 13 + 14) / 4, 15]]
    wanted += [[(17 + 18 + 25 + 26) / 4, np.nan, (21 + 22 + 29 + 30) / 4, (23 + 24 + 31 + 32) / 4]]
    np.testing.assert_allclose(pool(depth, 4, 2), wanted, rtol=1e-6)
    assert pool(depth, 8, 4) is depth


def test_colour_on_another_grid_stays_in_place() -> None:
    ramp = np.broadcast_to(np.arange(64) * 3 + 20, (32, 64)).astype(np.uint8)
    small, large = shrink(ramp, 16, 8), shrink(ramp, 128, 64)
    np.testing.assert_allclose(small, np.broadcast_to(20 + 3 * (4 * np.arange(16) + 1.5), (8, 16)), atol=1)
    middle = np.broadcast_to(20 + 3 * (np.arange(128) / 2 - 0.25), (64, 128))
    np.testing.assert_allclose(large[:, 4:-4], middle[:, 4:-4], atol=1)


def test_holes_are_filled_on_the_depths_grid_or_a_quarter_of_the_colours() -> None:
    assert coarse_size((480, 640), (60, 80)) == (60, 80)
    assert coarse_size((480, 640), (480, 640)) == (120, 160)
    assert coarse_size((1080, 1920), (424, 512)) == (270, 480)
    assert coarse_size((3, 2), (1, 1)) == (1, 1)


@pytest.mark.parametrize(
    ("depth", "ratios", "wanted"),
    [
        ((120, 160), (1, 16), (480, 640)),
        ((120, 160), (8, 8), (960, 1280)),
        ((30, 40), (1, 8), (240, 320)),
        ((960, 1280), (1, 8), (480, 640)),
        ((240, 160), (8, 8), (1358, 1810)),
    ],
)
def test_the_network_works_where_its_ratio_fits(
    depth: tuple[int, int], ratios: tuple[float, float], wanted: tuple[int, int]
) -> None:
    assert working_size((480, 640), depth, ratios) == wanted
