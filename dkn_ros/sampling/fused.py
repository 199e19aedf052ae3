"""The deformable average straight from the heads of both towers, compiled by numba for the CPU: inference only.

`models.fdkn` multiplies heads, shuffles sub-pixels into place, takes means off and samples, each a pass over 27
numbers a pixel.  Here one pass reads the heads as the towers leave them, channels last, float32 or bfloat16, and
writes depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import compiled
from dkn_ros.sampling import WINDOW
from dkn_ros.vectors import (
    add_square,
    floor,
    keep,
    keep_fours,
    load,
    no_square,
    power_of_two,
    spread,
    sum_of_square,
    where_less,
)

Array = NDArray[np.float32]
Heads = tuple[Tensor, Tensor]
"""Weights 16Nxhxw in 0..1 and offsets 32Nxhxw in pixels of one tower, for depth of 4h x 4w."""

RADIUS = WINDOW // 2
MARGIN = RADIUS + 2
"""Zeros around the depth: a sample may lie one pixel outside the window, its right neighbour two."""
STRIDE = 4
SUBPIXELS = STRIDE * STRIDE
RUN = 40
"""Blocks side by side whose sums are finished together: enough for vector instructions, few enough for the cache."""

# Without "nnan" and "ninf", as in cpu.py: a NaN or infinite offset must fail the window test, not index the image.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _below_sigmoid(x):  # type: ignore[no-untyped-def]
    """1 + exp(-x), what the sigmoid divides 1 by, within 3 parts in 10^7; NaN of NaN."""
    most, least = spread(np.float32(80.0)), spread(np.float32(-80.0))
    x = where_less(most, x, most, where_less(x, least, least, x))
    # exp(-x) = 2^n exp(r) with |r| below ln(2) / 2, where seven terms of the series are as exact as float32.
    n = floor(np.float32(0.5) - x * np.float32(1.4426950408889634))
    n = where_less(n, spread(np.float32(126)), n, spread(np.float32(126)))  # a number, where x is none
    r = np.float32(0.0) - x - n * np.float32(0.6931471805599453)
    series = np.float32(1 / 120) + r * np.float32(1 / 720)
    series = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * series)
    series = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * series))
    return np.float32(1) + power_of_two(n) * series


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _product(guidance, target, start, guided):  # type: ignore[no-untyped-def]
    """Products of the heads from `start` on, or the target's alone."""
    found = load(target, start)
    return found * load(guidance, start) if guided else found


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _product_of_sigmoids(guidance, target, start, guided):  # type: ignore[no-untyped-def]
    """`_product` of weights that are still to go through the sigmoid: one division for both."""
    below = _below_sigmoid(load(target, start))
    if guided:
        below = below * _below_sigmoid(load(guidance, start))
    return np.float32(1) / below


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _size(x):  # type: ignore[no-untyped-def]
    return where_less(x, spread(np.float32(0)), np.float32(0) - x, x)


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _axis(displacement):  # type: ignore[no-untyped-def]
    """Whole pixels of a displacement and the shares of the pixel there and of the next; 0 outside the window."""
    radius, zero, limit = spread(np.float32(RADIUS)), spread(np.float32(0)), spread(np.float32(RADIUS + 1))
    d = where_less(_size(displacement), limit, displacement, limit)  # the limit for NaN too
    low = floor(d)
    share = d - low
    first = where_less(radius, _size(low), zero, np.float32(1) - share)
    second = where_less(low, radius, share, zero)
    return low, first, second


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _weigh(gw, tw, start, forms, weight):  # type: ignore[no-untyped-def]
    """Weights of a block, 16N numbers, and what makes them such whose mean is 0 or whose sizes add up to 1.

    That is to be subtracted from the weights of each of the 16 pixels (residual), or multiplied with them.
    """
    guided, logits, residual = forms
    count = weight.shape[0] // SUBPIXELS
    total = spread(np.float32(0))
    for n in range(count):
        c = n * SUBPIXELS
        w = _product_of_sigmoids(gw, tw, start + c, guided) if logits else _product(gw, tw, start + c, guided)
        keep(weight, c, w)
        total = total + (w if residual else _size(w))
    if residual:
        return total * (np.float32(1) / np.float32(count))
    least = spread(np.float32(1e-12))
    return np.float32(1) / where_less(total, least, least, total)


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _aim(go, to, start, forms, weight, norm, base, scale, pitch, place, share):  # type: ignore[no-untyped-def]
    """Where the samples of a block lie, in pixels from their own in rows of `pitch`, and the weights of the four there.

    weight, norm: see `_weigh`.  place: 16N.  share: 64N, four for each place: of the pixel there, the next, the one
    below and the one below that.
    """
    guided, _, residual = forms
    for n in range(base.shape[0]):
        c = n * SUBPIXELS
        x, left, right = _axis(base[n, 0] + scale * _product(go, to, start + 2 * c, guided))
        y, upper, lower = _axis(base[n, 1] + scale * _product(go, to, start + 2 * c + SUBPIXELS, guided))
        keep(place, c, y * np.float32(pitch) + x)  # below 2^24, and so exact
        w = load(weight, c) - norm if residual else load(weight, c) * norm
        upper, lower = upper * w, lower * w
        keep_fours(share, 4 * c, upper * left, upper * right, lower * left, lower * right)


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _sample(flat, start, pitch, place, share, total, column):  # type: ignore[no-untyped-def]
    """The sums of a block, whose first pixel is flat[start], by what `_aim` says, into its columns of `total`."""
    for s in range(SUBPIXELS):
        square, own = no_square(), start + (s // STRIDE) * pitch + s % STRIDE
        for n in range(place.shape[0] // SUBPIXELS):
            c = n * SUBPIXELS + s
            q = own + place[c]
            square = add_square(square, share, 4 * c, flat, q, q + pitch)
        total[s // STRIDE, STRIDE * column + s % STRIDE] = sum_of_square(square)


@dataclass(frozen=True)
class Finish:
    """How a sum becomes depth: low + (high - low) * clip(image + strength * (sum - image)), NaN where out of reach."""

    strength: float = 1.0
    """Share of the correction that is applied."""
    low: float = 0.0
    high: float = 1.0
    clipped: bool = False
    """Whether the sum is kept in 0..1."""
    distance: Array | None = None
    """HxW; None: everything is within reach."""
    reach: float = 0.0
    """Largest distance that is within reach."""

    def numbers(self) -> tuple[float, ...]:
        """Strength, low, span, least, most and reach, as the compiled forms take them."""
        least, most = (0.0, 1.0) if self.clipped else (-np.inf, np.inf)
        return self.strength, self.low, self.high - self.low, least, most, self.reach

    def apply(self, total: Array, image: Array, out: Array) -> None:
        """The same in NumPy, for sums that were made elsewhere; all HxW."""
        np.subtract(total, image, out=out)
        out *= np.float32(self.strength)
        out += image
        if self.clipped:
            np.clip(out, 0.0, 1.0, out=out)
        out *= np.float32(self.high - self.low)
        out += np.float32(self.low)
        if self.distance is not None:
            out[self.distance > np.float32(self.reach)] = np.nan


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _finish(total, centre, residual, finish, distance, bounded, out):  # type: ignore[no-untyped-def]
    """Depth of one row of pixels from their sums and their own depth, see `Finish`."""
    strength, low, span, least, most, reach = finish
    for x in range(out.shape[0]):
        own = centre[x]
        correction = total[x] if residual else total[x] - own
        value = low + span * min(max(own + strength * correction, least), most)
        out[x] = np.float32(np.nan) if bounded and distance[x] > reach else value


@compiled(nogil=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _average(depth, gw, go, tw, to, forms, base, scale, finish, distance, out):  # type: ignore[no-untyped-def]
    """depth: (H + 2 MARGIN) x (W + 2 MARGIN).  Heads: hxwxC.  out: HxW, at most 4h x 4w.

    forms: whether guided, logits, residual.  finish: strength, low, span, least, most, reach.  distance: HxW, or empty.
    """
    height, width = out.shape
    rows, columns, numbers = tw.shape
    flat, pitch = depth.reshape(-1), depth.shape[1]
    gw, go, tw, to = gw.reshape(-1), go.reshape(-1), tw.reshape(-1), to.reshape(-1)
    for row in numba.prange(rows):
        weight = np.empty(numbers, np.float32)
        place = np.empty(numbers, np.int32)
        share = np.empty(4 * numbers, np.float32)
        total = np.empty((STRIDE, STRIDE * RUN), np.float32)
        for first in range(0, columns, RUN):
            for column in range(first, min(first + RUN, columns)):
                block = (row * columns + column) * numbers
                norm = _weigh(gw, tw, block, forms, weight)
                _aim(go, to, 2 * block, forms, weight, norm, base, scale, pitch, place, share)
                start = (STRIDE * row + MARGIN) * pitch + STRIDE * column + MARGIN
                _sample(flat, start, pitch, place, share, total, column - first)
            left, right = STRIDE * first, min(STRIDE * (first + RUN), width)
            for y in range(STRIDE * row, min(STRIDE * row + STRIDE, height)):
                centre = depth[y + MARGIN, MARGIN + left : MARGIN + right]
                far = distance[y, left:right] if distance.size else centre
                sums = total[y - STRIDE * row]
                _finish(sums, centre, forms[2], finish, far, distance.size > 0, out[y, left:right])


def average_of_heads(
    depth: Array,
    guidance: Heads | None,
    target: Heads,
    residual: bool,
    base: Array,
    scale: float,
    out: Array,
    finish: Finish | None = None,
    buffers: Buffers | None = None,
    logits: bool = False,
) -> None:
    """What `FDKN.kernels` and `FDKN.average` make of the heads, written into `out`.

    depth: HxW, at most the heads' 4h x 4w; beyond its right and lower border it goes on as it ends.
    guidance: None for the depth-only form.  base: Nx2, x and y of each kernel element before its offset.
    scale: of the offsets.  out: HxW.  finish: what else is done to each pixel while it is at hand.
    logits: the heads' weights are still to go through the sigmoid, which in bfloat16 costs fewer digits here: of the
        difference to float32, half was the rounding of what it gives.
    """
    finish, rows, columns = finish or Finish(), *target[0].shape[-2:]
    shape = STRIDE * rows + 2 * MARGIN, STRIDE * columns + 2 * MARGIN
    padded = (buffers or Buffers()).array("padded", shape)
    _pad(depth, STRIDE * rows, STRIDE * columns, padded)
    gw, go, tw, to = (_channels_last(head) for head in (*(guidance or target), *target))
    distance = _EVERYWHERE if finish.distance is None else finish.distance
    as_float32 = tuple(np.float32(n) for n in finish.numbers())
    forms = guidance is not None, logits, residual
    _average(padded, gw, go, tw, to, forms, base, np.float32(scale), as_float32, distance, out)


_EVERYWHERE = np.empty((0, 0), np.float32)


@compiled(nogil=True, error_model="numpy")
def _pad(depth, rows, columns, out):  # type: ignore[no-untyped-def]
    """Depth, its last row and column again up to rows x columns, zeros around."""
    height, width = depth.shape
    for y in range(out.shape[0]):
        inner = y - MARGIN
        if inner < 0 or inner >= rows:
            out[y] = np.float32(0)
            continue
        out[y, :MARGIN] = np.float32(0)
        out[y, MARGIN + columns :] = np.float32(0)
        for x in range(columns):
            out[y, MARGIN + x] = depth[min(inner, height - 1), min(x, width - 1)]


def _channels_last(head: Tensor) -> NDArray[Any]:
    """Cxhxw as hxwxC without a copy where the tower works in that layout; bfloat16 as its bits."""
    last = head.permute(1, 2, 0).contiguous()
    if last.dtype == torch.bfloat16:
        return last.view(torch.uint16).numpy()
    return last.float().numpy()
