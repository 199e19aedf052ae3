"""The deformable average from the heads of both towers with its gradient, in Triton: for training on an NVIDIA GPU.

The forward pass is the kernel of `cuda`, for a batch; it keeps two numbers a pixel, those that take a look at all N
samples.  With them the backward pass, one more kernel, goes through the samples once: it makes the products and the
samples again and writes the gradients of the four heads.  The same equations as in `fused_gradient`, its sibling on
the CPU.  Heads and their gradients are float16, bfloat16 or float32; all arithmetic is float32 and nothing is a matrix
product, so that neither autocast nor TF32 has a say in it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkn_ros.sampling.cuda import BLOCKS, WARPS, _around, _average
from dkn_ros.sampling.fused import RADIUS, STRIDE, Finish, Heads


@triton.jit
def _backward(  # type: ignore[no-untyped-def,unused-ignore]
    depth, grad, kept, gw, go, tw, to, base, grad_gw, grad_go, grad_tw, grad_to,
    rows, columns, scale,
    COUNT: tl.constexpr, GUIDED: tl.constexpr, RESIDUAL: tl.constexpr, SIZE: tl.constexpr,
    RADIUS: tl.constexpr, STRIDE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """depth, grad (of the result): STRIDE rows x STRIDE columns.  kept: see `_average`.  Heads: channels last."""
    SUBPIXELS: tl.constexpr = STRIDE * STRIDE
    row = tl.program_id(1)
    p = tl.arange(0, BLOCKS * SUBPIXELS)
    column = tl.program_id(0) * BLOCKS + p // SUBPIXELS
    s = p % SUBPIXELS
    y = STRIDE * row + s // STRIDE
    x = STRIDE * column + s % STRIDE
    here = column < columns
    height = STRIDE * rows
    width = STRIDE * columns
    image = tl.program_id(2).to(tl.int64)
    first = (image * rows + row) * columns * (SUBPIXELS * COUNT)
    lane = column * (SUBPIXELS * COUNT) + s
    depth += image * height * width
    kept += 2 * image * height * width
    place = y * width + x
    g = tl.load(grad + image * height * width + place, mask=here, other=0.0)
    shift = tl.load(kept + place, mask=here, other=1.0)
    usual = tl.load(kept + height * width + place, mask=here, other=0.0)
    for n in tl.range(0, COUNT, loop_unroll_factor=SIZE):
        at = first + lane + n * SUBPIXELS
        across = 2 * first + column * (2 * SUBPIXELS * COUNT) + s + 2 * n * SUBPIXELS
        down = across + SUBPIXELS
        weight = tl.load(tw + at, mask=here, other=0.0).to(tl.float32)
        dx = tl.load(to + across, mask=here, other=0.0).to(tl.float32)
        dy = tl.load(to + down, mask=here, other=0.0).to(tl.float32)
        own_weight = weight
        own_dx = dx
        own_dy = dy
        if GUIDED:
            guiding = tl.load(gw + at, mask=here, other=0.0).to(tl.float32)
            guiding_dx = tl.load(go + across, mask=here, other=0.0).to(tl.float32)
            guiding_dy = tl.load(go + down, mask=here, other=0.0).to(tl.float32)
            weight *= guiding
            dx *= guiding_dx
            dy *= guiding_dy
        upper, lower, u, u1, left_in, right_in, top_in, bottom_in, right_share, lower_share = _around(
            depth, x, y, tl.load(base + 2 * n) + scale * dx, tl.load(base + 2 * n + 1) + scale * dy,
            here, height, width, rows, columns, RADIUS, STRIDE,
        )  # fmt: skip
        upper_left = tl.load(upper + u, mask=top_in & left_in, other=0.0)
        upper_right = tl.load(upper + u1, mask=top_in & right_in, other=0.0)
        lower_left = tl.load(lower + u, mask=bottom_in & left_in, other=0.0)
        lower_right = tl.load(lower + u1, mask=bottom_in & right_in, other=0.0)
        upper = upper_left + right_share * (upper_right - upper_left)
        lower = lower_left + right_share * (lower_right - lower_left)
        sample = upper + lower_share * (lower - upper)
        if RESIDUAL:
            along = g * (sample - usual)
            weight -= shift
        else:
            sign = tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0))
            along = g * (sample - sign * usual) / shift
            weight /= shift
        of_offset = g * weight * scale
        along_x = of_offset * (
            (upper_right - upper_left) + lower_share * ((lower_right - lower_left) - (upper_right - upper_left))
        )
        along_y = of_offset * (lower - upper)
        if GUIDED:
            tl.store(grad_gw + at, along * own_weight, mask=here)
            tl.store(grad_go + across, along_x * own_dx, mask=here)
            tl.store(grad_go + down, along_y * own_dy, mask=here)
            along *= guiding
            along_x *= guiding_dx
            along_y *= guiding_dy
        tl.store(grad_tw + at, along, mask=here)
        tl.store(grad_to + across, along_x, mask=here)
        tl.store(grad_to + down, along_y, mask=here)


@cache
def _unfinished(device: torch.device) -> Tensor:
    """The numbers of a `Finish` that leaves everything as it is."""
    return torch.tensor(Finish().numbers(), dtype=torch.float32, device=device)


class _AverageOfHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, depth: Tensor, residual: bool, base: Tensor, scale: float, guided: bool, *heads: Tensor
    ) -> Tensor:
        depth = depth.detach().float().contiguous()
        rows, columns = heads[-1].shape[-2:]
        count, batch = len(base), len(depth)
        laid = [head.detach().permute(0, 2, 3, 1).contiguous() for head in heads]
        out, kept = torch.empty_like(depth), depth.new_empty((batch, 2, *depth.shape[-2:]))
        with torch.cuda.device_of(depth):  # Triton launches on the current device
            _average[(triton.cdiv(columns, BLOCKS), rows, batch)](
                depth, *laid, base, depth, _unfinished(depth.device), out, kept,
                *depth.shape[-2:], rows, columns, scale,
                COUNT=count, GUIDED=guided, LOGITS=False, RESIDUAL=residual, BOUNDED=False, KEEP=True,
                SIZE=round(count**0.5), RADIUS=RADIUS, STRIDE=STRIDE, BLOCKS=BLOCKS, num_warps=WARPS,
            )  # fmt: skip
        ctx.save_for_backward(depth, kept, base, *laid)
        ctx.form = residual, scale, guided
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        depth, kept, base, *heads = ctx.saved_tensors
        residual, scale, guided = ctx.form
        found = [torch.empty_like(head) for head in heads[0 if guided else 2 :]]
        batch, rows, columns = heads[-1].shape[:3]
        count = len(base)
        with torch.cuda.device_of(depth):
            _backward[(triton.cdiv(columns, BLOCKS), rows, batch)](
                depth, grads[0].float().contiguous(), kept, *heads, base, *(found if guided else found * 2),
                rows, columns, scale,
                COUNT=count, GUIDED=guided, RESIDUAL=residual, SIZE=round(count**0.5),
                RADIUS=RADIUS, STRIDE=STRIDE, BLOCKS=BLOCKS, num_warps=WARPS,
            )  # fmt: skip
        made = [grad.permute(0, 3, 1, 2) for grad in found]
        return (None,) * 5 + (() if guided else (None, None)) + tuple(made)


def differentiable_average_of_heads(
    depth: Tensor, guidance: Heads | None, target: Heads, residual: bool, base: Tensor, scale: float
) -> Tensor:
    """What `fused_gradient.differentiable_average_of_heads` does, with tensors of one CUDA device; nothing waits.

    base: Nx2 float32 on the device.  Raises ValueError if depth wants a gradient.
    """
    if depth.requires_grad:
        raise ValueError("depth requires a gradient; wanted: a constant depth, or sampling.reference in its place")
    heads = (*(guidance or target), *target)
    result: Tensor = _AverageOfHeads.apply(depth, residual, base, scale, guidance is not None, *heads)
    return result
