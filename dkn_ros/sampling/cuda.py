"""The deformable average straight from the heads of both towers, as one Triton kernel: inference on an NVIDIA GPU.

The same meaning as `fused`, which does this on the CPU: one pass reads the heads as the towers leave them and writes
depth; the 27 numbers a pixel that lie between stay in registers.  Heads are read in float16, bfloat16 or float32, all
arithmetic is float32.

Layout: one thread a pixel, the 16 pixels of a 4 x 4 block beside each other, and so two blocks of one row a warp.  The
towers work channels last, in which the 16 numbers that a block has of one kernel element follow each other in memory:
32 bytes in the half types, which is what a GPU reads at a time, so that nothing is read that is not used.  Channels
first, a warp would read from 16 planes.

`import triton` may fail: it comes with PyTorch's CUDA builds for Linux and with no other.  Only Triton's builtins are
called here, and functions of this file: what its library has in Triton itself (zeros, sigmoid) its interpreter cannot
run if it is chosen late.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkn_ros.sampling.fused import RADIUS, STRIDE, Finish, Heads

BLOCKS = 8
"""Blocks of 4 x 4 pixels of one row that a program works on: 128 pixels, one a thread.  Not measured yet."""
WARPS = 4


@triton.jit
def _around(  # type: ignore[no-untyped-def,unused-ignore]
    depth, x, y, dx, dy, here, height, width, rows, columns, RADIUS: tl.constexpr, STRIDE: tl.constexpr
):  # fmt: skip
    """Where the four pixels around (x + dx, y + dy) are, which count, and the shares of the right and the lower ones.

    Callers load them: a load in here would keep all four for longer, which takes 40 registers on sm_90, not 32.
    """
    # NaN and infinity fail the test and become a place all of whose neighbours are outside of the window.
    dx = tl.where(tl.abs(dx) < RADIUS + 1, dx, RADIUS + 1.0)
    dy = tl.where(tl.abs(dy) < RADIUS + 1, dy, RADIUS + 1.0)
    left = tl.floor(dx)
    top = tl.floor(dy)
    right_share = dx - left
    lower_share = dy - top
    left_in = (left >= -RADIUS) & (left <= RADIUS)
    right_in = left < RADIUS
    top_in = (top >= -RADIUS) & (top <= RADIUS)
    bottom_in = top < RADIUS
    u = x + left.to(tl.int32)
    v = y + top.to(tl.int32)
    left_in = left_in & here & (u >= 0) & (u < STRIDE * columns)
    right_in = right_in & here & (u >= -1) & (u < STRIDE * columns - 1)
    top_in = top_in & (v >= 0) & (v < STRIDE * rows)
    bottom_in = bottom_in & (v >= -1) & (v < STRIDE * rows - 1)
    # Up to whole blocks the image goes on as it ends.
    upper = depth + tl.minimum(v, height - 1) * width
    lower = depth + tl.minimum(v + 1, height - 1) * width
    u1 = tl.minimum(u + 1, width - 1)
    u = tl.minimum(u, width - 1)
    return upper, lower, u, u1, left_in, right_in, top_in, bottom_in, right_share, lower_share


@triton.jit
def _average(  # type: ignore[no-untyped-def,unused-ignore]
    depth, gw, go, tw, to, base, distance, finish, out, kept,
    height, width, rows, columns, scale,
    COUNT: tl.constexpr, GUIDED: tl.constexpr, LOGITS: tl.constexpr, RESIDUAL: tl.constexpr, BOUNDED: tl.constexpr,
    KEEP: tl.constexpr, SIZE: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """depth, distance, out: height x width.  Heads: rows x columns x channels.  base: COUNT x 2.

    finish: strength, low, span, least, most, reach.
    KEEP: for training: a third axis of the grid counts images, of all but `distance`, and `kept`, 2 x height x width,
    gets what `cuda_gradient` needs of the sums: by how much weights are made less, or what they are divided by, and
    the mean of the samples, or their average.
    """
    SUBPIXELS: tl.constexpr = STRIDE * STRIDE
    row = tl.program_id(1)
    p = tl.arange(0, BLOCKS * SUBPIXELS)
    column = tl.program_id(0) * BLOCKS + p // SUBPIXELS
    s = p % SUBPIXELS
    y = STRIDE * row + s // STRIDE
    x = STRIDE * column + s % STRIDE
    here = column < columns
    # Where a row of blocks or an image begins may exceed 32 bits; what is counted from there does not.
    first = row.to(tl.int64) * columns * (SUBPIXELS * COUNT)
    if KEEP:
        image = tl.program_id(2).to(tl.int64)
        first += image * rows * columns * (SUBPIXELS * COUNT)
        depth += image * height * width
        out += image * height * width
        kept += 2 * image * height * width
    lane = column * (SUBPIXELS * COUNT) + s
    centre = tl.load(depth + tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1), mask=here, other=0.0)
    weighted = tl.full(p.shape, 0.0, tl.float32)
    weights = tl.full(p.shape, 0.0, tl.float32)
    samples = tl.full(p.shape, 0.0, tl.float32)
    # Unrolled by a row of the kernel it compiles to 32 to 40 registers (sm_80 to sm_120, k = 3), unrolled whole to 64
    # to 72, with which a GPU holds half as many warps.
    for n in tl.range(0, COUNT, loop_unroll_factor=SIZE):
        at = lane + n * SUBPIXELS
        across = column * (2 * SUBPIXELS * COUNT) + s + 2 * n * SUBPIXELS
        weight = tl.load(tw + first + at, mask=here, other=0.0).to(tl.float32)
        dx = tl.load(to + 2 * first + across, mask=here, other=0.0).to(tl.float32)
        dy = tl.load(to + 2 * first + across + SUBPIXELS, mask=here, other=0.0).to(tl.float32)
        if GUIDED:
            guiding = tl.load(gw + first + at, mask=here, other=0.0).to(tl.float32)
            dx *= tl.load(go + 2 * first + across, mask=here, other=0.0).to(tl.float32)
            dy *= tl.load(go + 2 * first + across + SUBPIXELS, mask=here, other=0.0).to(tl.float32)
            if LOGITS:  # both sigmoids in one division; neither factor is below 1, so infinity gives 0
                weight = 1.0 / ((1.0 + tl.exp(-weight)) * (1.0 + tl.exp(-guiding)))
            else:
                weight *= guiding
        elif LOGITS:
            weight = 1.0 / (1.0 + tl.exp(-weight))
        dx = tl.load(base + 2 * n) + scale * dx
        dy = tl.load(base + 2 * n + 1) + scale * dy
        upper, lower, u, u1, left_in, right_in, top_in, bottom_in, right_share, lower_share = _around(
            depth, x, y, dx, dy, here, height, width, rows, columns, RADIUS, STRIDE
        )
        sample = (1.0 - lower_share) * (
            (1.0 - right_share) * tl.load(upper + u, mask=top_in & left_in, other=0.0)
            + right_share * tl.load(upper + u1, mask=top_in & right_in, other=0.0)
        ) + lower_share * (
            (1.0 - right_share) * tl.load(lower + u, mask=bottom_in & left_in, other=0.0)
            + right_share * tl.load(lower + u1, mask=bottom_in & right_in, other=0.0)
        )
        weighted += weight * sample
        weights += weight if RESIDUAL else tl.abs(weight)
        samples += sample
    # The sum of (weight - mean) * sample, or of weight / sum * sample, without a second look at the weights.
    shift = weights / COUNT if RESIDUAL else tl.maximum(weights, 1e-12)
    total = centre + (weighted - shift * samples) if RESIDUAL else weighted / shift
    strength = tl.load(finish)
    low = tl.load(finish + 1)
    span = tl.load(finish + 2)
    least = tl.load(finish + 3)
    most = tl.load(finish + 4)
    value = centre + strength * (total - centre)
    value = tl.where(value < least, least, value)
    value = low + span * tl.where(value > most, most, value)
    inside = here & (y < height) & (x < width)
    place = y * width + x
    if KEEP:
        tl.store(kept + place, shift, mask=inside)
        tl.store(kept + height * width + place, samples / COUNT if RESIDUAL else total, mask=inside)
    if BOUNDED:
        away = tl.load(distance + place, mask=inside, other=0.0)
        value = tl.where(away > tl.load(finish + 5), float("nan"), value)
    tl.store(out + place, value, mask=inside)


def average_of_heads(
    depth: Tensor,
    guidance: Heads | None,
    target: Heads,
    residual: bool,
    base: Tensor,
    scale: float,
    out: Tensor,
    finish: Finish | None = None,
    distance: Tensor | None = None,
    logits: bool = False,
) -> None:
    """What `fused.average_of_heads` does, with tensors of one CUDA device; on the current stream, nothing waits.

    depth: HxW float32, contiguous, at most the heads' 4h x 4w; beyond its right and lower border it goes on as it ends.
    guidance: None for the depth-only form.  base: Nx2 float32, x and y of each kernel element before its offset.
    scale: of the offsets.  out: HxW float32, contiguous.
    distance: HxW float32, contiguous, what stands in for `finish.distance`; without it everything is within reach.
    logits: the heads' weights are still to go through the sigmoid.
    """
    finish = finish or Finish()
    finish_numbers = torch.tensor(finish.numbers(), dtype=torch.float32).to(depth.device, non_blocking=True)
    with torch.cuda.device_of(depth):  # Triton launches on the current device
        launch(depth, guidance, target, residual, base, scale, out, finish_numbers, distance, logits)


def launch(
    depth: Tensor,
    guidance: Heads | None,
    target: Heads,
    residual: bool,
    base: Tensor,
    scale: float,
    out: Tensor,
    finish: Tensor,
    distance: Tensor | None,
    logits: bool,
) -> None:
    """`average_of_heads` with `Finish.numbers` on the device already, as a CUDA graph needs them."""
    height, width = out.shape
    rows, columns = target[0].shape[-2:]
    count = base.shape[0]
    gw, go, tw, to = (head.permute(1, 2, 0).contiguous() for head in (*(guidance or target), *target))
    _average[(triton.cdiv(columns, BLOCKS), rows)](
        depth, gw, go, tw, to, base, depth if distance is None else distance, finish, out, out,
        height, width, rows, columns, scale,
        COUNT=count, GUIDED=guidance is not None, LOGITS=logits, RESIDUAL=residual, BOUNDED=distance is not None,
        KEEP=False, SIZE=round(count**0.5), RADIUS=RADIUS, STRIDE=STRIDE, BLOCKS=BLOCKS, num_warps=WARPS,
    )  # fmt: skip
