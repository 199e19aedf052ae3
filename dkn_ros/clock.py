"""How long the stages of a frame take.

On a CPU a moment is what the clock says.  On a GPU the host only queues up work, so a moment is an event in the stream:
nothing waits for it until the frame is done, and what a stage is charged with is the device's own time, with what the
device had to wait for the host in that stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class Moment(Protocol):
    """A point in time, from when it is made."""

    def since(self, earlier: Any) -> float:
        """Milliseconds from an earlier one of the same kind; waits until this one has come."""


class HostMoment:
    """What the host's clock says."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()

    def since(self, earlier: HostMoment) -> float:
        """See `Moment`."""
        return 1e3 * (self._seconds - earlier._seconds)


class CudaMoment:
    """When a GPU has done all that its current stream was given so far."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def since(self, earlier: CudaMoment) -> float:
        """See `Moment`."""
        self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event))


class StageClock:
    """Times the stages of one frame; nothing waits for a GPU before `timings`, and then only for the stages."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._stages: list[tuple[str, Moment, Moment]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the `with`; a stage that comes again adds up."""
        start = self._now()
        yield
        self._stages.append((name, start, self._now()))

    def timings(self) -> dict[str, float]:
        """Milliseconds of the stages so far, and of the whole by the host's clock."""
        milliseconds: dict[str, float] = {}
        for name, start, end in self._stages:
            milliseconds[name] = milliseconds.get(name, 0.0) + end.since(start)
        return {**milliseconds, "whole": 1e3 * (time.perf_counter() - self._start)}

    def _now(self) -> Moment:
        return CudaMoment(self._device) if self._device.type == "cuda" else HostMoment()
