"""How far each pixel of the result can be trusted: the probability that it is within 2 % of the true depth.

The network says nothing of its own doubts, but what goes wrong leaves traces in what it was given and what it made:

    spread       range of the depth in the 3 x 3 around a pixel, in parts of it: at an edge either side may be right
    correction   |result - bicubic| in parts of the depth, mean of 7 x 7: where much had to be changed, much was open
    distance     pixels to the nearest measured depth: a filled hole is a guess
    ratio        of the colour's size to the depth's: how many pixels share one measurement

    log odds = BIAS + SPREAD log2(1 + spread / 0.002) + CORRECTION log2(1 + correction / 0.0005)
             + DISTANCE log2(1 + distance) + RATIO log2(ratio)

The five numbers are a logistic regression on rendered scenes (12 rooms through 17 cameras: 1 to 16 times smaller, means
and samples, a Kinect v1's noise, time of flight, holes) with the shipped weights, see `synthetic/confidence_fit.py`;
sharper features and more of them gained little.  On 8 other rooms through 10 of these cameras (seeds 2000 to 2007, 24
million pixels):

    confidence    share of pixels   of them within 2 %   mean error
    below 0.1            2 %               12 %            17.3 %
    0.1 to 0.3           2 %               27 %             8.2 %
    0.3 to 0.5           1 %               44 %             4.7 %
    0.5 to 0.7           2 %               59 %             3.0 %
    0.7 to 0.9           5 %               75 %             1.8 %
    0.9 to 0.99         36 %               98 %             0.6 %
    above 0.99          52 %              100 %             0.1 %

It speaks of those cameras: where colour and depth do not lie on each other, or a sensor is wrong as a whole, it knows
nothing of it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled
from dkn_ros.postprocess import reach
from dkn_ros.preprocess import Target

FloatImage = NDArray[np.float32]

WITHIN = 0.02
"""What counts as right, in parts of the true depth."""
BIAS, SPREAD, CORRECTION, DISTANCE, RATIO = 9.39, -0.876, -0.517, -1.187, -0.719
LEAST_SPREAD, LEAST_CORRECTION = 0.002, 0.0005
"""Smaller ones count as none."""
AROUND = 7
"""Side of the square over which the correction is averaged."""


class Evidence(NamedTuple):
    """What the confidence is made of; images HxW on the colour grid."""

    spread: FloatImage
    """NaN where the depth is."""
    correction: FloatImage
    distance: FloatImage
    ratio: float


def evidence(depth: FloatImage, target: Target, buffers: Buffers) -> Evidence:
    """Gather what is known of a result.

    depth: HxW metres, NaN invalid.  target: what it was made from, on the colour grid or another one.
    The images last until the next call with the same buffers.
    """
    height, width = depth.shape
    given = target.image
    if given.shape != depth.shape:
        given = buffers.array("given", depth.shape)
        cv2.resize(target.image, (width, height), given, interpolation=cv2.INTER_LINEAR)
    spread, change, correction = (buffers.array(name, depth.shape) for name in ("spread", "change", "correction"))
    _traces(depth, given, np.float32(target.low), np.float32(target.high - target.low), spread, change)
    cv2.blur(change, (AROUND, AROUND), correction, borderType=cv2.BORDER_REPLICATE)
    return Evidence(spread, correction, reach(target, width, height, buffers), target.ratio)


def confidence(depth: FloatImage, target: Target, buffers: Buffers, out: FloatImage) -> None:
    """Write into `out` (HxW) the probability that each pixel is within 2 % of the truth, 0 where `depth` is NaN.

    depth, target, buffers: as of `evidence`.
    """
    found = evidence(depth, target, buffers)
    out.fill(BIAS + RATIO * np.log2(max(found.ratio, 1.0)))
    for image, weight, least in (
        (found.spread, SPREAD, LEAST_SPREAD),
        (found.correction, CORRECTION, LEAST_CORRECTION),
        (found.distance, DISTANCE, 1.0),
    ):
        # log2(1 + image / least) by OpenCV, which is several times faster than what numba makes of np.log2
        term = buffers.array("term", depth.shape)
        np.multiply(image, np.float32(1 / least), out=term)
        term += np.float32(1)
        cv2.log(term, term)
        term *= np.float32(weight / np.log(2))
        out += term
    np.negative(out, out=out)
    cv2.exp(out, out)
    out += np.float32(1)
    np.divide(np.float32(1), out, out=out)
    np.copyto(out, np.float32(0), where=np.isnan(depth, out=buffers.array("invalid", depth.shape, np.bool_)))


@compiled(nogil=True, error_model="numpy", inline="always")
def _widened(near, far, other):  # type: ignore[no-untyped-def]
    """NaN leaves the range as it is."""
    return (other if other < near else near), (other if other > far else far)


@compiled(
    types.void(any_image(types.float32, 2), any_image(types.float32, 2), *2 * (types.float32,),
               *2 * (types.float32[:, ::1],)),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _traces(depth, given, low, span, spread, change):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for y in numba.prange(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            z = depth[y, x]
            moved = abs(z - (low + span * given[y, x])) / z
            change[y, x] = moved if moved == moved else np.float32(0)
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            near, far = z, z
            near, far = _widened(near, far, depth[above, left])
            near, far = _widened(near, far, depth[above, x])
            near, far = _widened(near, far, depth[above, right])
            near, far = _widened(near, far, depth[y, left])
            near, far = _widened(near, far, depth[y, right])
            near, far = _widened(near, far, depth[below, left])
            near, far = _widened(near, far, depth[below, x])
            near, far = _widened(near, far, depth[below, right])
            spread[y, x] = (far - near) / z
