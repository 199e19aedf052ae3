"""`dkn_node`: pairs colour and depth images, upsamples the depth, publishes it with its timing.

Subscribed  in/rgb/image, in/rgb/camera_info, in/depth/image, in/depth/camera_info
Published   depth/upsampled, depth/camera_info, depth/timing, /diagnostics; for those who listen: depth/validity,
            depth/confidence, depth/preview, depth/points, depth/upsampled/compressedDepth
Parameters  PipelineConfig and NodeConfig of `config.py`
Lifecycle   configure loads and warms up, activate subscribes and works, deactivate, cleanup, shutdown; by itself at
            start unless `autostart` is false

The ROS thread receives and pairs; a worker thread takes the newest pair, converts, calls the pipeline, publishes.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.ros import parameters
from dkn_ros.ros.assessment import Level, Work
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.distro import answering, before_set
from dkn_ros.ros.frames import Frames
from dkn_ros.ros.managed import ManagedNode
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import registration
from dkn_ros.ros.monitor import Monitor, about_camera_info, about_pipeline, faster
from dkn_ros.ros.outputs import QUIET_SECONDS, Outputs
from dkn_ros.ros.process import on_signals, run
from dkn_ros.ros.qos import qos
from dkn_ros.ros.registering import Registering, registering_of, tf_lookup
from dkn_ros.ros.subscriptions import Subscriptions
from dkn_ros.ros.sync import PairSynchroniser, make_synchroniser

if TYPE_CHECKING:
    from dkn_ros.pipeline import Pipeline

END_SECONDS = 1.5
"""How long a frame in work is waited for when the process ends."""
DEACTIVATE_SECONDS = 10.0
"""The same when the node is deactivated."""


@dataclass(frozen=True)
class Equipment:
    """What configure makes and cleanup releases."""

    pipelines: Sequence[Pipeline]
    """One for each frame that may be in work at once; all with one engine."""
    registering: Registering
    synchroniser: PairSynchroniser
    outputs: Outputs


class DknNode(ManagedNode):
    """The node; raises ValueError in the constructor for parameters that cannot be used."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("dkn_node", **kwargs)
        self.pipeline_config = parameters.declare(self, PipelineConfig, managed=True)
        self.config = parameters.declare(self, NodeConfig, managed=True)
        for sentence in parameters.unknown(self):
            self.get_logger().warning(sentence)
        self.equipment: Equipment | None = None  # while configured
        self.frames: Frames | None = None  # while active
        self.statistics = self._new_statistics()
        self.inputs = Subscriptions(self, self._on_rgb, self._on_depth)  # while active and awake
        self._deaf = ""  # why it cannot subscribe though somebody listens
        self._lookup = tf_lookup(self)
        self.monitor = Monitor(self)
        before_set(self, functools.partial(parameters.taken, (PipelineConfig, NodeConfig)))
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # By a clock of its own: under use_sim_time the node's stands still while no bag is played.
        self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Transitions.

    def configure(self) -> None:
        """Load the weights and warm up."""
        # Here, not above: torch takes seconds to load, and `main` listens to Ctrl-C and SIGTERM before it does.
        from dkn_ros.pipeline import Pipeline

        c = self.config
        self.inputs.check()
        registering = registering_of(c, self._lookup, self.resolve_topic_name)
        pipeline = Pipeline(self.pipeline_config)
        at_once = self._warm_up(pipeline)
        self.statistics = self._new_statistics()
        synchroniser = make_synchroniser(self._on_pair, c.queue_size, c.slop, c.pairing, self._on_clock_jump)
        outputs = Outputs(self, c, self._follow_listeners)
        pipelines = [pipeline, *(pipeline.beside() for _ in range(at_once - 1))]
        self.equipment = Equipment(pipelines, registering, synchroniser, outputs)
        self.monitor.watch(c, outputs.views)

    def _new_statistics(self) -> Statistics:
        return Statistics(lambda: self.get_clock().now().nanoseconds)

    def _warm_up(self, pipeline: Pipeline) -> int:
        """Returns how many frames to work on at once."""
        from dkn_ros.at_once import frames_at_once

        c, p = self.config, pipeline
        measure: Callable[[], float] | None = None
        about = f"weights {p.card.name}, {p.device}, {_name(p.precision)}, {p.threads} threads"
        if c.warm_up_width and c.warm_up_height:
            sizes = (c.warm_up_width, c.warm_up_height)
            small = [max(1, size // c.warm_up_factor) for size in sizes]
            measure = functools.partial(p.warm_up, *sizes, *small)
            about += f"; {sizes[0]}x{sizes[1]}: first {measure():.0f} ms, then {measure():.0f} ms"
        at_once, said = frames_at_once(c.frames_at_once, p, measure)
        self.get_logger().info(f"{about}, {said}" if said else about)
        return at_once

    def activate(self) -> None:
        """Subscribe, if somebody listens, and work."""
        assert self.equipment is not None
        e = self.equipment
        self.statistics.failed("")  # what stood in the way of frames before is to be found out anew
        self.frames = Frames(
            self.config,
            e.pipelines,
            e.registering,
            e.outputs,
            self.statistics,
            self.inputs.infos,
            self.get_logger(),
            self.context.ok,
        )
        try:
            self._subscribe_for_listeners()
        except Exception:
            frames, self.frames = self.frames, None
            frames.stop(END_SECONDS)
            raise
        (rgb, depth), pairing = self.inputs.images, f"pairing by {e.synchroniser.name}"
        asleep = "" if self.inputs else f"; {self._asleep()}"
        self.get_logger().info(f"ready: {rgb} + {depth} -> {e.outputs.topic_name}; {pairing}{asleep}")

    def deactivate(self) -> None:
        """Leave the camera's topics, end the work, free what is kept for the next frame."""
        if self.frames is None or self.equipment is None:
            return
        frames, self.frames = self.frames, None
        self._follow_listeners()
        if not frames.stop(DEACTIVATE_SECONDS):
            raise RuntimeError("the worker does not end")
        for pipeline in self.equipment.pipelines:
            pipeline.release()
        self.equipment.registering.release()
        self.equipment.outputs.release()
        _return_memory()

    def clean_up(self) -> None:
        """Release the pipeline and take the publishers back."""
        self.deactivate()
        if self.equipment is not None:
            self.equipment.outputs.close()
        self.equipment = None
        self.monitor.rest()
        self.inputs.infos.clear()
        _return_memory()

    def close(self) -> None:
        """End the work; call before the node is destroyed."""
        if self.frames is not None:
            self.frames.stop(END_SECONDS)

    # Subscriptions: there while the node is active and somebody listens.

    def _follow_listeners(self) -> None:
        """Called while the node spins: where it cannot subscribe it lives on, says so, and tries again in a second."""
        said, self._deaf = self._deaf, ""
        try:
            self._subscribe_for_listeners()
        except Exception as error:
            self._deaf = str(error)
            if said != self._deaf:
                self.get_logger().error(self._deaf)

    def _subscribe_for_listeners(self) -> None:
        """Subscribe if somebody listens, and else not; raises what stands in the way."""
        if self.equipment is None:
            return
        wanted = self.frames is not None and (self.equipment.outputs.wanted or not self.config.lazy)
        if wanted == bool(self.inputs):
            return
        if wanted:
            self.inputs.begin(qos(self.config.input_reliability, self.config.queue_size))
        else:
            self.inputs.end()
            self.equipment.synchroniser.rest()
        if self.state == "active" and self.frames is not None:
            self.get_logger().info("awake: somebody subscribes" if wanted else self._asleep())

    def _asleep(self) -> str:
        return f"lazy: nobody subscribes to {self.equipment.outputs.topic_name}" if self.equipment else ""

    # The ROS thread: receive, pair, hand over.

    def _on_rgb(self, msg: Image) -> None:
        if self.frames is None or self.equipment is None:
            return
        self.statistics.received_rgb()
        self.frames.colour(msg)
        self.equipment.synchroniser.add_rgb(msg, self.get_clock().now().nanoseconds)

    def _on_depth(self, msg: Image) -> None:
        if self.frames is None or self.equipment is None:
            return
        self.statistics.received_depth()
        self.equipment.synchroniser.add_depth(msg, self.get_clock().now().nanoseconds)

    def _on_pair(self, pair: Pair) -> None:
        self.statistics.paired(pair.difference_ms)
        if self.frames is not None:
            self.frames.pair(pair)

    def _on_clock_jump(self, seconds: float) -> None:
        text = f"clock went back by {seconds:.3f} s; pairing starts anew"
        self.get_logger().warning(text, throttle_duration_sec=QUIET_SECONDS)

    # Parameters and diagnostics.

    def _on_set_parameters(self, given: list[Parameter]) -> Any:
        try:
            config = parameters.changed(self.config, given)
            pipeline_config = parameters.changed(self.pipeline_config, given)
            if self.equipment is not None:
                parameters.check_live(self.config, config)
                parameters.check_live(self.pipeline_config, pipeline_config)
                self.equipment.pipelines[0].check(pipeline_config)
        except ValueError as error:
            return parameters.result(error)
        slop_changed = config.slop != self.config.slop
        self.config, self.pipeline_config = config, pipeline_config
        if self.equipment is not None:
            self.equipment.outputs.config = config
            for pipeline in self.equipment.pipelines:
                pipeline.config = pipeline_config
            if slop_changed:
                self.equipment.synchroniser.set_slop(config.slop)
        if self.frames is not None:
            self.frames.config = config
        self._follow_listeners()
        return parameters.result(None)

    def _diagnose(self) -> None:
        e, lifecycle = self.equipment, {"lifecycle": self.state}
        rgb, depth = self.inputs.infos.get("rgb"), self.inputs.infos.get("depth")
        if e is None:
            self.monitor.tell(*self._at_rest(), self.pipeline_config.device, lifecycle)
            return
        pipeline = e.pipelines[0]
        about = about_pipeline(pipeline) | {
            "frames at once": str(len(e.pipelines)),
            "camera_info": about_camera_info(rgb is not None, e.registering.lacking),
            "registration": e.registering.about or registration(rgb, depth),
        }
        if self._deaf:
            self._follow_listeners()
        if self.complaint or self._deaf or self.frames is None:
            self.monitor.tell(*self._at_rest(), str(pipeline.device), lifecycle | about)
            return
        asleep = "" if self.inputs else self._asleep()
        device, notes = str(pipeline.device), pipeline.notes
        at_once, lacking = len(e.pipelines), e.registering.lacking
        work = Work(at_once, faster(pipeline, at_once), pipeline.misregistered, lacking, e.outputs.misshapen)
        self.monitor.report(
            self.config, self.statistics, e.synchroniser, lifecycle | about, device, asleep, notes, work
        )

    def _at_rest(self) -> tuple[Level, str]:
        if self.complaint or self._deaf:
            return Level.ERROR, f"{self.state}: {self.complaint or self._deaf}"
        if self.state == "finalized":
            return Level.OK, "finalized: does not work again; start the process anew"
        return Level.OK, f"{self.state}: waits for a lifecycle transition"


def _return_memory() -> None:
    from dkn_ros.device import return_freed_memory

    return_freed_memory()


def _name(precision: Any) -> str:
    return str(precision).removeprefix("torch.")


def _make() -> DknNode:
    node = answering(DknNode)()
    if node.config.autostart:
        node.start()
    else:
        node.get_logger().info(
            f"unconfigured: waits for: ros2 lifecycle set {node.get_fully_qualified_name()} configure"
        )
    return node


def _spin(node: DknNode) -> None:
    try:
        rclpy.spin(node)
    finally:
        node.close()


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM; exit status 0 then, 1 if it could not start."""
    # An exception in the middle of loading torch can abort the process; nothing is there yet to be left in order.
    on_signals(lambda *_: os._exit(0))
    import dkn_ros.pipeline  # noqa: F401
    from dkn_ros.device import keep_freed_memory

    keep_freed_memory()
    return run(_make, _spin, "dkn_node", args)


if __name__ == "__main__":
    sys.exit(main())
