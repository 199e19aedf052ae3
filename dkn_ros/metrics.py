"""Error measures between two depth images: pure functions, NaN pixels are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

BORDER = 6
"""Pixels that are cut from each side before measuring, as the papers do."""


def compared(depth: FloatImage, truth: FloatImage, border: int = BORDER) -> tuple[FloatImage, FloatImage]:
    """The pixels that both images know, without the border, flattened.

    Raises ValueError if the shapes differ or no pixel is left.
    """
    depth, truth = _inside(depth, truth, border)
    both = np.isfinite(depth) & np.isfinite(truth)
    if not both.any():
        raise ValueError("depth and truth know no pixel in common; nothing can be measured")
    return depth[both], truth[both]


def rmse(depth: FloatImage, truth: FloatImage, border: int = BORDER) -> float:
    """Root mean square error in the unit of the images."""
    a, b = compared(depth, truth, border)
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))


def mae(depth: FloatImage, truth: FloatImage, border: int = BORDER) -> float:
    """Mean absolute error in the unit of the images."""
    a, b = compared(depth, truth, border)
    return float(np.mean(np.abs(a.astype(np.float64) - b)))


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
