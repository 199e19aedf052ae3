"""Threads that always work on the newest thing: a mailbox of one place, so that nothing queues up.

While they have nothing else to do one prepares: the guidance tower needs no depth, see `Foresight`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """How an item is worked on."""

    thread: int
    """Which of the threads does it, from 0 on."""
    company: int
    """So many items are in work as it begins, this one included."""
    wait: Callable[[], None]
    """Holds the calling thread until all items that were taken earlier are done with."""


class Worker(Generic[Item]):
    """Calls `work` with the newest item put in; an item that a newer one overtakes is given to `overtaken` instead.

    threads: so many items are in work at a time, at most.
    What `work` raises is logged, and the next item is worked on.
    """

    def __init__(
        self, work: Callable[[Item, Turn], None], overtaken: Callable[[Item], None], name: str, threads: int = 1
    ) -> None:
        self._work, self._overtaken = work, overtaken
        self._item: Item | None = None
        self._idle_work: Callable[[], None] | None = None
        self._preparing = self._stopping = False
        self._in_work: list[int] = []  # numbers, in the order in which they were taken
        self._taken = 0
        self._changed = threading.Condition()
        # Daemons: a frame that hangs in a device driver must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"{name} {i}" if i else name, daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item) -> None:
        """Hand over an item; returns at once."""
        with self._changed:
            older, self._item = self._item, item
            self._changed.notify_all()
        if older is not None:
            self._overtaken(older)

    def when_idle(self, work: Callable[[], None]) -> None:
        """Something to do if nothing waits or is in work; what comes before it is done replaces it."""
        with self._changed:
            self._idle_work = work
            self._changed.notify_all()

    def stop(self, timeout: float) -> bool:
        """Finish the items in work, leave the one that waits; False if that took longer than `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, thread: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._may_begin())
                if self._stopping:
                    return
                item, idle_work = self._item, self._idle_work
                self._item = self._idle_work = None
                self._preparing = item is None
                self._taken += 1
                number = self._taken
                self._in_work.append(number)
                turn = Turn(thread, len(self._in_work), partial(self._wait, number))
            try:
                if item is not None:
                    self._work(item, turn)
                elif idle_work is not None:
                    idle_work()
            except Exception:  # the thread must live: without it every later item would wait in vain
                _LOGGER.exception("%s: an item failed", self._threads[thread].name)
            with self._changed:
                self._preparing = False
                self._in_work.remove(number)
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        """Whether there is something to do; what is being prepared is probably for the item that comes next."""
        if self._preparing:
            return False
        return self._item is not None or (self._idle_work is not None and not self._in_work)

    def _wait(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._in_work[0] == number)


class Foresight:
    """Whether the colour image that just came will probably find its depth, so that work on it is not lost.

    It will where the last ones did, before the next one came.  It will not where depth comes less often than colour or
    later than a period; to begin its work early would then only take time from images that are waited for.
    """

    ENOUGH = 8
    """Colour images in a row that found their depth."""

    def __init__(self) -> None:
        self._newest: object = None
        self._paired = True
        self._row = 0

    def colour(self, image: object) -> bool:
        """A colour image came; whether to begin with it."""
        self._row = self._row + 1 if self._paired and self._newest is not None else 0
        self._newest, self._paired = image, False
        return self._row >= self.ENOUGH

    def pair(self, image: object) -> None:
        """A colour image found its depth."""
        if image is self._newest:
            self._paired = True
