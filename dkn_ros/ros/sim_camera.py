"""`sim_camera`: a simulated RGB-D camera for demonstrations and tests.

Published   rgb/image, rgb/camera_info, depth/image (16UC1 or 32FC1), depth/camera_info,
            truth/image (32FC1, the true depth of some frames, if subscribed), /diagnostics (frames sent)
Parameters  CameraConfig of `config.py`; those in the files of config/ make it behave like a camera's driver
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from dkn_ros.config import CameraConfig
from dkn_ros.ros import parameters
from dkn_ros.ros.assessment import Level
from dkn_ros.ros.diagnostics import diagnostic_array
from dkn_ros.ros.messages import camera_info, depth_image, rgb_image
from dkn_ros.ros.process import run
from dkn_ros.ros.qos import qos
from dkn_ros.synthetic.source import Shot, shots

SENT = "sent"
"""Key of the frame count in the camera's diagnostics."""
STATUS = "sim_camera: frames"
"""What the name of the camera's status there ends with; its namespace comes before."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
LAST_WORDS_SECONDS = 1.0
"""How long it stays after its last frame, so that best-effort messages leave."""
RESEND_SECONDS = 10.0
"""How much longer it stays for what reliable subscribers have not acknowledged: what is lost is sent again, but Fast
DDS asks only every 3 s whether something is."""


@dataclass(frozen=True)
class _Messages:
    """One frame ready to send: only stamps are missing."""

    rgb: Image
    rgb_info: CameraInfo
    depth: Image
    depth_info: CameraInfo
    truth: Image


class SimCamera(Node):
    """The camera; `done` turns True when it has sent `count` frames."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sim_camera", **kwargs)
        self.config = parameters.declare(self, CameraConfig)
        for sentence in parameters.unknown(self):
            self.get_logger().warning(sentence)
        self.done = False
        self.sent = 0
        period, delay = 1.0 / self.config.rate, self.config.depth_delay
        if delay >= period:
            raise ValueError(f"depth_delay is {delay:g} s; wanted: less than a period, which is {period:g} s")
        profile = qos(self.config.reliability, self.config.queue_depth)
        self._rgb = self.create_publisher(Image, "rgb/image", profile)
        self._rgb_info = self.create_publisher(CameraInfo, "rgb/camera_info", profile)
        self._depth = self.create_publisher(Image, "depth/image", profile)
        self._depth_info = self.create_publisher(CameraInfo, "depth/camera_info", profile)
        self._truth = self.create_publisher(Image, "truth/image", profile)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        started = time.monotonic()
        messages = [self._messages(shot) for shot in shots(self.config)]
        self.get_logger().info(
            f"{len(messages)} frames of {self.config.source} in {time.monotonic() - started:.1f} s; "
            f"colour {_size(messages[0].rgb)}, depth {_size(messages[0].depth)}, {self.config.rate:g} Hz"
        )
        self._frames = _forth_and_back(messages)
        self._frame = messages[0]
        self._delay = self.create_timer(delay, self._send_depth) if delay else None
        if self._delay:
            self._delay.cancel()
        self.create_timer(period, self._send)
        self.create_timer(1.0, self._report)

    def _messages(self, shot: Shot) -> _Messages:
        c = self.config
        colour_frame, depth_frame = c.frame_id, c.depth_frame_id or c.frame_id
        (height, width), (rows, columns), (across, down) = shot.truth.shape, shot.depth.shape, shot.depth_focal_lengths
        return _Messages(
            rgb_image(shot.rgb, "" if c.empty_header else colour_frame, c.rgb_encoding),
            camera_info(width, height, shot.focal_length, colour_frame),
            depth_image(shot.depth, c.encoding, depth_frame),
            camera_info(columns, rows, across, depth_frame, down),
            depth_image(shot.truth, "32FC1", colour_frame),
        )

    def stay_for_acknowledgements(self) -> None:
        """Return when reliable subscribers have all that was sent, or after RESEND_SECONDS with a word about it."""
        end = time.monotonic() + RESEND_SECONDS
        for publisher in self.publishers:
            # In slices: a signal is handled between two of them.
            while not publisher.wait_for_all_acked(Duration(seconds=0.1)):
                if time.monotonic() > end:
                    self.get_logger().warning(
                        f"{publisher.topic_name}: a reliable subscriber has not acknowledged all frames "
                        f"{RESEND_SECONDS:g} s after the last one; is it stopped, or the network too slow?"
                    )
                    return

    def _send(self) -> None:
        if self.done or (self.config.wait and self.sent == 0 and not self._heard()):
            return
        frame = self._frame = next(self._frames)
        stamp: Time = self.get_clock().now().to_msg()
        stamped = (frame.depth, frame.depth_info, frame.truth)
        for message in stamped if self.config.empty_header else (frame.rgb, frame.rgb_info, *stamped):
            message.header.stamp = stamp
        # The truth first: who compares has it when the result comes.
        if has_truth(self.sent, self.config.truth_every) and self._truth.get_subscription_count():
            self._truth.publish(frame.truth)
        if self._delay is None:
            self._publish_depth()
        self._rgb_info.publish(frame.rgb_info)
        self._rgb.publish(frame.rgb)
        if self._delay is None:
            self._count()
        else:
            self._delay.reset()

    def _send_depth(self) -> None:
        """The rest of a frame, when its time has come; once."""
        if self._delay:
            self._delay.cancel()
        self._publish_depth()
        self._count()

    def _publish_depth(self) -> None:
        self._depth_info.publish(self._frame.depth_info)
        self._depth.publish(self._frame.depth)

    def _count(self) -> None:
        self.sent += 1
        if self.sent == self.config.count:
            self.done = True
            self._report()

    def _heard(self) -> bool:
        return bool(self._rgb.get_subscription_count() and self._depth.get_subscription_count())

    def _report(self) -> None:
        message = f"{self.sent} frames sent" if self.sent else "waiting for a subscriber"
        stamp = self.get_clock().now().to_msg()
        values = {SENT: str(self.sent), "source": self.config.source}
        name = self.get_namespace().strip("/") + "/" + STATUS
        self._diagnostics.publish(diagnostic_array(stamp, name.lstrip("/"), "simulated", Level.OK, message, values))


def has_truth(frame: int, every: int) -> bool:
    """Whether the truth of this frame is published: of one in `every`, but at no regular distance.

    A node that takes every fifth frame would, beside a truth of every fifth frame, meet it always or never.
    """
    return every > 0 and frame * GOLDEN_RATIO % 1.0 < 1.0 / every


def _forth_and_back(frames: list[_Messages]) -> Iterator[_Messages]:
    return itertools.cycle(frames + frames[-2:0:-1])


def _size(image: Image) -> str:
    return f"{image.width}x{image.height}"


def _spin(node: SimCamera) -> None:
    while not node.done:
        rclpy.spin_once(node)
    time.sleep(LAST_WORDS_SECONDS)
    node.stay_for_acknowledgements()


def main(args: list[str] | None = None) -> int:
    """Run the camera until it has sent its frames, Ctrl-C or SIGTERM; exit status 1 if it could not start."""
    return run(SimCamera, _spin, "sim_camera", args)


if __name__ == "__main__":
    sys.exit(main())
