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

from dkn_ros.bfloat16 import number, power_of_two
from dkn_ros.buffers import Buffers
from dkn_ros.compiled import compiled
from dkn_ros.sampling import WINDOW

Array = NDArray[np.float32]
Heads = tuple[Tensor, Tensor]
"""Weights 16Nxhxw in 0..1 and offsets 32Nxhxw in pixels of one tower, for depth of 4h x 4w."""

RADIUS = WINDOW // 2
MARGIN = RADIUS + 2
"""Zeros around the depth: a sample may lie one pixel outside the window, its right neighbour two."""
STRIDE = 4
SUBPIXELS = STRIDE * STRIDE

# Without "nnan" and "ninf", as in cpu.py: a NaN or infinite offset must fail the window test, not index the image.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)) within 3e-7, by arithmetic that becomes vector instructions, as a call of exp does not."""
    x = min(max(x, np.float32(-80.0)), np.float32(80.0))
    # exp(-x) = 2^n exp(r) with |r| below ln(2) / 2, where seven terms of the series are as exact as float32.
    n = np.floor(np.float32(0.5) - x * np.float32(1.4426950408889634))
    r = -x - n * np.float32(0.6931471805599453)
    series = np.float32(1 / 120) + r * np.float32(1 / 720)
    series = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * series)
    series = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * series))
    return np.float32(1) / (np.float32(1) + power_of_two(np.int32(n)) * series)  # type: ignore[call-arg]


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _products(guidance, target, guided, block):  # type: ignore[no-untyped-def]
    """Products of the heads of one 4 x 4 block, or the target's alone; C numbers each."""
    if guided:
        for c in range(block.shape[0]):
            block[c] = number(guidance[c]) * number(target[c])
    else:
        for c in range(block.shape[0]):
            block[c] = number(target[c])


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _weights(guidance, target, guided, logits, block):  # type: ignore[no-untyped-def]
    """`_products` of the weights, which come after the sigmoid or before it."""
    if not logits:
        _products(guidance, target, guided, block)
    elif guided:
        for c in range(block.shape[0]):
            block[c] = _sigmoid(number(guidance[c])) * _sigmoid(number(target[c]))
    else:
        for c in range(block.shape[0]):
            block[c] = _sigmoid(number(target[c]))


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _normalise(weight, residual):  # type: ignore[no-untyped-def]
    """Zero mean (residual) or unit sum of absolute values, for each of the 16 pixels of a block."""
    count = weight.shape[0] // SUBPIXELS
    total = np.zeros(SUBPIXELS, np.float32)
    for n in range(count):
        for s in range(SUBPIXELS):
            w = weight[n * SUBPIXELS + s]
            total[s] += w if residual else abs(w)
    for n in range(count):
        for s in range(SUBPIXELS):
            if residual:
                weight[n * SUBPIXELS + s] -= total[s] / np.float32(count)
            else:
                weight[n * SUBPIXELS + s] /= max(total[s], np.float32(1e-12))


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _axis(displacement):  # type: ignore[no-untyped-def]
    """Whole pixels of a displacement and the shares of the pixel there and of the next; 0 outside the window."""
    limit = np.float32(RADIUS + 1)
    d = displacement if abs(displacement) < limit else limit  # false for NaN too
    low = np.floor(d)
    share = d - low
    first = np.float32(1.0) - share if low >= np.float32(-RADIUS) and low <= np.float32(RADIUS) else np.float32(0.0)
    second = share if low < np.float32(RADIUS) else np.float32(0.0)
    return np.int32(low), first, second


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _aim(offset, weight, base, scale, pitch, place, share):  # type: ignore[no-untyped-def]
    """Where the samples of a block lie, in pixels from their own in rows of `pitch`, and the weights of the four there.

    place: 16N.  share: 4x16N, of the pixel there, the next, the one below and the one below that.
    """
    for n in range(base.shape[0]):
        for s in range(SUBPIXELS):
            c = n * SUBPIXELS + s
            x, left, right = _axis(base[n, 0] + scale * offset[2 * n * SUBPIXELS + s])
            y, upper, lower = _axis(base[n, 1] + scale * offset[(2 * n + 1) * SUBPIXELS + s])
            place[c] = np.int32(y) * np.int32(pitch) + np.int32(x)
            upper *= weight[c]
            lower *= weight[c]
            share[0, c] = upper * left
            share[1, c] = upper * right
            share[2, c] = lower * left
            share[3, c] = lower * right


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _add_samples(flat, start, pitch, place, share, total):  # type: ignore[no-untyped-def]
    """Add to the sums of a block, whose first pixel is flat[start], what `_aim` says."""
    for n in range(place.shape[0] // SUBPIXELS):
        for s in range(SUBPIXELS):
            c = n * SUBPIXELS + s
            q = np.uint64(start + (s // STRIDE) * pitch + s % STRIDE + place[c])
            below = q + np.uint64(pitch)
            total[s] += share[0, c] * flat[q] + share[1, c] * flat[q + np.uint64(1)]
            total[s] += share[2, c] * flat[below] + share[3, c] * flat[below + np.uint64(1)]


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


@compiled(nogil=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _average(depth, gw, go, tw, to, guided, logits, residual, base, scale, finish, distance, out):  # type: ignore[no-untyped-def]
    """depth: (H + 2 MARGIN) x (W + 2 MARGIN).  Heads: hxwxC.  out: HxW, at most 4h x 4w.

    finish: strength, low, span, least, most, reach.  distance: HxW, or empty.
    """
    height, width = out.shape
    rows, columns = tw.shape[0], tw.shape[1]
    flat, pitch = depth.reshape(-1), depth.shape[1]
    strength, low, span, least, most, reach = finish
    bounded = distance.size > 0
    for row in numba.prange(rows):
        weight = np.empty(tw.shape[2], np.float32)
        offset = np.empty(to.shape[2], np.float32)
        total = np.empty(SUBPIXELS, np.float32)
        # In two steps, of which the first has no loads and becomes vector instructions: together, neither does.
        place = np.empty(tw.shape[2], np.int32)
        share = np.empty((4, tw.shape[2]), np.float32)
        for column in range(columns):
            _weights(gw[row, column], tw[row, column], guided, logits, weight)
            _products(go[row, column], to[row, column], guided, offset)
            _normalise(weight, residual)
            top, left = STRIDE * row + MARGIN, STRIDE * column + MARGIN
            for s in range(SUBPIXELS):
                total[s] = depth[top + s // STRIDE, left + s % STRIDE] if residual else np.float32(0.0)
            _aim(offset, weight, base, scale, pitch, place, share)
            _add_samples(flat, top * pitch + left, pitch, place, share, total)
            for s in range(SUBPIXELS):
                y_out, x_out = STRIDE * row + s // STRIDE, STRIDE * column + s % STRIDE
                if y_out < height and x_out < width:
                    centre = depth[top + s // STRIDE, left + s % STRIDE]
                    value = min(max(centre + strength * (total[s] - centre), least), most)
                    far = bounded and distance[y_out, x_out] > reach
                    out[y_out, x_out] = np.float32(np.nan) if far else low + span * value


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
    _average(padded, gw, go, tw, to, *forms, base, np.float32(scale), as_float32, distance, out)


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
