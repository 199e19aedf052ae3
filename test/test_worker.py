"""The worker thread and its mailbox of one place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from dkn_ros.ros.worker import Foresight, Turn, Worker

PATIENCE = 30.0


class Job:
    """A `work` that waits for permission to finish each item, and notes what happens."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.finished: list[int] = []
        self.overtaken: list[int] = []
        self.most_at_once = 0
        self._running = 0
        self._allowed = 0
        self._changed = threading.Condition()

    def __call__(self, item: int, turn: Turn) -> None:
        with self._changed:
            self.started.append(item)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed, PATIENCE)
            self._allowed -= 1
            self._running -= 1
            self.finished.append(item)
            self._changed.notify_all()
        if item < 0:
            raise RuntimeError(f"cannot do {item}")

    def allow(self, items: int) -> None:
        """Let so many items be finished."""
        with self._changed:
            self._allowed += items
            self._changed.notify_all()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that is noted here has happened."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), (self.started, self.finished)

    def until_finished(self, item: int) -> None:
        """Wait until that item was worked on."""
        self.until(lambda: item in self.finished)


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def worker(job: Job) -> Iterator[Worker[int]]:
    worker = Worker(job, job.overtaken.append, "worker")
    yield worker
    job.allow(1000)
    assert worker.stop(PATIENCE)


def test_items_are_worked_on_in_order(worker: Worker[int], job: Job) -> None:
    job.allow(3)
    for item in (1, 2, 3):
        worker.put(item)
        job.until_finished(item)
    assert job.finished == [1, 2, 3]
    assert job.overtaken == []


def test_newest_item_wins_and_the_overtaken_are_told(worker: Worker[int], job: Job) -> None:
    worker.put(1)
    job.until(lambda: job.started)
    for item in (2, 3, 4):  # returns at once each time, though the first is still in work
        worker.put(item)
    assert job.overtaken == [2, 3]
    assert job.finished == []
    job.allow(2)
    job.until(lambda: len(job.finished) == 2)
    assert job.finished == [1, 4]


def test_nothing_is_lost_with_many_senders_and_never_two_at_once(worker: Worker[int], job: Job) -> None:
    def send(first: int) -> None:
        for item in range(first, first + 50):
            worker.put(item)

    senders = [threading.Thread(target=send, args=(first,)) for first in (0, 50, 100, 150)]
    job.allow(200)
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(PATIENCE)
    job.until(lambda: len(job.finished) + len(job.overtaken) == 200)
    assert {*job.finished, *job.overtaken} == set(range(200))
    assert job.most_at_once == 1


def test_stop_waits_for_the_item_in_work_and_leaves_the_next(worker: Worker[int], job: Job) -> None:
    worker.put(1)
    job.until(lambda: job.started)
    worker.put(2)
    assert not worker.stop(0.01), "it cannot have ended"
    job.allow(2)
    assert worker.stop(PATIENCE)
    assert (job.started, job.finished, job.overtaken) == ([1], [1], [])


def test_idle_worker_stops_at_once_and_takes_no_more(worker: Worker[int], job: Job) -> None:
    assert worker.stop(PATIENCE)
    worker.put(1)
    assert worker.stop(PATIENCE), "a second time does no harm"
    assert job.started == []


def test_error_is_logged_and_the_next_item_worked_on(
    worker: Worker[int], job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job.allow(2)
    with caplog.at_level(logging.ERROR):
        worker.put(-1)
        job.until(lambda: job.finished)
        worker.put(2)
        job.until(lambda: len(job.finished) == 2)
    (record,) = caplog.records
    assert "worker" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "cannot do -1"


# --- while nothing waits ------------------------------------------------------------------------------------------


def test_idle_work_is_done_when_nothing_waits(worker: Worker[int], job: Job) -> None:
    done = threading.Event()
    worker.when_idle(done.set)
    assert done.wait(PATIENCE)
    job.allow(1)
    worker.put(1)
    job.until_finished(1)
    done.clear()
    worker.when_idle(done.set)
    assert done.wait(PATIENCE), "it does so again"


@pytest.mark.parametrize("item_comes", ["before the idle work", "after the idle work"])
def test_an_item_goes_first_and_takes_the_place_of_idle_work(worker: Worker[int], job: Job, item_comes: str) -> None:
    """Idle work is for the time in which an item is waited for; when it is there, that time is over."""
    notes: list[str] = []
    last = threading.Event()
    worker.put(1)
    job.until(lambda: job.started)
    calls: list[Callable[[], None]] = [lambda: worker.put(2), lambda: worker.when_idle(lambda: notes.append("first"))]
    for call in calls if item_comes == "before the idle work" else calls[::-1]:
        call()
    job.allow(2)
    job.until_finished(2)
    worker.when_idle(partial(_note_last, notes, "second", last))
    assert last.wait(PATIENCE)
    assert (notes, job.overtaken) == (["second"], [])


def _note_last(notes: list[Any], note: Any, last: threading.Event) -> None:
    notes.append(note)
    last.set()


def test_newer_idle_work_replaces_the_older(worker: Worker[int], job: Job) -> None:
    notes: list[int] = []
    last = threading.Event()
    worker.put(1)
    job.until(lambda: job.started)
    for number in (2, 3, 4):
        worker.when_idle(partial(_note_last, notes, number, last))
    assert notes == []
    job.allow(1)
    assert last.wait(PATIENCE)
    job.allow(1)
    worker.put(5)
    job.until_finished(5)  # by then it would have done the others
    assert notes == [4]


def test_an_item_waits_for_the_idle_work_that_has_begun(worker: Worker[int], job: Job) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def idle() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    worker.when_idle(idle)
    assert begun.wait(PATIENCE)
    job.allow(1)
    worker.put(1)
    assert job.started == [] and not worker.stop(0.01)
    go_on.set()
    assert worker.stop(PATIENCE)


def test_idle_work_that_fails_is_logged_and_the_thread_lives_on(
    worker: Worker[int], job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("cannot prepare")

    job.allow(1)
    with caplog.at_level(logging.ERROR):
        worker.when_idle(fail)
        done = threading.Event()
        while not caplog.records:
            done.wait(0.01)
        worker.when_idle(done.set)
        assert done.wait(PATIENCE)
        worker.put(1)
        job.until_finished(1)
    (record,) = caplog.records
    assert record.exc_info is not None and str(record.exc_info[1]) == "cannot prepare"


def test_a_stopped_worker_does_no_idle_work(worker: Worker[int], job: Job) -> None:
    notes: list[int] = []
    worker.put(1)
    job.until(lambda: job.started)
    worker.when_idle(lambda: notes.append(1))
    assert not worker.stop(0.01)
    job.allow(1)
    assert worker.stop(PATIENCE)
    worker.when_idle(lambda: notes.append(2))
    assert notes == []


# --- whether to begin early ---------------------------------------------------------------------------------------


def answers(foresight: Foresight, images: list[str], paired: str = "at once") -> list[bool]:
    """What it says to each image; its depth comes at once, after the next image, or never."""
    said = []
    for i, image in enumerate(images):
        said.append(foresight.colour(image))
        if paired == "at once":
            foresight.pair(image)
        elif paired == "late" and i:
            foresight.pair(images[i - 1])
    return said


def names(count: int, kind: str = "image") -> list[str]:
    return [f"{kind} {i}" for i in range(count)]


def test_it_begins_when_eight_in_a_row_found_their_depth() -> None:
    assert Foresight.ENOUGH == 8
    assert answers(Foresight(), names(12)) == [False] * 8 + [True] * 4


@pytest.mark.parametrize("paired", ["late", "never"])
def test_one_without_depth_before_the_next_ends_it_until_eight_more_found_theirs(paired: str) -> None:
    foresight = Foresight()
    assert answers(foresight, names(9))[-1]
    assert foresight.colour("lonely"), "until now all was well"
    assert not foresight.colour("next")
    if paired == "late":
        foresight.pair("lonely")
    foresight.pair("next")
    assert answers(foresight, names(9, "later")) == [False] * 7 + [True] * 2


def test_it_never_begins_where_every_second_image_has_depth() -> None:
    foresight = Foresight()
    for i in range(50):
        assert not any([*answers(foresight, [f"with {i}"]), *answers(foresight, [f"without {i}"], "never")])


@pytest.mark.parametrize("paired", ["late", "never"])
def test_it_never_begins_where_depth_comes_after_the_next_image_or_not_at_all(paired: str) -> None:
    assert not any(answers(Foresight(), names(50), paired))


def test_depth_of_another_image_does_not_count() -> None:
    foresight = Foresight()
    for image in names(20):
        assert not foresight.colour(image)
        foresight.pair("another")


# --- several at once ----------------------------------------------------------------------------------------------


class Held:
    """A `work` that finishes each item when it is told to, and publishes in turn."""

    def __init__(self) -> None:
        self.turns: dict[int, Turn] = {}
        self.published: list[int] = []
        self._go: dict[int, threading.Event] = {}
        self._changed = threading.Condition()

    def __call__(self, item: int, turn: Turn) -> None:
        with self._changed:
            self.turns[item] = turn
            self._changed.notify_all()
        assert self.gate(item).wait(PATIENCE)
        if item < 0:
            raise RuntimeError(f"cannot do {item}")
        turn.wait()
        with self._changed:
            self.published.append(item)
            self._changed.notify_all()

    def gate(self, item: int) -> threading.Event:
        """What the item waits for."""
        with self._changed:
            return self._go.setdefault(item, threading.Event())

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that is noted here has happened."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), (self.turns, self.published)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def pair_of_threads(held: Held, job: Job) -> Iterator[Worker[int]]:
    worker = Worker(held, job.overtaken.append, "worker", threads=2)
    yield worker
    for item in range(-10, 10):
        held.gate(item).set()
    assert worker.stop(PATIENCE)


def put(worker: Worker[int], held: Held, *items: int) -> None:
    """Each when the one before has begun."""
    for item in items:
        worker.put(item)
        held.until(lambda item=item: item in held.turns)  # type: ignore[misc]


def test_two_are_in_work_at_once_and_a_third_waits(pair_of_threads: Worker[int], held: Held, job: Job) -> None:
    put(pair_of_threads, held, 1, 2)
    pair_of_threads.put(3)
    pair_of_threads.put(4)
    assert job.overtaken == [3] and sorted(held.turns) == [1, 2]
    assert {held.turns[1].thread, held.turns[2].thread} == {0, 1}
    held.gate(1).set()
    held.until(lambda: 4 in held.turns)
    assert held.turns[4].thread == held.turns[1].thread


def test_an_item_knows_how_many_are_in_work_with_it(pair_of_threads: Worker[int], held: Held) -> None:
    put(pair_of_threads, held, 1, 2)
    held.gate(1).set()
    held.until(lambda: held.published == [1])
    held.gate(2).set()
    held.until(lambda: held.published == [1, 2])
    while pair_of_threads._in_work:  # the last steps of a thread
        threading.Event().wait(0.001)
    put(pair_of_threads, held, 3)
    assert [held.turns[item].company for item in (1, 2, 3)] == [1, 2, 1]


def test_who_is_done_first_waits_for_its_turn(pair_of_threads: Worker[int], held: Held) -> None:
    put(pair_of_threads, held, 1, 2)
    held.gate(2).set()
    assert not pair_of_threads.stop(0.05)
    assert held.published == []
    held.gate(1).set()
    held.until(lambda: held.published == [1, 2])


def test_an_item_that_fails_holds_nobody_up(pair_of_threads: Worker[int], held: Held) -> None:
    put(pair_of_threads, held, -1, 2)
    held.gate(2).set()
    held.gate(-1).set()
    held.until(lambda: held.published == [2])


def test_idle_work_waits_until_nothing_is_in_work_and_holds_what_comes(
    pair_of_threads: Worker[int], held: Held
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def idle() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    put(pair_of_threads, held, 1)
    pair_of_threads.when_idle(idle)
    assert not begun.wait(0.05), "a thread is free, but the cores are not"
    held.gate(1).set()
    assert begun.wait(PATIENCE)
    pair_of_threads.put(2)
    assert not pair_of_threads.stop(0.05) and 2 not in held.turns
    go_on.set()
