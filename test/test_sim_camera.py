"""The simulated camera as a process, over real DDS."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import (
    FRAME_ID,
    Peer,
    Process,
    Status,
    needs_rclpy,
    next_domain,
    parameters,
    peer_in,
    pixels_of,
    running,
    write_frames,
)
from numpy.typing import NDArray

from dkn_ros.config import CameraConfig
from dkn_ros.geometry import Transform
from dkn_ros.images import read_rgb as read_rgb_file
from dkn_ros.ros.messages import read_rgb, rgb_image, stamp_ns
from dkn_ros.synthetic.source import shots

pytestmark = needs_rclpy

CAMERA = "dkn_ros.ros.sim_camera"


class Ear:
    """Hears all that the camera says."""

    def __init__(self, peer: Peer) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        self.peer = peer
        # The camera waits for subscribers of both images: who hears the rest from the first frame on comes before them.
        self.truth = peer.listen(Image, "truth/image")
        self.rgb_info = peer.listen(CameraInfo, "rgb/camera_info")
        self.depth_info = peer.listen(CameraInfo, "depth/camera_info")
        self.depth = peer.listen(Image, "depth/image")
        self.rgb = peer.listen(Image, "rgb/image")

    def hear(self, frames: int, process: Process) -> None:
        """Listen until the camera has sent that many frames and ended."""
        self.peer.until(
            lambda: min(map(len, (self.rgb, self.depth, self.rgb_info, self.depth_info))) >= frames or process.status,
            f"{frames} frames",
        )
        assert process.wait() == 0
        self.peer.spin(lambda: False, 0.1)


def read_millimetres(path: Path) -> NDArray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_ns(message.header.stamp) for message in messages]


def test_synthetic_frames_wait_for_a_subscriber_and_are_counted() -> None:
    domain = next_domain()
    given = parameters(width=160, height=120, factor=4, frames=3, rate=20.0, count=10, wait=True, truth_every=3)
    with running(CAMERA, given, domain) as process, peer_in(domain) as peer:
        heard = peer.diagnostics()
        status = Status(peer.until(lambda: heard, "diagnostics", process)[0])
        assert (status.message, status.count("sent")) == ("waiting for a subscriber", 0)
        ear = Ear(peer)
        ear.hear(10, process)

    assert len(ear.rgb) == 10
    assert stamps(ear.rgb) == sorted(set(stamps(ear.rgb)))
    assert stamps(ear.rgb) == stamps(ear.depth) == stamps(ear.rgb_info) == stamps(ear.depth_info)
    from dkn_ros.ros.sim_camera import has_truth

    assert stamps(ear.truth) == [s for i, s in enumerate(stamps(ear.rgb)) if has_truth(i, 3)]
    assert {(m.encoding, m.width, m.height, m.header.frame_id) for m in ear.rgb} == {("rgb8", 160, 120, FRAME_ID)}
    assert {(m.encoding, m.width, m.height, m.header.frame_id) for m in ear.depth} == {("16UC1", 40, 30, FRAME_ID)}
    assert {(m.encoding, m.width, m.height, m.header.frame_id) for m in ear.truth} == {("32FC1", 160, 120, FRAME_ID)}
    assert Status(heard[-1]).count("sent") == 10

    for image, info in ((ear.rgb[0], ear.rgb_info[0]), (ear.depth[0], ear.depth_info[0])):
        assert (info.width, info.height) == (image.width, image.height)
        assert (info.k[2], info.k[5]) == ((image.width - 1) / 2, (image.height - 1) / 2)
    assert ear.rgb_info[0].k[0] == pytest.approx(4 * ear.depth_info[0].k[0])

    # Three frames played forth and back, and the camera sees about the truth.
    images = [read_rgb(message) for message in ear.rgb]
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[4])
    np.testing.assert_array_equal(images[1], images[3])
    seen, true = pixels_of(ear.depth[0]) / 1000, pixels_of(ear.truth[0])[2::4, 2::4]
    measured = seen > 0
    assert measured.mean() > 0.3
    assert np.median(np.abs(seen - true)[measured]) < 0.1


@pytest.mark.parametrize(("encoding", "method"), [("16UC1", "nearest"), ("32FC1", "area")])
def test_frames_of_a_folder(tmp_path: Path, encoding: str, method: str) -> None:
    folder = write_frames(tmp_path / "frames")
    domain = next_domain()
    once = {"count": 4, "wait": True, "truth_every": 1, "rate": 20.0}
    given = parameters(source=str(folder), factor=4, method=method, encoding=encoding, frame_id="mine", **once)
    with running(CAMERA, given, domain) as process, peer_in(domain) as peer:
        ear = Ear(peer)
        ear.hear(4, process)
    assert stamps(ear.rgb) == stamps(ear.depth) == stamps(ear.truth)
    for number, rgb, depth, truth in zip((0, 1, 2, 1), ear.rgb, ear.depth, ear.truth, strict=True):
        np.testing.assert_array_equal(read_rgb(rgb), read_rgb_file(folder / f"{number:03}_rgb.png"))
        millimetres = read_millimetres(folder / f"{number:03}_depth.png")
        metres = np.where(millimetres > 0, millimetres / 1000, np.nan).astype(np.float32)
        np.testing.assert_array_equal(pixels_of(truth), metres)
        if method == "nearest":
            np.testing.assert_array_equal(pixels_of(depth), millimetres[2::4, 2::4])
        else:
            np.testing.assert_allclose(pixels_of(depth), metres.reshape(30, 4, 40, 4).mean(axis=(1, 3)), rtol=1e-6)
        assert (depth.encoding, depth.header.frame_id) == (encoding, "mine")


def test_unusable_folder_is_named_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    wrong = write_frames(tmp_path / "frames", count=1)
    cv2.imwrite(str(wrong / "000_depth.png"), np.full((60, 80), 1000, np.uint16))
    given = ((missing, f"no folder {missing}"), (wrong, "wanted: the same size"))
    with ExitStack() as stack:  # all of them at once
        cameras = [stack.enter_context(running(CAMERA, parameters(source=str(f)), next_domain())) for f, _ in given]
        for process, (_, said) in zip(cameras, given, strict=True):
            assert process.wait() == 1
            (line,) = process.log.splitlines()
            assert line.startswith("[FATAL]")
            assert "cannot start: " in line
            assert said in line


def test_settings_that_do_not_fit_are_named_in_one_line(tmp_path: Path) -> None:
    folder = str(write_frames(tmp_path / "frames", count=1))
    given: list[tuple[dict[str, Any], str]] = [
        ({"extrinsics": "1 2 3"}, "extrinsics are 1 2 3; wanted: "),
        ({"source": folder, "extrinsics": "0.1 0 0 0 0 0 1"}, "wanted: source synthetic, or no extrinsics"),
        ({"depth_width": 320}, "factor is 0.5; wanted: at least 1"),
        ({"depth_delay": 0.1, "rate": 10.0}, "depth_delay is 0.1 s; wanted: less than a period, which is 0.1 s"),
    ]
    small: dict[str, Any] = {"width": 160, "height": 120, "frames": 1}
    with ExitStack() as stack:  # all of them at once
        each = [parameters(**small, **values) for values, _ in given]
        cameras = [stack.enter_context(running(CAMERA, one, next_domain())) for one in each]
        for process, (_, said) in zip(cameras, given, strict=True):
            assert process.wait() == 1
            assert "cannot start: " in process.log and said in process.log
            assert "Traceback" not in process.log


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_of_every_encoding_is_read_back(rng: np.random.Generator, encoding: str) -> None:
    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    message = rgb_image(rgb, "frame", encoding)
    assert (message.encoding, message.step) == (encoding, 7 * (4 if "a" in encoding else 3))
    np.testing.assert_array_equal(read_rgb(message), rgb)
    if "a" in encoding:
        assert set(message.data[3::4]) == {255}


def test_depth_seen_from_another_place_is_that_place_s() -> None:
    """Its points, taken to the colour camera, lie on what that sees; and so they do not without the extrinsics."""
    size: dict[str, Any] = {
        "width": 160,
        "height": 120,
        "frames": 1,
        "seed": 3,
        "depth_width": 128,
        "depth_height": 106,
    }
    focal: dict[str, Any] = {"focal_length": 0.6, "depth_focal_length": 0.7}
    place = "-0.05 0.01 0.004 -0.05234 0 0 0.99863"
    (shot,) = shots(CameraConfig(extrinsics=place, **size, **focal))
    assert shot.depth.shape == (106, 128) and shot.truth.shape == (120, 160)
    assert (shot.focal_length, *shot.depth_focal_lengths) == pytest.approx((96.0, 89.6, 89.6))
    v, u = np.nonzero(np.isfinite(shot.depth))
    z = shot.depth[v, u].astype(np.float64)
    seen = np.stack([(u + 0.5 - 64) / 89.6 * z, (v + 0.5 - 53) / 89.6 * z, z])

    def error(transform: Transform) -> float:
        x, y, there = transform.rotation @ seen + transform.translation[:, None]
        column, row = (np.floor(a / there * 96 + n / 2).astype(int) for a, n in ((x, 160), (y, 120)))
        inside = (column >= 0) & (column < 160) & (row >= 0) & (row < 120)
        true = shot.truth[row[inside], column[inside]]
        return float(np.median(np.abs(there[inside] - true) / true))

    right, wrong = error(Transform.parsed(place)), error(Transform.of_numbers((0, 0, 0, 0, 0, 0, 1)))
    assert right < 0.01 and wrong > 3 * right


@pytest.mark.parametrize(
    ("number", "reliability"), [(signal.SIGTERM, "RELIABLE"), (signal.SIGINT, "BEST_EFFORT")], ids=["TERM", "INT"]
)
def test_signal_ends_it_while_it_sends(tmp_path: Path, number: signal.Signals, reliability: str) -> None:
    domain = next_domain()
    given = parameters(source=str(write_frames(tmp_path)), reliability=reliability.lower())
    with running(CAMERA, given, domain) as process, peer_in(domain) as peer:
        heard = peer.diagnostics()
        peer.until(lambda: heard and Status(heard[-1]).count("sent"), "frames that are sent", process)
        for topic in ("/rgb/image", "/depth/image", "/rgb/camera_info", "/depth/camera_info", "/truth/image"):
            (publisher,) = peer.node.get_publishers_info_by_topic(topic)
            assert publisher.qos_profile.reliability.name == reliability
        process.send(number)
        assert process.wait() == 0
        assert "Traceback" not in process.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_signal_ends_it_while_it_renders(number: signal.Signals) -> None:
    given = parameters(width=320, height=240, frames=1000)
    with running(CAMERA, [*given, "--log-level", "rcl:=debug"], next_domain()) as process:
        process.wait_for_log("Initializing node 'sim_camera'")
        process.send(number)
        assert process.wait() == 0
        assert "Traceback" not in process.log
        assert "1000 frames" not in process.log


@pytest.mark.parametrize("stride", range(1, 31))
def test_truth_comes_at_no_regular_distance(stride: int) -> None:
    """Whichever n-th frame a node gets to and wherever it starts, it meets the truth about as often as it should."""
    from dkn_ros.ros.sim_camera import has_truth

    for start in range(stride):
        met = sum(has_truth(frame, 5) for frame in range(start, 300 * stride, stride))
        assert 40 <= met <= 80
    assert all(has_truth(frame, 1) for frame in range(100)) and not any(has_truth(frame, 0) for frame in range(100))


@pytest.mark.parametrize("comes_back", [True, False])
def test_it_stays_until_reliable_subscribers_have_all(comes_back: bool) -> None:
    domain = next_domain()
    given = parameters(width=160, height=120, frames=2, rate=2.0, count=6, wait=True, reliability="reliable")
    inputs = parameters(input_reliability="reliable", lazy=False)
    inputs += ["-r", "in/rgb/image:=rgb/image", "-r", "in/depth/image:=depth/image"]
    with running("dkn_ros.ros.node", inputs, domain) as node, peer_in(domain) as peer:
        heard = peer.diagnostics()

        def sent() -> int:
            return max((Status(message).count("sent") for message in heard), default=0)

        with running(CAMERA, given, domain) as camera:
            peer.until(sent, "the first frame", camera)
            node.send(signal.SIGSTOP)
            peer.until(lambda: sent() == 6, "the last frame", camera)
            peer.spin(lambda: camera.status is not None, 3.0)
            assert camera.status is None, "a subscriber that has not acknowledged the last frames is still there"
            if comes_back:
                node.send(signal.SIGCONT)
            assert camera.wait() == 0
            assert ("has not acknowledged all frames" in camera.log) is not comes_back
        node.send(signal.SIGCONT)  # so that it can end
