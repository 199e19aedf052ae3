"""QoS profiles of the package's topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile


def qos(reliability: str, depth: int) -> QoSProfile:
    """A QoS profile of "best_effort" or "reliable" with a history of `depth`."""
    from rclpy.qos import QoSProfile, QoSReliabilityPolicy

    policies = {"best_effort": QoSReliabilityPolicy.BEST_EFFORT, "reliable": QoSReliabilityPolicy.RELIABLE}
    return QoSProfile(depth=depth, reliability=policies[reliability])
