"""The rhythm of two streams: periods, offset, and stamps that go back."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from dkn_ros.ros.rhythm import DEPTH, RGB, Rhythm

MS = 1_000_000
PERIOD = 33 * MS
START = 1_700_000_000_000_000_000
SEEDS = range(20)


def observe(rhythm: Rhythm, stamps: Iterable[tuple[int, int]]) -> None:
    """Let it see (stamp, topic), in this order."""
    for stamp, topic in stamps:
        rhythm.observe(topic, stamp)


def stream(topic: int, frames: Iterable[int], period: int = PERIOD, phase: int = 0) -> list[tuple[int, int]]:
    return [(START + phase + frame * period, topic) for frame in frames]


def both(frames: range, offset: int, period: int = PERIOD) -> list[tuple[int, int]]:
    return sorted(stream(RGB, frames, period) + stream(DEPTH, frames, period, offset))


# --- period -----------------------------------------------------------------------------------------------------------


def test_the_period_is_that_of_a_30_hz_camera_until_measured() -> None:
    rhythm = Rhythm()
    observe(rhythm, stream(RGB, range(3), 10 * MS))
    assert rhythm.periods == [None, None]
    assert rhythm.period == 33_333_333
    observe(rhythm, stream(RGB, [3], 10 * MS))
    assert rhythm.periods == [10 * MS, None]
    assert rhythm.period == 10 * MS


def test_the_shorter_period_counts() -> None:
    rhythm = Rhythm()
    observe(rhythm, sorted(stream(RGB, range(20), 66 * MS) + stream(DEPTH, range(40), PERIOD)))
    assert rhythm.periods == [66 * MS, PERIOD]
    assert rhythm.period == PERIOD


@pytest.mark.parametrize("seed", SEEDS)
def test_jitter_loss_duplicates_and_reordering_hardly_move_the_period(seed: int) -> None:
    chance = random.Random(seed)
    loss = chance.choice((0.0, 0.2, 0.5))
    stamps = [
        START + frame * PERIOD + chance.randint(-2 * MS, 2 * MS) for frame in range(200) if chance.random() > loss
    ]
    stamps += chance.sample(stamps, 20)
    stamps.sort()
    for index in range(5, len(stamps), 20):
        if stamps[index] - stamps[index - 1] < 4 * PERIOD:
            stamps[index - 1], stamps[index] = stamps[index], stamps[index - 1]
    rhythm = Rhythm()
    for stamp in stamps:
        assert not rhythm.went_back(DEPTH, stamp)
        rhythm.observe(DEPTH, stamp)
    assert rhythm.periods[DEPTH] == pytest.approx(PERIOD, abs=3 * MS)


@pytest.mark.parametrize(("before", "after"), [(PERIOD, 100 * MS), (100 * MS, PERIOD)])
def test_the_period_follows_a_change_of_rate(before: int, after: int) -> None:
    rhythm = Rhythm()
    observe(rhythm, stream(RGB, range(50), before))
    observe(rhythm, stream(RGB, range(1, 32), after, 49 * before))
    assert rhythm.period == after


# --- offset -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", (0, 10 * MS, -10 * MS, 16 * MS, -16 * MS))
def test_the_offset_is_found_within_a_few_frames(offset: int) -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(8), offset))
    assert rhythm.offset == offset


@pytest.mark.parametrize("offset", (20 * MS, -20 * MS, 30 * MS, 33 * MS, 40 * MS))
def test_of_a_larger_offset_what_is_nearest_to_zero_is_found(offset: int) -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(12), offset))
    assert rhythm.offset == offset - PERIOD * round(offset / PERIOD)


@pytest.mark.parametrize("slower", (RGB, DEPTH))
@pytest.mark.parametrize("times", (2, 3, 6))
def test_the_offset_of_streams_of_which_one_is_slower(slower: int, times: int) -> None:
    rhythm = Rhythm()
    offset = 9 * MS
    shift = offset if slower == DEPTH else -offset
    fast = stream(1 - slower, range(20 * times))
    observe(rhythm, sorted(fast + stream(slower, range(20), times * PERIOD, shift)))
    assert rhythm.offset == offset


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_jitter_and_late_arrival_hardly_move_the_offset(seed: int) -> None:
    chance = random.Random(seed)
    offset = chance.randint(-12, 12) * MS
    arrivals = []
    for topic, shift in ((RGB, 0), (DEPTH, offset)):
        late = chance.choice((0, 20 * MS, 150 * MS))
        for frame in range(100):
            if chance.random() > 0.3:
                stamp = START + frame * PERIOD + shift + chance.randint(-3 * MS, 3 * MS)
                arrivals.append((stamp + late, topic, stamp))
    rhythm = Rhythm()
    observe(rhythm, [(stamp, topic) for _, topic, stamp in sorted(arrivals)])
    assert rhythm.offset == pytest.approx(offset, abs=3 * MS)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_offset_of_half_a_period_keeps_its_side(seed: int) -> None:
    chance = random.Random(seed)
    frames = both(range(300), PERIOD // 2)
    rhythm = Rhythm()
    observe(rhythm, frames[:20])
    side = rhythm.offset
    assert side is not None and abs(side) == pytest.approx(PERIOD / 2, abs=1)
    for stamp, topic in frames[20:]:
        rhythm.observe(topic, stamp + chance.randint(-3 * MS, 3 * MS))
        assert rhythm.offset == pytest.approx(side, abs=6 * MS)  # the most that jitter can do


def test_an_offset_that_grows_without_end_changes_sides_past_the_half() -> None:
    """Cameras that run freely, half a hundredth apart."""
    rhythm = Rhythm()
    seen = []
    depth = [(START + frame * PERIOD * 201 // 200, DEPTH) for frame in range(400)]
    for stamp, topic in sorted(stream(RGB, range(400)) + depth):
        rhythm.observe(topic, stamp)
        if rhythm.offset is not None:
            seen.append(rhythm.offset / PERIOD)
    assert min(seen) > -0.61 and 0.58 < max(seen) < 0.61
    assert sum(abs(b - a) > 0.5 for a, b in pairwise(seen)) == 2


def test_rates_that_do_not_fit_have_no_offset() -> None:
    rhythm = Rhythm()
    found = []
    for stamp, topic in sorted(stream(RGB, range(300)) + stream(DEPTH, range(250), 40 * MS)):
        rhythm.observe(topic, stamp)
        found.append(rhythm.offset)
    assert set(found[40:]) == {None}


def test_frames_on_demand_of_equal_stamps_have_an_offset_of_zero() -> None:
    chance = random.Random(0)
    rhythm = Rhythm()
    stamp = START
    for _ in range(50):
        stamp += chance.randint(20, 400) * MS
        observe(rhythm, [(stamp, DEPTH), (stamp, RGB)])
    assert rhythm.offset == 0


def test_clocks_that_have_nothing_to_do_with_each_other_have_no_offset() -> None:
    rhythm = Rhythm()
    for frame in range(50):
        observe(rhythm, stream(RGB, [frame]) + stream(DEPTH, [frame], phase=-500_000 * MS))
    assert rhythm.offset is None
    assert rhythm.periods == [PERIOD, PERIOD]


# --- stamps that go back ----------------------------------------------------------------------------------------------


def test_what_counts_as_going_back() -> None:
    rhythm = Rhythm()
    assert rhythm.went_back(RGB, START) == 0
    rhythm.observe(RGB, START)
    assert rhythm.went_back(RGB, START - 1000 * MS) == 0, "the period is not known yet: more than a second"
    assert rhythm.went_back(RGB, START - 1001 * MS) == 1001 * MS
    assert rhythm.went_back(DEPTH, START - 1001 * MS) == 0, "the other topic"
    observe(rhythm, stream(RGB, range(10)))
    assert rhythm.went_back(RGB, START + 4 * PERIOD) == 0
    assert rhythm.went_back(RGB, START + 4 * PERIOD - 1) == 5 * PERIOD + 1, "more than five periods"


def test_going_back_in_steps_is_going_back() -> None:
    rhythm = Rhythm()
    back = []
    for step in (0, 600, 999, 1001):
        back.append(rhythm.went_back(RGB, START - step * MS))
        rhythm.observe(RGB, START - step * MS)
    assert back == [0, 0, 0, 1001 * MS]


def test_a_slow_camera_may_not_go_back_by_more_than_a_second_either() -> None:
    rhythm = Rhythm()
    observe(rhythm, stream(RGB, range(10), 700 * MS))
    assert rhythm.went_back(RGB, START + 8 * 700 * MS) == 0
    assert rhythm.went_back(RGB, START + 7 * 700 * MS) == 2 * 700 * MS


def test_what_is_forgotten_is_measured_anew() -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(20), 5 * MS))
    rhythm.forget(RGB)
    assert (rhythm.periods, rhythm.offset, rhythm.newest[RGB]) == ([None, PERIOD], None, None)


def test_a_stream_that_pauses_begins_anew() -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(20), 5 * MS))
    rhythm.observe(DEPTH, START + 20 * PERIOD + 2000 * MS)
    assert (rhythm.periods, rhythm.offset) == ([PERIOD, None], None)


# --- rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [RGB, DEPTH])
def test_after_a_rest_everything_is_as_it_was_until_it_is_measured(first: int) -> None:
    """Also if only one stream comes at first, and if the rest was long, or the clock was set back in it."""
    rhythm = Rhythm()
    observe(rhythm, both(range(20), 14 * MS))
    for begin in (25, 100_000, -100_000):
        rhythm.rest()
        stamps = both(range(begin, begin + 20), 14 * MS)
        for number, (stamp, topic) in enumerate([s for s in stamps[:8] if s[1] == first] + stamps):
            assert not rhythm.went_back(topic, stamp)
            rhythm.observe(topic, stamp)
            assert (rhythm.periods, rhythm.offset) == ([PERIOD, PERIOD], 14 * MS), number


def test_a_camera_that_changed_during_the_rest_is_measured_anew() -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(20), 14 * MS))
    rhythm.rest()
    rhythm.rest()
    observe(rhythm, both(range(100, 120), -40 * MS, 100 * MS))
    assert (rhythm.periods, rhythm.offset) == ([100 * MS, 100 * MS], -40 * MS)
    rhythm.rest()
    chance = random.Random(1)  # no constant offset any more
    freely = [(stamp, RGB) for stamp, _ in stream(RGB, range(500, 540), 100 * MS)]
    freely += [(stamp + chance.randint(0, 100 * MS), DEPTH) for stamp, _ in freely]
    observe(rhythm, sorted(freely))
    assert rhythm.offset is None


def test_a_rest_before_anything_came_does_no_harm() -> None:
    rhythm = Rhythm()
    rhythm.rest()
    observe(rhythm, both(range(20), 14 * MS))
    assert (rhythm.periods, rhythm.offset) == ([PERIOD, PERIOD], 14 * MS)


def test_what_is_forgotten_is_not_known_after_a_rest() -> None:
    rhythm = Rhythm()
    observe(rhythm, both(range(20), 14 * MS))
    rhythm.rest()
    rhythm.forget(RGB, DEPTH)
    observe(rhythm, both(range(1), 0))
    assert (rhythm.periods, rhythm.offset) == ([None, None], None)
