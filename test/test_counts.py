"""What is counted of images, pairs and frames."""

from __future__ import annotations

import math
import threading
import time

import pytest
from counting import Clock, counting, run

from dkn_ros.ros.counts import WINDOW_SECONDS, Counts, Jitter, Overload, Statistics


def test_rates_and_totals() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 320, busy_every=4)
    now = statistics.snapshot()
    assert now.seconds == WINDOW_SECONDS
    assert now.recent == Counts(160, 160, 160, 120, {"busy": 40})
    assert now.total == Counts(320, 320, 320, 240, {"busy": 80})


def test_the_window_is_shorter_right_after_the_start() -> None:
    clock = Clock()
    statistics = counting(clock)
    assert statistics.snapshot().seconds > 0
    run(statistics, clock, 32)
    now = statistics.snapshot()
    assert now.seconds == 1.0
    assert now.recent.pairs == 32


def test_what_is_old_leaves_the_window_but_not_the_totals() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 30)
    statistics.refused("step", "rgb8 image has step 3")
    clock.now += WINDOW_SECONDS + 1
    now = statistics.snapshot()
    assert now.recent == Counts(dropped={"step": 0})
    assert now.total == Counts(30, 30, 30, 30, {"step": 1})
    unknown = (*now.latency_ms, *now.delay, now.output_rate, now.difference_ms, now.processing_ms)
    assert all(math.isnan(value) for value in (*unknown, now.output_jitter.mean))


def test_percentiles_of_the_latency() -> None:
    statistics = counting(Clock())
    for latency in range(101):
        statistics.published(float(latency), 0.0, 0)
    assert statistics.snapshot().latency_ms == (50.0, 95.0, 99.0)


def test_percentiles_of_every_stage() -> None:
    """A stage that only some frames have is told while one of them is in the window."""
    clock = Clock()
    statistics = counting(clock)
    for milliseconds in range(101):
        fill = {"fill": 9.0} if milliseconds == 0 else {}
        statistics.published(0.0, 0.0, 0, stages={"average": float(milliseconds), **fill})
    assert statistics.snapshot().stages_ms == {"average": (50.0, 95.0, 99.0), "fill": (9.0, 9.0, 9.0)}
    clock.now += WINDOW_SECONDS + 1
    assert statistics.snapshot().stages_ms == {}


def test_age_of_the_stamps_and_difference_within_a_pair() -> None:
    clock = Clock()
    statistics = counting(clock)
    for age, difference in ((0.03, 2.0), (0.07, -5.0), (0.05, 3.0)):
        statistics.paired(difference)
        statistics.published(1.0, 1.0, round((clock.now - age) * 1e9))
    now = statistics.snapshot()
    assert now.delay == pytest.approx((0.03, 0.07))
    assert now.difference_ms == 5.0


def test_a_clock_that_nobody_has_told_the_time_gives_stamps_no_age() -> None:
    told = 0
    statistics = Statistics(lambda: told, Clock())
    statistics.published(1.0, 1.0, 1_600_000_000_000_000_000)
    assert all(math.isnan(age) for age in statistics.snapshot().delay)
    told = 1_600_000_000_500_000_000
    statistics.published(1.0, 1.0, 1_600_000_000_000_000_000)
    assert statistics.snapshot().delay == (0.5, 0.5)


def test_jitter_is_how_far_the_intervals_are_from_their_mean() -> None:
    clock = Clock()
    statistics = counting(clock)
    assert math.isnan(statistics.snapshot().rgb_jitter.interval)
    for interval in (0.0, 0.030, 0.040, 0.030, 0.020):
        clock.now += interval
        statistics.received_rgb()
        statistics.received_depth()
    now = statistics.snapshot()
    assert (now.rgb_jitter.interval, now.rgb_jitter.mean, now.rgb_jitter.largest) == pytest.approx((30, 5, 10))
    assert now.depth_jitter == now.rgb_jitter
    run(statistics, clock, 200)
    assert statistics.snapshot().output_jitter == Jitter(31.25, 0.0, 0.0)


def test_the_output_rate_is_not_known_at_once_and_knows_no_pause() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 30)
    assert math.isnan(statistics.snapshot().output_rate)
    run(statistics, clock, 34)
    assert statistics.snapshot().output_rate == pytest.approx(32, rel=0.05)
    clock.now += WINDOW_SECONDS - 1  # the camera was idle; what came before is still in the window
    run(statistics, clock, 96)
    assert statistics.snapshot().output_rate == pytest.approx(32, rel=0.5)
    clock.now += WINDOW_SECONDS
    run(statistics, clock, 64)
    assert statistics.snapshot().output_rate == pytest.approx(32, rel=0.05)


def test_times_since_the_last_images() -> None:
    clock = Clock()
    statistics = counting(clock)
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
    statistics = Statistics(time.time_ns)

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


# Overload.


def frames(overload: Overload, *overruns: bool) -> bool:
    for overrun in overruns:
        overload.frame(overrun)
    return overload.overloaded


def test_ten_overruns_in_a_row_are_an_overload_and_ten_frames_in_time_end_it() -> None:
    overload = Overload()
    assert not frames(overload, *[True] * 9, False, *[True] * 9)
    assert overload.overruns == 9
    assert frames(overload, True)
    assert frames(overload, *[False] * 9, True, *[False] * 9)
    assert not frames(overload, False)


@pytest.mark.parametrize(
    ("processing_ms", "busy_every", "overloaded"),
    [(31.0, 0, False), (32.0, 0, True), (31.0, 2, False), (60.0, 2, True), (6.5, 1, True)],
    ids=["in time", "too slow", "every other one dropped", "too slow and dropped", "all dropped"],
)
def test_an_overrun_is_longer_than_the_interval_of_the_pairs(
    processing_ms: float, busy_every: int, overloaded: bool
) -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 20, busy_every, processing_ms)
    now = statistics.snapshot()
    assert (now.overloaded, now.overruns >= Overload.ENOUGH) == (overloaded, overloaded)


@pytest.mark.parametrize(("company", "overloaded"), [(1, True), (2, False)])
def test_frames_in_work_at_once_may_take_as_many_intervals(company: int, overloaded: bool) -> None:
    clock = Clock()
    statistics = counting(clock)
    for _ in range(20):
        clock.now += 0.033
        statistics.paired()
        statistics.published(50.0, 50.0, 0, company=company)
    assert statistics.snapshot().overloaded is overloaded


def test_without_an_interval_nothing_is_too_long() -> None:
    statistics = counting(Clock())
    for _ in range(20):
        statistics.published(900.0, 900.0, 0)
    assert not statistics.snapshot().overloaded


def test_a_pause_ends_an_overload_and_is_no_interval() -> None:
    clock = Clock()
    statistics = counting(clock)
    run(statistics, clock, 30, processing_ms=60.0)
    assert statistics.snapshot().overloaded
    clock.now += WINDOW_SECONDS + 1
    run(statistics, clock, 1, processing_ms=60.0)
    assert not statistics.snapshot().overloaded
    run(statistics, clock, 5 + Overload.ENOUGH, processing_ms=60.0)
    assert statistics.snapshot().overloaded


def test_images_that_come_in_bunches_are_no_overload() -> None:
    clock = Clock()
    statistics = counting(clock)
    for number in range(60):
        clock.now += 0.099 if number % 3 == 0 else 0.0005
        statistics.paired()
        statistics.published(20.0, 20.0, 0)
        assert not statistics.snapshot().overloaded
