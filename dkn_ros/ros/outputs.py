"""What the node publishes of a frame: depth, camera_info and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig
from dkn_ros.depth import to_millimetres
from dkn_ros.ros.distro import Matching
from dkn_ros.ros.messages import ImageError, pixels_of, scaled_camera_info
from dkn_ros.ros.qos import qos

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CameraInfo
    from std_msgs.msg import Header

QUIET_SECONDS = 5.0
"""A complaint is logged once in so many seconds; all are counted in the diagnostics."""


@dataclass(frozen=True)
class Result:
    """One frame as it goes out.  The arrays last until the next frame."""

    header: Header
    """Stamp and frame of all that is published of it."""
    rgb: NDArray[np.uint8]
    """HxWx3 (RGB order) or HxW."""
    depth: NDArray[np.float32]
    """HxW metres, NaN invalid: what `Outputs.metres` gave, filled."""
    rgb_info: CameraInfo | None
    """Of the colour image as it came; None while there is none."""


class Outputs:
    """The publishers, and the messages that are kept from frame to frame; `config` may be replaced between two.

    changed: called, in the ROS thread, when `wanted` may have changed.
    """

    def __init__(self, node: Any, config: NodeConfig, changed: Callable[[], None]) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image

        self.config = config
        self._node = node
        self._logger = node.get_logger()
        self._matching = Matching(node, changed)
        profile = qos(config.output_reliability, config.output_depth)
        self._depth = self._matching.create_publisher(Image, "depth/upsampled", profile)
        self._info = node.create_publisher(CameraInfo, config.camera_info_topic, profile)
        self._timing = node.create_publisher(DiagnosticArray, "depth/timing", 10)
        self._images = (self._depth,)  # what is worth the work on a frame
        self.release()

    def release(self) -> None:
        """Free what is kept from frame to frame; not while a frame is in work."""
        from sensor_msgs.msg import Image

        self._image = Image()
        self._metres: NDArray[np.float32] | None = None  # where the output is not in metres

    def close(self) -> None:
        """Take the publishers back."""
        self._matching.close()
        for publisher in (*self._images, self._info, self._timing):
            self._node.destroy_publisher(publisher)

    @property
    def topic_name(self) -> str:
        """Of the depth."""
        return str(self._depth.topic_name)

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to an image; camera_info and timing alone are no reason to make one."""
        return any(publisher.get_subscription_count() for publisher in self._images)

    def metres(self, height: int, width: int) -> NDArray[np.float32]:
        """Where a frame's depth is to be written: into the message itself where that is in metres."""
        pixels = pixels_of(self._image, height, width, self.config.output_encoding)
        if pixels.dtype == np.float32:
            return pixels
        if self._metres is None or self._metres.shape != (height, width):
            self._metres = np.empty((height, width), np.float32)
        return self._metres

    def publish(self, result: Result) -> None:
        """Publish a frame, all but its timing."""
        height, width = result.depth.shape
        if self._image.encoding == "16UC1":
            to_millimetres(result.depth, pixels_of(self._image, height, width, "16UC1"))
        self._image.header = result.header
        info = self._camera_info(result)
        self._depth.publish(self._image)
        if info is not None:
            self._info.publish(info)

    def publish_timing(self, timing: DiagnosticArray) -> None:
        """Publish a frame's timing."""
        self._timing.publish(timing)

    def _camera_info(self, result: Result) -> CameraInfo | None:
        """What describes the depth; None without a camera_info that is of use: depth is published all the same."""
        if result.rgb_info is None:
            return None
        try:
            info = scaled_camera_info(result.rgb_info, result.depth.shape[1], result.depth.shape[0])
        except ImageError as error:
            self._logger.warning(f"no {self._info.topic_name}: {error}", throttle_duration_sec=QUIET_SECONDS)
            return None
        info.header = result.header
        return info
