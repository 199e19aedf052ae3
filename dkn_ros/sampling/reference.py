"""The deformable weighted average in plain PyTorch: the definition that the fast forms are tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def deformable_average(depth: Tensor, weight: Tensor, offset: Tensor, window: int) -> Tensor:
    """See `dkn_ros.sampling.deformable_average`; differentiable in all three tensors, any device.

    One sample of the k x k kernel is handled at a time, so memory is a few images a sample and not the window's 225.
    """
    batch, _, height, width = depth.shape
    count = weight.shape[1]
    size = round(count**0.5)
    centre, radius = size // 2, window // 2
    rows = torch.arange(height, device=depth.device).view(1, height, 1)
    columns = torch.arange(width, device=depth.device).view(1, 1, width)
    flat = depth.reshape(batch, height * width)

    total = torch.zeros_like(depth[:, 0])
    for q in range(count):
        # Position of the sample relative to its pixel p: the regular neighbour q plus its learned offset.
        dy = offset[:, 2 * q + 1] + (q % size - centre)
        dx = offset[:, 2 * q] + (q // size - centre)
        top, left = torch.floor(dy), torch.floor(dx)
        fy, fx = dy - top, dx - left
        for corner_y, share_y in ((top, 1 - fy), (top + 1, fy)):
            for corner_x, share_x in ((left, 1 - fx), (left + 1, fx)):
                in_window = (corner_y.abs() <= radius) & (corner_x.abs() <= radius)
                # Clamped before the conversion: a wild offset must not overflow the integer.
                y = corner_y.clamp(-radius - 1, radius + 1).long() + rows
                x = corner_x.clamp(-radius - 1, radius + 1).long() + columns
                inside = in_window & (y >= 0) & (y < height) & (x >= 0) & (x < width)
                index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).view(batch, -1)
                value = flat.gather(1, index).view(batch, height, width)
                share = torch.where(inside, share_y * share_x, 0.0)
                total = total + weight[:, q] * share * value
    return total[:, None].to(depth.dtype)
