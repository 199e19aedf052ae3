"""`dkn bag`: bags of both formats are written, upsampled, cut, spoilt and interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harness import PATIENCE, ROOT, Process, next_domain, running
from numpy.typing import NDArray

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dkn_ros import cli
from dkn_ros.config import CameraConfig, PipelineConfig
from dkn_ros.depth import to_metres, to_millimetres
from dkn_ros.pipeline import Pipeline
from dkn_ros.registration import Registration
from dkn_ros.ros.messages import stamp_ns
from dkn_ros.ros.registering import calibration_of
from dkn_ros.synthetic.source import Shot, shots

RGB, INFO, DEPTH, OTHER, OWN = "/cam/rgb/image_raw", "/cam/rgb/camera_info", "/cam/depth/image_raw", "/chatter", "/own"
OUTPUT, OUTPUT_INFO = "/depth/upsampled", "/depth/camera_info"
WIDTH, HEIGHT, FRAMES = 96, 72, 12
PERIOD = 33_333_333
T0 = 1_700_000_000_123_456_789
STORE = get_typestore(Stores.ROS2_HUMBLE)
STORE.register(get_types_from_msg("string[] names\nfloat64[3] place\n", "own_msgs/msg/Thing"))
FOREVER = QosTime(2147483647, 4294967295)
QOS = Qos(
    QosHistory.KEEP_LAST, 7, QosReliability.BEST_EFFORT, QosDurability.VOLATILE, FOREVER, FOREVER,
    QosLiveliness.AUTOMATIC, FOREVER, False,
)  # fmt: skip

Message = tuple[str, str, int, bytes]
both_storages = pytest.mark.parametrize("storage", ["mcap", "sqlite3"])


@dataclass
class Recording:
    """What goes into a bag: (topic, type, timestamp, message), in the order of their timestamps."""

    items: list[tuple[str, str, int, Any]] = field(default_factory=list)

    def write(self, path: Path, storage: str = "mcap", mode: CompressionMode = CompressionMode.NONE) -> Path:
        writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections: dict[tuple[str, str], Any] = {}
            for topic, kind, timestamp, message in sorted(self.items, key=lambda item: item[2]):
                key, qos = (topic, kind), [QOS] if topic == RGB else []
                if key not in connections:
                    connections[key] = writer.add_connection(*key, typestore=STORE, offered_qos_profiles=qos)
                data = message if isinstance(message, bytes) else STORE.serialize_cdr(message, kind)
                writer.write(connections[key], timestamp, data)
        return path

    def without(self, *topics: str) -> Recording:
        return Recording([item for item in self.items if item[0] not in topics])

    def renamed(self, names: dict[str, str]) -> Recording:
        return Recording([(names.get(topic, topic), *rest) for topic, *rest in self.items])


def make(kind: str, *values: Any) -> Any:
    return STORE.types[kind](*values)


def header(stamp: int, frame: str = "cam_optical") -> Any:
    return make("std_msgs/msg/Header", make("builtin_interfaces/msg/Time", *divmod(stamp, 10**9)), frame)


def image(stamp: int, pixels: NDArray, encoding: str) -> Any:
    height, width = pixels.shape[:2]
    data = np.frombuffer(pixels.tobytes(), np.uint8)
    return make("sensor_msgs/msg/Image", header(stamp), height, width, encoding, 0, len(data) // height, data)


def camera_info(stamp: int, width: int = 2 * WIDTH, height: int = 2 * HEIGHT) -> Any:
    """Of a camera of twice the image's size, cut to a region that is as large as all of it."""
    k = np.array([200.0, 0, (width - 1) / 2, 0, 200, (height - 1) / 2, 0, 0, 1])
    p = np.insert(k.reshape(3, 3), 3, 0, axis=1).ravel()
    roi = make("sensor_msgs/msg/RegionOfInterest", 0, 0, height, width, True)
    return make(
        "sensor_msgs/msg/CameraInfo", header(stamp), height, width, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), p,
        0, 0, roi,
    )  # fmt: skip


def millimetres(shot: Shot) -> NDArray[np.uint16]:
    return to_millimetres(shot.depth)


def rgb_stamp(frame: int) -> int:
    return T0 + frame * PERIOD


def rgb_time(frame: int) -> int:
    return rgb_stamp(frame) + 9_000_001


def depth_time(frame: int) -> int:
    """Every third depth image comes before its colour image."""
    return rgb_time(frame) + (-4_000_000 if frame % 3 == 0 else 7_000_003)


def recorded(scenes: list[Shot], frames: int = FRAMES) -> Recording:
    """A recording of a camera: depth is stamped 3 ms after colour; two topics have nothing to do with it."""
    items: list[tuple[str, str, int, Any]] = []
    for i in range(frames):
        shot, stamp = scenes[i % len(scenes)], rgb_stamp(i)
        items += [
            (RGB, "sensor_msgs/msg/Image", rgb_time(i), image(stamp, shot.rgb, "rgb8")),
            (INFO, "sensor_msgs/msg/CameraInfo", rgb_time(i) + 100, camera_info(stamp)),
            (DEPTH, "sensor_msgs/msg/Image", depth_time(i), image(stamp + 3_000_000, millimetres(shot), "16UC1")),
            (OTHER, "std_msgs/msg/String", rgb_time(i) + 50, make("std_msgs/msg/String", f"frame {i} ü")),
            (OWN, "own_msgs/msg/Thing", rgb_time(i) + 60, make("own_msgs/msg/Thing", ["a", ""], np.arange(3.0))),
        ]
    return Recording(items)


@pytest.fixture(scope="module")
def scenes() -> list[Shot]:
    return list(shots(CameraConfig(width=WIDTH, height=HEIGHT, factor=4, frames=FRAMES)))


@pytest.fixture
def recording(scenes: list[Shot]) -> Recording:
    return recorded(scenes)


@pytest.fixture(scope="module")
def flags(small_weights: Path) -> list[str]:
    return ["--weights", str(small_weights), "--device", "cpu", "--precision", "float32", "--threads", "1"]


@pytest.fixture(scope="module")
def expected(scenes: list[Shot], small_weights: Path) -> list[NDArray[np.float32]]:
    """What the pipeline makes of the frames."""
    config = PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1)
    pipeline = Pipeline(config)
    return [pipeline.enhance(shot.rgb, millimetres(shot)).depth for shot in scenes]


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr, without those of the bar."""
        lines = re.split("[\r\n]+", self.err)
        return [line for line in lines if line.strip() and "frame/s" not in line and "s/frame" not in line]


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], flags: list[str]) -> Run:
    def run_bag(*arguments: object) -> Done:
        status = cli.main(["bag", *map(str, arguments), *flags])
        printed = capsys.readouterr()
        return Done(status, printed.out, printed.err)

    return run_bag


@pytest.fixture
def fail(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail with one line, which is returned, and change nothing in the folder."""

    def run_bag(*arguments: object) -> str:
        before = tree(tmp_path)
        done = run(*arguments)
        assert (done.status, done.out) == (1, "")
        assert tree(tmp_path) == before
        (line,) = done.lines
        return line

    return run_bag


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def messages(path: Path) -> list[Message]:
    with Reader(path) as reader:
        return [(c.topic, c.msgtype, timestamp, bytes(data)) for c, timestamp, data in reader.messages()]


def decoded(path: Path, topic: str) -> list[tuple[int, Any]]:
    return [(t, STORE.deserialize_cdr(data, kind)) for name, kind, t, data in messages(path) if name == topic]


def pixels(message: Any) -> NDArray:
    kind = {"32FC1": np.float32, "16UC1": np.uint16}[message.encoding]
    return np.frombuffer(message.data.tobytes(), kind).reshape(message.height, message.width)


def originals(path: Path) -> list[Message]:
    return [message for message in messages(path) if message[0] not in (OUTPUT, OUTPUT_INFO)]


# What a whole bag gives.


@both_storages
def test_every_pair_is_upsampled(
    run: Run, tmp_path: Path, recording: Recording, storage: str, expected: list[NDArray]
) -> None:
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    done = run(source, target)
    assert done.status == 0, done.err
    assert done.out.strip() == (
        f"{target}: 60 messages copied, 12 colour and 12 depth frames, 12 pairs, 12 written to {OUTPUT}; dropped: none"
    )
    assert done.lines == []
    assert re.split("[\r\n]+", done.err.strip())[-1].startswith(f"{OUTPUT}: 100%") and "12/12" in done.err
    outputs = decoded(target, OUTPUT)
    assert [t for t, _ in outputs] == [max(rgb_time(i), depth_time(i)) for i in range(FRAMES)]
    for i, (_, message) in enumerate(outputs):
        assert (stamp_ns(message.header.stamp), message.header.frame_id) == (rgb_stamp(i), "cam_optical")
        assert (message.encoding, message.step, message.is_bigendian) == ("32FC1", 4 * WIDTH, 0)
        np.testing.assert_array_equal(pixels(message), expected[i])


@both_storages
def test_originals_are_copied_byte_for_byte(run: Run, tmp_path: Path, recording: Recording, storage: str) -> None:
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    assert run(source, target).status == 0
    assert len(originals(target)) == len(recording.items)
    assert originals(target) == messages(source)
    with Reader(source) as old, Reader(target) as new:
        for before in old.connections:
            (after,) = (c for c in new.connections if c.topic == before.topic)
            assert (after.msgtype, after.msgdef, after.msgcount) == (before.msgtype, before.msgdef, before.msgcount)
            assert (after.ext, after.digest) == (before.ext, before.digest)
    assert sorted(p.suffix for p in target.iterdir()) == sorted(
        [".yaml", {"mcap": ".mcap", "sqlite3": ".db3"}[storage]]
    )


def test_outputs_follow_the_later_image_of_their_pair(run: Run, tmp_path: Path, recording: Recording) -> None:
    """As they lie in the file, of which sqlite3 keeps the order."""
    import sqlite3

    source, target = recording.write(tmp_path / "in", "sqlite3"), tmp_path / "out"
    assert run(source, target).status == 0
    with sqlite3.connect(target / "out.db3") as database:
        topics = [n for (n,) in database.execute("SELECT name FROM messages JOIN topics ON topic_id = topics.id "
                                                 "ORDER BY messages.id")]  # fmt: skip
    for index in (i for i, topic in enumerate(topics) if topic == OUTPUT):
        assert topics[index - 1] in (RGB, DEPTH)
        assert topics[index + 1] == OUTPUT_INFO


def test_camera_info_describes_the_output(run: Run, tmp_path: Path, recording: Recording) -> None:
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    assert run(source, target).status == 0
    outputs, infos = decoded(target, OUTPUT), decoded(target, OUTPUT_INFO)
    assert len(infos) == FRAMES, "the first pair too, which came before the first camera_info"
    assert [(t, m.header) for t, m in infos] == [(t, m.header) for t, m in outputs]
    info = infos[0][1]
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(info.k, [100, 0, 47.5, 0, 100, 35.5, 0, 0, 1])
    roi = info.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify) == (0, 0, 0, 0, False)


def test_a_camera_info_of_another_shape_is_told(run: Run, tmp_path: Path, recording: Recording) -> None:
    for topic, _, _, message in recording.items:
        if topic == INFO:
            message.height = message.roi.height = message.width
    done = run(recording.write(tmp_path / "in"), tmp_path / "out")
    assert done.status == 0
    said = f"camera_info is of {2 * WIDTH}x{2 * WIDTH}, the image {WIDTH}x{HEIGHT}, of another shape"
    (line,) = [line for line in done.lines if "of another shape" in line]
    assert line.startswith(f"dkn bag: {said}") and line.endswith("in the new bag it is stretched to the image")


def test_without_camera_info_depth_is_written_all_the_same(run: Run, tmp_path: Path, recording: Recording) -> None:
    target = tmp_path / "out"
    done = run(recording.without(INFO).write(tmp_path / "in"), target)
    assert done.status == 0
    assert "12 written to /depth/upsampled, 12 without camera_info;" in done.out
    assert len(decoded(target, OUTPUT)) == FRAMES
    assert not decoded(target, OUTPUT_INFO)


@pytest.mark.parametrize(("given", "wanted"), [("mcap", "sqlite3"), ("sqlite3", "mcap")])
def test_the_format_may_change(run: Run, tmp_path: Path, recording: Recording, given: str, wanted: str) -> None:
    source, target = recording.write(tmp_path / "in", given), tmp_path / "out"
    assert run(source, target, "--storage", wanted).status == 0
    assert yaml.safe_load((target / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "storage_identifier"
    ] == wanted  # fmt: skip
    assert originals(target) == messages(source)
    assert len(decoded(target, OUTPUT)) == FRAMES


def test_output_in_millimetres(run: Run, tmp_path: Path, recording: Recording, expected: list[NDArray]) -> None:
    target = tmp_path / "out"
    assert run(recording.write(tmp_path / "in"), target, "--encoding", "16UC1").status == 0
    for i, (_, message) in enumerate(decoded(target, OUTPUT)):
        np.testing.assert_array_equal(pixels(message), to_millimetres(expected[i]))


def test_another_output_topic(run: Run, tmp_path: Path, recording: Recording) -> None:
    target = tmp_path / "out"
    assert run(recording.write(tmp_path / "in"), target, "--output", "/robot/fine").status == 0
    assert len(decoded(target, "/robot/fine")) == len(decoded(target, "/robot/camera_info")) == FRAMES


def test_an_output_topic_may_be_named_without_its_slash(run: Run, tmp_path: Path, recording: Recording) -> None:
    target = tmp_path / "out"
    done = run(recording.write(tmp_path / "in"), target, "--output", "fine")
    assert "12 written to /fine;" in done.out
    assert len(decoded(target, "/fine")) == len(decoded(target, "/camera_info")) == FRAMES


@both_storages
@pytest.mark.parametrize("seconds", [1e8, 1e9])
def test_a_part_may_be_longer_than_the_bag(
    run: Run, fail: Callable[..., str], tmp_path: Path, recording: Recording, storage: str, seconds: float
) -> None:
    source = recording.write(tmp_path / "in", storage)
    assert "no pair among 0 images on" in fail(source, tmp_path / "out", "--start", seconds)
    done = run(source, tmp_path / "out", "--duration", seconds)
    assert "60 messages copied" in done.out


@both_storages
def test_what_else_comes_on_the_cameras_topics_is_copied(
    run: Run, tmp_path: Path, recording: Recording, storage: str
) -> None:
    for topic in (INFO, RGB, DEPTH):  # before all that is of use
        text = make("std_msgs/msg/String", "hello")
        recording.items.append((topic, "std_msgs/msg/String", T0 - 50_000_000, text))
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    assert run(source, target).status == 0
    assert sorted(originals(target)) == sorted(messages(source))
    assert len(decoded(target, OUTPUT_INFO)) == FRAMES


def test_a_lone_file_is_a_bag(run: Run, tmp_path: Path, recording: Recording) -> None:
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    assert run(source / "in.mcap", target).status == 0
    assert originals(target) == messages(source)


def test_a_part_of_a_bag(run: Run, tmp_path: Path, recording: Recording) -> None:
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    assert run(source, target, "--start", 0.1, "--duration", 0.2).status == 0
    begin = messages(source)[0][2] + 100_000_000
    assert originals(target) == [m for m in messages(source) if begin <= m[2] < begin + 200_000_000]
    assert 3 < len(decoded(target, OUTPUT)) < 8
    assert len(decoded(target, OUTPUT_INFO)) == len(decoded(target, OUTPUT))


@pytest.mark.parametrize("topics", [{RGB}, {RGB, DEPTH}], ids=["colour", "both"])
def test_zero_stamps_are_paired_by_the_time_of_recording(
    run: Run, tmp_path: Path, recording: Recording, topics: set[str], expected: list[NDArray]
) -> None:
    """As the node does: the Kinect v1's driver stamps no colour image."""
    for topic, _, timestamp, message in recording.items:
        if topic in topics:
            message.header = header(0)
        elif topic == DEPTH:
            message.header = header(timestamp)
    target = tmp_path / "out"
    assert run(recording.write(tmp_path / "in"), target).status == 0
    outputs = decoded(target, OUTPUT)
    first = FRAMES - len(outputs)
    assert first <= 1, "the first depth image comes when there is no telling yet that colour is not stamped"
    assert [stamp_ns(m.header.stamp) for _, m in outputs] == [rgb_time(i) for i in range(first, FRAMES)]
    np.testing.assert_array_equal([pixels(m) for _, m in outputs], expected[first:])


def test_an_output_whose_colour_image_names_no_frame_takes_that_of_its_camera_info(
    run: Run, tmp_path: Path, recording: Recording
) -> None:
    for topic, _, _, message in recording.items:
        if topic == RGB:
            message.header = header(stamp_ns(message.header.stamp), "")
    target = tmp_path / "out"
    assert run(recording.write(tmp_path / "in"), target).status == 0
    assert {m.header.frame_id for topic in (OUTPUT, OUTPUT_INFO) for _, m in decoded(target, topic)} == {"cam_optical"}


def test_frames_without_partner_are_counted(run: Run, tmp_path: Path, recording: Recording) -> None:
    lost = {(RGB, rgb_time(3)), (DEPTH, depth_time(6)), (DEPTH, depth_time(7))}
    target = tmp_path / "out"
    done = run(Recording([i for i in recording.items if (i[0], i[2]) not in lost]).write(tmp_path / "in"), target)
    assert done.status == 0
    assert "11 colour and 10 depth frames, 9 pairs, 9 written" in done.out
    assert done.out.strip().endswith("dropped: 2 colour without partner, 1 depth without partner")
    stamps = [stamp_ns(m.header.stamp) for _, m in decoded(target, OUTPUT)]
    assert stamps == [rgb_stamp(i) for i in range(FRAMES) if i not in (3, 6, 7)]


def test_frames_that_cannot_be_used_are_counted_and_copied(run: Run, tmp_path: Path, recording: Recording) -> None:
    items = [list(item) for item in recording.items]
    images = [item for item in items if item[0] == DEPTH]
    images[2][3].encoding = "8UC3"
    images[4][3].step = 3
    images[5][3] = b"\x00\x01\x00\x00 this is no image"
    source, target = Recording([tuple(item) for item in items]).write(tmp_path / "in"), tmp_path / "out"
    done = run(source, target)
    assert done.status == 1, "not every pair was upsampled"
    assert "9 written" in done.out
    assert "dropped: 1 colour without partner, 1 for encoding, 1 for step, 1 for unreadable" in done.out
    assert done.lines == ["dkn bag: not upsampled: depth image has encoding '8UC3'; wanted: 16UC1, mono16, 32FC1"]
    assert originals(target) == messages(source)


# Which topics.


def test_preset_names_the_topics_and_where_the_depth_camera_is(
    run: Run, tmp_path: Path, recording: Recording, scenes: list[Shot], small_weights: Path
) -> None:
    names = {RGB: "/kinect/image_raw", INFO: "/kinect/camera_info", DEPTH: "/kinect/depth/image_raw"}
    names[DEPTH_INFO] = "/kinect/depth/camera_info"
    other = recorded(scenes).items
    kinect = of_two_cameras(recording).renamed(names)
    kinect.items += other  # a second camera, so that the topics must be named
    target, source = tmp_path / "out", kinect.write(tmp_path / "in")
    done = run(source, target, "--preset", "kinect")
    assert done.status == 0
    found = decoded(target, OUTPUT)
    assert len(found) == len(decoded(target, OUTPUT_INFO)) == FRAMES
    wanted = registered(scenes, small_weights, (-0.025, 0.0, 0.0))
    np.testing.assert_allclose(pixels(found[0][1]), wanted[0], rtol=1e-6)
    assert run(source, tmp_path / "here", "--preset", "kinect", "--extrinsics", "0.03 0 0 0 0 0 1").status == 0
    wanted = registered(scenes, small_weights, (0.03, 0.0, 0.0))
    np.testing.assert_allclose(pixels(decoded(tmp_path / "here", OUTPUT)[0][1]), wanted[0], rtol=1e-6)


def test_several_cameras_must_be_named(
    fail: Callable[..., str], run: Run, tmp_path: Path, recording: Recording
) -> None:
    other = recording.renamed({RGB: "/b/color", DEPTH: "/b/depth"})
    source = Recording(recording.items + other.without(INFO, OTHER, OWN).items).write(tmp_path / "in")
    line = fail(source, tmp_path / "out")
    listed = "/b/color (rgb8), /b/depth (16UC1), /cam/depth/image_raw (16UC1), /cam/rgb/image_raw (rgb8)"
    assert line == (
        "dkn bag: several topics of the bag can be the colour image; name it with --rgb; the bag has " + listed
    )
    assert "several topics of the bag can be the depth image" in fail(source, tmp_path / "out", "--rgb", RGB)
    named = ("--rgb", "/b/color", "--depth", DEPTH, "--camera-info", INFO)
    assert run(source, tmp_path / "out", *named).status == 0
    assert len(decoded(tmp_path / "out", OUTPUT_INFO)) == FRAMES


def test_grey_images_guide_only_where_there_is_no_colour(run: Run, tmp_path: Path, recording: Recording) -> None:
    for topic, _, _, message in recording.items[:]:
        if topic == RGB:
            grey = image(stamp_ns(message.header.stamp), np.zeros((HEIGHT, WIDTH), np.uint8), "mono8")
            recording.items.append(("/cam/ir/image_raw", "sensor_msgs/msg/Image", rgb_time(0), grey))
    assert run(recording.write(tmp_path / "in"), tmp_path / "out").status == 0
    assert run(recording.without(RGB).write(tmp_path / "grey"), tmp_path / "out_grey").status == 0


UNFIT = {
    "no depth": ([DEPTH], [], "no topic of the bag can be the depth image; name it with --depth; the bag has /cam/"),
    "no images": ([RGB, DEPTH], [], "no topic of the bag can be the colour image; name it with --rgb; the bag has no"),
    "unknown colour": ([], ["--rgb", "/x"], "no images on /x in the bag; it has /cam/depth/image_raw (16UC1)"),
    "colour of another type": ([], ["--rgb", OTHER], "no images on /chatter in the bag; it has /cam/depth/image_raw"),
    "one topic for both": ([], ["--rgb", DEPTH, "--depth", DEPTH], f"{DEPTH} is to be both colour and depth; wanted:"),
    "unknown info": ([], ["--camera-info", "/x"], "--camera-info is /x; the bag has camera_info on /cam/"),
    "unknown depth info": ([], ["--depth-info", "/x"], "--depth-info is /x; the bag has camera_info on /cam/"),
    "unknown preset": ([], ["--preset", "kinetc"], "preset is 'kinetc'; wanted: one of kinect"),
    "preset of another camera": ([], ["--preset", "kinect"], "no images on /kinect/image_raw in the bag; it has /"),
    "output taken": ([], ["--output", OTHER], "the bag has a topic /chatter of its own; wanted: another one, such as"),
    "output info taken": ([], ["--output", "/cam/rgb/new"], "the bag has a topic /cam/rgb/camera_info of its own"),
    "output on its own info": ([], ["--output", "/x/camera_info"], "output is /x/camera_info, the topic that its own"),
    "output without a name": ([], ["--output", ""], "output is ''; wanted: topic to write, names of letters, digits"),
    "output that is a slash": ([], ["--output", "/"], "output is '/'; wanted: topic to write, names of letters"),
    "output behind its slash": ([], ["--output", "foo/"], "output is 'foo/'; wanted: topic to write, names of"),
    "output of two slashes": ([], ["--output", "/a//b"], "output is '/a//b'; wanted: topic to write, names of"),
    "output that begins with a digit": ([], ["--output", "/a/3d"], "output is '/a/3d'; wanted: topic to write"),
    "output of other letters": ([], ["--output", "/größe"], "output is '/größe'; wanted: topic to write, names of"),
    "output taken, relative": ([], ["--output", OTHER[1:]], "the bag has a topic /chatter of its own; wanted: another"),
    "endless start": ([], ["--start", "inf"], "start is inf; wanted: at most 1000000000.0"),
    "start beyond all clocks": ([], ["--start", "1e300"], "start is 1e+300; wanted: at most 1000000000.0"),
    "endless duration": ([], ["--duration", "inf"], "duration is inf; wanted: at most 1000000000.0"),
    "duration of no number": ([], ["--duration", "nan"], "duration is nan; wanted: at least 0.0"),
    "unknown device": ([], ["--device", "tpu"], "device is 'tpu'"),
}  # fmt: skip


@pytest.mark.parametrize(("missing", "given", "said"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Recording, flags: list[str],
    missing: list[str], given: list[str], said: str,
) -> None:  # fmt: skip
    source = recording.without(*missing).write(tmp_path / "in")
    assert cli.main(["bag", str(source), str(tmp_path / "out"), *flags, *given]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"dkn bag: {said}")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_compressed_images_are_named_as_not_read(
    fail: Callable[..., str], tmp_path: Path, recording: Recording
) -> None:
    compressed = make("sensor_msgs/msg/CompressedImage", header(T0), "jpeg", np.zeros(9, np.uint8))
    bag = recording.without(RGB)
    bag.items.append((f"{RGB}/compressed", "sensor_msgs/msg/CompressedImage", T0, compressed))
    assert f"{RGB}/compressed (compressed: not read)" in fail(bag.write(tmp_path / "in"), tmp_path / "out")


def test_no_pair_at_all_is_a_failure(fail: Callable[..., str], tmp_path: Path, recording: Recording) -> None:
    for topic, _, _, message in recording.items:
        if topic == DEPTH:
            message.header = header(stamp_ns(message.header.stamp) + 3600 * 10**9)
    line = fail(recording.write(tmp_path / "in"), tmp_path / "out")
    assert line.startswith(f"dkn bag: no pair among 12 images on {RGB} and 12 on {DEPTH}; wanted:")


# Depth of another camera.

DEPTH_INFO, DEPTH_OPTICAL = "/cam/depth/camera_info", "depth_optical"


def moved(stamp: int, parent: str, child: str, x: float, turn: float = 0.0) -> Any:
    """`child` lies x metres beside `parent`, turned by so many degrees around the axis of view."""
    half = np.radians(turn) / 2
    rotation = make("geometry_msgs/msg/Quaternion", 0.0, 0.0, float(np.sin(half)), float(np.cos(half)))
    transform = make("geometry_msgs/msg/Transform", make("geometry_msgs/msg/Vector3", x, 0.0, 0.0), rotation)
    return make("geometry_msgs/msg/TransformStamped", header(stamp, parent), child, transform)


def of_two_cameras(recording: Recording, *transforms: Any) -> Recording:
    """The depth of the recording now comes from a camera beside the colour camera; transforms come at its end."""
    info = camera_info(T0, WIDTH, HEIGHT)
    info.header.frame_id = DEPTH_OPTICAL
    for topic, _, _, message in recording.items:
        if topic == DEPTH:
            message.header.frame_id = DEPTH_OPTICAL
    late = rgb_time(FRAMES)
    recording.items += [(DEPTH_INFO, "sensor_msgs/msg/CameraInfo", late, info)]
    recording.items += [
        ("/tf_static", "tf2_msgs/msg/TFMessage", late + i, make("tf2_msgs/msg/TFMessage", [transform]))
        for i, transform in enumerate(transforms)
    ]
    return recording


def registered(scenes: list[Shot], weights: Path, place: tuple[float, float, float]) -> list[NDArray[np.float32]]:
    """What the pipeline makes of depth that was seen from this place (metres) in the colour camera's frame."""
    pipeline = Pipeline(PipelineConfig(weights=str(weights), device="cpu", precision="float32", threads=1))
    height, width = scenes[0].depth.shape
    depth_camera, colour_camera = (
        calibration_of(camera_info(T0, *size), *pixels)
        for size, pixels in (((WIDTH, HEIGHT), (width, height)), ((2 * WIDTH, 2 * HEIGHT), (WIDTH, HEIGHT)))
    )
    registration = Registration(depth_camera, colour_camera, np.eye(3), np.array(place))
    return [pipeline.enhance(shot.rgb, registration.register(to_metres(millimetres(shot)))).depth for shot in scenes]


def test_depth_of_another_camera_is_registered_by_the_bags_transforms(
    run: Run, tmp_path: Path, scenes: list[Shot], small_weights: Path
) -> None:
    """Straight, and over a frame between them to which both are turned: its x is minus y for the cameras."""
    chain = moved(T0, "/link", "cam_optical", 0.02, turn=90), moved(T0, "link", DEPTH_OPTICAL, 0.05, turn=90)
    straight = (moved(T0, DEPTH_OPTICAL, "cam_optical", -0.03),)
    for name, transforms, place in (("straight", straight, (0.03, 0.0, 0.0)), ("chain", chain, (0.0, -0.03, 0.0))):
        source = of_two_cameras(recorded(scenes), *transforms).write(tmp_path / name)
        done = run(source, tmp_path / f"{name}_out")
        assert done.status == 0, done.err
        wanted = registered(scenes, small_weights, place)
        found = [pixels(message) for _, message in decoded(tmp_path / f"{name}_out", OUTPUT)]
        assert len(found) == FRAMES
        for i, depth in enumerate(found):
            np.testing.assert_allclose(depth, wanted[i % len(wanted)], rtol=1e-4)


def test_extrinsics_may_be_given(
    run: Run, tmp_path: Path, recording: Recording, scenes: list[Shot], small_weights: Path
) -> None:
    source = of_two_cameras(recording).write(tmp_path / "in")
    assert run(source, tmp_path / "out", "--extrinsics", "0.03 0 0 0 0 0 1").status == 0
    wanted = registered(scenes, small_weights, (0.03, 0.0, 0.0))
    np.testing.assert_allclose(pixels(decoded(tmp_path / "out", OUTPUT)[0][1]), wanted[0], rtol=1e-6)


def test_without_a_transform_nothing_wrong_is_written(
    fail: Callable[..., str], run: Run, tmp_path: Path, recording: Recording, expected: list[NDArray]
) -> None:
    source = of_two_cameras(recording).write(tmp_path / "in")
    line = fail(source, tmp_path / "out")
    assert "colour is in frame 'cam_optical', depth in 'depth_optical'" in line
    assert "the bag holds none; give --extrinsics" in line
    assert run(source, tmp_path / "out", "--registration", "off").status == 0
    np.testing.assert_allclose(pixels(decoded(tmp_path / "out", OUTPUT)[0][1]), expected[0], rtol=1e-6)


# What lies under the names.


def test_what_is_no_bag_is_said_in_one_line(fail: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.mcap").write_bytes(bytes(range(256)))
    (tmp_path / "noise.db3").write_bytes(bytes(range(256)))
    out = tmp_path / "out"
    assert fail(tmp_path / "absent", out).startswith(f"dkn bag: no bag {tmp_path / 'absent'}; wanted: the folder of")
    assert fail(tmp_path / "old.bag", out).startswith(f"dkn bag: {tmp_path / 'old.bag'} is no rosbag2 recording")
    assert fail(tmp_path / "empty", out).startswith(f"dkn bag: {tmp_path / 'empty'} holds no .mcap or .db3 file")
    assert fail(tmp_path / "noise.mcap", out).endswith("can be read; noise.mcap is no mcap file")
    assert fail(tmp_path / "noise.db3", out).endswith("can be read; noise.db3: file is not a database")


def test_what_is_in_the_way_stays(fail: Callable[..., str], tmp_path: Path, recording: Recording) -> None:
    source = recording.write(tmp_path / "in")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("four years")
    assert fail(source, tmp_path / "folder").endswith("folder exists; wanted: a new name, or --overwrite")
    assert "folder is no bag, which --overwrite" in fail(source, tmp_path / "folder", "--overwrite")
    assert "in is the bag to be read" in fail(source, source, "--overwrite")
    assert "in is the bag to be read" in fail(source / "in.mcap", source, "--overwrite")
    assert fail(source, tmp_path / "no" / "out").startswith(f"dkn bag: no folder {tmp_path / 'no'} for the new bag")


def test_overwrite_replaces_a_bag_when_the_new_one_is_done(
    run: Run, fail: Callable[..., str], tmp_path: Path, recording: Recording
) -> None:
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    recording.without(RGB).write(target, "sqlite3")
    fail(source, target, "--overwrite", "--slop", 1e-9)  # no pair is so close: the old one stays
    assert run(source, target, "--overwrite").status == 0
    assert len(decoded(target, OUTPUT)) == FRAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


# Damage.


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("share", [0.35, 0.8])
@both_storages
def test_of_a_bag_that_was_cut_off_the_rest_is_done(
    run: Run, tmp_path: Path, scenes: list[Shot], expected: list[NDArray], storage: str, share: float, folder: bool
) -> None:
    source, target = recorded(scenes, 100).write(tmp_path / "in", storage), tmp_path / "out"
    whole = messages(source)
    (file,) = (p for p in source.iterdir() if p.suffix != ".yaml")
    cut(file, share)
    done = run(source if folder else file, target)
    assert done.status == 1
    assert done.lines and all(line.startswith("dkn bag: ") for line in done.lines)
    told = {
        "mcap": r"in\.mcap breaks off at byte \d+ of \d+",
        "sqlite3": r"in\.db3: nothing can be read from message \d+ on",
    }
    assert re.search(told[storage], "\n".join(done.lines))
    copied = originals(target)
    remaining = iter(whole)
    assert all(message in remaining for message in copied), "what could be read is what was there, in its order"
    # Near the cut a row of sqlite3 may be whole and the row before it, which reaches over several pages, not.
    certain = len(copied) if storage == "mcap" else len(copied) - 5
    assert copied[:certain] == whole[:certain]
    assert len(copied) > (share - 0.15) * len(whole)
    if folder:
        assert done.lines[-1] == f"dkn bag: {len(whole) - len(copied)} of {len(whole)} messages are lost"
    outputs = decoded(target, OUTPUT)
    assert len(outputs) > 100 * (share - 0.15)
    for _, message in outputs:
        frame = (stamp_ns(message.header.stamp) - T0) // PERIOD
        np.testing.assert_array_equal(pixels(message), expected[frame % FRAMES])


def test_a_chunk_that_is_damaged_costs_only_itself(run: Run, tmp_path: Path, scenes: list[Shot]) -> None:
    """rosbags sees it in the middle of its work; the index at the end is whole."""
    source, target = recorded(scenes, 300).write(tmp_path / "in", mode=CompressionMode.STORAGE), tmp_path / "out"
    whole = messages(source)
    content = bytearray((source / "in.mcap").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(500)
    (source / "in.mcap").write_bytes(content)
    with pytest.raises(Exception, match=r".+"):
        messages(source)
    done = run(source, target)
    assert done.status == 1
    assert re.match(r"dkn bag: in\.mcap: the \d+ bytes of the chunk at byte \d+ are lost: ", done.lines[0])
    copied = originals(target)
    assert set(copied) < set(whole)
    assert copied[0] == whole[0] and copied[-1] == whole[-1]
    assert done.lines[-1] == f"dkn bag: {len(whole) - len(copied)} of {len(whole)} messages are lost"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["in", "out"]


def test_pages_that_are_damaged_cost_only_themselves(run: Run, tmp_path: Path, scenes: list[Shot]) -> None:
    source, target = recorded(scenes, 60).write(tmp_path / "in", "sqlite3"), tmp_path / "out"
    whole = messages(source)
    content = bytearray((source / "in.db3").read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 30 * 4096] = b"\xff" * (30 * 4096)
    (source / "in.db3").write_bytes(content)
    done = run(source, target)
    assert done.status == 1
    assert "cannot be read" in done.lines[0]
    copied = originals(target)
    assert copied[0] == whole[0] and copied[-1] == whole[-1]
    assert len(whole) * 0.7 < len(copied) < len(whole)


@both_storages
def test_without_metadata_nothing_is_lost(run: Run, tmp_path: Path, recording: Recording, storage: str) -> None:
    """It is written last: a recorder that was killed leaves none."""
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    whole = messages(source)
    (source / "metadata.yaml").unlink()
    done = run(source, target)
    assert (done.status, done.lines) == (0, [])
    assert originals(target) == whole


def test_a_part_that_is_missing_is_named(run: Run, tmp_path: Path, recording: Recording) -> None:
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    metadata = source / "metadata.yaml"
    content = yaml.safe_load(metadata.read_text())
    content["rosbag2_bagfile_information"]["relative_file_paths"].append("in_1.mcap")
    content["rosbag2_bagfile_information"]["message_count"] = 100
    metadata.write_text(yaml.safe_dump(content))
    done = run(source, target)
    assert done.status == 1
    assert done.lines == ["dkn bag: in_1.mcap is missing", "dkn bag: 40 of 100 messages are lost"]
    assert len(decoded(target, OUTPUT)) == FRAMES


def test_parts_are_read_one_after_the_other(run: Run, tmp_path: Path, recording: Recording) -> None:
    items = sorted(recording.items, key=lambda item: item[2])
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number, part in ((9, items[:30]), (10, items[30:])):
        path = Recording(part).write(tmp_path / f"part{number}")
        (path / f"part{number}.mcap").rename(source / f"in_{number}.mcap")
    done = run(source, target)
    assert done.status == 0
    assert "12 pairs, 12 written" in done.out
    assert [(topic, t) for topic, _, t, _ in originals(target)] == [(topic, t) for topic, _, t, _ in items]


# The process.


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_interrupted_it_leaves_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, scenes: list[Shot], flags: list[str], number: signal.Signals,
    status: int,
) -> None:  # fmt: skip
    if signal.getsignal(number) == signal.SIG_IGN:  # as where the tests run under nohup; a process inherits it
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
        signal.signal(number, signal.SIG_DFL)
    source = recorded(scenes, 4000).write(tmp_path / "in")  # some seconds of work
    before = sorted(tmp_path.rglob("*"))
    arguments = ["bag", str(source), str(tmp_path / "out"), *flags]
    with running("dkn_ros.cli", arguments, next_domain()) as process:
        wait_for_output(process, tmp_path)
        process.send(number)
        assert process.wait() == status
        assert "Traceback" not in process.log
    assert sorted(tmp_path.rglob("*")) == before


def wait_for_output(process: Process, folder: Path) -> None:
    """Return when there is something in the file that is being written."""
    end = time.monotonic() + PATIENCE
    while not any(p.stat().st_size > 100_000 for p in folder.glob(".out.*/out/*.mcap")):
        assert process.status is None, f"it ended with status {process.status}: {process.log}"
        assert time.monotonic() < end, f"nothing was written within {PATIENCE:g} s"
        time.sleep(0.01)  # between two looks at a folder


def python(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)


def test_without_rosbags_it_says_how_to_install_it() -> None:
    done = python(
        "import sys; sys.modules['rosbags'] = None\nfrom dkn_ros import cli; sys.exit(cli.main(['bag', 'a', 'b']))"
    )
    assert done.returncode == 1
    assert done.stderr == "dkn bag: bags are read with the package rosbags; install it with: pip install rosbags\n"


def test_no_ros_is_needed() -> None:
    done = python(
        "import sys, dkn_ros.ros.bag\nprint([n for n in sys.modules if n.split('.')[0] in ('rclpy', 'sensor_msgs')])"
    )
    assert done.stdout == "[]\n", done.stderr
