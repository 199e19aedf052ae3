"""Bicubic resampling between pixel centres into an array that is there already.

The same as Pillow's, which is what the authors' data was made with (Keys' kernel, a = -0.5; antialiased where the image
shrinks; what falls outside the image has no weight), but on all threads and without new arrays.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled

FloatImage = NDArray[np.float32]
SHARPNESS = -0.5
"""Keys' a."""


class Taps(NamedTuple):
    """Which input pixels make an output pixel, for one axis."""

    first: NDArray[np.int64]
    """n: the first of them."""
    weight: FloatImage
    """n x taps; sums to 1."""


@functools.lru_cache(maxsize=64)
def taps(given: int, wanted: int) -> Taps:
    """The taps that resample `given` pixels to `wanted`."""
    scale = given / wanted
    stretch = max(scale, 1.0)
    support = 2 * stretch
    centre = (np.arange(wanted) + 0.5) * scale
    begin = np.maximum(np.floor(centre - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.floor(centre + support + 0.5), given).astype(np.int64)
    count = int((end - begin).max())
    first = np.minimum(begin, given - count)  # so that every pixel has as many
    index = first[:, None] + np.arange(count)
    weight = _keys((index + 0.5 - centre[:, None]) / stretch)
    weight[(index < begin[:, None]) | (index >= end[:, None])] = 0
    return Taps(first, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = SHARPNESS, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resample(
    image: FloatImage, width: int, height: int, buffers: Buffers | None = None, out: FloatImage | None = None
) -> FloatImage:
    """`image` (hxw float32) with `width` x `height` pixels; itself if it has them and no `out` is given.

    out: height x width, is written and returned; without it one of `buffers` is, or a new one.
    """
    if out is None:
        if image.shape == (height, width):
            return image
        out = np.empty((height, width), np.float32) if buffers is None else buffers.array("resampled", (height, width))
    if image.shape == (height, width):
        np.copyto(out, image)
        return out
    rows = (buffers or Buffers()).array("rows", (image.shape[0], width))
    across, down = taps(image.shape[1], width), taps(image.shape[0], height)
    _along_rows(image, across.first, across.weight, rows)
    _along_columns(rows, down.first, down.weight, out)
    return out


_FLOATS, _INTS = types.float32[:, ::1], types.int64[::1]


@compiled(
    types.void(any_image(types.float32, 2), _INTS, _FLOATS, _FLOATS),
    nogil=True, parallel=True, fastmath={"contract", "reassoc"}, error_model="numpy",
)  # fmt: skip
def _along_rows(image, first, weight, out):  # type: ignore[no-untyped-def]
    height, width = out.shape
    for y in numba.prange(height):
        for x in range(width):
            total = np.float32(0)
            for k in range(weight.shape[1]):
                total += weight[x, k] * image[y, first[x] + k]
            out[y, x] = total


@compiled(
    types.void(_FLOATS, _INTS, _FLOATS, _FLOATS),
    nogil=True, parallel=True, fastmath={"contract", "reassoc"}, error_model="numpy",
)  # fmt: skip
def _along_columns(image, first, weight, out):  # type: ignore[no-untyped-def]
    height, width = out.shape
    for y in numba.prange(height):
        for x in range(width):
            out[y, x] = weight[y, 0] * image[first[y], x]
        for k in range(1, weight.shape[1]):
            for x in range(width):
                out[y, x] += weight[y, k] * image[first[y] + k, x]
