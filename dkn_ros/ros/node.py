"""`dkn_node`: pairs colour and depth images, upsamples the depth, publishes it with its timing.

Subscribed  in/rgb/image, in/rgb/camera_info, in/depth/image, in/depth/camera_info
Published   depth/upsampled, depth/camera_info, depth/timing, /diagnostics
Parameters  PipelineConfig and NodeConfig of `config.py`

The ROS thread receives and pairs; one worker thread takes the newest pair, converts, calls the pipeline, publishes.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions, install_signal_handlers
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.depth import to_millimetres
from dkn_ros.ros import parameters
from dkn_ros.ros.diagnostics import Inputs, Statistics, assess, diagnostic_array, status_values, timing_array
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import (
    ImageError,
    pixels_of,
    read_depth,
    read_rgb,
    registration,
    scaled_camera_info,
    stamp_ns,
)
from dkn_ros.ros.registering import registering_of
from dkn_ros.ros.sync import make_synchroniser
from dkn_ros.ros.worker import Foresight, Worker

if TYPE_CHECKING:
    from dkn_ros.pipeline import Guidance

Made = TypeVar("Made", bound=Node)

QUIET_SECONDS = 5.0
"""A complaint is logged once in so many seconds; all are counted in the diagnostics."""
STOP_SECONDS = 1.5
START_ERRORS = (
    ValueError,
    OSError,
    RuntimeError,  # what torch raises for a device that is there but cannot be used
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
"""What a node's constructor raises for parameters, weights and files that cannot be used."""


def qos(reliability: str, depth: int) -> QoSProfile:
    """A QoS profile of "best_effort" or "reliable" with a history of `depth`."""
    policies = {"best_effort": QoSReliabilityPolicy.BEST_EFFORT, "reliable": QoSReliabilityPolicy.RELIABLE}
    return QoSProfile(depth=depth, reliability=policies[reliability])


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
        self.statistics = Statistics()
        c = self.config
        self.synchroniser = make_synchroniser(self._on_pair, c.queue_size, c.slop, c.pairing, self._on_clock_jump)
        self.worker = Worker(self._work, lambda _: self.statistics.dropped_busy(), "dkn_worker")
        self._output = Image()  # kept, with its buffer, from frame to frame
        self._metres: NDArray[np.float32] | None = None  # where the output is not in metres
        self._foresight = Foresight()
        self._early: tuple[Image, NDArray[np.uint8], Guidance] | None = None
        self._depth_size: tuple[int, int] | None = None
        self._infos: dict[str, CameraInfo] = {}

        outputs = qos(self.config.output_reliability, self.config.output_depth)
        self._depth = self.create_publisher(Image, "depth/upsampled", outputs)
        self._info = self.create_publisher(CameraInfo, "depth/camera_info", outputs)
        self._timing = self.create_publisher(DiagnosticArray, "depth/timing", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

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
        self.get_logger().info(f"ready: {rgb} + {depth} -> {self._depth.topic_name}; {pairing}")

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
        if self._foresight.colour(msg) and self.config.early_guidance:
            self.worker.when_idle(functools.partial(self._look_early, msg))
        self.synchroniser.add_rgb(msg, self.get_clock().now().nanoseconds)

    def _on_depth(self, msg: Image) -> None:
        self.statistics.received_depth()
        self.synchroniser.add_depth(msg, self.get_clock().now().nanoseconds)

    def _on_pair(self, pair: Pair) -> None:
        self.statistics.paired()
        self._foresight.pair(pair.rgb)
        self.worker.put((pair, time.monotonic()))

    def _on_clock_jump(self, seconds: float) -> None:
        text = f"clock went back by {seconds:.3f} s; pairing starts anew"
        self.get_logger().warning(text, throttle_duration_sec=QUIET_SECONDS)

    # The worker thread: convert, call, publish.

    def _work(self, arrived: tuple[Pair, float]) -> None:
        try:
            self._process(*arrived)
        except ImageError as error:
            self._refuse(error.reason, str(error))
        except ValueError as error:
            self._refuse("value", str(error))
        except Exception as error:  # a robot's node lives on; what happened is in the log and in the diagnostics
            if not self.context.ok():  # publishers are gone: we are being stopped
                return
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.statistics.failed(f"frame failed: {text}")
            self.get_logger().error(f"frame failed: {text}", throttle_duration_sec=QUIET_SECONDS)

    def _look_early(self, msg: Image) -> None:
        """Begin with a colour image whose depth is still to come; if none comes, nothing is lost but the work."""
        if self._depth_size is None:
            return
        try:
            rgb = read_rgb(msg)
            self._early = msg, rgb, self.pipeline.look(rgb, self._depth_size)
        except ValueError:
            pass  # its pair will say so

    def _process(self, pair: Pair, arrival: float) -> None:
        start = time.perf_counter()
        early, self._early = self._early, None
        if early and early[0] is pair.rgb:
            _, rgb, guidance = early
        else:
            rgb, guidance = read_rgb(pair.rgb), None
        depth = self.registering.depth(read_depth(pair.depth), rgb.shape[:2], pair, self._infos)
        self._depth_size = depth.shape[0], depth.shape[1]
        msg, encoding = self._output, self.config.output_encoding
        height, width = rgb.shape[:2]
        pixels = pixels_of(msg, height, width, encoding)
        read = time.perf_counter()
        enhanced = self.pipeline.enhance(rgb, depth, guidance, pixels if encoding == "32FC1" else self._in_metres(rgb))
        done = time.perf_counter()
        if encoding == "16UC1":
            to_millimetres(enhanced.depth, pixels)
        msg.header = pair.rgb.header
        if stamp_ns(msg.header.stamp) == 0:  # a driver without a clock: the best we know is when the image came
            msg.header.stamp = Time(nanoseconds=pair.rgb_stamp_ns).to_msg()
        info = self._camera_info(msg)
        self._depth.publish(msg)
        if info is not None:
            self._info.publish(info)
        end = time.perf_counter()
        latency_ms = 1e3 * (time.monotonic() - arrival)
        self.statistics.published(latency_ms)
        stages = {name: ms for name, ms in enhanced.timings.items() if name != "whole"}
        if guidance:
            stages["early"] = guidance.milliseconds
        self._timing.publish(
            timing_array(
                msg.header.stamp,
                str(self.pipeline.device),
                {"receive": 1e3 * (read - start), **stages, "publish": 1e3 * (end - done)},
                total_ms=1e3 * (end - start),
                latency_ms=latency_ms,
                pair_difference_ms=pair.difference_ms,
                rgb_size=(rgb.shape[1], rgb.shape[0]),
                depth_size=(pair.depth.width, pair.depth.height),
            )
        )

    def _in_metres(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """An array for the result of a frame, the same as long as the size is."""
        if self._metres is None or self._metres.shape != rgb.shape[:2]:
            self._metres = np.empty(rgb.shape[:2], np.float32)
        return self._metres

    def _camera_info(self, msg: Image) -> CameraInfo | None:
        """What describes `msg`; None without a camera_info that is of use: depth is published all the same."""
        if "rgb" not in self._infos:
            return None
        try:
            info = scaled_camera_info(self._infos["rgb"], msg.width, msg.height)
        except ImageError as error:
            self.get_logger().warning(f"no depth/camera_info: {error}", throttle_duration_sec=QUIET_SECONDS)
            return None
        info.header = msg.header
        return info

    def _refuse(self, reason: str, text: str) -> None:
        self.statistics.refused(reason, text)
        self.get_logger().warning(f"pair refused: {text}", throttle_duration_sec=QUIET_SECONDS)

    # Parameters and diagnostics.

    def _on_set_parameters(self, given: list[Parameter]) -> Any:
        try:
            config = parameters.changed(self.config, given)
            pipeline_config = parameters.changed(self.pipeline.config, given)
        except ValueError as error:
            return parameters.result(error)
        if config.slop != self.config.slop:
            self.synchroniser.set_slop(config.slop)
        self.config, self.pipeline.config = config, pipeline_config
        return parameters.result(None)

    def _diagnose(self) -> None:
        now = self.statistics.snapshot()
        rgb, depth = (s.topic_name for s in self._inputs)
        publishers = self.count_publishers(rgb), self.count_publishers(depth)
        sync, slop = self.synchroniser.state(), self.synchroniser.slop
        inputs = Inputs(rgb, publishers[0], depth, publishers[1], slop, sync.by_arrival)
        level, message = assess(now, inputs, self.config.idle_seconds)
        values = status_values(now, sync, slop, self.synchroniser.name)
        values |= {
            "device": str(self.pipeline.device),
            "precision": _name(self.pipeline.precision),
            "threads": str(self.pipeline.threads),
            "weights": f"{self.pipeline.card.name} {self.pipeline.card.sha256[:12]}",
            "camera_info": "received" if "rgb" in self._infos else "none yet: depth/camera_info is not published",
            "registration": self.registering.about or registration(self._infos.get("rgb"), self._infos.get("depth")),
        }
        name = f"{self.get_fully_qualified_name()[1:]}: depth upsampling"
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostic_array(stamp, name, str(self.pipeline.device), level, message, values))

    def stop(self) -> None:
        """End the worker; call before the node is destroyed."""
        if not self.worker.stop(STOP_SECONDS):
            self.get_logger().warning(f"the frame in work did not end within {STOP_SECONDS} s; leaving it")


def _name(precision: Any) -> str:
    return str(precision).removeprefix("torch.")


def run(make: Callable[[], Made], spin: Callable[[Made], None], name: str, args: list[str] | None) -> int:
    """Make a node and spin it until Ctrl-C or SIGTERM; exit status 0 then, 1 if it cannot be made."""
    # Making it takes seconds in which rclpy would swallow the signal: end at once, with the status of a wanted end.
    _on_signals(lambda *_: sys.exit(0))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        try:
            node = make()
        except START_ERRORS as error:
            rclpy.logging.get_logger(name).fatal(f"cannot start: {error}")
            return 1
        _on_signals(signal.SIG_DFL)
        install_signal_handlers(SignalHandlerOptions.ALL)
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal can end the context between rclpy's look at it and its use, which then fails in many ways.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _spin(node: DknNode) -> None:
    try:
        rclpy.spin(node)
    finally:
        node.stop()


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM; exit status 0 then, 1 if it could not start."""
    # An exception in the middle of loading torch can abort the process; nothing is there yet to be left in order.
    _on_signals(lambda *_: os._exit(0))
    import dkn_ros.pipeline  # noqa: F401
    from dkn_ros.device import keep_freed_memory

    keep_freed_memory()
    return run(DknNode, _spin, "dkn_node", args)


if __name__ == "__main__":
    sys.exit(main())
