"""One thread that always works on the newest thing: a mailbox of one place, so that nothing queues up."""

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
                self._changed.wait_for(lambda: self._stopping or self._item is not None)
                if self._stopping:
                    return
                item, self._item = self._item, None
            assert item is not None
            try:
                self._work(item)
            except Exception:  # the thread must live: without it every later item would wait in vain
                _LOGGER.exception("%s: an item failed", self._thread.name)
