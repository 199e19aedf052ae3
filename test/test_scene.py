"""Procedural scenes against geometry worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.synthetic.degradation import FARTHEST
from dkn_ros.synthetic.render import (
    BOX,
    CHECKER,
    CLOUDS,
    CYLINDER,
    ELLIPSOID,
    GRAIN,
    PATCHES,
    PRINT,
    ROOM,
    STRIPES,
    TILES,
    WOOD,
    Camera,
    World,
    render,
)
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


ROOM_AND_BOX = [(ROOM, (0.0, 0, 0), np.diag([1.0, 1.2, 3.0])), (BOX, (0.3, 0.5, 2), IDENTITY * 0.3)]
COLOURS = np.random.default_rng(0).random((2, 2, 3)).astype(np.float32)
TEXTURES = (CLOUDS, CHECKER, STRIPES, WOOD, PATCHES, GRAIN, PRINT, TILES)


@pytest.mark.parametrize(
    "change",
    [
        *({"texture": np.array([texture, 0]), "colours": COLOURS} for texture in TEXTURES),
        {"lamp": np.array([-0.8, -1.0, 1.0], np.float32)},
        {"ambient": 0.9},
    ],
    ids=[*(f"texture {texture}" for texture in TEXTURES), "lamp", "ambient"],
)
def test_textures_light_and_shadows_change_colour_and_leave_depth(change: dict[str, Any]) -> None:
    plain = {"colours": change["colours"]} if "colours" in change else {}
    colour, depth = render(world(*ROOM_AND_BOX, **plain), camera())
    other_colour, other_depth = render(world(*ROOM_AND_BOX, **change), camera())
    np.testing.assert_array_equal(other_depth, depth)
    assert np.abs(other_colour - colour).mean() > 0.005
    assert np.isfinite(other_colour).all() and other_colour.min() >= 0 and other_colour.max() <= 1


def wall_of(texture: int) -> FloatImage:
    """A grey texture on a flat wall, in light that is the same everywhere."""
    colours = np.array([[[0.2] * 3, [0.9] * 3]], np.float32)
    shape = (BOX, (0.0, 0, 3.02), np.diag([5.0, 5.0, 0.02]))
    return render(world(shape, texture=np.array([texture]), colours=colours, ambient=1.0), camera())[0]


def test_prints_have_large_blots_with_hard_edges_in_colours_of_their_own() -> None:
    wall = wall_of(PRINT)
    assert (np.ptp(wall, axis=2) > 0.05).mean() > 0.1  # coloured, though both colours of the material are grey
    assert np.ptp(wall_of(CLOUDS), axis=2).max() < 1e-6
    ground = wall.max(axis=2) < 0.8 * 0.2 + 1e-3  # the first colour, in 0.8 of the light
    assert 0.1 < ground.mean() < 0.9
    changes = (ground[:, 1:] != ground[:, :-1]).mean()
    assert changes < ground.mean() * (1 - ground.mean())  # half of what single pixels would do


def test_tiles_are_of_one_colour_each() -> None:
    wall = wall_of(TILES)[..., 0]
    # 5 tiles a metre and 3 metres are 4 pixels a tile: inside of a tile nothing changes.
    same = np.isclose(wall[:, 1:], wall[:, :-1], atol=1e-4)
    assert 0.6 < same.mean() < 0.95
    assert len(np.unique(np.round(wall, 3))) > 20


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
