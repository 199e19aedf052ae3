"""Pairing that heals: streams with every fault that cameras and networks have, against the frames they were made of."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from test_sync import APPROXIMATE, MakeMatcher

from dkn_ros.ros.matchers import ApproximateTimeMatcher, NearestMatcher, Pair
from dkn_ros.ros.rhythm import DEPTH, RGB, TOPICS
from dkn_ros.ros.sync import PairSynchroniser

MS = 1_000_000
PERIOD = 33_366_700
START = 1_700_000_000_000_000_000
SETTLED = 12
"""So many frames come without a fault first."""
SEEDS = range(30)


class Message(NamedTuple):
    """A message as it arrives: which frame of its topic it is, and its stamp."""

    topic: int
    frame: int
    stamp: int
    arrival: int


@dataclass
class Camera:
    """Two streams of frames and their faults; times in nanoseconds.  Frames are counted in those of the faster topic.

    every: only each n-th frame of the topic exists.  loss, twice: shares of the messages that do not come or come two
    times.  runs: so many times up to 8 messages of a topic in a row are lost.  latency: from stamp to arrival.
    stalls: so many times nothing arrives for up to four periods, and then all at once.
    """

    frames: int = 200
    period: int = PERIOD
    offset: int = 0
    every: tuple[int, int] = (1, 1)
    jitter: int = 0
    loss: float = 0.0
    runs: int = 0
    twice: float = 0.0
    latency: tuple[int, int] = (0, 0)
    stalls: int = 0

    def messages(self, chance: random.Random) -> list[Message]:
        """What arrives, in the order of arrival, which within a topic is that of the frames."""
        messages = []
        stalls = [START + chance.randrange(SETTLED, self.frames) * self.period for _ in range(self.stalls)]
        stall = chance.randint(0, 4 * self.period)
        for topic in TOPICS:
            lost = {frame for frame in range(SETTLED, self.frames) if chance.random() < self.loss}
            for _ in range(self.runs):
                first = chance.randrange(SETTLED, self.frames)
                lost |= set(range(first, first + chance.randint(1, 8) * self.every[topic]))
            arrival = 0
            for frame in range(0, self.frames, self.every[topic]):
                stamp = START + frame * self.period + (self.offset if topic == DEPTH else 0)
                stamp += chance.randint(-self.jitter, self.jitter)
                arrival = max(arrival, stamp + self.latency[topic])
                for begin in stalls:
                    if begin <= arrival < begin + stall:
                        arrival = begin + stall
                copies = 0 if frame in lost else 1 + (chance.random() < self.twice)
                messages += [Message(topic, frame, stamp, arrival)] * copies
        return sorted(messages, key=lambda message: message.arrival)


def camera(chance: random.Random) -> Camera:
    """Any camera, with an offset that leaves no doubt which depth belongs to which colour."""
    period = chance.choice((11 * MS, 16_683_350, PERIOD, PERIOD, 66 * MS, 100 * MS))
    return Camera(
        period=period,
        offset=int(chance.uniform(-0.4, 0.4) * period),
        every=chance.choice(((1, 1), (1, 1), (1, 2), (2, 1), (1, 3))),
        jitter=int(chance.choice((0, 0.02, 0.08)) * period),
        loss=chance.choice((0.0, 0.02, 0.3)),
        runs=chance.choice((0, 3)),
        twice=chance.choice((0.0, 0.1)),
        latency=(chance.randint(0, 3 * period // 2), chance.randint(0, 3 * period // 2)),
        stalls=chance.choice((0, 3)),
    )


def pair(messages: list[Message], slop: float = 0.0, make_matcher: MakeMatcher = NearestMatcher) -> list[Pair]:
    """The pairs of the messages, each of which is itself what is paired."""
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 10, slop, make_matcher(10))
    for message in messages:
        synchroniser.add(message.topic, message.stamp, message, message.arrival)
    return heard


def frames_of(pairs: list[Pair]) -> list[tuple[int, int]]:
    return [(pair.rgb.frame, pair.depth.frame) for pair in pairs]


def complete(messages: list[Message]) -> list[int]:
    """Frames of which both images came."""
    came: tuple[set[int], set[int]] = (set(), set())
    for message in messages:
        came[message.topic].add(message.frame)
    return sorted(came[RGB] & came[DEPTH])


def without(messages: list[Message], topic: int, *frames: int) -> list[Message]:
    return [message for message in messages if message.topic != topic or message.frame not in frames]


# --- the mispair of a plain ApproximateTime ---------------------------------------------------------------------------

# message_filters itself where a ROS installation brings it; everywhere its stand-in, which test_sync.py holds to the
# same pairs.
SLOP = 0.030


@pytest.mark.parametrize("make_matcher", APPROXIMATE)
def test_after_a_lost_frame_approximate_time_pairs_a_frame_off_for_ever(make_matcher: MakeMatcher) -> None:
    messages = without(Camera(offset=10 * MS).messages(random.Random(0)), RGB, 20)
    off = [rgb - depth for rgb, depth in frames_of(pair(messages, SLOP, make_matcher))]
    assert off == [0] * 20 + [1] * 179


@pytest.mark.parametrize("make_matcher", [*APPROXIMATE, NearestMatcher])
def test_above_which_slop_that_can_happen(make_matcher: MakeMatcher) -> None:
    heals = make_matcher is NearestMatcher
    synchroniser = PairSynchroniser(lambda pair: None, 10, SLOP, make_matcher(10))
    assert synchroniser.state().largest_slop_ns is None
    for message in Camera(frames=20, offset=10 * MS).messages(random.Random(0)):
        synchroniser.add(message.topic, message.stamp, message, message.arrival)
    assert synchroniser.state().largest_slop_ns == (None if heals else PERIOD // 2)
    synchroniser.set_slop(0.0)
    assert heals or synchroniser.slop * 1e9 < PERIOD // 2


@pytest.mark.parametrize("slop", (0.0, SLOP))
def test_after_a_lost_frame_ours_loses_that_frame_only(slop: float) -> None:
    messages = without(Camera(offset=10 * MS).messages(random.Random(0)), RGB, 20)
    assert frames_of(pair(messages, slop)) == [(frame, frame) for frame in range(200) if frame != 20]


def test_with_a_large_slop_ours_recovers_where_approximate_time_does_not() -> None:
    wrong_for_ever = 0
    for seed in SEEDS:
        chance = random.Random(seed)
        offset = chance.randint(2, 13) * chance.choice((-1, 1)) * MS
        messages = Camera(offset=offset, jitter=MS).messages(chance)
        for _ in range(3):
            messages = without(messages, chance.choice(TOPICS), chance.randrange(20, 150))
        wrong_for_ever += any(
            rgb != depth for rgb, depth in frames_of(pair(messages, 0.032, ApproximateTimeMatcher))[-9:]
        )
        assert frames_of(pair(messages, 0.032)) == [(frame, frame) for frame in complete(messages)]
    assert wrong_for_ever > len(SEEDS) // 4


@pytest.mark.parametrize("lost", range(8))
@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("period", (11 * MS, PERIOD))
def test_a_loss_at_the_very_start_is_forgotten_after_five_frames(lost: int, topic: int, period: int) -> None:
    messages = without(Camera(period=period, offset=3 * MS).messages(random.Random(0)), topic, lost, lost + 2)
    pairs = frames_of(pair(messages))
    after = lost + 2 + 5
    assert [frames for frames in pairs if max(frames) > after] == [(frame, frame) for frame in range(after + 1, 200)]


# --- every fault ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_what_belongs_together_is_paired_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    given = camera(chance)
    messages = given.messages(chance)
    pairs = [frames for frames in frames_of(pair(messages)) if min(frames) >= SETTLED]
    assert pairs == [(frame, frame) for frame in complete(messages) if frame >= SETTLED], given


@pytest.mark.parametrize("seed", SEEDS)
def test_five_frames_after_a_wrong_stamp_all_is_right(seed: int) -> None:
    """Single stamps that are up to two periods wrong, and two that are exchanged."""
    chance = random.Random(seed)
    given = Camera(offset=chance.randint(-10, 10) * MS, jitter=MS)
    messages = given.messages(chance)
    faults = set()
    for _ in range(6):
        index = chance.randrange(4 * SETTLED, len(messages) - 2)
        message = messages[index]
        faults.add(message.frame)
        if chance.random() < 0.3:
            messages[index : index + 3] = messages[index : index + 3][::-1]
        else:
            wrong = message.stamp + chance.randint(-2 * PERIOD, 2 * PERIOD)
            messages[index] = message._replace(stamp=wrong)

    def settled(frame: int) -> bool:
        return frame >= SETTLED and not any(fault - 3 <= frame <= fault + 5 for fault in faults)

    pairs = [frames for frames in frames_of(pair(messages)) if any(map(settled, frames))]
    assert pairs == [(frame, frame) for frame in complete(messages) if settled(frame)]


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_come_in_the_order_of_their_stamps(seed: int) -> None:
    chance = random.Random(seed)
    messages = replace(camera(chance), loss=0.0, runs=0).messages(chance)
    for index in range(0, len(messages) - 4, 4):  # out of order, within a topic too
        part = messages[index : index + 4]
        messages[index : index + 4] = chance.sample(part, len(part))
    pairs = pair(messages, chance.choice((0.0, 0.2)))
    assert len(pairs) > 5
    for stamps in ([pair.rgb_stamp_ns for pair in pairs], [pair.depth_stamp_ns for pair in pairs]):
        assert stamps == sorted(set(stamps))


# --- offsets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", (0.5, -0.5, 0.7, -0.7, 0.9, 1.0, -1.0))
@pytest.mark.parametrize("seed", range(10))
def test_with_an_offset_of_up_to_a_period_every_pair_is_of_the_same_kind(share: float, seed: int) -> None:
    """From half a period on, stamps do not tell which frame is the partner; but it is the same one all the time."""
    chance = random.Random(seed)
    given = Camera(offset=int(share * PERIOD), jitter=3 * MS, loss=0.05)
    messages = given.messages(chance)
    pairs = [p for p in pair(messages) if p.rgb.frame >= SETTLED]
    shifts = {p.depth.frame - p.rgb.frame for p in pairs}
    assert len(shifts) == 1
    assert all(abs(p.difference_ms) < 0.6 * PERIOD / MS + 6 for p in pairs)
    assert len(pairs) > 0.85 * (given.frames - SETTLED)


def test_half_a_period_apart_approximate_time_pairs_now_this_way_now_that() -> None:
    """What the offset is for: with the largest slop that never pairs a frame off for good, that is what remains."""
    messages = Camera(offset=PERIOD // 2, jitter=3 * MS).messages(random.Random(0))
    pairs = pair(messages, 0.0, ApproximateTimeMatcher)
    assert {p.depth.frame - p.rgb.frame for p in pairs} == {0, -1}


def test_cameras_that_run_freely_are_paired_with_the_nearest_all_the_time() -> None:
    depth_period = PERIOD * 1003 // 1000
    messages = [Message(RGB, frame, START + frame * PERIOD, 0) for frame in range(1000)]
    messages += [Message(DEPTH, frame, START + frame * depth_period, 0) for frame in range(997)]
    pairs = pair(sorted(messages, key=lambda message: message.stamp))
    assert len(pairs) > 990
    assert max(abs(p.difference_ms) for p in pairs) < 0.65 * PERIOD / MS


@pytest.mark.parametrize("periods", ((PERIOD, 40 * MS), (40 * MS, PERIOD)))
def test_rates_that_do_not_fit_are_paired_with_the_nearest(periods: tuple[int, int]) -> None:
    messages = [
        Message(topic, frame, START + frame * period, 0)
        for topic, period in enumerate(periods)
        for frame in range(8_000 * MS // period)
    ]
    pairs = pair(sorted(messages, key=lambda message: message.stamp))
    assert len(pairs) > 0.95 * 200
    assert max(abs(p.difference_ms) for p in pairs) < 0.5 * PERIOD / MS


def test_a_slop_that_is_set_limits_the_difference_of_the_stamps() -> None:
    messages = Camera(offset=10 * MS, jitter=MS).messages(random.Random(0))
    assert len(pair(messages, 0.013)) == 200
    assert not pair(messages, 0.007)


def test_frames_on_demand_are_paired_within_the_slop_that_is_set() -> None:
    chance = random.Random(0)
    messages, stamp = [], START
    for frame in range(100):
        stamp += chance.randint(150, 400) * MS
        messages += [Message(topic, frame, stamp + chance.randint(0, 60) * MS, 0) for topic in (DEPTH, RGB)]
    assert frames_of(pair(messages, 0.07)) == [(frame, frame) for frame in range(100)]


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_when_the_clock_goes_back_pairing_starts_anew(seed: int) -> None:
    """A bag that starts again, with messages of its end that arrive late; by less than a second, too."""
    chance = random.Random(seed)
    given = Camera(offset=chance.randint(-9, 9) * MS, jitter=MS, latency=(0, chance.randint(0, 4) * PERIOD))
    back = chance.choice((300 * MS, 2_000 * MS, 3_600_000 * MS))
    first = given.messages(chance)
    end = max(message.stamp for message in first if message.topic == RGB)
    second = [
        message._replace(
            frame=message.frame + 1000,
            stamp=message.stamp - START + end - back,
            arrival=message.arrival - START + end + PERIOD,
        )
        for message in given.messages(chance)
    ]
    heard: list[Pair] = []
    said: list[float] = []
    synchroniser = PairSynchroniser(heard.append, 10, went_back=said.append)
    for message in sorted(first + second, key=lambda message: message.arrival):
        synchroniser.add(message.topic, message.stamp, message, message.arrival)
    state = synchroniser.state()
    assert state.clock_jumps == len(said) == 1
    assert said[0] == pytest.approx(back / 1e9, abs=0.05)
    assert state.periods_ns == pytest.approx((PERIOD, PERIOD), abs=2 * MS)
    assert state.offset_ns == pytest.approx(given.offset, abs=2 * MS)
    pairs = [frames for frames in frames_of(heard) if max(frames) >= 1005]
    assert pairs == [(frame, frame) for frame in range(1005, 1200)]


@pytest.mark.parametrize("seconds", (0.5, 10.0, 1e6))
def test_when_the_clock_goes_forward_pairing_goes_on(seconds: float) -> None:
    first = Camera(offset=10 * MS).messages(random.Random(0))
    later = [m._replace(frame=m.frame + 1000, stamp=m.stamp + 200 * PERIOD + int(seconds * 1e9)) for m in first]
    pairs = frames_of(pair(without(first, RGB, 198, 199) + later))
    assert pairs == [(frame, frame) for frame in (*range(198), *range(1000, 1200))]


@pytest.mark.parametrize("topic", TOPICS)
def test_one_stamp_far_in_the_future_costs_no_more_than_five_frames(topic: int) -> None:
    messages = Camera(offset=10 * MS).messages(random.Random(0))
    index = next(i for i, message in enumerate(messages) if (message.topic, message.frame) == (topic, 50))
    messages[index] = messages[index]._replace(stamp=messages[index].stamp + 3_600_000 * MS)
    pairs = frames_of(pair(messages))
    assert [p for p in pairs if not 50 <= max(p) <= 55] == [(f, f) for f in range(200) if not 50 <= f <= 55]


def test_zero_stamps_do_not_put_it_off() -> None:
    """By arrival, with the jitter of an executor, losses included."""
    for seed in SEEDS:
        chance = random.Random(seed)
        given = Camera(offset=chance.randint(-9, 9) * MS, jitter=2 * MS, loss=0.1)
        messages = [m._replace(stamp=0, arrival=m.stamp) for m in given.messages(chance)]
        pairs = [frames for frames in frames_of(pair(messages)) if min(frames) >= SETTLED]
        assert pairs == [(frame, frame) for frame in complete(messages) if frame >= SETTLED]


def test_one_topic_of_zero_stamps_puts_both_on_arrival_though_their_clocks_differ() -> None:
    """The other one comes first, with stamps of the year 1970 plus: no jump of the clock."""
    said: list[float] = []
    heard: list[Pair] = []
    synchroniser = PairSynchroniser(heard.append, 10, went_back=said.append)
    for frame in range(50):
        arrival = START + frame * PERIOD
        synchroniser.add(DEPTH, 2 * START + frame * PERIOD, frame, arrival)
        synchroniser.add(RGB, 0, frame, arrival + 4 * MS)
    assert [(p.rgb, p.depth) for p in heard] == [(frame, frame) for frame in range(1, 50)]
    state = synchroniser.state()
    assert (said, state.clock_jumps, state.zero_stamps, state.by_arrival) == ([], 0, (50, 0), True)
    assert state.offset_ns == -4 * MS
