"""The way of a frame through a worker thread: convert, call the pipeline, hand over to the outputs.

Where frames are worked on side by side each thread has a pipeline and a sheet of its own; they read one after the
other, and publish in the order in which they began.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.diagnostics import timing_array
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import ImageError, frame_of, read_depth, read_rgb, stamp_ns
from dkn_ros.ros.outputs import QUIET_SECONDS, Outputs, Sheet
from dkn_ros.ros.registering import Registering
from dkn_ros.ros.views import Result
from dkn_ros.ros.worker import Foresight, Turn, Worker

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from dkn_ros.pipeline import Guidance, Pipeline
    from dkn_ros.registration import Registration


COMING_SECONDS = 2.0
"""camera_info and TF may come so much later than the first images before the log complains that they are missing."""


class _Read(NamedTuple):
    """A pair as the pipeline takes it."""

    rgb: NDArray[np.uint8]
    depth: NDArray
    guidance: Guidance | None
    registration: Registration | None


class Frames:
    """Works on the newest pair, and on a colour image that will most likely become one; `config` may be replaced.

    pipelines: one for each frame that may be in work at once.
    infos: camera_info of "rgb" and "depth", as far as they have come.  alive: whether what fails may be complained of.
    """

    def __init__(
        self,
        config: NodeConfig,
        pipelines: Sequence[Pipeline],
        registering: Registering,
        outputs: Outputs,
        statistics: Statistics,
        infos: Mapping[str, CameraInfo],
        logger: Any,
        alive: Callable[[], bool],
    ) -> None:
        self.config = config
        self._pipelines, self._registering, self._outputs = pipelines, registering, outputs
        self._sheets = [Sheet() for _ in pipelines]
        self._statistics, self._infos, self._logger, self._alive = statistics, infos, logger, alive
        self._foresight = Foresight()
        self._stopped = False
        self._early: tuple[Image, NDArray[np.uint8], Guidance] | None = None
        self._depth_before: tuple[tuple[int, int], Registration | None] | None = None
        self._uncalibrated_since: float | None = None  # in a row, until now
        self._reading = threading.Lock()
        self._worker = Worker(self._work, lambda _: statistics.dropped_busy(), "dkn_worker", len(pipelines))

    # The ROS thread: hand over.

    def colour(self, msg: Image) -> None:
        """A colour image has come; its depth may follow."""
        if self._foresight.colour(msg) and self.config.early_guidance:
            self._worker.when_idle(functools.partial(self._look_early, msg))

    def pair(self, pair: Pair) -> None:
        """A pair is there."""
        self._foresight.pair(pair.rgb)
        self._worker.put((pair, time.monotonic()))

    def stop(self, seconds: float) -> bool:
        """End the worker; call before the publishers are destroyed.

        Returns False if the frame in work did not end within so many seconds: it may go on, but publishes nothing.
        """
        self._stopped = True
        if self._worker.stop(seconds):
            return True
        self._logger.warning(f"the frame in work did not end within {seconds} s; leaving it")
        return False

    # The worker threads: convert, call, publish.

    def _work(self, arrived: tuple[Pair, float], turn: Turn) -> None:
        try:
            self._process(*arrived, turn)
        except ImageError as error:
            self._refuse(error.reason, str(error))
        except ValueError as error:
            self._refuse("value", str(error))
        except Exception as error:  # a robot's node lives on; what happened is in the log and in the diagnostics
            if self._stopped or not self._alive():  # publishers are gone: we are being stopped
                return
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self._statistics.failed(f"frame failed: {text}")
            self._logger.error(f"frame failed: {text}", throttle_duration_sec=QUIET_SECONDS)

    def _look_early(self, msg: Image) -> None:
        """Begin with a colour image whose depth is still to come; if none comes, nothing is lost but the work.

        Where the colour lies on the depth can be known only when that is there, see `alignment`.
        """
        if self._depth_before is None or self._pipelines[0].misregistered:
            return
        try:
            rgb = read_rgb(msg)
            pipeline = self._pipelines[0]
            pipeline.company = 1
            self._early = msg, rgb, pipeline.look(rgb, *self._depth_before)
        except Exception:
            self._early = None  # what failed fails again with the pair, which says so

    def _process(self, pair: Pair, arrival: float, turn: Turn) -> None:
        start = time.perf_counter()
        rgb, depth, guidance, registration = self._read(pair)
        pipeline, sheet = self._pipelines[turn.thread], self._sheets[turn.thread]
        metres, confidence = self._outputs.begin(sheet, rgb.shape[0], rgb.shape[1])
        read = time.perf_counter()
        pipeline.company = turn.company
        enhanced = pipeline.enhance(rgb, depth, guidance, metres, confidence, registration)
        done = time.perf_counter()
        turn.wait()
        if self._stopped:
            return
        first = time.perf_counter()
        info = self._infos.get("rgb")
        header = _header(pair, info)
        self._outputs.publish(sheet, Result(header, rgb, enhanced.depth, info))
        end = time.perf_counter()
        latency_ms = 1e3 * (time.monotonic() - arrival)
        stages = {name: ms for name, ms in enhanced.timings.items() if name != "whole"}
        if guidance:
            stages["early"] = guidance.milliseconds
        stages = {"receive": 1e3 * (read - start), **stages}
        if len(self._pipelines) > 1:
            stages["wait"] = 1e3 * (first - done)
        stages["publish"] = 1e3 * (end - first)
        worked_ms = 1e3 * (end - start - (first - done)) + stages.get("early", 0.0)
        stamp = stamp_ns(header.stamp)
        self._statistics.published(latency_ms, worked_ms, stamp, enhanced.blind, stages, turn.company)
        self._outputs.publish_timing(
            timing_array(
                header.stamp,
                str(pipeline.device),
                stages,
                total_ms=1e3 * (end - start),
                latency_ms=latency_ms,
                pair_difference_ms=pair.difference_ms,
                rgb_size=(rgb.shape[1], rgb.shape[0]),
                depth_size=(pair.depth.width, pair.depth.height),
            )
        )

    def _read(self, pair: Pair) -> _Read:
        with self._reading:
            early, self._early = self._early, None
            if early and early[0] is pair.rgb:
                _, rgb, guidance = early
            else:
                rgb, guidance = read_rgb(pair.rgb), None
            depth, size = read_depth(pair.depth), (rgb.shape[0], rgb.shape[1])
            registration = self._registering.registration(depth.shape, size, pair, self._infos)
            self._uncalibrated_since = None
            self._depth_before = (depth.shape[0], depth.shape[1]), registration
            return _Read(rgb, depth, guidance, registration)

    def _refuse(self, reason: str, text: str) -> None:
        self._statistics.refused(reason, text)
        if reason == "calibration":
            now = time.monotonic()
            self._uncalibrated_since = self._uncalibrated_since or now
            if now - self._uncalibrated_since < COMING_SECONDS:
                return
        self._logger.warning(f"pair refused: {text}", throttle_duration_sec=QUIET_SECONDS)


def _header(pair: Pair, info: CameraInfo | None) -> Header:
    """The header of the colour image, and what a driver has left empty there as far as it is known."""
    header: Header = pair.rgb.header
    header.frame_id = frame_of(header, info)  # without one nobody can place the points, nor show them
    if stamp_ns(header.stamp) == 0:  # a driver without a clock: the best we know is when the image came
        header.stamp.sec, header.stamp.nanosec = divmod(pair.rgb_stamp_ns, 1_000_000_000)
    return header
