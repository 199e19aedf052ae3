"""From the network's result to depth and confidence, on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dkn_ros.confidence import (
    AROUND,
    BIAS,
    CORRECTION,
    DISTANCE,
    LEAST_CORRECTION,
    LEAST_SPREAD,
    RATIO,
    SPREAD,
)
from dkn_ros.flying import COMPANY, REACH
from dkn_ros.gpu.resampling import Bicubic, bilinear, blur


class BackProjection:
    """`postprocess.back_project` between the working grid and that of the measurements."""

    def __init__(self, working: tuple[int, int], measured: tuple[int, int], device: torch.device) -> None:
        self._smaller, self._larger = Bicubic(working, measured, device), Bicubic(measured, working, device)

    def __call__(self, result: Tensor, measured: Tensor, share: Tensor) -> Tensor:
        """result: HxW metres.  measured: hxw metres, NaN where there is none.  share: no dimensions.  Returns HxW."""
        left = (measured - self._smaller(result)) * share
        return result + self._larger(torch.where(measured == measured, left, 0.0))


def reach(distance: Tensor, size: tuple[int, int]) -> Tensor:
    """`postprocess.reach`: pixels of the colour grid of height and width `size` to the nearest measured depth."""
    if distance.shape == size:
        return distance
    return bilinear(distance, size) * (size[1] / distance.shape[1])


def without_flying(depth: Tensor, threshold: Tensor) -> Tensor:
    """`flying.forget_flying`: HxW -> HxW; threshold: no dimensions, above 0."""
    side = 2 * REACH + 1
    near, far = depth * (1 - threshold), depth * (1 + threshold)
    unknown = depth != depth
    nearest = -F.max_pool2d(-torch.where(unknown, torch.inf, depth)[None], side, 1, REACH)[0]
    farthest = F.max_pool2d(torch.where(unknown, -torch.inf, depth)[None], side, 1, REACH)[0]
    around = F.pad(depth, (REACH,) * 4, value=torch.nan).unfold(0, side, 1).unfold(1, side, 1)
    close = (around > near[..., None, None]) & (around < far[..., None, None])
    beside = sum(close[..., REACH + y, REACH + x].int() for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1)))
    alone = close.flatten(-2).sum(-1) - 1 < COMPANY  # not counting itself
    flying = alone & (beside < 3) & (nearest <= near) & (farthest >= far)
    return torch.where(flying, torch.nan, depth)


def confidence(depth: Tensor, given: Tensor, low: Tensor, span: Tensor, distance: Tensor, ratio: float) -> Tensor:
    """`confidence.confidence`; all images HxW.

    depth: metres, NaN invalid.  given: what the network was given, in 0..1 of low .. low + span.  distance: of `reach`.
    """
    unknown = depth != depth
    nearest = -F.max_pool2d(-torch.where(unknown, torch.inf, depth)[None], 3, 1, 1)[0]
    farthest = F.max_pool2d(torch.where(unknown, -torch.inf, depth)[None], 3, 1, 1)[0]
    spread = (farthest - nearest) / depth
    moved = (depth - (low + span * given)).abs() / depth
    correction = blur(torch.where(unknown, 0.0, moved), AROUND)
    odds = torch.full_like(depth, BIAS + RATIO * math.log2(max(ratio, 1.0)))
    for image, weight, least in (
        (spread, SPREAD, LEAST_SPREAD), (correction, CORRECTION, LEAST_CORRECTION), (distance, DISTANCE, 1.0),
    ):  # fmt: skip
        odds = torch.add(odds, torch.log1p(image * (1 / least)), alpha=weight / math.log(2))
    return torch.where(unknown, 0.0, torch.sigmoid(odds))
