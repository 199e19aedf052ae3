"""The deformable weighted average as the authors' published code takes it: to be measured against, not to be used.

It cuts the whole `window` x `window` patch out around every pixel (`F.unfold`), copies the patches into a batch of one
a pixel, lets `F.grid_sample` read k x k places of each and multiplies by the weights (`torch.bmm`).  At 15 x 15 every
pixel of depth is written 225 times, and as often again by the copy, to read at most 36 of them (k = 3): the time goes
into moving memory, 1.8 kB a pixel.  The copy, which their code makes and which could be left out, is half of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_average(depth: Tensor, weight: Tensor, offset: Tensor, window: int) -> Tensor:
    """See `dkn_ros.sampling.deformable_average`; any device, differentiable in all three tensors."""
    batch, _, height, width = depth.shape
    count, pixels = weight.shape[1], batch * height * width
    size = round(count**0.5)
    n = torch.arange(count, device=depth.device)
    neighbours = torch.stack((n // size, n % size), dim=1) - size // 2  # x, y of the regular kernel
    coordinates = offset.permute(0, 2, 3, 1).contiguous().view(pixels, size, size, 2) + neighbours.view(size, size, 2)
    coordinates = coordinates / (window // 2)  # -1 and 1 are the centres of the patch's outermost pixels
    weights = weight.permute(0, 2, 3, 1).contiguous().view(pixels, count, 1)
    columns = F.unfold(depth, window, padding=window // 2).permute(0, 2, 1).contiguous()
    patches = columns.view(pixels, 1, window, window)
    # cuDNN's sampler, which PyTorch would take on a GPU, ends at a batch of 65,535 (pytorch 88380).
    with torch.backends.cudnn.flags(enabled=False):
        samples = F.grid_sample(patches, coordinates, mode="bilinear", padding_mode="zeros", align_corners=True)
    return torch.bmm(samples.view(pixels, 1, count), weights).view(batch, 1, height, width)


def bytes_needed(pixels: int, count: int, window: int) -> int:
    """About what `deformable_average` of float32 takes at its peak beyond its arguments; count: samples a pixel."""
    patches, coordinates_and_weights = 2 * window**2, 3 * count
    return 4 * pixels * (patches + coordinates_and_weights)
