"""Registration on the device against the compiled one, and on rendered scenes against the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_registration import APART, STILL, edge_errors, pinhole, through, view

from dkn_ros.gpu.registration import DeviceRegistration
from dkn_ros.registration import Registration

FloatImage = NDArray[np.float32]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def registered(registration: Registration, depth: FloatImage, grid: tuple[int, int] | None = None) -> FloatImage:
    """On the device; grid: height and width."""
    size = depth.shape[0], depth.shape[1]
    on_device = DeviceRegistration(registration, size, DEVICE, grid)
    found, needed = on_device(torch.from_numpy(depth).to(DEVICE))
    assert int(needed) <= on_device.room
    return found.cpu().numpy()


def assert_same(found: FloatImage, wanted: FloatImage) -> None:
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("rig", ["kinect v2", "finer than colour"])
def test_a_scene_from_two_places(rig: str) -> None:
    """What the compiled form gives; and so it is as near to the truth, see test_registration.py."""
    seen = view(1, rig)
    found = registered(seen.registration, seen.depth)
    assert_same(found, seen.registration.register(seen.depth))
    assert np.isfinite(found).mean() > 0.5
    assert np.nanmedian(np.abs(found / seen.truth - 1)) < 2e-3
    assert through(found, seen.truth) < 5e-4
    errors = edge_errors(seen)
    assert len(errors) > 100 and np.median(errors) < 0.5


def test_a_camera_on_its_side() -> None:
    seen = view(1, "kinect v2", roll=np.pi / 2 - 0.1)
    assert_same(registered(seen.registration, seen.depth), seen.registration.register(seen.depth))


@pytest.mark.parametrize(
    ("d", "model"),
    [
        ((-0.28, 0.09, 0.0012, -0.0007, -0.01), "plumb_bob"),
        ((0.52, -2.6, 0.0006, -0.0003, 1.52, 0.4, -2.43, 1.45), "rational_polynomial"),
        ((0.02, -0.01, 0.004, -0.0006), "equidistant"),
    ],
)
def test_distortion_of_both_cameras(d: tuple, model: str) -> None:
    depth_camera, colour_camera = pinhole(161, 121, 150.0, d, model), pinhole(200, 150, 190.0, d, model)
    registration = Registration(depth_camera, colour_camera, np.eye(3), (0.1, 0, 0.02))
    depth = (1 / (0.9 - depth_camera.rays()[..., 0])).astype(np.float32)
    assert_same(registered(registration, depth), registration.register(depth))


def test_noise_holes_and_what_is_no_depth(rng: np.random.Generator) -> None:
    """Isolated points have the largest patches, and edges of sub-pixel width meet."""
    depth = rng.uniform(0.5, 5, (60, 80)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = np.nan
    depth[5, 5:8] = 0, -1, np.inf
    registration = Registration(pinhole(80, 60, 70.0), pinhole(96, 72, 90.0), np.eye(3), APART)
    assert_same(registered(registration, depth), registration.register(depth))


def test_too_little_room_is_told() -> None:
    camera = pinhole(80, 60, 70.0)
    registration = Registration(camera, camera, np.eye(3), APART)
    depth = torch.full((60, 80), 2.0, device=DEVICE)
    whole = DeviceRegistration(registration, (60, 80), DEVICE)(depth)
    short = DeviceRegistration(registration, (60, 80), DEVICE, room=int(whole.needed) // 2)(depth)
    assert int(short.needed) == int(whole.needed)
    assert short.depth[40:].isnan().all() and not whole.depth[40:].isnan().all()
    enough = DeviceRegistration(registration, (60, 80), DEVICE, room=int(whole.needed))(depth)
    torch.testing.assert_close(enough.depth, whole.depth, equal_nan=True)


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (1, 7), (33, 1), (77, 41)])
def test_any_size_of_depth_and_grid(columns: int, rows: int) -> None:
    camera = pinhole(80, 60, 70.0)
    registration = Registration(camera, camera, np.eye(3), STILL)
    depth = np.full((rows, columns), 2.0, np.float32)
    for grid in (None, (1, 1), (29, 13)):
        width, height = (0, 0) if grid is None else (grid[1], grid[0])
        room = 0 if grid is None else 1 << 16  # patches of many pixels on a grid finer than the depth
        found = DeviceRegistration(registration, depth.shape, DEVICE, grid, room)(torch.from_numpy(depth).to(DEVICE))
        assert_same(found.depth.cpu().numpy(), registration.register(depth, width, height))


def test_depth_that_is_not_seen() -> None:
    camera = pinhole(31, 23, 30.0)
    blind, behind = np.full((23, 31), np.nan, np.float32), np.full((23, 31), 2.0, np.float32)
    assert np.isnan(registered(Registration(camera, camera, np.eye(3), APART), blind)).all()
    assert np.isnan(registered(Registration(camera, camera, np.diag([-1.0, 1, -1]), STILL), behind)).all()
