"""The deformable weighted average on the CPU, compiled by numba: forward and backward, one pass over the image each."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.compiled import compiled

Array = NDArray[np.float32]

# Without "nnan" and "ninf": a NaN or infinite offset must fail the window test below, not index the image.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@compiled(fastmath=_FAST, nogil=True, error_model="numpy", inline="always")
def _footprint(image: Array, y: int, x: int, dy: Any, dx: Any, radius: int) -> Any:
    """The four pixels around (y + dy, x + dx) and where between them it lies: f_y, f_x, d00, d01, d10, d11.

    A pixel outside the window of `radius` around (y, x) or outside the image is 0.
    """
    zero = np.float32(0.0)
    height, width = image.shape
    d00 = d01 = d10 = d11 = fy = fx = zero
    limit = np.float32(radius + 1)
    if abs(dx) < limit and abs(dy) < limit:  # false for NaN too
        top, left = int(np.floor(dy)), int(np.floor(dx))
        fy, fx = dy - np.float32(top), dx - np.float32(left)
        y0, x0 = y + top, x + left
        top_in = top >= -radius and y0 >= 0 and y0 < height
        bottom_in = top < radius and y0 + 1 >= 0 and y0 + 1 < height
        left_in = left >= -radius and x0 >= 0 and x0 < width
        right_in = left < radius and x0 + 1 >= 0 and x0 + 1 < width
        if top_in and left_in:
            d00 = image[y0, x0]
        if top_in and right_in:
            d01 = image[y0, x0 + 1]
        if bottom_in and left_in:
            d10 = image[y0 + 1, x0]
        if bottom_in and right_in:
            d11 = image[y0 + 1, x0 + 1]
    return fy, fx, d00, d01, d10, d11


@compiled(parallel=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _forward(depth: Array, weight: Array, offset: Array, radius: int, out: Array) -> None:
    batch, height, width = depth.shape
    count = weight.shape[1]
    size = int(round(count**0.5))
    one = np.float32(1.0)
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        for x in range(width):
            out[b, y, x] = np.float32(0.0)
        for q in range(count):
            ox, oy = np.float32(q // size - size // 2), np.float32(q % size - size // 2)
            for x in range(width):
                dx, dy = offset[b, 2 * q, y, x] + ox, offset[b, 2 * q + 1, y, x] + oy
                fy, fx, d00, d01, d10, d11 = _footprint(depth[b], y, x, dy, dx, radius)
                upper, lower = (one - fx) * d00 + fx * d01, (one - fx) * d10 + fx * d11
                out[b, y, x] += weight[b, q, y, x] * ((one - fy) * upper + fy * lower)


@compiled(parallel=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _backward(
    depth: Array, weight: Array, offset: Array, radius: int, grad: Array, grad_weight: Array, grad_offset: Array
) -> None:
    batch, height, width = depth.shape
    count = weight.shape[1]
    size = int(round(count**0.5))
    one = np.float32(1.0)
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        for q in range(count):
            ox, oy = np.float32(q // size - size // 2), np.float32(q % size - size // 2)
            for x in range(width):
                dx, dy = offset[b, 2 * q, y, x] + ox, offset[b, 2 * q + 1, y, x] + oy
                fy, fx, d00, d01, d10, d11 = _footprint(depth[b], y, x, dy, dx, radius)
                upper, lower = (one - fx) * d00 + fx * d01, (one - fx) * d10 + fx * d11
                g = grad[b, y, x]
                along = g * weight[b, q, y, x]
                grad_weight[b, q, y, x] = g * ((one - fy) * upper + fy * lower)
                grad_offset[b, 2 * q, y, x] = along * ((one - fy) * (d01 - d00) + fy * (d11 - d10))
                grad_offset[b, 2 * q + 1, y, x] = along * (lower - upper)


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
