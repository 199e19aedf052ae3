"""Procedural scenes against geometry worked out by hand, and the camera model part by part."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.synthetic.degradation import (
    BASELINE,
    FARTHEST,
    FOCAL_LENGTH,
    KINECT,
    CameraModel,
    degrade,
    lower,
    random_camera,
)
from dkn_ros.synthetic.render import BOX, CYLINDER, ELLIPSOID, ROOM, Camera, World, render
from dkn_ros.synthetic.scene import Scene

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]

IDENTITY = np.eye(3)
WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # the cylinder's axis along the world's y


# --- the ray caster -----------------------------------------------------------------------------------------------


def world(*shapes: tuple[int, tuple[float, float, float], Array], **changes: Any) -> World:
    """Primitives of (shape, centre, axes) in one plain material."""
    count = len(shapes)
    fields: dict[str, Any] = {
        "shape": np.array([shape for shape, _, _ in shapes], np.int64),
        "centre": np.array([centre for _, centre, _ in shapes], np.float32),
        "axes": np.array([axes for _, _, axes in shapes], np.float32),
        "texture": np.zeros(count, np.int64),
        "colours": np.full((count, 2, 3), 0.5, np.float32),
        "grain": np.full(count, 5.0, np.float32),
        "lamp": np.array([1.0, -2.0, 0.0], np.float32),
        "ambient": 0.4,
    }
    return World(**{**fields, **changes})


def camera(position: tuple[float, float, float] = (0, 0, 0), rotation: Array = IDENTITY) -> Camera:
    return Camera(WIDTH, HEIGHT, FOCAL, np.array(position, np.float32), rotation.astype(np.float32))


def rays() -> tuple[Array, Array]:
    """x and y of every pixel's ray where z is 1."""
    return np.meshgrid((np.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL, (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / FOCAL)


def front_of_quadric(a: Array, b: Array, c: Array) -> Array:
    """Smaller root of a z^2 - 2 b z + c = 0, infinity where there is none."""
    root = b * b - a * c
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def assert_depth(depth: FloatImage, wanted: Array, share: float) -> None:
    """The same depth, and the shape covers at least `share` of the image but not all of it."""
    # A ray that grazes an outline may fall on either side of it.
    assert np.mean(np.isfinite(depth) != np.isfinite(wanted)) < 0.003
    both = np.isfinite(depth) & np.isfinite(wanted)
    assert share < both.mean() < 1
    np.testing.assert_allclose(depth[both], wanted[both], rtol=1e-4, atol=2e-4)


def test_depth_of_a_box_is_its_front_face() -> None:
    x, y = rays()
    depth = render(world((BOX, (0.1, -0.05, 2.5), np.diag([0.5, 0.3, 0.5]))), camera())[1]
    front = (np.abs(2 * x - 0.1) <= 0.5) & (np.abs(2 * y + 0.05) <= 0.3)
    # Of the other faces only the sides that the camera sees past the front: none here is hidden by it.
    assert (depth[front] == pytest.approx(2.0, abs=1e-5)) and front.mean() > 0.1
    assert np.isinf(depth[np.abs(x) > 0.35]).all() and np.isinf(depth[np.abs(y) > 0.2]).all()
    assert (depth[np.isfinite(depth)] >= 2.0 - 1e-5).all() and (depth[np.isfinite(depth)] <= 3.0 + 1e-5).all()


def test_depth_of_a_slanted_plane() -> None:
    x, _ = rays()
    c, s = np.cos(0.5), np.sin(0.5)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    depth = render(world((BOX, (0, 0, 3), turn @ np.diag([50.0, 50.0, 1e-3]))), camera())[1]
    # The plane through (0, 0, 3) with the normal turn @ (0, 0, 1) = (s, 0, c); its front lies 1 mm nearer.
    np.testing.assert_allclose(depth, (3 * c - 1e-3) / (s * x + c), rtol=1e-4)


def test_depth_of_a_stretched_ball() -> None:
    x, y = rays()
    half = np.array([0.6, 0.4, 0.3])
    depth = render(world((ELLIPSOID, (0.2, 0.1, 2.0), np.diag(half))), camera())[1]
    d, o = np.stack((x, y, np.ones_like(x)), -1) / half, np.array([0.2, 0.1, 2.0]) / half
    assert_depth(depth, front_of_quadric((d * d).sum(-1), (d * o).sum(-1), np.full_like(x, (o * o).sum() - 1)), 0.2)


def test_depth_of_an_upright_cylinder() -> None:
    x, y = rays()
    depth = render(world((CYLINDER, (0.0, 0.05, 2.0), UPRIGHT @ np.diag([0.3, 0.3, 0.5]))), camera())[1]
    z = front_of_quadric(x * x + 1, np.full_like(x, 2.0), np.full_like(x, 4 - 0.09))
    # The camera is at the height of the barrel, so it sees no cap.
    assert_depth(depth, np.where(np.abs(y * z - 0.05) <= 0.5, z, np.inf), 0.1)


def test_depth_of_a_cylinder_seen_from_its_end_is_its_cap() -> None:
    x, y = rays()
    depth = render(world((CYLINDER, (0.0, 0.0, 2.0), np.diag([0.4, 0.4, 0.5]))), camera())[1]
    assert_depth(depth, np.where(np.hypot(1.5 * x, 1.5 * y) <= 0.4, 1.5, np.inf), 0.1)


def test_a_room_is_seen_from_inside() -> None:
    x, y = rays()
    depth = render(world((ROOM, (0, 0, 0), np.diag([1.0, 1.2, 3.0]))), camera())[1]
    with np.errstate(divide="ignore"):
        wanted = np.minimum(np.minimum(1.0 / np.abs(x), 1.2 / np.abs(y)), 3.0)
    np.testing.assert_allclose(depth, wanted, rtol=1e-4)


def test_the_nearer_of_two_surfaces_is_seen_in_any_order() -> None:
    near, far = (BOX, (0.0, 0, 1.5), np.diag([0.2, 0.2, 0.1])), (BOX, (0.0, 0, 3.0), np.diag([5.0, 5.0, 0.1]))
    depth = render(world(near, far), camera())[1]
    np.testing.assert_array_equal(depth, render(world(far, near), camera())[1])
    assert depth[HEIGHT // 2, WIDTH // 2] == pytest.approx(1.4) and depth[0, 0] == pytest.approx(2.9)


def test_a_camera_that_moves_and_turns_sees_the_scene_from_there() -> None:
    """Moving camera and world alike changes nothing."""
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    shift = np.array([0.4, -1.0, 2.0])
    axes, centre = np.diag([0.5, 0.3, 0.2]), np.array([0.1, 0.0, 1.5])
    for shape in (BOX, ELLIPSOID, CYLINDER):
        still = render(world((shape, tuple(centre), axes)), camera())[1]
        moved = world((shape, tuple(turn @ centre + shift), turn @ axes))
        assert_depth(render(moved, camera(tuple(shift), turn))[1], still.astype(np.float64), 0.1)


def test_what_lies_behind_the_camera_is_not_seen() -> None:
    for shape in (BOX, ELLIPSOID, CYLINDER):
        assert np.isinf(render(world((shape, (0, 0, -2.0), IDENTITY * 0.5)), camera())[1]).all()


def test_textures_light_and_shadows_change_colour_and_leave_depth() -> None:
    shapes = [(ROOM, (0.0, 0, 0), np.diag([1.0, 1.2, 3.0])), (BOX, (0.3, 0.5, 2), IDENTITY * 0.3)]
    colour, depth = render(world(*shapes), camera())
    light = np.array([-0.8, -1.0, 1.0], np.float32)
    colours = np.random.default_rng(0).random((2, 2, 3)).astype(np.float32)
    changes: list[dict[str, Any]] = [{"texture": np.array([t, 6 - t])} for t in range(1, 6)]
    changes = [{**change, "colours": colours} for change in changes] + [{"lamp": light}, {"ambient": 0.9}]
    for change in changes:
        other_colour, other_depth = render(world(*shapes, **change), camera())
        np.testing.assert_array_equal(other_depth, depth)
        assert np.abs(other_colour - colour).mean() > 0.01
        assert other_colour.min() >= 0 and other_colour.max() <= 1


def test_a_body_throws_a_shadow() -> None:
    wall, body = (BOX, (0.0, 0, 3.0), np.diag([5.0, 5.0, 0.1])), (ELLIPSOID, (0.5, 0.0, 1.5), IDENTITY * 0.1)
    lamp = np.array([1.0, 0.0, 0.0], np.float32)
    lit, shaded = (render(world(*shapes, lamp=lamp), camera())[0] for shapes in ([wall], [wall, body]))
    # From the lamp through the body the shadow falls on the middle of the wall, at (0.02, 0, 2.9).
    centre = np.s_[HEIGHT // 2 - 1 : HEIGHT // 2 + 1, WIDTH // 2 - 1 : WIDTH // 2 + 1]
    assert shaded[centre].max() < 0.9 * lit[centre].min()
    np.testing.assert_array_equal(shaded[:, :10], lit[:, :10])


# --- scenes -------------------------------------------------------------------------------------------------------


def test_scenes_are_the_same_for_the_same_seed_and_others_for_others() -> None:
    first, again, other = (Scene(seed).frame(80, 60, time=2.0) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.depth, again.depth)
    assert first.focal_length == again.focal_length
    assert np.abs(first.depth - other.depth).mean() > 0.05


@pytest.mark.parametrize("seed", range(6))
def test_frames_are_complete(seed: int) -> None:
    frame = Scene(seed).frame(96, 72, time=1.0)
    assert frame.rgb.shape == (72, 96, 3) and frame.rgb.dtype == np.uint8
    assert frame.depth.shape == (72, 96) and frame.depth.dtype == np.float32
    assert np.isfinite(frame.depth).all() and frame.depth.min() > 0.05 and frame.depth.max() < FARTHEST
    assert np.ptp(frame.depth) > 0.3 and frame.rgb.std() > 4  # something to see


def test_the_camera_moves_with_time_and_not_much_from_frame_to_frame() -> None:
    scene = Scene(3)
    start, soon, later = (scene.frame(80, 60, time=t).depth for t in (0.0, 1 / 30, 3.0))
    assert 0 < np.median(np.abs(start - soon)) < 0.03 < np.median(np.abs(start - later))


def test_the_view_does_not_depend_on_the_resolution() -> None:
    """Pixel centres: the mean of 4 x 4 pixels lies where the small pixel is."""
    scene = Scene(4)
    small, large = scene.frame(40, 30, time=1.0), scene.frame(160, 120, time=1.0)
    assert large.focal_length == pytest.approx(4 * small.focal_length)
    blocks = large.depth.reshape(30, 4, 40, 4)
    smooth = np.ptp(blocks, axis=(1, 3)) < 0.1
    difference = np.abs(small.depth - blocks.mean(axis=(1, 3)))[smooth]
    assert np.percentile(difference, 95) < 0.1 * np.percentile(np.ptp(blocks, axis=(1, 3))[smooth], 95)
    assert smooth.mean() > 0.3


# --- the camera model ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", ["area", "bicubic"])
def test_averages_keep_a_ramp_where_it_is(method: str) -> None:
    ramp = np.broadcast_to(1 + (np.arange(64) + 0.5) / 16, (32, 64)).astype(np.float32)
    result = seeded(ramp, factor=4, method=method)
    wanted = np.broadcast_to(1 + (np.arange(16) + 0.5) / 4, (8, 16))
    np.testing.assert_allclose(result[:, 3:-3], wanted[:, 3:-3], atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "area", "bicubic"])
def test_unknown_depth_stays_unknown_and_does_not_spoil_its_neighbours(method: str) -> None:
    depth = wall()
    depth[17:19, 41:43] = np.nan  # 4 of a block's 16 pixels, and the one that `nearest` takes
    depth[1:4, 4:8] = np.nan  # 12 of 16
    depth[:, 80:] = np.nan
    low = lower(depth, 4, method)
    unknown = np.zeros((10, 25), bool)
    unknown[0, 1] = unknown[:, 20:] = True
    unknown[4, 10] = method == "nearest"
    np.testing.assert_array_equal(np.isnan(low), unknown)
    np.testing.assert_allclose(low[~unknown], 3.0, rtol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "area", "bicubic"])
def test_an_unknown_image_stays_unknown(method: str) -> None:
    assert np.isnan(seeded(wall(distance=np.nan), factor=4, method=method)).all()


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


@pytest.mark.parametrize("factor", [1, 4])
def test_random_cameras_are_reproducible_various_and_work(factor: int) -> None:
    first, again = ([random_camera(np.random.default_rng(i), factor) for i in range(60)] for _ in range(2))
    assert first == again
    assert {c.method for c in first} == {"nearest", "area", "bicubic"} and {c.factor for c in first} == {factor}
    for name in ("lateral_noise", "disparity_noise", "disparity_step", "shadows", "border", "blobs", "speckle"):
        values = [getattr(c, name) for c in first]
        assert min(values) == 0 < max(values)
    depth = random_depth(48, 48)
    for i, model in enumerate(first):
        low = degrade(depth, model, np.random.default_rng(i))
        assert low.shape == (48 // factor, 48 // factor) and low.dtype == np.float32
        assert np.isfinite(low).any() and not np.isinf(low).any() and (low[np.isfinite(low)] > 0).all()


def test_refuses_cameras_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="method is 'lanczos'; wanted: nearest, area or bicubic"):
        CameraModel(method="lanczos")
    with pytest.raises(ValueError, match="factor is 0; wanted: at least 1"):
        CameraModel(factor=0)
