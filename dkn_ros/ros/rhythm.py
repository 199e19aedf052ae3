"""The rhythm of two streams of stamps: the period of each, the offset between them, and whether a clock went back.

All of it comes from the latest stamps of both, never from the pairs that were made of them: an estimate that followed
the pairs would follow them a frame off as well.  Pure Python, deterministic, everything in nanoseconds.
"""

from __future__ import annotations

import bisect
import cmath
import math
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

RGB, DEPTH = TOPICS = (0, 1)
NS_PER_SECOND = 1_000_000_000


class Rhythm:
    """Periods and offset of the stamps of RGB and DEPTH, which `observe` takes in the order of their arrival.

    The period is the median of the differences of consecutive stamps, without those that a lost frame has lengthened.

    The offset is that of a depth stamp from the colour stamp of its frame.  Stamps alone cannot tell an offset from the
    same one a period (of the faster stream) more or less, so it is taken nearest to zero, and once taken, followed: one
    of about half a period, which jitter carries to and fro over the half, does not change sides with every frame.  Two
    streams that run freely shift against each other; their offset changes sides when it is clearly past the half.
    There is none where the differences agree on nothing, as at 25 and 30 Hz.
    """

    STAMPS, DIFFERENCES_NEEDED = 32, 3
    PHASES = 15
    SIDE = 0.6
    """An offset is followed up to so many periods away from zero."""
    ASSUMED_PERIOD = NS_PER_SECOND // 30
    JUMP_PERIODS, JUMP = 5, NS_PER_SECOND
    """Stamps of one topic may come slightly out of order; further back than either, the clock was set back."""

    def __init__(self) -> None:
        self._stamps = tuple(deque[int](maxlen=self.STAMPS) for _ in TOPICS)
        self.newest: list[int | None] = [None, None]
        self.periods: list[int | None] = [None, None]
        self.offset: int | None = None
        """Depth stamp less colour stamp of one frame; None while there is no constant one."""
        self.assumed_period = self.ASSUMED_PERIOD
        self._before_rest: tuple[list[int | None], int | None] | None = None
        # Kept when all else is forgotten: after a jump of one topic, that of the other must be seen as well.
        self._tolerated = [self.JUMP, self.JUMP]

    @property
    def period(self) -> int:
        """The shorter period; until one is measured, the assumed one: unless told otherwise, that of a 30 Hz camera."""
        return min((p for p in self.periods if p), default=self.assumed_period)

    def went_back(self, topic: int, stamp: int) -> int:
        """How far a stamp lies behind the newest of its topic, if so far that the clock must have been set; else 0."""
        newest = self.newest[topic]
        return newest - stamp if newest is not None and newest - stamp > self._tolerated[topic] else 0

    def observe(self, topic: int, stamp: int) -> None:
        """Take note of a stamp."""
        newest, period = self.newest[topic], self.periods[topic]
        if newest is not None and period and stamp - newest > max(NS_PER_SECOND, 10 * period):
            self.forget(topic)  # the stream began anew, in another rhythm perhaps
            newest = None
        self._stamps[topic].append(stamp)
        self.newest[topic] = stamp if newest is None else max(newest, stamp)
        self.periods[topic] = period = self._measured_period(topic)
        if period is not None:
            self._tolerated[topic] = min(self.JUMP, self.JUMP_PERIODS * period)
        self.offset = self._measured_offset()
        if self._before_rest is None:
            return
        if self.offset is not None or min(map(len, self._stamps)) >= self.PHASES:
            self._before_rest = None
        else:
            periods, self.offset = self._before_rest
            self.periods = list(periods)

    def settle(self) -> None:
        """Take the offset anew from all the latest stamps: of the first few jitter can choose the side."""
        self.offset = None
        self.offset = self._measured_offset()

    def rest(self) -> None:
        """No stamp comes for a while; until they are measured anew, periods and offset are what they were before."""
        if self._before_rest is None:
            self._before_rest = list(self.periods), self.offset
        for stamps in self._stamps:
            stamps.clear()
        self.newest = [None, None]

    def forget(self, *topics: int) -> None:
        """Begin anew with these topics."""
        for topic in topics:
            self._stamps[topic].clear()
            self.newest[topic] = self.periods[topic] = None
        self.offset = self._before_rest = None

    def _measured_period(self, topic: int) -> int | None:
        differences = sorted(b - a for a, b in pairwise(sorted(set(self._stamps[topic]))))
        if len(differences) < self.DIFFERENCES_NEEDED:
            return None
        # Up to three quarters of the frames may be lost before every one of the shortest quarter spans a lost frame.
        single = 1.5 * differences[len(differences) // 4]
        return max(1, int(statistics.median(d for d in differences if d <= single)))

    def _measured_offset(self) -> int | None:
        if None in self.periods or not all(self._stamps):
            return None
        period = self.period
        phases = self._differences(period)
        # Differences that are equal but for whole periods point the same way on a circle of one period.
        mean = sum(cmath.exp(2j * math.pi * p / period) for p in phases) / max(len(phases), 1)
        # Differences of no constant offset point anywhere; few of them agree by chance.
        if abs(mean) <= max(0.5, 2 / math.sqrt(max(len(phases), 1))):
            return None
        centre = round(cmath.phase(mean) / (2 * math.pi) * period)
        phase = centre + int(statistics.median(_nearest(p - centre, 0, period) for p in phases))
        followed = None if self.offset is None else _nearest(phase, self.offset, period)
        if followed is not None and abs(followed) <= self.SIDE * period:
            return followed
        return _nearest(phase, 0, period)

    def _differences(self, period: int) -> list[int]:
        """Depth stamp less nearest colour stamp, for the latest of the slower stream to which nothing nearer can come.

        Those of more than a period and a half are left out: many frames were lost there, or the clocks have nothing to
        do with each other.
        """
        slower = max(TOPICS, key=lambda topic: self.periods[topic] or 0)
        others = sorted(self._stamps[1 - slower])
        stamps = [stamp for stamp in sorted(set(self._stamps[slower])) if stamp <= others[-1]]
        sign = 1 if slower == DEPTH else -1
        differences = [sign * (stamp - _nearest_of(others, stamp)) for stamp in stamps[-self.PHASES :]]
        return [difference for difference in differences if abs(difference) < 1.5 * period]


def _nearest(value: int, target: int, period: int) -> int:
    """The nearest to `target` that differs from `value` by whole periods."""
    return value - period * round((value - target) / period)


def _nearest_of(stamps: Sequence[int], stamp: int) -> int:
    index = bisect.bisect_left(stamps, stamp)
    return min(stamps[max(index - 1, 0) : index + 1], key=lambda other: abs(other - stamp))
