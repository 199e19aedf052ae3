"""What happens to images, pairs and frames, counted: rates, latency, jitter, drops by reason, overruns.

`Statistics` counts, in any thread; `Statistics.snapshot` gives all of it as of one moment.  Needs no ROS.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

WINDOW_SECONDS = 5.0
"""Rates, percentiles, jitter and the level look this far back."""
BUSY = "busy"
"""Reason of a pair dropped because a newer one came before the worker was free."""
NAN = math.nan
NO_STAGES: Mapping[str, float] = {}


@dataclass(frozen=True)
class Counts:
    """Images received, pairs made of them, frames published; pairs and images dropped, by reason."""

    rgb: int = 0
    depth: int = 0
    pairs: int = 0
    published: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Jitter:
    """How unevenly something comes, milliseconds: the mean interval, how far intervals are from it.  NaN: unknown."""

    interval: float = NAN
    mean: float = NAN
    largest: float = NAN


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment: `recent` of the last `seconds`, `total` since the start.

    latency_ms: p50, p95 and p99 of the recent published frames, from the arrival of the pair to its publication.
    delay: smallest and largest age of their stamps when they were published, seconds of the node's clock.
    output_rate: published frames a second since the first recent pair; not known in its first second.
    difference_ms: largest difference between the stamps of a recent pair.  processing_ms: median, of the recent frames.
    NaN: unknown, as there were none.
    since_*: seconds since the last of them; infinite if there was none.  unpaired_*: images since the last pair.
    blind: frames without any valid depth, in a row until now.
    overruns: in a row, until now.  overloaded: whether they are too many.
    stages_ms: stage -> p50, p95 and p99 of the recent frames that had it.
    refusal: what was wrong with the last image refused.  failure: why no frame can be processed; empty if they can.
    """

    seconds: float = WINDOW_SECONDS
    recent: Counts = field(default_factory=Counts)
    total: Counts = field(default_factory=Counts)
    latency_ms: tuple[float, float, float] = (NAN, NAN, NAN)
    delay: tuple[float, float] = (NAN, NAN)
    output_rate: float = NAN
    difference_ms: float = NAN
    processing_ms: float = NAN
    stages_ms: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    rgb_jitter: Jitter = Jitter()
    depth_jitter: Jitter = Jitter()
    pair_jitter: Jitter = Jitter()
    output_jitter: Jitter = Jitter()
    since_rgb: float = math.inf
    since_depth: float = math.inf
    since_pair: float = math.inf
    unpaired_rgb: int = 0
    unpaired_depth: int = 0
    blind: int = 0
    overruns: int = 0
    overloaded: bool = False
    refusal: str = ""
    failure: str = ""


class Overload:
    """Whether frames take longer than they may, for so many in a row that it is no accident.

    A frame is an overrun if it took longer than the pairs' interval, or than two of them where two frames were in work
    at once, and so on; or if it was dropped because the worker was busy.
    ENOUGH of them in a row are an overload, and as many in a row that are none are its end.
    """

    ENOUGH = 10
    PAIRS, PAIRS_NEEDED = 32, 6

    def __init__(self) -> None:
        self._pairs: deque[float] = deque(maxlen=self.PAIRS)  # when they came
        self._in_time = 0  # frames in a row, until now
        self.overruns = 0
        """In a row, until now."""
        self.overloaded = False

    def paired(self, now: float) -> None:
        """A pair came; `now` in seconds."""
        if self._pairs and now - self._pairs[-1] > WINDOW_SECONDS:  # a pause: neither an interval nor an overload
            self._pairs.clear()
            self.overruns, self._in_time, self.overloaded = 0, 0, False
        self._pairs.append(now)

    def worked(self, seconds: float, company: int = 1) -> None:
        """A frame took so long, when so many were in work at once."""
        # The mean, not the median: a busy executor hands out images in bunches, and nearly all intervals are too short.
        intervals = len(self._pairs) - 1
        known = len(self._pairs) >= self.PAIRS_NEEDED
        self.frame(known and seconds * intervals > company * (self._pairs[-1] - self._pairs[0]))

    def frame(self, overrun: bool) -> None:
        """One more frame, an overrun or none."""
        self.overruns, self._in_time = (self.overruns + 1, 0) if overrun else (0, self._in_time + 1)
        if self.overruns >= self.ENOUGH:
            self.overloaded = True
        elif self._in_time >= self.ENOUGH:
            self.overloaded = False


class _Events:
    """One kind of event: all are counted; of the recent ones time and value are kept."""

    def __init__(self) -> None:
        self.total = 0
        self.latest = -math.inf
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float = 0.0) -> None:
        self.total += 1
        self.latest = now
        self._recent.append((now, value))
        self._forget(now)

    def count(self, now: float) -> int:
        """How many there were in the last WINDOW_SECONDS."""
        self._forget(now)
        return len(self._recent)

    def values(self, now: float) -> list[float]:
        """Of those that are known."""
        self._forget(now)
        return [value for _, value in self._recent if not math.isnan(value)]

    def seconds(self, now: float) -> float:
        """Since the first of them; 0 if there are none."""
        self._forget(now)
        return now - self._recent[0][0] if self._recent else 0.0

    def jitter(self, now: float) -> Jitter:
        self._forget(now)
        intervals = [1e3 * (b - a) for (a, _), (b, _) in pairwise(self._recent)]
        if len(intervals) < 2:
            return Jitter()
        mean = statistics.fmean(intervals)
        off = [abs(interval - mean) for interval in intervals]
        return Jitter(mean, statistics.fmean(off), max(off))

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - WINDOW_SECONDS:
            self._recent.popleft()


class Statistics:
    """Counts what happens to images and pairs.  Safe to use from several threads.

    now_ns: the clock of the stamps, nanoseconds; 0 while nobody has told it the time (`use_sim_time`).
    clock: seconds that never go back; another one only in tests.
    """

    def __init__(self, now_ns: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._now_ns, self._clock = now_ns, clock
        self._start = clock()
        self._lock = threading.Lock()
        self._rgb, self._depth, self._pairs, self._published = _Events(), _Events(), _Events(), _Events()
        self._processing, self._delays = _Events(), _Events()
        self._stages: defaultdict[str, _Events] = defaultdict(_Events)
        self._dropped: defaultdict[str, _Events] = defaultdict(_Events)
        self._overload = Overload()
        self._paired_rgb = self._paired_depth = 0  # images received up to the last pair
        self._refusal = self._failure = ""
        self._blind = 0

    def received_rgb(self) -> None:
        """A colour image has come."""
        with self._lock:
            self._rgb.add(self._clock())

    def received_depth(self) -> None:
        """A depth image has come."""
        with self._lock:
            self._depth.add(self._clock())

    def paired(self, difference_ms: float = NAN) -> None:
        """A pair has been made, of stamps that differ by so much."""
        with self._lock:
            now = self._clock()
            self._pairs.add(now, abs(difference_ms))
            self._overload.paired(now)
            self._paired_rgb, self._paired_depth = self._rgb.total, self._depth.total

    def published(
        self,
        latency_ms: float,
        processing_ms: float,
        stamp_ns: int,
        blind: bool = False,
        stages: Mapping[str, float] = NO_STAGES,
        company: int = 1,
    ) -> None:
        """A frame of that stamp was published; whatever stood in the way before no longer does.

        latency_ms: since its pair came.  processing_ms: that the worker spent on it.  blind: nothing of it is valid.
        stages: milliseconds of each.  company: frames that were in work at once, this one included.
        """
        told_ns = self._now_ns()
        with self._lock:
            now = self._clock()
            self._published.add(now, latency_ms)
            self._processing.add(now, processing_ms)
            if told_ns:  # else no stamp has an age
                self._delays.add(now, (told_ns - stamp_ns) / 1e9)
            for stage, milliseconds in stages.items():
                self._stages[stage].add(now, milliseconds)
            self._overload.worked(processing_ms / 1e3, company)
            self._blind = self._blind + 1 if blind else 0
            self._failure = ""

    def dropped_busy(self) -> None:
        """A pair was dropped because a newer one came before the worker was free."""
        with self._lock:
            self._dropped[BUSY].add(self._clock())
            self._overload.frame(True)

    def refused(self, reason: str, text: str) -> None:
        """A pair was not processed: its images are unfit.  reason: a key to count by.  text: one line, why."""
        with self._lock:
            self._dropped[reason].add(self._clock())
            self._refusal = text

    def failed(self, text: str) -> None:
        """Frames cannot be processed (weights, device, an error in the pipeline).  text: one line."""
        with self._lock:
            self._failure = text

    def snapshot(self) -> Snapshot:
        """Everything counted, as of now."""
        with self._lock:
            now = self._clock()
            latencies, delays = self._published.values(now), self._delays.values(now)
            worked = self._pairs.seconds(now)
            return Snapshot(
                seconds=min(max(now - self._start, 1e-3), WINDOW_SECONDS),  # never 0: rates divide by it
                recent=self._counts(lambda events: events.count(now)),
                total=self._counts(lambda events: events.total),
                latency_ms=_percentiles(latencies),
                delay=(min(delays, default=NAN), max(delays, default=NAN)),
                output_rate=self._published.count(now) / worked if worked >= 1.0 else NAN,
                difference_ms=max(self._pairs.values(now), default=NAN),
                processing_ms=statistics.median(self._processing.values(now) or [NAN]),
                stages_ms={name: _percentiles(of) for name, s in self._stages.items() if (of := s.values(now))},
                rgb_jitter=self._rgb.jitter(now),
                depth_jitter=self._depth.jitter(now),
                pair_jitter=self._pairs.jitter(now),
                output_jitter=self._published.jitter(now),
                since_rgb=now - self._rgb.latest,
                since_depth=now - self._depth.latest,
                since_pair=now - self._pairs.latest,
                unpaired_rgb=self._rgb.total - self._paired_rgb,
                unpaired_depth=self._depth.total - self._paired_depth,
                blind=self._blind,
                overruns=self._overload.overruns,
                overloaded=self._overload.overloaded,
                refusal=self._refusal,
                failure=self._failure,
            )

    def _counts(self, count: Callable[[_Events], int]) -> Counts:
        dropped = {reason: count(events) for reason, events in self._dropped.items()}
        return Counts(count(self._rgb), count(self._depth), count(self._pairs), count(self._published), dropped)


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p95 and p99; NaN where there are none."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99)) if values else (NAN, NAN, NAN)
    return float(p50), float(p95), float(p99)
