"""Pairing in a recording, whose stamps can all be looked at before its first pair is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, pairwise
from typing import Any

from dkn_ros.config import BagConfig
from dkn_ros.ros.bag_input import BagInput
from dkn_ros.ros.bag_topics import IMAGE, Topics
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import stamp_ns
from dkn_ros.ros.rhythm import DEPTH, NS_PER_SECOND, RGB, TOPICS, Rhythm
from dkn_ros.ros.sync import PairSynchroniser

LONGEST_PERIOD = NS_PER_SECOND
"""Assumed where there is one image of each topic, which tell none: they are a pair if less than half of it apart."""

Seen = tuple[int, int, int]
"""Timestamp of the bag, topic and stamp of an image, nanoseconds."""


def synchroniser_of(
    bag: BagInput, store: Any, topics: Topics, config: BagConfig, start: int | None, pairs: list[Pair]
) -> PairSynchroniser:
    """What pairs the images of `bag` from the timestamp `start` on, and appends each pair to `pairs`.

    The policy is the node's own by default.  But a node has to wait for some stamps until it knows the rhythm; this one
    knows it from the first image on, so that no camera is too slow for its first pairs.
    store: rosbags' types, by which images are read.
    """
    synchroniser = PairSynchroniser(pairs.append, config.queue_size, config.slop)
    seen = _first(bag, store, topics, start)
    if start is not None and not _tell_periods(seen):  # the end of a recording: its beginning tells more
        seen = _first(bag, store, topics, None)
    for timestamp, topic, stamp in seen:
        synchroniser.add(topic, stamp, None, timestamp)
    synchroniser.settle()
    synchroniser.rest()
    pairs.clear()
    # For what comes after stamps that went back, and for recordings of so few images that no period is measured.
    measured = [period for period in synchroniser.state().periods_ns if period]
    synchroniser.assume(min(measured, default=_shortest(seen)))
    return synchroniser


def _first(bag: BagInput, store: Any, topics: Topics, start: int | None) -> list[Seen]:
    """The first images of each topic from `start` on, as many as make a rhythm, in the order of their timestamps."""
    names = {RGB: topics.rgb, DEPTH: topics.depth}
    return sorted(
        (timestamp, topic, stamp)
        for topic, name in names.items()
        for timestamp, stamp in islice(_stamps(bag, store, name, start), Rhythm.STAMPS)
    )


def _stamps(bag: BagInput, store: Any, name: str, start: int | None) -> Iterator[tuple[int, int]]:
    """Timestamp and stamp of the images of a topic that can be read."""
    for connection, timestamp, data in bag.messages({name}, start):
        if connection.msgtype == IMAGE:
            stamp = None
            with suppress(Exception):  # bytes from a damaged file, counted when they are copied
                stamp = stamp_ns(store.deserialize_cdr(data, IMAGE).header.stamp)
            if stamp is not None:
                yield timestamp, stamp


def _tell_periods(seen: list[Seen]) -> bool:
    counts = Counter(topic for _, topic, _ in seen)
    return max(counts.values(), default=0) > Rhythm.DIFFERENCES_NEEDED


def _shortest(seen: list[Seen]) -> int:
    """The shortest difference of consecutive images of a topic, which spans the fewest lost ones; nanoseconds."""
    by_arrival = not all(stamp for _, _, stamp in seen)  # as the synchroniser takes stamps of zero
    times = {topic: {time if by_arrival else stamp for time, of, stamp in seen if of == topic} for topic in TOPICS}
    return min((b - a for found in times.values() for a, b in pairwise(sorted(found))), default=LONGEST_PERIOD)
