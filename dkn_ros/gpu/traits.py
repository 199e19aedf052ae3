"""What a depth image tells of the camera that made it, on the device; see `dkn_ros.traits`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dkn_ros.traits import (
    ENOUGH_EDGES,
    FLAT,
    FULL_NOISE,
    LEAST_OVER_NOISE,
    MEANS_TELL,
    MIDDLE,
    NOISY,
    QUIET,
    SAMPLES,
    SMALLEST_STEP,
    most_told,
)


class Traits(NamedTuple):
    """`traits.Traits` as tensors without dimensions."""

    antialiased: Tensor
    noise: Tensor
    aligned: Tensor

    def trust(self, ratio: float) -> Tensor:
        """See `traits.Traits.trust`."""
        coarse = max(1.0, (ratio / 2) ** 0.5)
        return self.antialiased * ((NOISY - self.noise / coarse) / (NOISY - QUIET)).clamp(0, 1)

    def encoded(self) -> Tensor:
        """See `traits.Traits.encoded`."""
        noise = torch.log2(1 + 1000 * self.noise) / FULL_NOISE
        return torch.stack((self.antialiased, noise.clamp(max=1), self.aligned))


def traits_of(edges: Edges, ratio: float, noise: Tensor, aligned: Tensor) -> Traits:
    """See `traits.traits_of`.  edges: of the depth.  noise: in parts of its range.  aligned: of this grid."""
    means = edges.antialiased(ratio)
    share = 1 - MEANS_TELL * (2 * means - 1).clamp(min=0)
    return Traits(means, noise, aligned.clamp(max=most_told(ratio)) * share)


class Edges(NamedTuple):
    """How many edges an image has, numbers without dimensions."""

    between: Tensor
    """With a pixel between both sides."""
    clear: Tensor
    """Without one; a clear step is seen from both of its sides and counts twice."""

    def antialiased(self, ratio: float) -> Tensor:
        """See `traits.antialiased`; no dimensions."""
        count = self.between + self.clear / 2
        known = min(1.0, max(0.0, (math.log2(max(ratio, 1.0)) - 0.4) / 0.6))
        sure = (count / ENOUGH_EDGES).clamp(max=1) * known
        # Without an edge 0 / 0 would be NaN: and `sure` is 0, of which the answer is 0.5.
        return torch.sigmoid(18 * sure * (self.between / count.clamp(min=0.5) - MIDDLE))


def noise(depth: Tensor) -> Tensor:
    """`traits.noise`, no dimensions."""
    step = max(1, round((depth.numel() / SAMPLES) ** 0.5))
    if min(depth.shape) < 3:
        return depth.new_zeros(())
    above, below, centre = (depth[y : y + len(depth) - 2 : step] for y in (0, 2, 1))
    left, right, middle = (slice(x, x + depth.shape[1] - 2, step) for x in (0, 2, 1))
    around = above[:, middle] + below[:, middle] + centre[:, left] + centre[:, right]
    ordered = torch.sub(around, centre[:, middle], alpha=4).abs().flatten().sort().values  # NaN come last
    known = (ordered == ordered).sum()
    # Without one the first is NaN.
    places = torch.stack((known - 1, known)).clamp(min=0).div(2, rounding_mode="floor")
    return ordered.gather(0, places).mean().nan_to_num(0.0) / (0.6745 * 20**0.5)


def edges(depth: Tensor, deviation: Tensor) -> Edges:
    """The edges along rows and columns of a depth image (hxw, NaN invalid) beyond noise of a standard deviation."""
    images = [image for image in (depth, depth.T.contiguous()) if len(image) > 4]
    if not images:
        return Edges(torch.zeros_like(deviation), torch.zeros_like(deviation))
    # Five pixels in a row, for every place along both axes: in one list, since every operation has its price.
    p, a, b, c, n = (torch.cat([image[i : i + len(image) - 4].reshape(-1) for image in images]) for i in range(5))
    rise = c - a
    step = rise.abs()
    flat = FLAT * step
    least = torch.maximum(SMALLEST_STEP * torch.minimum(a, c), LEAST_OVER_NOISE * deviation)
    edge = (step > least) & ((a - p).abs() < flat) & ((n - c).abs() < flat)  # not NaN
    share = (b - a) / rise
    # In float32, 0.15 lies above 0.15.
    between = edge & (share >= 0.15) & (share < 0.85)
    either = edge & (share > -0.25) & (share < 1.25)
    count = between.sum()
    return Edges(count.float(), (either.sum() - count).float())
