"""Frames on lanes: what the events enforce, what they leave free, and that no arrival order or delay changes a result.

Everywhere with threads for lanes; on a GPU, where there is one, with streams.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from harness import PATIENCE
from numpy.typing import NDArray

from dkn_ros.gpu import schedule
from dkn_ros.gpu.lanes import CudaLanes, Lanes, ThreadLanes
from dkn_ros.gpu.schedule import LANES, Place, Schedule, Step
from dkn_ros.gpu.stream import PLACES, FrameStream, Seen

Image = NDArray[np.float32]
Key = tuple[int, int]
CYCLES = 1_500_000_000
"""Of a GPU in a second, about; it only makes delays."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["threads", pytest.param("streams", marks=needs_gpu)])
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    made: Lanes = ThreadLanes(LANES) if request.param == "threads" else CudaLanes(LANES, torch.device("cuda"))
    yield made
    made.close()


class Sums:
    """Steps whose result depends on every pixel of both images, on the order of the steps, and on a number.

    slow: seconds that a step takes longer, before it does the second half of its work.
    """

    def __init__(self, size: Key, device: torch.device, slow: Callable[[str], float] = lambda name: 0.0) -> None:
        self.slow, self.device = slow, device
        pinned = device.type == "cuda"
        self.host = {name: torch.zeros(size, pin_memory=pinned) for name in ("colour", "depth", "result")}
        self.host["number"] = torch.zeros(1, pin_memory=pinned)
        self.there = {name: torch.zeros(n.shape, device=device) for name, n in self.host.items()}
        self.heads = torch.zeros(size, device=device)
        self.target = torch.zeros(size, device=device)

    def put_colour(self, rgb: Image) -> None:
        self.host["colour"].numpy()[:] = rgb

    def put_depth(self, depth: Image, settings: float) -> None:
        self.host["depth"].numpy()[:] = depth
        self.host["number"].numpy()[:] = settings

    def colour_up(self) -> None:
        self._halves("colour up", self.there["colour"], lambda: self.host["colour"])

    def look(self) -> None:
        self._halves("look", self.heads, lambda: torch.cos(self.there["colour"].cumsum(1)))

    def depth_up(self) -> None:
        self._halves("depth up", self.there["depth"], lambda: self.host["depth"])
        self.there["number"].copy_(self.host["number"], non_blocking=True)

    def prepare(self) -> None:
        self._halves("prepare", self.target, lambda: self.there["depth"].cumsum(0) + self.there["colour"])

    def average(self) -> None:
        self._halves("average", self.there["result"], lambda: self.heads * self.target + self.there["number"])

    def down(self) -> None:
        self._halves("down", self.host["result"], lambda: self.there["result"])

    def take(self, out: Image) -> None:
        out[:] = self.host["result"].numpy()

    def _halves(self, name: str, to: torch.Tensor, made: Callable[[], torch.Tensor]) -> None:
        """What lies on one side of the delay only would show no race of the other."""
        middle = len(to) // 2
        to[:middle].copy_(made()[:middle], non_blocking=True)
        seconds = self.slow(name)
        if seconds and self.device.type == "cuda":
            torch.cuda._sleep(int(seconds * CYCLES))  # type: ignore[no-untyped-call,unused-ignore]
        elif seconds:
            time.sleep(seconds)
        to[middle:].copy_(made()[middle:], non_blocking=True)


def alone(rgb: Image, depth: Image, number: float, device: torch.device) -> Image:
    """The result without lanes."""
    work, out = Sums((rgb.shape[0], rgb.shape[1]), device), np.empty_like(rgb)
    work.put_colour(rgb)
    work.put_depth(depth, number)
    for step in (work.colour_up, work.look, work.depth_up, work.prepare, work.average, work.down):
        with torch.inference_mode():
            step()
    if device.type == "cuda":
        torch.cuda.current_stream().synchronize()
    work.take(out)
    return out


class Hammer:
    """Frames of random contents that come in random order: looks that lead to nothing, one or two frames at a time."""

    SIZES = ((6, 8), (10, 4))

    def __init__(self, lanes: Lanes, slow: Callable[[str], float], seed: int, sizes: int = 2) -> None:
        self.lanes, self.rng = lanes, np.random.default_rng(seed)
        self.stream: FrameStream[Key] = FrameStream(lanes, lambda size, _: Sums(size, lanes.device, slow))
        self.sizes = self.SIZES[:sizes]

    def errors(self, frames: int) -> int:
        """How many of so many frames come out other than alone."""
        under_way: list[tuple[Any, Image]] = []
        wrong = 0
        for _ in range(frames):
            if len(under_way) == PLACES or (under_way and self.rng.random() < 0.5):
                wrong += self._finish(*under_way.pop(self.rng.integers(len(under_way))))
            under_way.append(self._begin())
        return wrong + sum(self._finish(*one) for one in under_way)

    def _begin(self) -> tuple[Any, Image]:
        size = self.sizes[self.rng.integers(len(self.sizes))]
        seen: Seen[Key] | None = None
        for _ in range(self.rng.integers(4)):
            rgb = self._image(size)
            seen = self.stream.look(size, rgb)
        if seen is None or self.rng.random() < 0.3:  # or the depth belongs to another colour image
            rgb = self._image(size)
        depth, number = self._image(size), float(self.rng.random())
        wanted = alone(rgb, depth, number, self.lanes.device)
        frame = self.stream.begin(size, rgb, depth, number, seen)
        rgb[:], depth[:] = np.nan, np.nan  # the caller may write into its own as soon as `begin` returns
        return frame, wanted

    def _finish(self, frame: Any, wanted: Image) -> bool:
        out = np.empty_like(wanted)
        self.stream.finish(frame, out)
        return not np.array_equal(out, wanted)

    def _image(self, size: Key) -> Image:
        return self.rng.random(size, np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_no_arrival_order_and_no_delay_changes_a_result(lanes: Lanes, seed: int) -> None:
    chance = np.random.default_rng(seed)
    favourite = schedule.STEPS[chance.integers(len(schedule.STEPS))].name

    def slow(name: str) -> float:
        return float(chance.choice([0, 0, 0, 0.0003, 0.002])) * (2 if name == favourite else 0.5)

    assert Hammer(lanes, slow, seed).errors(150) == 0


@pytest.mark.parametrize(
    ("name", "buffer", "late"),
    [
        ("LOOK", "colour", "colour up"),
        ("PREPARE", "depth", "depth up"),
        ("AVERAGE", "guidance heads", "look"),
        ("TAKE_DOWN", "result", "average"),
        ("TAKE_DOWN", "host result", "down"),
    ],
)
def test_a_wait_that_is_missing_changes_results(
    lanes: Lanes, name: str, buffer: str, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the test above would prove nothing: each wait is left out once, where the late step matters."""
    step: Step = getattr(schedule, name)
    reads, writes = (tuple(b for b in of if b != buffer) for of in (step.reads, step.writes))
    assert (reads, writes) != (step.reads, step.writes)
    monkeypatch.setattr(schedule, name, dataclasses.replace(step, reads=reads, writes=writes))
    assert Hammer(lanes, lambda step: 0.01 * (step == late), 0, sizes=1).errors(20) > 0


def test_the_steps_lie_in_time_as_the_buffers_demand(lanes: Lanes) -> None:
    chance = np.random.default_rng(0)
    stream: FrameStream[Key] = FrameStream(
        lanes, lambda size, _: Sums(size, lanes.device, lambda name: float(chance.choice([0, 0.001, 0.004])))
    )
    image, out = np.ones((4, 8), np.float32), np.empty((4, 8), np.float32)
    under_way: list[Any] = []
    spans: list[dict[str, tuple[Any, Any]]] = []
    for i in range(8):
        seen = stream.look((4, 8), image) if i % 2 else None
        under_way.append(stream.begin((4, 8), image, image, 0.0, seen))
        seat = stream._seats[under_way[-1].number]
        assert seat is not None
        spans.append(dict(seat.place.spans))
        if len(under_way) == PLACES:
            stream.finish(under_way.pop(0), out)
    stream.finish(under_way.pop(0), out)
    one_frame = [
        ("colour up", "look"), ("colour up", "depth up"), ("depth up", "prepare"), ("look", "average"),
        ("prepare", "average"), ("average", "down"),
    ]  # fmt: skip
    for span in spans:
        assert list(span) == [step.name for step in schedule.STEPS]
        for first, second in one_frame:
            assert span[second][0].since(span[first][1]) >= 0, f"{second} began before {first} had ended"
    for earlier, later in zip(spans, spans[PLACES:], strict=False):  # of the same place
        for first, second in (("look", "colour up"), ("average", "look"), ("prepare", "depth up"), ("down", "average")):
            assert later[second][0].since(earlier[first][1]) >= 0, f"{second} came over {first} of the frame before"


class Gates:
    """Holds steps of chosen frames up, and knows which have ended; for lanes that are threads."""

    def __init__(self, lanes: Lanes) -> None:
        self.closed: dict[str, threading.Event] = {}
        self.ended: dict[str, threading.Semaphore] = {step.name: threading.Semaphore(0) for step in schedule.STEPS}
        self.stream: FrameStream[Key] = FrameStream(lanes, lambda size, _: self._gated(Sums(size, lanes.device)))

    def _gated(self, work: Sums) -> Sums:
        for step in schedule.STEPS:
            name = step.name.replace(" ", "_")
            setattr(work, name, self._gate(step.name, getattr(work, name)))
        return work

    def _gate(self, name: str, do: Callable[[], None]) -> Callable[[], None]:
        def gated() -> None:
            if name in self.closed:
                assert self.closed[name].wait(PATIENCE)
            do()
            self.ended[name].release()

        return gated

    def close(self, name: str) -> threading.Event:
        """From now on this step waits for the event that is returned."""
        self.closed[name] = threading.Event()
        return self.closed[name]

    def has_ended(self, name: str) -> bool:
        """Waits for one more of these steps to end."""
        return self.ended[name].acquire(timeout=PATIENCE)


@pytest.fixture
def gates() -> Iterator[Gates]:
    lanes = ThreadLanes(LANES)
    yield Gates(lanes)
    lanes.close()


A, B = np.full((4, 8), 1, np.float32), np.full((4, 8), 2, np.float32)


def test_guidance_begins_with_the_colour_image(gates: Gates) -> None:
    seen = gates.stream.look((4, 8), A)
    assert gates.has_ended("look")
    frame = gates.stream.begin((4, 8), A, B, 0.0, seen)
    gates.stream.finish(frame, np.empty_like(A))
    assert not gates.ended["look"].acquire(blocking=False)  # once is enough


def test_a_result_comes_down_while_the_next_frame_is_worked_on(gates: Gates) -> None:
    down = gates.close("down")
    first = gates.stream.begin((4, 8), A, B, 0.0)
    assert gates.has_ended("average")
    second = gates.stream.begin((4, 8), B, A, 0.5)
    assert gates.has_ended("average") and not gates.ended["down"].acquire(blocking=False)
    down.set()
    out = np.empty_like(A)
    for frame, given in ((first, (A, B, 0.0)), (second, (B, A, 0.5))):
        gates.stream.finish(frame, out)
        np.testing.assert_array_equal(out, alone(*given, torch.device("cpu")))


def test_the_target_tower_waits_for_no_guidance(gates: Gates) -> None:
    look = gates.close("look")
    frame = gates.stream.begin((4, 8), A, B, 0.0)
    assert gates.has_ended("prepare") and not gates.ended["average"].acquire(blocking=False)
    look.set()
    gates.stream.finish(frame, np.empty_like(A))


def test_finishing_a_frame_does_not_wait_for_the_next(gates: Gates) -> None:
    first = gates.stream.begin((4, 8), A, B, 0.0)
    assert gates.has_ended("look") and gates.has_ended("down")
    look = gates.close("look")
    second = gates.stream.begin((4, 8), B, A, 0.0)
    gates.stream.finish(first, np.empty_like(A))
    assert not gates.ended["look"].acquire(blocking=False)
    look.set()
    gates.stream.finish(second, np.empty_like(A))


def test_a_frame_more_than_there_are_places_is_refused(lanes: Lanes) -> None:
    stream: FrameStream[Key] = FrameStream(lanes, lambda size, _: Sums(size, lanes.device))
    frames = [stream.begin((4, 8), A, B, 0.0) for _ in range(PLACES)]
    with pytest.raises(ValueError, match="2 frames are under way; wanted: `finish` one before the next"):
        stream.look((4, 8), A)
    stream.finish(frames[0], np.empty_like(A))
    with pytest.raises(ValueError, match="finished before"):
        stream.finish(frames[0], np.empty_like(A))
    stream.finish(stream.begin((4, 8), A, B, 0.0), np.empty_like(A))
    stream.finish(frames[1], np.empty_like(A))


def test_what_was_seen_is_used_for_its_own_image_and_kind_only(gates: Gates) -> None:
    seen = gates.stream.look((4, 8), A)
    assert gates.has_ended("look")
    for rgb, size in ((A.copy(), (4, 8)), (A[:2], (2, 8))):
        frame = gates.stream.begin(size, rgb, np.ones_like(rgb), 0.0, seen)
        assert gates.has_ended("look")
        gates.stream.finish(frame, np.empty_like(rgb))


class Failure(RuntimeError):
    """Of a device."""


@pytest.mark.parametrize("step", [step.name.replace(" ", "_") for step in schedule.STEPS])
def test_a_step_that_fails_is_an_error_of_its_frame(lanes: Lanes, step: str) -> None:
    class Fails(Sums):
        pass

    def fail(self: Fails) -> None:
        raise Failure("CUDA error: unspecified launch failure")

    setattr(Fails, step, fail)
    stream: FrameStream[Key] = FrameStream(lanes, lambda size, _: Fails(size, lanes.device))
    with pytest.raises(Failure):
        stream.finish(stream.begin((4, 8), A, B, 0.0), np.empty_like(A))


def test_the_memory_of_a_device_that_is_lost_is_never_freed() -> None:
    """To free pinned memory there ends the process."""
    for lost in (False, True):
        lanes = ThreadLanes(schedule.LANES)
        works: list[weakref.ref[Sums]] = []

        def make(size: Any, _: int, lanes: ThreadLanes = lanes, works: list[weakref.ref[Sums]] = works) -> Sums:
            work = Sums(size, lanes.device)
            works.append(weakref.ref(work))
            return work

        stream: FrameStream[Key] = FrameStream(lanes, make)
        stream.finish(stream.begin((4, 8), A, B, 0.0), np.empty_like(A))
        if lost:
            lanes[schedule.LANES[0]].submit(_fail)
        stream.release()
        del stream
        gc.collect()
        assert len(works) == PLACES and [work() is not None for work in works] == [lost] * PLACES
        lanes.close()


def _fail() -> None:
    raise Failure


def test_an_error_leaves_no_lane_at_work(gates: Gates) -> None:
    """Who gets it may free the memory."""
    gate = gates.close("prepare")
    work = gates.stream._make((4, 8), 0)
    gates.stream._make = lambda size, number: work
    threading.Timer(0.05, gate.set).start()

    def fail() -> None:
        raise Failure

    work.take = fail  # type: ignore[method-assign,assignment]
    work.put_depth = lambda depth, settings: (gates.stream.lanes["target"].submit(work.prepare), fail())  # type: ignore[assignment,method-assign,func-returns-value]
    with pytest.raises(Failure):
        gates.stream.begin((4, 8), A, B, 0.0)
    assert gate.is_set() and gates.ended["prepare"].acquire(blocking=False)


def test_kinds_that_were_not_used_for_long_go(lanes: Lanes) -> None:
    made: list[Key] = []

    def make(size: Key, number: int) -> Sums:
        made.append(size)
        return Sums(size, lanes.device)

    stream: FrameStream[Key] = FrameStream(lanes, make, kinds=2)

    def run(rows: int) -> None:
        image = np.ones((rows, 3), np.float32)
        stream.finish(stream.begin((rows, 3), image, image, 0.0), np.empty_like(image))

    for rows in (2, 4, 2, 6, 2, 4):
        run(rows)
    assert made == [(rows, 3) for rows in (2, 4, 6, 4) for _ in range(PLACES)]
    made.clear()
    stream.release()
    run(4)
    assert made == [(4, 3)] * PLACES
    with pytest.raises(ValueError, match="kinds is 1; wanted: at least 2"):
        FrameStream(lanes, make, kinds=1)


def test_a_kind_whose_frame_is_under_way_stays(lanes: Lanes) -> None:
    stream: FrameStream[Key] = FrameStream(lanes, lambda size, _: Sums(size, lanes.device), kinds=2)
    images = [np.full((rows, 3), rows, np.float32) for rows in (2, 4, 6, 8)]
    first = stream.begin((2, 3), images[0], images[0], 0.0)
    for image in images[1:]:
        frame = stream.begin((image.shape[0], 3), image, image, 0.0)
        stream.finish(frame, np.empty_like(image))
    out = np.empty_like(images[0])
    stream.finish(first, out)
    np.testing.assert_array_equal(out, alone(images[0], images[0], 0.0, lanes.device))


def test_a_step_with_no_buffers_waits_for_nothing() -> None:
    """What the schedule does not have to order it does not order: waits come from the buffers alone."""
    lanes = ThreadLanes(("a", "b"))
    held, free = threading.Event(), threading.Event()
    plan, place = Schedule(lanes), Place()
    plan.submit(place, Step("held", "a", (), ("x",)), lambda: _hold(held))
    plan.submit(place, Step("free", "b", (), ("y",)), free.set)
    assert free.wait(PATIENCE)
    held.set()
    plan.ready(place, reads=("x",), writes=("y",))
    lanes.close()


def _hold(event: threading.Event) -> None:
    assert event.wait(PATIENCE)
