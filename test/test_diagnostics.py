"""The messages in which the node tells of itself."""

from __future__ import annotations

import math

import pytest

from dkn_ros.config import NodeConfig
from dkn_ros.ros.assessment import Level
from dkn_ros.ros.counts import Counts, Jitter, Snapshot
from dkn_ros.ros.diagnostics import diagnostic_array, status_values, timing_array
from dkn_ros.ros.sync import SyncState

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
        delay=(0.0305, 0.0712),
        difference_ms=3.5,
        processing_ms=6.25,
        stages_ms={"receive": (0.5, 0.75, 1.0), "average": (5.0, 6.0, 7.125)},
        rgb_jitter=Jitter(33.3, 0.5, 2.0),
        overruns=4,
    )
    config = NodeConfig(min_rate=10.0)
    assert status_values(now, SYNC, slop=0.0163, synchroniser="message_filters", config=config) == {
        "Events in window": "65",
        "Events since startup": "700",
        "Duration of window (s)": "5.000000",
        "Actual frequency (Hz)": "13.000000",
        "Minimum acceptable frequency (Hz)": "10.000000",
        "Earliest timestamp delay:": "0.030500",
        "Latest timestamp delay:": "0.071200",
        "rgb rate (Hz)": "30.00",
        "depth rate (Hz)": "15.00",
        "pair rate (Hz)": "14.00",
        "output rate (Hz)": "13.00",
        "latency p50 (ms)": "7.12",
        "latency p95 (ms)": "9.00",
        "latency p99 (ms)": "nan",
        "processing (ms)": "6.25",
        "stage receive p50 (ms)": "0.50",
        "stage receive p95 (ms)": "0.75",
        "stage receive p99 (ms)": "1.00",
        "stage average p50 (ms)": "5.00",
        "stage average p95 (ms)": "6.00",
        "stage average p99 (ms)": "7.12",
        "overruns in a row": "4",
        "rgb jitter mean (ms)": "0.50",
        "rgb jitter largest (ms)": "2.00",
        **{f"{name} jitter {what} (ms)": "nan" for name in ("depth", "pair", "output") for what in ("mean", "largest")},
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
        "largest pair difference (ms)": "3.50",
        "slop (ms)": "16.30",
        "synchroniser": "message_filters",
    }


def test_keys_of_what_is_unknown_or_not_set_are_left_out() -> None:
    values = status_values(Snapshot(), SYNC, slop=0.0, synchroniser="nearest", config=NodeConfig())
    assert not {"Minimum acceptable frequency (Hz)", "Earliest timestamp delay:"} & values.keys()


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
