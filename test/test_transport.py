"""How many large images arrive over real Fast DDS: with the transport profile, without it, and over UDP alone.

The README's counts are what `pytest test/test_transport.py -s` prints.  The receiver has no profile in any case: the
shared memory is the sender's, so it is the sender that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import needs_rclpy, next_domain, parameters, peer_in, running, write_frames

pytestmark = needs_rclpy

COUNT = 15
NEARLY_ALL = 13


SMALLER = (640, 480, 10.0)


@pytest.fixture(scope="module", params=[SMALLER, (1920, 1080, 3.0)], ids=["1.2 MB", "8.3 MB"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a camera that sends 32FC1 images of this size."""
    return camera(tmp_path_factory.mktemp("frames"), *request.param)


def camera(folder: Path, width: int, height: int, rate: float) -> dict[str, Any]:
    """Parameters of a camera that sends 32FC1 images of this size."""
    write_frames(folder, 1, width, height)
    return {"source": str(folder), "factor": 1, "encoding": "32FC1", "rate": rate}


def arrived(images: dict[str, Any], profile: bool, reliability: str = "best_effort") -> tuple[int, int]:
    """How many of COUNT images arrive, colour and depth."""
    from sensor_msgs.msg import Image

    from dkn_ros.ros.qos import qos

    domain = next_domain()
    given = parameters(**images, count=COUNT, wait=True, reliability=reliability, truth_every=0)
    with running("dkn_ros.ros.sim_camera", given, domain, profile) as process, peer_in(domain) as peer:
        heard: dict[str, list[Any]] = {topic: [] for topic in ("rgb/image", "depth/image")}
        for topic, messages in heard.items():
            peer.node.create_subscription(Image, topic, messages.append, qos(reliability, COUNT))
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


@pytest.mark.parametrize("reliability", ["best_effort", "reliable"])
def test_over_udp_alone_reliable_images_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reliability: str
) -> None:
    """As between two machines; what becomes of best effort is told, not asserted."""
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")  # of Fast DDS, in this process and in the camera's
    images = camera(tmp_path, *SMALLER) | {"queue_depth": COUNT}  # what is lost can be sent again
    rgb, depth = arrived(images, profile=False, reliability=reliability)
    print(f"over UDP alone, {reliability}, of {COUNT}: colour {rgb}, depth {depth}")
    if reliability == "reliable":
        assert min(rgb, depth) >= NEARLY_ALL, f"of {COUNT}: colour {rgb}, depth {depth}"
