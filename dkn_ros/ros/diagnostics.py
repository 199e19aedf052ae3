"""What the node says about itself as messages: `depth/timing` for each frame, `/diagnostics` once a second.

What is counted stands in `counts.py`, what is made of it in `assessment.py`.  Only the functions that build messages
need ROS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dkn_ros.config import NodeConfig
from dkn_ros.ros.assessment import Level
from dkn_ros.ros.counts import Jitter, Snapshot
from dkn_ros.ros.sync import SyncState

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticArray


def status_values(now: Snapshot, sync: SyncState, slop: float, synchroniser: str, config: NodeConfig) -> dict[str, str]:
    """The numbers of `/diagnostics` as its keys and values; the node adds device, precision, weights and threads.

    slop: in use, seconds.  synchroniser: the name of what pairs.
    """
    jitters = {"rgb": now.rgb_jitter, "depth": now.depth_jitter, "pair": now.pair_jitter, "output": now.output_jitter}
    unmatched_rgb, unmatched_depth = sync.unmatched
    zero_rgb, zero_depth = sync.zero_stamps
    return {
        **_of_diagnostic_updater(now, config),
        "rgb rate (Hz)": f"{now.recent.rgb / now.seconds:.2f}",
        "depth rate (Hz)": f"{now.recent.depth / now.seconds:.2f}",
        "pair rate (Hz)": f"{now.recent.pairs / now.seconds:.2f}",
        "output rate (Hz)": f"{now.recent.published / now.seconds:.2f}",
        **_percentiles("latency", now.latency_ms),
        "processing (ms)": f"{now.processing_ms:.2f}",
        **{key: v for name, of in now.stages_ms.items() for key, v in _percentiles(f"stage {name}", of).items()},
        "overruns in a row": str(now.overruns),
        **{key: value for name, jitter in jitters.items() for key, value in _jitter(name, jitter).items()},
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
        "largest pair difference (ms)": f"{now.difference_ms:.2f}",
        "slop (ms)": f"{slop * 1e3:.2f}",
        "synchroniser": synchroniser,
    }


def _of_diagnostic_updater(now: Snapshot, config: NodeConfig) -> dict[str, str]:
    """The output as a DiagnosedPublisher of diagnostic_updater would describe it, for monitors that know its keys.

    Its keys to the letter (update_functions.hpp of ROS 2, the colons too).
    """
    values = {
        "Events in window": str(now.recent.published),
        "Events since startup": str(now.total.published),
        "Duration of window (s)": f"{now.seconds:.6f}",
        "Actual frequency (Hz)": f"{now.recent.published / now.seconds:.6f}",
    }
    if config.min_rate:
        values["Minimum acceptable frequency (Hz)"] = f"{config.min_rate:.6f}"
    if not math.isnan(now.delay[0]):
        values["Earliest timestamp delay:"] = f"{now.delay[0]:.6f}"
        values["Latest timestamp delay:"] = f"{now.delay[1]:.6f}"
    return values


def _jitter(name: str, jitter: Jitter) -> dict[str, str]:
    return {f"{name} jitter mean (ms)": f"{jitter.mean:.2f}", f"{name} jitter largest (ms)": f"{jitter.largest:.2f}"}


def _percentiles(name: str, values: tuple[float, float, float]) -> dict[str, str]:
    return {f"{name} {p} (ms)": f"{v:.2f}" for p, v in zip(("p50", "p95", "p99"), values, strict=True)}


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
