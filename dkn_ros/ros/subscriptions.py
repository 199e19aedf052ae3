"""The node's subscriptions to a camera's topics: all of them or none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from dkn_ros.ros.launch_description import INPUTS

ARGUMENTS = {topic: argument for argument, topic in INPUTS.items()}
"""Relative topic -> the argument of the launch files that names it."""


class Subscriptions:
    """Hears colour and depth images and the camera_info of both; true while it does.

    on_rgb, on_depth: are given the images.
    """

    def __init__(self, node: Node, on_rgb: Callable[[Image], None], on_depth: Callable[[Image], None]) -> None:
        self.infos: dict[str, CameraInfo] = {}
        """camera_info of "rgb" and "depth", the newest, as far as they have come."""
        self._node = node
        self._wanted: dict[str, tuple[type, Callable[[Any], None]]] = {
            f"in/{camera}/camera_info": (CameraInfo, functools.partial(self.infos.__setitem__, camera))
            for camera in ("rgb", "depth")
        }
        self._wanted |= {"in/rgb/image": (Image, on_rgb), "in/depth/image": (Image, on_depth)}
        self._made: list[Subscription[Any]] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    @property
    def images(self) -> tuple[str, str]:
        """Topics of colour and depth images, as they are after remapping."""
        return self._node.resolve_topic_name("in/rgb/image"), self._node.resolve_topic_name("in/depth/image")

    def check(self) -> None:
        """Raise ValueError where images are to come on a topic that is another input's: after a remapping too many."""
        names = {topic: self._node.resolve_topic_name(topic) for topic in self._wanted}
        for image in ("in/rgb/image", "in/depth/image"):
            for other, name in names.items():
                if other != image and name == names[image]:
                    arguments = f"{ARGUMENTS[image]} and {ARGUMENTS[other]} of the launch file"
                    raise ValueError(
                        f"{image} and {other} are both {name}; wanted: a topic for each, by remapping ({arguments})"
                    )

    def begin(self, profile: QoSProfile) -> None:
        """Subscribe; raises what stands in the way of one, and has none then."""
        try:
            for topic, (kind, callback) in self._wanted.items():
                self._made.append(self._node.create_subscription(kind, topic, callback, profile))
        except Exception as error:
            self.end()
            name = self._node.resolve_topic_name(topic)
            raise RuntimeError(f"cannot subscribe to {name} for {topic} ({kind.__name__}): {error}") from error

    def end(self) -> None:
        """Leave the topics; what was heard of camera_info stays."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._made = []
