"""How long the stages of a frame take on a CPU; on a GPU marks in its lanes tell, see `gpu.lanes`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Times stages of one frame."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the `with`; a stage that comes again adds up."""
        start = time.perf_counter()
        yield
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1e3 * (time.perf_counter() - start)

    def timings(self) -> dict[str, float]:
        """Milliseconds of the stages so far, and of the whole."""
        return {**self.milliseconds, "whole": 1e3 * (time.perf_counter() - self._start)}
