"""Projection and rays of the three distortion models, against OpenCV and against each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.calibration import Calibration

K = (500.0, 0, 331.5, 0, 480.0, 236.25, 0, 0, 1)
BARREL = (-0.28, 0.09, 0.0012, -0.0007, -0.01)
AZURE = (0.52, -2.6, 0.0006, -0.0003, 1.52, 0.4, -2.43, 1.45)
WIDE = (0.02, -0.01, 0.004, -0.0006)
CAMERAS = {
    "none": Calibration(640, 480, K, (0, 0, 0, 0, 0)),
    "four": Calibration(640, 480, K, BARREL[:4]),
    "plumb_bob": Calibration(640, 480, K, BARREL),
    "rational_polynomial": Calibration(640, 480, K, AZURE, "rational_polynomial"),
    "equidistant": Calibration(640, 480, (260.0, *K[1:4], 255.0, *K[5:]), WIDE, "equidistant"),
}
each_camera = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)


def by_opencv(camera: Calibration, points: NDArray[np.float64]) -> NDArray[np.float64]:
    still = np.zeros(3)
    if camera.model == "equidistant":
        found, _ = cv2.fisheye.projectPoints(
            points[:, None], still, still, np.reshape(camera.k, (3, 3)), np.array(WIDE)
        )
    else:
        distortion = np.array(camera.d) if camera.d else np.zeros(4)
        found, _ = cv2.projectPoints(points, still, still, np.reshape(camera.k, (3, 3)), distortion)
    return np.asarray(found, np.float64).reshape(-1, 2)


@each_camera
def test_points_land_where_opencv_says(camera: Calibration, rng: np.random.Generator) -> None:
    points = rng.uniform((-0.6, -0.45, 1), (0.6, 0.45, 1), (500, 3)) * rng.uniform(0.3, 6, (500, 1))
    pixels = camera.project(points)
    assert np.isfinite(pixels).all()
    np.testing.assert_allclose(pixels, by_opencv(camera, points), atol=1e-6)


@each_camera
def test_rays_come_back_to_their_pixels(camera: Calibration) -> None:
    rays = camera.rays()
    assert rays.shape == (480, 640, 2)
    known = np.isfinite(rays[..., 0])
    assert known[60:-60, 80:-80].all() and known.mean() > 0.95
    points = np.concatenate((rays, np.ones((480, 640, 1))), axis=2)[known]
    rows, columns = np.nonzero(known)
    np.testing.assert_allclose(camera.project(points), np.stack((columns, rows), 1), atol=1e-3)


@each_camera
def test_rays_are_those_of_opencv(camera: Calibration) -> None:
    pixels = np.array([[x, y] for x in (150.0, 320, 480) for y in (120.0, 240, 350)])
    matrix = np.reshape(camera.k, (3, 3))
    if camera.model == "equidistant":
        wanted = cv2.fisheye.undistortPoints(pixels[:, None], matrix, np.array(WIDE))
    else:
        distortion = np.array(camera.d) if camera.d else np.zeros(4)
        ends = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 500, 1e-13)
        unchanged, nothing = np.eye(3), np.eye(3)
        wanted = cv2.undistortPointsIter(pixels[:, None], matrix, distortion, unchanged, nothing, ends)
    columns, rows = pixels.T.astype(int)
    np.testing.assert_allclose(camera.rays()[rows, columns], np.asarray(wanted).reshape(-1, 2), atol=1e-6)


def test_what_the_model_would_fold_back_into_the_image_is_not_seen() -> None:
    """1 - 0.3 r^2 is largest at r = 1.05 and comes back to the middle beyond; here it is asked at 0.9 and 1.7."""
    camera = Calibration(640, 480, K, (-0.3, 0, 0, 0))
    points = np.array([[0.9, 0, 1], [1.7, 0, 1]])
    folded = by_opencv(camera, points)
    assert 0 < folded[1, 0] < folded[0, 0], "OpenCV brings it back, or this shows nothing"
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels[0], folded[0])
    assert np.isnan(pixels[1]).all()


def test_what_lies_behind_or_in_the_camera_is_not_seen() -> None:
    assert np.isnan(CAMERAS["none"].project(np.array([[0, 0, -1], [0, 0, 0], [0.1, 0, 0.001]]))).all()
    assert np.isnan(CAMERAS["equidistant"].project([[1, 0, -1]])).all()


def test_a_pixel_beyond_ninety_degrees_has_no_ray() -> None:
    camera = Calibration(640, 480, (150.0, 0, 319.5, 0, 150.0, 239.5, 0, 0, 1), (), "equidistant")
    rays = camera.rays()
    assert np.isnan(rays[240, 0]).all() and np.isfinite(rays[240, 320]).all()


def test_resized_keeps_the_rays_of_the_image_borders() -> None:
    camera = CAMERAS["rational_polynomial"]
    half = camera.resized(213, 160)
    assert (half.width, half.height, half.d) == (213, 160, camera.d)
    point = [[0.1, -0.2, 1.0]]
    scaled = (camera.project(point) + 0.5) * (213 / 640, 160 / 480) - 0.5
    np.testing.assert_allclose(half.project(point), scaled)
    assert camera.resized(640, 480) is camera


def test_zeros_after_the_eighth_coefficient_are_no_model_of_their_own() -> None:
    assert Calibration(640, 480, K, (*AZURE, 0, 0, 0, 0), "rational_polynomial").d == AZURE


@pytest.mark.parametrize("zeros", (1, 4, 10))
def test_zeros_after_the_fourth_coefficient_of_a_fisheye_are_none(zeros: int) -> None:
    """Drivers that have one length of D for all models."""
    assert Calibration(640, 480, K, (*WIDE, *[0] * zeros), "equidistant").d == WIDE
    assert Calibration(640, 480, K, (*WIDE[:3], 0, *[0] * zeros), "fisheye").d == (*WIDE[:3], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "camera is 0x480; wanted: width and height above 0"),
        ({"k": (0,) * 9}, "K is all 0, which means not calibrated; wanted: a calibrated camera"),
        ({"k": K[:6]}, "K is 500 0 331.5 0 480 236.25; wanted: 9 finite numbers"),
        ({"k": (np.nan, *K[1:])}, "wanted: 9 finite numbers"),
        ({"k": (-500.0, *K[1:])}, "wanted: fx 0 cx 0 fy cy 0 0 1, fx and fy above 0"),
        ({"model": "kannala"}, "distortion model is 'kannala'; wanted: none, plumb_bob, rational_polynomial"),
        ({"d": (1, 2, 3)}, "D of plumb_bob is 1 2 3; wanted: 0, 4, 5, 8 finite numbers"),
        ({"d": (*AZURE, 0, 1)}, "wanted: 0, 4, 5, 8 finite numbers"),
        ({"d": BARREL, "model": "equidistant"}, "wanted: 0, 4 finite numbers"),
        ({"d": (np.inf, 0, 0, 0)}, "finite numbers"),
    ],
)
def test_what_is_no_calibration_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        Calibration(**{"width": 640, "height": 480, "k": K, "d": (), **changes})
    assert message in str(raised.value)
