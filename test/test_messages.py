"""Images and camera infos: every encoding, byte order and padding against values packed one by one."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dkn_ros.geometry import crop_intrinsics, scale_intrinsics
from dkn_ros.ros import messages
from dkn_ros.ros.messages import (
    ImageError,
    fill,
    pixels_of,
    read_depth,
    read_rgb,
    registration,
    scaled_camera_info,
    stamp_ns,
    write_depth,
)

WIDTH, HEIGHT = 5, 3
PADDINGS = (0, 4, 3)  # 3 puts the rows of 16 and 32-bit images at odd addresses


def image(encoding: str, rows: list[bytes], step: int, big: bool = False, cut: int = 0) -> SimpleNamespace:
    """An Image of packed rows, each padded to `step` with 0xAA; `cut` bytes are missing at the end."""
    data = b"".join(row.ljust(step, b"\xaa") for row in rows)
    return SimpleNamespace(
        encoding=encoding,
        width=WIDTH,
        height=len(rows),
        step=step,
        is_bigendian=int(big),
        data=array("B", data[: len(data) - cut]),
    )


def colour(y: int, x: int) -> tuple[int, int, int, int]:
    """R, G, B, A of the test image; all values differ."""
    first = 4 * (y * WIDTH + x)
    return first, first + 1, first + 2, first + 3


# encoding -> which of R, G, B, A are sent, in order
CHANNELS = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2, 3),
    "bgra8": (2, 1, 0, 3),
    "mono8": (1,),
    "8UC1": (1,),
    "8UC3": (2, 1, 0),
    "8UC4": (2, 1, 0, 3),
}


def colour_image(encoding: str, padding: int, big: bool, cut: int = 0) -> SimpleNamespace:
    rows = [bytes(colour(y, x)[c] for x in range(WIDTH) for c in CHANNELS[encoding]) for y in range(HEIGHT)]
    return image(encoding, rows, len(rows[0]) + padding, big, cut=cut)


def depth_value(encoding: str, y: int, x: int) -> float:
    index = y * WIDTH + x
    return 0.25 * index + 0.125 if encoding == "32FC1" else 257 * index + 3


def depth_image(encoding: str, padding: int, big: bool, cut: int = 0) -> SimpleNamespace:
    code = (">" if big else "<") + ("f" if encoding == "32FC1" else "H")
    rows = [b"".join(struct.pack(code, depth_value(encoding, y, x)) for x in range(WIDTH)) for y in range(HEIGHT)]
    return image(encoding, rows, len(rows[0]) + padding, big, cut=cut)


@pytest.mark.parametrize("big", (False, True))
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("encoding", CHANNELS)
def test_colour_is_viewed_as_rgb(encoding: str, padding: int, big: bool) -> None:
    msg = colour_image(encoding, padding, big)
    rgb = read_rgb(msg)
    grey = len(CHANNELS[encoding]) == 1
    expected = [[colour(y, x)[1] if grey else colour(y, x)[:3] for x in range(WIDTH)] for y in range(HEIGHT)]
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)
    assert np.shares_memory(rgb, np.frombuffer(msg.data, np.uint8))


def test_the_table_covers_every_encoding_read_directly() -> None:
    assert set(CHANNELS) == set(messages.COLOUR_LAYOUTS)


@pytest.mark.parametrize("big", (False, True))
@pytest.mark.parametrize("padding", PADDINGS)
def test_mono16_guidance_is_its_high_byte(padding: int, big: bool) -> None:
    msg = depth_image("mono16", padding, big)
    grey = read_rgb(msg)
    expected = [[int(depth_value("mono16", y, x)) // 256 for x in range(WIDTH)] for y in range(HEIGHT)]
    np.testing.assert_array_equal(grey, expected)
    assert grey.dtype == np.uint8
    assert np.shares_memory(grey, np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("big", (False, True))
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("encoding", ("16UC1", "mono16", "32FC1"))
def test_depth_is_read_in_either_byte_order(encoding: str, padding: int, big: bool) -> None:
    msg = depth_image(encoding, padding, big)
    depth = read_depth(msg)
    expected = [[depth_value(encoding, y, x) for x in range(WIDTH)] for y in range(HEIGHT)]
    np.testing.assert_array_equal(depth, expected)
    assert depth.dtype == (np.float32 if encoding == "32FC1" else np.uint16)
    assert depth.dtype.isnative and depth.flags.aligned
    # Only what this machine cannot compute with in place is copied.
    in_place = big == (sys.byteorder == "big") and msg.step % depth.itemsize == 0
    assert np.shares_memory(depth, np.frombuffer(msg.data, np.uint8)) == in_place


def test_data_may_be_any_buffer_and_lack_the_padding_of_the_last_row() -> None:
    whole, cropped = depth_image("16UC1", 4, False), depth_image("16UC1", 4, False, cut=4)
    cropped.data = bytes(cropped.data)
    np.testing.assert_array_equal(read_depth(cropped), read_depth(whole))
    np.testing.assert_array_equal(
        read_rgb(colour_image("bgr8", 7, False, cut=7)), read_rgb(colour_image("rgb8", 0, False))
    )


REFUSALS = [
    ("size", {"width": 0}, "width and height above 0"),
    ("size", {"height": 0}, "width and height above 0"),
    ("empty", {"data": array("B")}, "has no data"),
    ("step", {"step": -1}, "at least"),
    ("length", {"data": None}, "wanted: at least"),
]


@pytest.mark.parametrize(("reason", "change", "text"), REFUSALS)
@pytest.mark.parametrize("encoding", ("rgb8", "bgra8", "mono8", "mono16", "16UC1", "32FC1"))
def test_metadata_that_does_not_fit_is_refused(encoding: str, reason: str, change: dict, text: str) -> None:
    is_depth = encoding in ("16UC1", "32FC1", "mono16")
    msg = depth_image(encoding, 0, False) if is_depth else colour_image(encoding, 0, False)
    for name, value in change.items():
        # -1: one byte less than a row needs.  None: one byte less than the image needs.
        setattr(msg, name, msg.step - 1 if name == "step" else msg.data[:-1] if value is None else value)
    with pytest.raises(ImageError, match=text) as refusal:
        read_depth(msg) if encoding in ("16UC1", "32FC1") else read_rgb(msg)
    assert refusal.value.reason == reason
    assert encoding in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_depth_in_another_encoding_is_refused() -> None:
    msg = colour_image("rgb8", 0, False)
    with pytest.raises(ImageError, match="'rgb8'; wanted: 16UC1, mono16, 32FC1") as refusal:
        read_depth(msg)
    assert refusal.value.reason == "encoding"


InstallBridge = Callable[[Any], None]


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallBridge]:
    """A function that installs a stand-in for the module cv_bridge (None: not installed)."""

    def install(module: Any) -> None:
        messages._cv_bridge.cache_clear()
        monkeypatch.setitem(sys.modules, "cv_bridge", module)

    yield install
    messages._cv_bridge.cache_clear()


def broken_bridge() -> object:
    raise SystemError("_ARRAY_API not found")


@pytest.mark.parametrize("module", (None, SimpleNamespace(CvBridge=broken_bridge)))
def test_rare_encodings_without_cv_bridge_name_what_is_read(bridge: InstallBridge, module: Any) -> None:
    bridge(module)
    with pytest.raises(ImageError, match=r"'yuv422'; read directly: rgb8, bgr8.*install cv_bridge") as refusal:
        read_rgb(image("yuv422", [bytes(10)] * 3, 10))
    assert refusal.value.reason == "encoding"


def test_rare_encodings_are_converted_by_cv_bridge(bridge: InstallBridge) -> None:
    converted = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    asked: list[tuple[object, str]] = []

    class Bridge:
        def imgmsg_to_cv2(self, msg: object, desired_encoding: str) -> np.ndarray:
            asked.append((msg, desired_encoding))
            return converted

    bridge(SimpleNamespace(CvBridge=Bridge))
    msg = image("yuv422", [bytes(10)] * 3, 10)
    assert read_rgb(msg) is converted
    assert asked == [(msg, "rgb8")]
    msg.data = msg.data[:-11]
    with pytest.raises(ImageError, match="wanted: at least 20") as refusal:
        read_rgb(msg)
    assert refusal.value.reason == "length"


def test_what_cv_bridge_cannot_read_is_refused(bridge: InstallBridge) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, msg: object, desired_encoding: str) -> np.ndarray:
            raise RuntimeError("unrecognised image encoding")

    bridge(SimpleNamespace(CvBridge=Bridge))
    with pytest.raises(ImageError, match=r"'magic' \(unrecognised image encoding\); read directly: rgb8") as refusal:
        read_rgb(image("magic", [bytes(10)] * 3, 10))
    assert refusal.value.reason == "encoding"


def written(depth: np.ndarray, encoding: str) -> SimpleNamespace:
    msg = SimpleNamespace(data=b"")
    write_depth(msg, depth, encoding)
    return msg


def test_metres_are_written_and_read_back() -> None:
    depth = np.array([[0.5, np.nan, 70.0], [1e-4, 12.3456, np.inf]], np.float32)
    msg = written(depth, "32FC1")
    assert (msg.width, msg.height, msg.step, msg.encoding) == (3, 2, 12, "32FC1")
    np.testing.assert_array_equal(read_depth(msg), depth)


def test_millimetres_are_rounded_and_what_does_not_fit_is_zero() -> None:
    depth = np.array([[0.5, np.nan, 70.0, -1.0], [0.0006, 12.3456, np.inf, 65.535]], np.float32)
    msg = written(depth, "16UC1")
    assert (msg.width, msg.height, msg.step, msg.encoding) == (4, 2, 8, "16UC1")
    np.testing.assert_array_equal(read_depth(msg), [[500, 0, 0, 0], [1, 12346, 0, 65535]])


def test_a_view_with_strides_is_written_in_order() -> None:
    depth = np.arange(24, dtype=np.float32).reshape(4, 6)[::-1, ::2]
    np.testing.assert_array_equal(read_depth(written(depth, "32FC1")), depth)


def test_a_message_keeps_its_buffer_while_the_length_stays() -> None:
    msg, depth = SimpleNamespace(data=b""), np.ones((2, 3), np.float32)
    write_depth(msg, depth)
    first = msg.data
    write_depth(msg, 2 * depth)
    assert msg.data is first
    np.testing.assert_array_equal(read_depth(msg), 2 * depth)
    write_depth(msg, 3 * depth.T)
    assert (msg.width, msg.height, msg.step) == (2, 3, 8)
    np.testing.assert_array_equal(read_depth(msg), 3 * depth.T)
    write_depth(msg, depth.T, "16UC1")
    assert len(msg.data) == 12
    np.testing.assert_array_equal(read_depth(msg), 1000 * depth.T)


@pytest.mark.parametrize(
    ("depth", "encoding", "text"),
    [
        (np.ones((2, 3)), "32FC1", "float64 of shape"),
        (np.ones((2, 3, 1), np.float32), "32FC1", "shape .2, 3, 1.; wanted: HxW float32 metres"),
        (np.ones((0, 3), np.float32), "16UC1", "shape .0, 3."),
        (np.ones((2, 3), np.float32), "mono8", "'mono8'; wanted: 32FC1 or 16UC1"),
    ],
)
def test_what_cannot_be_written_is_refused(depth: np.ndarray, encoding: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        written(depth, encoding)


def test_a_real_image_keeps_its_buffer() -> None:
    sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not installed")
    msg = sensor_msgs.Image()
    write_depth(msg, np.full((2, 3), 1.5, np.float32))
    data = msg.data
    write_depth(msg, np.full((2, 3), 2.5, np.float32))
    assert msg.data is data
    np.testing.assert_array_equal(read_depth(msg), np.full((2, 3), 2.5))


@pytest.mark.parametrize(("encoding", "kind"), [("32FC1", np.float32), ("16UC1", np.uint16)])
def test_pixels_of_a_message_are_there_to_be_written(encoding: str, kind: type) -> None:
    msg = SimpleNamespace(data=b"", header="header", height=9, width=9, step=1, is_bigendian=7, encoding="rgb8")
    pixels = pixels_of(msg, 3, 5, encoding)
    size = np.dtype(kind).itemsize
    assert pixels.shape == (3, 5) and pixels.dtype == kind
    assert pixels.flags.c_contiguous and pixels.flags.writeable and pixels.flags.aligned
    assert (msg.height, msg.width, msg.step, msg.encoding, msg.header) == (3, 5, 5 * size, encoding, "header")
    assert msg.is_bigendian == (sys.byteorder == "big")
    assert isinstance(msg.data, array) and msg.data.typecode == "B" and len(msg.data) == 15 * size
    pixels[:] = np.arange(1, 16).reshape(3, 5)
    np.testing.assert_array_equal(read_depth(msg), pixels)
    assert struct.unpack("=15" + ("f" if kind == np.float32 else "H"), bytes(msg.data)) == tuple(range(1, 16))


def test_pixels_are_those_of_the_same_buffer_while_its_length_stays() -> None:
    msg = SimpleNamespace(data=b"")
    first = pixels_of(msg, 4, 6, "32FC1")
    buffer = msg.data
    for height, width, encoding in ((4, 6, "32FC1"), (6, 4, "32FC1"), (4, 12, "16UC1"), (4, 6, "32FC1")):
        pixels = pixels_of(msg, height, width, encoding)
        assert msg.data is buffer and np.shares_memory(pixels, first)
        assert (msg.height, msg.width, msg.step * msg.height, msg.encoding) == (height, width, 96, encoding)
    for height, width, encoding in ((4, 7, "32FC1"), (4, 6, "16UC1")):
        pixels = pixels_of(msg, height, width, encoding)
        assert msg.data is not buffer and not np.shares_memory(pixels, first)
        assert len(msg.data) == pixels.nbytes
        buffer = msg.data


@pytest.mark.parametrize(("encoding", "shape"), [("mono8", (3, 5)), ("rgb8", (3, 5, 3))])
def test_pixels_of_bytes(encoding: str, shape: tuple[int, ...]) -> None:
    msg = SimpleNamespace(data=b"")
    pixels = pixels_of(msg, 3, 5, encoding)
    assert pixels.shape == shape and pixels.dtype == np.uint8
    assert msg.step * msg.height == len(msg.data) == pixels.size
    pixels[:] = np.arange(pixels.size).reshape(shape)
    np.testing.assert_array_equal(read_rgb(msg), pixels)


@pytest.mark.parametrize("data", [b"", [], array("B"), array("B", bytes(100))])
def test_parts_fill_the_data_whatever_was_there(data: Any) -> None:
    """Longer and shorter than before, in the same buffer."""
    msg = SimpleNamespace(data=data)
    kept = None
    for length in (5, 40, 3, 0, 17):
        fill(msg, (np.arange(length, dtype=np.uint8), np.full(2, 200, np.uint8)))
        assert bytes(msg.data) == bytes(range(length)) + b"\xc8\xc8"
        assert isinstance(msg.data, array) and (kept is None or msg.data is kept)
        kept = msg.data


def test_a_buffer_of_another_kind_is_replaced() -> None:
    """An empty message of some ROS versions holds a list, one that was received an array."""
    for data in (bytes(24), [0] * 24, array("B", bytes(23))):
        msg = SimpleNamespace(data=data)
        pixels_of(msg, 2, 3, "32FC1")[:] = 1
        assert isinstance(msg.data, array) and len(msg.data) == 24 and msg.data is not data


@pytest.mark.parametrize("encoding", ["", "mono16", "32FC3", "64FC1", "bgr8"])
def test_pixels_of_no_output_encoding_are_refused_and_the_message_left_alone(encoding: str) -> None:
    msg = SimpleNamespace(data=b"")
    with pytest.raises(ValueError, match=f"output encoding is '{encoding}'; wanted: 32FC1, 16UC1, mono8, rgb8"):
        pixels_of(msg, 2, 3, encoding)
    assert vars(msg) == {"data": b""}


def test_a_real_image_keeps_its_buffer_for_its_pixels() -> None:
    sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not installed")
    msg = sensor_msgs.Image()
    first = pixels_of(msg, 2, 3, "32FC1")
    first[:] = 1.5
    assert np.shares_memory(pixels_of(msg, 2, 3, "32FC1"), first)
    np.testing.assert_array_equal(read_depth(msg), np.full((2, 3), 1.5))


def test_stamp_in_nanoseconds() -> None:
    # A float of seconds would lose the last digits.
    assert stamp_ns(SimpleNamespace(sec=1_700_000_000, nanosec=123_456_789)) == 1_700_000_000_123_456_789


POINTS = np.array([[0.1, -0.2, 1.5], [-0.7, 0.4, 2.0], [0.0, 0.0, 1.0], [1.1, 0.9, 3.3]])
K = np.array([[525.0, 0.5, 319.5], [0, 520.0, 239.5], [0, 0, 1]])
P = np.array([[500.0, 0, 310.0, -37.5], [0, 505.0, 250.0, 0], [0, 0, 1, 0]])


def project(matrix: np.ndarray, points: np.ndarray = POINTS) -> np.ndarray:
    """Pixel coordinates (x, y) of points in front of a camera of matrix K or P."""
    if matrix.shape == (3, 4):
        points = np.hstack([points, np.ones((len(points), 1))])
    homogeneous = points @ matrix.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


@pytest.mark.parametrize("matrix", (K, P))
@pytest.mark.parametrize(("scale_x", "scale_y"), ((2.0, 2.0), (0.25, 0.5), (3.75, 2.547), (1.0, 1.0)))
def test_points_project_where_the_resized_image_has_them(matrix: np.ndarray, scale_x: float, scale_y: float) -> None:
    before, after = project(matrix), project(scale_intrinsics(matrix, scale_x, scale_y))
    # Measured from the border of the image instead of the centre of its first pixel, coordinates scale plainly.
    np.testing.assert_allclose(after + 0.5, (before + 0.5) * (scale_x, scale_y), rtol=1e-12)


def test_a_crop_moves_the_points() -> None:
    np.testing.assert_allclose(project(crop_intrinsics(P, 12, 7)), project(P) - (12, 7), rtol=1e-12)


def test_intrinsics_of_another_shape_or_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(9,\); wanted: 3x3"):
        scale_intrinsics(K.ravel(), 2, 2)
    with pytest.raises(ValueError, match="scale is 0 x 2"):
        scale_intrinsics(K, 0, 2)


def camera_info(**changes: object) -> SimpleNamespace:
    info = SimpleNamespace(
        header="header",
        width=640,
        height=480,
        distortion_model="plumb_bob",
        d=[0.1, -0.2, 0.0, 0.0, 0.05],
        r=np.eye(3).ravel(),
        k=K.ravel(),
        p=P.ravel(),
        binning_x=0,
        binning_y=0,
        roi=Region(),
    )
    vars(info).update(changes)
    return info


class Region:
    """Stands for sensor_msgs/RegionOfInterest, which can be made without arguments."""

    def __init__(self, x_offset: int = 0, y_offset: int = 0, width: int = 0, height: int = 0) -> None:
        self.x_offset, self.y_offset, self.width, self.height = x_offset, y_offset, width, height
        self.do_rectify = False


def test_camera_info_of_a_resized_image() -> None:
    info = camera_info()
    scaled = scaled_camera_info(info, 1280, 360)
    assert (scaled.width, scaled.height, scaled.header, scaled.distortion_model) == (1280, 360, "header", "plumb_bob")
    assert scaled.d == info.d
    np.testing.assert_array_equal(scaled.r, info.r)
    np.testing.assert_allclose(scaled.k.reshape(3, 3), scale_intrinsics(K, 2, 0.75))
    np.testing.assert_allclose(scaled.p.reshape(3, 4), scale_intrinsics(P, 2, 0.75))
    assert info.width == 640 and np.array_equal(info.k, K.ravel())


def test_camera_info_of_the_same_size_is_unchanged() -> None:
    info = camera_info()
    same = scaled_camera_info(info, 640, 480)
    np.testing.assert_array_equal(same.k, info.k)
    np.testing.assert_array_equal(same.p, info.p)


def test_region_of_interest_and_binning_are_worked_in() -> None:
    # Columns 100..500 and rows 50..353 of the sensor, binned 2 x 3: an image of 200 x 101 pixels, sent as 400 x 101.
    info = camera_info(roi=Region(100, 50, 401, 304), binning_x=2, binning_y=3)
    scaled = scaled_camera_info(info, 400, 101)
    for name, full in (("k", K), ("p", P)):
        on_sensor = project(full)
        expected = (on_sensor - (100, 50) + 0.5) * (2 / 2, 1 / 3) - 0.5
        np.testing.assert_allclose(project(getattr(scaled, name).reshape(full.shape)), expected, rtol=1e-12)
    assert (scaled.binning_x, scaled.binning_y, scaled.roi.width, scaled.roi.x_offset) == (0, 0, 0, 0)
    assert (info.binning_x, info.roi.width) == (2, 401)


def test_an_uncalibrated_camera_stays_uncalibrated() -> None:
    scaled = scaled_camera_info(camera_info(k=np.zeros(9), p=np.zeros(12)), 320, 240)
    assert not scaled.k.any() and not scaled.p.any()


@pytest.mark.parametrize(("width", "size"), ((0, (320, 240)), (640, (0, 240))))
def test_camera_info_without_a_size_is_refused(width: int, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="wanted: sizes above 0") as refusal:
        scaled_camera_info(camera_info(width=width), *size)
    assert refusal.value.reason == "size"


def test_real_camera_info() -> None:
    sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not installed")
    info = sensor_msgs.CameraInfo(width=640, height=480, k=K.ravel(), p=P.ravel(), binning_x=1)
    info.roi.x_offset, info.roi.width = 40, 320
    scaled = scaled_camera_info(info, 640, 480)
    assert (scaled.width, scaled.roi.width, info.roi.width, info.width) == (640, 0, 320, 640)
    np.testing.assert_allclose(project(scaled.k.reshape(3, 3))[:, 0], (project(K)[:, 0] - 40 + 0.5) * 2 - 0.5)


def _info(width: int, focal_length: float, frame_id: str = "camera") -> Any:
    return SimpleNamespace(width=width, k=[focal_length], header=SimpleNamespace(frame_id=frame_id))


@pytest.mark.parametrize(
    ("rgb", "depth", "said"),
    [
        (None, _info(80, 60), "unknown"),
        (_info(640, 525), None, "unknown"),
        (_info(640, 525), _info(80, 525 / 8), "seen from the colour camera"),
        (_info(640, 525), _info(80, 0.0), "seen from the colour camera"),
        (_info(640, 525), _info(80, 60), "fields of view"),
        (_info(640, 525), _info(80, 525 / 8, "depth"), "'camera', depth in 'depth'"),
    ],
)
def test_registration_says_whether_both_see_from_one_place(rgb: Any, depth: Any, said: str) -> None:
    assert said in registration(rgb, depth)
