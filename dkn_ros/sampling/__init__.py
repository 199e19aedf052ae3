"""The one operation of the deformable kernel networks, and the choice of its form.

    f(p) = sum over q of  K_pq  d(p + q + offset_pq)            (equations 3 and 4 of arXiv 1910.08373)

`reference` is plain PyTorch and defines the meaning, `cpu` is compiled by numba; both are differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dkn_ros.sampling import reference

__all__ = ["WINDOW", "deformable_average"]

WINDOW = 15
"""Side of the square window that a pixel's samples are taken from (section 3.2.2 of the paper)."""


def deformable_average(depth: Tensor, weight: Tensor, offset: Tensor, window: int = WINDOW) -> Tensor:
    """Weighted average of k x k bilinear samples around every pixel.

    depth: Bx1xHxW.
    weight: BxNxHxW with N = k * k; kernel element n = k a + b stands for the neighbour (x, y) = (a - k//2, b - k//2).
    offset: Bx2NxHxW in pixels; channels 2n and 2n + 1 move sample n in x and in y.
    window: odd; a sample is bilinear in the `window` x `window` pixels around p, and everything outside that window or
        outside the image is 0, so a sample half a pixel beyond the edge counts half.
    Returns Bx1xHxW in depth's type.  NaN in depth is not allowed.
    Raises ValueError for shapes that do not fit.
    """
    batch, channels, height, width = depth.shape
    count = weight.shape[1]
    size = round(count**0.5)
    if channels != 1 or size * size != count or size % 2 == 0 or window % 2 == 0:
        raise ValueError(
            f"depth {tuple(depth.shape)}, weight {tuple(weight.shape)}, window {window}; "
            "wanted: depth Bx1xHxW, weight BxNxHxW with N the square of an odd number, an odd window"
        )
    if weight.shape != (batch, count, height, width) or offset.shape != (batch, 2 * count, height, width):
        raise ValueError(
            f"depth {tuple(depth.shape)}, weight {tuple(weight.shape)}, offset {tuple(offset.shape)}; "
            "wanted: BxNxHxW weights and Bx2NxHxW offsets of the depth's size"
        )
    if depth.device.type == "cpu" and all(t.dtype == torch.float32 for t in (depth, weight, offset)):
        from dkn_ros.sampling import cpu  # numba loads LLVM: only for those who use it

        return cpu.deformable_average(depth, weight, offset, window)
    return reference.deformable_average(depth, weight, offset, window)
