"""Running nodes that say what is wrong: with who else is there, and with themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from harness import (
    Bench,
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
from misregistered import KINECT, NOTHING, boxes

from dkn_ros.config import PipelineConfig
from dkn_ros.edges import Alignment
from dkn_ros.pipeline import Pipeline
from dkn_ros.ros.assessment import Level
from dkn_ros.ros.messages import camera_info, stamp_ns
from dkn_ros.ros.monitor import about_camera_info, faster

pytestmark = needs_rclpy

LOOKS = 3
"""It looks once a second."""


@pytest.fixture(scope="module")
def settings(small_weights: Path) -> dict[str, Any]:
    return {
        "weights": str(small_weights),
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "warm_up_width": 0,
        "idle_seconds": 0.5,
    }


# Among others.


@pytest.fixture(scope="module")
def particular(settings: dict[str, Any]) -> Iterator[tuple[Process, int]]:
    """A node that asks for more than cameras offer and offers less than viewers ask for, and its domain."""
    domain = next_domain()
    arguments = parameters(**settings, input_reliability="reliable", output_reliability="best_effort")
    with running("dkn_ros.ros.node", arguments, domain) as process:
        yield process, domain


@pytest.fixture
def other(particular: tuple[Process, int]) -> Iterator[tuple[Peer, list[Any], Process]]:
    """A peer of its own for every test, so that what one has on the topics is gone for the next; it hears the node."""
    process, domain = particular
    with peer_in(domain) as peer:
        diagnostics = peer.diagnostics()
        peer.until(lambda: diagnostics, "diagnostics of the node", process)
        yield peer, diagnostics, process


def best_effort() -> Any:
    from dkn_ros.ros.qos import qos

    return qos("best_effort", 1)


def told(other: tuple[Peer, list[Any], Process], text: str) -> Status:
    """The first diagnostics from now on that hold a text, which must be soon, and the log must hold it too."""
    peer, diagnostics, process = other
    known = len(diagnostics)

    def status() -> Status | None:
        texts = (Status(message) for message in diagnostics[known:])
        return next((status for status in texts if any(text in value for value in status.values.values())), None)

    found = peer.until(status, f"{text!r} in the diagnostics", process)
    assert [text in "".join(Status(m).values.values()) for m in diagnostics[known:]].index(True) <= LOOKS
    process.wait_for_log(text)
    assert found.level == Level.WARN
    return found


def test_drivers_that_have_not_started_yet_are_one_line_and_no_warning(particular: tuple[Process, int]) -> None:
    process, _ = particular
    text = "/in/rgb/image and /in/depth/image: no publisher yet; start the camera's driver, or remap in/rgb/image and "
    process.wait_for_log(text)
    about = [line for line in process.log.splitlines() if "no publisher" in line]
    assert about[0].startswith("[INFO]") and text in about[0]


def test_a_publisher_that_cannot_be_heard_is_named_with_its_qos(other: tuple[Peer, list[Any], Process]) -> None:
    from sensor_msgs.msg import Image

    peer, diagnostics, process = other
    publisher = peer.node.create_publisher(Image, "/in/rgb/image", best_effort())
    text = "/in/rgb/image: publisher /peer offers best_effort, this node asks for reliable"
    status = told(other, f"{text}; set input_reliability:=best_effort")
    assert status.message.startswith(text)
    assert status.values["rgb publishers"] == "publisher /peer, best_effort"

    peer.node.destroy_publisher(publisher)
    peer.publisher(Image, "/in/rgb/image")

    def heard() -> bool:
        return Status(diagnostics[-1]).values["rgb publishers"] == "publisher /peer, reliable"

    peer.until(heard, "the other publisher in the diagnostics", process)
    process.wait_for_log("over: /in/rgb/image: QoS of /peer, reliable")


def test_a_missing_publisher_is_told_with_the_topic_that_may_be_meant(other: tuple[Peer, list[Any], Process]) -> None:
    from sensor_msgs.msg import Image

    other[0].node.create_publisher(Image, "/camera/depth/image_raw", best_effort())
    other[0].publisher(Image, "/camera/color/image_raw")
    told(
        other,
        "/in/depth/image: no publisher; did you mean /camera/depth/image_raw (publisher /peer, best_effort)? "
        "then remap in/depth/image (launch argument depth_topic)",
    )
    told(other, "/in/rgb/image: no publisher; did you mean /camera/color/image_raw (publisher /peer, reliable)?")


def test_compressed_images_are_named_as_such(other: tuple[Peer, list[Any], Process]) -> None:
    from sensor_msgs.msg import CompressedImage

    other[0].publisher(CompressedImage, "/in/rgb/image")
    told(
        other,
        "/in/rgb/image: publisher /peer sends sensor_msgs/msg/CompressedImage, this node reads sensor_msgs/msg/Image; "
        "remap in/rgb/image (launch argument rgb_topic) to the raw image",
    )


def test_another_publisher_of_the_camera_info_is_named(other: tuple[Peer, list[Any], Process]) -> None:
    from sensor_msgs.msg import CameraInfo

    peer, _, process = other
    publisher = peer.publisher(CameraInfo, "/depth/camera_info")
    text = "/depth/camera_info: /peer publishes it as well"
    told(other, f"{text}; set camera_info_topic to another name")
    peer.node.destroy_publisher(publisher)
    process.wait_for_log("over: /depth/camera_info: clash with /peer")


def test_a_viewer_that_asks_for_more_than_is_offered_is_named(other: tuple[Peer, list[Any], Process]) -> None:
    from sensor_msgs.msg import Image

    other[0].listen(Image, "/depth/upsampled")
    told(
        other,
        "/depth/upsampled: subscription of /peer asks for reliable, this node offers best_effort; "
        "set output_reliability:=reliable",
    )


# With itself.


@pytest.fixture(scope="module")
def bench(settings: dict[str, Any]) -> Iterator[Bench]:
    domain = next_domain()
    arguments = parameters(**settings, camera_info_topic="depth/upsampled/camera_info")
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        yield Bench(peer, process)


def pair(width: int, height: int) -> tuple[Any, Any]:
    depth = np.full((height // 4, width // 4), 1500, np.uint16)
    return image("rgb8", np.full((height, width, 3), 90, np.uint8)), image("16UC1", depth)


def test_the_camera_info_has_the_name_that_was_set(bench: Bench) -> None:
    from sensor_msgs.msg import CameraInfo

    heard = bench.peer.listen(CameraInfo, "/depth/upsampled/camera_info")

    def attempt() -> bool:
        output = bench.answer(*pair(64, 48), info=camera_info(128, 96, 100.0, "camera"))
        return bool(bench.peer.spin(lambda: of_stamp(heard, stamp_ns(output.header.stamp)), 2.0))

    bench.repeat(attempt, "camera_info with the stamp of an output")
    assert not bench.infos
    assert {(i.width, i.height, i.k[0], i.k[2]) for i in heard} == {(64, 48, 50.0, 31.5)}


def test_device_memory_and_model_are_told(bench: Bench) -> None:
    values = bench.next_status().values
    assert 50 < float(values["memory (MB)"]) < 50_000
    assert values["model"] == "fdkn"
    assert values["rgb publishers"] == values["depth publishers"] == "publisher /peer, reliable"


def test_only_what_is_not_set_yet_is_advised(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=2))
    assert faster(pipeline, 1) == ["precision to int8", "weights to fdkn-small", "frames_at_once to 2"]
    assert faster(pipeline, 2) == ["precision to int8", "weights to fdkn-small"]
    pipeline.config = replace(pipeline.config, precision="int8")
    pipeline.card = replace(pipeline.card, name="fdkn-small")
    with monkeypatch.context() as patch:
        patch.setattr(numba, "threading_layer", lambda: "workqueue")  # the node would refuse two
        assert faster(pipeline, 1) == []
    assert faster(pipeline, 1) == ["frames_at_once to 2"]
    pipeline.threads = 1  # on one core two frames take twice as long each
    assert faster(pipeline, 1) == []


def test_what_is_said_of_camera_info_is_true() -> None:
    assert about_camera_info(True, ()) == "received"
    assert about_camera_info(False, ()) == "none yet: the depth goes without"
    assert about_camera_info(True, ["depth"]) == "none yet of depth: pairs are refused"
    assert about_camera_info(False, ["rgb", "depth"]) == "none yet of colour and depth: pairs are refused"


def test_overload_is_told_and_its_end(bench: Bench) -> None:
    depth = image("16UC1", np.full((120, 160), 1500, np.uint16))
    rgb = image("mono8", np.full((480, 640), 90, np.uint8))  # so that it is the work that takes long, not the way there

    def flood() -> Status | None:
        """Faster than any machine can work."""
        for _ in range(20):
            now = bench.peer.now_ns()
            bench.send_as_it_is(stamp(rgb, now), stamp(depth, now))
            bench.peer.spin(lambda: False, 0.01)
        status = Status(bench.diagnostics[-1])
        return status if status.message.startswith("overloaded: ") else None

    status = bench.repeat(flood, "overload in the diagnostics")
    assert status.level == Level.WARN
    assert status.count("dropped: busy") > 0
    assert float(status.values["processing (ms)"]) > 0
    in_work = status.values["frames at once"]
    told = f", {in_work} are in work at once" if in_work != "1" else ""
    assert f" ms{told}, pairs come every " in status.message
    assert "lower the camera's rate or size, or set " in status.message
    bench.process.wait_for_log("overloaded: a frame takes ")

    def rest() -> bool:
        """No faster than it works."""
        bench.answer(*pair(64, 48))
        bench.peer.spin(lambda: False, 0.2)
        return Status(bench.diagnostics[-1]).level == Level.OK

    bench.repeat(rest, "OK from the node after its overload")
    bench.process.wait_for_log("over: overload")


def test_colour_beside_its_depth_is_told_and_its_end(bench: Bench) -> None:
    def sent(alignment: Alignment, level: Level) -> Status | None:
        grey, metres = boxes(alignment, grey=True)  # in colour, Fast DDS would lose most of them
        depth = np.rint(1e3 * metres[2::4, 2::4]).astype(np.uint16)
        bench.answer(image("mono8", grey), image("16UC1", depth))
        status = Status(bench.diagnostics[-1])
        return status if status.level == level else None

    status = bench.repeat(lambda: sent(KINECT, Level.WARN), "a warning")
    assert status.message.startswith("by their edges colour and depth lie ")
    assert status.message.endswith("or by camera_info that is right and the parameter registration")
    assert "pixels apart (scale 0." in status.values["colour on depth"]
    bench.process.wait_for_log("by their edges colour and depth lie ")
    status = bench.repeat(lambda: sent(NOTHING, Level.OK), "OK from the node when they lie on each other")
    assert status.values["colour on depth"] == "taken as it comes"
    bench.process.wait_for_log("over: colour and depth not registered")


def test_a_camera_info_of_another_shape_is_told_and_published_all_the_same(bench: Bench) -> None:
    from sensor_msgs.msg import CameraInfo

    heard = bench.peer.listen(CameraInfo, "/depth/upsampled/camera_info")

    def sent(width: int, height: int, level: Level) -> Status | None:
        bench.answer(*pair(64, 48), info=camera_info(width, height, 100.0, "camera"))
        status = Status(bench.diagnostics[-1])
        return status if status.level == level else None

    status = bench.repeat(lambda: sent(128, 72, Level.WARN), "a warning")
    text = "camera_info is of 128x72, the image 64x48, of another shape; load the calibration of this mode; until then "
    assert status.message == f"{text}depth/upsampled/camera_info is stretched to the image"
    assert (heard[-1].width, heard[-1].height) == (64, 48)
    bench.repeat(lambda: sent(128, 96, Level.OK), "OK from the node with a camera_info that fits")
    bench.process.wait_for_log("over: camera_info of another shape")
    assert bench.process.log.count(text) == 1


def test_depth_without_anything_valid_is_told_and_its_end(bench: Bench) -> None:
    rgb, depth = pair(64, 48)
    covered = image("16UC1", np.zeros((12, 16), np.uint16))

    def warned() -> Status | None:
        bench.answer(rgb, covered)
        status = Status(bench.diagnostics[-1])
        return status if status.message.startswith("nothing is valid in the last ") else None

    assert bench.repeat(warned, "a warning of images without valid depth").level == Level.WARN

    def seen() -> bool:
        bench.answer(rgb, depth)
        return Status(bench.diagnostics[-1]).level == Level.OK

    bench.repeat(seen, "OK from the node when it sees again")
    bench.process.wait_for_log("over: images without any valid depth")


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("min_rate", 900.0, " Hz; wanted: at least 900 (min_rate)"),
        ("max_latency", 1e-6, " ms; wanted: at most 0 (max_latency)"),
        ("max_difference", 0.0005, "stamps of a pair differ by 1.0 ms; wanted: at most 0.5 (max_difference)"),
    ],
)
def test_limits_hold_while_images_come(bench: Bench, limit: str, value: float, message: str) -> None:
    assert bench.set_parameter(limit, value).successful

    def warned() -> Status | None:
        bench.answer(*pair(64, 48), later_ns=1_000_000)
        status = Status(bench.diagnostics[-1])
        return status if message in status.message else None

    status = bench.repeat(warned, "a warning")
    assert status.level == Level.WARN
    status = bench.status_when(lambda s: s.level == Level.OK, "OK, since it is idle")
    assert status.message.startswith("waiting for images")
    assert ("Minimum acceptable frequency (Hz)" in status.values) == (limit == "min_rate")
    assert bench.set_parameter(limit, 0.0).successful
