"""Frames that follow each other closely: the next one begins before the last one is fetched.

    seen = stream.look(sizes, rgb)             the colour image is there: its copy up and the guidance tower begin
    frame = stream.begin(sizes, rgb, depth, settings, seen)        so is the depth: all the rest is submitted
    stream.finish(frame, out)                                      waits for this frame's copy down, and for no more

Every frame has a place of its own among `PLACES`: a place is used again when its frame has been fetched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dkn_ros.gpu import schedule
from dkn_ros.gpu.graphs import GraphCache
from dkn_ros.gpu.lanes import Lanes
from dkn_ros.gpu.schedule import HOST_COLOUR, HOST_DEPTH, HOST_RESULT, Place, Schedule, Step

PLACES = 2
"""Frames at a time: one comes down while the next one is worked on."""

Key = TypeVar("Key", bound=Hashable)


class Work(Protocol):
    """The steps of a frame on one set of buffers, see `schedule.STEPS`; the same buffers at every call.

    What a step does may depend on the contents of its buffers only: it may be captured and replayed.
    """

    def put_colour(self, rgb: Any) -> None:
        """Write the colour image into "host colour"."""

    def put_depth(self, depth: Any, settings: Any) -> None:
        """Write the depth image, and the numbers that a user may change, into "host depth"."""

    def colour_up(self) -> None:
        """Copy the colour image to the device."""

    def look(self) -> None:
        """Run the guidance tower."""

    def depth_up(self) -> None:
        """Copy depth and numbers to the device."""

    def prepare(self) -> None:
        """Make the target of the depth and run its tower."""

    def average(self) -> None:
        """Filter, and finish the depth."""

    def down(self) -> None:
        """Copy the result into "host result"."""

    def take(self, out: Any) -> Any:
        """Write "host result" into `out`; returns what else there is to say of the frame."""


@dataclass(eq=False)
class _Seat:
    """A place and the work that uses it."""

    work: Work
    place: Place


@dataclass(eq=False)
class Seen(Generic[Key]):
    """A colour image that the guidance tower works on."""

    key: Key
    rgb: Any
    number: int


@dataclass(eq=False)
class Frame(Generic[Key]):
    """A frame that was submitted and is not fetched yet."""

    key: Key
    number: int


class FrameStream(Generic[Key]):
    """Runs frames on lanes; for one thread at a time.

    make: makes the work of frames of one kind, for one of the places; kinds are told apart by a key.
    kinds: so many keys keep their buffers, the least recently used goes.
    """

    def __init__(self, lanes: Lanes, make: Callable[[Key, int], Work], kinds: int = 3) -> None:
        if kinds < PLACES:
            raise ValueError(f"kinds is {kinds}; wanted: at least {PLACES}, one for each frame at a time")
        self.lanes = lanes
        self._schedule = Schedule(lanes)
        self._make = make
        self._kinds: GraphCache[Key, list[_Seat]] = GraphCache(kinds, self._give_up)
        self._frames: list[Frame[Key] | Seen[Key] | None] = [None] * PLACES
        # Not in the frames: who keeps one for too long must not keep memory.
        self._seats: list[_Seat | None] = [None] * PLACES
        self._number = 0

    @property
    def kinds(self) -> int:
        """Of so many keys buffers are kept."""
        return len(self._kinds)

    def look(self, key: Key, rgb: Any) -> Seen[Key]:
        """Begin with a colour image; returns at once.  What another look saw may be given up for it."""
        number = self._free()
        self._empty(number)
        seat = self._seat(key, number)
        with self._drained_if_it_fails():
            self._schedule.ready(seat.place, writes=(HOST_COLOUR,))
            seat.work.put_colour(rgb)
            self._submit(seat, schedule.COLOUR_UP, seat.work.colour_up)
            self._submit(seat, schedule.LOOK, seat.work.look)
        seen = self._frames[number] = Seen(key, rgb, number)
        self._seats[number] = seat
        return seen

    def begin(self, key: Key, rgb: Any, depth: Any, settings: Any = None, seen: Seen[Key] | None = None) -> Frame[Key]:
        """Submit a frame; returns when its images are on their way.

        seen: what `look` gave for this very `rgb`; of use if it is still there and of the same key.
        Raises ValueError if no place is free.
        """
        if seen is None or seen.key != key or seen.rgb is not rgb or self._frames[seen.number] is not seen:
            seen = self.look(key, rgb)
        number = seen.number
        seat = self._leave(number)  # if a step fails here, the place is free
        with self._drained_if_it_fails():
            self._schedule.ready(seat.place, writes=(HOST_DEPTH,))
            seat.work.put_depth(depth, settings)
            self._submit(seat, schedule.DEPTH_UP, seat.work.depth_up)
            self._submit(seat, schedule.PREPARE, seat.work.prepare)
            self._submit(seat, schedule.AVERAGE, seat.work.average)
            self._submit(seat, schedule.TAKE_DOWN, seat.work.down)
        frame = self._frames[number] = Frame(key, number)
        self._seats[number] = seat
        return frame

    def finish(self, frame: Frame[Key], out: Any) -> tuple[Any, dict[str, float]]:
        """Wait for a frame, write its result into `out` and free its place.

        Returns what `Work.take` does, and the milliseconds of each step.
        """
        if self._frames[frame.number] is not frame:
            raise ValueError("this frame was finished before; wanted: one that `begin` returned, once")
        seat = self._leave(frame.number)
        self._schedule.ready(seat.place, reads=(HOST_RESULT,))
        return seat.work.take(out), seat.place.milliseconds()

    def release(self) -> None:
        """Free all buffers and graphs, when no lane needs them any more; frames that are not finished are lost."""
        for number in range(PLACES):
            self._empty(number)
        self._kinds.clear()

    def _free(self) -> int:
        """The place for the next frame: an empty one, or else the one whose colour image has waited longest."""
        places = [(self._number + i) % PLACES for i in range(PLACES)]
        for wanted in (type(None), Seen):
            for number in places:
                if isinstance(self._frames[number], wanted):
                    self._number = (number + 1) % PLACES
                    return number
        raise ValueError(f"{PLACES} frames are under way; wanted: `finish` one before the next")

    def _leave(self, number: int) -> _Seat:
        """Free the place of a frame; returns what it used."""
        seat = self._seats[number]
        self._empty(number)
        assert seat is not None  # as there is a frame
        return seat

    def _empty(self, number: int) -> None:
        self._seats[number] = self._frames[number] = None

    def _seat(self, key: Key, number: int) -> _Seat:
        in_use = {frame.key for frame in self._frames if frame is not None}
        seats = self._kinds.get(key, lambda: self._new_seats(key), in_use)
        return seats[number]

    def _new_seats(self, key: Key) -> list[_Seat]:
        seats = [_Seat(self._make(key, number), Place()) for number in range(PLACES)]
        self.lanes.settle()
        return seats

    @contextmanager
    def _drained_if_it_fails(self) -> Iterator[None]:
        """Who gets an error may drop this stream: by then no lane may work on its memory."""
        try:
            yield
        except BaseException:
            self._drain()
            raise

    def _give_up(self, seats: list[_Seat]) -> None:
        """Called before seats are dropped: by then no lane may work on their memory."""
        if not self._drain():
            _keep_for_ever(seats)

    def _drain(self) -> bool:
        """Wait for what was submitted; its errors are told where a frame is waited for.  False if there was one."""
        try:
            self.lanes.drain()
        except Exception:
            return False
        return True

    def _submit(self, seat: _Seat, step: Step, work: Callable[[], None]) -> None:
        self._schedule.submit(seat.place, step, work)


def _keep_for_ever(thing: object) -> None:
    """Never free the memory of a device that is lost, not even as the process ends.

    Where pinned memory is freed PyTorch records an event for every stream that used it, and what that raises on a lost
    device ends the process, in the middle of going on with the CPU: it comes out of a destructor.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
