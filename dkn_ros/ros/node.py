"""`dkn_node`: pairs colour and depth images, upsamples the depth, publishes it with its timing.

Subscribed  in/rgb/image, in/rgb/camera_info, in/depth/image, in/depth/camera_info
Published   depth/upsampled, depth/camera_info, depth/timing, /diagnostics
Parameters  PipelineConfig and NodeConfig of `config.py`

The ROS thread receives and pairs; one worker thread takes the newest pair, converts, calls the pipeline, publishes.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.ros import parameters
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.frames import Frames
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import registration
from dkn_ros.ros.monitor import Monitor, about_pipeline
from dkn_ros.ros.outputs import QUIET_SECONDS, Outputs
from dkn_ros.ros.process import on_signals, run
from dkn_ros.ros.qos import qos
from dkn_ros.ros.registering import registering_of
from dkn_ros.ros.sync import make_synchroniser


class DknNode(Node):
    """The node; raises ValueError in the constructor for parameters and weights that cannot be used."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("dkn_node", **kwargs)
        pipeline_config = parameters.declare(self, PipelineConfig)
        self.config = parameters.declare(self, NodeConfig)
        # Here, not above: torch takes seconds to load, and `main` listens to Ctrl-C and SIGTERM before it does.
        from dkn_ros.pipeline import Pipeline

        self.pipeline = Pipeline(pipeline_config)
        self._warm_up()

        self.registering = registering_of(self, self.config)
        self.statistics = Statistics(lambda: self.get_clock().now().nanoseconds)
        c = self.config
        self.synchroniser = make_synchroniser(self._on_pair, c.queue_size, c.slop, c.pairing, self._on_clock_jump)
        self._infos: dict[str, CameraInfo] = {}
        self.outputs = Outputs(self, c)
        self.frames = Frames(
            c,
            self.pipeline,
            self.registering,
            self.outputs,
            self.statistics,
            self._infos,
            self.get_logger(),
            self.context.ok,
        )
        self.monitor = Monitor(self, c)

        inputs = qos(self.config.input_reliability, self.config.queue_size)
        for camera in ("rgb", "depth"):
            remember = functools.partial(self._infos.__setitem__, camera)
            self.create_subscription(CameraInfo, f"in/{camera}/camera_info", remember, inputs)
        self._inputs = [
            self.create_subscription(Image, "in/rgb/image", self._on_rgb, inputs),
            self.create_subscription(Image, "in/depth/image", self._on_depth, inputs),
        ]
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # By a clock of its own: under use_sim_time the node's stands still while no bag is played.
        self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        rgb, depth = (s.topic_name for s in self._inputs)
        pairing = f"pairing by {self.synchroniser.name}"
        self.get_logger().info(f"ready: {rgb} + {depth} -> {self.outputs.topic_name}; {pairing}")

    def _warm_up(self) -> None:
        c, p = self.config, self.pipeline
        about = f"weights {p.card.name}, {p.device}, {_name(p.precision)}, {p.threads} threads"
        if c.warm_up_width and c.warm_up_height:
            sizes = (c.warm_up_width, c.warm_up_height)
            small = [max(1, size // c.warm_up_factor) for size in sizes]
            first = p.warm_up(*sizes, *small)
            about += f"; {sizes[0]}x{sizes[1]}: first {first:.0f} ms, then {p.warm_up(*sizes, *small):.0f} ms"
        self.get_logger().info(about)

    # The ROS thread: receive, pair, hand over.

    def _on_rgb(self, msg: Image) -> None:
        self.statistics.received_rgb()
        self.frames.colour(msg)
        self.synchroniser.add_rgb(msg, self.get_clock().now().nanoseconds)

    def _on_depth(self, msg: Image) -> None:
        self.statistics.received_depth()
        self.synchroniser.add_depth(msg, self.get_clock().now().nanoseconds)

    def _on_pair(self, pair: Pair) -> None:
        self.statistics.paired(pair.difference_ms)
        self.frames.pair(pair)

    def _on_clock_jump(self, seconds: float) -> None:
        text = f"clock went back by {seconds:.3f} s; pairing starts anew"
        self.get_logger().warning(text, throttle_duration_sec=QUIET_SECONDS)

    # Parameters and diagnostics.

    def _on_set_parameters(self, given: list[Parameter]) -> Any:
        try:
            config = parameters.changed(self.config, given)
            pipeline_config = parameters.changed(self.pipeline.config, given)
        except ValueError as error:
            return parameters.result(error)
        if config.slop != self.config.slop:
            self.synchroniser.set_slop(config.slop)
        self.config = self.outputs.config = self.frames.config = config
        self.pipeline.config = pipeline_config
        return parameters.result(None)

    def _diagnose(self) -> None:
        rgb, depth = self._infos.get("rgb"), self._infos.get("depth")
        about = about_pipeline(self.pipeline) | {
            "camera_info": "received" if rgb else "none yet: the depth goes without",
            "registration": self.registering.about or registration(rgb, depth),
        }
        self.monitor.report(self.config, self.statistics, self.synchroniser, about, str(self.pipeline.device))


def _name(precision: Any) -> str:
    return str(precision).removeprefix("torch.")


def _spin(node: DknNode) -> None:
    try:
        rclpy.spin(node)
    finally:
        node.frames.stop()


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM; exit status 0 then, 1 if it could not start."""
    # An exception in the middle of loading torch can abort the process; nothing is there yet to be left in order.
    on_signals(lambda *_: os._exit(0))
    import dkn_ros.pipeline  # noqa: F401
    from dkn_ros.device import keep_freed_memory

    keep_freed_memory()
    return run(DknNode, _spin, "dkn_node", args)


if __name__ == "__main__":
    sys.exit(main())
