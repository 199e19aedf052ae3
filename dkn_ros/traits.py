"""What images tell of the camera: whether depth pixels are means or samples, how noisy, how well colour lies on them.

A network that must serve every camera without knowing which one hedges between them.  Measured on real frames at 8x,
one that knew that its input was antialiased had a tenth less error on it, and one that believed so wrongly a tenth
more.  These traits can be told from a frame.
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
LEAST_OVER_NOISE = 20.0
"""And in deviations of the noise."""
FLAT = 0.25
"""Greatest change beside an edge that still counts as flat, in parts of the step."""
MIDDLE = 0.56
"""Share of edges with a pixel between both sides from which on means are more likely than samples."""
ENOUGH_EDGES = 30.0
"""With fewer edges in the frame, the answer moves towards "unknown"."""
QUIET, NOISY = 0.002, 0.0035
"""Noise, in parts of the depth range, up to which an input is believed and from which on it is not; at a ratio of 2."""
SAMPLES = 5_000
"""About so many pixels are looked at for the noise."""
UNKNOWN_DISTANCE = 1.4
"""Pixels between depth and colour edges that the network is told where none are known."""
MEANS_TELL = 0.85
"""Where depth pixels are means their values say themselves where an edge lies: so much less of what colour edges are
worth is the network told then."""
SAMPLES_TELL = 0.4
"""And at a ratio of 2 the pixels of both sides, too: more than this the network is not told there."""
FULL_NOISE = 8.0
"""Steps of a factor of two that the noise's code spans."""


class Traits(NamedTuple):
    """Numbers that the network is told beside the images."""

    antialiased: float
    """How likely each pixel is the mean of its area (1) rather than one sample in it (0); 0.5: unknown."""
    noise: float
    """Standard deviation of the noise in parts of the depth range of the frame."""
    aligned: float = float(np.exp(-UNKNOWN_DISTANCE / 2))
    """exp(-d / 2) where depth edges lie d pixels beside colour edges, root mean square across them, see `alignment`."""

    def trust(self, ratio: float) -> float:
        """How far the result, made smaller, has to give the input again: 1 for means without noise, else less.

        ratio: of the colour's size to the depth's; on a coarse grid the shape of things looks like noise.
        """
        coarse = max(1.0, (ratio / 2) ** 0.5)
        return self.antialiased * float(np.clip((NOISY - self.noise / coarse) / (NOISY - QUIET), 0, 1))

    def encoded(self) -> NDArray[np.float32]:
        """All as the network sees them, in 0..1; the noise logarithmically, 0 where there is none.

        A network is told the first few, see `FDKNOptions.told`.
        """
        noise = np.log2(1 + 1000 * self.noise) / FULL_NOISE
        return np.array((self.antialiased, min(noise, 1.0), self.aligned), np.float32)


UNKNOWN = Traits(0.5, 0.0).aligned


def coarser(aligned: float, share: float) -> float:
    """`Traits.aligned` on a grid of that share of the width: edges lie fewer of its pixels apart."""
    return float(aligned**share)


def traits_of(
    depth: FloatImage, ratio: float, span: float, buffers: Buffers | None = None, aligned: float = UNKNOWN
) -> Traits:
    """Traits of a depth image (hxw, NaN invalid).

    ratio: of the colour's size to the depth's.  span: depth range of the frame, in the unit of `depth`.
    aligned: how well the colour lies on it, as far as edges tell, see `Traits.aligned`.
    """
    deviation = noise(depth, buffers)
    means = antialiased(depth, ratio, deviation)
    return Traits(means, deviation / span, min(aligned, most_told(ratio)) * (1 - MEANS_TELL * max(0.0, 2 * means - 1)))


def most_told(ratio: float) -> float:
    """The most that the network is told of `Traits.aligned` at a ratio; set, as is MEANS_TELL, on measured frames."""
    return SAMPLES_TELL + (1 - SAMPLES_TELL) * min(1.0, abs(np.log2(max(ratio, 1.0)) - 1))


def antialiased(depth: FloatImage, ratio: float, deviation: float = 0.0) -> float:
    """How likely each pixel is the mean of its area.

    Where two flat surfaces meet, a mean mostly lies between both and a sample does not.  The share of edges with such a
    pixel was measured on public RGB-D frames: from a ratio of 4 on at least 0.6 for means and mostly below 0.5 for
    samples.  At 2 the softness of the reference itself shows: samples of NYU v2 have 0.5, means of Redwood 0.3.
    deviation: of the noise, in the unit of `depth`; it must not pass for edges.
    """
    least = np.float32(LEAST_OVER_NOISE * deviation)
    between, clear = _edges(depth, np.float32(SMALLEST_STEP), least, np.float32(FLAT))
    edges = between + clear / 2  # a clear step is seen from both of its sides
    if not edges:
        return 0.5
    sure = min(1.0, edges / ENOUGH_EDGES) * np.clip((np.log2(max(ratio, 1.0)) - 0.4) / 0.6, 0, 1)
    return float(1 / (1 + np.exp(-18 * sure * (between / edges - MIDDLE))))


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


@compiled(types.int64(any_image(types.float32, 2), types.int64, types.float32[::1]), nogil=True, error_model="numpy")
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


@compiled(
    types.UniTuple(types.int64, 2)(any_image(types.float32, 2), *3 * (types.float32,)), nogil=True, error_model="numpy"
)
def _edges(depth, smallest, least, flat):  # type: ignore[no-untyped-def]
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
                enough = step > smallest * min(a, c) and step > least  # not NaN
                if enough and abs(a - p) < flat * step and abs(n - c) < flat * step:
                    share = (b - a) / (c - a)
                    if share > 0.15 and share < 0.85:
                        between += 1
                    elif share > -0.25 and share < 1.25:
                        clear += 1
    return between, clear
