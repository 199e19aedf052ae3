"""Lanes: what is submitted to one runs in order, what is submitted to two runs side by side.

`CudaLane` is a CUDA stream.  `ThreadLane` is a thread that behaves like one, so that a schedule can be tested on any
machine: where the schedule forgets to wait, the threads race as streams would.

The rules of CUDA that hold here, from PyTorch's notes "CUDA semantics":

- "CUDA streams": work of one stream runs in the order in which it was submitted, work of two streams in any order,
  unless one waits for an event of the other.  Off the default stream PyTorch adds no waits by itself.
- The same section: memory must not be used on a second stream without such a wait, even to be written, because the
  allocator may hand out memory that work on the first has not finished with.  So whoever makes tensors for lanes calls
  `Lanes.settle` before their first use, and keeps them as long as a lane may read them.
- "Use pinned memory buffers": a copy between host and device runs beside other work if the host's side is pinned and
  the copy is asked not to block; then the host must touch that memory only behind an event.
- `Stream.wait_event` returns at once and holds back only what is submitted later; `Event.synchronize` holds back the
  calling thread, and nothing else on the device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Protocol

import torch

Work = Callable[[], None]


class Mark(Protocol):
    """A point in a lane: behind what was submitted before it."""

    def wait(self) -> None:
        """Hold the calling thread until the point is reached; raises what failed before it."""

    def since(self, earlier: Any) -> float:
        """Milliseconds from an earlier mark, of any of the lanes, to this one; both are reached."""


class Lane(Protocol):
    """One queue of work."""

    def submit(self, work: Work) -> None:
        """Have `work` done after all that was submitted before; it may run now or later, and in another thread."""

    def mark(self) -> Mark:
        """The point behind all that was submitted so far."""

    def wait(self, mark: Any) -> None:
        """Hold what is submitted from now on until another lane reaches a point; the calling thread goes on."""


class Lanes(Protocol):
    """Some lanes of one device."""

    device: torch.device

    def __getitem__(self, name: str) -> Lane:
        """The lane of this name."""

    def settle(self) -> None:
        """Hold the calling thread until tensors that it just made may be used on any lane."""

    def drain(self) -> None:
        """Hold the calling thread until all that was submitted is done; raises what failed."""

    def close(self) -> None:
        """Finish what was submitted and give the lanes back; raises nothing."""


class CudaMark:
    """A CUDA event that knows its time."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record(stream)

    def wait(self) -> None:
        """See `Mark`; an error of the device appears here."""
        self.event.synchronize()

    def since(self, earlier: CudaMark) -> float:
        """See `Mark`."""
        return float(earlier.event.elapsed_time(self.event))


class CudaLane:
    """A CUDA stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    @torch.inference_mode()
    def submit(self, work: Work) -> None:
        """See `Lane`: the work is called now and must only enqueue."""
        with torch.cuda.stream(self.stream):
            work()

    def mark(self) -> CudaMark:
        """See `Lane`."""
        return CudaMark(self.stream)

    def wait(self, mark: CudaMark) -> None:
        """See `Lane`."""
        self.stream.wait_event(mark.event)


class CudaLanes:
    """Streams of one GPU."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.device = device
        self._lanes = {name: CudaLane(device) for name in names}

    def __getitem__(self, name: str) -> CudaLane:
        """The lane of this name."""
        return self._lanes[name]

    def settle(self) -> None:
        """See `Lanes`: tensors are made on the current stream, which is waited for, not the device."""
        torch.cuda.current_stream(self.device).synchronize()

    def drain(self) -> None:
        """See `Lanes`."""
        for lane in self._lanes.values():
            lane.stream.synchronize()

    def close(self) -> None:
        """See `Lanes`."""
        with suppress(RuntimeError):
            self.drain()


class ThreadMark:
    """An event of a thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.error: BaseException | None = None
        self.seconds = 0.0

    def wait(self) -> None:
        """See `Mark`."""
        self.reached.wait()
        if self.error is not None:
            raise self.error

    def since(self, earlier: ThreadMark) -> float:
        """See `Mark`."""
        return 1e3 * (self.seconds - earlier.seconds)


class ThreadLane:
    """A thread that does what it is given, in order.

    Once something failed nothing more is done, and every later mark raises that error, also in lanes that wait for it:
    as on a GPU, where a context that failed is lost and has to be made anew.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Work, bool] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """See `Lane`."""
        self._queue.put((work, False))

    def mark(self) -> ThreadMark:
        """See `Lane`."""
        mark = ThreadMark()

        def reach() -> None:
            mark.error = self._error
            mark.seconds = time.perf_counter()
            mark.reached.set()

        self._queue.put((reach, True))
        return mark

    def wait(self, mark: ThreadMark) -> None:
        """See `Lane`."""
        self._queue.put((mark.wait, False))

    def close(self) -> None:
        """Finish what was submitted."""
        self._queue.put(None)
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        for work, always in iter(self._queue.get, None):
            if self._error is None or always:
                try:
                    work()
                except BaseException as error:  # the thread must live: others wait for its marks
                    self._error = error


class ThreadLanes:
    """Threads in place of a GPU's streams."""

    def __init__(self, names: Sequence[str]) -> None:
        self.device = torch.device("cpu")
        self._lanes = {name: ThreadLane(f"lane {name}") for name in names}

    def __getitem__(self, name: str) -> ThreadLane:
        """The lane of this name."""
        return self._lanes[name]

    def settle(self) -> None:
        """See `Lanes`: here tensors are ready when they are there."""

    def drain(self) -> None:
        """See `Lanes`."""
        for lane in self._lanes.values():
            lane.mark().wait()

    def close(self) -> None:
        """See `Lanes`."""
        for lane in self._lanes.values():
            lane.close()
