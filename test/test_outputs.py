"""The node's further outputs over real DDS: what arrives is right, and nothing is made that nobody listens to."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import FRAME_ID, Bench, Status, image, needs_rclpy, next_domain, of_stamp, parameters, peer_in, running
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.preview import Preview
from dkn_ros.ros.messages import camera_info, read_depth, read_rgb, stamp_ns
from dkn_ros.ros.outputs import Outputs, Sheet
from dkn_ros.ros.views import Result

pytestmark = needs_rclpy

WIDTH, HEIGHT = 160, 120
FOCAL = 140.0


@pytest.fixture(scope="module")
def bench(small_weights: Path) -> Iterator[Bench]:
    """One node for the tests of this file."""
    arguments = parameters(
        weights=str(small_weights), device="cpu", precision="float32", threads=1, warm_up_width=0, fill_distance=12.0
    )
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        yield Bench(peer, process)


@pytest.fixture(scope="module")
def pipeline(small_weights: Path) -> Pipeline:
    """What the node should compute."""
    config = PipelineConfig(
        weights=str(small_weights), device="cpu", precision="float32", threads=1, fill_distance=12.0
    )
    return Pipeline(config)


def colours() -> NDArray[np.uint8]:
    """A colour image whose channels all differ."""
    y, x = np.indices((HEIGHT, WIDTH))
    return np.stack([(3 * x) % 256, (5 * y) % 256, (x + 2 * y) % 256], axis=2).astype(np.uint8)


def depths() -> NDArray[np.uint16]:
    """Millimetres: a slope, a box before it, and a hole that is too large to be filled."""
    low = np.tile(np.linspace(1500, 2500, WIDTH // 4), (HEIGHT // 4, 1))
    low[10:20, 5:15] = 1000
    low[:12, 24:] = 0
    return np.rint(low).astype(np.uint16)


class Ear:
    """A subscription to one output that can be ended."""

    def __init__(self, bench: Bench, kind: type, topic: str) -> None:
        self.bench, self.heard = bench, []  # type: ignore[var-annotated]
        self._subscription = bench.peer.node.create_subscription(kind, topic, self.heard.append, 100)

    def of_frame(self, info: Any = None) -> tuple[Any, Any]:
        """The message of a frame, and the depth of the same frame."""

        def both() -> tuple[Any, Any] | None:
            output = self.bench.answer(image("rgb8", colours()), image("16UC1", depths()), info=info)
            stamp = stamp_ns(output.header.stamp)
            message = self.bench.peer.spin(lambda: of_stamp(self.heard, stamp), 2.0)
            return message and (message, output)

        return self.bench.repeat(both, "a message of the frame's stamp")

    def close(self) -> None:
        self.bench.peer.node.destroy_subscription(self._subscription)


@pytest.fixture
def listen(bench: Bench) -> Iterator[Callable[[type, str], Ear]]:
    """Makes ears that are gone after the test, so that the next begins with nobody there."""
    ears: list[Ear] = []

    def make(kind: type, topic: str) -> Ear:
        ears.append(Ear(bench, kind, topic))
        return ears[-1]

    before = len(bench.process.log)
    yield make
    for ear in ears:
        ear.close()
    print(f"--- log of the node\n{bench.process.log[before:]}---")


Listen = Callable[[type, str], Ear]


def same_header(message: Any, output: Any) -> bool:
    return bool(message.header == output.header and message.header.frame_id == FRAME_ID)


def test_validity(listen: Listen) -> None:
    from sensor_msgs.msg import Image

    message, output = listen(Image, "depth/validity").of_frame()
    assert message.encoding == "mono8" and same_header(message, output)
    valid = ~np.isnan(read_depth(output))
    assert 0.02 < 1 - valid.mean() < 0.5
    np.testing.assert_array_equal(read_rgb(message), 255 * valid)


def test_confidence(listen: Listen, pipeline: Pipeline) -> None:
    from sensor_msgs.msg import Image

    message, output = listen(Image, "depth/confidence").of_frame()
    assert message.encoding == "32FC1" and same_header(message, output)
    expected = np.empty((HEIGHT, WIDTH), np.float32)
    depth = pipeline.enhance(colours(), depths(), confidence=expected).depth
    np.testing.assert_allclose(read_depth(message), expected, atol=2e-3)
    assert ((read_depth(message) == 0) == np.isnan(depth)).all() and expected.std() > 0.05


def test_preview(bench: Bench, listen: Listen) -> None:
    from sensor_msgs.msg import Image

    ear = listen(Image, "depth/preview")
    assert bench.set_parameter("preview_near", 1.0).successful and bench.set_parameter("preview_far", 3.0).successful
    message, output = ear.of_frame()
    assert message.encoding == "rgb8" and same_header(message, output)
    expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    Preview().draw(np.asarray(read_depth(output), np.float32), 0.0, expected, 1.0, 3.0)
    np.testing.assert_array_equal(read_rgb(message), expected)
    assert bench.set_parameter("preview_far", 0.0).successful
    message, _ = ear.of_frame()
    assert (read_rgb(message) != expected).any()


def test_points_need_a_camera_info_and_the_node_says_so_once(bench: Bench, listen: Listen) -> None:
    """Runs before any camera_info is sent, as tests run in the order of the file."""
    from sensor_msgs.msg import PointCloud2

    ear, said = listen(PointCloud2, "depth/points"), "no depth/points: camera_info of the colour image has not come"
    bench.repeat(lambda: bench.answer(image("rgb8", colours()), image("16UC1", depths())) and said in bench.process.log,
                 "its complaint")  # fmt: skip
    for _ in range(3):
        bench.answer(image("rgb8", colours()), image("16UC1", depths()))
    assert bench.process.log.count(said) == 1
    assert not ear.heard


def test_points(bench: Bench, listen: Listen) -> None:
    from sensor_msgs.msg import PointCloud2, PointField

    message, output = listen(PointCloud2, "depth/points").of_frame(camera_info(WIDTH, HEIGHT, FOCAL, FRAME_ID))
    assert same_header(message, output)
    assert (message.width, message.height, message.is_dense, message.is_bigendian) == (WIDTH, HEIGHT, False, False)
    fields = {(f.name, f.offset, f.datatype, f.count) for f in message.fields}
    assert fields == {(n, o, PointField.FLOAT32, 1) for n, o in (("x", 0), ("y", 4), ("z", 8), ("rgb", 16))}
    assert (message.point_step, message.row_step) == (32, 32 * WIDTH)
    kind = np.dtype({"names": ["x", "y", "z", "bgr"], "formats": ["<f4", "<f4", "<f4", "3u1"],
                     "offsets": [0, 4, 8, 16], "itemsize": 32})  # fmt: skip
    cloud = np.frombuffer(bytes(message.data), kind).reshape(HEIGHT, WIDTH)
    depth = read_depth(output)
    np.testing.assert_array_equal(cloud["z"], depth)
    y, x = np.indices(depth.shape)
    np.testing.assert_allclose(cloud["x"], (x - (WIDTH - 1) / 2) / FOCAL * depth, atol=1e-5)
    np.testing.assert_allclose(cloud["y"], (y - (HEIGHT - 1) / 2) / FOCAL * depth, atol=1e-5)
    np.testing.assert_array_equal(cloud["bgr"][..., ::-1], colours())


def test_compressed_depth(bench: Bench, listen: Listen) -> None:
    """The decoders of test_compressed_depth.py serve rvl; here it is png, in metres and in millimetres."""
    from sensor_msgs.msg import CompressedImage

    ear = listen(CompressedImage, "depth/upsampled/compressedDepth")
    message, output = ear.of_frame()
    assert message.format == "32FC1; compressedDepth png" and same_header(message, output)
    depth = read_depth(output)
    data = bytes(message.data)
    _, a, b = struct.unpack("<iff", data[:12])
    codes = cv2.imdecode(np.frombuffer(data[12:], np.uint8), cv2.IMREAD_UNCHANGED)
    assert codes is not None
    known = ~np.isnan(depth)
    np.testing.assert_array_equal(codes > 0, known)
    back = a / (codes[known] - np.float64(b))
    assert np.abs(back - depth[known]).max() < 1.01 * depth[known].max() ** 2 / a

    try:
        assert bench.set_parameter("output_encoding", "16UC1").successful
        message, output = ear.of_frame()
        assert message.format == "16UC1; compressedDepth png"
        codes = cv2.imdecode(np.frombuffer(bytes(message.data)[12:], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(codes, read_depth(output))

        assert bench.set_parameter("compressed_format", "rvl").successful
        message, _ = ear.of_frame()
        assert message.format == "16UC1; compressedDepth rvl"
        assert struct.unpack("<II", bytes(message.data)[12:20]) == (WIDTH, HEIGHT)
    finally:
        bench.set_parameter("output_encoding", "32FC1")
        bench.set_parameter("compressed_format", "png")


def test_a_format_that_is_none_is_refused(bench: Bench) -> None:
    answer = bench.set_parameter("compressed_format", "jpeg")
    assert not answer.successful and "'png', 'rvl'" in answer.reason


def test_flying_pixels_are_removed_when_that_is_asked_for(bench: Bench) -> None:
    pair = image("rgb8", colours()), image("16UC1", depths())
    before = np.isnan(read_depth(bench.answer(*pair)))
    try:
        assert bench.set_parameter("flying_pixels", 0.03).successful
        assert np.isnan(read_depth(bench.answer(*pair))).sum() > before.sum()
    finally:
        bench.set_parameter("flying_pixels", 0.0)


def test_confidence_costs_nothing_while_nobody_listens(bench: Bench, listen: Listen) -> None:
    """Of all outputs the only one with a stage of its own; the timing of a frame tells whether it was there."""
    from sensor_msgs.msg import Image

    def stages() -> set[str]:
        output = bench.answer(image("rgb8", colours()), image("16UC1", depths()))
        timing = bench.until(lambda: of_stamp(bench.timings, stamp_ns(output.header.stamp)), "its timing")
        return set(Status(timing).values)

    bench.repeat(lambda: "confidence_ms" not in stages(), "a frame without confidence")
    ear = listen(Image, "depth/confidence")
    bench.repeat(lambda: "confidence_ms" in stages(), "a frame with confidence")
    ear.close()
    bench.repeat(lambda: "confidence_ms" not in stages(), "a frame without it again")


@pytest.mark.parametrize(
    "topic",
    ["depth/validity", "depth/confidence", "depth/preview", "depth/points", "depth/upsampled/compressedDepth"],
)
def test_each_wakes_the_node_and_is_made_alone(topic: str) -> None:
    """In this process, where one sees what is made that nobody hears."""
    from std_msgs.msg import Header

    with peer_in(next_domain()) as peer:
        outputs = Outputs(peer.node, NodeConfig(), lambda: None)
        made: list[str] = []
        sheet = Sheet()
        for name, view in {**outputs._views, "depth/confidence": sheet.confidence}.items():
            view.message = functools.partial(noted, made, name, view.message)  # type: ignore[method-assign]
        depth, _ = outputs.begin(sheet, HEIGHT, WIDTH)
        result = Result(Header(), colours(), depth, camera_info(WIDTH, HEIGHT, FOCAL, FRAME_ID))
        result.depth.fill(2)

        def publish() -> None:
            _, confidence = outputs.begin(sheet, HEIGHT, WIDTH)
            assert (confidence is None) == (topic != "depth/confidence" or not outputs.wanted)
            outputs.publish(sheet, result)

        assert not outputs.wanted
        publish()
        assert not made
        heard: list[Any] = []
        subscription = peer.node.create_subscription(outputs._views[topic].kind, topic, heard.append, 10)
        peer.until(lambda: outputs.wanted, "the subscription to be seen")
        publish()
        assert made == [topic]
        peer.until(lambda: heard, "the message")
        peer.node.destroy_subscription(subscription)
        peer.until(lambda: not outputs.wanted, "the end of the subscription to be seen")
        publish()
        assert made == [topic]
        outputs.close()


def noted(made: list[str], topic: str, message: Callable[..., Any], *given: Any) -> Any:
    made.append(topic)
    return message(*given)
