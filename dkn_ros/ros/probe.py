"""What the demo sees of the node from outside: a subscriber that measures what arrives, and when.

Subscribed  depth/upsampled, depth/timing, /diagnostics, and of the simulated camera depth/image, rgb/image,
            rgb/camera_info, truth/image
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from dkn_ros.depth import to_metres
from dkn_ros.evaluation import compare
from dkn_ros.ros.messages import read_depth, read_rgb, stamp_ns
from dkn_ros.ros.qos import qos
from dkn_ros.ros.sim_camera import SENT, STATUS

FloatImage = NDArray[np.float32]

COMPARED = 40
"""So many frames are compared with the truth; more would cost memory and not change the mean."""


@dataclass
class Compared:
    """One frame of which the truth is known."""

    low: FloatImage
    truth: FloatImage
    output: FloatImage
    rgb: NDArray[np.uint8] | None


class Probe(Node):
    """Collects; the properties sum up."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("dkn_probe", **kwargs)
        self.received: list[tuple[float, float]] = []
        """Seconds since the first stamp and latency in milliseconds from stamp to receipt, of every output."""
        self.stages: dict[str, list[float]] = {}
        self.compared: list[Compared] = []
        self.node_status: dict[str, str] = {}
        self.node_message = ""
        self.sent = 0
        self.focal_length: float | None = None
        """Pixels of the colour image; None until the camera has told."""
        self._first_stamp: int | None = None
        self._low: dict[int, FloatImage] = {}
        self._truth: dict[int, FloatImage] = {}
        self._rgb: dict[int, NDArray[np.uint8]] = {}
        self._rgb_subscription: Subscription | None = None
        self.create_subscription(Image, "depth/upsampled", self._on_output, qos("reliable", 5))
        self.create_subscription(CameraInfo, "rgb/camera_info", self._on_info, qos("best_effort", 1))
        self.create_subscription(Image, "depth/image", self._on_low, qos("reliable", 50))
        self.create_subscription(Image, "truth/image", self._on_truth, qos("reliable", 5))
        self.create_subscription(DiagnosticArray, "depth/timing", self._on_timing, 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def errors(self) -> tuple[float, float]:
        """Mean RMSE in metres of bicubic and of the output over the compared frames; NaN if there are none."""
        if not self.compared:
            return float("nan"), float("nan")
        pairs = np.array([compare(c.output, c.low, c.truth) for c in self.compared])
        return float(pairs[:, 0].mean()), float(pairs[:, 1].mean())

    def dropped(self) -> dict[str, int]:
        """The node's dropped pairs and images by reason."""
        mark = "dropped: "
        return {key.removeprefix(mark): int(v) for key, v in self.node_status.items() if key.startswith(mark)}

    def count(self, key: str) -> int:
        """A number of the node's diagnostics; 0 before the first came."""
        return int(self.node_status.get(key, 0))

    def _on_output(self, msg: Image) -> None:
        now = self.get_clock().now().nanoseconds
        stamp = stamp_ns(msg.header.stamp)
        if self._first_stamp is None:
            self._first_stamp = stamp
            # Not before the first output: the camera waits for subscribers of both images, which are to be the node.
            self._rgb_subscription = self.create_subscription(Image, "rgb/image", self._on_rgb, qos("best_effort", 2))
        self.received.append(((stamp - self._first_stamp) / 1e9, (now - stamp) / 1e6))
        if stamp in self._truth and stamp in self._low and len(self.compared) < COMPARED:
            rgb = self._rgb.get(stamp)
            output = np.array(read_depth(msg), np.float32)
            self.compared.append(Compared(self._low[stamp], self._truth[stamp], output, rgb))
            if rgb is not None and self._rgb_subscription is not None:
                # One colour image is enough for the picture, and each costs the machine a megabyte.
                self.destroy_subscription(self._rgb_subscription)
                self._rgb_subscription = None
                self._rgb.clear()

    def _on_low(self, msg: Image) -> None:
        _keep(self._low, stamp_ns(msg.header.stamp), _metres(msg))

    def _on_info(self, msg: CameraInfo) -> None:
        self.focal_length = float(msg.k[0])

    def _on_truth(self, msg: Image) -> None:
        _keep(self._truth, stamp_ns(msg.header.stamp), _metres(msg))

    def _on_rgb(self, msg: Image) -> None:
        _keep(self._rgb, stamp_ns(msg.header.stamp), np.array(read_rgb(msg)))

    def _on_timing(self, msg: DiagnosticArray) -> None:
        for item in msg.status[0].values:
            if item.key.endswith("_ms"):
                self.stages.setdefault(item.key.removesuffix("_ms"), []).append(float(item.value))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            values = {item.key: item.value for item in status.values}
            if status.name.endswith(STATUS):
                self.sent = int(values[SENT])
            elif "pairs" in values:
                self.node_status, self.node_message = values, _sentence(status)


def _keep(images: dict[int, Any], stamp: int, image: Any, most: int = 60) -> None:
    """Remember an image, forget the oldest."""
    images[stamp] = image
    while len(images) > most:
        del images[min(images)]


def _metres(msg: Image) -> FloatImage:
    return to_metres(read_depth(msg))


def _sentence(status: DiagnosticStatus) -> str:
    level = ("OK", "WARN", "ERROR", "STALE")[status.level[0]]
    return f"{level}: {status.message}"
