"""What the node publishes of a frame: depth, camera_info, timing, and the views of `views.py`.

Used by the worker threads, `publish` by one at a time; `wanted` by any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig
from dkn_ros.depth import to_millimetres
from dkn_ros.ros.distro import Matching
from dkn_ros.ros.messages import ImageError, pixels_of, scaled_camera_info
from dkn_ros.ros.qos import qos
from dkn_ros.ros.registering import misshapen
from dkn_ros.ros.views import Compressed, Confidence, Picture, Points, Result, Validity, View

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CameraInfo

QUIET_SECONDS = 5.0
"""A complaint is logged once in so many seconds; all are counted in the diagnostics."""


class Sheet:
    """What a frame in work is written on: the messages of its depth and of its confidence, kept for the next one."""

    def __init__(self) -> None:
        from sensor_msgs.msg import Image

        self.image = Image()
        """Of depth/upsampled."""
        self.confidence = Confidence()
        self._metres: NDArray[np.float32] | None = None  # where the output is not in metres

    def metres(self, height: int, width: int, encoding: str) -> NDArray[np.float32]:
        """Where the depth is to be written: into the message itself where that is in metres."""
        pixels = pixels_of(self.image, height, width, encoding)
        if pixels.dtype == np.float32:
            return pixels
        if self._metres is None or self._metres.shape != (height, width):
            self._metres = np.empty((height, width), np.float32)
        return self._metres


class Outputs:
    """The publishers, and the messages that are kept from frame to frame; `config` may be replaced between two.

    changed: called, in the ROS thread, when `wanted` may have changed.
    Raises what ROS does for a topic that cannot be, such as one of two types, and leaves no publisher behind then.
    """

    def __init__(self, node: Any, config: NodeConfig, changed: Callable[[], None]) -> None:
        self.config = config
        self.misshapen = ""
        """Of the camera_info of the last frame, see `registering.misshapen`."""
        self._node = node
        self._logger = node.get_logger()
        self._matching = Matching(node, changed)
        self._publishers: list[Publisher] = []
        try:
            self._create_publishers(qos(config.output_reliability, config.output_depth))
        except Exception:
            self.close()
            raise

    def _create_publishers(self, profile: QoSProfile) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image

        def kept(publisher: Publisher) -> Publisher:
            self._publishers.append(publisher)
            return publisher

        self._depth = kept(self._matching.create_publisher(Image, "depth/upsampled", profile))
        self._info = kept(self._node.create_publisher(CameraInfo, self.config.camera_info_topic, profile))
        self._timing = kept(self._node.create_publisher(DiagnosticArray, "depth/timing", 10))
        self.release()
        self._view_publishers = {
            topic: kept(self._matching.create_publisher(view.kind, self._name(view), profile))
            for topic, view in self._views.items()
        }
        self._images = self._depth, *self._view_publishers.values()  # what is worth the work on a frame

    def release(self) -> None:
        """Free what is kept from frame to frame, but for the sheets; not while a frame is in work."""
        views: tuple[View, ...] = (Validity(), Confidence(), Picture(), Points(self._logger), Compressed())
        self._views = {view.topic: view for view in views}

    def close(self) -> None:
        """Take the publishers back."""
        self._matching.close()
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    @property
    def topic_name(self) -> str:
        """Of the depth."""
        return str(self._depth.topic_name)

    @property
    def views(self) -> dict[str, str]:
        """Topic -> type, such as sensor_msgs/msg/Image, of what is published besides depth, camera_info and timing."""
        return {self._name(v): f"{v.kind.__module__.split('.')[0]}/msg/{v.kind.__name__}" for v in self._views.values()}

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to an image; camera_info and timing alone are no reason to make one."""
        return any(publisher.get_subscription_count() for publisher in self._images)

    def begin(self, sheet: Sheet, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Where on its sheet a frame's depth and confidence are to be written; None for what nobody wants."""
        listeners = self._view_publishers[Confidence.topic].get_subscription_count()
        confidence = sheet.confidence.begin(height, width, bool(listeners))
        return sheet.metres(height, width, self.config.output_encoding), confidence

    def publish(self, sheet: Sheet, result: Result) -> None:
        """Publish a frame, all but its timing: to whom it may concern."""
        height, width = result.depth.shape
        image = sheet.image
        sent = pixels_of(image, height, width, image.encoding)
        if sent.dtype == np.uint16:
            to_millimetres(result.depth, sent)
        image.header = result.header
        info = self._camera_info(result)
        if self._depth.get_subscription_count():
            self._depth.publish(image)
        if info is not None:
            self._info.publish(info)
        for topic, view in self._views.items():
            publisher = self._view_publishers[topic]
            if publisher.get_subscription_count():
                view = sheet.confidence if topic == Confidence.topic else view
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
        """What describes the depth; None without a camera_info that is of use: depth is published all the same.

        One of another shape is stretched, and the diagnostics say so: some readers only want the sizes to fit.
        """
        if result.rgb_info is None:
            self.misshapen = ""
            return None
        height, width = result.depth.shape
        self.misshapen = misshapen(result.rgb_info, width, height)
        try:
            info = scaled_camera_info(result.rgb_info, width, height)
        except ImageError as error:
            self._logger.warning(f"no {self._info.topic_name}: {error}", throttle_duration_sec=QUIET_SECONDS)
            return None
        info.header = result.header
        return info
