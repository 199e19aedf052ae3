"""Images that come long after their partners, and clocks that differ: what is advised where nothing pairs is of use."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest

from dkn_ros.config import NodeConfig
from dkn_ros.ros.assessment import Inputs, findings
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.rhythm import DEPTH, RGB, TOPICS
from dkn_ros.ros.sync import make_synchroniser

START = 1_700_000_000_000_000_000
MS = 1_000_000
SECONDS = 6
NAMES = ("colour", "depth")


def run(
    config: NodeConfig, hertz: int = 30, late: tuple[int, int] = (0, 0), ahead_ms: int = 0
) -> tuple[list[int], str]:
    """How many frames off the pairs of the last second are, and what the diagnostics say of the pairing then.

    late: milliseconds from the exposure of colour and depth to their arrival.  ahead_ms: the clock of the depth.
    """
    now = 0
    heard: list[int] = []

    def paired(pair: Pair) -> None:
        statistics.paired(pair.difference_ms)
        if now > (SECONDS - 1) * 1000 * MS:
            heard.append(pair.depth.frame - pair.rgb.frame)

    statistics = Statistics(lambda: 0, clock=lambda: now / 1e9)
    synchroniser = make_synchroniser(paired, config.queue_size, config.slop, config.pairing)
    exposures = [(frame, frame * 1000 * MS // hertz) for frame in range(SECONDS * hertz)]
    arrivals = [(exposed + late[topic] * MS, topic, frame, exposed) for frame, exposed in exposures for topic in TOPICS]
    for now, topic, frame, exposed in sorted(arrivals):
        if now >= SECONDS * 1000 * MS:
            break
        statistics.received_rgb() if topic == RGB else statistics.received_depth()
        stamp = START + exposed + (ahead_ms * MS if topic == DEPTH else 0)
        synchroniser.add(topic, stamp, SimpleNamespace(frame=frame), START + now)
    state = synchroniser.state()
    largest = math.inf if state.largest_slop_ns is None else state.largest_slop_ns / 1e9
    who = "/rgb", "publisher /driver, reliable", "/depth", "publisher /driver, reliable"
    inputs = Inputs(
        *who, synchroniser.slop, largest, state.newest_ns, periods=state.periods_ns, slop_rules=state.slop_rules
    )
    return heard, "; ".join(finding.text for finding in findings(statistics.snapshot(), inputs, config))


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    ("hertz", "late_ms", "slop"),
    [(30, 340, 0.0), (30, 400, 0.0), (30, 400, 1.0), (30, 900, 0.0), (90, 130, 0.0), (90, 400, 0.0), (6, 1900, 1.0)],
)
def test_where_a_topic_comes_late_the_queue_that_is_advised_pairs_it(
    hertz: int, late_ms: int, slop: float, topic: int
) -> None:
    late = (late_ms, 0) if topic == RGB else (0, late_ms)
    heard, text = run(NodeConfig(slop=slop), hertz, late)
    assert not heard
    assert text.startswith("stamps of /rgb (publisher /driver, reliable) and /depth (publisher /driver, reliable) are ")
    found = re.search(r"; if (\w+) comes so late, set queue_size to at least (\d+) \(now 10; at start, or after", text)
    assert found is not None and found[1] == NAMES[topic]
    assert "; if the clocks differ, synchronise them" in text
    needed = int(found[2])
    heard, text = run(NodeConfig(slop=slop, queue_size=needed), hertz, late)
    assert len(heard) > 0.9 * hertz and set(heard) == {0} and not text
    heard, _ = run(NodeConfig(slop=slop, queue_size=needed - 4), hertz, late)
    assert not heard, "that many more than are needed are no advice"


@pytest.mark.parametrize("slop", (0.0, 1.0))
def test_a_slop_that_was_set_is_not_blamed_for_what_comes_late(slop: float) -> None:
    _, text = run(NodeConfig(slop=slop), late=(0, 400))
    assert "slop" not in text and " are within " not in text


@pytest.mark.parametrize("ahead_ms", (500, -500))
def test_where_a_slop_does_not_help_it_is_not_named(ahead_ms: int) -> None:
    """Half a second at 30 Hz: the offset is known but for whole periods, and the slop does not reach beyond it."""
    for slop in (0.0, 0.6):
        heard, text = run(NodeConfig(slop=slop), ahead_ms=ahead_ms)
        assert not heard and "slop" not in text
        assert text.endswith("; if the clocks differ, synchronise them")


@pytest.mark.parametrize("ahead_ms", (3000, -3000, 9000))
def test_where_clocks_differ_the_slop_that_is_advised_pairs_them(ahead_ms: int) -> None:
    heard, text = run(NodeConfig(), ahead_ms=ahead_ms)
    found = re.search(r"if the clocks differ, synchronise them, or set slop to at least ([\d.]+)$", text)
    assert not heard and found is not None
    heard, text = run(NodeConfig(slop=float(found[1])), ahead_ms=ahead_ms)
    assert len(heard) > 27 and set(heard) == {0} and not text


def test_clocks_that_are_days_apart_are_no_late_images() -> None:
    heard, text = run(NodeConfig(), ahead_ms=10**9)
    assert not heard and "set " not in text and text.endswith(" s apart; if the clocks differ, synchronise them")


def test_a_slop_that_is_too_small_may_be_left_to_the_node() -> None:
    heard, text = run(NodeConfig(slop=0.005), ahead_ms=12)
    assert not heard
    assert " are within 5.0 ms; " in text and text.endswith("; set slop to 0, and the offset between both is taken out")
    heard, text = run(NodeConfig(), ahead_ms=12)
    assert len(heard) > 27 and set(heard) == {0} and not text


def test_approximate_time_is_led_by_the_slop() -> None:
    config = NodeConfig(pairing="message_filters")
    heard, text = run(config, ahead_ms=500)
    found = re.search(r"or set slop to at least ([\d.]+)$", text)
    assert not heard and found is not None
    heard, _ = run(NodeConfig(pairing="message_filters", slop=float(found[1])), ahead_ms=500)
    assert len(heard) > 27 and set(heard) == {0}
