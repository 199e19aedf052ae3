"""What a depth image tells of the camera that made it: whether its pixels are means or samples, and how noisy it is.

A network that must serve every camera without knowing which one hedges between them.  Measured on real frames at 8x,
one that knew that its input was antialiased had a tenth less error on it, and one that believed so wrongly a tenth
more.  Both traits can be told from a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled

FloatImage = NDArray[np.float32]

SMALLEST_STEP = 0.08
"""Least depth step that counts as an edge, in parts of its near side's depth."""
FLAT = 0.25
"""Greatest change beside an edge that still counts as flat, in parts of the step."""
ENOUGH_EDGES = 30.0
"""With fewer edges in the frame, the answer moves towards "unknown"."""
QUIET, NOISY = 0.003, 0.006
"""Noise, in parts of the depth range, up to which an input is believed and from which on it is not."""
COARSE = 8.0
"""Ratio from which on the bounds grow with it."""
SAMPLES = 5_000
"""About so many pixels are looked at for the noise."""
FULL_NOISE = 8.0
"""Steps of a factor of two that the noise's code spans."""


class Traits(NamedTuple):
    """Numbers that the network is told beside the images."""

    antialiased: float
    """How likely each pixel is the mean of its area (1) rather than one sample in it (0); 0.5: unknown."""
    noise: float
    """Standard deviation of the noise in parts of the depth range of the frame."""

    def trust(self, ratio: float) -> float:
        """How far the result, made smaller, has to give the input again: 1 for means without noise, else less.

        ratio: of the colour's size to the depth's; on a coarse grid the shape of things looks like noise.
        """
        coarse = max(1.0, ratio / COARSE)
        return self.antialiased * float(np.clip((NOISY - self.noise / coarse) / (NOISY - QUIET), 0, 1))

    def encoded(self) -> NDArray[np.float32]:
        """Both as the network sees them, in 0..1; the noise logarithmically, 0 where there is none."""
        noise = np.log2(1 + 1000 * self.noise) / FULL_NOISE
        return np.array((self.antialiased, min(noise, 1.0)), np.float32)


def traits_of(depth: FloatImage, ratio: float, span: float, buffers: Buffers | None = None) -> Traits:
    """Traits of a depth image (hxw, NaN invalid).

    ratio: of the colour's size to the depth's.  span: depth range of the frame, in the unit of `depth`.
    """
    return Traits(antialiased(depth, ratio), noise(depth, buffers) / span)


def antialiased(depth: FloatImage, ratio: float) -> float:
    """How likely each pixel is the mean of its area.

    Where two flat surfaces meet, a mean mostly lies between both and a sample does not.  The share of edges with such a
    pixel was measured on public RGB-D frames: above 0.6 for means, below 0.5 for samples from a ratio of 4 on; at 2,
    where the softness of the reference itself shows, above 0.3 and mostly below 0.25.
    """
    between, clear = _edges(depth, np.float32(SMALLEST_STEP), np.float32(FLAT))
    edges = between + clear / 2  # a clear step is seen from both of its sides
    if not edges:
        return 0.5
    octaves = np.log2(max(ratio, 1.0))
    middle = 0.35 + 0.21 * np.clip(octaves - 1, 0, 1)
    sure = min(1.0, edges / ENOUGH_EDGES) * np.clip((octaves - 0.4) / 0.6, 0, 1)
    return float(1 / (1 + np.exp(-18 * sure * (between / edges - middle))))


def noise(depth: FloatImage, buffers: Buffers | None = None) -> float:
    """Standard deviation of the noise from pixel to pixel, in the unit of `depth`.

    The median of the Laplacian, which is 0 on a plane and does not see the edges: they are few.
    """
    step = max(1, round((depth.size / SAMPLES) ** 0.5))
    rows, columns = (len(range(1, side - 1, step)) for side in depth.shape)
    laplacians = (buffers or Buffers()).array("laplacians", (rows * columns,))
    known = laplacians[: _laplacians(depth, step, laplacians)]
    if not known.size:
        return 0.0
    middle = (known.size - 1) // 2, known.size // 2
    known.partition(middle)
    # Of white noise the Laplacian has 20 times the variance; half of a normal distribution lies within 0.6745.
    return float((known[middle[0]] + known[middle[1]]) / 2) / (0.6745 * 20**0.5)


@compiled(
    types.int64(any_image(types.float32, 2), types.int64, types.float32[::1]), nogil=True, error_model="numpy"
)
def _laplacians(depth, step, out):  # type: ignore[no-untyped-def]
    """Absolute values of the Laplacian of every `step`-th pixel that has one; returns how many."""
    count = 0
    for y in range(1, depth.shape[0] - 1, step):
        for x in range(1, depth.shape[1] - 1, step):
            around = depth[y - 1, x] + depth[y + 1, x] + depth[y, x - 1] + depth[y, x + 1]
            value = abs(around - np.float32(4) * depth[y, x])
            if not np.isnan(value):
                out[count] = value
                count += 1
    return count


@compiled(nogil=True, error_model="numpy")
def _edges(depth, smallest, flat):  # type: ignore[no-untyped-def]
    """How many edges along rows and columns have a pixel between both sides, and at how many pixels there is none."""
    height, width = depth.shape
    between, clear = 0, 0
    for y in range(height):
        for x in range(width):
            for across in range(2):
                if across:
                    if x < 2 or x >= width - 2:
                        continue
                    p, a, b, c, n = depth[y, x - 2], depth[y, x - 1], depth[y, x], depth[y, x + 1], depth[y, x + 2]
                else:
                    if y < 2 or y >= height - 2:
                        continue
                    p, a, b, c, n = depth[y - 2, x], depth[y - 1, x], depth[y, x], depth[y + 1, x], depth[y + 2, x]
                step = abs(c - a)
                if step > smallest * min(a, c) and abs(a - p) < flat * step and abs(n - c) < flat * step:  # not NaN
                    share = (b - a) / (c - a)
                    if share > 0.15 and share < 0.85:
                        between += 1
                    elif share > -0.25 and share < 1.25:
                        clear += 1
    return between, clear
