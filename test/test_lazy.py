"""Without a subscription to an output image the node leaves the camera alone; with one it is there at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    Peer,
    Process,
    Status,
    image,
    needs_rclpy,
    next_domain,
    of_stamp,
    parameters,
    peer_in,
    running,
    stamp,
)

from dkn_ros.ros.diagnostics import Level

pytestmark = needs_rclpy

ASLEEP = "lazy: nobody subscribes to /depth/upsampled"
PERIOD, OFFSET = 200_000_000, 80_000_000
"""Of the camera: at 5 Hz the depth is stamped 80 ms later, which only a node that has measured it will pair."""


class Camera:
    """A camera that sends on demand, and sees who listens to it; `outputs` are heard while `listening`."""

    def __init__(self, peer: Peer, process: Process) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        self.peer, self.process, self._kind = peer, process, Image
        images = ("in/rgb/image", "in/depth/image")
        self._rgb, self._depth = (peer.publisher(Image, topic) for topic in images)
        infos = ("in/rgb/camera_info", "in/depth/camera_info")
        self._all = [self._rgb, self._depth, *(peer.publisher(CameraInfo, topic) for topic in infos)]
        self._stamps = itertools.count(1_700_000_000_000_000_000, PERIOD)
        self.diagnostics = peer.diagnostics()
        self.outputs: list[Any] = []
        self._subscription: Any = None

    def send(self) -> int:
        """Send the next pair; returns the stamp of its colour image."""
        now = next(self._stamps)
        self._rgb.publish(stamp(image("rgb8", np.full((48, 64, 3), 90, np.uint8)), now))
        self._depth.publish(stamp(image("16UC1", np.full((12, 16), 1500, np.uint16)), now + OFFSET))
        return now

    def heard_by(self) -> set[int]:
        """How many subscriptions its topics have."""
        return {publisher.get_subscription_count() for publisher in self._all}

    def wait_until_heard_by(self, count: int) -> None:
        """All its topics have so many subscriptions."""
        self.until(lambda: self.heard_by() == {count}, f"{count} subscriptions of each of the camera's topics")

    def until(self, condition: Any, what: str) -> Any:
        """See Peer.until."""
        return self.peer.until(condition, what, self.process)

    def listen(self) -> None:
        """Subscribe to the output."""
        self._subscription = self.peer.node.create_subscription(self._kind, "depth/upsampled", self.outputs.append, 10)

    def leave(self) -> None:
        """Subscribe no more."""
        self.peer.node.destroy_subscription(self._subscription)

    def next_status(self) -> Status:
        """The next diagnostics but one: the next may be on its way already."""
        known = len(self.diagnostics)
        self.until(lambda: len(self.diagnostics) >= known + 2, "diagnostics")
        return Status(self.diagnostics[-1])


@pytest.fixture(params=["events", "polls"])
def camera(request: pytest.FixtureRequest, small_weights: Path, tmp_path: Path) -> Iterator[Camera]:
    """A node that learns of subscriptions by events, or by polling as on Humble; reliable, so that no frame is lost."""
    domain = next_domain()
    settings = parameters(
        weights=str(small_weights), device="cpu", precision="float32", threads=1, warm_up_width=0,
        input_reliability="reliable",
    )  # fmt: skip
    module = "dkn_ros.ros.node"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "polls":
            (tmp_path / "polling_node.py").write_text(WITHOUT_EVENTS)
            patch.setenv("PYTHONPATH", str(tmp_path))
            module = "polling_node"
        with running(module, settings, domain) as process, peer_in(domain) as peer:
            yield Camera(peer, process)


WITHOUT_EVENTS = """
from rclpy.event_handler import PublisherEventCallbacks

def init(self, *, deadline=None, liveliness=None, incompatible_qos=None, use_default_callbacks=True):
    original(self, incompatible_qos=incompatible_qos, use_default_callbacks=use_default_callbacks)

original, PublisherEventCallbacks.__init__ = PublisherEventCallbacks.__init__, init
from dkn_ros.ros.node import main
raise SystemExit(main())
"""
"""dkn_node where publishers have the event callbacks of Humble."""


def test_asleep_until_somebody_subscribes_to_the_image(camera: Camera) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CameraInfo

    timings = camera.peer.listen(DiagnosticArray, "depth/timing")
    camera.peer.listen(CameraInfo, "depth/camera_info")
    for _ in range(2):
        status = camera.next_status()
        camera.send()
        assert (status.level, status.message) == (Level.OK, ASLEEP)
        assert camera.heard_by() == {0}
    assert not timings

    # The offset of the streams is learned.
    camera.listen()
    camera.wait_until_heard_by(1)

    def learned() -> bool:
        camera.send()
        camera.peer.spin(lambda: False, 0.02)
        values = Status(camera.diagnostics[-1]).values
        return values["stamp offset (ms)"] == f"{OFFSET / 1e6:.2f}" and bool(camera.outputs)

    camera.until(learned, "the offset to be measured")
    camera.leave()
    camera.wait_until_heard_by(0)
    status = camera.next_status()
    assert (status.level, status.message) == (Level.OK, ASLEEP)
    before = status.count("pairs")
    for _ in range(20):  # four seconds of the camera's time
        camera.send()
    assert camera.next_status().count("pairs") == before

    # Awake: of the two frames that follow, the first or the second comes out.
    camera.listen()
    camera.wait_until_heard_by(1)
    stamps = []
    for _ in range(2):
        stamps.append(camera.send())
        if camera.peer.spin(lambda: of_stamp(camera.outputs, stamps[-1]), 5.0):
            break
    assert any(of_stamp(camera.outputs, s) for s in stamps), "no output for the first two frames"
    assert "awake: somebody subscribes" in camera.process.log


def test_it_need_not_be_lazy(camera: Camera) -> None:
    assert camera.peer.set_parameter("lazy", False).successful
    camera.wait_until_heard_by(1)
    before = camera.next_status().count("published")

    def works() -> bool:
        camera.send()
        camera.peer.spin(lambda: False, 0.05)
        return Status(camera.diagnostics[-1]).count("published") > before

    camera.until(works, "frames to be published although nobody subscribes")
    assert camera.peer.set_parameter("lazy", True).successful
    camera.wait_until_heard_by(0)
