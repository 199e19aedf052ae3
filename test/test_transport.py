"""The transport profile: how many large images arrive with it and without it, over real Fast DDS.

The receiver has no profile in either case: the shared memory is the sender's, so it is the sender that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness import needs_rclpy, next_domain, parameters, peer_in, running, write_frames

pytestmark = needs_rclpy

COUNT = 15
NEARLY_ALL = 13


@pytest.fixture(scope="module", params=[(640, 480, 10.0), (1920, 1080, 3.0)], ids=["1.2 MB", "8.3 MB"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a camera that sends 32FC1 images of this size."""
    width, height, rate = request.param
    folder = write_frames(tmp_path_factory.mktemp("frames"), 1, width, height)
    return {"source": str(folder), "factor": 1, "encoding": "32FC1", "rate": rate}


def arrived(images: dict[str, Any], profile: bool) -> tuple[int, int]:
    """How many of COUNT best-effort images arrive, colour and depth."""
    from sensor_msgs.msg import Image

    from dkn_ros.ros.qos import qos

    domain = next_domain()
    given = parameters(**images, count=COUNT, wait=True, reliability="best_effort", truth_every=0)
    with running("dkn_ros.ros.sim_camera", given, domain, profile) as process, peer_in(domain) as peer:
        heard: dict[str, list[Any]] = {topic: [] for topic in ("rgb/image", "depth/image")}
        for topic, messages in heard.items():
            peer.node.create_subscription(Image, topic, messages.append, qos("best_effort", COUNT))
        peer.until(lambda: process.status is not None, "the camera to send all and end")
        assert process.status == 0
        peer.spin(lambda: False, 0.5)
    rgb, depth = heard.values()
    for message in depth:
        assert len(message.data) == 4 * message.width * message.height
    return len(rgb), len(depth)


def test_large_images_arrive_with_the_profile(images: dict[str, Any]) -> None:
    rgb, depth = arrived(images, profile=True)
    print(f"with the profile, of {COUNT}: colour {rgb}, depth {depth}")
    assert min(rgb, depth) >= NEARLY_ALL, f"of {COUNT}: colour {rgb}, depth {depth}"


def test_how_many_arrive_without_it(images: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    """Told, not asserted: that is the kernel's and Fast DDS's matter.  What does arrive is whole, and nothing hangs."""
    rgb, depth = arrived(images, profile=False)
    record_property("arrived_without_profile", f"of {COUNT}: colour {rgb}, depth {depth}")
    print(f"without the profile, of {COUNT}: colour {rgb}, depth {depth}")
    assert max(rgb, depth) <= COUNT
