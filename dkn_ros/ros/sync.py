"""Pairing of colour and depth images by their stamps.

`make_synchroniser` pairs by `matchers.NearestMatcher` unless told otherwise, also where message_filters is installed.
The policy of message_filters looks at two stamps and a slop alone, and one lost frame can put every later pair a frame
off for ever.  Ours knows the period and the offset of the streams (`rhythm.py`), so its next pair is right again, and
it pairs streams of any constant offset.  "message_filters" stays for a robot on which other nodes pair the same topics
with it and the pairs must be the same; where it is not installed, our own form of its policy stands in.

What any policy needs around it is in `PairSynchroniser`: the rhythm of the streams, stamps of zero, clocks set back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dkn_ros.ros.matchers import ApproximateTimeMatcher, Matcher, MessageFiltersMatcher, NearestMatcher, Pair
from dkn_ros.ros.messages import stamp_ns
from dkn_ros.ros.rhythm import DEPTH, NS_PER_SECOND, RGB, TOPICS, Rhythm

FOLLOW_NS = NS_PER_SECOND
"""When the stamps of one topic have gone back, those of the other follow before the first has gone on for so long."""


@dataclass(frozen=True)
class SyncState:
    """What became of the messages since the start, and what is known of the streams; the tuples are (colour, depth).

    zero_stamps: came with stamp 0 and were paired by arrival.  by_arrival: whether they are so now.
    clock_jumps: how often the stamps went back and pairing started anew.
    newest_ns: stamps, or arrivals where these count.  periods_ns, offset_ns: measured; the offset is depth stamp less
    colour stamp.  difference_ns: the same of the latest pair.  None: not known, or no constant one.
    largest_slop_ns: above it a lost message can put every later pair a frame off.  None: above none, or not known.
    slop_rules: see `Matcher.slop_rules`.
    """

    received: tuple[int, ...] = (0, 0)
    paired: int = 0
    waiting: tuple[int, ...] = (0, 0)
    zero_stamps: tuple[int, ...] = (0, 0)
    by_arrival: bool = False
    clock_jumps: int = 0
    newest_ns: tuple[int | None, ...] = (None, None)
    periods_ns: tuple[int | None, ...] = (None, None)
    offset_ns: int | None = None
    difference_ns: int | None = None
    largest_slop_ns: int | None = None
    slop_rules: bool = True

    @property
    def unmatched(self) -> tuple[int, ...]:
        """Left the queue without a partner: too old, replaced by one of the same stamp, or dropped at a clock jump."""
        return tuple(r - self.paired - w for r, w in zip(self.received, self.waiting, strict=True))


class PairSynchroniser:
    """Pairs the messages of two topics and calls back with each pair.  Safe to feed from several threads.

    The callback runs in the thread whose message completed the pair, outside every lock, so it may take its time and
    raise: what it raises comes out of `add`, and the pair is gone.

    A driver that leaves stamps 0 is paired by arrival: while the latest message of either topic came with stamp 0, both
    topics go by arrival, since the arrival of one image and the exposure of the other differ by the driver's latency.

    Stamps that go back (a bag that starts again, a clock set back) start the pairing anew: what waits is in the future
    of all that comes, and would be paired with nothing but keep the queues full.
    """

    def __init__(
        self,
        callback: Callable[[Pair], None],
        queue_size: int,
        slop: float = 0.0,
        matcher: Matcher | None = None,
        went_back: Callable[[float], None] | None = None,
    ) -> None:
        """Set up with empty queues.

        queue_size: messages of each topic that may wait, 1 or more.  slop: see `set_slop`.  matcher: None: the nearest.
        went_back: called with the seconds by which the stamps went back, once for both topics.
        """
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}; wanted: at least 1")
        self._callback, self._went_back = callback, went_back
        self._matcher = matcher if matcher is not None else NearestMatcher(queue_size)
        self._lock = threading.Lock()
        self._rhythm = Rhythm()
        self._stampless = [False, False]  # whether the latest message of the topic came with stamp 0
        self._received, self._zero_stamps = [0, 0], [0, 0]
        self._paired = self._clock_jumps = 0
        self._difference_ns: int | None = None
        self._jump: tuple[int, int] | None = None  # topic that went back first, and to which stamp
        self.set_slop(slop)

    @property
    def name(self) -> str:
        """The policy: "nearest", "message_filters", or "approximate_time" where that stands in for the second."""
        return self._matcher.name

    @property
    def slop(self) -> float:
        """The slop in use, seconds."""
        return self._matcher.slop_ns / NS_PER_SECOND

    def set_slop(self, slop: float) -> None:
        """Pair stamps that differ by less than `slop` seconds; 0: by less than half the period from the offset."""
        if not 0 <= slop < float("inf"):
            raise ValueError(f"slop is {slop}; wanted: seconds, 0 or more")
        with self._lock:
            self._slop_ns = int(slop * NS_PER_SECOND)
            self._matcher.tune(self._rhythm, self._slop_ns)

    def assume(self, period_ns: int) -> None:
        """While no period is measured, go by this one (nanoseconds) in place of that of a 30 Hz camera."""
        with self._lock:
            self._rhythm.assumed_period = period_ns
            self._matcher.tune(self._rhythm, self._slop_ns)

    def settle(self) -> None:
        """Take the offset anew from all the latest stamps, not as it was followed from the first few on."""
        with self._lock:
            self._rhythm.settle()
            self._matcher.tune(self._rhythm, self._slop_ns)

    def add_rgb(self, message: Any, arrival_ns: int) -> None:
        """Take a colour message (anything with header.stamp) that arrived at `arrival_ns` on the node's clock."""
        self.add(RGB, stamp_ns(message.header.stamp), message, arrival_ns)

    def add_depth(self, message: Any, arrival_ns: int) -> None:
        """Take a depth message (anything with header.stamp) that arrived at `arrival_ns` on the node's clock."""
        self.add(DEPTH, stamp_ns(message.header.stamp), message, arrival_ns)

    def add(self, topic: int, stamp_ns: int, message: Any, arrival_ns: int = 0) -> None:
        """Take any message of `topic` (RGB or DEPTH); its arrival matters only where stamps are 0.  Nanoseconds."""
        with self._lock:
            self._received[topic] += 1
            self._zero_stamps[topic] += stamp_ns == 0
            by_arrival = any(self._stampless)
            self._stampless[topic] = stamp_ns == 0
            if by_arrival != any(self._stampless):  # another clock, perhaps of another time
                self._start_anew(TOPICS)
            time_ns = arrival_ns if any(self._stampless) else stamp_ns
            back_ns = self._look_back(topic, time_ns)
            self._rhythm.observe(topic, time_ns)
            self._matcher.tune(self._rhythm, self._slop_ns)
            pair = self._matcher.add(topic, time_ns, message)
            if pair is not None:
                self._paired += 1
                self._difference_ns = pair.depth_stamp_ns - pair.rgb_stamp_ns
        if back_ns and self._went_back is not None:
            self._went_back(back_ns / NS_PER_SECOND)
        if pair is not None:
            self._callback(pair)

    def state(self) -> SyncState:
        """What happened to the messages so far, and what is known of their streams."""
        with self._lock:
            return SyncState(
                received=tuple(self._received),
                paired=self._paired,
                waiting=tuple(self._matcher.waiting(topic) for topic in TOPICS),
                zero_stamps=tuple(self._zero_stamps),
                by_arrival=any(self._stampless),
                clock_jumps=self._clock_jumps,
                newest_ns=tuple(self._rhythm.newest),
                periods_ns=tuple(self._rhythm.periods),
                offset_ns=self._rhythm.offset,
                difference_ns=self._difference_ns,
                largest_slop_ns=self._matcher.largest_slop_ns(self._rhythm),
                slop_rules=self._matcher.slop_rules,
            )

    def rest(self) -> None:
        """No message comes for a while: what waits is dropped; what is known of the streams holds when they go on."""
        with self._lock:
            self._matcher.clear(TOPICS)
            self._rhythm.rest()
            self._jump = None

    def _look_back(self, topic: int, time_ns: int) -> int:
        """Start anew if the clock went back with this stamp; by how much, or 0 if it did not or that is known already.

        One topic goes back first.  What still comes of the other one from before the jump, until it follows, is of no
        use; that it follows is no jump of its own.
        """
        back_ns = self._rhythm.went_back(topic, time_ns)
        if not back_ns:
            return 0
        other = self._rhythm.newest[1 - topic]
        if self._jump and self._jump[0] != topic and other is not None and other - self._jump[1] < FOLLOW_NS:
            self._start_anew((topic,))
            return 0
        self._clock_jumps += 1
        self._start_anew(TOPICS)
        self._jump = topic, time_ns
        return back_ns

    def _start_anew(self, topics: tuple[int, ...]) -> None:
        self._matcher.clear(topics)
        self._rhythm.forget(*topics)
        self._jump = None


def make_synchroniser(
    callback: Callable[[Pair], None],
    queue_size: int,
    slop: float = 0.0,
    pairing: str = NearestMatcher.name,
    went_back: Callable[[float], None] | None = None,
) -> PairSynchroniser:
    """A PairSynchroniser of the policy `pairing`, "nearest" or "message_filters"; `.name` says what carries it out."""
    matcher: Matcher = NearestMatcher(queue_size)
    if pairing == MessageFiltersMatcher.name:
        try:
            matcher = MessageFiltersMatcher(queue_size)
        except ImportError:
            matcher = ApproximateTimeMatcher(queue_size)
    return PairSynchroniser(callback, queue_size, slop, matcher, went_back)
