"""Points where the camera sees them, in depth_image_proc's layout."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.calibration import Calibration
from dkn_ros.cloud import OFFSETS, POINT_STEP, write_points

HEIGHT, WIDTH = 5, 7
CAMERA = Calibration(WIDTH, HEIGHT, (10.0, 0, 3.0, 0, 20.0, 2.0, 0, 0, 1))


def frame(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    depth = rng.uniform(1, 3, (HEIGHT, WIDTH)).astype(np.float32)
    depth[1, 2] = np.nan
    return depth, rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), CAMERA.rays().astype(np.float32)


def points(depth: NDArray[np.float32], rgb: NDArray[np.uint8], rays: NDArray[np.float32]) -> NDArray[np.uint8]:
    out = np.zeros((HEIGHT, WIDTH, POINT_STEP), np.uint8)
    write_points(depth, rgb, rays, out)
    return out


def field(out: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """A field as a reader of the message finds it."""
    first = OFFSETS[name]
    return np.ascontiguousarray(out[..., first : first + 4]).view(np.float32)[..., 0]


def test_every_point_projects_to_its_pixel_at_its_depth(rng: np.random.Generator) -> None:
    depth, rgb, rays = frame(rng)
    out = points(depth, rgb, rays)
    np.testing.assert_array_equal(field(out, "z"), depth)
    xyz = np.stack([field(out, name) for name in "xyz"], axis=-1)
    known = ~np.isnan(depth)
    pixels = CAMERA.project(xyz[known])
    np.testing.assert_allclose(pixels, np.argwhere(known)[:, ::-1].astype(float), atol=1e-5)
    assert np.isnan(xyz[1, 2]).all()


def test_bytes_of_a_point() -> None:
    """Little-endian floats; blue first, as 0x00RRGGBB is in memory; the padding is not touched."""
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[0, 0] = 1, 2, 3
    out = points(depth, rgb, CAMERA.rays().astype(np.float32))
    xyz = -2.0 * 3 / 10, -2.0 * 2 / 20, 2.0
    assert out[0, 0].tobytes() == struct.pack("<3f4x", *xyz) + bytes((3, 2, 1, 0)) + bytes(12)


def test_grey_and_reversed_colour(rng: np.random.Generator) -> None:
    """Colour comes as views of messages: bgr8 is one with a negative stride, mono8 has no channels."""
    depth, rgb, rays = frame(rng)
    sent = rgb[..., ::-1].copy()
    np.testing.assert_array_equal(points(depth, sent[..., ::-1], rays), points(depth, rgb, rays))
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    np.testing.assert_array_equal(points(depth, rgb[..., 0], rays), points(depth, grey, rays))


def test_no_point_without_a_ray(rng: np.random.Generator) -> None:
    depth, rgb, rays = frame(rng)
    rays[3, 3] = np.nan
    out = points(depth, rgb, rays)
    assert all(np.isnan(field(out, name)[3, 3]) for name in "xyz")
    assert np.isnan(field(out, "z")).sum() == 2


def test_sizes_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    depth, rgb, rays = frame(rng)
    with pytest.raises(ValueError, match=r"rgb \(4, 7, 3\).*wanted: HxW, HxWx3"):
        points(depth, rgb[:4], rays)
    with pytest.raises(ValueError, match=r"rays \(5, 7\)"):
        points(depth, rgb, rays[..., 0])


def test_a_cloud_makes_no_new_arrays() -> None:
    height, width = 240, 320
    depth, rgb = np.ones((height, width), np.float32), np.zeros((height, width, 3), np.uint8)
    rays, out = np.ones((height, width, 2), np.float32), np.zeros((height, width, POINT_STEP), np.uint8)
    write_points(depth, rgb, rays, out)
    tracemalloc.start()
    try:
        write_points(depth, rgb, rays, out)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()
