"""Pairing: against message_filters itself, against the policy stated in another way, and on streams that go wrong."""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dkn_ros.ros.matchers import ApproximateTimeMatcher, Matcher, MessageFiltersMatcher, NearestMatcher, Pair
from dkn_ros.ros.rhythm import DEPTH, RGB
from dkn_ros.ros.sync import PairSynchroniser, make_synchroniser

MS = 1_000_000
PERIOD = 33 * MS
START = 1_700_000_000_000_000_000
Stream = list[tuple[int, int]]  # (topic, stamp), in the order of arrival

needs_message_filters = pytest.mark.skipif(
    importlib.util.find_spec("message_filters") is None or importlib.util.find_spec("rclpy") is None,
    reason="message_filters is not installed (a ROS installation brings it)",
)
APPROXIMATE = [ApproximateTimeMatcher, pytest.param(MessageFiltersMatcher, marks=needs_message_filters)]
both_approximate = pytest.mark.parametrize("make_matcher", APPROXIMATE)
every_matcher = pytest.mark.parametrize("make_matcher", [NearestMatcher, *APPROXIMATE])
MakeMatcher = Callable[[int], Matcher]


# --- the same pairs ---------------------------------------------------------------------------------------------------


@dataclass
class Waiting:
    topic: int
    stamp: int
    message: int


def pairs_as_stated(stream: Stream, queue_size: int, slop: int) -> list[tuple[int, int]]:
    """Pairs of message numbers (colour, depth) by the policy, told over one list of all that waits."""
    waiting: list[Waiting] = []
    pairs = []
    for number, (topic, stamp) in enumerate(stream):
        new = next((w for w in waiting if (w.topic, w.stamp) == (topic, stamp)), None)
        if new is None:
            new = Waiting(topic, stamp, number)
            waiting.append(new)
        new.message = number
        same_topic = sorted((w for w in waiting if w.topic == topic), key=lambda w: w.stamp)
        for surplus in same_topic[: max(len(same_topic) - queue_size, 0)]:
            waiting.remove(surplus)
        near = [w for w in waiting if w.topic != topic and abs(w.stamp - stamp) < slop]
        if new not in waiting or not near:
            continue
        partner = sorted(near, key=lambda w: abs(w.stamp - stamp))[0]  # sorting keeps the order of equally near ones
        waiting = [w for w in waiting if w is not new and w is not partner]
        rgb, depth = (new, partner) if topic == RGB else (partner, new)
        pairs.append((rgb.message, depth.message))
    return pairs


def pairs_of_matcher(matcher: Matcher, stream: Stream, slop: int) -> list[tuple[int, int]]:
    matcher.slop_ns = slop
    pairs = []
    for number, (topic, stamp) in enumerate(stream):
        pair = matcher.add(topic, stamp, number)
        if pair is not None:
            assert (pair.rgb_stamp_ns, pair.depth_stamp_ns) == (stream[pair.rgb][1], stream[pair.depth][1])
            pairs.append((pair.rgb, pair.depth))
    return pairs


def pairs_of_message_filters(stream: Stream, queue_size: int, slop: int) -> list[tuple[int, int]]:
    """What ApproximateTimeSynchronizer itself does with real headers, without anything of ours in between."""
    import message_filters
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    inputs = message_filters.SimpleFilter(), message_filters.SimpleFilter()
    synchroniser = message_filters.ApproximateTimeSynchronizer(fs=list(inputs), queue_size=queue_size, slop=slop / 1e9)
    assert synchroniser.slop.nanoseconds == slop
    pairs = []
    synchroniser.registerCallback(lambda rgb, depth: pairs.append((rgb.number, depth.number)))
    for number, (topic, stamp) in enumerate(stream):
        header = Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9))
        inputs[topic].signalMessage(SimpleNamespace(header=header, number=number))
    return pairs


# Stamps of a few nanoseconds: ties, duplicates, overfull queues and stamps exactly a slop apart all happen often.
crowded_streams = st.lists(st.tuples(st.sampled_from((RGB, DEPTH)), st.integers(1, 40)), max_size=60)


@st.composite
def camera_streams(draw: st.DrawFn) -> Stream:
    """Two topics with their own rate, phase, jitter, loss and duplicates, delivered late and out of order."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    arrivals = []
    for topic in (RGB, DEPTH):
        period = draw(st.sampled_from((PERIOD, PERIOD, PERIOD // 2, 2 * PERIOD, 200 * MS)))
        phase, jitter = draw(st.integers(0, period)), draw(st.sampled_from((0, MS, 10 * MS)))
        loss, duplicates = draw(st.sampled_from((0.0, 0.1, 0.5))), draw(st.sampled_from((0.0, 0.2)))
        delay = draw(st.sampled_from((0, 20 * MS, 150 * MS)))
        for frame in range(draw(st.integers(0, 40))):
            stamp = START + phase + frame * period + chance.randint(0, jitter)
            copies = 0 if chance.random() < loss else 1 + (chance.random() < duplicates)
            arrivals += [(stamp + chance.randint(0, delay), topic, stamp) for _ in range(copies)]
    return [(topic, stamp) for _, topic, stamp in sorted(arrivals)]


queue_sizes = st.integers(1, 6)
# Exact in seconds as in nanoseconds: message_filters takes seconds and cuts what is left of a nanosecond.
crowded_slops = st.integers(0, 12)
camera_slops = st.sampled_from((0, 5 * MS, 15 * MS, 16 * MS, 50 * MS, 125 * MS))
TIE: Stream = [(DEPTH, 14), (DEPTH, 10), (RGB, 12)]
REPLACED_TIE: Stream = [(DEPTH, 14), (DEPTH, 10), (DEPTH, 14), (RGB, 12)]
JUST_A_SLOP_APART: Stream = [(DEPTH, 14), (RGB, 10), (RGB, 11)]
EVICTED_AT_ONCE: Stream = [(RGB, 20), (DEPTH, 10), (RGB, 10), (DEPTH, 20)]


@given(stream=crowded_streams, queue_size=queue_sizes, slop=crowded_slops)
@example(stream=TIE, queue_size=3, slop=4)
@example(stream=REPLACED_TIE, queue_size=3, slop=4)
@example(stream=JUST_A_SLOP_APART, queue_size=3, slop=4)
@example(stream=EVICTED_AT_ONCE, queue_size=1, slop=4)
def test_pairs_are_those_of_the_stated_policy(stream: Stream, queue_size: int, slop: int) -> None:
    assert pairs_of_matcher(ApproximateTimeMatcher(queue_size), stream, slop) == pairs_as_stated(
        stream, queue_size, slop
    )


@given(stream=camera_streams(), queue_size=queue_sizes, slop=camera_slops)
def test_pairs_of_cameras_are_those_of_the_stated_policy(stream: Stream, queue_size: int, slop: int) -> None:
    assert pairs_of_matcher(ApproximateTimeMatcher(queue_size), stream, slop) == pairs_as_stated(
        stream, queue_size, slop
    )


@needs_message_filters
@settings(max_examples=500, deadline=None)
@given(stream=crowded_streams, queue_size=queue_sizes, slop=crowded_slops)
@example(stream=TIE, queue_size=3, slop=4)
@example(stream=REPLACED_TIE, queue_size=3, slop=4)
@example(stream=JUST_A_SLOP_APART, queue_size=3, slop=4)
@example(stream=EVICTED_AT_ONCE, queue_size=1, slop=4)
def test_pairs_are_those_of_message_filters(stream: Stream, queue_size: int, slop: int) -> None:
    expected = pairs_of_message_filters(stream, queue_size, slop)
    assert pairs_of_matcher(ApproximateTimeMatcher(queue_size), stream, slop) == expected
    assert pairs_of_matcher(MessageFiltersMatcher(queue_size), stream, slop) == expected


@needs_message_filters
@settings(max_examples=500, deadline=None)
@given(stream=camera_streams(), queue_size=queue_sizes, slop=camera_slops)
def test_pairs_of_cameras_are_those_of_message_filters(stream: Stream, queue_size: int, slop: int) -> None:
    expected = pairs_of_message_filters(stream, queue_size, slop)
    assert pairs_of_matcher(ApproximateTimeMatcher(queue_size), stream, slop) == expected
    assert pairs_of_matcher(MessageFiltersMatcher(queue_size), stream, slop) == expected


@needs_message_filters
@settings(max_examples=200, deadline=None)
@given(stream=camera_streams(), queue_size=queue_sizes)
def test_both_matchers_leave_the_same_counts(stream: Stream, queue_size: int) -> None:
    counts, pairs = [], []
    for make_matcher in (ApproximateTimeMatcher, MessageFiltersMatcher):
        heard: list[Pair] = []
        synchroniser = PairSynchroniser(heard.append, queue_size, 0.0, make_matcher(queue_size))
        feed(synchroniser, stream)
        counts.append(synchroniser.state())
        pairs.append(heard)
    assert counts[0] == counts[1]
    assert pairs[0] == pairs[1]


def test_the_policy_in_examples() -> None:
    assert pairs_as_stated(TIE, 3, 4) == [(2, 0)]
    assert pairs_as_stated(REPLACED_TIE, 3, 4) == [(3, 2)]
    assert pairs_as_stated(JUST_A_SLOP_APART, 3, 4) == [(2, 0)]
    assert pairs_as_stated(EVICTED_AT_ONCE, 1, 4) == [(0, 3)]


# --- calling back -----------------------------------------------------------------------------------------------------


def feed(synchroniser: PairSynchroniser, stream: Iterable[tuple[int, int]]) -> None:
    for topic, stamp in stream:
        synchroniser.add(topic, stamp, (topic, stamp))


def frames(numbers: Iterable[int], phase: int = 10 * MS, lost: tuple[int, ...] = ()) -> Stream:
    """Colour frames at 30 Hz, each followed by its depth frame after `phase`; colour frames `lost` do not come."""
    stream = []
    for number in numbers:
        stamp = START + number * PERIOD
        stream += [] if number in lost else [(RGB, stamp)]
        stream.append((DEPTH, stamp + phase))
    return stream


@every_matcher
def test_the_callback_runs_outside_the_lock(make_matcher: MakeMatcher) -> None:
    seen: list[int] = []

    def callback(pair: Pair) -> None:
        # Both deadlock if a lock is held.
        seen.append(synchroniser.state().paired)
        if len(seen) < 3:
            feed(synchroniser, frames([100 * len(seen)]))

    synchroniser = PairSynchroniser(callback, 5, 0.016, make_matcher(5))
    thread = threading.Thread(target=feed, args=(synchroniser, frames([0])), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive(), "the callback waits for a lock"
    assert seen == [1, 2, 3]


@every_matcher
def test_an_exception_in_the_callback_comes_out_and_leaves_it_usable(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []

    def callback(pair: Pair) -> None:
        heard.append(pair)
        if len(heard) == 1:
            raise RuntimeError("first pair")

    synchroniser = PairSynchroniser(callback, 5, 0.016, make_matcher(5))
    with pytest.raises(RuntimeError, match="first pair"):
        feed(synchroniser, frames([0]))
    thread = threading.Thread(target=feed, args=(synchroniser, frames([1, 2])), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive(), "a lock stayed locked"
    assert [pair.rgb[1] for pair in heard] == [START, START + PERIOD, START + 2 * PERIOD]


@every_matcher
def test_several_threads_lose_nothing(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 1000, 0.016, make_matcher(1000))
    stream = frames(range(500))
    halves = [[entry for entry in stream if entry[0] == topic] for topic in (RGB, DEPTH)]
    threads = [threading.Thread(target=feed, args=(synchroniser, half)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(pair.rgb[1] for pair in heard) == [START + number * PERIOD for number in range(500)]
    assert {pair.difference_ms for pair in heard} == {10.0}


@every_matcher
def test_messages_are_paired_by_their_headers(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 5, 0.016, make_matcher(5))
    rgb, depth = message(12, 5 * MS), message(11, 995 * MS)
    synchroniser.add_depth(depth, arrival_ns=1)
    synchroniser.add_rgb(rgb, arrival_ns=2)
    assert heard == [Pair(rgb, depth, 12_005 * MS, 11_995 * MS)]
    assert heard[0].difference_ms == -10.0


def message(sec: int, nanosec: int) -> Any:
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec)))


@every_matcher
def test_counts_say_what_became_of_every_message(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 2, 0.016, make_matcher(2))
    # Frames 0 to 3 have no colour: the queue of two drops depth 0, 1 and, when depth 4 comes to pair, 2.  Depth 3 waits
    # on, in vain, or is dropped since it is older than the pair.  The colour of frame 4 comes twice: the first is
    # replaced.
    feed(synchroniser, frames(range(4), lost=(0, 1, 2, 3)))
    feed(synchroniser, [(RGB, START + 4 * PERIOD), *frames([4])])
    state = synchroniser.state()
    still = int(make_matcher is not NearestMatcher)
    assert (state.received, state.paired, state.waiting) == ((2, 5), 1, (0, still))
    assert state.unmatched == (1, 4 - still)
    assert state.difference_ns == 10 * MS


# --- slop -------------------------------------------------------------------------------------------------------------


@both_approximate
@pytest.mark.parametrize("phase", (0, 10 * MS, 15 * MS, -15 * MS))
def test_after_a_lost_frame_automatic_slop_pairs_on(make_matcher: MakeMatcher, phase: int) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 10, 0.0, make_matcher(10))
    feed(synchroniser, frames(range(40), phase, lost=(2, 20, 21)))
    assert len(heard) == 37
    assert {pair.difference_ms for pair in heard} == {phase / MS}
    assert synchroniser.slop == pytest.approx(0.49 * PERIOD / 1e9)


@every_matcher
def test_slop_follows_the_faster_topic(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 10, 0.0, make_matcher(10))
    colour = [(RGB, START + number * 11 * MS) for number in range(90)]
    depth = [(DEPTH, START + number * PERIOD + 5 * MS) for number in range(30)]
    feed(synchroniser, sorted(colour + depth, key=lambda entry: entry[1]))
    offset = 5e-3 if make_matcher is NearestMatcher else 0.0
    assert synchroniser.slop == pytest.approx(0.49 * 11e-3 + offset)
    assert len(heard) >= 28
    assert {pair.difference_ms for pair in heard[-20:]} == {5.0}


def test_a_period_that_is_known_is_gone_by_until_one_is_measured() -> None:
    pairs: list[Pair] = []
    synchroniser = PairSynchroniser(pairs.append, queue_size=10)
    synchroniser.assume(200 * MS)
    feed(synchroniser, [(RGB, START), (DEPTH, START + 90 * MS)])
    assert [pair.difference_ms for pair in pairs] == [90]
    for again in (START, START - 3600 * 1000 * MS):  # where nothing is known, and after stamps that went back
        synchroniser.add(RGB, again, None)
        assert synchroniser.slop == pytest.approx(0.098)
    feed(synchroniser, frames(range(100, 110)))
    assert synchroniser.slop < 0.033


@every_matcher
def test_slop_is_changed_while_running(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 10, 0.005, make_matcher(10))
    feed(synchroniser, frames(range(10)))
    assert not heard and synchroniser.slop == 0.005
    synchroniser.set_slop(0.012)
    feed(synchroniser, frames(range(10, 20)))
    assert len(heard) == 10
    synchroniser.set_slop(0)
    offset = 10e-3 if make_matcher is NearestMatcher else 0.0
    assert synchroniser.slop == pytest.approx(0.49 * PERIOD / 1e9 + offset)


@pytest.mark.parametrize("slop", (-0.001, float("nan"), float("inf")))
def test_an_impossible_slop_is_refused(slop: float) -> None:
    with pytest.raises(ValueError, match="wanted: seconds, 0 or more"):
        PairSynchroniser(print, 10, slop)


def test_an_impossible_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="queue_size is 0; wanted: at least 1"):
        PairSynchroniser(print, 0)


# --- clocks -----------------------------------------------------------------------------------------------------------


@every_matcher
def test_a_bag_that_starts_again_pairs_again(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 5, 0.0, make_matcher(5))
    feed(synchroniser, frames(range(100)))
    # Ten depth frames that wait: left in the queue, they would drop every frame of the second round as their oldest.
    feed(synchroniser, frames(range(100, 110), lost=tuple(range(100, 110))))
    feed(synchroniser, frames(range(50)))
    assert len(heard) == 150
    state = synchroniser.state()
    assert state.clock_jumps == 1
    assert state.unmatched == (0, 10)


@every_matcher
def test_stamps_of_zero_are_paired_by_arrival(make_matcher: MakeMatcher) -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 5, 0.0, make_matcher(5))
    for number in range(20):
        arrival = START + number * PERIOD
        synchroniser.add(RGB, 0, number, arrival)
        # Exposed a period and a half before it arrives: by this stamp it would pair with no colour image's arrival.
        synchroniser.add(DEPTH, arrival - PERIOD * 3 // 2, number, arrival + 4 * MS)
    assert [(pair.rgb, pair.depth) for pair in heard] == [(number, number) for number in range(20)]
    assert {pair.difference_ms for pair in heard} == {4.0}
    assert synchroniser.state().zero_stamps == (20, 0)
    assert synchroniser.state().by_arrival


def test_stamps_count_again_when_they_are_no_longer_zero() -> None:
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 5, 0.016)
    synchroniser.add(RGB, 0, "a", START)
    synchroniser.add(DEPTH, 0, "a", START + MS)
    for number in (1, 2):
        synchroniser.add(RGB, START + number * PERIOD, number, START + (number + 5) * PERIOD)
        synchroniser.add(DEPTH, START + number * PERIOD, number, START + (number + 9) * PERIOD)
    assert [(pair.rgb, pair.depth) for pair in heard][-1] == (2, 2)
    assert heard[-1].rgb_stamp_ns == START + 2 * PERIOD
    assert synchroniser.state().zero_stamps == (1, 1)
    assert not synchroniser.state().by_arrival


# --- which one --------------------------------------------------------------------------------------------------------


def test_the_nearest_stamps_are_paired_unless_told_otherwise() -> None:
    heard: list[Pair] = []
    synchroniser = make_synchroniser(heard.append, 10)
    assert synchroniser.name == "nearest"
    feed(synchroniser, frames(range(3)))
    assert len(heard) == 3


def test_without_message_filters_its_policy_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "message_filters", None)
    heard: list[Pair] = []
    synchroniser = make_synchroniser(heard.append, 10, pairing="message_filters")
    assert synchroniser.name == "approximate_time"
    feed(synchroniser, frames(range(3)))
    assert len(heard) == 3


@needs_message_filters
def test_message_filters_is_used_where_it_is_asked_for() -> None:
    heard: list[Pair] = []
    synchroniser = make_synchroniser(heard.append, 10, pairing="message_filters")
    assert synchroniser.name == "message_filters"
    feed(synchroniser, frames(range(3)))
    assert len(heard) == 3
