"""What is published of a frame besides its depth: messages that are kept, with their buffers, from frame to frame.

Each is made only where somebody listens, see `Outputs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.calibration import Calibration
from dkn_ros.cloud import OFFSETS, POINT_STEP, write_points
from dkn_ros.compressed_depth import Coding, compress, format_string
from dkn_ros.config import NodeConfig
from dkn_ros.preview import Preview
from dkn_ros.ros.messages import ImageError, bytes_of, fill, pixels_of, stamp_ns
from dkn_ros.ros.registering import calibration_of

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo
    from std_msgs.msg import Header

FLOAT32 = 7
"""PointField.FLOAT32."""


@dataclass(frozen=True)
class Result:
    """One frame as it goes out.  The arrays last until the next frame."""

    header: Header
    """Stamp and frame of all that is published of it."""
    rgb: NDArray[np.uint8]
    """HxWx3 (RGB order) or HxW."""
    depth: NDArray[np.float32]
    """HxW metres, NaN invalid: what `Outputs.begin` gave, filled."""
    rgb_info: CameraInfo | None
    """Of the colour image as it came; None while there is none."""


class View(Protocol):
    """One topic."""

    topic: str
    """Relative name."""
    kind: type
    """Of the message."""

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any | None:
        """The message of a frame, to be published before the next is asked for; None where there can be none.

        sent: the depth as depth/upsampled carries it: HxW float32 metres or uint16 millimetres.
        """


class Validity:
    """mono8: 255 where the depth is trusted, else 0."""

    topic = "depth/validity"

    def __init__(self) -> None:
        from sensor_msgs.msg import Image

        self.kind, self._image = Image, Image()

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any:
        """See `View`."""
        height, width = result.depth.shape
        pixels = pixels_of(self._image, height, width, "mono8")
        np.equal(result.depth, result.depth, out=pixels.view(np.bool_))  # NaN is not equal to itself
        np.multiply(pixels, 255, out=pixels)
        self._image.header = result.header
        return self._image


class Confidence:
    """32FC1: how likely each pixel is right, see `dkn_ros.confidence`; the pipeline writes it."""

    topic = "depth/confidence"

    def __init__(self) -> None:
        from sensor_msgs.msg import Image

        self.kind, self._image = Image, Image()
        self._begun = False

    def begin(self, height: int, width: int, wanted: bool) -> NDArray[np.float32] | None:
        """A frame begins: where its confidence is to be written, if it is wanted."""
        self._begun = wanted
        return pixels_of(self._image, height, width, "32FC1") if wanted else None

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any | None:
        """See `View`; None for a frame that began before anybody listened."""
        if not self._begun:
            return None
        self._image.header = result.header
        return self._image


class Picture:
    """rgb8: the depth as a picture for people."""

    topic = "depth/preview"

    def __init__(self) -> None:
        from sensor_msgs.msg import Image

        self.kind, self._image, self._preview = Image, Image(), Preview()

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any:
        """See `View`."""
        height, width = result.depth.shape
        pixels = pixels_of(self._image, height, width, "rgb8")
        seconds = stamp_ns(result.header.stamp) / 1e9
        self._preview.draw(result.depth, seconds, pixels, config.preview_near, config.preview_far)
        self._image.header = result.header
        return self._image


class Points:
    """PointCloud2: one coloured point a pixel, in the frame of the colour camera; needs its camera_info.

    As for registration, K and D of camera_info describe the colour image as it comes, or P one that is rectified.
    """

    topic = "depth/points"

    def __init__(self, logger: Any) -> None:
        from sensor_msgs.msg import PointCloud2, PointField

        self.kind, self._logger = PointCloud2, logger
        self._cloud = PointCloud2(point_step=POINT_STEP, is_dense=False, is_bigendian=False)
        self._cloud.fields = [
            PointField(name=name, offset=offset, datatype=FLOAT32, count=1) for name, offset in OFFSETS.items()
        ]
        self._calibration: Calibration | None = None
        self._rays = np.empty((0, 0, 2), np.float32)
        self._said = ""

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any | None:
        """See `View`; None, and a line in the log, without a camera_info that is of use."""
        height, width = result.depth.shape
        try:
            if result.rgb_info is None:
                raise ImageError("calibration", "camera_info of the colour image has not come")
            self._look_along(calibration_of(result.rgb_info, width, height, config.rectified in ("rgb", "both")))
        except ValueError as error:
            self._complain(f"no {self.topic}: {error}")
            return None
        self._said = ""
        cloud = self._cloud
        points = bytes_of(cloud, height * width * POINT_STEP).reshape(height, width, POINT_STEP)
        cloud.height, cloud.width, cloud.row_step = height, width, width * POINT_STEP
        write_points(result.depth, result.rgb, self._rays, points)
        cloud.header = result.header
        return cloud

    def _look_along(self, calibration: Calibration) -> None:
        if calibration != self._calibration:
            self._rays = calibration.rays().astype(np.float32)
            self._calibration = calibration

    def _complain(self, text: str) -> None:
        """Once, until it works or something else is wrong."""
        if text != self._said:
            self._logger.warning(text)
            self._said = text


class Compressed:
    """CompressedImage: depth/upsampled as image_transport's compressedDepth carries it."""

    topic = "depth/upsampled/compressedDepth"

    def __init__(self) -> None:
        from sensor_msgs.msg import CompressedImage

        self.kind, self._image, self._buffers = CompressedImage, CompressedImage(), Buffers()

    def message(self, result: Result, sent: NDArray, config: NodeConfig) -> Any:
        """See `View`."""
        coding = Coding(config.compressed_format, config.compressed_max_depth, config.compressed_quantization)
        fill(self._image, compress(sent, coding, self._buffers))
        encoding = "16UC1" if sent.dtype == np.uint16 else "32FC1"
        self._image.format = format_string(encoding, coding.form)
        self._image.header = result.header
        return self._image
