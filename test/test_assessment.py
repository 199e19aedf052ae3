"""What the node makes of its counts: level and sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from counting import Clock, counting, run

from dkn_ros.config import NodeConfig
from dkn_ros.ros.assessment import Finding, Inputs, Level, Work, assess, findings
from dkn_ros.ros.counts import Counts, Jitter, Snapshot, Statistics

IDLE_SECONDS = 2.0
CONFIG = NodeConfig(idle_seconds=IDLE_SECONDS)
INPUTS = Inputs("/camera/rgb", "publisher /driver, reliable", "/camera/depth", "no publisher", slop=0.0163)


def level(statistics: Statistics, inputs: Inputs = INPUTS, config: NodeConfig = CONFIG) -> tuple[Level, str]:
    now = statistics.snapshot()
    return assess(findings(now, inputs, config), now, inputs, config)


def test_idle_is_ok_and_names_topics_and_publishers() -> None:
    clock = Clock()
    statistics = counting(clock)
    waiting = "waiting for images on /camera/rgb (publisher /driver, reliable) and /camera/depth (no publisher)"
    assert level(statistics) == (Level.OK, waiting)
    run(statistics, clock, 90)
    assert level(statistics)[1] != waiting
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics) == (Level.OK, waiting)


def test_running_is_ok_with_rate_and_latency() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 300)
    assert level(statistics) == (Level.OK, "32.0 Hz, p50 7.0 ms")


def test_the_rate_is_that_since_frames_come() -> None:
    """Not that of a window in which there was no camera yet: the first seconds would call a fast one slow."""
    clock = Clock()
    statistics = counting(clock)
    clock.now += 60.0
    run(statistics, clock, 64)  # two seconds at 32 Hz
    rate = float(level(statistics)[1].split(" Hz")[0])
    assert rate == pytest.approx(32.0, rel=0.05)


def test_the_first_pairs_are_no_fault() -> None:
    statistics = counting(Clock())
    statistics.paired()
    assert level(statistics) == (Level.OK, "pairs arrive, none is published yet")


def test_depth_without_anything_valid_is_told_after_some_images_and_until_some_is() -> None:
    statistics = counting(Clock())
    statistics.paired()
    for _ in range(9):
        statistics.published(7.0, 5.0, 0, blind=True)
    assert level(statistics)[0] == Level.OK
    statistics.published(7.0, 5.0, 0, blind=True)
    found, text = level(statistics)
    assert found == Level.WARN
    assert text.startswith("nothing is valid in the last 10 depth images") and "min_depth and max_depth" in text
    statistics.published(7.0, 5.0, 0)
    assert level(statistics)[0] == Level.OK


def test_overload_and_its_end() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 200, busy_every=2, processing_ms=60.0)
    assert level(statistics) == (
        Level.WARN,
        "overloaded: a frame takes 60 ms, pairs come every 31 ms; 80 of 160 pairs dropped in the last 5 s; "
        "lower the camera's rate or size",
    )
    open_yet = Work(2, ["precision to int8", "weights to fdkn-small"])
    (found,) = findings(statistics.snapshot(), INPUTS, CONFIG, work=open_yet)
    assert found.text.startswith("overloaded: a frame takes 60 ms, 2 are in work at once, pairs come every 31 ms; ")
    assert found.text.endswith("rate or size, or set precision to int8 or weights to fdkn-small")
    run(statistics, clock, 10)
    assert level(statistics)[0] == Level.OK


def test_an_overload_in_which_nothing_gets_done() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 64, busy_every=1)
    assert level(statistics)[1].startswith("overloaded: no frame was done, pairs come every 31 ms; 64 of 64 pairs")


def test_what_was_an_overload_is_idle_when_nothing_comes() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 200, busy_every=1)
    assert level(statistics)[0] == Level.WARN
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics)[0] == Level.OK


@pytest.mark.parametrize(
    ("limit", "kept", "broken", "message"),
    [
        ("min_rate", 25.0, 40.0, "output at 32.2 Hz; wanted: at least 40 (min_rate)"),
        ("max_latency", 0.0071, 0.0069, "latency p95 is 7 ms; wanted: at most 7 (max_latency)"),
        ("max_difference", 0.0011, 0.0009, "stamps of a pair differ by 1.0 ms; wanted: at most 0.9 (max_difference)"),
    ],
)
def test_limits(limit: str, kept: float, broken: float, message: str) -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 300)

    def limited(value: float) -> tuple[Level, str]:
        return level(statistics, config=NodeConfig.from_mapping({"idle_seconds": IDLE_SECONDS, limit: value}))

    assert limited(0.0)[0] == limited(kept)[0] == Level.OK
    assert limited(broken) == (Level.WARN, message)
    clock.now += IDLE_SECONDS + 0.1
    assert limited(broken)[0] == Level.OK  # an idle camera breaks no limit


def test_a_slop_that_one_lost_image_makes_dangerous_is_told() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 90)
    risky = replace(INPUTS, largest_slop=0.0156)
    assert level(statistics, risky) == (
        Level.WARN,
        "slop is 16.3 ms, more than half the period, so that a lost image can put every later pair a frame off; "
        "set slop to at most 0.015, or to 0, or pairing to nearest",
    )
    assert level(statistics, replace(INPUTS, largest_slop=0.0163))[0] == Level.OK
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics, risky)[0] == Level.OK


def test_a_camera_info_of_another_shape_is_told_while_images_come() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 90)
    work = Work(misshapen="camera_info is of 640x480, the image 1280x720, of another shape; load another")
    config = NodeConfig(idle_seconds=IDLE_SECONDS, camera_info_topic="depth/upsampled/camera_info")
    (found,) = findings(statistics.snapshot(), INPUTS, config, work=work)
    stretched = "until then depth/upsampled/camera_info is stretched to the image"
    assert found == Finding(Level.WARN, "camera_info of another shape", f"{work.misshapen}; {stretched}", counted=False)
    clock.now += IDLE_SECONDS + 0.1
    assert findings(statistics.snapshot(), INPUTS, config, work=work) == []


def test_a_rate_of_nothing_is_below_every_limit() -> None:
    """Pairs come, but nothing goes out."""
    clock = Clock()
    statistics = counting(clock)
    for _ in range(64):
        clock.now += 1 / 32
        statistics.paired()
    limited = level(statistics, config=NodeConfig(min_rate=1.0))
    assert limited == (Level.WARN, "output at 0.0 Hz; wanted: at least 1 (min_rate)")


def test_refused_frames_are_named_with_their_reasons() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 150)
    statistics.refused("step", "rgb8 image 640x480 has step 3; wanted: at least 1920 bytes a row")
    statistics.refused("encoding", "depth image has encoding 'rgb8'; wanted: 16UC1, mono16, 32FC1")
    statistics.refused("step", "rgb8 image 640x480 has step 4; wanted: at least 1920 bytes a row")
    assert level(statistics) == (
        Level.WARN,
        "pairs refused in the last 5 s: 1 for encoding, 2 for step; "
        "last: rgb8 image 640x480 has step 4; wanted: at least 1920 bytes a row",
    )
    run(statistics, clock, 200)
    assert level(statistics)[0] == Level.OK


def test_failure_is_an_error_until_a_frame_is_published() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 10)
    statistics.failed("weights 'fdkn' not found; see `dkn weights list`")
    clock.now += 60
    assert level(statistics) == (Level.ERROR, "weights 'fdkn' not found; see `dkn weights list`")
    run(statistics, clock, 160)
    assert level(statistics) == (Level.OK, "32.0 Hz, p50 7.0 ms")


def test_stamps_that_never_pair_are_a_warning() -> None:
    clock = Clock()
    statistics = counting(clock)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb()
        statistics.received_depth()
    assert level(statistics) == (
        Level.WARN,
        "no stamps of /camera/rgb (publisher /driver, reliable) and /camera/depth (no publisher) are within 16.3 ms; "
        "set the parameter slop",
    )
    newest = replace(INPUTS, newest=(1_700_000_003_250_999_999, 1_700_000_000_000_000_001))
    said = "16.3 ms; the newest of colour and depth: 1700000003.250 and 1700000000.000, 3.250 s apart; set"
    assert said in level(statistics, newest)[1]
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics)[0] == Level.OK


def test_that_stamps_are_zero_is_said() -> None:
    clock = Clock()
    statistics = counting(clock)
    by_arrival = replace(INPUTS, by_arrival=True)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb()
        statistics.received_depth()
    unpaired = level(statistics, by_arrival)
    assert unpaired[0] == Level.WARN and unpaired[1].startswith("no arrivals of /camera/rgb")
    run(statistics, clock, 160)
    working = level(statistics, by_arrival)
    assert working == (Level.OK, "32.0 Hz, p50 7.0 ms; paired by arrival, stamps are zero")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("depth", "images come on /camera/rgb (publisher /driver, reliable) but not on /camera/depth (no publisher)"),
        ("rgb", "images come on /camera/depth (no publisher) but not on /camera/rgb (publisher /driver, reliable)"),
    ],
)
def test_one_silent_topic_is_a_warning(missing: str, message: str) -> None:
    clock = Clock()
    statistics = counting(clock)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb() if missing == "depth" else statistics.received_depth()
    assert level(statistics) == (Level.WARN, f"{message}; check that driver")
    stamp = 1_700_000_000_500_000_000
    one = replace(INPUTS, newest=(stamp, None) if missing == "depth" else (None, stamp))
    seen = "1700000000.500 and none" if missing == "depth" else "none and 1700000000.500"
    assert level(statistics, one) == (
        Level.WARN, f"{message}; the newest of colour and depth: {seen}; check that driver"
    )  # fmt: skip


def test_a_camera_that_just_starts_is_no_fault() -> None:
    clock = Clock()
    statistics = counting(clock)
    for _ in range(4):
        statistics.received_rgb()
        statistics.received_depth()
    assert level(statistics)[0] == Level.OK


def test_the_most_important_comes_first() -> None:
    """What keeps all frames back, what keeps images away, what others do, what is slow."""
    bad = Snapshot(
        recent=Counts(30, 30, 30, 5, {"busy": 30, "empty": 1}),
        latency_ms=(50.0, 70.0, 90.0),
        since_pair=0.0,
        overloaded=True,
        processing_ms=60.0,
        pair_jitter=Jitter(33.0),
        refusal="no data",
        failure="no weights",
    )
    config = NodeConfig(max_latency=0.05)
    unheard = [Finding(Level.WARN, "a", "rgb cannot be heard")]
    beside = [Finding(Level.WARN, "b", "somebody else publishes it")]
    found = findings(bad, INPUTS, config, unheard, beside)
    assert [finding.key for finding in found] == ["failure", "refused", "a", "b", "overload", "max_latency"]
    assert assess(found, bad, INPUTS, config) == (Level.ERROR, "no weights (and 5 more, see its values)")
    assert assess(found[1:2], bad, INPUTS, config)[0] == Level.WARN
    early = Finding(Level.OK, "c", "no publisher yet")
    found = findings(bad, INPUTS, config, [early, *unheard], beside)
    assert [finding.key for finding in found][-1] == "c", "what is no fault yet does not stand before what is one"
    assert assess([early], bad, INPUTS, config) == (Level.OK, "no publisher yet")


def test_a_stream_that_cannot_be_heard_is_told_once() -> None:
    clock = Clock()
    statistics = counting(clock)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb()
    unheard = [Finding(Level.WARN, "/camera/depth: no publisher", "/camera/depth: no publisher; start the driver")]
    found = findings(statistics.snapshot(), INPUTS, CONFIG, unheard)
    assert found == unheard
    assert [finding.key for finding in findings(statistics.snapshot(), INPUTS, CONFIG)] == ["images on one topic only"]
