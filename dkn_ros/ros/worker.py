"""One thread that always works on the newest thing: a mailbox of one place, so that nothing queues up.

While it has nothing else to do it prepares: the guidance tower needs no depth, see `Foresight`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
_LOGGER = logging.getLogger(__name__)


class Worker(Generic[Item]):
    """Calls `work` with the newest item put in; an item that a newer one overtakes is given to `overtaken` instead.

    What `work` raises is logged, and the next item is worked on.
    """

    def __init__(self, work: Callable[[Item], None], overtaken: Callable[[Item], None], name: str) -> None:
        self._work, self._overtaken = work, overtaken
        self._item: Item | None = None
        self._idle_work: Callable[[], None] | None = None
        self._stopping = False
        self._changed = threading.Condition()
        # A daemon: a frame that hangs in a device driver must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over an item; returns at once."""
        with self._changed:
            older, self._item = self._item, item
            self._changed.notify()
        if older is not None:
            self._overtaken(older)

    def when_idle(self, work: Callable[[], None]) -> None:
        """Something to do if nothing is waiting; what comes before it is done replaces it."""
        with self._changed:
            self._idle_work = work
            self._changed.notify()

    def stop(self, timeout: float) -> bool:
        """Finish the item in work, leave the one that waits; False if that took longer than `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._item is not None or self._idle_work)
                if self._stopping:
                    return
                item, idle_work = self._item, self._idle_work
                self._item = self._idle_work = None
            try:
                if item is not None:
                    self._work(item)
                elif idle_work is not None:
                    idle_work()
            except Exception:  # the thread must live: without it every later item would wait in vain
                _LOGGER.exception("%s: an item failed", self._thread.name)


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
