"""The node's account of itself: what is counted, which level it is, and what is published."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest

from dkn_ros.ros.diagnostics import (
    WINDOW_SECONDS,
    Counts,
    Inputs,
    Level,
    Snapshot,
    Statistics,
    assess,
    diagnostic_array,
    status_values,
    timing_array,
)
from dkn_ros.ros.sync import SyncState

IDLE_SECONDS = 2.0
INPUTS = Inputs("/camera/rgb", 1, "/camera/depth", 2, slop=0.0163)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(statistics: Statistics, clock: Clock, frames: int, busy_every: int = 0) -> None:
    """Frames at 32 Hz: received, paired and published after 7 ms, except that each `busy_every`th is dropped."""
    for number in range(1, frames + 1):
        clock.now += 1 / 32  # exact in binary
        statistics.received_rgb()
        statistics.received_depth()
        statistics.paired()
        if busy_every and number % busy_every == 0:
            statistics.dropped_busy()
        else:
            statistics.published(7.0)


def level(statistics: Statistics) -> tuple[Level, str]:
    return assess(statistics.snapshot(), INPUTS, IDLE_SECONDS)


def test_rates_and_totals() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    run(statistics, clock, 320, busy_every=4)
    now = statistics.snapshot()
    assert now.seconds == WINDOW_SECONDS
    assert now.recent == Counts(160, 160, 160, 120, {"busy": 40})
    assert now.total == Counts(320, 320, 320, 240, {"busy": 80})


def test_the_window_is_shorter_right_after_the_start() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    assert statistics.snapshot().seconds > 0
    run(statistics, clock, 32)
    now = statistics.snapshot()
    assert now.seconds == 1.0
    assert now.recent.pairs == 32


def test_what_is_old_leaves_the_window_but_not_the_totals() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    run(statistics, clock, 30)
    statistics.refused("step", "rgb8 image has step 3")
    clock.now += WINDOW_SECONDS + 1
    now = statistics.snapshot()
    assert now.recent == Counts(dropped={"step": 0})
    assert now.total == Counts(30, 30, 30, 30, {"step": 1})
    assert all(math.isnan(latency) for latency in now.latency_ms)


def test_percentiles_of_the_latency() -> None:
    statistics = Statistics(Clock())
    for latency in range(101):
        statistics.published(float(latency))
    assert statistics.snapshot().latency_ms == (50.0, 95.0, 99.0)


def test_times_since_the_last_images() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    assert statistics.snapshot().since_pair == math.inf
    run(statistics, clock, 1)
    for _ in range(3):
        clock.now += 0.5
        statistics.received_rgb()
    clock.now += 0.25
    now = statistics.snapshot()
    assert (now.since_rgb, now.since_depth, now.since_pair) == (0.25, 1.75, 1.75)
    assert (now.unpaired_rgb, now.unpaired_depth) == (3, 0)


def test_threads_lose_no_count() -> None:
    statistics = Statistics()

    def count() -> None:
        for _ in range(2000):
            statistics.paired()
            statistics.dropped_busy()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert statistics.snapshot().total == Counts(pairs=8000, dropped={"busy": 8000})


def test_idle_is_ok_and_names_topics_and_publishers() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    waiting = "waiting for images on /camera/rgb (1 publisher) and /camera/depth (2 publishers)"
    assert level(statistics) == (Level.OK, waiting)
    run(statistics, clock, 90)
    assert level(statistics)[1] != waiting
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics) == (Level.OK, waiting)


def test_running_is_ok_with_rate_and_latency() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    run(statistics, clock, 300)
    assert level(statistics) == (Level.OK, "32.0 Hz, p50 7.0 ms")


def test_the_first_pairs_are_no_fault() -> None:
    statistics = Statistics(Clock())
    statistics.paired()
    assert level(statistics) == (Level.OK, "pairs arrive, none is published yet")


@pytest.mark.parametrize(
    ("busy_every", "expected"),
    [
        (10, (Level.OK, "28.8 Hz, p50 7.0 ms")),
        (8, (Level.WARN, "falling behind: 20 of 160 pairs dropped in the last 5 s")),
        (1, (Level.WARN, "falling behind: 160 of 160 pairs dropped in the last 5 s")),
    ],
)
def test_more_than_a_tenth_dropped_is_falling_behind(busy_every: int, expected: tuple[Level, str]) -> None:
    clock = Clock()
    statistics = Statistics(clock)
    run(statistics, clock, 400, busy_every=busy_every)
    assert level(statistics) == expected


def test_refused_frames_are_named_with_their_reasons() -> None:
    clock = Clock()
    statistics = Statistics(clock)
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
    statistics = Statistics(clock)
    run(statistics, clock, 10)
    statistics.failed("weights 'fdkn' not found; see `dkn weights list`")
    clock.now += 60
    assert level(statistics) == (Level.ERROR, "weights 'fdkn' not found; see `dkn weights list`")
    run(statistics, clock, 160)
    assert level(statistics) == (Level.OK, "32.0 Hz, p50 7.0 ms")


def test_stamps_that_never_pair_are_a_warning() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb()
        statistics.received_depth()
    assert level(statistics) == (
        Level.WARN,
        "no stamps of /camera/rgb (1 publisher) and /camera/depth (2 publishers) are within 16.3 ms; "
        "set the parameter slop",
    )
    clock.now += IDLE_SECONDS + 0.1
    assert level(statistics)[0] == Level.OK


def test_that_stamps_are_zero_is_said() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    by_arrival = replace(INPUTS, by_arrival=True)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb()
        statistics.received_depth()
    unpaired = assess(statistics.snapshot(), by_arrival, IDLE_SECONDS)
    assert unpaired[0] == Level.WARN and unpaired[1].startswith("no arrivals of /camera/rgb")
    run(statistics, clock, 160)
    working = assess(statistics.snapshot(), by_arrival, IDLE_SECONDS)
    assert working == (Level.OK, "32.0 Hz, p50 7.0 ms; paired by arrival, stamps are zero")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("depth", "images come on /camera/rgb (1 publisher) but not on /camera/depth (2 publishers)"),
        ("rgb", "images come on /camera/depth (2 publishers) but not on /camera/rgb (1 publisher)"),
    ],
)
def test_one_silent_topic_is_a_warning(missing: str, message: str) -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(90):
        clock.now += 1 / 32
        statistics.received_rgb() if missing == "depth" else statistics.received_depth()
    assert level(statistics) == (Level.WARN, f"{message}; check its publisher and QoS")


def test_a_camera_that_just_starts_is_no_fault() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(4):
        statistics.received_rgb()
        statistics.received_depth()
    assert level(statistics)[0] == Level.OK


def test_the_worst_comes_first() -> None:
    bad = Snapshot(
        recent=Counts(30, 30, 30, 0, {"busy": 30, "empty": 1}), since_pair=0.0, refusal="no data", failure="no weights"
    )
    assert assess(bad, INPUTS, IDLE_SECONDS) == (Level.ERROR, "no weights")
    assert "1 for empty; last: no data" in assess(replace(bad, failure=""), INPUTS, IDLE_SECONDS)[1]
    busy = replace(bad, failure="", recent=Counts(30, 30, 30, 0, {"busy": 30, "empty": 0}))
    assert assess(busy, INPUTS, IDLE_SECONDS)[1].startswith("falling behind: 30 of 30")


SYNC = SyncState(
    received=(100, 90),
    paired=80,
    waiting=(2, 1),
    zero_stamps=(3, 4),
    by_arrival=True,
    clock_jumps=5,
    periods_ns=(33_366_700, None),
    offset_ns=-4_125_000,
    difference_ns=1_000_000,
)


def test_values_of_the_status() -> None:
    now = Snapshot(
        seconds=5.0,
        recent=Counts(150, 75, 70, 65),
        total=Counts(1000, 900, 800, 700, {"step": 3, "busy": 97}),
        latency_ms=(7.125, 9.0, math.nan),
    )
    assert status_values(now, SYNC, slop=0.0163, synchroniser="message_filters") == {
        "rgb rate (Hz)": "30.00",
        "depth rate (Hz)": "15.00",
        "pair rate (Hz)": "14.00",
        "output rate (Hz)": "13.00",
        "latency p50 (ms)": "7.12",
        "latency p95 (ms)": "9.00",
        "latency p99 (ms)": "nan",
        "pairs": "800",
        "published": "700",
        "dropped: busy": "97",
        "dropped: step": "3",
        "dropped: rgb without depth": "18",
        "dropped: depth without rgb": "9",
        "rgb stamps of zero": "3",
        "depth stamps of zero": "4",
        "paired by": "arrival",
        "clock jumps": "5",
        "rgb period (ms)": "33.37",
        "depth period (ms)": "unknown",
        "stamp offset (ms)": "-4.12",
        "pair difference (ms)": "1.00",
        "slop (ms)": "16.30",
        "synchroniser": "message_filters",
    }


def test_messages() -> None:
    pytest.importorskip("diagnostic_msgs.msg", reason="diagnostic_msgs is not installed")
    from builtin_interfaces.msg import Time

    array = diagnostic_array(
        Time(sec=5), "dkn_node: depth upsampling", "cuda:0", Level.WARN, "falling behind", {"pairs": "3"}
    )
    (status,) = array.status
    assert array.header.stamp.sec == 5
    assert (status.level, status.name, status.hardware_id) == (b"\x01", "dkn_node: depth upsampling", "cuda:0")
    assert status.message == "falling behind"
    assert [(value.key, value.value) for value in status.values] == [("pairs", "3")]


def test_timing_message() -> None:
    pytest.importorskip("diagnostic_msgs.msg", reason="diagnostic_msgs is not installed")
    from builtin_interfaces.msg import Time

    array = timing_array(
        Time(sec=7, nanosec=8),
        "cpu",
        {"preprocess": 1.5, "network": 20.25},
        total_ms=21.0,
        latency_ms=25.5,
        pair_difference_ms=-3.25,
        rgb_size=(640, 480),
        depth_size=(80, 60),
    )
    (status,) = array.status
    assert (array.header.stamp.sec, array.header.stamp.nanosec) == (7, 8)
    assert (status.level, status.name, status.message) == (b"\x00", "dkn_ros: timing", "21.0 ms")
    assert {value.key: value.value for value in status.values} == {
        "preprocess_ms": "1.500",
        "network_ms": "20.250",
        "total_ms": "21.000",
        "latency_ms": "25.500",
        "pair_difference_ms": "-3.250",
        "rgb_size": "640x480",
        "depth_size": "80x60",
    }
