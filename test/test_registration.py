"""Registration: rendered scenes seen from two places, against what the colour camera truly sees."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.calibration import Calibration
from dkn_ros.registration import Registration
from dkn_ros.synthetic.render import Camera, render
from dkn_ros.synthetic.scene import Scene, _look

FloatImage = NDArray[np.float32]
Matrix = NDArray[np.float64]

FINER = 4
"""The truth's edges are known to so many parts of a pixel."""
STEP = 1.1
"""Ratio of the depths at a depth edge."""
APART = np.array([0.05, 0.01, -0.01])
STILL = np.zeros(3)


def pinhole(width: int, height: int, focal_length: float, d: tuple = (), model: str = "plumb_bob") -> Calibration:
    k = (focal_length, 0, (width - 1) / 2, 0, focal_length, (height - 1) / 2, 0, 0, 1)
    return Calibration(width, height, k, d, model)


@dataclass(frozen=True)
class View:
    """A scene as the depth camera sees it, and as the colour camera does on the grid of `Registration.grid`."""

    registration: Registration
    depth: FloatImage
    truth: FloatImage
    fine: FloatImage
    """`truth` with FINER times the resolution."""


RIGS = {
    # depth: width, height, focal length; colour: the same
    "vga": ((160, 120, 145.0), (320, 240, 262.0)),
    "kinect v2": ((171, 141, 122.0), (320, 180, 176.0)),
    "finer than colour": ((240, 180, 210.0), (160, 120, 131.0)),
}


def view(seed: int, rig: str, roll: float = 0.0) -> View:
    depth_size, (width, height, focal_length) = RIGS[rig]
    scene = Scene(seed)
    place = scene.camera()
    rotation = place.rotation.astype(np.float64)
    c, s = np.cos(roll), np.sin(roll)
    turn = _look(0.03, -0.02).astype(np.float64) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    position = (place.position + rotation @ APART).astype(np.float32)
    depth = render(scene.world, Camera(*depth_size, position, (rotation @ turn).astype(np.float32)))[1]
    registration = Registration(pinhole(*depth_size), pinhole(width, height, focal_length), turn, APART)
    columns, rows = registration.grid(*depth_size[:2])
    scaled = focal_length * columns / width
    truth, fine = (
        render(scene.world, Camera(n * columns, n * rows, n * scaled, place.position, place.rotation))[1]
        for n in (1, FINER)
    )
    return View(registration, depth, truth, fine)


def edge_errors(seen: View) -> NDArray[np.float64]:
    """How far from each edge along a row the same edge of the result lies, in pixels of `Registration.grid`.

    An edge is where the nearer surface ends.  Of the true ones those count that the depth camera sees, too: where both
    surfaces are in the 3 x 3 pixels of its image that the edge falls on.  The result is taken on a grid twice as fine,
    whose own pixels hide less of the error.
    """
    registration = seen.registration
    rows, columns = (2 * n for n in seen.truth.shape)
    result = registration.register(seen.depth, columns, rows)
    camera = registration.colour_camera.resized(seen.fine.shape[1], seen.fine.shape[0])
    across, down = camera.rays()[0, :, 0], camera.rays()[:, 0, 1]
    errors = []
    for y, row in enumerate(result):
        known = np.flatnonzero(np.isfinite(row))
        if len(known) < 2:
            continue
        steps = _steps(row[known])
        ends = np.where(steps > 0, known[:-1] + 0.5, known[1:] - 0.5) / 2 - 0.25
        fine_y = (2 * y + 1) * FINER // 4
        fine = seen.fine[fine_y]
        true = _steps(fine)
        for x in np.flatnonzero(true):
            near = x if true[x] > 0 else x + 1
            same = ends[steps == true[x]]
            if len(same) and _is_edge(seen, fine[near] * np.array((across[near], down[fine_y], 1.0))):
                errors.append(np.abs(same - ((x + 1) / FINER - 0.5)).min())
    return np.array(errors)


def _is_edge(seen: View, point: NDArray[np.float64]) -> bool:
    """Whether the depth camera sees a point of the colour camera's frame, and something farther beside it."""
    registration = seen.registration
    there = registration.rotation.T @ (point - registration.translation)
    pixel = registration.depth_camera.project(there)[0]
    height, width = seen.depth.shape
    if not ((pixel >= 1) & (pixel < (width - 2, height - 2))).all():
        return False
    x, y = np.rint(pixel).astype(int)
    around = seen.depth[y - 1 : y + 2, x - 1 : x + 2]
    return bool(np.abs(around / there[2] - 1).min() < 0.02 and around.max() > STEP * around.min())


def _steps(row: FloatImage) -> NDArray[np.int64]:
    ratio = row[1:] / row[:-1]
    return (ratio > STEP).astype(int) - (ratio < 1 / STEP)


def by_the_depth_camera(seen: View) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the truth's pixels: which the depth camera measured, and from which something nearer hides it.

    Measured: one of the 3 x 3 pixels that the point falls on has its depth.  Hidden: all of them are nearer.
    """
    registration = seen.registration
    height, width = seen.truth.shape
    rays = registration.colour_camera.resized(width, height).rays()
    points = np.concatenate((rays, np.ones((height, width, 1))), 2) * seen.truth[..., None]
    there = (points - registration.translation) @ registration.rotation
    pixels = registration.depth_camera.project(there.reshape(-1, 3)).reshape(height, width, 2)
    rows, columns = seen.depth.shape
    inside: NDArray[np.bool_] = np.all((pixels >= 1) & (pixels <= (columns - 2, rows - 2)), axis=2)
    nearest = np.rint(np.where(inside[..., None], pixels, 1)).astype(int)
    around = np.stack(
        [seen.depth[nearest[..., 1] + dy, nearest[..., 0] + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    )
    measured = (np.abs(around / there[..., 2] - 1) < 0.02).any(axis=0)
    return inside & measured, inside & (there[..., 2] > STEP * around.max(axis=0))


def shining(found: FloatImage, truth: FloatImage) -> NDArray[np.bool_]:
    """Pixels that are behind everything that truly is within a pixel of there."""
    return np.asarray(found > 1.05 * np.asarray(cv2.dilate(truth, np.ones((3, 3), np.uint8))))


def through(found: FloatImage, truth: FloatImage) -> float:
    """Their share."""
    return float(shining(found, truth).sum() / np.isfinite(found).sum())


@pytest.mark.parametrize("rig", RIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_scene_from_two_places(seed: int, rig: str) -> None:
    seen = view(seed, rig)
    found = seen.registration.register(seen.depth)
    assert found.shape == seen.truth.shape and found.dtype == np.float32
    known = np.isfinite(found)
    assert known.mean() > 0.5
    assert np.nanmedian(np.abs(found / seen.truth - 1)) < 2e-3
    nearest = cv2.erode(seen.truth, np.ones((3, 3), np.uint8))
    # Through what the depth camera measured, nothing shines; what it cannot see may be missing before a background.
    measured, _ = by_the_depth_camera(seen)
    assert measured.mean() > 0.5 and not shining(found, seen.truth)[measured].any()
    assert through(found, seen.truth) < 5e-4
    assert (known & (found < 0.95 * nearest)).sum() < 2e-3 * known.sum()
    errors = edge_errors(seen)
    assert len(errors) > 100
    assert np.median(errors) < 0.5


@pytest.mark.parametrize("rig", RIGS)
def test_what_something_hides_from_the_depth_camera_is_invalid(rig: str) -> None:
    """But for the rim, where the patch of what hides it may be a pixel too wide."""
    seen = view(2, rig)
    known, (_, hidden) = np.isfinite(seen.registration.register(seen.depth)), by_the_depth_camera(seen)
    inner = np.asarray(cv2.erode(hidden.astype(np.uint8), np.ones((3, 3), np.uint8))) > 0
    assert inner.sum() > 50 and not known[inner].any()
    assert known[hidden].mean() < 0.1


def test_a_camera_on_its_side() -> None:
    seen = view(1, "vga", roll=np.pi / 2 - 0.1)
    found = seen.registration.register(seen.depth)
    assert np.isfinite(found).mean() > 0.4
    assert np.nanmedian(np.abs(found / seen.truth - 1)) < 2e-3
    assert through(found, seen.truth) < 5e-4
    assert np.median(edge_errors(seen)) < 0.5


def test_without_patches_the_background_does_shine_through() -> None:
    """The check above would pass if nothing could shine: points of one pixel on a finer grid let the background in."""
    seen = view(1, "vga")
    height, width = seen.truth.shape
    points = seen.registration.depth_camera.rays()
    points = np.concatenate((points, np.ones((*seen.depth.shape, 1))), 2) * seen.depth[..., None]
    points = (points @ seen.registration.rotation.T + seen.registration.translation).reshape(-1, 3)
    pixels = np.rint(seen.registration.colour_camera.resized(2 * width, 2 * height).project(points))
    naive = np.full((2 * height, 2 * width), np.inf, np.float32)
    inside = ((pixels >= 0) & (pixels < (2 * width, 2 * height))).all(axis=1)
    columns, rows = pixels[inside].astype(int).T
    np.minimum.at(naive, (rows, columns), points[inside, 2].astype(np.float32))
    naive[np.isinf(naive)] = np.nan
    truth = np.repeat(np.repeat(seen.truth, 2, axis=0), 2, axis=1)
    assert through(naive, truth) > 1e-3
    measured = np.repeat(np.repeat(by_the_depth_camera(seen)[0], 2, axis=0), 2, axis=1)
    assert shining(naive, truth)[measured].any()
    assert through(seen.registration.register(seen.depth, 2 * width, 2 * height), truth) < 1e-4


def test_a_plane_is_reprojected_to_a_part_of_a_pixel() -> None:
    """A steep wall x = 0.9 z - 1: depth changes fast along rows, so that an error of place shows in the depth."""
    depth_camera, colour_camera = pinhole(161, 121, 150.0), pinhole(200, 150, 190.0)
    registration = Registration(depth_camera, colour_camera, np.eye(3), (0.1, 0, 0.02))
    x = depth_camera.rays()[..., 0]
    depth = (1 / (0.9 - x)).astype(np.float32)
    found = registration.register(depth)
    a = colour_camera.resized(found.shape[1], found.shape[0]).rays()[..., 0]
    truth = (1 - 0.1 + 0.9 * 0.02) / (0.9 - a)  # of x - 0.1 = 0.9 (z - 0.02) - 1, z = truth and x = a z
    known = np.isfinite(found)
    assert known.mean() > 0.6
    a_pixel = np.gradient(truth, axis=1)
    assert np.median(np.abs(found - truth)[known] / a_pixel[known]) < 0.1
    assert np.max(np.abs(found - truth)[known] / a_pixel[known]) < 1.0


@pytest.mark.parametrize(
    ("d", "model"),
    [
        ((-0.28, 0.09, 0.0012, -0.0007, -0.01), "plumb_bob"),
        ((0.52, -2.6, 0.0006, -0.0003, 1.52, 0.4, -2.43, 1.45), "rational_polynomial"),
        ((0.02, -0.01, 0.004, -0.0006), "equidistant"),
    ],
)
def test_distortion_of_both_cameras(d: tuple, model: str) -> None:
    """The same wall through lenses."""
    depth_camera, colour_camera = pinhole(161, 121, 150.0, d, model), pinhole(200, 150, 190.0, d, model)
    registration = Registration(depth_camera, colour_camera, np.eye(3), (0.1, 0, 0.02))
    depth = (1 / (0.9 - depth_camera.rays()[..., 0])).astype(np.float32)
    found = registration.register(depth)
    a = colour_camera.resized(found.shape[1], found.shape[0]).rays()[..., 0]
    truth = (1 - 0.1 + 0.9 * 0.02) / (0.9 - a)
    known = np.isfinite(found) & (truth > 0.5) & (truth < 10)
    assert known.mean() > 0.5
    assert np.median(np.abs(found - truth)[known] / np.gradient(truth, axis=1)[known]) < 0.1


def test_a_camera_registered_to_itself_changes_nothing(rng: np.random.Generator) -> None:
    camera = pinhole(53, 37, 50.0)
    depth = rng.uniform(0.5, 5, (37, 53)).astype(np.float32)
    depth[10:15, 20:31] = np.nan
    depth[0, 0] = depth[36, 52] = np.nan
    registration = Registration(camera, camera, np.eye(3), STILL)
    assert registration.grid(53, 37) == (53, 37)
    np.testing.assert_allclose(registration.register(depth), depth, rtol=1e-5)


def test_a_near_surface_hides_what_is_behind_it() -> None:
    """A board at 1 m before a wall at 3 m, the depth camera 10 cm right of the colour camera: worked out by hand."""
    camera = pinhole(200, 20, 200.0)
    depth = np.full((20, 200), 3.0, np.float32)
    depth[:, 80:120] = 1.0
    found = Registration(camera, camera, np.eye(3), (0.1, 0, 0)).register(depth)
    # The board moves by 200 * 0.1 / 1 = 20 columns, the wall by 20 / 3.
    np.testing.assert_allclose(found[:, 100:140], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found[:, 8:86], 3.0, rtol=1e-6)
    assert np.isnan(found[:, 88:99]).all()  # what neither camera's depth tells: behind the board for the depth camera
    np.testing.assert_allclose(found[:, 141:], 3.0, rtol=1e-6)
    assert np.isnan(found[:, :6]).all()


def test_a_stretched_surface_has_no_gaps() -> None:
    """A wall that passes the depth camera at 40 degrees, 0.64 m away, seen by a colour camera that faces it."""
    camera = pinhole(121, 91, 110.0)
    normal = np.array((-1, 0, 1.2)) / np.hypot(1, 1.2)
    turn = _look(float(np.arctan2(normal[0], normal[2])), 0.0).astype(np.float64)
    depth = (1.0 / (1.2 - camera.rays()[..., 0])).astype(np.float32)  # 1.2 z - x = 1
    found = Registration(camera, camera, turn.T, (-0.6, 0, 0)).register(depth)
    # 121 columns of depth become 260 of colour, of which the image sees 121: one in two would have no point of its own.
    np.testing.assert_allclose(found[10:-10], 1 / np.hypot(1, 1.2), rtol=1e-4)


def test_depth_without_a_measurement_gives_none() -> None:
    registration = Registration(pinhole(31, 23, 30.0), pinhole(40, 30, 40.0), np.eye(3), APART)
    assert np.isnan(registration.register(np.full((23, 31), np.nan, np.float32))).all()
    one = np.full((23, 31), np.nan, np.float32)
    one[11, 15] = 1.0
    found = registration.register(one)
    assert 1 <= np.isfinite(found).sum() <= 4
    np.testing.assert_allclose(found[np.isfinite(found)], 0.99, rtol=1e-5)


def test_values_that_are_no_depth_are_left_out() -> None:
    camera = pinhole(31, 23, 30.0)
    registration = Registration(camera, camera, np.eye(3), STILL)
    depth = np.full((23, 31), 2.0, np.float32)
    depth[5, 5], depth[6, 6], depth[7, 7] = 0.0, -1.0, np.inf
    found = registration.register(depth)
    np.testing.assert_allclose(found[np.isfinite(found)], 2.0, rtol=1e-5)


def test_points_behind_the_colour_camera_are_left_out() -> None:
    camera = pinhole(31, 23, 30.0)
    registration = Registration(camera, camera, np.diag([-1.0, 1, -1]), STILL)
    assert np.isnan(registration.register(np.full((23, 31), 2.0, np.float32))).all()


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (1, 7), (33, 1), (77, 41)])
def test_any_size_of_depth_and_grid(columns: int, rows: int) -> None:
    """The image of a camera may come smaller than its calibration says, and the grid is free."""
    camera = pinhole(80, 60, 70.0)
    registration = Registration(camera, camera, np.eye(3), STILL)
    found = registration.register(np.full((rows, columns), 2.0, np.float32))
    assert found.shape == tuple(reversed(registration.grid(columns, rows)))
    for width, height in ((1, 1), (13, 29), (161, 99)):
        found = registration.register(np.full((rows, columns), 2.0, np.float32), width, height)
        assert found.shape == (height, width)
        np.testing.assert_allclose(found[np.isfinite(found)], 2.0, rtol=1e-5)
    if min(columns, rows) > 1:
        assert np.isfinite(found).all()


def test_nothing_is_left_over_from_the_frame_before(rng: np.random.Generator) -> None:
    camera = pinhole(80, 60, 70.0)
    first = rng.uniform(1, 2, (60, 80)).astype(np.float32)
    used = Registration(camera, camera, np.eye(3), APART)
    used.register(first)
    second = np.full((60, 80), 3.0, np.float32)
    second[20:40] = np.nan
    found = used.register(second).copy()
    np.testing.assert_array_equal(found, Registration(camera, camera, np.eye(3), APART).register(second))
    assert used.register(second) is used.register(second), "arrays are kept"


def test_the_grid_is_as_fine_as_the_depth_and_no_finer_than_colour() -> None:
    depth = pinhole(512, 424, 365.0)
    assert Registration(depth, pinhole(1920, 1080, 1060.0), np.eye(3), STILL).grid(512, 424) == (661, 372)
    assert Registration(depth, pinhole(1920, 1080, 1060.0), np.eye(3), STILL).grid(256, 212) == (331, 186)
    assert Registration(depth, pinhole(320, 180, 176.0), np.eye(3), STILL).grid(512, 424) == (320, 180)


CAMERA = pinhole(31, 23, 30.0)


@pytest.mark.parametrize(
    ("rotation", "translation", "message"),
    [
        (np.zeros((3, 3)), STILL, r"rotation is \[\[0.0, .*; wanted: a 3x3 rotation matrix"),
        (np.diag([1.0, 1, -1]), STILL, "wanted: a 3x3 rotation matrix"),
        (np.eye(4), STILL, "wanted: a 3x3 rotation matrix"),
        (np.full((3, 3), np.nan), STILL, "wanted: a 3x3 rotation matrix"),
        (np.eye(3), (52.0, 0, 0), r"translation is \[52.0, 0.0, 0.0\]; wanted: 3 numbers in metres, at most 5 m"),
        (np.eye(3), (0.0, 0), "wanted: 3 numbers in metres"),
        (np.eye(3), (np.nan, 0, 0), "wanted: 3 numbers in metres"),
    ],
)
def test_what_is_no_transform_is_refused(rotation: Matrix, translation: Matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Registration(CAMERA, CAMERA, rotation, translation)


@pytest.mark.parametrize(
    "depth", [np.ones((23, 31), np.float64), np.ones((23, 31), np.uint16), np.ones((0, 31), np.float32), np.ones(31)]
)
def test_what_is_no_depth_is_refused(depth: NDArray) -> None:
    with pytest.raises(ValueError, match=r"wanted: .*float32 metres"):
        Registration(CAMERA, CAMERA, np.eye(3), STILL).register(depth)
