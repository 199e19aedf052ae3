"""Arrays that are made once and used for every frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Buffers:
    """Arrays by name: the same one again as long as its shape and type are asked for, else a new one in its place.

    What is in an array is what its last user left there.  For one thread at a time.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._parts: dict[str, Buffers] = {}

    def array(self, name: str, shape: tuple[int, ...], kind: DTypeLike = np.float32) -> NDArray[Any]:
        """The array of this name, C-contiguous."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape or found.dtype != kind:
            found = self._arrays[name] = np.empty(shape, kind)
        return found

    def part(self, name: str) -> Buffers:
        """Buffers of their own, for work of the same kind on images of another size."""
        return self._parts.setdefault(name, Buffers())
