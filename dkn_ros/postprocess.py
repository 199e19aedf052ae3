"""From the network's result to the depth that is handed out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.preprocess import Target
from dkn_ros.resampling import resample

FloatImage = NDArray[np.float32]

LEAST_SHARE = 0.05
"""A smaller share of a step of back-projection is not worth its time."""


def back_project(result: FloatImage, measured: FloatImage, share: float, buffers: Buffers) -> None:
    """Add what is left between the result, made as small as the input, and the input: one step of back-projection.

    Right where an input pixel is the mean of its area, and wrong where it is one sample in it or noisy.
    result: HxW metres, is changed.  measured: hxw metres, NaN where there is none.  share: 0..1, of the step.
    """
    height, width = measured.shape
    seen = resample(result, width, height, buffers.part("seen"))
    left = np.subtract(measured, seen, out=buffers.array("left", measured.shape))
    np.copyto(left, np.float32(0), where=np.isnan(left, out=buffers.array("not measured", left.shape, np.bool_)))
    left *= np.float32(share)
    result += resample(left, result.shape[1], result.shape[0], buffers.part("left"))


def reach(target: Target, width: int, height: int, buffers: Buffers | None = None) -> FloatImage:
    """height x width, pixels of the colour grid to the nearest measured depth."""
    if target.distance.shape == (height, width):
        return target.distance
    resized = (buffers or Buffers()).array("reach", (height, width))
    cv2.resize(target.distance, (width, height), resized, interpolation=cv2.INTER_LINEAR)
    resized *= np.float32(width / target.distance.shape[1])
    return resized


def forget_beyond(result: FloatImage, distance: FloatImage, farthest: float, buffers: Buffers) -> None:
    """Make NaN of what lies farther than `farthest` pixels from measured depth.  distance: of `reach`."""
    beyond = np.greater(distance, np.float32(farthest), out=buffers.array("beyond", result.shape, np.bool_))
    np.copyto(result, np.float32(np.nan), where=beyond)
