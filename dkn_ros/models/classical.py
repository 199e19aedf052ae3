"""Guided upsampling without learning, to compare with: plain functions on the filters of opencv-contrib.

Each takes colour HxWx3 uint8 and depth hxw float32 metres (NaN invalid), and gives HxW float32 metres without NaN.  All
work on depth scaled to 0..1 by the frame's own range, and each has one set of parameters, which grows with the ratio s
of colour to depth size; chosen for the least RMSE over 4x and 8x on NYU v2 frames, clean and noisy input alike.  They
raise ValueError if nothing was measured or if OpenCV came without its contrib modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.preprocess import fill_holes
from dkn_ros.resampling import resample

FloatImage = NDArray[np.float32]
Baseline = Callable[[NDArray[np.uint8], FloatImage], FloatImage]

LEAST_WEIGHT = 1e-3
"""Where less than this share of a filter's weight lies on measured pixels, there is nothing to average."""


def guided(rgb: NDArray[np.uint8], low: FloatImage) -> FloatImage:
    """Guided filter (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013) of the bicubic image.

    Holes take the nearest measured depth before.  Radius 3/8 s pixels, at least 1; eps 0.01 (squared colour, 0..1).
    """
    image, _, start, span, ratio = _prepare(rgb, low)
    radius = max(1, round(3 / 8 * ratio))
    return _metres(ximgproc().guidedFilter(_unit(rgb), image, radius, 0.01), start, span)


def jbu(rgb: NDArray[np.uint8], low: FloatImage) -> FloatImage:
    """Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) that averages measured pixels only.

    The filtered depth times validity over the filtered validity.  A kernel of 2 s + 1 pixels, spatial sigma 0.4 s,
    colour sigma 0.2 (sum over the channels, 0..1).  Farther inside of a hole than the kernel reaches: nearest depth.
    """
    image, measured, start, span, ratio = _prepare(rgb, low)
    size, sigma_space = 2 * max(1, round(ratio)) + 1, max(0.4 * ratio, 0.5)
    # Both in one image of three channels: the weights, which take the time, are worked out once.
    stack = np.dstack([image * measured, measured, measured])
    total, weight, _ = cv2.split(ximgproc().jointBilateralFilter(_unit(rgb), stack, size, 0.2, sigma_space))
    return _metres(_divide(total, weight, image), start, span)


def fgs(rgb: NDArray[np.uint8], low: FloatImage) -> FloatImage:
    """Fast global smoother (Min et al., TIP 2014) with confidence 1 for measured pixels and 0 in holes.

    The smoothed depth times confidence over the smoothed confidence.  Lambda 0.1 s squared, colour sigma 16 of 255.
    """
    image, measured, start, span, ratio = _prepare(rgb, low)
    smoother = ximgproc().createFastGlobalSmootherFilter(np.ascontiguousarray(rgb), 0.1 * ratio**2, 16.0)
    total, weight = smoother.filter(image * measured), smoother.filter(measured)
    return _metres(_divide(total, weight, image), start, span)


BASELINES: Mapping[str, Baseline] = {"guided": guided, "jbu": jbu, "fgs": fgs}


def ximgproc() -> Any:
    """OpenCV's module of these filters; ValueError if this OpenCV was built without it."""
    module = getattr(cv2, "ximgproc", None)
    if module is None:
        raise ValueError(
            "this OpenCV has no ximgproc filters: install opencv-contrib-python-headless in place of "
            "opencv-python-headless, or choose --baselines none"
        )
    return module


def _prepare(rgb: NDArray[np.uint8], low: FloatImage) -> tuple[FloatImage, FloatImage, float, float, float]:
    """Filled depth on the colour grid in 0..1, 1 where it was measured and 0 elsewhere, start, span and ratio."""
    height, width = rgb.shape[:2]
    filled, _ = fill_holes(low)
    start, span = float(filled.min()), float(np.ptp(filled)) or 1.0
    image = resample((filled - np.float32(start)) / np.float32(span), width, height)
    known = np.isfinite(low).astype(np.float32)
    measured = cv2.resize(known, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    ratio = (width / low.shape[1] * height / low.shape[0]) ** 0.5
    return image, np.asarray(measured, np.float32), start, span, ratio


def _divide(total: FloatImage, weight: FloatImage, otherwise: FloatImage) -> FloatImage:
    return np.where(weight > LEAST_WEIGHT, total / np.maximum(weight, np.float32(LEAST_WEIGHT)), otherwise)


def _unit(rgb: NDArray[np.uint8]) -> FloatImage:
    return rgb.astype(np.float32) / np.float32(255.0)


def _metres(image: FloatImage, start: float, span: float) -> FloatImage:
    return np.asarray(image, np.float32) * np.float32(span) + np.float32(start)
