"""What the node says about itself: `depth/timing` for each frame, `/diagnostics` once a second.

`Statistics` counts, `assess` turns a snapshot of it into a level and a sentence, and the rest writes both into
diagnostic_msgs.  Only the functions that build messages need ROS.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dkn_ros.ros.sync import SyncState

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticArray

WINDOW_SECONDS = 5.0
"""Rates, percentiles and the level look this far back."""
BUSY = "busy"
"""Reason of a pair dropped because a newer one came before the worker was free."""
BUSY_SHARE = 0.1
"""When more than this share of the pairs is dropped as BUSY, the node falls behind."""
ENOUGH_UNPAIRED = 5
"""So many images of a topic without a pair are no accident of the start."""
BY_ARRIVAL = "paired by arrival, stamps are zero"
"""What is said while a driver leaves its stamps empty."""


class Level(enum.IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Counts:
    """Images received, pairs made of them, frames published; pairs and images dropped, by reason."""

    rgb: int = 0
    depth: int = 0
    pairs: int = 0
    published: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment: `recent` of the last `seconds`, `total` since the start.

    latency_ms: p50, p95 and p99 of the recent published frames; NaN if there are none.
    since_*: seconds since the last of them; infinite if there was none.  unpaired_*: images since the last pair.
    refusal: what was wrong with the last image refused.  failure: why no frame can be processed; empty if they can.
    """

    seconds: float = WINDOW_SECONDS
    recent: Counts = field(default_factory=Counts)
    total: Counts = field(default_factory=Counts)
    latency_ms: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    since_rgb: float = math.inf
    since_depth: float = math.inf
    since_pair: float = math.inf
    unpaired_rgb: int = 0
    unpaired_depth: int = 0
    refusal: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Inputs:
    """What the node listens to: resolved topic names and how many publishers each has.

    slop: in use, seconds.  by_arrival: whether images are paired by their arrival because stamps are zero.
    """

    rgb_topic: str
    rgb_publishers: int
    depth_topic: str
    depth_publishers: int
    slop: float
    by_arrival: bool = False


class _Events:
    """One kind of event: all are counted; of the recent ones the value is kept."""

    def __init__(self) -> None:
        self.total = 0
        self.latest = -math.inf
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float = 0.0) -> None:
        self.total += 1
        self.latest = now
        self._recent.append((now, value))
        self.recent(now)

    def recent(self, now: float) -> list[float]:
        """Values of the events of the last WINDOW_SECONDS; the older are forgotten."""
        while self._recent and self._recent[0][0] <= now - WINDOW_SECONDS:
            self._recent.popleft()
        return [value for _, value in self._recent]


class Statistics:
    """Counts what happens to images and pairs.  Safe to use from several threads.

    clock: seconds that never go back; another one only in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._rgb, self._depth, self._pairs, self._published = _Events(), _Events(), _Events(), _Events()
        self._dropped: defaultdict[str, _Events] = defaultdict(_Events)
        self._paired_rgb = self._paired_depth = 0  # images received up to the last pair
        self._refusal = self._failure = ""

    def received_rgb(self) -> None:
        """A colour image has come."""
        with self._lock:
            self._rgb.add(self._clock())

    def received_depth(self) -> None:
        """A depth image has come."""
        with self._lock:
            self._depth.add(self._clock())

    def paired(self) -> None:
        """A pair has been made."""
        with self._lock:
            self._pairs.add(self._clock())
            self._paired_rgb, self._paired_depth = self._rgb.total, self._depth.total

    def published(self, latency_ms: float) -> None:
        """A frame was published, so long after its pair came; whatever stood in the way before no longer does."""
        with self._lock:
            self._published.add(self._clock(), latency_ms)
            self._failure = ""

    def dropped_busy(self) -> None:
        """A pair was dropped because a newer one came before the worker was free."""
        with self._lock:
            self._dropped[BUSY].add(self._clock())

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
            latencies = self._published.recent(now)
            p50, p95, p99 = np.percentile(latencies, (50, 95, 99)) if latencies else (math.nan,) * 3
            return Snapshot(
                seconds=min(max(now - self._start, 1e-3), WINDOW_SECONDS),  # never 0: rates divide by it
                recent=self._counts(lambda events: len(events.recent(now))),
                total=self._counts(lambda events: events.total),
                latency_ms=(float(p50), float(p95), float(p99)),
                since_rgb=now - self._rgb.latest,
                since_depth=now - self._depth.latest,
                since_pair=now - self._pairs.latest,
                unpaired_rgb=self._rgb.total - self._paired_rgb,
                unpaired_depth=self._depth.total - self._paired_depth,
                refusal=self._refusal,
                failure=self._failure,
            )

    def _counts(self, count: Callable[[_Events], int]) -> Counts:
        dropped = {reason: count(events) for reason, events in self._dropped.items()}
        return Counts(count(self._rgb), count(self._depth), count(self._pairs), count(self._published), dropped)


def assess(now: Snapshot, inputs: Inputs, idle_seconds: float) -> tuple[Level, str]:
    """Level and sentence of `/diagnostics`: the worst thing a person should know, and what to do about it.

    idle_seconds: a topic without an image and a node without a pair for so long are idle, which is no fault.
    """
    if now.failure:
        return Level.ERROR, now.failure
    refused = {reason: count for reason, count in now.recent.dropped.items() if count and reason != BUSY}
    if refused:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(refused.items()))
        return Level.WARN, f"pairs refused in the last {now.seconds:.0f} s: {reasons}; last: {now.refusal}"
    if now.since_pair > idle_seconds:
        return _assess_unpaired(now, inputs, idle_seconds)
    busy = now.recent.dropped.get(BUSY, 0)
    if busy > BUSY_SHARE * now.recent.pairs:
        return Level.WARN, f"falling behind: {busy} of {now.recent.pairs} pairs dropped in the last {now.seconds:.0f} s"
    if now.recent.published == 0:
        return Level.OK, "pairs arrive, none is published yet"
    rate = f"{now.recent.published / now.seconds:.1f} Hz, p50 {now.latency_ms[0]:.1f} ms"
    return Level.OK, f"{rate}; {BY_ARRIVAL}" if inputs.by_arrival else rate


def _assess_unpaired(now: Snapshot, inputs: Inputs, idle_seconds: float) -> tuple[Level, str]:
    """The same where no pair has come for a while: nobody sends, one camera stream is missing, or the stamps differ."""
    rgb = f"{inputs.rgb_topic} ({_publishers(inputs.rgb_publishers)})"
    depth = f"{inputs.depth_topic} ({_publishers(inputs.depth_publishers)})"
    rgb_comes = now.since_rgb <= idle_seconds and now.unpaired_rgb >= ENOUGH_UNPAIRED
    depth_comes = now.since_depth <= idle_seconds and now.unpaired_depth >= ENOUGH_UNPAIRED
    if rgb_comes and depth_comes:
        within, slop_ms = "arrivals" if inputs.by_arrival else "stamps", inputs.slop * 1e3
        return Level.WARN, f"no {within} of {rgb} and {depth} are within {slop_ms:.1f} ms; set the parameter slop"
    if rgb_comes or depth_comes:
        sending, silent = (rgb, depth) if rgb_comes else (depth, rgb)
        return Level.WARN, f"images come on {sending} but not on {silent}; check its publisher and QoS"
    return Level.OK, f"waiting for images on {rgb} and {depth}"


def _publishers(count: int) -> str:
    return f"{count} publisher{'' if count == 1 else 's'}"


def status_values(now: Snapshot, sync: SyncState, slop: float, synchroniser: str) -> dict[str, str]:
    """The numbers of `/diagnostics` as its keys and values; the node adds device, precision, weights and threads.

    slop: in use, seconds.  synchroniser: the name of what pairs.
    """
    unmatched_rgb, unmatched_depth = sync.unmatched
    zero_rgb, zero_depth = sync.zero_stamps
    latency = zip(("p50", "p95", "p99"), now.latency_ms, strict=True)
    return {
        "rgb rate (Hz)": f"{now.recent.rgb / now.seconds:.2f}",
        "depth rate (Hz)": f"{now.recent.depth / now.seconds:.2f}",
        "pair rate (Hz)": f"{now.recent.pairs / now.seconds:.2f}",
        "output rate (Hz)": f"{now.recent.published / now.seconds:.2f}",
        **{f"latency {name} (ms)": f"{value:.2f}" for name, value in latency},
        "pairs": str(now.total.pairs),
        "published": str(now.total.published),
        **{f"dropped: {reason}": str(count) for reason, count in sorted(now.total.dropped.items())},
        "dropped: rgb without depth": str(unmatched_rgb),
        "dropped: depth without rgb": str(unmatched_depth),
        "rgb stamps of zero": str(zero_rgb),
        "depth stamps of zero": str(zero_depth),
        "paired by": "arrival" if sync.by_arrival else "stamps",
        "clock jumps": str(sync.clock_jumps),
        "rgb period (ms)": _milliseconds(sync.periods_ns[0]),
        "depth period (ms)": _milliseconds(sync.periods_ns[1]),
        "stamp offset (ms)": _milliseconds(sync.offset_ns),
        "pair difference (ms)": _milliseconds(sync.difference_ns),
        "slop (ms)": f"{slop * 1e3:.2f}",
        "synchroniser": synchroniser,
    }


def _milliseconds(nanoseconds: int | None) -> str:
    return "unknown" if nanoseconds is None else f"{nanoseconds / 1e6:.2f}"


def diagnostic_array(
    stamp: Time, name: str, hardware_id: str, level: Level, message: str, values: Mapping[str, str]
) -> DiagnosticArray:
    """A DiagnosticArray of one status.  stamp: builtin_interfaces/Time."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    status = DiagnosticStatus(level=bytes([level]), name=name, hardware_id=hardware_id, message=message)
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def timing_array(
    stamp: Time,
    hardware_id: str,
    timings: Mapping[str, float],
    *,
    total_ms: float,
    latency_ms: float,
    pair_difference_ms: float,
    rgb_size: tuple[int, int],
    depth_size: tuple[int, int],
) -> DiagnosticArray:
    """The `depth/timing` message of one frame.

    stamp: of the frame.  timings: stage -> milliseconds; stages may overlap, so `total_ms` is not their sum.
    latency_ms: from the arrival of the pair to its publication.  sizes: (width, height) of the two inputs.
    """
    values = {f"{stage}_ms": f"{milliseconds:.3f}" for stage, milliseconds in timings.items()}
    values["total_ms"] = f"{total_ms:.3f}"
    values["latency_ms"] = f"{latency_ms:.3f}"
    values["pair_difference_ms"] = f"{pair_difference_ms:.3f}"
    values["rgb_size"] = f"{rgb_size[0]}x{rgb_size[1]}"
    values["depth_size"] = f"{depth_size[0]}x{depth_size[1]}"
    return diagnostic_array(stamp, "dkn_ros: timing", hardware_id, Level.OK, f"{total_ms:.1f} ms", values)
