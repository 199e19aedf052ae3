"""From the numbers to a level and a sentence: what a person should know, and what to do about it.  Needs no ROS."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dkn_ros.config import NodeConfig
from dkn_ros.ros.counts import BUSY, Snapshot
from dkn_ros.settings import settings_of

ENOUGH_UNPAIRED = 5
"""So many images of a topic without a pair are no accident of the start."""
ENOUGH_BLIND = 10
"""So many images in a row without any valid depth are no hand before the camera."""
UNCONFIGURED = "at start, or after cleanup"
"""When settings that are not live may be set."""
BY_ARRIVAL = "paired by arrival, stamps are zero"
"""What is said while a driver leaves its stamps empty."""


class Level(enum.IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Inputs:
    """What the node listens to: resolved topic names, and who publishes there with which QoS, in words.

    slop: in use, seconds.  largest_slop: above it a lost image can put every later pair a frame off, seconds.
    newest: stamps of both topics, or arrivals where these count, nanoseconds; None: not known.
    by_arrival: whether images are paired by their arrival because stamps are zero.
    asleep: why the node does not listen to them at the moment; empty if it does.
    periods: of both topics, nanoseconds; None: not known.  slop_rules: see `Matcher.slop_rules`.
    """

    rgb_topic: str
    rgb_publishers: str
    depth_topic: str
    depth_publishers: str
    slop: float
    largest_slop: float = math.inf
    newest: tuple[int | None, ...] = (None, None)
    by_arrival: bool = False
    asleep: str = ""
    periods: tuple[int | None, ...] = (None, None)
    slop_rules: bool = True


@dataclass(frozen=True)
class Work:
    """How the node works on its frames.

    at_once: how many of them.  faster: settings that would make it faster and are not set yet, see `monitor.faster`.
    misregistered: see `Pipeline.misregistered`.  lacking: see `Registering.lacking`.
    misshapen: see `Outputs.misshapen`.
    """

    at_once: int = 1
    faster: Sequence[str] = ()
    misregistered: str = ""
    lacking: Sequence[str] = ()
    misshapen: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    key: the same as long as it is the same thing.  counted: whether the text holds figures that change all the time.
    """

    level: Level
    key: str
    text: str
    counted: bool = True


def findings(
    now: Snapshot,
    inputs: Inputs,
    config: NodeConfig,
    unheard: Sequence[Finding] = (),
    beside: Sequence[Finding] = (),
    work: Work | None = None,
) -> list[Finding]:
    """All that is wrong, the most important first.

    unheard, beside: what `peers` finds on the images that the node reads, and on its other topics.
    """
    if inputs.asleep:  # what came before is over; what stands in the way of waking is not
        return _worst_first([*unheard, *beside])
    idle, work = now.since_pair > config.idle_seconds, work or Work()
    found = [
        *_failure(now),
        *_refused(now),
        *unheard,
        *(_unpaired(now, inputs, config) if idle and not unheard else ()),
        *beside,
        *(() if idle else _blind(now)),
        *(() if idle else _misregistered(work)),
        *(() if idle else _misshapen(work, config)),
        *(() if idle else _overload(now, work)),
        *(() if idle else _slop(inputs)),
        *(() if idle else _limits(now, config)),
    ]
    return _worst_first(found)


def _worst_first(found: list[Finding]) -> list[Finding]:
    """Sorted by level alone: what is no fault yet does not stand before what is one."""
    return sorted(found, key=lambda finding: finding.level, reverse=True)


def assess(found: Sequence[Finding], now: Snapshot, inputs: Inputs, config: NodeConfig) -> tuple[Level, str]:
    """Level and sentence of `/diagnostics`: of the first of the findings; without any, how the node is doing."""
    if found:
        more = f" (and {len(found) - 1} more, see its values)" if len(found) > 1 else ""
        return max(finding.level for finding in found), found[0].text + more
    if inputs.asleep:
        return Level.OK, inputs.asleep
    if now.since_pair > config.idle_seconds:  # which is no fault
        return Level.OK, f"waiting for images on {_rgb(inputs)} and {_depth(inputs)}"
    if now.recent.published == 0:
        return Level.OK, "pairs arrive, none is published yet"
    # By the intervals, as soon as there are some: in a part of the window there may have been no camera yet.
    interval = now.output_jitter.interval
    hertz = 1e3 / interval if interval > 0 else now.recent.published / now.seconds
    rate = f"{hertz:.1f} Hz, p50 {now.latency_ms[0]:.1f} ms"
    return Level.OK, f"{rate}; {BY_ARRIVAL}" if inputs.by_arrival else rate


def _failure(now: Snapshot) -> Iterator[Finding]:
    if now.failure:
        yield Finding(Level.ERROR, "failure", now.failure)


def _refused(now: Snapshot) -> Iterator[Finding]:
    refused = {reason: count for reason, count in now.recent.dropped.items() if count and reason != BUSY}
    if refused:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(refused.items()))
        text = f"pairs refused in the last {now.seconds:.0f} s: {reasons}; last: {now.refusal}"
        yield Finding(Level.WARN, "refused", text)


def _unpaired(now: Snapshot, inputs: Inputs, config: NodeConfig) -> Iterator[Finding]:
    """No pair has come for a while, though images do: one camera stream is missing, or the stamps differ."""
    rgb_comes = now.since_rgb <= config.idle_seconds and now.unpaired_rgb >= ENOUGH_UNPAIRED
    depth_comes = now.since_depth <= config.idle_seconds and now.unpaired_depth >= ENOUGH_UNPAIRED
    if rgb_comes and depth_comes:
        yield Finding(Level.WARN, "no pairs", _late(inputs, config) or _apart(inputs, config))
    elif rgb_comes or depth_comes:
        sending, silent = (_rgb(inputs), _depth(inputs)) if rgb_comes else (_depth(inputs), _rgb(inputs))
        text = f"images come on {sending} but not on {silent}{_newest(inputs)}; check that driver"
        yield Finding(Level.WARN, "images on one topic only", text)


def _apart(inputs: Inputs, config: NodeConfig) -> str:
    """What to do where images wait for each other, but no stamps are near enough."""
    if inputs.slop_rules:
        remedy = "set the parameter slop"
    elif config.slop:
        remedy = "set slop to 0, and the offset between both is taken out"
    else:
        remedy = f"set queue_size above {config.queue_size} ({UNCONFIGURED})"
    what = "arrivals" if inputs.by_arrival else "stamps"
    topics = f"no {what} of {_rgb(inputs)} and {_depth(inputs)} are within {inputs.slop * 1e3:.1f} ms"
    return f"{topics}{_newest(inputs)}; {remedy}"


def _late(inputs: Inputs, config: NodeConfig) -> str:
    """What to do where an image has left its queue before its partner comes; empty if that is not why nothing pairs.

    Of stamps that are so far apart nobody can tell if the clocks differ or one of the topics comes late.
    """
    rgb, depth = inputs.newest
    if inputs.by_arrival or rgb is None or depth is None:
        return ""
    apart, period = abs(rgb - depth), inputs.periods[0 if rgb > depth else 1]
    # The newest stamps of one rhythm are whole periods apart, of which the queue bridges one less than its size.
    if not period or apart < (config.queue_size - 0.5) * period:
        return ""
    remedies = []
    needed, slop = math.ceil(apart / period) + 2, math.ceil((apart + period) / 1e8) / 10  # a tenth of a second
    if needed <= _largest("queue_size"):
        late = f"if {'depth' if rgb > depth else 'colour'} comes so late"
        remedies.append(f"{late}, set queue_size to at least {needed} (now {config.queue_size}; {UNCONFIGURED})")
    remedies.append("if the clocks differ, synchronise them")
    if inputs.slop_rules and config.slop < slop <= _largest("slop"):
        remedies[-1] += f", or set slop to at least {slop:g}"
    topics = f"stamps of {_rgb(inputs)} and {_depth(inputs)} are further apart than queue_size lets images wait"
    return f"{topics}{_newest(inputs)}; {'; '.join(remedies)}"


def _largest(name: str) -> float:
    """That a setting of the node may be."""
    maximum = settings_of(NodeConfig)[name][2].maximum
    return math.inf if maximum is None else maximum


def _newest(inputs: Inputs) -> str:
    """The last stamps of colour and depth: by them one sees a clock that stands still or is another one."""
    rgb, depth = inputs.newest
    if rgb is None and depth is None:
        return ""
    seen = " and ".join("none" if stamp is None else _seconds(stamp) for stamp in inputs.newest)
    apart = "" if rgb is None or depth is None else f", {_seconds(abs(rgb - depth))} s apart"
    return f"; the newest of colour and depth: {seen}{apart}"


def _blind(now: Snapshot) -> Iterator[Finding]:
    if now.blind >= ENOUGH_BLIND:
        remedy = "see what is before the camera, and the parameters min_depth and max_depth"
        text = f"nothing is valid in the last {now.blind} depth images, so nothing is in the output; {remedy}"
        yield Finding(Level.WARN, "images without any valid depth", text)


def _misregistered(work: Work) -> Iterator[Finding]:
    if work.misregistered:
        done = "the colour is moved for the network, the depth stays where it is"
        remedy = "register it: by the driver, or by camera_info that is right and the parameter registration"
        text = f"by their edges colour and depth lie {work.misregistered}; {done}; {remedy}"
        yield Finding(Level.WARN, "colour and depth not registered", text)


def _misshapen(work: Work, config: NodeConfig) -> Iterator[Finding]:
    if work.misshapen:
        text = f"{work.misshapen}; until then {config.camera_info_topic} is stretched to the image"
        yield Finding(Level.WARN, "camera_info of another shape", text, counted=False)


def _overload(now: Snapshot, work: Work) -> Iterator[Finding]:
    if now.overloaded:
        busy = now.recent.dropped.get(BUSY, 0)
        dropped = f"{busy} of {now.recent.pairs} pairs dropped in the last {now.seconds:.0f} s"
        frame = "no frame was done" if math.isnan(now.processing_ms) else f"a frame takes {now.processing_ms:.0f} ms"
        several = f", {work.at_once} are in work at once" if work.at_once > 1 else ""
        times = f"{frame}{several}, pairs come every {now.pair_jitter.interval:.0f} ms"
        settings = f", or set {' or '.join(work.faster)}" if work.faster else ""
        remedy = f"lower the camera's rate or size{settings}"
        yield Finding(Level.WARN, "overload", f"overloaded: {times}; {dropped}; {remedy}")


def _slop(inputs: Inputs) -> Iterator[Finding]:
    if inputs.slop > inputs.largest_slop:
        why = "more than half the period, so that a lost image can put every later pair a frame off"
        largest = math.floor(1e3 * inputs.largest_slop) / 1e3  # seconds, as the parameter is
        remedy = f"set slop to at most {largest:g}, or to 0, or pairing to nearest"
        yield Finding(Level.WARN, "slop", f"slop is {1e3 * inputs.slop:.1f} ms, {why}; {remedy}")


def _limits(now: Snapshot, config: NodeConfig) -> Iterator[Finding]:
    """The limits that were set as parameters; what is not known (NaN) is never beyond one."""
    if config.min_rate and now.output_rate < config.min_rate:
        text = f"output at {now.output_rate:.1f} Hz; wanted: at least {config.min_rate:g} (min_rate)"
        yield Finding(Level.WARN, "min_rate", text)
    if config.max_latency and now.latency_ms[1] > 1e3 * config.max_latency:
        wanted = f"wanted: at most {1e3 * config.max_latency:.0f} (max_latency)"
        yield Finding(Level.WARN, "max_latency", f"latency p95 is {now.latency_ms[1]:.0f} ms; {wanted}")
    if config.max_difference and now.difference_ms > 1e3 * config.max_difference:
        wanted = f"wanted: at most {1e3 * config.max_difference:.1f} (max_difference)"
        text = f"stamps of a pair differ by {now.difference_ms:.1f} ms; {wanted}"
        yield Finding(Level.WARN, "max_difference", text)


def _rgb(inputs: Inputs) -> str:
    return f"{inputs.rgb_topic} ({inputs.rgb_publishers})"


def _depth(inputs: Inputs) -> str:
    return f"{inputs.depth_topic} ({inputs.depth_publishers})"


def _seconds(nanoseconds: int) -> str:
    """By whole numbers: a float has no room for the milliseconds of a stamp of today and the nanoseconds besides."""
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9 // 10**6:03}"
