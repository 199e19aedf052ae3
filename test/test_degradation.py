"""The camera model: each way to lower the resolution and each part of a sensor's error, worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.synthetic import sensor
from dkn_ros.synthetic.degradation import (
    BASELINE,
    FARTHEST,
    FOCAL_LENGTH,
    KINECT,
    METHODS,
    CameraModel,
    degrade,
    lower,
)

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def wall(height: int = 40, width: int = 100, distance: float = 3.0) -> FloatImage:
    return np.full((height, width), distance, np.float32)


def wall_and_post(near: float, far: float = 3.0, left: int = 50, right: int = 70) -> FloatImage:
    depth = wall(distance=far)
    depth[:, left:right] = near
    return depth


def seeded(depth: FloatImage, seed: int = 1, **settings: Any) -> FloatImage:
    return degrade(depth, CameraModel(**settings), np.random.default_rng(seed))


def random_depth(height: int = 24, width: int = 36) -> FloatImage:
    return np.random.default_rng(2).uniform(1, 5, (height, width)).astype(np.float32)


def grey(luminance: FloatImage) -> NDArray[np.uint8]:
    return np.repeat(np.rint(255 * luminance).astype(np.uint8)[..., None], 3, axis=2)


def tilted(degrees: float, height: int = 41, width: int = 41) -> FloatImage:
    """A plane at 2 m that is turned about the vertical axis; in the middle column it is seen at that angle."""
    x = (np.arange(width) - width // 2) / FOCAL_LENGTH
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.broadcast_to(2 * c / (c - x * s), (height, width)).astype(np.float32)


# --- lower resolution ---------------------------------------------------------------------------------------------


def test_the_plain_camera_changes_nothing() -> None:
    depth = random_depth()
    depth[3, 4] = np.nan
    result = seeded(depth)
    np.testing.assert_array_equal(result, depth)
    assert not np.shares_memory(result, depth)


@pytest.mark.parametrize(
    ("phase", "x", "y"), [((0.5, 0.5), 2, 2), ((0.0, 0.0), 0, 0), ((0.99, 0.3), 3, 1), ((1.0, 0.75), 3, 3)]
)
def test_nearest_takes_exactly_one_pixel_of_each_block(phase: tuple[float, float], x: int, y: int) -> None:
    depth = random_depth(26, 39)  # the rest of a block at the border is cut
    result = seeded(depth, factor=4, phase=phase)
    np.testing.assert_array_equal(result, depth[:24, :36][y::4, x::4])


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_area_takes_the_mean_of_each_block(factor: int) -> None:
    depth = random_depth()
    result = seeded(depth, factor=factor, method="area")
    corners = np.ndindex(24 // factor, 36 // factor)
    wanted = [depth[factor * y :, factor * x :][:factor, :factor].mean() for y, x in corners]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), wanted, rtol=1e-6)


@pytest.mark.parametrize("method", ["area", "box", "bicubic"])
def test_averages_keep_a_ramp_where_it_is(method: str) -> None:
    ramp = np.broadcast_to(1 + (np.arange(64) + 0.5) / 16, (32, 64)).astype(np.float32)
    result = seeded(ramp, factor=4, method=method)
    wanted = np.broadcast_to(1 + (np.arange(16) + 0.5) / 4, (8, 16))
    np.testing.assert_allclose(result[:, 3:-3], wanted[:, 3:-3], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_depth_stays_unknown_and_does_not_spoil_its_neighbours(method: str) -> None:
    depth = wall()
    depth[17:19, 41:43] = np.nan  # the inner 4 of a block's 16 pixels, all that `box` sees and one that `nearest` takes
    depth[1:4, 4:8] = np.nan  # 12 of 16
    depth[:, 80:] = np.nan
    low = lower(depth, 4, method)
    unknown = np.zeros((10, 25), bool)
    unknown[0, 1] = unknown[:, 20:] = True
    unknown[4, 10] = method in ("nearest", "box")
    np.testing.assert_array_equal(np.isnan(low), unknown)
    np.testing.assert_allclose(low[~unknown], 3.0, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_image_stays_unknown(method: str) -> None:
    assert np.isnan(seeded(wall(distance=np.nan), factor=4, method=method)).all()


RATIOS = [(2.0, 0.0), (3.0, 2.0), (1.0, 3.0), (2.4, 0.0), (36 / 11, 24 / 9), (1.45, 2.7), (5.0, 24 / 7)]
"""Of the widths and of the heights, whole and not; 0: the same as the widths."""


def grid(size: int, ratio: float) -> tuple[int, float]:
    """A whole ratio keeps its pitch and cuts the rest; another takes the whole image."""
    count = int(size // ratio)
    return count, ratio if ratio == int(ratio) else size / count


def overlaps(size: int, ratio: float, part: float) -> Array:
    """How much of each of `size` pixels (columns) lies in the inner `part` of each block (rows), summing to 1."""
    count, pitch = grid(size, ratio)
    weights = np.zeros((count, size))
    for i in range(count):
        left, right = (i + 0.5 - part / 2) * pitch, (i + 0.5 + part / 2) * pitch
        for j in range(size):
            weights[i, j] = max(0.0, min(right, j + 1) - max(left, j)) / (right - left)
    return weights


@pytest.mark.parametrize(("method", "part"), [("area", 1.0), ("box", 0.5)])
@pytest.mark.parametrize("ratios", RATIOS, ids=str)
def test_means_are_over_the_block_or_its_inner_half_at_any_ratio(
    ratios: tuple[float, float], method: str, part: float
) -> None:
    depth = random_depth(26, 39)
    depth[rng().random(depth.shape) < 0.4] = np.nan
    down, across = overlaps(26, ratios[1] or ratios[0], part), overlaps(39, ratios[0], part)
    share = down @ np.isfinite(depth) @ across.T
    wanted = down @ np.nan_to_num(depth).astype(np.float64) @ across.T / np.maximum(share, 1e-9)
    low = lower(depth, ratios[0], method, factor_y=ratios[1])
    known = share >= 0.5 - 1e-6
    assert low.shape == share.shape and 0.3 < known.mean() < 1
    np.testing.assert_array_equal(np.isfinite(low), known)
    np.testing.assert_allclose(low[known], wanted[known], rtol=1e-5)


@pytest.mark.parametrize("ratio", [1.3, 2.4, 39 / 7, 7.9])
@pytest.mark.parametrize("method", ["area", "box", "bicubic"])
def test_any_ratio_takes_the_whole_image_and_keeps_a_ramp_where_it_is(method: str, ratio: float) -> None:
    ramp = np.broadcast_to(1 + (np.arange(390) + 0.5) / 16, (240, 390)).astype(np.float32)
    count = int(390 / ratio + 1e-9)
    centres = (np.arange(count) + 0.5) * 390 / count
    for low in (lower(ramp, ratio, method, factor_y=1), lower(ramp.T.copy(), 1, method, factor_y=ratio).T):
        assert low.shape[1] == count
        # A mean of steps is no more than a part of a step beside the ramp, and on the whole it is not.
        beside = 16 * (low[5, 4:-4] - 1) - centres[4:-4]
        assert np.abs(beside).max() < 0.2 and abs(beside.mean()) < 0.002


@pytest.mark.parametrize("phase", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ratio", [1.3, 2.4, 39 / 7, 7.9])
def test_nearest_takes_one_pixel_of_each_block_at_any_ratio(ratio: float, phase: float) -> None:
    columns = np.broadcast_to(np.arange(390), (20, 390)).astype(np.float32)
    picked = lower(columns, ratio, "nearest", (phase, 0.5), factor_y=1)[7]
    pitch = 390 / int(390 / ratio + 1e-9)
    first = np.arange(len(picked)) * pitch
    # The pixel has a part in the block, at its left, middle or right.
    assert (picked + 1 > first + 1e-3).all() and (picked < first + pitch - 1e-3).all()
    assert (np.abs(picked + 0.5 - (first + phase * pitch)) <= 0.5 + (phase == 1) * 1 + 1e-3).all()
    assert (np.diff(picked) >= 1).all()


def test_each_axis_has_its_ratio_and_its_phase() -> None:
    depth = random_depth(26, 39)
    result = seeded(depth, factor=2, factor_y=5, phase=(0.99, 0.0))
    np.testing.assert_array_equal(result, depth[:25:5, 1:38:2])
    assert CameraModel(factor=2, factor_y=5).factors == (2, 5) and CameraModel(factor=2).factors == (2, 2)


def test_depth_that_is_known_only_where_it_is_cut_is_unknown() -> None:
    depth = random_depth(26, 39)
    depth[:24, :36] = np.nan
    for method in METHODS:
        assert np.isnan(lower(depth, 4, method)).all()


@pytest.mark.parametrize("ratios", [(4.0, 0.0), (2.4, 3.0), (39 / 7, 2.6)], ids=str)
def test_sparse_registration_puts_each_measurement_where_it_was_taken(ratios: tuple[float, float]) -> None:
    depth = random_depth(26, 39)
    low = seeded(depth, factor=ratios[0], factor_y=ratios[1])
    full = seeded(depth, factor=ratios[0], factor_y=ratios[1], registered="sparse")
    known = np.isfinite(full)
    assert full.shape == depth.shape and known.sum() == low.size
    np.testing.assert_array_equal(full[known], depth[known])
    np.testing.assert_array_equal(full[known], low.ravel())


def test_replicated_measurements_fill_their_blocks_and_nothing_that_was_cut() -> None:
    depth = random_depth(26, 39)
    full = seeded(depth, factor=4, registered="replicate")
    np.testing.assert_array_equal(full[:24, :36], np.repeat(np.repeat(depth[2:24:4, 2:36:4], 4, 0), 4, 1))
    assert np.isnan(full[24:]).all() and np.isnan(full[:, 36:]).all()


def test_registration_of_three_by_two_pixels() -> None:
    low = np.array([[1, 2, 3], [4, np.nan, 6]], np.float32)
    rows = np.array([[1, 1, 2, 2, 2, 3, 3], [4, 4, np.nan, np.nan, np.nan, 6, 6]], np.float32)
    np.testing.assert_array_equal(sensor.registered(low, 7, 4, "replicate"), rows[[0, 0, 1, 1]])
    sparse = np.full((4, 7), np.nan, np.float32)
    sparse[1, [1, 3, 5]], sparse[3, [1, 3, 5]] = low  # 7/6, 21/6 and 35/6 from the left; 1 and 3 from above
    np.testing.assert_array_equal(sensor.registered(low, 7, 4, "sparse"), sparse)


# --- angles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 10, 45, 70, 85])
def test_angle_of_a_tilted_plane(degrees: float) -> None:
    plane = tilted(degrees)
    for depth in (plane, plane.T.copy(), plane[:, ::-1].copy(), 3 * plane):
        assert np.rad2deg(sensor.surface_angle(depth)[20, 20]) == pytest.approx(degrees, abs=0.3)
    # Half the focal length: the same slope a pixel is less of an angle.
    half = np.rad2deg(sensor.surface_angle(plane, FOCAL_LENGTH / 2)[20, 20])
    assert half == pytest.approx(np.rad2deg(np.arctan(np.tan(np.deg2rad(degrees)) / 2)), abs=0.5)


def test_steepness_is_that_of_nguyen_and_stays_finite_at_edges() -> None:
    angles = np.array([0, np.pi / 4, np.pi / 3], np.float32)
    np.testing.assert_allclose(sensor.steepness(angles), [0, 1, 4], rtol=1e-5)
    edge = sensor.steepness(np.array([np.pi / 2], np.float32))
    assert edge == sensor.steepness(np.array([sensor.STEEPEST], np.float32)) and edge > 50


@pytest.mark.parametrize(("degrees", "growth"), [(0, 1.0), (45, 1.5), (60, 3.0), (75, 4.0)])
def test_disparity_noise_grows_with_the_angle_up_to_four_times(degrees: float, growth: float) -> None:
    """By 1 + 0.5 theta^2 / (90 - theta)^2: 1.5 at 45 degrees, 3 at 60, 13.5 at 75."""
    plane = tilted(degrees, 3000, 15)
    errors = []
    for angle_noise in (0.0, 0.5):
        noisy = seeded(plane, disparity_noise=0.1, angle_noise=angle_noise).astype(np.float64)
        errors.append((FOCAL_LENGTH * BASELINE * (1 / noisy - 1 / plane))[:, 6:9].std())
    assert errors[0] == pytest.approx(0.1, rel=0.05)
    assert errors[1] == pytest.approx(0.1 * growth, rel=0.05)


def test_lateral_noise_grows_with_the_angle() -> None:
    plane = tilted(75, 3000, 61)
    for angle_noise, growth in ((0.0, 1), (0.5, 4)):
        column = seeded(plane, lateral_noise=1.0, angle_noise=angle_noise)[:, 30]
        beside = np.searchsorted(plane[0], column) - 30
        assert beside.std() == pytest.approx(np.sqrt(growth**2 + 1 / 12), rel=0.06)  # of which rounding is a twelfth
        assert abs(beside.mean()) < 0.25


# --- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grain", [0.0, 0.2, 0.4, 0.6, 1.0, 3.0])
def test_grained_noise_has_unit_variance_up_to_the_border(grain: float) -> None:
    noise = np.array([sensor.grained_noise((60, 400), grain, rng(seed)) for seed in range(30)])
    assert noise.shape == (30, 60, 400) and noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, rel=0.03)
    assert abs(noise.mean()) < 0.06
    for border in (noise[:, 0], noise[:, -1], noise[..., 0], noise[..., -1]):
        assert border.std() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("grain", [0.0, 2.0, 5.0])
def test_grained_noise_agrees_over_its_grain(grain: float) -> None:
    """White noise through a Gaussian window of width g has the correlation exp(-d^2 / 4 g^2) at the distance d."""
    noise = sensor.grained_noise((900, 900), grain, rng()).astype(np.float64)
    for distance in (2, 5, 10, 20):
        wanted = np.exp(-(distance**2) / (4 * grain**2)) if grain else 0.0
        assert np.mean(noise[distance:] * noise[:-distance]) == pytest.approx(wanted, abs=0.06)
        assert np.mean(noise[:, distance:] * noise[:, :-distance]) == pytest.approx(wanted, abs=0.06)


def test_grain_makes_disparity_errors_of_neighbours_alike_and_no_larger() -> None:
    for grain, likeness in ((0.0, 0.0), (2.0, np.exp(-1 / 16))):
        depth = seeded(wall(200, 300), disparity_noise=0.1, noise_grain=grain).astype(np.float64)
        error = FOCAL_LENGTH * BASELINE * (1 / depth - 1 / 3)
        assert error.std() == pytest.approx(0.1, rel=0.06)
        assert np.corrcoef(error[:, 1:].ravel(), error[:, :-1].ravel())[0, 1] == pytest.approx(likeness, abs=0.03)


@pytest.mark.parametrize(
    ("distance", "luminance", "deviation"),
    [(1, 1.0, 0.004), (2, 1.0, 0.016), (4, 1.0, 0.064), (1, 0.0, 0.04), (2, 0.5, 0.016 / 0.55), (4, 0.0, 0.3)],
)
def test_time_of_flight_noise_grows_with_the_squared_distance_and_with_darkness(
    distance: float, luminance: float, deviation: float
) -> None:
    """0.004 z^2 / (0.1 + 0.9 luminance), at most 0.3 m."""
    depth = wall(200, 200, distance)
    rgb = grey(np.full_like(depth, luminance))
    noisy = degrade(depth, CameraModel(tof_noise=0.004), rng(), rgb)
    assert noisy.std() == pytest.approx(deviation, rel=0.03)
    assert noisy.mean() == pytest.approx(distance, abs=0.01)


def test_time_of_flight_reports_nothing_that_noise_makes_too_near_or_too_far() -> None:
    for distance in (0.2, 19.9):
        luminance = np.zeros((100, 100), np.float32)
        noisy = sensor.time_of_flight(wall(100, 100, distance), 0.5, luminance, rng())
        assert 0.05 < np.isnan(noisy).mean() < 0.6
        assert np.nanmin(noisy) > 0.05 and np.nanmax(noisy) < FARTHEST


# --- edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_flying_pixels_lie_beside_edges_and_between_both_surfaces(share: float) -> None:
    depth = np.repeat(wall_and_post(1.0), 50, axis=0)
    result = seeded(depth, flying_pixels=share)
    beside = np.isin(np.arange(100), [49, 50, 69, 70])
    np.testing.assert_array_equal(result[:, ~beside], depth[:, ~beside])
    changed = (result != depth)[:, beside]
    assert changed.mean() == pytest.approx(share, abs=0.02)
    flying = result[:, beside][changed]
    assert flying.min() >= 1 and flying.max() <= 3  # evenly between them:
    assert flying.mean() == pytest.approx(2, abs=0.03) and flying.std() == pytest.approx(2 / np.sqrt(12), rel=0.03)


def test_surfaces_small_steps_and_holes_make_no_flying_pixels() -> None:
    hole = wall()
    hole[10:20, 30:50] = np.nan
    for depth in (wall(), tilted(60), wall_and_post(2.92), hole):
        np.testing.assert_array_equal(seeded(depth, flying_pixels=1.0), depth)
    assert (seeded(wall_and_post(2.9), flying_pixels=1.0) != wall_and_post(2.9)).any()  # 3.3 % of 3 m


@pytest.mark.parametrize("shift", [(0.25, 0.0), (0.0, -0.5), (1 / 3, 0.7), (-2.4, 1.0)], ids=str)
def test_a_shift_moves_a_ramp_right_and_down_by_exactly_that(shift: tuple[float, float]) -> None:
    y, x = np.indices((60, 80))
    moved = seeded((3 + 0.02 * x + 0.03 * y).astype(np.float32), shift=shift)
    wanted = 3 + 0.02 * (x - shift[0]) + 0.03 * (y - shift[1])
    np.testing.assert_allclose(moved[5:-5, 5:-5], wanted[5:-5, 5:-5], atol=(0.02 + 0.03) / 64 + 1e-5)


def test_a_shift_by_whole_pixels_moves_edges_and_holes_as_they_are() -> None:
    depth = random_depth()
    depth[5:8, 10] = depth[15, 20:24] = np.nan
    moved = seeded(depth, shift=(3.0, 2.0))
    np.testing.assert_array_equal(moved[2:, 3:], depth[:-2, :-3])
    moved = seeded(depth, shift=(-0.3, 0.4))
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(depth))
    assert np.isnan(seeded(wall(distance=np.nan), shift=(0.5, 0.0))).all()


@pytest.mark.parametrize("amplitude", [0.8, 2.0])
def test_wobble_moves_edges_by_its_amplitude_and_no_surface(amplitude: float) -> None:
    np.testing.assert_array_equal(seeded(wall(), wobble=amplitude), wall())
    result = seeded(np.tile(wall_and_post(2.0), (250, 1)), wobble=amplitude)
    assert set(np.unique(result)) == {2.0, 3.0}
    edge = (result[:, :60] == 3.0).sum(axis=1)  # 50 where nothing moves
    assert edge.std() == pytest.approx(np.sqrt(amplitude**2 + 1 / 12), rel=0.1)
    assert edge.mean() == pytest.approx(50, abs=0.15)


def test_wobble_is_the_same_over_some_pixels_along_the_edge() -> None:
    depth = np.tile(wall_and_post(2.0), (250, 1))
    for grain in (4.0, 8.0):
        edge = (sensor.wobbled(depth, 2.0, grain, rng())[:, :60] == 3.0).sum(axis=1) - 50.0
        near, far = (np.mean(edge[d:] * edge[:-d]) / edge.var() for d in (int(grain), int(8 * grain)))
        assert near == pytest.approx(np.exp(-1 / 4), abs=0.1) and abs(far) < 0.1


# --- what is not seen ---------------------------------------------------------------------------------------------


def unseen(depth: FloatImage, luminance: FloatImage | None = None, **settings: float) -> NDArray[np.bool_]:
    luminance = np.full_like(depth, 0.5) if luminance is None else luminance
    return sensor.unseen(depth, luminance, **{"dark": 0.0, "specular": 1.0, "grazing": 90.0, **settings})


def test_dark_and_shining_surfaces_are_not_seen() -> None:
    luminance = np.full((40, 100), 0.5, np.float32)
    luminance[:, :20], luminance[:, 80:] = 0.0, 1.0
    luminance[20, 50], luminance[20, 60] = 0.0, 1.0  # noise of the colour camera
    columns = np.broadcast_to(np.arange(100), (40, 100))
    cases: list[tuple[dict[str, Any], NDArray[np.bool_]]] = [
        ({}, columns < 0),
        ({"dark": 0.1}, columns < 20),
        ({"specular": 0.9}, columns >= 80),
        ({"dark": 0.1, "specular": 0.9}, (columns < 20) | (columns >= 80)),
    ]
    for settings, wanted in cases:
        np.testing.assert_array_equal(unseen(wall(), luminance, **settings), wanted)
        seen = degrade(wall(), CameraModel(**settings), rng(), grey(luminance))
        np.testing.assert_array_equal(np.isnan(seen), wanted)


@pytest.mark.parametrize("degrees", [50.0, 75.0, 86.0])
def test_surfaces_that_are_seen_too_flat_are_not_seen(degrees: float) -> None:
    plane = tilted(degrees, width=31)
    middle = np.s_[5:-5, 12:19]
    assert not unseen(plane, grazing=degrees + 3)[middle].any()
    assert unseen(plane, grazing=degrees - 3)[middle].all()
    result = seeded(np.hstack((plane, wall(41, 40))), grazing=degrees - 3)
    assert np.isnan(result[middle]).all() and np.isfinite(result[:, 40:]).all()


def test_the_outline_of_an_object_is_no_grazing_surface() -> None:
    for right in (70, 53, 52):  # also of a thin one, all of which lies beside an edge
        assert not unseen(wall_and_post(1.0, right=right), grazing=45.0).any()


def test_nothing_is_seen_out_of_the_range() -> None:
    ramp = np.broadcast_to(np.linspace(0.3, 6, 100), (40, 100)).astype(np.float32)
    cases: list[tuple[dict[str, Any], NDArray[np.bool_]]] = [
        ({"nearest_range": 0.8}, ramp >= 0.8),
        ({"farthest_range": 4.5}, ramp <= 4.5),
        ({"nearest_range": 0.8, "farthest_range": 4.5}, (ramp >= 0.8) & (ramp <= 4.5)),
    ]
    for settings, seen in cases:
        result = seeded(ramp, **settings)
        np.testing.assert_array_equal(np.isfinite(result), seen)
        np.testing.assert_array_equal(result[seen], ramp[seen])


def test_a_scene_of_which_nothing_would_be_seen_stays() -> None:
    np.testing.assert_array_equal(seeded(wall(), nearest_range=10.0), wall())
    np.testing.assert_array_equal(seeded(wall(), dark=0.6), wall())  # grey without a colour image


# --- disparity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1 / 8, 1 / 2])
def test_disparity_step_quantises_the_disparity(step: float) -> None:
    depth = random_depth()
    result = seeded(depth, disparity_step=step)
    steps = FOCAL_LENGTH * BASELINE / result.astype(np.float64) / step
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    moved = np.abs(FOCAL_LENGTH * BASELINE / result - FOCAL_LENGTH * BASELINE / depth)
    assert step / 4 < moved.max() <= step / 2 + 1e-4


def test_depth_steps_grow_with_the_square_of_the_distance() -> None:
    ramp = np.linspace(1, 5, 20000, dtype=np.float32)[None]
    levels = np.unique(seeded(ramp, disparity_step=1 / 8))
    for near, far in ((1.0, 2.0), (2.0, 4.0)):
        gaps = [np.diff(levels)[np.searchsorted(levels, z)] for z in (near, far)]
        assert gaps[1] / gaps[0] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_disparity_noise_has_its_standard_deviation(noise: float) -> None:
    result = seeded(wall(100, 100), disparity_noise=noise).astype(np.float64)
    disparity = FOCAL_LENGTH * BASELINE / result
    assert disparity.std() == pytest.approx(noise, rel=0.05)
    assert disparity.mean() == pytest.approx(FOCAL_LENGTH * BASELINE / 3, abs=0.01)


def test_noise_does_not_carry_a_surface_beyond_the_farthest() -> None:
    result = seeded(wall(distance=19.0), disparity_noise=0.5)
    assert np.isnan(result).any() and np.nanmax(result) <= FARTHEST + 1e-3 and np.nanmin(result) > 0


def test_lateral_noise_moves_edges_and_nothing_else() -> None:
    depth = wall_and_post(2.0)
    result = seeded(depth, lateral_noise=0.5)
    assert set(np.unique(result)) == {2.0, 3.0}
    changed = (result != depth).any(axis=0)
    near_edge = np.isin(np.arange(100), [47, 48, 49, 50, 51, 52, 67, 68, 69, 70, 71, 72])
    assert not changed[~near_edge].any()
    # A pixel at the edge looks across it when the jitter rounds to a pixel or more: P(n > 0.5 / 0.5) = 16 %.
    assert (result[:, 49] != 3.0).mean() == pytest.approx(0.16, abs=0.15) and changed.any()


# --- holes --------------------------------------------------------------------------------------------------------


def shadow_of(depth: FloatImage, **settings: Any) -> NDArray[np.bool_]:
    """Columns that are invalid, the same in every row."""
    invalid = np.isnan(seeded(depth, shadows=settings.pop("shadows", 1.0), **settings))
    assert (invalid == invalid[0]).all()
    return np.asarray(invalid[0])


@pytest.mark.parametrize("near", [2.5, 2.0, 1.5])
def test_shadow_lies_left_of_a_near_surface_and_is_as_wide_as_the_disparity_step(near: float) -> None:
    columns = np.nonzero(shadow_of(wall_and_post(near)))[0]
    step = FOCAL_LENGTH * BASELINE * (1 / near - 1 / 3)
    assert columns[-1] == 49 and len(columns) == columns[-1] - columns[0] + 1
    assert len(columns) == pytest.approx(step - 0.5, abs=1)


def test_shadows_shrink_with_their_share_and_with_the_resolution() -> None:
    whole = shadow_of(wall_and_post(1.5)).sum()
    assert shadow_of(wall_and_post(1.5), shadows=0.5).sum() == pytest.approx(whole / 2, abs=1)
    assert shadow_of(wall_and_post(1.5, left=48, right=72), factor=2).sum() == pytest.approx(whole / 2, abs=1)
    assert not shadow_of(wall_and_post(1.5), shadows=0.0).any()


def test_a_flat_wall_and_a_far_niche_throw_no_shadow_on_their_near_side() -> None:
    assert not shadow_of(wall()).any()
    niche = shadow_of(wall_and_post(near=3.0, far=2.0))  # a niche from column 50 to 70 in a near wall
    assert not niche[:50].any() and niche[69] and not niche[70:].any()


@pytest.mark.parametrize("border", [1, 2, 5])
def test_border_is_an_invalid_strip(border: int) -> None:
    invalid = np.isnan(seeded(wall(), factor=2, border=border))
    inside = np.s_[border:-border, border:-border]
    assert not invalid[inside].any()
    assert invalid.sum() == invalid.size - invalid[inside].size


def test_blobs_are_so_many_spots_of_limited_size() -> None:
    assert not np.isnan(seeded(wall(), blobs=0)).any()
    sizes = [np.isnan(seeded(wall(), seed, blobs=1)).sum() for seed in range(40)]
    assert min(sizes) > 0 and len(set(sizes)) > 10
    assert max(sizes) <= 1.2 * np.pi * (1 + 0.1 * 100) * (1 + 0.1 * 40)
    rows, columns = np.nonzero(np.isnan(seeded(wall(), 3, blobs=1)))
    assert np.ptp(rows) <= 2 * (1 + 0.1 * 100) + 1 and np.ptp(columns) <= 2 * (1 + 0.1 * 100) + 1
    assert np.mean([np.isnan(seeded(wall(), seed, blobs=5)).sum() for seed in range(20)]) > 2 * np.mean(sizes)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_speckle_is_a_share_of_the_pixels(share: float) -> None:
    assert np.isnan(seeded(wall(200, 200), speckle=share)).mean() == pytest.approx(share, rel=0.1)


def test_holes_never_take_the_whole_frame() -> None:
    assert np.isfinite(seeded(wall(), speckle=1.0)).all()


# --- the whole camera ---------------------------------------------------------------------------------------------


def test_degradation_is_the_same_for_the_same_seed_and_leaves_the_truth_alone() -> None:
    depth = random_depth(48, 64)
    before = depth.copy()
    settings = {**dataclasses.asdict(KINECT), "factor": 2, "speckle": 0.05}
    first, again, other = (seeded(depth, seed, **settings) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(depth, before)
    assert not np.array_equal(first, other, equal_nan=True)
    assert first.shape == (24, 32) and first.dtype == np.float32
    assert np.isnan(first).any() and np.nanmin(first) > 0.5


def test_refuses_cameras_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="method is 'lanczos'; wanted: nearest, area, box or bicubic"):
        CameraModel(method="lanczos")
    with pytest.raises(ValueError, match="factor is 0; wanted: at least 1"):
        CameraModel(factor=0)
    with pytest.raises(ValueError, match=r"factor_y is 0\.5; wanted: at least 1"):
        CameraModel(factor_y=0.5)
    with pytest.raises(ValueError, match="registered is 'dense'; wanted: replicate, sparse or nothing"):
        CameraModel(registered="dense")
