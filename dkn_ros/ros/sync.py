"""Pairing of colour and depth images by their stamps.

The policy is that of message_filters.ApproximateTimeSynchronizer (the Python one), which for two topics has been the
same from Humble (4.3) to 7.x:

- Each topic has a queue of messages by stamp; a message of a stamp already there replaces it.
- Above `queue_size`, the message with the oldest stamp is dropped, even if it has just come.
- A new message that is still in its queue is paired with the nearest message that waits in the other queue, if their
  stamps differ by less than the slop (so a slop of 0 pairs nothing); of two equally near, with the one queued first.
- Both leave their queues at once; older messages stay and may still be paired.

`make_synchroniser` takes message_filters for this where it is installed and `ApproximateTimeMatcher` where it is not.
What either needs around it is in `PairSynchroniser`: a slop that fits the camera, zero stamps, clocks that jump back.
"""

from __future__ import annotations

import importlib
import statistics
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dkn_ros.ros.messages import stamp_ns

RGB, DEPTH = TOPICS = (0, 1)
NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Pair:
    """A colour and a depth message, with the stamps (nanoseconds) by which they were paired."""

    rgb: Any
    depth: Any
    rgb_stamp_ns: int
    depth_stamp_ns: int

    @property
    def difference_ms(self) -> float:
        """Depth stamp less colour stamp, milliseconds."""
        return (self.depth_stamp_ns - self.rgb_stamp_ns) / 1e6


@dataclass(frozen=True)
class SyncCounts:
    """What became of the messages since the start; the tuples are (colour, depth).

    zero_stamps: came with stamp 0 and were paired by arrival.  clock_jumps: how often the stamps jumped back.
    """

    received: tuple[int, ...]
    paired: int
    waiting: tuple[int, ...]
    zero_stamps: tuple[int, ...]
    clock_jumps: int

    @property
    def unmatched(self) -> tuple[int, ...]:
        """Left the queue without a partner: too old, replaced by one of the same stamp, or dropped at a clock jump."""
        return tuple(r - self.paired - w for r, w in zip(self.received, self.waiting, strict=True))


class Matcher(ABC):
    """The policy above: two queues, and the pairs that they give.  Used under the lock of PairSynchroniser."""

    name: str
    slop_ns = 0
    """Only stamps that differ by less are paired; may change between messages."""

    def __init__(self, queues: Sequence[dict[int, Any]]) -> None:
        self._queues = queues

    @abstractmethod
    def add(self, topic: int, stamp_ns: int, message: Any) -> Pair | None:
        """Queue a message of `topic` (RGB or DEPTH); the pair that it completes, which has then left the queues."""

    def waiting(self, topic: int) -> int:
        """How many messages of `topic` wait for a partner."""
        return len(self._queues[topic])

    def clear(self) -> None:
        """Drop all that wait."""
        for queue in self._queues:
            queue.clear()


class ApproximateTimeMatcher(Matcher):
    """The policy in plain Python."""

    name = "dkn_ros"

    def __init__(self, queue_size: int) -> None:
        # stamp -> message; a dict keeps the order in which stamps were queued, by which `min` breaks ties
        super().__init__(({}, {}))
        self._queue_size = queue_size

    def add(self, topic: int, stamp_ns: int, message: Any) -> Pair | None:
        """The pair that the message completes, by the rules at the top of this file."""
        own, other = self._queues[topic], self._queues[1 - topic]
        own[stamp_ns] = message
        if len(own) > self._queue_size:
            del own[min(own)]
        if stamp_ns not in own or not other:
            return None
        nearest = min(other, key=lambda stamp: abs(stamp - stamp_ns))
        if abs(nearest - stamp_ns) >= self.slop_ns:
            return None
        stamps = (stamp_ns, nearest) if topic == RGB else (nearest, stamp_ns)
        return Pair(self._queues[RGB].pop(stamps[RGB]), self._queues[DEPTH].pop(stamps[DEPTH]), *stamps)


class MessageFiltersMatcher(Matcher):
    """The policy as message_filters carries it out; making one raises ImportError where that is not installed.

    Messages are handed to its filters directly, so it needs no subscriptions of its own, in a light wrapper whose
    header holds the stamp to pair by.  It calls back under its lock, which an exception there would leave locked for
    ever (ros2/message_filters issue 65), so what it calls only puts the pair aside.
    """

    name = "message_filters"

    def __init__(self, queue_size: int) -> None:
        filters = importlib.import_module("message_filters")
        self._duration = importlib.import_module("rclpy.duration").Duration
        self._time = importlib.import_module("rclpy.time").Time
        self._ros_time = importlib.import_module("rclpy.clock").ClockType.ROS_TIME
        self._inputs = (filters.SimpleFilter(), filters.SimpleFilter())
        # By keyword: what comes fourth differs between the distributions.
        self._filter = filters.ApproximateTimeSynchronizer(fs=list(self._inputs), queue_size=queue_size, slop=0.0)
        # By position: the argument's name differs between the distributions.
        self._filter.registerCallback(self._put_aside)
        self._completed: Pair | None = None
        super().__init__(self._filter.queues)

    def add(self, topic: int, stamp_ns: int, message: Any) -> Pair | None:
        """The pair that message_filters puts out for the message."""
        self._filter.slop = self._duration(nanoseconds=self.slop_ns)
        stamp = self._time(nanoseconds=stamp_ns, clock_type=self._ros_time)
        self._completed = None
        self._inputs[topic].signalMessage(SimpleNamespace(header=SimpleNamespace(stamp=stamp), message=message))
        return self._completed

    def _put_aside(self, rgb: Any, depth: Any) -> None:
        stamps = rgb.header.stamp.nanoseconds, depth.header.stamp.nanoseconds
        self._completed = Pair(rgb.message, depth.message, *stamps)


class SlopEstimator:
    """Measures the period of both topics, and from it the largest slop that cannot pair across frames.

    That is half the shorter period: less than that around a stamp the faster topic has one message at most, so each
    message has one possible partner, its nearest.  With more, a lost colour frame leaves its depth frame to the next
    colour frame, that one's to the one after, and every later pair is a frame off.  With much less, the streams of
    cameras that run freely may never pair.

    The period is the median of a topic's latest stamp differences, so jitter and the loss of fewer than half the frames
    do not matter.  Until one topic has sent a few frames, that of a 30 Hz camera is assumed.
    """

    FRACTION = 0.49
    ASSUMED_PERIOD_NS = NS_PER_SECOND // 30
    DIFFERENCES, DIFFERENCES_NEEDED = 31, 5
    # Stamps of one topic may come slightly out of order; further back than this, the clock was set back.
    CLOCK_JUMP_NS = NS_PER_SECOND

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything measured."""
        self._newest: list[int | None] = [None, None]
        self._differences = [deque[int](maxlen=self.DIFFERENCES) for _ in TOPICS]

    def observe(self, topic: int, stamp_ns: int) -> bool:
        """Take note of a stamp.  True if the clock jumped back (a bag starts again); measuring then starts anew."""
        newest = self._newest[topic]
        jumped = newest is not None and newest - stamp_ns > self.CLOCK_JUMP_NS
        if jumped:
            self.reset()
            newest = None
        if newest is not None and stamp_ns > newest:
            self._differences[topic].append(stamp_ns - newest)
        self._newest[topic] = stamp_ns if newest is None else max(newest, stamp_ns)
        return jumped

    @property
    def period_ns(self) -> int | None:
        """The shorter of the two periods; None until one is measured."""
        measured = [statistics.median(d) for d in self._differences if len(d) >= self.DIFFERENCES_NEEDED]
        return int(min(measured)) if measured else None

    @property
    def slop_ns(self) -> int:
        """Just below half the period."""
        return int(self.FRACTION * (self.period_ns or self.ASSUMED_PERIOD_NS))


class PairSynchroniser:
    """Pairs the messages of two topics and calls back with each pair.  Safe to feed from several threads.

    The callback runs in the thread whose message completed the pair, outside every lock, so it may take its time and
    raise: what it raises comes out of `add`, and the pair is gone.

    A driver that leaves stamps 0 is paired by arrival: while the latest message of either topic came with stamp 0, both
    topics go by arrival, since the arrival of one image and the exposure of the other differ by the driver's latency.
    """

    def __init__(
        self, callback: Callable[[Pair], None], queue_size: int, slop: float = 0.0, matcher: Matcher | None = None
    ) -> None:
        """queue_size: messages of each topic that may wait, 1 or more.  slop: see `set_slop`.  matcher: None: ours."""
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}; wanted: at least 1")
        self._callback = callback
        self._matcher = matcher if matcher is not None else ApproximateTimeMatcher(queue_size)
        self._lock = threading.Lock()
        self._estimator = SlopEstimator()
        self._stampless = [False, False]  # whether the latest message of the topic came with stamp 0
        self._received, self._zero_stamps = [0, 0], [0, 0]
        self._paired = self._clock_jumps = 0
        self.set_slop(slop)

    @property
    def name(self) -> str:
        """What carries out the policy: "message_filters" or "dkn_ros"."""
        return self._matcher.name

    @property
    def slop(self) -> float:
        """The slop in use, seconds."""
        return self._matcher.slop_ns / NS_PER_SECOND

    def set_slop(self, slop: float) -> None:
        """Pair stamps that differ by less than `slop` seconds; 0: just below half the measured period."""
        if not 0 <= slop < float("inf"):
            raise ValueError(f"slop is {slop}; wanted: seconds, 0 or more")
        with self._lock:
            self._automatic = slop == 0
            self._matcher.slop_ns = self._estimator.slop_ns if self._automatic else int(slop * NS_PER_SECOND)

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
            self._stampless[topic] = stamp_ns == 0
            self._zero_stamps[topic] += stamp_ns == 0
            time_ns = arrival_ns if any(self._stampless) else stamp_ns
            if self._estimator.observe(topic, time_ns):
                # What waits is in the future of all that comes: the queues would drop each new message as their oldest.
                self._clock_jumps += 1
                self._matcher.clear()
            if self._automatic:
                self._matcher.slop_ns = self._estimator.slop_ns
            pair = self._matcher.add(topic, time_ns, message)
            self._paired += pair is not None
        if pair is not None:
            self._callback(pair)

    def counts(self) -> SyncCounts:
        """What happened to the messages so far."""
        with self._lock:
            return SyncCounts(
                received=tuple(self._received),
                paired=self._paired,
                waiting=tuple(self._matcher.waiting(topic) for topic in TOPICS),
                zero_stamps=tuple(self._zero_stamps),
                clock_jumps=self._clock_jumps,
            )


def make_synchroniser(callback: Callable[[Pair], None], queue_size: int, slop: float = 0.0) -> PairSynchroniser:
    """A PairSynchroniser on message_filters where that can be imported, else on our own matcher; `.name` says which."""
    matcher: Matcher
    try:
        matcher = MessageFiltersMatcher(queue_size)
    except ImportError:
        matcher = ApproximateTimeMatcher(queue_size)
    return PairSynchroniser(callback, queue_size, slop, matcher)
