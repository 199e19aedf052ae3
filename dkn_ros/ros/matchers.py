"""The policies by which a colour and a depth message become a pair: ours, and that of message_filters.

`NearestMatcher` is ours.  A message is paired with the one whose stamp is nearest to its own once the offset between
the streams is taken out, and only if that is nearer than half the shorter period.  Less than that around a stamp the
faster topic has one message at most: the partner, or nothing if that was lost.  Pairs come in the order of their
stamps; what is older than a pair can no longer become one.

`ApproximateTimeMatcher` and `MessageFiltersMatcher` have the policy of message_filters.ApproximateTimeSynchronizer (the
Python one), which for two topics has been the same from Humble (4.3) to 7.x:

- Each topic has a queue of messages by stamp; a message of a stamp already there replaces it.
- Above `queue_size`, the message with the oldest stamp is dropped, even if it has just come.
- A new message that is still in its queue is paired with the nearest message that waits in the other queue, if their
  stamps differ by less than the slop (so a slop of 0 pairs nothing); of two equally near, with the one queued first.
- Both leave their queues at once; older messages stay and may still be paired.

With a slop above half the period, a lost colour frame leaves its depth frame to the next colour frame, that one's to
the one after, and every later pair is a frame off, for ever.  With one below, streams that lie half a period apart pair
now with the frame before, now with the frame after, now not at all.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dkn_ros.ros.distro import approximate_time
from dkn_ros.ros.rhythm import DEPTH, RGB, TOPICS, Rhythm

REACH = 0.49
"""How far from its expected stamp a partner may be, in (shorter) periods: just below the half."""


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


class Matcher(ABC):
    """A policy: two queues, and the pairs that they give.  Used under the lock of PairSynchroniser."""

    name: str
    slop_ns = 0
    """Only stamps that differ by less (from the offset, where that is taken out) are paired."""
    slop_rules = True
    """Whether a larger slop pairs stamps that are further apart, however far."""

    def __init__(self, queues: Sequence[dict[int, Any]]) -> None:
        self._queues = queues

    def tune(self, rhythm: Rhythm, slop_ns: int) -> None:
        """Go by what is known of the streams now.  slop_ns: as the user set it; 0: just below half the period."""
        self.slop_ns = slop_ns or int(REACH * rhythm.period)

    def largest_slop_ns(self, rhythm: Rhythm) -> int | None:
        """Above this slop a lost message can put every later pair a frame off; None: above none, or not known."""
        return rhythm.period // 2 if any(rhythm.periods) else None

    @abstractmethod
    def add(self, topic: int, stamp_ns: int, message: Any) -> Pair | None:
        """Queue a message of `topic` (RGB or DEPTH); the pair that it completes, which has then left the queues."""

    def waiting(self, topic: int) -> int:
        """How many messages of `topic` wait for a partner."""
        return len(self._queues[topic])

    def clear(self, topics: Iterable[int] = TOPICS) -> None:
        """Drop all messages of these topics that wait."""
        for topic in topics:
            self._queues[topic].clear()


class NearestMatcher(Matcher):
    """The nearest stamps, the offset between the streams taken out, never a frame off.

    A slop that the user has set limits the difference of the stamps themselves besides.  Where the streams have no
    constant offset (frames on demand, arrival times of a busy network), a slop that is set is the only limit.  Where
    the offset is known, a slop does not reach beyond half a period from it, even if nothing pairs: stamps do not tell
    clocks that differ from an image that comes late, whose partner is gone, and with what is left it would be off.
    """

    name = "nearest"

    def __init__(self, queue_size: int) -> None:
        super().__init__(({}, {}))
        self._queue_size = queue_size
        self._paired: list[int | None] = [None, None]  # stamps of the latest pair
        self._offset_ns = self._reach_ns = 0

    def tune(self, rhythm: Rhythm, slop_ns: int) -> None:
        """Go by the offset and the period of `rhythm`.  slop_ns: as the user set it; 0: just below half the period."""
        half = int(REACH * rhythm.period)
        self._offset_ns = rhythm.offset or 0
        self.slop_rules = rhythm.offset is None
        self._reach_ns = slop_ns if slop_ns and self.slop_rules else half
        self.slop_ns = slop_ns or half + abs(self._offset_ns)

    def largest_slop_ns(self, rhythm: Rhythm) -> int | None:
        """None: no slop puts it off."""
        return None

    def add(self, topic: int, stamp_ns: int, message: Any) -> Pair | None:
        """The pair that the message completes, by the rules at the top of this file."""
        own, other = self._queues[topic], self._queues[1 - topic]
        paired = self._paired[topic]
        if paired is not None and stamp_ns <= paired:
            return None
        own[stamp_ns] = message
        if len(own) > self._queue_size:
            del own[min(own)]
        if stamp_ns not in own or not other:
            return None
        expected = stamp_ns + (self._offset_ns if topic == RGB else -self._offset_ns)
        nearest = min(other, key=lambda stamp: (abs(stamp - expected), stamp))
        if abs(nearest - expected) >= self._reach_ns or abs(nearest - stamp_ns) >= self.slop_ns:
            return None
        stamps = (stamp_ns, nearest) if topic == RGB else (nearest, stamp_ns)
        pair = Pair(self._queues[RGB][stamps[RGB]], self._queues[DEPTH][stamps[DEPTH]], *stamps)
        for queue, latest in zip(self._queues, stamps, strict=True):
            for stamp in [stamp for stamp in queue if stamp <= latest]:
                del queue[stamp]
        self._paired = list(stamps)
        return pair

    def clear(self, topics: Iterable[int] = TOPICS) -> None:
        """Drop all messages of these topics that wait, and take stamps older than those of the latest pair again."""
        super().clear(topics)
        self._paired = [None, None]


class ApproximateTimeMatcher(Matcher):
    """The policy of message_filters in plain Python."""

    name = "approximate_time"

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
    """The same as message_filters carries it out; making one raises ImportError where that is not installed.

    Messages are handed to its filters directly, so it needs no subscriptions of its own, in a light wrapper whose
    header holds the stamp to pair by.  It calls back under its lock, which an exception there would leave locked for
    ever (ros2/message_filters issue 65), so what it calls only puts the pair aside.
    """

    name = "message_filters"

    def __init__(self, queue_size: int) -> None:
        self._filter, self._inputs = approximate_time(queue_size)
        self._duration = importlib.import_module("rclpy.duration").Duration
        self._time = importlib.import_module("rclpy.time").Time
        self._ros_time = importlib.import_module("rclpy.clock").ClockType.ROS_TIME
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
