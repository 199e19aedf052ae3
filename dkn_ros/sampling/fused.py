"""The deformable average straight from the heads of both towers, compiled by numba for the CPU: inference only.

`models.fdkn` multiplies heads, shuffles sub-pixels into place, takes means off and samples, each a pass over 27
numbers a pixel.  Here one pass reads the heads as the towers leave them, channels last, float32 or bfloat16, and
writes depth.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor

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


@intrinsic
def _from_bfloat16(_context, bits):  # type: ignore[no-untyped-def]
    """float32 from the 16 bits of a bfloat16: the upper half of the same number."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        wide = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), build


def _number(value: Any) -> Any:
    """A head's value as float32, whichever type it is stored in."""
    raise TypeError("a head holds float32 or bfloat16")  # compiled code takes one of the forms below


@overload(_number, inline="always")
def _(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: _from_bfloat16(value)  # type: ignore[call-arg]
    return lambda value: value


@compiled(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _kernels(guidance, target, guided, block):  # type: ignore[no-untyped-def]
    """Products of the heads of one 4 x 4 block, or the target's alone; C numbers each."""
    if guided:
        for c in range(block.shape[0]):
            block[c] = _number(guidance[c]) * _number(target[c])
    else:
        for c in range(block.shape[0]):
            block[c] = _number(target[c])


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


@compiled(nogil=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _average(depth, gw, go, tw, to, guided, residual, base, scale, out):  # type: ignore[no-untyped-def]
    """depth: (H + 2 MARGIN) x (W + 2 MARGIN).  Heads: hxwxC.  out: HxW, at most 4h x 4w."""
    height, width = out.shape
    rows, columns = tw.shape[0], tw.shape[1]
    count = base.shape[0]
    for row in numba.prange(rows):
        weight = np.empty(tw.shape[2], np.float32)
        offset = np.empty(to.shape[2], np.float32)
        total = np.empty(SUBPIXELS, np.float32)
        for column in range(columns):
            _kernels(gw[row, column], tw[row, column], guided, weight)
            _kernels(go[row, column], to[row, column], guided, offset)
            _normalise(weight, residual)
            top, left = STRIDE * row + MARGIN, STRIDE * column + MARGIN
            for s in range(SUBPIXELS):
                total[s] = depth[top + s // STRIDE, left + s % STRIDE] if residual else np.float32(0.0)
            for n in range(count):
                for s in range(SUBPIXELS):
                    dx = base[n, 0] + scale * offset[2 * n * SUBPIXELS + s]
                    dy = base[n, 1] + scale * offset[(2 * n + 1) * SUBPIXELS + s]
                    x, left_share, right_share = _axis(dx)
                    y, upper_share, lower_share = _axis(dy)
                    u = np.uint64(left + s % STRIDE + x)
                    v = np.uint64(top + s // STRIDE + y)
                    upper = left_share * depth[v, u] + right_share * depth[v, u + np.uint64(1)]
                    lower = (
                        left_share * depth[v + np.uint64(1), u]
                        + right_share * depth[v + np.uint64(1), u + np.uint64(1)]
                    )
                    total[s] += weight[n * SUBPIXELS + s] * (upper_share * upper + lower_share * lower)
            for s in range(SUBPIXELS):
                y_out, x_out = STRIDE * row + s // STRIDE, STRIDE * column + s % STRIDE
                if y_out < height and x_out < width:
                    out[y_out, x_out] = total[s]


def average_of_heads(
    depth: Array, guidance: Heads | None, target: Heads, residual: bool, base: Array, scale: float, out: Array
) -> None:
    """What `FDKN.kernels` and `FDKN.average` make of the heads, written into `out`.

    depth: HxW.  guidance: None for the depth-only form.  base: Nx2, x and y of each kernel element before its offset.
    scale: of the offsets.  out: HxW.
    """
    height, width = depth.shape
    rows, columns = target[0].shape[-2:]
    padded = np.zeros((STRIDE * rows + 2 * MARGIN, STRIDE * columns + 2 * MARGIN), np.float32)
    padded[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = depth
    gw, go, tw, to = (_channels_last(head) for head in (*(guidance or target), *target))
    _average(padded, gw, go, tw, to, guidance is not None, residual, base, np.float32(scale), out)


def _channels_last(head: Tensor) -> NDArray[Any]:
    """Cxhxw as hxwxC without a copy where the tower works in that layout; bfloat16 as its bits."""
    last = head.permute(1, 2, 0).contiguous()
    if last.dtype == torch.bfloat16:
        return last.view(torch.uint16).numpy()
    return last.float().numpy()
