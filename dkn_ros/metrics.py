"""Error measures between depth images, and the zones they are taken in: pure functions, NaN pixels are left out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]

BORDER = 6
"""Pixels that are cut from each side before measuring, as the papers do."""
TOLERANCE = 0.05
"""Share of the true depth by which a pixel may be off before `off_share` counts it."""
EDGE_STEP = 0.05
"""Two neighbours whose depths differ by more than this share of the nearer one lie on both sides of a depth edge."""
EDGE_REACH = 3
"""Pixels around a depth edge that count to it."""
STILL_LUMINANCE = 0.02
"""Of 0..1, largest change of a static pixel's luminance, smoothed by a Gaussian of 1.5 pixels: 5 of 255 levels."""
STILL_DEPTH = 0.02
"""Largest change of a static pixel's true depth as a share of it: about the noise of a Kinect at 4 m."""


@dataclass(frozen=True)
class Zones:
    """Where a pixel lies with regard to the holes of the low-resolution depth; HxW masks that do not overlap."""

    hole: Mask
    """Under a low-resolution pixel that was made invalid."""
    near: Mask
    """Measured, and at most `factor` pixels from an invalid pixel."""
    far: Mask
    """Measured, and more than 2 `factor` pixels from any invalid pixel."""


def zones(made: Mask, invalid: Mask, factor: int) -> Zones:
    """The zones of an image `factor` times larger than the masks.

    made: hxw, true where the degradation made a hole.  invalid: hxw, these and what the frame itself does not know.
    """
    made, invalid = enlarged(made, factor), enlarged(invalid, factor)
    distance = _distance(invalid)
    return Zones(made, ~invalid & (distance <= factor), distance > 2 * factor)


def enlarged(mask: Mask, factor: int) -> Mask:
    """Each pixel as a block of `factor` x `factor` pixels."""
    return np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)


def near_edges(truth: FloatImage, reach: float = EDGE_REACH) -> Mask:
    """HxW, true at most `reach` pixels (Euclidean) from a pixel beside a depth edge, see EDGE_STEP."""
    edge = np.zeros(truth.shape, bool)
    for first, second in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        a, b = truth[first], truth[second]
        step = np.abs(a - b) > EDGE_STEP * np.minimum(a, b)  # never of NaN
        edge[first] |= step
        edge[second] |= step
    return _distance(edge) <= reach


def still(luminances: tuple[FloatImage, FloatImage], truths: tuple[FloatImage, FloatImage]) -> Mask:
    """HxW, true where neither luminance (0..1) nor true depth of two frames changes, see STILL_*."""
    before, now = (cv2.GaussianBlur(image, (0, 0), 1.5) for image in luminances)
    depth_before, depth_now = truths
    lit = np.abs(before - now) <= STILL_LUMINANCE
    return lit & (np.abs(depth_before - depth_now) <= STILL_DEPTH * np.minimum(depth_before, depth_now))


def compared(
    depth: FloatImage, truth: FloatImage, border: int = BORDER, where: Mask | None = None
) -> tuple[FloatImage, FloatImage]:
    """The pixels that both images know, without the border, flattened; of `where` (HxW) alone if it is given.

    Raises ValueError if the shapes differ or no pixel is left.
    """
    if where is not None:
        truth = np.where(where, truth, np.float32(np.nan))
    depth, truth = _inside(depth, truth, border)
    both = np.isfinite(depth) & np.isfinite(truth)
    if not both.any():
        raise ValueError("depth and truth know no pixel in common; nothing can be measured")
    return depth[both], truth[both]


def rmse(depth: FloatImage, truth: FloatImage, border: int = BORDER, where: Mask | None = None) -> float:
    """Root mean square error in the unit of the images."""
    a, b = compared(depth, truth, border, where)
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))


def mae(depth: FloatImage, truth: FloatImage, border: int = BORDER, where: Mask | None = None) -> float:
    """Mean absolute error in the unit of the images."""
    a, b = compared(depth, truth, border, where)
    return float(np.mean(np.abs(a.astype(np.float64) - b)))


def off_share(depth: FloatImage, truth: FloatImage, border: int = BORDER, where: Mask | None = None) -> float:
    """Share of the pixels that are off by more than TOLERANCE of the truth."""
    a, b = compared(depth, truth, border, where)
    return float(np.mean(np.abs(a.astype(np.float64) - b) > TOLERANCE * b))


def flicker(previous: FloatImage, now: FloatImage, static: Mask, border: int = BORDER) -> float:
    """Mean absolute change from one depth image to the next on the `static` pixels (HxW) that both know.

    Raises ValueError if there is no such pixel.
    """
    return mae(previous, now, border, static)


def coverage(depth: FloatImage, truth: FloatImage, border: int = BORDER) -> float:
    """Share of the pixels known in `truth` that `depth` knows too.

    Raises ValueError if the shapes differ or `truth` knows no pixel.
    """
    depth, truth = _inside(depth, truth, border)
    known = np.isfinite(truth)
    if not known.any():
        raise ValueError("truth knows no pixel; nothing can be measured")
    return float(np.isfinite(depth)[known].mean())


def _inside(depth: FloatImage, truth: FloatImage, border: int) -> tuple[FloatImage, FloatImage]:
    """Both images without their border; ValueError if the shapes differ."""
    if depth.shape != truth.shape:
        raise ValueError(f"depth is {depth.shape}, truth {truth.shape}; wanted: the same shape")
    inside = (slice(border, -border or None),) * 2
    return depth[inside], truth[inside]


def _distance(mask: Mask) -> FloatImage:
    """HxW, pixels to the nearest true pixel, from centre to centre; infinite if there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    away = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away, np.float32)
