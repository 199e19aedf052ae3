"""How long the stages of a frame take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Times stages of one frame; on a GPU by events on the current stream, so that nothing waits while stages pass."""

    def __init__(self, device: torch.device) -> None:
        self.milliseconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the `with`; a stage that comes again adds up."""
        if self._stream is None:
            start = time.perf_counter()
            yield
            self._add(name, 1e3 * (time.perf_counter() - start))
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(self._stream)
        yield
        end.record(self._stream)
        self._events.append((name, begin, end))

    def timings(self) -> dict[str, float]:
        """Milliseconds of the stages so far, and of the whole; on a GPU they are waited for, and nothing else."""
        for name, begin, end in self._events:
            end.synchronize()
            self._add(name, begin.elapsed_time(end))
        self._events.clear()
        return {**self.milliseconds, "whole": 1e3 * (time.perf_counter() - self._start)}

    def _add(self, name: str, milliseconds: float) -> None:
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + milliseconds
