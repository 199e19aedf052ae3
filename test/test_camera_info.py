"""The camera_info of an image that was cut, binned and resized: it sees every point where the image shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.calibration import Calibration
from dkn_ros.ros.messages import ImageError, scaled_camera_info
from dkn_ros.ros.registering import calibration_of

WIDTH, HEIGHT = 752, 480  # the camera of REP 104
K = (520.0, 0.0, 380.25, 0.0, 515.0, 233.5, 0.0, 0.0, 1.0)
P = (500.0, 0.0, 371.5, -40.0, 0.0, 490.0, 236.25, 3.0, 0.0, 0.0, 1.0, 0.0)
DISTORTIONS = {
    "plumb_bob": [-0.28, 0.07, 1e-3, -5e-4, 0.01],
    "rational_polynomial": [0.4, -2.6, 5e-4, -1e-4, 1.5, 0.3, -2.4, 1.4],
    "equidistant": [0.02, -0.01, 3e-3, -1e-3],
}
# REP 104, use cases 1 to 6: x_offset, y_offset, width, height, do_rectify; binning; size of the image that is sent
USES = {
    "full": ((0, 0, 0, 0, False), 0, (752, 480)),
    "region": ((50, 70, 200, 300, True), 1, (200, 300)),
    "cropped mode": ((56, 0, 640, 480, False), 1, (640, 480)),
    "cropped mode with region": ((106, 70, 200, 300, True), 1, (200, 300)),
    "binned cropped mode": ((56, 0, 640, 480, False), 2, (320, 240)),
    "binned cropped mode with region": ((106, 70, 200, 300, True), 2, (100, 150)),
    "partial bins": ((0, 0, 0, 0, False), 3, (250, 160)),
}
RATIOS = ((1, 1), (2, 2), (0.5, 0.25), (1.875, 1.2745), (3.2, 2.667))


def camera_info(use: str, model: str = "plumb_bob", d: Any = ()) -> Any:
    (x, y, width, height, rectify), binning, _ = USES[use]
    roi = SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=rectify)
    size = {"width": WIDTH, "height": HEIGHT, "binning_x": binning, "binning_y": binning}
    return SimpleNamespace(k=K, p=P, d=list(d), distortion_model=model, roi=roi, **size)


def in_the_image(sensor: NDArray, use: str, size: tuple[int, int]) -> NDArray:
    """Where pixels of the sensor are in the image, by the borders that cutting, binning and resizing keep in place."""
    (x, y, *_), binning, sent = USES[use]
    edges = (sensor + 0.5 - (x, y)) / max(binning, 1)  # distance from the image's corner
    return edges * np.divide(size, sent) - 0.5


def resized(use: str, ratio: tuple[float, float]) -> tuple[int, int]:
    width, height = USES[use][2]
    return round(width * ratio[0]), round(height * ratio[1])


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("model", DISTORTIONS)
def test_points_are_seen_where_they_were(model: str, use: str, ratio: tuple[float, float], rng: Any) -> None:
    points = rng.uniform((-0.5, -0.35, 0.8), (0.5, 0.35, 4.0), (200, 3))
    d = DISTORTIONS[model]
    sensor = Calibration(WIDTH, HEIGHT, K, tuple(d), model).project(points)
    size = resized(use, ratio)
    info = scaled_camera_info(camera_info(use, model, d), *size)
    assert (info.width, info.height) == size
    image = Calibration(*size, tuple(info.k), tuple(info.d), info.distortion_model)
    np.testing.assert_allclose(image.project(points), in_the_image(sensor, use, size), atol=1e-9)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@pytest.mark.parametrize("use", USES)
def test_rectified_points_and_their_baseline(use: str, ratio: tuple[float, float], rng: Any) -> None:
    """P projects X, Y, Z, 1: its last column is the baseline of a stereo camera, in pixels times metres."""
    points = np.concatenate([rng.uniform((-1, -1, 0.8), (1, 1, 4.0), (50, 3)), np.ones((50, 1))], axis=1)

    def project(p: Any) -> NDArray:
        seen = points @ np.reshape(p, (3, 4)).T
        return seen[:, :2] / seen[:, 2:]

    size = resized(use, ratio)
    scaled = scaled_camera_info(camera_info(use), *size)
    np.testing.assert_allclose(project(scaled.p), in_the_image(project(P), use, size), atol=1e-9)
    assert not any((scaled.roi.width, scaled.roi.x_offset, scaled.roi.do_rectify, scaled.binning_x, scaled.binning_y))


@pytest.mark.parametrize("ratio", (1, 2, 0.5, 1.25, 0.07))
@pytest.mark.parametrize("use", USES)
def test_an_image_of_the_same_shape_has_a_calibration(use: str, ratio: float) -> None:
    """Cut, binned and resized, to whole pixels."""
    size = resized(use, (ratio, ratio))
    camera, scaled = calibration_of(camera_info(use), *size), scaled_camera_info(camera_info(use), *size)
    assert (camera.width, camera.height, camera.k) == (*size, tuple(scaled.k))


@pytest.mark.parametrize(
    ("use", "size", "sent"),
    [
        ("cropped mode", (1280, 720), "640x480"),
        ("cropped mode", (640, 400), "640x480"),
        ("cropped mode", (1280, 1024), "640x480"),
        ("cropped mode", (480, 640), "640x480"),
        ("binned cropped mode", (640, 360), "320x240"),
        ("region", (640, 480), "200x300"),
        ("full", (640, 480), "752x480"),
    ],
)
def test_an_image_of_another_shape_has_none(use: str, size: tuple[int, int], sent: str) -> None:
    """Another mode of the camera, which sees another part of the scene."""
    image = f"{size[0]}x{size[1]}"
    with pytest.raises(ImageError) as raised:
        calibration_of(camera_info(use), *size)
    told = f"camera_info is of {sent}, the image {image}, of another shape; load the calibration of this mode"
    assert (raised.value.reason, str(raised.value)) == ("calibration", told)


@pytest.mark.parametrize("size", [(640, 488), (636, 480), (284, 213)])
def test_some_rows_more_are_the_same_shape(size: tuple[int, int]) -> None:
    assert calibration_of(camera_info("cropped mode"), *size).width == size[0]


@pytest.mark.parametrize("ratio", ((1, 1), (2, 2), (0.5, 0.5), (1.5, 1.5)), ids=str)
@pytest.mark.parametrize("use", ["full", "cropped mode", "binned cropped mode", "partial bins"])
def test_a_spot_of_light_is_where_the_camera_info_says(use: str, ratio: tuple[float, float]) -> None:
    """The pixels themselves: a spot on the sensor, cut out, averaged in bins and resized by OpenCV."""
    point = np.array([[0.0712, -0.0431, 1.0]])
    (x, y), rows_columns = Calibration(WIDTH, HEIGHT, K).project(point)[0], np.indices((HEIGHT, WIDTH))
    spot = np.exp(-((rows_columns[1] - x) ** 2 + (rows_columns[0] - y) ** 2) / (2 * 6.0**2))
    (left, top, width, height, _), binning, sent = USES[use]
    b = max(binning, 1)
    image = spot[top : top + (height or HEIGHT), left : left + (width or WIDTH)]
    image = image[: sent[1] * b, : sent[0] * b].reshape(sent[1], b, sent[0], b).mean(axis=(1, 3))
    size = resized(use, ratio)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if min(ratio) < 1 else cv2.INTER_LINEAR)

    rows, columns = np.indices(image.shape)
    centre = np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()
    np.testing.assert_allclose(calibration_of(camera_info(use), *size).project(point)[0], centre, atol=0.02)
