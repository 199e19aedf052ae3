"""A frame's steps on buffers that stay: pinned memory, its twins on the device, and captured graphs between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.gpu.graphs import Captured, Recorder
from dkn_ros.gpu.resolution import form_of_evidence
from dkn_ros.resolution import Form

if TYPE_CHECKING:
    from dkn_ros.gpu.frame import Frame

FloatImage = NDArray[np.float32]


class Outputs(NamedTuple):
    """Where the host wants a frame's result; both HxW, C-contiguous."""

    depth: FloatImage
    confidence: FloatImage | None


class Report(NamedTuple):
    """What else the host learns of a frame."""

    blind: bool
    """Whether nothing of its depth was valid."""
    form: Form | None
    """Of its depth, see `resolution`; None where it was not looked for or cannot be told."""
    needed: int = 0
    """Room that the registration lacked, see `gpu.frame.Prepared.needed`; 0 where it had enough."""


class Staged:
    """A tensor on the device and its twin in the host's memory, pinned where there is a GPU, made once.

    Copies do not block: whoever touches the host's side waits for their events first, see `schedule.Schedule.ready`.
    """

    def __init__(self, device: Tensor) -> None:
        self.device = device
        self.host = torch.empty(device.shape, dtype=device.dtype, pin_memory=device.device.type == "cuda")
        self.array = self.host.numpy()
        """The host's side, in the same memory."""

    def up(self) -> None:
        """Copy to the device."""
        self.device.copy_(self.host, non_blocking=True)

    def down(self) -> None:
        """Copy to the host."""
        self.host.copy_(self.device, non_blocking=True)


class FrameWork:
    """`stream.Work` of a frame with one plan.

    recorder: captures looking, preparing and finishing; None does without.  refused: see `graphs.Captured`.
    """

    def __init__(self, frame: Frame, recorder: Recorder | None, refused: Callable[[str], None]) -> None:
        inputs = frame.inputs()
        self._plan = frame.plan
        self._room = frame.registration.room if frame.registration is not None else 0
        self._rgb, self._depth, self._settings = (Staged(tensor) for tensor in inputs)
        self._look = Captured(lambda: frame.look(inputs.rgb), recorder, refused)
        self._prepare = Captured(lambda: frame.prepare(*inputs), recorder, refused)
        self._finish = Captured(
            lambda: frame.finish(self._look.result, self._prepare.result, inputs.settings),
            recorder, refused, after=(self._look, self._prepare),
        )  # fmt: skip
        self._results: list[Staged] | None = None

    @property
    def captured(self) -> bool:
        """Whether all of it is."""
        return self._finish.captured

    def put_colour(self, rgb: NDArray[np.uint8]) -> None:
        """See `stream.Work`."""
        np.copyto(self._rgb.array, rgb)

    def put_depth(self, depth: NDArray, settings: tuple[float, ...]) -> None:
        """See `stream.Work`.  depth: uint16 millimetres or float32 metres, by the plan.  settings: of `settings_of`."""
        np.copyto(self._depth.array, depth.view(np.int16) if self._plan.millimetres else depth)
        self._settings.array[:] = settings

    def colour_up(self) -> None:
        """See `stream.Work`."""
        self._rgb.up()

    def look(self) -> None:
        """See `stream.Work`."""
        self._look()

    def depth_up(self) -> None:
        """See `stream.Work`."""
        self._depth.up()
        self._settings.up()

    def prepare(self) -> None:
        """See `stream.Work`."""
        self._prepare()

    def average(self) -> None:
        """See `stream.Work`."""
        self._finish()

    def down(self) -> None:
        """See `stream.Work`."""
        done, prepared = self._finish.result, self._prepare.result
        there = [done.depth, prepared.blind, done.confidence, prepared.evidence, prepared.needed]
        if self._results is None:
            self._results = [Staged(tensor) for tensor in there if tensor is not None]
        for staged, tensor in zip(self._results, (tensor for tensor in there if tensor is not None), strict=True):
            staged.device = tensor  # without a capture it is another one each time
            staged.down()

    def take(self, out: Outputs) -> Report:
        """See `stream.Work`."""
        assert self._results is not None
        depth, blind, *others = self._results
        needed = int(others.pop().array) if self._room else 0
        needed = needed if needed > self._room else 0
        form = form_of_evidence(others.pop().host, self._plan.registered) if self._plan.look_for_form else None
        if not blind.array:
            np.copyto(out.depth, depth.array)
            if out.confidence is not None:
                np.copyto(out.confidence, others[0].array)
            return Report(False, form, needed)
        out.depth.fill(np.nan)
        if out.confidence is not None:
            out.confidence.fill(0)
        return Report(True, form, needed)
