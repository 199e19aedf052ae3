"""The order of a frame's steps: which lane each runs on and which buffers it reads and writes.

    lane       steps of a frame                               waits for
    up         colour up ─────── depth up                     what still reads the device's images
    guidance        └─ look ────────│──────┐                  colour up
    target                          └─ prepare ─ average      depth up; look
    down                                           └─ down    average

No step says what it waits for: that follows from the buffers, see `Schedule`.  So a frame's guidance starts with its
colour image, and the next frame's work goes on while a result is still on its way down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dkn_ros.gpu.lanes import Lane, Lanes, Mark

UP, GUIDANCE, TARGET, DOWN = LANES = ("up", "guidance", "target", "down")


@dataclass(frozen=True)
class Step:
    """A piece of a frame's work: where it runs and what it touches."""

    name: str
    lane: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


HOST_COLOUR, HOST_DEPTH, HOST_RESULT = "host colour", "host depth", "host result"
"""What the host writes and reads itself: pinned memory."""
# With the depth go the settings, which the average reads too; what was prepared says something to the host as well.
COLOUR_UP = Step("colour up", UP, (HOST_COLOUR,), ("colour",))
LOOK = Step("look", GUIDANCE, ("colour",), ("guidance heads",))
DEPTH_UP = Step("depth up", UP, (HOST_DEPTH,), ("depth",))
PREPARE = Step("prepare", TARGET, ("colour", "depth"), ("prepared",))
AVERAGE = Step("average", TARGET, ("guidance heads", "prepared", "depth"), ("result",))
TAKE_DOWN = Step("down", DOWN, ("result", "prepared"), (HOST_RESULT,))
STEPS = (COLOUR_UP, LOOK, DEPTH_UP, PREPARE, AVERAGE, TAKE_DOWN)
"""Of a frame, in the order in which they are submitted; the first two need the colour image alone."""


@dataclass
class _Point:
    """Where a lane stands behind a step."""

    lane: Lane
    mark: Mark


@dataclass
class _Use:
    """Who last wrote a buffer, and who has read it since; by lane, since a lane's later step ends later."""

    writer: _Point | None = None
    readers: dict[str, _Point] = field(default_factory=dict)

    def writers(self) -> list[_Point]:
        return [self.writer] if self.writer else []

    def all(self) -> list[_Point]:
        return [*self.writers(), *self.readers.values()]


class Place:
    """One set of a frame's buffers, as the schedule sees them; it is used for one frame at a time."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self.spans: dict[str, tuple[Mark, Mark]] = {}
        """The marks before and behind each step of the last frame."""

    def use(self, buffer: str) -> _Use:
        """What the lanes do with a buffer."""
        return self._uses.setdefault(buffer, _Use())

    def did(self, step: Step, point: _Point, start: Mark) -> None:
        """A step was submitted; it lies between two marks."""
        self.spans[step.name] = start, point.mark
        for buffer in step.reads:
            self.use(buffer).readers[step.lane] = point
        for buffer in step.writes:
            self._uses[buffer] = _Use(point)

    def milliseconds(self) -> dict[str, float]:
        """How long each step of the last frame took, on the device; ask when it has been read by the host."""
        return {name: end.since(start) for name, (start, end) in self.spans.items()}


class Schedule:
    """Submits steps so that each finds its buffers ready.

    The rules, for a buffer of one place:
    a step that reads waits for the last step that wrote;
    a step that writes waits for the last step that wrote, and for all that have read since.
    The host obeys the same rules where it touches its buffers, see `ready`.  A wait is between two lanes or of the
    calling thread; nothing waits for the device as a whole.  Between steps of one lane the lane's order is enough.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def submit(self, place: Place, step: Step, work: Callable[[], None]) -> None:
        """Have `work` done as this step of the frame in `place`."""
        lane = self._lanes[step.lane]
        for point in _awaited(place, step.reads, step.writes):
            if point.lane is not lane:
                lane.wait(point.mark)
        start = lane.mark()
        lane.submit(work)
        place.did(step, _Point(lane, lane.mark()), start)

    def ready(self, place: Place, reads: Collection[str] = (), writes: Collection[str] = ()) -> None:
        """Hold the calling thread until it may read and write buffers itself; it is done before its next call."""
        for point in _awaited(place, reads, writes):
            point.mark.wait()


def _awaited(place: Place, reads: Collection[str], writes: Collection[str]) -> list[_Point]:
    """What has to be behind one who reads and writes."""
    found = [point for buffer in reads for point in place.use(buffer).writers()]
    return found + [point for buffer in writes for point in place.use(buffer).all()]
