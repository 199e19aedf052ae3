"""Captured CUDA graphs: work that is submitted as one, at the cost of one launch.

The rules of PyTorch's notes "CUDA semantics", section "CUDA Graphs", that hold here:

- "Constraints": a capture runs off the default stream and must not make the host wait for the device; what the host
  computes is not captured, and so a number that may change has to be read from a tensor; every replay reads and writes
  the memory of the capture; branches that depend on data, and other shapes, are not possible.
- The same: one capture at a time in a process, and no other work on the GPU meanwhile.
- "Non-constraints": a graph may be replayed on any stream.
- "Graph memory management": what is allocated during a capture comes from a pool of the graph's own, which lives as
  long as the graph and the tensors of the capture.  Graphs may share one only if they always run in the order of their
  captures and never at the same time: ours do neither, so each has its own.

So work that is captured reads its inputs from tensors that stay, gives results that stay the same tensors, and may be
done any number of times over.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from dkn_ros.engine import first_line

Work = Callable[[], None]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Result = TypeVar("Result")

WARM_UP = 3
"""Runs before a capture, as PyTorch's `make_graphed_callables` does them: compilers and libraries set themselves up."""
_ONE_CAPTURE = threading.Lock()


class Recorder(Protocol):
    """Captures work."""

    def record(self, work: Callable[[], Result]) -> tuple[Work, Result]:
        """What does `work` again and again, and the result whose tensors it fills each time.

        The work itself has been done once when this returns.  Raises RuntimeError where it cannot be captured.
        """


class CudaRecorder:
    """Captures what the current stream is given.

    It warms up on a stream beside it, on which it then captures.  To begin a capture waits for the device, once for
    each graph; to replay waits for nothing.  Every stream has a stream of its own beside it: by the notes' section
    "cuBLAS workspaces" there is one for each stream, which graphs share that were captured on the same, and those must
    not run at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside: dict[torch.cuda.Stream, torch.cuda.Stream] = {}

    def record(self, work: Callable[[], Result]) -> tuple[Work, Result]:
        """See `Recorder`."""
        with _ONE_CAPTURE:
            current = torch.cuda.current_stream(self._device)
            if current not in self._beside:
                self._beside[current] = torch.cuda.Stream(self._device)
            beside = self._beside[current]
            beside.wait_stream(current)
            graph = torch.cuda.CUDAGraph()
            # The outer one puts the stream back if the end of a capture raises, which the inner one does not.
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    work()
                # Other threads may allocate meanwhile: what is captured does not depend on them.
                with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                    result = work()
            current.wait_stream(beside)
        graph.replay()
        return graph.replay, result


class Captured(Generic[Result]):
    """Work that is captured when it is done for the first time, then replayed.

    recorder: None never captures.
    refused: is told, in one line, why a capture was refused; then the work is done as it is, that time and later.
    after: what makes the tensors that this work reads; one that is not captured makes others each time, and so what
        comes after it cannot be captured.
    """

    result: Result
    """Of the last time; until the next."""

    def __init__(
        self,
        work: Callable[[], Result],
        recorder: Recorder | None,
        refused: Callable[[str], None],
        after: Sequence[Captured[Any]] = (),
    ) -> None:
        self._work, self._recorder, self._refused, self._after = work, recorder, refused, after
        self._replay: Work | None = None

    @property
    def captured(self) -> bool:
        """Whether it was, so that `result` stays the same tensors."""
        return self._replay is not None

    def __call__(self) -> None:
        """Do the work."""
        if self._replay is not None:
            self._replay()
            return
        refusal = self._record()
        if not self.captured:
            self.result = self._work()  # what does not work without a capture either is no refusal, and is raised
        if refusal:
            self._refused(refusal)

    def _record(self) -> str:
        """Try to capture, once; returns why it was refused."""
        recorder, self._recorder = self._recorder, None
        if recorder is None or not all(work.captured for work in self._after):
            return ""
        try:
            self._replay, self.result = recorder.record(self._work)
        except RuntimeError as error:
            first = _first(error)
            if isinstance(first, torch.OutOfMemoryError):  # no refusal: where there is more of it, it is captured
                self._recorder = recorder
                raise first from None
            return first_line(first)
        return ""


def _first(error: RuntimeError) -> RuntimeError:
    """The error that came first: to end a capture that failed raises another one."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error


class GraphCache(Generic[Key, Value]):
    """Values by key, at most so many: where there is no room, the least recently used that is not kept goes.

    leave: is given what goes, before it does.
    """

    def __init__(self, capacity: int, leave: Callable[[Value], object]) -> None:
        self._capacity, self._leave = capacity, leave
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, make: Callable[[], Value], keep: Collection[Key] = ()) -> Value:
        """The value of a key, made now if it is not there.  keep: keys that must not go for it.

        Raises ValueError if all that is there is to be kept.
        """
        if key not in self._values:
            self._make_room(keep)  # first: the new value may need the memory
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        """Let everything go."""
        while self._values:
            self._drop(next(iter(self._values)))

    def _make_room(self, keep: Collection[Key]) -> None:
        while len(self._values) >= self._capacity:
            oldest = next((key for key in self._values if key not in keep), None)
            if oldest is None:
                raise ValueError(f"all {self._capacity} kinds of frames are in use; wanted: room for one more")
            self._drop(oldest)

    def _drop(self, key: Key) -> None:
        self._leave(self._values[key])
        del self._values[key]
