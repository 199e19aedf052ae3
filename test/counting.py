"""Statistics on a clock that the test moves."""

from __future__ import annotations

from dkn_ros.ros.counts import Statistics


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counting(clock: Clock) -> Statistics:
    """Statistics whose stamps are of the same clock."""
    return Statistics(lambda: round(clock.now * 1e9), clock)


def run(statistics: Statistics, clock: Clock, frames: int, busy_every: int = 0, processing_ms: float = 6.5) -> None:
    """Frames at 32 Hz: received, paired and published after 7 ms, except that each `busy_every`th is dropped.

    Their stamps differ by 1 ms and are 50 ms old when they are published.
    """
    for number in range(1, frames + 1):
        clock.now += 1 / 32  # exact in binary
        statistics.received_rgb()
        statistics.received_depth()
        statistics.paired(1.0)
        if busy_every and number % busy_every == 0:
            statistics.dropped_busy()
        else:
            statistics.published(7.0, processing_ms, round(clock.now * 1e9) - 50_000_000)
