"""Depth as a picture for people: near blue, far red, invalid black."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.compiled import any_image, compiled

FloatImage = NDArray[np.float32]

SAMPLES = 4_000
"""About so many pixels tell the range of a frame."""
CUT = 0.02
"""Share of the pixels that may lie beyond each end of the range."""
SETTLE_SECONDS = 1.0
"""Time constant with which the range follows the scene: at once, colours would flicker with every pixel that comes."""
LEAST_SPAN = 0.1
"""Metres that the colours span at least: a wall must not look like mountains."""


@functools.lru_cache(maxsize=1)
def colours() -> NDArray[np.uint8]:
    """256x3, red green blue: the colour map Turbo."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_TURBO)[0, :, ::-1]).astype(np.uint8)


class Preview:
    """Draws frames of a stream, whose range of colours moves slowly; for one thread at a time."""

    def __init__(self) -> None:
        self._range: tuple[float, float] | None = None
        self._seconds = -math.inf
        self._sample = np.empty(2 * SAMPLES, np.float32)

    def draw(self, depth: FloatImage, seconds: float, out: NDArray[np.uint8], near: float = 0, far: float = 0) -> None:
        """Write HxWx3 red green blue into `out`.

        depth: HxW metres, NaN invalid.  seconds: stamp of the frame; one that goes back starts anew.
        near, far: metres of the first and the last colour; 0: found in the frames.
        """
        found = self._follow(depth, seconds) if near <= 0 or far <= 0 else (near, far)
        low, high = near if near > 0 else found[0], far if far > 0 else found[1]
        _draw(depth, np.float32(low), np.float32(255 / max(high - low, LEAST_SPAN)), colours(), out)

    def _follow(self, depth: FloatImage, seconds: float) -> tuple[float, float]:
        now, past = self._range_of(depth), self._range
        passed = seconds - self._seconds
        self._seconds = seconds
        if now is None:  # nothing to be seen: nothing to be learned
            return past or (0.0, 1.0)
        if past is not None and passed >= 0:
            share = 1 - math.exp(-passed / SETTLE_SECONDS)
            now = past[0] + share * (now[0] - past[0]), past[1] + share * (now[1] - past[1])
        self._range = now
        return now

    def _range_of(self, depth: FloatImage) -> tuple[float, float] | None:
        step = max(1, round((depth.size / SAMPLES) ** 0.5))
        known = self._sample[: _some(depth, step, self._sample)]
        if not known.size:
            return None
        known.sort()
        first = int(CUT * (known.size - 1))
        return float(known[first]), float(known[known.size - 1 - first])


@compiled(types.int64(any_image(types.float32, 2), types.int64, types.float32[::1]), nogil=True, error_model="numpy")
def _some(depth, step, out):  # type: ignore[no-untyped-def]
    """The valid ones of every `step`-th pixel along both axes; returns how many."""
    count = 0
    for y in range(step // 2, depth.shape[0], step):
        for x in range(step // 2, depth.shape[1], step):
            if depth[y, x] == depth[y, x] and count < out.shape[0]:
                out[count] = depth[y, x]
                count += 1
    return count


@compiled(
    types.void(any_image(types.float32, 2), *2 * (types.float32,), types.uint8[:, ::1], types.uint8[:, :, ::1]),
    nogil=True, error_model="numpy",
)  # fmt: skip
def _draw(depth, low, scale, table, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            z = depth[y, x]
            if z != z:
                out[y, x, 0] = out[y, x, 1] = out[y, x, 2] = 0
                continue
            index = np.intp(min(max((z - low) * scale, np.float32(0)), np.float32(255)))
            for c in range(3):
                out[y, x, c] = table[index, c]
