"""What the node publishes of a frame: depth, camera_info, timing, and the views of `views.py`.

Used by the worker thread; `wanted` by any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig
from dkn_ros.depth import to_millimetres
from dkn_ros.ros.messages import ImageError, pixels_of, scaled_camera_info
from dkn_ros.ros.qos import qos
from dkn_ros.ros.views import Compressed, Confidence, Picture, Points, Result, Validity, View

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CameraInfo

QUIET_SECONDS = 5.0
"""A complaint is logged once in so many seconds; all are counted in the diagnostics."""


class Outputs:
    """The publishers; `config` may be replaced from frame to frame."""

    def __init__(self, node: Any, config: NodeConfig) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image

        self.config = config
        self._logger = node.get_logger()
        profile = qos(config.output_reliability, config.output_depth)
        self._depth = node.create_publisher(Image, "depth/upsampled", profile)
        self._info = node.create_publisher(CameraInfo, "depth/camera_info", profile)
        self._timing = node.create_publisher(DiagnosticArray, "depth/timing", 10)
        self._image = Image()  # kept, with its buffer, from frame to frame
        self._confidence = Confidence()
        views: tuple[View, ...] = (Validity(), self._confidence, Picture(), Points(self._logger), Compressed())
        self._views = {
            view.topic: (node.create_publisher(view.kind, self._name(view), profile), view) for view in views
        }
        self._metres: NDArray[np.float32] | None = None  # where the output is not in metres

    @property
    def topic_name(self) -> str:
        """Of the depth."""
        return str(self._depth.topic_name)

    @property
    def wanted(self) -> bool:
        """Whether anybody listens to what is made of a frame; its timing alone is no reason to make it."""
        publishers = self._depth, *(publisher for publisher, _ in self._views.values())
        return any(publisher.get_subscription_count() for publisher in publishers)

    def metres(self, height: int, width: int) -> NDArray[np.float32]:
        """Where a frame's depth is to be written: into the message itself where that is in metres."""
        pixels = pixels_of(self._image, height, width, self.config.output_encoding)
        if pixels.dtype == np.float32:
            return pixels
        if self._metres is None or self._metres.shape != (height, width):
            self._metres = np.empty((height, width), np.float32)
        return self._metres

    def confidence(self, height: int, width: int) -> NDArray[np.float32] | None:
        """Where a frame's confidence is to be written; None if nobody wants it."""
        publisher, _ = self._views[self._confidence.topic]
        return self._confidence.begin(height, width, bool(publisher.get_subscription_count()))

    def publish(self, result: Result) -> None:
        """Publish a frame, all but its timing: to whom it may concern."""
        height, width = result.depth.shape
        sent = pixels_of(self._image, height, width, self._image.encoding)
        if sent.dtype == np.uint16:
            to_millimetres(result.depth, sent)
        self._image.header = result.header
        info = self._camera_info(result)
        if self._depth.get_subscription_count():
            self._depth.publish(self._image)
        if info is not None:
            self._info.publish(info)
        for publisher, view in self._views.values():
            if publisher.get_subscription_count():
                message = view.message(result, sent, self.config)
                if message is not None:
                    publisher.publish(message)

    def publish_timing(self, timing: DiagnosticArray) -> None:
        """Publish a frame's timing."""
        self._timing.publish(timing)

    def _name(self, view: View) -> str:
        """The topic of a view; that of another transport follows the depth's own, however it is remapped."""
        return view.topic.replace("depth/upsampled", self._depth.topic_name, 1)

    def _camera_info(self, result: Result) -> CameraInfo | None:
        """What describes the depth; None without a camera_info that is of use: depth is published all the same."""
        if result.rgb_info is None:
            return None
        try:
            info = scaled_camera_info(result.rgb_info, result.depth.shape[1], result.depth.shape[0])
        except ImageError as error:
            self._logger.warning(f"no depth/camera_info: {error}", throttle_duration_sec=QUIET_SECONDS)
            return None
        info.header = result.header
        return info
