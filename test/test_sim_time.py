"""The node on a bag that is played: time comes from /clock, stands still, and goes back when the bag starts again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Bench, Status, image, needs_rclpy, next_domain, of_stamp, parameters, peer_in, running, stamp

from dkn_ros.ros.assessment import Level
from dkn_ros.ros.messages import stamp_ns

pytestmark = needs_rclpy

SECOND = 1_000_000_000
BEGIN = 1_600_000_000 * SECOND
"""When the bag was recorded: years ago."""
PERIOD = SECOND // 10


class Player:
    """What `ros2 bag play --clock` does: it publishes time, and images of that time."""

    def __init__(self, bench: Bench) -> None:
        from rosgraph_msgs.msg import Clock

        self._bench, self._kind = bench, Clock
        self._clock = bench.peer.publisher(Clock, "/clock")
        bench.until(self._clock.get_subscription_count, "the node to listen to /clock")
        self.now = BEGIN

    def tell(self) -> None:
        """Publish the time."""
        message = self._kind()
        message.clock.sec, message.clock.nanosec = divmod(self.now, SECOND)
        self._clock.publish(message)

    def play(self, stamped: bool = True) -> Any:
        """Go on until a frame comes out; its stamp must be one that was played."""
        first = self.now

        def attempt() -> Any:
            self.now += PERIOD
            self.tell()
            self._bench.peer.spin(lambda: False, 0.05)  # the node's clock is set by another topic than its images
            rgb, depth = (stamp(m, self.now if stamped else 0) for m in pair())
            known = len(self._bench.outputs)
            self._bench.send_as_it_is(rgb, depth)
            self._bench.peer.spin(lambda: len(self._bench.outputs) > known, 2.0)
            if stamped:
                return of_stamp(self._bench.outputs, self.now)
            return next((m for m in self._bench.outputs[known:] if stamp_ns(m.header.stamp) > first), None)

        return self._bench.repeat(attempt, "an output")


def pair() -> tuple[Any, Any]:
    rgb = np.full((48, 64, 3), 90, np.uint8)
    return image("rgb8", rgb), image("16UC1", np.full((12, 16), 1500, np.uint16))


@pytest.fixture
def bench(small_weights: Path) -> Iterator[Bench]:
    """A node that has not heard the time yet."""
    domain = next_domain()
    settings = parameters(
        weights=str(small_weights), device="cpu", precision="float32", threads=1, warm_up_width=0, use_sim_time=True
    )
    with running("dkn_ros.ros.node", settings, domain) as process, peer_in(domain) as peer:
        yield Bench(peer, process)  # which waits for diagnostics: they come although no time does


def test_node_works_on_a_bag_that_is_played_again(bench: Bench) -> None:
    assert Status(bench.diagnostics[-1]).stamp_ns == 0
    player = Player(bench)
    for _ in range(5):
        output = player.play()
        assert stamp_ns(output.header.stamp) == player.now
    status = bench.status_when(lambda s: s.stamp_ns == player.now, "diagnostics with the time of the bag")
    assert status.count("clock jumps") == 0
    # By the bag's clock: by the machine's it would be years, and by none it would go back.
    smallest, largest = (float(status.values[f"{name} timestamp delay:"]) for name in ("Earliest", "Latest"))
    assert 0 <= smallest <= largest < 60
    assert float(status.values["latency p50 (ms)"]) > 0

    player.now = BEGIN  # it starts again
    for _ in range(5):
        output = player.play()
        assert BEGIN < stamp_ns(output.header.stamp) == player.now
    player.now = BEGIN - 3600 * SECOND  # and another bag, of an hour before
    player.play()
    status = bench.status_when(lambda s: s.stamp_ns == player.now, "diagnostics with the time of the other bag")
    assert status.count("clock jumps") >= 1
    assert status.level == Level.OK


def test_images_without_stamps_get_the_time_of_the_bag(bench: Bench) -> None:
    player = Player(bench)
    for _ in range(3):
        output = player.play(stamped=False)
        assert BEGIN < stamp_ns(output.header.stamp) <= player.now
