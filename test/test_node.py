"""The node as a process, over real DDS: publish images, expect depth, timing and diagnostics."""

from __future__ import annotations

import itertools
import re
import signal
import time
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    FRAME_ID,
    Bench,
    Process,
    Status,
    image,
    needs_rclpy,
    next_domain,
    of_stamp,
    parameters,
    peer_in,
    pixels_of,
    running,
    stamp,
)
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.ros.assessment import Level
from dkn_ros.ros.messages import camera_info, stamp_ns
from dkn_ros.ros.worker import Foresight

pytestmark = needs_rclpy

WIDTH, HEIGHT = 160, 120
STAGES = ("receive", "preprocess", "align", "fill", "guidance", "target", "average", "postprocess", "publish")


@pytest.fixture(scope="module")
def arguments(small_weights: Path) -> list[str]:
    """Of a node that starts quickly and computes the same on every machine."""
    return parameters(
        weights=str(small_weights), device="cpu", precision="float32", threads=1, warm_up_width=0, idle_seconds=0.5
    )


@pytest.fixture(scope="module")
def shared_bench(arguments: list[str]) -> Iterator[Bench]:
    """One node for most tests of this file: starting takes longer than they do."""
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        yield Bench(peer, process)


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    """The node; what it logs during a test is shown if the test fails."""
    before = len(shared_bench.process.log)
    yield shared_bench
    print(f"--- log of the node\n{shared_bench.process.log[before:]}---")


@pytest.fixture(scope="module")
def pipeline(small_weights: Path) -> Pipeline:
    """What the node should compute."""
    return Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1))


def colours(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A colour image whose channels all differ."""
    y, x = np.indices((height, width))
    return np.stack([(3 * x) % 256, (5 * y) % 256, (x + 2 * y) % 256], axis=2).astype(np.uint8)


def plane(width: int = WIDTH // 4, height: int = HEIGHT // 4) -> NDArray[np.uint16]:
    """Depth in millimetres that rises from 1 m at the left to 1.8 m at the right."""
    centres = (np.arange(width) + 0.5) / width
    return np.tile(np.rint(1000 + 800 * centres).astype(np.uint16), (height, 1))


def good_pair() -> tuple[Any, Any]:
    return image("rgb8", colours()), image("16UC1", plane())


def works(status: Status) -> bool:
    return status.level == Level.OK and " Hz, p50 " in status.message


# Depth, camera_info, timing, diagnostics.


def test_output_is_the_depth_on_the_colour_grid(bench: Bench, pipeline: Pipeline) -> None:
    out = bench.answer(*good_pair())
    assert (out.width, out.height, out.encoding) == (WIDTH, HEIGHT, "32FC1")
    assert out.header.frame_id == FRAME_ID  # the stamp is the colour image's too: by it the answer is found
    depth = pixels_of(out)
    truth = 1 + 0.8 * (np.arange(WIDTH) + 0.5) / WIDTH
    assert np.abs(depth - truth).mean() < 0.03
    np.testing.assert_allclose(depth, pipeline.enhance(colours(), plane()).depth, atol=1e-4)


def test_camera_info_describes_the_output(bench: Bench) -> None:
    """The camera's info is for a larger image, and one without a size is of no use but does no harm."""
    given = camera_info(2 * WIDTH, 3 * HEIGHT, 300.0, FRAME_ID)
    known = len(bench.infos)
    bench.answer(*good_pair(), info=camera_info(0, 0, 300.0, FRAME_ID))

    def info_and_output() -> tuple[Any, Any] | None:
        output = bench.answer(*good_pair(), info=given)
        info = bench.peer.spin(lambda: of_stamp(bench.infos, stamp_ns(output.header.stamp)), 2.0)
        return info and (info, output)

    info, output = bench.repeat(info_and_output, "camera_info with the output's stamp")
    assert len({(i.width, i.height) for i in bench.infos[known:]}) == 1
    assert info.header == output.header
    assert (info.width, info.height) == (output.width, output.height)
    # Pixel centres: the centre of the image stays its centre.
    np.testing.assert_allclose(info.k, [150, 0, 79.5, 0, 100, 59.5, 0, 0, 1])
    np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:, :3], np.reshape(info.k, (3, 3)))


def test_an_output_whose_colour_image_names_no_frame_takes_that_of_its_camera_info(bench: Bench) -> None:
    """The Kinect v1's driver leaves the header empty; depth and points without a frame could be shown nowhere."""
    rgb, depth = good_pair()
    rgb.header.frame_id, depth.header.frame_id = "", "from_info"  # another frame would have to be registered

    def framed() -> Any:
        output = bench.answer(rgb, depth, info=camera_info(WIDTH, HEIGHT, 150.0, "from_info"))
        return output if output.header.frame_id else None

    output = bench.repeat(framed, "an output that names a frame")
    assert output.header.frame_id == "from_info"
    assert bench.answer(*good_pair()).header.frame_id == FRAME_ID


def test_timing_of_the_frame(bench: Bench) -> None:
    output = bench.answer(*good_pair(), later_ns=1_000_000)
    timing = bench.until(lambda: of_stamp(bench.timings, stamp_ns(output.header.stamp)), "its timing")
    values = Status(timing).values
    assert [key for key in values if key.removesuffix("_ms") in STAGES] == [f"{name}_ms" for name in STAGES]
    assert all(float(values[f"{name}_ms"]) >= 0 for name in STAGES)
    assert sum(float(values[f"{name}_ms"]) for name in STAGES) <= float(values["total_ms"])
    assert float(values["latency_ms"]) >= float(values["total_ms"])
    assert float(values["pair_difference_ms"]) == pytest.approx(1.0)
    assert (values["rgb_size"], values["depth_size"]) == ("160x120", "40x30")


def test_diagnostics_of_a_working_node(bench: Bench) -> None:
    before = bench.next_status()

    def good() -> Status | None:
        bench.answer(*good_pair())
        status = Status(bench.diagnostics[-1])
        return status if works(status) and status.count("published") > before.count("published") else None

    status = bench.repeat(good, "OK from the node while it works")
    assert status.name == "dkn_node: depth upsampling"
    assert status.count("pairs") >= status.count("published") > before.count("published")
    for key in ("rgb rate (Hz)", "depth rate (Hz)", "pair rate (Hz)", "output rate (Hz)", "latency p50 (ms)",
                "latency p95 (ms)", "latency p99 (ms)", "slop (ms)"):  # fmt: skip
        assert float(status.values[key]) > 0, key
    for stage, p in itertools.product(STAGES, ("p50", "p95", "p99")):
        assert float(status.values[f"stage {stage} {p} (ms)"]) >= 0
    for key in ("dropped: rgb without depth", "dropped: depth without rgb", "rgb stamps of zero",
                "depth stamps of zero", "clock jumps"):  # fmt: skip
        assert int(status.values[key]) >= 0, key
    assert float(status.values["pair difference (ms)"]) == 0
    assert {"rgb period (ms)", "depth period (ms)", "stamp offset (ms)"} <= status.values.keys()
    assert status.values["synchroniser"] == "nearest"
    assert (status.values["device"], status.values["precision"], status.values["threads"]) == ("cpu", "float32", "1")
    assert re.fullmatch(r"small [0-9a-f]{12}", status.values["weights"])


def test_diagnostics_come_once_a_second(bench: Bench) -> None:
    statuses = [bench.next_status() for _ in range(4)]
    seconds = (statuses[-1].stamp_ns - statuses[0].stamp_ns) / 1e9
    assert 2.0 < seconds < 10.0  # 3; the rest is for a busy machine


def test_idle_node_says_what_it_waits_for(bench: Bench) -> None:
    status = bench.status_when(lambda s: "waiting" in s.message, "an idle node")
    assert status.level == Level.OK
    topics = "/in/rgb/image (publisher /peer, reliable) and /in/depth/image (publisher /peer, reliable)"
    assert status.message == f"waiting for images on {topics}"


def test_missing_stream_is_named(bench: Bench) -> None:
    def warned() -> Status | None:
        bench.rgb.publish(stamp(image("rgb8", colours()), bench.peer.now_ns()))
        bench.peer.spin(lambda: False, 0.1)
        status = Status(bench.diagnostics[-1])
        return status if "but not on" in status.message else None

    status = bench.repeat(warned, "a warning that depth is missing")
    assert status.level == Level.WARN
    peer = "publisher /peer, reliable"
    assert status.message.startswith(f"images come on /in/rgb/image ({peer}) but not on /in/depth/image ({peer})")
    assert re.search(r"; the newest of colour and depth: [0-9.]+ and [0-9.]+, [0-9.]+ s apart; check", status.message)


# Before the depth comes.


def moved(frame: int) -> NDArray[np.uint8]:
    """A colour image of its own for every frame."""
    return np.roll(colours(), 11 * frame, axis=1)


def colour_alone(bench: Bench, rgb: NDArray[np.uint8], seconds: float = 0.06) -> int:
    """Publish a colour image, wait and return its stamp."""
    now = bench.peer.now_ns()
    bench.rgb.publish(stamp(image("rgb8", rgb), now))
    bench.peer.spin(lambda: False, seconds)
    return now


def answer_to_late_depth(bench: Bench, rgb: NDArray[np.uint8]) -> tuple[NDArray, Status] | None:
    """The result and the timing of a pair whose depth comes 60 ms after its colour; None where best effort lost one."""
    now = colour_alone(bench, rgb)
    bench.depth.publish(stamp(image("16UC1", plane()), now))
    heard = bench.peer.spin(lambda: of_stamp(bench.outputs, now) and of_stamp(bench.timings, now), 2.0)
    return (pixels_of(of_stamp(bench.outputs, now)), Status(heard)) if heard else None


def begins_early(bench: Bench, pause: float = 0.0) -> int:
    """Send frames until the node begins one before its depth comes; returns how many it took."""
    for frame in itertools.count(1):
        assert frame < 200, "it never began early"
        answer = answer_to_late_depth(bench, moved(frame))
        if answer and "early_ms" in answer[1].values:
            return frame
        bench.peer.spin(lambda: False, pause)
    raise AssertionError


def test_the_node_begins_before_the_depth_comes_and_computes_the_same(bench: Bench, pipeline: Pipeline) -> None:
    for _ in range(3):
        colour_alone(bench, moved(0))  # without depth, so that what was in a row before is over
    assert begins_early(bench, pause=0.14) > Foresight.ENOUGH  # at 5 Hz, or what this machine can do
    early = 0
    for frame in range(12):
        answer = answer_to_late_depth(bench, moved(frame))
        if answer:
            result, timing = answer
            early += "early_ms" in timing.values
            assert all(float(timing.values[f"{name}_ms"]) >= 0 for name in STAGES)
            expected = pipeline.enhance(moved(frame), plane()).depth
            np.testing.assert_allclose(result, expected, atol=1e-4, err_msg=f"frame {frame}")
    assert early > 0


def test_it_need_not_begin_early(bench: Bench) -> None:
    def early_one() -> tuple[NDArray, Status] | None:
        answer = answer_to_late_depth(bench, colours())
        return answer if answer and "early_ms" in answer[1].values else None

    early, _ = bench.repeat(early_one, "a frame that was begun early")
    assert bench.set_parameter("early_guidance", False).successful
    try:
        for _ in range(5):
            result, timing = bench.repeat(lambda: answer_to_late_depth(bench, colours()), "a frame")
            assert "early_ms" not in timing.values
            np.testing.assert_array_equal(result, early)
    finally:
        assert bench.set_parameter("early_guidance", True).successful


def test_colour_images_without_depth_do_no_harm(bench: Bench, pipeline: Pipeline) -> None:
    """Looked at early or not: the next pair gets its own result."""
    expected = pipeline.enhance(colours(), plane()).depth
    for lonely in (1, 2, 12):
        begins_early(bench)
        stamps = [colour_alone(bench, 255 - moved(frame)) for frame in range(lonely)]
        result, timing = bench.repeat(lambda: answer_to_late_depth(bench, colours()), "a frame")
        assert "early_ms" not in timing.values
        np.testing.assert_allclose(result, expected, atol=1e-4)
        assert not any(of_stamp(bench.outputs, stamp) for stamp in stamps)
    rgb = image("rgb8", colours())
    rgb.step = 1  # cannot be read, early or not
    begins_early(bench)
    for _ in range(3):
        bench.rgb.publish(stamp(rgb, bench.peer.now_ns()))
        bench.peer.spin(lambda: False, 0.06)
    np.testing.assert_allclose(pixels_of(bench.answer(*good_pair())), expected, atol=1e-4)


# Whatever a driver sends.


@pytest.mark.parametrize("depth_encoding", ["16UC1", "mono16", "32FC1"])
@pytest.mark.parametrize("rgb_encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
@pytest.mark.parametrize(("padding", "big"), [(0, False), (0, True), (3, True)], ids=["plain", "big", "padded"])
def test_every_encoding_gives_the_same(
    bench: Bench, pipeline: Pipeline, rgb_encoding: str, depth_encoding: str, padding: int, big: bool
) -> None:
    r, g, b = np.moveaxis(colours(), 2, 0)
    alpha = np.full_like(r, 7)
    channels = {"rgb8": (r, g, b), "bgr8": (b, g, r), "rgba8": (r, g, b, alpha), "bgra8": (b, g, r, alpha)}
    pixels = np.stack(channels.get(rgb_encoding, (g,)), axis=2)
    depth = (plane() / 1000).astype(np.float32) if depth_encoding == "32FC1" else plane()
    output = bench.answer(image(rgb_encoding, pixels, padding), image(depth_encoding, depth, padding, big))
    expected = pipeline.enhance(g if rgb_encoding == "mono8" else colours(), plane())
    np.testing.assert_allclose(pixels_of(output), expected.depth, atol=1e-4)


def test_sizes_and_ratios_change_from_frame_to_frame(bench: Bench, pipeline: Pipeline) -> None:
    sizes = [
        ((160, 120), (40, 30)),
        ((160, 120), (160, 120)),  # registered depth
        ((96, 64), (36, 25)),  # another ratio per axis
        ((161, 119), (64, 53)),
        ((160, 120), (200, 152)),  # depth larger than colour
        ((320, 240), (20, 15)),
        ((16, 12), (2, 3)),
        ((160, 120), (40, 30)),
    ]
    for rgb, depth in sizes:
        output = bench.answer(image("rgb8", colours(*rgb)), image("16UC1", plane(*depth)))
        assert (output.width, output.height) == rgb
        expected = pipeline.enhance(colours(*rgb), plane(*depth)).depth
        np.testing.assert_allclose(pixels_of(output), expected, atol=1e-4, err_msg=f"{rgb} from {depth}")


GARBAGE = {
    "rgb step too small": ("step", "rgb", {"step": 3 * WIDTH - 1}),
    "depth step zero": ("step", "depth", {"step": 0}),
    "rgb data too short": ("length", "rgb", {"data": bytes(100)}),
    "depth higher than its data": ("length", "depth", {"height": 10_000}),
    "rgb without data": ("empty", "rgb", {"data": b""}),
    "rgb of unknown encoding": ("encoding", "rgb", {"encoding": "rgb9"}),
    "depth of a colour encoding": ("encoding", "depth", {"encoding": "rgb8"}),
    "rgb of width zero": ("size", "rgb", {"width": 0}),
    "depth of height zero": ("size", "depth", {"height": 0}),
}


@pytest.mark.parametrize(("reason", "which", "changes"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_and_counted(bench: Bench, reason: str, which: str, changes: dict[str, Any]) -> None:
    key = f"dropped: {reason}"
    before = Status(bench.diagnostics[-1]).count(key)
    rgb, depth = good_pair()
    for name, value in changes.items():
        setattr(rgb if which == "rgb" else depth, name, array("B", value) if name == "data" else value)

    def refused() -> Status | None:
        stamp = bench.send(rgb, depth)
        status = bench.next_status()
        assert not of_stamp(bench.outputs, stamp)
        return status if status.count(key) > before else None

    status = bench.repeat(refused, f"{key!r} in the diagnostics")
    assert status.level == Level.WARN
    assert f" for {reason}" in status.message
    assert bench.answer(*good_pair())


def test_refusals_are_logged_once_in_five_seconds(bench: Bench) -> None:
    rgb, depth = good_pair()
    depth.encoding = "rgb8"

    def lines() -> list[float]:
        found = re.findall(r"^\[WARN\] \[([0-9.]+)\] .*pair refused: ", bench.process.log, re.MULTILINE)
        return [float(seconds) for seconds in found]

    before = len(lines())

    def logged() -> bool:
        bench.send(rgb, depth)
        bench.peer.spin(lambda: False, 0.1)
        return len(lines()) > before

    bench.repeat(logged, "a line in the log")
    assert all(later - earlier > 4.9 for earlier, later in pairwise(lines()))
    assert "wanted: 16UC1" in bench.process.log.rstrip().splitlines()[-1]


@pytest.mark.parametrize(
    "depth", [np.zeros((30, 40), np.uint16), np.full((30, 40), np.nan, np.float32)], ids=["0", "NaN"]
)
def test_depth_without_a_measurement_gives_an_image_of_nan(bench: Bench, depth: NDArray) -> None:
    """Not refused: that nothing can be known is an answer, and the next nodes need one a frame."""
    output = bench.answer(image("rgb8", colours()), image("16UC1" if depth.dtype == np.uint16 else "32FC1", depth))
    assert (output.width, output.height) == (WIDTH, HEIGHT)
    assert np.isnan(pixels_of(output)).all()
    assert np.isfinite(pixels_of(bench.answer(*good_pair()))).all()


@pytest.mark.parametrize("topics", [{"rgb"}, {"rgb", "depth"}], ids=["colour", "both"])
def test_zero_stamps_are_paired_by_arrival(bench: Bench, topics: set[str]) -> None:
    """The Kinect v1's driver stamps no colour image; a slop is set, since this test's publisher is no steady camera."""
    assert bench.set_parameter("slop", 0.2).successful
    try:
        rgb, depth = good_pair()  # not stamped
        started = bench.peer.now_ns()
        known = len(bench.outputs)

        def come() -> Any:
            bench.send_as_it_is(rgb, depth if "depth" in topics else stamp(depth, bench.peer.now_ns()))
            bench.peer.spin(lambda: len(bench.outputs) > known, 1.0)
            return bench.outputs[known:]

        output = bench.repeat(come, "an output")[0]
        assert started <= stamp_ns(output.header.stamp) <= bench.peer.now_ns()
        assert output.header.frame_id == FRAME_ID
        status = bench.next_status()
        assert status.count("rgb stamps of zero") > 0
        assert status.values["paired by"] == "arrival"
        assert bench.answer(*good_pair()), "stamps are used again when they are there"
    finally:
        assert bench.set_parameter("slop", 0.0).successful


def test_stamps_that_go_back_start_the_pairing_anew(bench: Bench) -> None:
    """A bag that starts again."""
    rgb, depth = good_pair()
    bench.answer(rgb, depth)
    before = bench.next_status().count("clock jumps")
    stamps = itertools.count(bench.peer.now_ns() - 100_000_000_000, 33_000_000)

    def come() -> Any:
        now = next(stamps)
        bench.send_as_it_is(stamp(rgb, now), stamp(depth, now))
        return bench.peer.spin(lambda: of_stamp(bench.outputs, now), 2.0)

    log = len(bench.process.log)
    for _ in range(5):
        assert bench.repeat(come, "an output with an old stamp")
    status = bench.next_status()
    assert status.count("clock jumps") == before + 1
    assert status.values["paired by"] == "stamps"
    assert float(status.values["pair difference (ms)"]) == 0.0
    lines = re.findall(r"clock went back by ([0-9.]+) s; pairing starts anew", bench.process.log[log:])
    assert len(lines) == 1
    assert 0 < float(lines[0]) < 100


# Parameters while it runs.


def test_output_encoding_changes_while_it_runs(bench: Bench, pipeline: Pipeline) -> None:
    assert bench.set_parameter("output_encoding", "16UC1").successful
    try:
        output = bench.answer(*good_pair())
        assert output.encoding == "16UC1"
        expected = 1000 * pipeline.enhance(colours(), plane()).depth
        assert np.abs(pixels_of(output) - expected).max() < 0.7  # half a millimetre, and the last bits of both
    finally:
        assert bench.set_parameter("output_encoding", "32FC1").successful
    assert bench.answer(*good_pair()).encoding == "32FC1"


def test_depth_limits_change_while_it_runs(bench: Bench) -> None:
    assert bench.set_parameter("max_depth", 0.5).successful
    try:
        assert np.isnan(pixels_of(bench.answer(*good_pair()))).all()
    finally:
        assert bench.set_parameter("max_depth", 0.0).successful
    assert np.isfinite(pixels_of(bench.answer(*good_pair()))).all()


def test_precision_changes_while_it_runs(bench: Bench, pipeline: Pipeline) -> None:
    exact = pipeline.enhance(colours(), plane()).depth
    assert bench.set_parameter("precision", "bfloat16").successful
    try:
        rounded = pixels_of(bench.answer(*good_pair()))
        assert 0 < np.abs(rounded - exact).max() < 0.05
        bench.status_when(lambda s: s.values["precision"] == "bfloat16", "the diagnostics to say so")
    finally:
        assert bench.set_parameter("precision", "float32").successful
    np.testing.assert_allclose(pixels_of(bench.answer(*good_pair())), exact, atol=1e-4)


def test_fill_distance_changes_while_it_runs(bench: Bench) -> None:
    rgb, depth = image("rgb8", colours()), plane()
    depth[10:20, 10:20] = 0
    assert bench.set_parameter("fill_distance", 0.0).successful
    try:
        assert np.isnan(pixels_of(bench.answer(rgb, image("16UC1", depth)))).any()
    finally:
        assert bench.set_parameter("fill_distance", 32.0).successful
    assert np.isfinite(pixels_of(bench.answer(rgb, image("16UC1", depth)))).all()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("device", "cuda", "read-only"),
        ("warm_up_width", 320, "read-only"),
        ("slop", -1.0, "range"),
        ("output_encoding", "8UC1", "wanted: one of '32FC1', '16UC1'"),
        ("precision", "float16", "only the GPU serves, and device is cpu; wanted: device cuda, or auto"),
        ("queue_size", 11, "read-only while the node is configured; set at start, or after cleanup"),
        ("autostart", False, "read-only"),
        ("max_depth", "far", "max_depth is 'far' (str); wanted: float"),
        ("no_such_parameter", 1, "declared"),
    ],
)
def test_unfit_parameters_are_refused_with_a_reason(bench: Bench, name: str, value: Any, reason: str) -> None:
    answer = bench.set_parameter(name, value)
    assert not answer.successful
    assert reason in answer.reason
    assert bench.answer(*good_pair()).encoding == "32FC1"


# Start and end.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weights": "/nowhere/fdkn.safetensors"}, "no weight file /nowhere/fdkn.safetensors"),
        ({"device": "gpu"}, "device is 'gpu'; wanted: auto, cpu, cuda or cuda:N"),
    ],
    ids=["weights", "device"],
)
def test_node_that_cannot_start_says_why_in_one_line(arguments: list[str], wrong: dict[str, str], said: str) -> None:
    with running("dkn_ros.ros.node", [*arguments, *parameters(**wrong)[1:]], next_domain()) as process:
        assert process.wait() == 1
        (line,) = process.log.splitlines()
        assert line.startswith("[FATAL]")
        assert f"cannot start: {said}" in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--params-file", "/nowhere/dkn.yaml"], "'--params-file /nowhere/dkn.yaml'"),
        (["--params-file", "{broken}"], "ros__parameters"),
        (["-r", "in/rgb/image:=bad//name"], "'-r in/rgb/image:=bad//name'"),
    ],
    ids=["missing", "broken", "remapping"],
)
def test_ros_arguments_that_cannot_be_read_are_told_without_a_traceback(
    tmp_path: Path, given: list[str], said: str
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("/**/dkn_node:\n  ros__parameters:\n  max_depth: [4.0\n")
    arguments = ["--ros-args", *(part.format(broken=broken) for part in given)]
    with running("dkn_ros.ros.node", arguments, next_domain()) as process:
        assert process.wait() == 1
        assert "Traceback" not in process.log
        last = process.log.splitlines()[-1]
        assert last.startswith("[FATAL]") and "cannot start: " in last and said in last
        assert ".c:" not in last  # of rcl's source


both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@both_signals
def test_signal_ends_an_idle_node(arguments: list[str], number: signal.Signals) -> None:
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        heard = peer.diagnostics()
        status = Status(peer.until(lambda: heard, "diagnostics", process)[-1])
        assert {status.values[f"{camera} publishers"] for camera in ("rgb", "depth")} == {"no publisher"}
        assert_ends(process, number)


@both_signals
def test_signal_ends_a_working_node(arguments: list[str], number: signal.Signals) -> None:
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        bench = Bench(peer, process)
        large = image("rgb8", colours(320, 240)), image("16UC1", plane())
        bench.answer(*large)
        for _ in range(3):
            bench.send(*large)
        assert_ends(process, number)


@both_signals
def test_signal_ends_a_node_that_loads_its_libraries(arguments: list[str], number: signal.Signals) -> None:
    with running("dkn_ros.ros.node", [*arguments, "--log-level", "rcl:=debug"], next_domain()) as process:
        process.wait_for_handler(signal.SIGTERM)  # Python itself has one for SIGINT
        assert_ends(process, number)
        assert "Initializing node 'dkn_node'" not in process.log


@both_signals
def test_signal_ends_a_node_that_warms_up(arguments: list[str], number: signal.Signals) -> None:
    large = parameters(warm_up_width=1920, warm_up_height=1080)[1:]
    with running("dkn_ros.ros.node", [*arguments, *large, "--log-level", "rcl:=debug"], next_domain()) as process:
        process.wait_for_log("Initializing node 'dkn_node'")
        assert_ends(process, number)
        assert "ready" not in process.log


def assert_ends(process: Process, number: signal.Signals) -> None:
    """It ends soon and content; in less than two seconds, were this machine not busy with tests."""
    started = time.monotonic()
    process.send(number)
    status = process.wait()
    seconds = time.monotonic() - started
    print(f"ended {seconds:.2f} s after {number.name}")
    assert status == 0
    assert seconds < 5.0
    assert "Traceback" not in process.log
