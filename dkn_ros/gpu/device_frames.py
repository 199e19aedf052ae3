"""Frames of an engine on its device: raw images in, finished depth out; the host waits for the result alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.depth import check_depth
from dkn_ros.device import return_freed_memory
from dkn_ros.engine import NUMBA, Engine, first_line
from dkn_ros.frame import Enhanced, Guidance
from dkn_ros.gpu.frame import Frame, Plan, settings_of
from dkn_ros.gpu.graphs import CudaRecorder, Recorder
from dkn_ros.gpu.lanes import CudaLanes, Lanes, ThreadLanes
from dkn_ros.gpu.schedule import LANES
from dkn_ros.gpu.stream import Frame as Underway
from dkn_ros.gpu.stream import FrameStream, Seen
from dkn_ros.gpu.work import FrameWork, Outputs, Report
from dkn_ros.registration import Registration
from dkn_ros.resolution import Resolution
from dkn_ros.traits import UNKNOWN
from dkn_ros.weights import Card

Result = TypeVar("Result")
Size = tuple[int, int]
"""Height and width."""
REPEATS = 2
"""A frame is done again at most so often: its depth may be of another form than before, and then need more room."""
STAGES = {
    "colour up": "copy up", "depth up": "copy up", "look": "guidance", "prepare": "target", "average": "average",
    "down": "copy down",
}  # fmt: skip
"""Step -> the stage that its time counts for."""


def lanes_of(device: torch.device) -> Lanes:
    """Streams of a GPU; threads for a CPU, which is for tests: it gains nothing by them."""
    return CudaLanes(LANES, device) if device.type == "cuda" else ThreadLanes(LANES)


def recorder_of(device: torch.device) -> Recorder | None:
    """What captures there; a CPU has nothing to gain by it."""
    return CudaRecorder(device) if device.type == "cuda" else None


class DeviceFrames:
    """Plans, submits and fetches frames; for one thread at a time.

    note: is told, in a line, where a graph cannot be captured.
    After a RuntimeError, as all errors of devices are, it is closed and of no more use.
    """

    def __init__(self, engine: Engine, card: Card, resolution: Resolution, note: Callable[[str], None]) -> None:
        self.engine = engine
        self.closed = False
        self._card, self._resolution, self._note = card, resolution, note
        self._recorder = recorder_of(engine.device)
        self._lanes = lanes_of(engine.device)
        self._stream: FrameStream[Plan] = FrameStream(self._lanes, self._work)
        self._room: tuple[Plan, int] | None = None  # that a registration turned out to need
        self._kind = (True, False)  # of the last frame: whether in millimetres, and with confidence

    def look(
        self,
        config: PipelineConfig,
        rgb: NDArray[np.uint8],
        depth_size: Size,
        registration: Registration | None = None,
    ) -> Guidance:
        """See `Pipeline.look`: begins with a colour image whose depth will probably be as the last one's, and returns.

        Unlike a CPU's, the work goes on, and its time counts for the frame.
        """
        start = time.perf_counter()
        plan = self._plan(config, rgb.shape, depth_size, *self._kind, registration)
        with self._closed_if_it_fails():
            seen = self._stream.look(plan, rgb)
        return Guidance(rgb, plan.working, None, 1e3 * (time.perf_counter() - start), self.engine, seen)

    def enhance(
        self,
        config: PipelineConfig,
        rgb: NDArray[np.uint8],
        depth: NDArray,
        guidance: Guidance | None,
        out: Outputs,
        registration: Registration | None = None,
        aligned: float = UNKNOWN,
    ) -> Enhanced:
        """See `Pipeline.enhance`.  aligned: see `begin`."""
        start = time.perf_counter()

        def work(guidance: Guidance | None) -> tuple[Report, dict[str, float], bool]:
            frame = self.begin(config, rgb, depth, out.confidence is not None, guidance, registration, aligned)
            return self.finish(frame, out)

        with self._closed_if_it_fails():
            report, stages, again = self._with_memory(lambda: work(guidance))
            for _ in range(REPEATS):
                if again:
                    report, stages, again = self._with_memory(lambda: work(None))
        return Enhanced(out.depth, {**stages, "whole": 1e3 * (time.perf_counter() - start)}, report.blind)

    def begin(
        self,
        config: PipelineConfig,
        rgb: NDArray[np.uint8],
        depth: NDArray,
        confidence: bool = False,
        guidance: Guidance | None = None,
        registration: Registration | None = None,
        aligned: float = UNKNOWN,
    ) -> Underway[Plan]:
        """Submit a frame; up to `stream.PLACES` are under way at a time.

        `rgb` and `depth` may be written again when this returns.  confidence: whether it is wanted.  aligned: how well
        the colour lies on the depth, see `traits.Traits.aligned`.
        """
        check_depth(depth)
        size = depth.shape[0], depth.shape[1]
        self._kind = depth.dtype == np.uint16, confidence
        plan = self._plan(config, rgb.shape, size, *self._kind, registration)
        seen = guidance.seen if guidance and guidance.engine is self.engine else None
        settings = settings_of(config, aligned)
        return self._stream.begin(plan, rgb, depth, settings, seen if isinstance(seen, Seen) else None)

    def finish(self, frame: Underway[Plan], out: Outputs) -> tuple[Report, dict[str, float], bool]:
        """Wait for a frame and write it into `out`.

        Returns the report, the milliseconds of its stages, and whether it has to be done again: because its depth
        turned out to be of another form than that of the frames before, or to need more room to be registered.
        """
        report, steps = self._stream.finish(frame, out)
        plan = frame.key
        if plan.look_for_form:
            self._resolution.learn(plan.registered, report.form)
        if report.needed:
            self._room = plan, report.needed + report.needed // 4
            self._stream.release()  # what was captured has no more room
        return report, _stages(steps), report.needed > 0 or self._resolution.size(plan.registered) != plan.measured

    def close(self) -> None:
        """Free buffers, graphs and lanes; frames that are under way are lost.  Raises nothing."""
        if not self.closed:
            self.closed = True
            self._stream.release()
            self._lanes.close()

    def _with_memory(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; where memory is short, without what is kept for other frames, and then without graphs."""
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self._stream.kinds:
                raise
        # Here, not above: there the error still holds the frame's tensors.
        self._free()
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if self._recorder is None:
                raise
            reason = first_line(error)
        self._recorder = None  # a graph keeps what its work needs between two frames too
        self._refused(reason)
        self._free()
        return work()

    def _free(self) -> None:
        self._stream.release()
        return_freed_memory()

    @contextmanager
    def _closed_if_it_fails(self) -> Iterator[None]:
        """What is kept on a device that failed is in the way of the next try."""
        try:
            yield
        except RuntimeError:
            self.close()
            raise

    def _work(self, plan: Plan, number: int) -> FrameWork:
        room = self._room[1] if self._room and self._room[0] == plan else 0
        return FrameWork(Frame(self.engine, self._card, plan, room), self._recorder, self._refused)

    def _refused(self, reason: str) -> None:
        self._note(f"{self.engine.way} captures no graph: {reason}; goes on without")

    def _plan(
        self, config: PipelineConfig, colour: tuple[int, ...], depth: Size, millimetres: bool, sure: bool,
        registration: Registration | None,
    ) -> Plan:  # fmt: skip
        measured = self._resolution.size(depth if registration is None else registration.grid_size(depth))
        return Plan.of(config, self._card, colour, depth, millimetres, measured, registration, sure)


def _stages(steps: Mapping[str, float]) -> dict[str, float]:
    stages: dict[str, float] = {}
    for step, milliseconds in steps.items():
        stages[STAGES[step]] = stages.get(STAGES[step], 0.0) + milliseconds
    return stages


class OnDevice:
    """The device frames of whichever engine is in use.

    resolution: what is known of the depth's form; it outlives engines.
    """

    def __init__(self, card: Card, resolution: Resolution, note: Callable[[str], None]) -> None:
        self._card, self._resolution, self._note = card, resolution, note
        self._frames: DeviceFrames | None = None

    def frames(self, engine: Engine) -> DeviceFrames | None:
        """What does whole frames on the device of an engine; None on a CPU, whose own steps are faster there."""
        if self._frames is not None and (self._frames.closed or self._frames.engine is not engine):
            self.leave()
        if self._frames is None and engine.way.average != NUMBA:
            self._frames = DeviceFrames(engine, self._card, self._resolution, self._note)
        return self._frames

    def leave(self) -> None:
        """Free what is kept there."""
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.close()
