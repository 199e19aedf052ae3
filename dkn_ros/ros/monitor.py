"""What the node says about itself once a second: looks at its counts and its peers, logs what is new, publishes.

Published   /diagnostics
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dkn_ros.config import NodeConfig
from dkn_ros.ros.assessment import Finding, Inputs, Level, Work, assess, findings
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.diagnostics import diagnostic_array, status_values
from dkn_ros.ros.peers import CAMERA_INFO, IMAGE, Peers, Qos, Topic
from dkn_ros.ros.registering import CAMERAS, info_topic
from dkn_ros.ros.sync import PairSynchroniser

if TYPE_CHECKING:
    from dkn_ros.pipeline import Pipeline

LOGGED_ELSEWHERE = ("failure", "refused")
"""Keys of findings that are logged where they happen, with every detail."""


class Monitor:
    """Publishes `/diagnostics`; what is found is logged when it begins and when it is over.

    The topics are those that the node has by its configuration, whether or not it listens at the moment.
    """

    def __init__(self, node: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._logged: dict[str, Finding] = {}

    def watch(self, config: NodeConfig, views: Mapping[str, str]) -> None:
        """Look after the topics of this configuration.  views: topic -> type, of what else is published of a frame."""

        def topic(given: str, kind: str, **more: Any) -> Topic:
            return Topic(self._node.resolve_topic_name(given), given, kind, **more)

        heard: dict[str, Any] = {"qos": Qos(config.input_reliability), "reliability": "input_reliability"}
        sent: dict[str, Any] = {"qos": Qos(config.output_reliability), "reliability": "output_reliability"}
        self._rgb, self._depth = (topic(f"in/{camera}/image", IMAGE, **heard) for camera in ("rgb", "depth"))
        infos = [topic(info_topic(camera), CAMERA_INFO, **heard, needed=False) for camera in CAMERAS]
        outputs = [
            topic("depth/upsampled", IMAGE, **sent),
            topic(config.camera_info_topic, CAMERA_INFO, **sent, renamed_by="camera_info_topic"),
            *(topic(name, kind, **sent) for name, kind in views.items()),
        ]
        self._peers = Peers(self._node, [self._rgb, self._depth, *infos], outputs)

    def rest(self) -> None:
        """What was found is of no interest any more."""
        self._logged = {}

    def tell(self, level: Level, message: str, device: str, values: Mapping[str, str]) -> None:
        """Publish this."""
        name = f"{self._node.get_fully_qualified_name()[1:]}: depth upsampling"
        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(diagnostic_array(stamp, name, device, level, message, values))

    def report(
        self,
        config: NodeConfig,
        statistics: Statistics,
        synchroniser: PairSynchroniser,
        about: Mapping[str, str],
        device: str,
        asleep: str,
        notes: Sequence[str],
        work: Work,
    ) -> None:
        """Look, log and publish.

        about: what else the diagnostics state, see `about_pipeline`.  asleep: why the node does not listen, if so.
        notes: of the pipeline, on devices.
        """
        now, sync = statistics.snapshot(), synchroniser.state()
        view = self._peers.look([info_topic(camera) for camera in work.lacking])
        inputs = Inputs(
            self._rgb.name,
            view.publishers[self._rgb.name],
            self._depth.name,
            view.publishers[self._depth.name],
            synchroniser.slop,
            math.inf if sync.largest_slop_ns is None else sync.largest_slop_ns / 1e9,
            sync.newest_ns,
            sync.by_arrival,
            asleep,
            sync.periods_ns,
            sync.slop_rules,
        )
        devices = [Finding(Level.WARN, f"device: {note}", note, counted=False) for note in notes]
        found = findings(now, inputs, config, view.unheard, [*devices, *view.beside], work)
        self._log(found)
        values = status_values(now, sync, synchroniser.slop, synchroniser.name, config)
        values |= {"rgb publishers": inputs.rgb_publishers, "depth publishers": inputs.depth_publishers, **about}
        values |= {f"finding {number}": finding.text for number, finding in enumerate(found, 1)}
        self.tell(*assess(found, now, inputs, config), device, values)

    def _log(self, found: list[Finding]) -> None:
        logged = {finding.key: finding for finding in found if finding.key not in LOGGED_ELSEWHERE}
        for key, finding in logged.items():
            before = self._logged.get(key)
            if before is None or (not finding.counted and finding.text != before.text):
                if finding.level == Level.OK:
                    self._node.get_logger().info(finding.text)
                else:
                    self._node.get_logger().warning(finding.text)
        for key in self._logged.keys() - logged.keys():
            self._node.get_logger().info(f"over: {key}")
        self._logged = logged


def faster(pipeline: Pipeline, at_once: int) -> list[str]:
    """Parameters, each with the value that would make the node faster on a CPU, as far as they are not set."""
    if pipeline.device.type != "cpu":
        return []
    from dkn_ros.at_once import most_at_once

    settings = {
        "precision to int8": pipeline.config.precision != "int8",
        "weights to fdkn-small": pipeline.card.name != "fdkn-small",
        "frames_at_once to 2": at_once < 2 <= most_at_once(pipeline)[0],
    }
    return [setting for setting, open_yet in settings.items() if open_yet]


def about_camera_info(come: bool, lacking: Sequence[str]) -> str:
    """What the diagnostics state of camera_info.  come: that of colour.  lacking: see `Registering.lacking`."""
    if lacking:
        return f"none yet of {' and '.join(CAMERAS[camera] for camera in lacking)}: pairs are refused"
    return "received" if come else "none yet: the depth goes without"


def about_pipeline(pipeline: Pipeline) -> dict[str, str]:
    """What of a pipeline the diagnostics state: device, memory, network and weights."""
    from dkn_ros.device import memory_in_use

    return {
        "device": str(pipeline.device),
        "path": pipeline.path,
        "precision": str(pipeline.precision).removeprefix("torch."),
        "threads": str(pipeline.threads),
        "colour on depth": pipeline.misregistered or "taken as it comes",
        **{f"{name} (MB)": f"{used / 1e6:.1f}" for name, used in memory_in_use(pipeline.device).items()},
        "model": pipeline.card.model,
        "weights": f"{pipeline.card.name} {pipeline.card.sha256[:12]}",
    }
