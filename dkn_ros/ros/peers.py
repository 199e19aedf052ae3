"""Who else is on the node's topics: publishers that cannot be heard, that are missing, that publish what the node does.

The decisions are functions of plain values; `Peers` asks the graph.  Nothing here imports ROS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isinf
from typing import Any

from dkn_ros.ros.assessment import Finding, Level
from dkn_ros.ros.launch_description import INPUTS

IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
WANTED = {IMAGE: "raw image", CAMERA_INFO: "camera_info"}
# What DDS orders from weak to strong (specification 1.4, table 2.2.3): an offer serves a request that is no stronger.
STRENGTHS = {
    "reliability": ("best_effort", "reliable"),
    "durability": ("volatile", "transient_local"),
    "liveliness": ("automatic", "manual_by_node", "manual_by_topic"),
}
ENDLESS = float(2**31 - 1)
"""Seconds: durations as long as this, and those of 0, which mean that none was set, are infinite."""
TRANSPORT = re.compile(r"/(compressed|compressedDepth|theora|ffmpeg|zstd)$")
"""What image_transport appends to the topic of the raw image."""
SAME = {"color": "rgb", "colour": "rgb"}
MOST_LOOKALIKES = 3
GRACE_SECONDS = 10.0
"""So much later than the node a driver may start before it counts as missing."""
UNKNOWN = "an unknown node"


@dataclass(frozen=True)
class Qos:
    """What of a QoS profile decides whether a publisher serves a subscription; the durations in seconds."""

    reliability: str = "reliable"
    durability: str = "volatile"
    liveliness: str = "automatic"
    deadline: float = inf
    lease: float = inf

    @classmethod
    def of(cls, profile: Any) -> Qos:
        """Of a rclpy QoSProfile, one's own or as the graph tells it."""
        return cls(
            profile.reliability.name.lower(),
            profile.durability.name.lower(),
            profile.liveliness.name.lower(),
            _seconds(profile.deadline),
            _seconds(profile.liveliness_lease_duration),
        )


@dataclass(frozen=True)
class Endpoint:
    """A publisher or a subscription: the full name of its node, its type such as "sensor_msgs/msg/Image", its QoS."""

    node: str
    kind: str
    qos: Qos


@dataclass(frozen=True)
class Topic:
    """A topic of the node.

    name: resolved.  given: relative, as the node calls it.  reliability: the parameter that sets it.
    renamed_by: the parameter that sets the name; empty: it is remapped.  needed: whether it is a fault if nobody
    publishes it.
    """

    name: str
    given: str
    kind: str
    qos: Qos
    reliability: str = ""
    renamed_by: str = ""
    needed: bool = True

    @property
    def rename(self) -> str:
        """How to give it another name."""
        return f"set {self.renamed_by}" if self.renamed_by else remapping([self.given])


def remapping(names: Sequence[str]) -> str:
    """How to give other names to topics that the node calls so, in words."""
    arguments = [argument for name in names for argument, given in INPUTS.items() if given == name]
    hint = f" (launch argument{'s' if len(arguments) > 1 else ''} {' and '.join(arguments)})" if arguments else ""
    return f"remap {' and '.join(names)}{hint}"


def mismatches(offered: Qos, requested: Qos) -> list[tuple[str, str]]:
    """For every policy by which the offer does not serve the request: what is offered, what is requested, in words.

    The rule of DDS (specification 1.4, 2.2.3).  rclpy's qos_check_compatible has the same but takes durations that were
    not set (0) for shorter than infinite ones, and so finds fault with two profiles of defaults.
    A policy that is not known, as some middleware does not tell, is taken to fit.
    """
    found = []
    for policy, order in STRENGTHS.items():
        given, wanted = getattr(offered, policy), getattr(requested, policy)
        if given in order and wanted in order and order.index(given) < order.index(wanted):
            found.append((given, wanted))
    for policy, name in (("deadline", "deadline"), ("lease", "liveliness lease")):
        given, wanted = getattr(offered, policy), getattr(requested, policy)
        if given > wanted:
            found.append((_duration(name, given), _duration(name, wanted)))
    return found


def described(publishers: Sequence[Endpoint]) -> str:
    """The publishers of a topic and their QoS in words."""
    if not publishers:
        return "no publisher"
    each = " and ".join(f"{p.node}, {p.qos.reliability}" for p in publishers)
    return f"publisher{'s' if len(publishers) > 1 else ''} {each}"


def lookalikes(topic: str, others: Iterable[str]) -> list[str]:
    """Those of the others that may be meant, best first: they share words, and both are of depth or neither is."""
    words = _words(topic)
    scores = {}
    for other in others:
        theirs = _words(other)
        shared = len(words & theirs)
        if shared and ("depth" in words) == ("depth" in theirs):
            other_end = topic.rsplit("/", 1)[-1] != other.rsplit("/", 1)[-1]
            scores[other] = (other_end, -shared / len(words | theirs), other)
    return sorted(scores, key=lambda other: scores[other])[:MOST_LOOKALIKES]


def input_faults(
    topic: Topic, publishers: Sequence[Endpoint], images: Mapping[str, Sequence[Endpoint]]
) -> Iterator[Finding]:
    """Why nothing can come on a topic that the node reads, or not from all who publish there.

    publishers: of the topic, of any type.  images: topic -> publishers, of the images that others publish.
    """
    fitting = [p for p in publishers if p.kind == topic.kind]
    if publishers and not fitting:
        raw = TRANSPORT.sub("", topic.name)
        known = raw != topic.name and raw in images
        remedy = f"{raw} ({described(images[raw])})" if known else f"the {WANTED[topic.kind]}"
        wrong = f"publisher {publishers[0].node} sends {publishers[0].kind}, this node reads {topic.kind}"
        yield _fault(topic, "type", f"{wrong}; {topic.rename} to {remedy}")
    for p in fitting:
        for offered, requested in mismatches(p.qos, topic.qos):
            remedy = f"set {topic.reliability}:={offered}" if offered == "best_effort" else f"offer {requested} there"
            text = f"publisher {p.node} offers {offered}, this node asks for {requested}; {remedy}"
            yield _fault(topic, f"QoS of {p.node}, {requested}", text)


def absent(topics: Sequence[Topic], others: Mapping[str, Sequence[Endpoint]], early: bool) -> Iterator[Finding]:
    """What to do about topics that nobody publishes; in one line for all that no other topic may be meant by.

    others: topic -> publishers, of what others publish of the type.  early: the camera's driver may just be starting,
    which is no fault yet.
    """
    alone = []
    for topic in topics:
        similar = lookalikes(topic.name, (name for name in others if name != topic.name))
        if similar:
            meant = " or ".join(f"{name} ({described(others[name])})" for name in similar)
            yield _fault(topic, "no publisher", f"no publisher; did you mean {meant}? then {topic.rename}")
        else:
            alone.append(topic)
    if alone:
        key = f"{' and '.join(topic.name for topic in alone)}: no publisher"
        text = f"{key}{' yet' if early else ''}; start the camera's driver, or {remapping([t.given for t in alone])}"
        yield Finding(Level.OK if early else Level.WARN, key, text, counted=False)


def output_faults(
    topic: Topic, own: str, publishers: Sequence[Endpoint], readers: Sequence[Endpoint]
) -> Iterator[Finding]:
    """What is wrong with who else is on a topic that the node publishes.

    own: full name of the node.  publishers, readers: all that the topic has, the node's own among them.
    """
    others = {p.node for p in publishers if p.node != own}
    if sum(p.node == own for p in publishers) > 1:
        others.add(f"another {own}")
    for other in sorted(others):
        yield _fault(topic, f"clash with {other}", f"{other} publishes it as well; {topic.rename} to another name")
    for r in readers:
        if r.kind != topic.kind:
            text = f"subscription of {r.node} reads {r.kind}, this node sends {topic.kind}"
            yield _fault(topic, f"type for {r.node}", text)
            continue
        for offered, requested in mismatches(topic.qos, r.qos):
            remedy = f"set {topic.reliability}:={requested}" if requested == "reliable" else f"ask for {offered} there"
            text = f"subscription of {r.node} asks for {requested}, this node offers {offered}; {remedy}"
            yield _fault(topic, f"QoS for {r.node}, {requested}", text)


def _fault(topic: Topic, about: str, text: str) -> Finding:
    return Finding(Level.WARN, f"{topic.name}: {about}", f"{topic.name}: {text}", counted=False)


@dataclass(frozen=True)
class View:
    """What was seen in the graph.

    unheard: faults of the images that are read.  beside: of all other topics.  publishers: of each input, in words.
    """

    unheard: list[Finding]
    beside: list[Finding]
    publishers: Mapping[str, str]


class Peers:
    """Looks at the graph around a node, once a second or so.

    A graph that is just changing is no fault: what only one look has seen is not told.
    """

    def __init__(
        self,
        node: Any,
        inputs: Sequence[Topic],
        outputs: Sequence[Topic],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._inputs, self._outputs = node, inputs, outputs
        self._own = node.get_fully_qualified_name()
        self._seen: set[str] = set()
        self._clock, self._until = clock, clock() + GRACE_SECONDS

    def look(self, wanted: Collection[str] = ()) -> View:
        """The graph as it is now.  wanted: inputs, as given, that are needed now though they are not always."""
        publishers = {t.name: self._publishers(t.name) for t in (*self._inputs, *self._outputs)}
        images: dict[str, list[Endpoint]] = {}
        if any(not any(p.kind == t.kind for p in publishers[t.name]) for t in self._inputs):
            images = self._others(IMAGE)
        faults: dict[bool, list[Finding]] = {True: [], False: []}
        missing = [t for t in self._inputs if t.needed and not publishers[t.name]]
        if not missing:
            self._until = 0.0  # the drivers were there: what is missing later has not just to start
        faults[True] += absent(missing, images, self._clock() < self._until)
        lacking = [t for t in self._inputs if t.given in wanted and not publishers[t.name]]
        faults[False] += absent(lacking, self._others(CAMERA_INFO) if lacking else {}, early=False)
        for t in self._inputs:
            faults[t.needed] += input_faults(t, publishers[t.name], images)
        for t in self._outputs:
            faults[False] += output_faults(t, self._own, publishers[t.name], self._readers(t.name))
        before, self._seen = self._seen, {fault.key for fault in (*faults[True], *faults[False])}
        return View(
            [fault for fault in faults[True] if fault.key in before],
            [fault for fault in faults[False] if fault.key in before],
            {t.name: described(publishers[t.name]) for t in self._inputs},
        )

    def _others(self, kind: str) -> dict[str, list[Endpoint]]:
        """Topic -> publishers, of what others publish of this type."""
        names = [name for name, kinds in self._node.get_topic_names_and_types() if kind in kinds]
        found = {name: [p for p in self._publishers(name) if p.kind == kind and p.node != self._own] for name in names}
        return {name: publishers for name, publishers in found.items() if publishers}

    def _publishers(self, topic: str) -> list[Endpoint]:
        return [endpoint(info) for info in self._node.get_publishers_info_by_topic(topic)]

    def _readers(self, topic: str) -> list[Endpoint]:
        return [endpoint(info) for info in self._node.get_subscriptions_info_by_topic(topic)]


def endpoint(info: Any) -> Endpoint:
    """Of a rclpy TopicEndpointInfo."""
    known = "UNKNOWN" not in info.node_name  # it stands there while a node is being discovered, or is no ROS node
    name = f"{info.node_namespace.rstrip('/')}/{info.node_name}" if known else UNKNOWN
    return Endpoint(name, info.topic_type, Qos.of(info.qos_profile))


def _seconds(duration: Any) -> float:
    seconds = duration.nanoseconds / 1e9
    return seconds if 0 < seconds < ENDLESS else inf


def _duration(name: str, seconds: float) -> str:
    return f"no {name}" if isinf(seconds) else f"a {name} of {seconds:g} s"


def _words(topic: str) -> set[str]:
    words = re.split(r"[/_]", topic.lower())
    return {SAME.get(word, word) for word in words if word}
