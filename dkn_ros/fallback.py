"""What to do when a device fails: the ways to run the network from the best down, and when to take the next.

    what fails                                      what is tried
    Triton                                          PyTorch's own operations on the same GPU
    the GPU's memory is too small                   the CPU
    anything else on a GPU, such as a lost device   the same again, once; the CPU

Every step is a note: one line that says what happened and how it goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

from dkn_ros.device import Cuda, resolve_device
from dkn_ros.engine import NUMBA, PYTORCH, TRITON, Engine, TritonError, Way, first_line

Result = TypeVar("Result")


def ways_of(requested: str, cuda: Cuda, allowed: bool) -> tuple[list[Way], list[str]]:
    """The ways for a requested device (auto, cpu, cuda or cuda:N), from the best down, and what is to be said of them.

    allowed: whether the CPU may stand in for a GPU.  Raises ValueError for a device that is not there, if not.
    """
    stand_in = allowed and requested != "auto"
    device = resolve_device(requested, cuda.available or stand_in)
    cpu = Way(torch.device("cpu"), NUMBA)
    if device.type == "cpu":
        unusable = requested == "auto" and cuda.complaint
        return [cpu], [f"no GPU: {cuda.complaint}; goes on with {cpu}"] if unusable else []
    if not cuda.available:
        return [cpu], [f"device is {requested!r} but {cuda.complaint or 'PyTorch finds none'}; goes on with {cpu}"]
    return [Way(device, TRITON), Way(device, PYTORCH), *([cpu] if allowed else [])], []


class Ladder:
    """The engine in use; it goes down a way where one fails.

    ways: from the best down.  make: starts the engine of a way in a precision.  notes: what is to be said before.
    Raises the last error if no way can be started.
    """

    def __init__(
        self, ways: Sequence[Way], make: Callable[[Way, str], Engine], precision: str, notes: Sequence[str] = ()
    ) -> None:
        self.notes = list(notes)
        """What went wrong and what was done, one line each, oldest first."""
        self._ways, self._make, self._precision = list(ways), make, precision
        self._asking = threading.Lock()
        self._may_restart = True
        self._place = 0
        self.engine = self._start(0)

    @property
    def way(self) -> Way:
        """The one in use."""
        return self._ways[self._place]

    def ask(self, precision: str) -> None:
        """From now on work in this precision: start the engine in use anew, if it was made for another one."""
        with self._asking:  # of several pipelines the first one does it
            if precision != self._precision:
                self._precision = precision
                self.engine = self._start(self._place)

    def note(self, text: str) -> None:
        """Say something that went wrong on the way in use, and was got round; once."""
        if text not in self.notes:
            self.notes.append(text)

    def run(self, work: Callable[[], Result]) -> Result:
        """What `work` gives with `engine`; called again with another one where the device fails, not the input.

        Raises what it raised where no way is left.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:  # PyTorch's errors of devices and memory are of this type
                place = self._next(error)
                if place is None:
                    raise
                text = _about(self.way, error)
            # Here, not above: there the error still holds the frames, and with them all that they have on the device.
            with suppress(RuntimeError):
                torch.cuda.empty_cache()
            self.engine = self._start(place, text)

    def _next(self, error: RuntimeError) -> int | None:
        """Where in the ways to go on after an error; None: nowhere."""
        below = range(self._place + 1, len(self._ways))
        if isinstance(error, TritonError):
            return next(iter(below), None)
        if self.way.device.type != "cpu" and self._may_restart and not isinstance(error, torch.OutOfMemoryError):
            self._may_restart = False
            return self._place
        return next((i for i in below if self._ways[i].device != self.way.device), None)

    def _start(self, place: int, text: str = "") -> Engine:
        """The engine of the way at `place`, or of the first below it that can be started."""
        while True:
            way = self._ways[place]
            try:
                engine = self._make(way, self._precision)
            except RuntimeError as error:
                if place + 1 == len(self._ways):
                    raise
                text = f"{text}; {_about(way, error)}" if text else _about(way, error)
                place += 1
                continue
            if text:
                self.notes.append(f"{text}; goes on with {way}")
            self._place = place
            return engine


def _about(way: Way, error: RuntimeError) -> str:
    return f"{way} failed: {first_line(error)}"
