"""The worker thread and its mailbox of one place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from dkn_ros.ros.worker import Worker

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

    def __call__(self, item: int) -> None:
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
