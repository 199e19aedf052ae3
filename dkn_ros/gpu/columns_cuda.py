"""The lowest of the parabolas of a row at every pixel of it, as a Triton kernel; see `holes`.

Every pixel looks to both sides at once, a step farther each time, until no pixel of its block can find a lower one:
where holes are narrow that is after a few steps.  Only Triton's builtins are called, see `sampling.cuda`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
"""Pixels of a row that a program works on, one a thread.  Not measured yet."""
STEPS = 8
"""Between two looks at what the block has found."""
NONE = 1 << 30


@triton.jit
def _larger(a, b):  # type: ignore[no-untyped-def,unused-ignore]
    return tl.where(a > b, a, b)


@triton.jit
def _lowest(  # type: ignore[no-untyped-def,unused-ignore]
    least, out, width, NONE: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr
):
    """least, out: height x width."""
    first = tl.program_id(1).to(tl.int64) * width
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = x < width
    best = tl.load(least + first + x, mask=here, other=0)
    column = x
    away = 1
    highest = tl.reduce(best, 0, _larger)
    while (away < width) & (away * away <= highest):
        for _ in range(STEPS):
            left = x - away
            cost = tl.load(least + first + left, mask=here & (left >= 0), other=NONE) + away * away
            lower = here & ((cost < best) | ((cost == best) & (left < column)))
            best = tl.where(lower, cost, best)
            column = tl.where(lower, left, column)
            right = x + away
            cost = tl.load(least + first + right, mask=right < width, other=NONE) + away * away
            lower = here & (cost < best)
            best = tl.where(lower, cost, best)
            column = tl.where(lower, right, column)
            away += 1
        highest = tl.reduce(best, 0, _larger)
    tl.store(out + first + x, column.to(tl.int64), mask=here)


def lowest(least: Tensor) -> Tensor:
    """For every x of a row the column c for which (x - c)^2 + least[c] is lowest, the leftmost of those as low.

    least: HxW, int32, at most 2^29 (`holes.Nearest` makes no larger ones of sides up to 4096).  Returns HxW int64.
    """
    height, width = least.shape
    out = torch.empty(least.shape, dtype=torch.int64, device=least.device)
    with torch.cuda.device_of(least):  # Triton launches on the current device
        _lowest[(triton.cdiv(width, BLOCK), height)](
            least.contiguous(), out, width, NONE=NONE, BLOCK=BLOCK, STEPS=STEPS
        )
    return out
