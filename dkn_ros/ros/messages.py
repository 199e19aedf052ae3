"""sensor_msgs/Image as NumPy arrays and back; CameraInfo of a resized image.

Images are read as views: padded rows, channel order and alpha are strides, not copies.  Copied is only depth in the
other byte order or at odd addresses, and what cv_bridge reads.  Nothing here imports ROS: any object with the fields
will do.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dkn_ros.depth import to_millimetres
from dkn_ros.geometry import crop_intrinsics, scale_intrinsics

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

# encoding -> bytes a pixel, and which of them are the channels R, G, B (a slice) or the grey value (an index).
# The generic 8UCn are OpenCV's, hence BGR: so read cv_bridge and RViz.
COLOUR_LAYOUTS: dict[str, tuple[int, slice | int]] = {
    "rgb8": (3, slice(0, 3)),
    "bgr8": (3, slice(None, None, -1)),
    "rgba8": (4, slice(0, 3)),
    "bgra8": (4, slice(2, None, -1)),
    "mono8": (1, 0),
    "8UC1": (1, 0),
    "8UC3": (3, slice(None, None, -1)),
    "8UC4": (4, slice(2, None, -1)),
}
# encoding -> NumPy type without its byte order
DEPTH_TYPES: dict[str, str] = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
# relative difference of focal length over width up to which two images are taken to show the same field of view
SAME_FIELD = 0.02
# what pixels_of can make: type, and channels of a pixel
OUTPUT_LAYOUTS: dict[str, tuple[type[np.generic], int]] = {
    "32FC1": (np.float32, 1),
    "16UC1": (np.uint16, 1),
    "mono8": (np.uint8, 1),
    "rgb8": (np.uint8, 3),
}


class ImageError(ValueError):
    """A message that cannot be read.

    reason: a short key to count by: "encoding" (not known), "size" (width or height 0), "empty" (no data at all),
    "step" (rows shorter than their pixels), "length" (less data than the rows need).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def stamp_ns(stamp: Time) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_of(header: Header, info: CameraInfo | None) -> str:
    """The frame of an image: its header's, or that of its camera_info, if it has come, where a driver names none."""
    return str(header.frame_id or (info.header.frame_id if info is not None else ""))


def read_rgb(msg: Image) -> NDArray[np.uint8]:
    """The colour image as HxWx3 uint8 in RGB order, or HxW uint8 where it is grey.

    Reads COLOUR_LAYOUTS as views of `msg.data` (strides may be negative, and padded), mono16 as a view of its high
    bytes (as cv_bridge scales it: a sensor that uses 10 of 16 bits comes out dark), all else by cv_bridge where that is
    installed.  Raises ImageError.
    """
    if msg.encoding == "mono16":
        return _bytes_of_pixels(msg, 2)[:, :, 0 if msg.is_bigendian else 1]
    if msg.encoding in COLOUR_LAYOUTS:
        pixel_bytes, channels = COLOUR_LAYOUTS[msg.encoding]
        return _bytes_of_pixels(msg, pixel_bytes)[:, :, channels]
    return _read_by_cv_bridge(msg)


def read_depth(msg: Image) -> NDArray[np.uint16] | NDArray[np.float32]:
    """The depth image as hxw uint16 millimetres (16UC1, mono16) or float32 metres (32FC1), as its encoding says.

    A view of `msg.data` where byte order and alignment are this machine's, else a copy.  Raises ImageError.
    """
    if msg.encoding not in DEPTH_TYPES:
        raise ImageError("encoding", f"depth image has encoding {msg.encoding!r}; wanted: {', '.join(DEPTH_TYPES)}")
    sent = np.dtype(DEPTH_TYPES[msg.encoding]).newbyteorder(">" if msg.is_bigendian else "<")
    _check_layout(msg, sent.itemsize)
    depth: NDArray = np.ndarray((msg.height, msg.width), sent, msg.data, strides=(msg.step, sent.itemsize))
    # NumPy reads values at odd addresses (a step that is no multiple of the value), torch, numba and OpenCV do not.
    if not depth.flags.aligned:
        depth = depth.copy()
    return depth.astype(sent.newbyteorder("="), copy=False)


def write_depth(msg: Image, depth: NDArray[np.float32], encoding: str = "32FC1") -> None:
    """Set everything but the header of `msg`; the buffer it has is filled in place where the length fits.

    So keep the message, publish it at once and write into it again.

    depth: HxW float32 metres, NaN invalid.
    encoding: "32FC1" writes it as it is; "16UC1" rounds to millimetres, 0 where invalid or beyond 65.535 m.
    Raises ValueError for another shape, type or encoding.
    """
    if depth.ndim != 2 or depth.size == 0 or depth.dtype != np.float32:
        raise ValueError(f"depth is {depth.dtype} of shape {depth.shape}; wanted: HxW float32 metres")
    if encoding not in ("32FC1", "16UC1"):
        raise ValueError(f"depth encoding is {encoding!r}; wanted: 32FC1 or 16UC1")
    pixels = pixels_of(msg, depth.shape[0], depth.shape[1], encoding)
    if encoding == "16UC1":
        to_millimetres(depth, pixels)
    else:
        np.copyto(pixels, depth)


def pixels_of(msg: Image, height: int, width: int, encoding: str) -> NDArray:
    """Make `msg` an image of this size and encoding, all but its header; returns its pixels to be written.

    They are a view of the message's buffer, HxW or HxWx3; see `bytes_of`.
    Raises ValueError for another encoding than those of `OUTPUT_LAYOUTS`.
    """
    if encoding not in OUTPUT_LAYOUTS:
        raise ValueError(f"output encoding is {encoding!r}; wanted: {', '.join(OUTPUT_LAYOUTS)}")
    kind, channels = OUTPUT_LAYOUTS[encoding]
    step = width * channels * np.dtype(kind).itemsize
    data = bytes_of(msg, height * step)
    msg.height, msg.width = height, width
    msg.encoding = encoding
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.step = step
    return data.view(kind).reshape((height, width) if channels == 1 else (height, width, channels))


def bytes_of(msg: Any, length: int) -> NDArray[np.uint8]:
    """The data of a message, made so many bytes long, to be written; zeros where they are new.

    The message keeps its buffer where the length fits: write, publish, and write again.
    """
    if not isinstance(msg.data, array) or len(msg.data) != length:
        # Of any type but array("B") Humble checks every value, half a second for 8 MB.
        msg.data = array("B", bytes(length))
    # The message may have kept that array (Humble) or a copy of it (Kilted): what it has is what is filled.
    return np.frombuffer(memoryview(msg.data), np.uint8)


def fill(msg: Any, parts: Iterable[NDArray[np.uint8]]) -> None:
    """Make the data of a message these bytes, one part after the other, in the buffer that it has."""
    if not isinstance(msg.data, array):
        msg.data = array("B")
    parts = list(parts)
    data, length = msg.data, sum(part.size for part in parts)
    if len(data) < length:
        data.frombytes(bytes(length - len(data)))
    del data[length:]
    target, first = np.frombuffer(memoryview(data), np.uint8), 0
    for part in parts:
        target[first : first + part.size] = part
        first += part.size


def sent_size(info: CameraInfo) -> tuple[int, int]:
    """Width and height of the image that `info` describes as the driver sends it: its region of interest, binned."""
    # 0 and 1 both mean no binning; a partial bin at the right or lower border is not part of the image.
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    return (info.roi.width or info.width) // bin_x, (info.roi.height or info.height) // bin_y


def scaled_camera_info(info: CameraInfo, width: int, height: int) -> CameraInfo:
    """The CameraInfo of the image that `info` describes, resized to width x height.

    K of a CameraInfo is for the sensor's full resolution, from which the driver cuts the region of interest and which
    it then bins (REP 104; a region of zeros and a binning of 0 mean none).  The result describes the image as it is
    sent: region and binning are worked into K and P and left unset, as is do_rectify.  P is cut as K is, as by
    image_geometry; that, however, bins without the half pixel (c / b) and so sees a point a quarter of a 2 x 2 bin off.
    D, R and the distortion model do not depend on the resolution and are kept, as is the header.
    Raises ImageError("size") where `info` has no size.
    """
    sent_width, sent_height = sent_size(info)
    if min(sent_width, sent_height, width, height) <= 0:
        sizes = f"camera info of {sent_width}x{sent_height} for an image of {width}x{height}"
        raise ImageError("size", f"{sizes}; wanted: sizes above 0")
    scale_x, scale_y = width / sent_width / max(info.binning_x, 1), height / sent_height / max(info.binning_y, 1)

    scaled = copy.copy(info)
    scaled.width, scaled.height = width, height
    for name, shape in (("k", (3, 3)), ("p", (3, 4))):
        full = np.reshape(getattr(info, name), shape)
        region = crop_intrinsics(full, info.roi.x_offset, info.roi.y_offset)
        setattr(scaled, name, scale_intrinsics(region, scale_x, scale_y).ravel())
    scaled.binning_x = scaled.binning_y = 0
    scaled.roi = copy.copy(info.roi)
    scaled.roi.x_offset = scaled.roi.y_offset = scaled.roi.width = scaled.roi.height = 0
    scaled.roi.do_rectify = False
    return scaled


def registration(rgb: CameraInfo | None, depth: CameraInfo | None) -> str:
    """A sentence on whether the depth is seen from the colour camera, as far as both CameraInfos tell."""
    if rgb is None or depth is None:
        return "unknown: camera_info has not come for both images"
    if rgb.header.frame_id != depth.header.frame_id:
        frames = f"colour is in frame {rgb.header.frame_id!r}, depth in {depth.header.frame_id!r}"
        return f"{frames}; turn on the driver's depth registration, or edges will be off"
    # Of one camera, whatever the resolution; where either is not calibrated (0), nothing can be said.
    across, depth_across = (info.k[0] / info.width if info.width else 0.0 for info in (rgb, depth))
    if across and depth_across and abs(across / depth_across - 1) > SAME_FIELD:
        return "the images have different fields of view; turn on the driver's depth registration, or edges will be off"
    return "depth is seen from the colour camera"


def rgb_image(rgb: NDArray[np.uint8], frame_id: str, encoding: str = "rgb8") -> Image:
    """A sensor_msgs/Image of an HxWx3 image in RGB order; alpha is opaque, the stamp is left 0.

    encoding: one of COLOUR_LAYOUTS with three channels of colour.
    """
    from sensor_msgs.msg import Image

    height, width = rgb.shape[:2]
    pixel_bytes, channels = COLOUR_LAYOUTS[encoding]
    pixels = np.full((height, width, pixel_bytes), 255, np.uint8)
    pixels[:, :, channels] = rgb
    msg = Image(height=height, width=width, encoding=encoding, step=pixel_bytes * width)
    msg.header.frame_id = frame_id
    msg.data = array("B", pixels.tobytes())
    return msg


def depth_image(depth: NDArray[np.float32], encoding: str, frame_id: str) -> Image:
    """A sensor_msgs/Image of its own of float32 metres, see `write_depth`; the stamp is left 0."""
    from sensor_msgs.msg import Image

    msg = Image()
    write_depth(msg, depth, encoding)
    msg.header.frame_id = frame_id
    return msg


def camera_info(
    width: int, height: int, focal_length: float, frame_id: str, focal_length_y: float | None = None
) -> CameraInfo:
    """A CameraInfo of a camera without distortion that looks through the centre of its image; the stamp is left 0.

    focal_length_y: pixels, where pixels are not square.
    """
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.header.frame_id = frame_id
    x, y = (width - 1) / 2, (height - 1) / 2
    down = focal_length if focal_length_y is None else focal_length_y
    info.k = [focal_length, 0.0, x, 0.0, down, y, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal_length, 0.0, x, 0.0, 0.0, down, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def _bytes_of_pixels(msg: Image, pixel_bytes: int) -> NDArray[np.uint8]:
    """height x width x pixel_bytes view of an image of 8-bit values; its metadata is checked first."""
    _check_layout(msg, pixel_bytes)
    return np.ndarray((msg.height, msg.width, pixel_bytes), np.uint8, msg.data, strides=(msg.step, pixel_bytes, 1))


def _check_layout(msg: Image, pixel_bytes: int) -> None:
    """Raise ImageError unless size, step and length of the data fit together.

    The padding of the last row carries nothing and some drivers leave it away, so it is not asked for.
    """
    row = msg.width * pixel_bytes
    given = f"{msg.encoding} image {msg.width}x{msg.height}"
    if msg.width <= 0 or msg.height <= 0:
        raise ImageError("size", f"{given}; wanted: width and height above 0")
    if len(msg.data) == 0:
        raise ImageError("empty", f"{given} has no data; wanted: {row * msg.height} bytes")
    if msg.step < row:
        raise ImageError("step", f"{given} has step {msg.step}; wanted: at least {row} bytes a row")
    needed = msg.step * (msg.height - 1) + row
    if len(msg.data) < needed:
        raise ImageError("length", f"{given}, step {msg.step}, has {len(msg.data)} bytes; wanted: at least {needed}")


def _read_by_cv_bridge(msg: Image) -> NDArray[np.uint8]:
    """The rarer encodings (yuv422, bayer_rggb8, rgb16, ...), converted to rgb8 by cv_bridge."""
    bridge = _cv_bridge()
    direct = ", ".join([*COLOUR_LAYOUTS, "mono16"])
    if bridge is None:
        raise ImageError(
            "encoding",
            f"colour image has encoding {msg.encoding!r}; read directly: {direct}; install cv_bridge for the others",
        )
    # Bytes a pixel are cv_bridge's to know; a payload shorter than its rows is refused here.
    _check_layout(msg, 0)
    try:
        rgb: NDArray[np.uint8] = bridge.imgmsg_to_cv2(msg, desired_encoding="rgb8")
    except Exception as error:
        raise ImageError(
            "encoding", f"cv_bridge cannot read encoding {msg.encoding!r} ({error}); read directly: {direct}"
        ) from error
    return rgb


@functools.lru_cache(maxsize=1)
def _cv_bridge() -> Any | None:
    """A CvBridge, or None where cv_bridge is missing or broken."""
    try:
        return importlib.import_module("cv_bridge").CvBridge()
    except Exception:  # Built for NumPy 1 and loaded with NumPy 2 it raises anything from ImportError to SystemError.
        return None
