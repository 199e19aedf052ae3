"""The deformable weighted average on the CPU, compiled by numba: forward and backward, one pass over the image each."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]

# Without "nnan" and "ninf": a NaN or infinite offset must fail the window test below, not index the image.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@numba.njit(parallel=True, cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _forward(depth: Array, weight: Array, offset: Array, radius: int, out: Array) -> None:
    batch, height, width = depth.shape
    count = weight.shape[1]
    size = int(round(count**0.5))
    centre = size // 2
    zero = np.float32(0.0)
    one = np.float32(1.0)
    limit = np.float32(radius + 1)
    for row in numba.prange(batch * height):
        b = row // height
        y = row % height
        for x in range(width):
            out[b, y, x] = zero
        for q in range(count):
            ox = np.float32(q // size - centre)
            oy = np.float32(q % size - centre)
            for x in range(width):
                dx = offset[b, 2 * q, y, x] + ox
                dy = offset[b, 2 * q + 1, y, x] + oy
                if not (abs(dx) < limit and abs(dy) < limit):
                    continue  # the whole footprint lies outside the window
                left = int(np.floor(dx))
                top = int(np.floor(dy))
                fx = dx - np.float32(left)
                fy = dy - np.float32(top)
                y0 = y + top
                x0 = x + left
                # A corner takes part if it is inside the window and inside the image.
                top_in = top >= -radius and y0 >= 0 and y0 < height
                bottom_in = top < radius and y0 + 1 >= 0 and y0 + 1 < height
                left_in = left >= -radius and x0 >= 0 and x0 < width
                right_in = left < radius and x0 + 1 >= 0 and x0 + 1 < width
                value = zero
                if top_in:
                    if left_in:
                        value += (one - fy) * (one - fx) * depth[b, y0, x0]
                    if right_in:
                        value += (one - fy) * fx * depth[b, y0, x0 + 1]
                if bottom_in:
                    if left_in:
                        value += fy * (one - fx) * depth[b, y0 + 1, x0]
                    if right_in:
                        value += fy * fx * depth[b, y0 + 1, x0 + 1]
                out[b, y, x] += weight[b, q, y, x] * value


@numba.njit(parallel=True, cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _backward(
    depth: Array, weight: Array, offset: Array, radius: int, grad: Array, grad_weight: Array, grad_offset: Array
) -> None:
    batch, height, width = depth.shape
    count = weight.shape[1]
    size = int(round(count**0.5))
    centre = size // 2
    zero = np.float32(0.0)
    one = np.float32(1.0)
    limit = np.float32(radius + 1)
    for row in numba.prange(batch * height):
        b = row // height
        y = row % height
        for q in range(count):
            ox = np.float32(q // size - centre)
            oy = np.float32(q % size - centre)
            for x in range(width):
                dx = offset[b, 2 * q, y, x] + ox
                dy = offset[b, 2 * q + 1, y, x] + oy
                d00 = d01 = d10 = d11 = fx = fy = zero
                if abs(dx) < limit and abs(dy) < limit:
                    left = int(np.floor(dx))
                    top = int(np.floor(dy))
                    fx = dx - np.float32(left)
                    fy = dy - np.float32(top)
                    y0 = y + top
                    x0 = x + left
                    top_in = top >= -radius and y0 >= 0 and y0 < height
                    bottom_in = top < radius and y0 + 1 >= 0 and y0 + 1 < height
                    left_in = left >= -radius and x0 >= 0 and x0 < width
                    right_in = left < radius and x0 + 1 >= 0 and x0 + 1 < width
                    if top_in and left_in:
                        d00 = depth[b, y0, x0]
                    if top_in and right_in:
                        d01 = depth[b, y0, x0 + 1]
                    if bottom_in and left_in:
                        d10 = depth[b, y0 + 1, x0]
                    if bottom_in and right_in:
                        d11 = depth[b, y0 + 1, x0 + 1]
                g = grad[b, y, x]
                gw = g * weight[b, q, y, x]
                upper = (one - fx) * d00 + fx * d01
                lower = (one - fx) * d10 + fx * d11
                grad_weight[b, q, y, x] = g * ((one - fy) * upper + fy * lower)
                grad_offset[b, 2 * q, y, x] = gw * ((one - fy) * (d01 - d00) + fy * (d11 - d10))
                grad_offset[b, 2 * q + 1, y, x] = gw * (lower - upper)


class _DeformableAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, depth: Tensor, weight: Tensor, offset: Tensor, window: int) -> Tensor:
        depth, weight, offset = depth.contiguous(), weight.contiguous(), offset.contiguous()
        out = torch.empty_like(depth)
        _forward(_array(depth)[:, 0], _array(weight), _array(offset), window // 2, _array(out)[:, 0])
        ctx.save_for_backward(depth, weight, offset)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        depth, weight, offset = ctx.saved_tensors
        grad_weight, grad_offset = torch.empty_like(weight), torch.empty_like(offset)
        grad = _array(grads[0].contiguous())[:, 0]
        inputs = _array(depth)[:, 0], _array(weight), _array(offset)
        _backward(*inputs, ctx.window // 2, grad, _array(grad_weight), _array(grad_offset))
        return None, grad_weight, grad_offset, None


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array


def deformable_average(depth: Tensor, weight: Tensor, offset: Tensor, window: int) -> Tensor:
    """See `dkn_ros.sampling.deformable_average`; float32 on the CPU, differentiable in weight and offset.

    Raises ValueError if depth wants a gradient: no network of this package has parameters behind its depth input.
    """
    if depth.requires_grad and torch.is_grad_enabled():
        raise ValueError("depth requires a gradient; wanted: a constant depth, or sampling.reference in its place")
    result: Tensor = _DeformableAverage.apply(depth, weight, offset, window)
    return result
