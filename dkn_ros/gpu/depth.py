"""Depth on the device: metres, traits of the camera, and the target as the network takes it."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.depth import MILLIMETRES_PER_METRE
from dkn_ros.gpu.holes import Nearest
from dkn_ros.gpu.resampling import Bicubic, Separable, Size, area_table, bilinear, blur
from dkn_ros.preprocess import graded_validity
from dkn_ros.traits import (
    ENOUGH_EDGES,
    FLAT,
    FULL_NOISE,
    LEAST_OVER_NOISE,
    MIDDLE,
    NOISY,
    QUIET,
    SAMPLES,
    SMALLEST_STEP,
)


class Metres:
    """`depth.to_metres`, in two steps: the limits hold for what the colour camera sees, after a registration."""

    def __init__(self, device: torch.device) -> None:
        # A number of the host would be turned into a product with its inverse, which rounds differently.
        self._unit = torch.tensor(MILLIMETRES_PER_METRE, device=device)

    def __call__(self, depth: Tensor) -> Tensor:
        """int16 that holds the bits of uint16 millimetres -> float32 metres; float32 metres stay as they are."""
        if depth.dtype == torch.float32:
            return depth
        return torch.bitwise_and(depth.to(torch.int32), 0xFFFF) / self._unit

    def limited(self, metres: Tensor, nearest: Tensor, farthest: Tensor) -> Tensor:
        """NaN for what is no measurement and for what lies beyond the limits (no dimensions)."""
        # NaN compares false with everything, and infinity is farther than the farthest.
        known = (metres > 0) & (metres >= nearest) & (metres <= farthest)
        return torch.where(known, metres, torch.nan)


def covered(metres: Tensor, rows: int) -> Tensor:
    """`resolution.covering`: NaN below, up to so many rows."""
    missing = rows - len(metres)
    return F.pad(metres, (0, 0, 0, missing), value=torch.nan) if missing else metres


class AreaPool:
    """`preprocess.pool` from one size to another."""

    def __init__(self, given: Size, wanted: Size, device: torch.device) -> None:
        self._same = given == wanted
        self._tables = Separable(*(area_table(g, w) for g, w in zip(given, wanted, strict=True)), device)
        self._whole = given[0] * given[1] / (wanted[0] * wanted[1])

    def __call__(self, depth: Tensor) -> Tensor:
        """depth: hxw, NaN invalid -> HxW."""
        if self._same:
            return depth
        known = depth == depth
        total, measured = self._tables(torch.stack((torch.where(known, depth, 0.0), known.float())))
        return torch.where(measured < 0.25 * self._whole, torch.nan, total / measured)


class Traits(NamedTuple):
    """`traits.Traits` as tensors without dimensions."""

    antialiased: Tensor
    noise: Tensor

    def trust(self, ratio: float) -> Tensor:
        """See `traits.Traits.trust`."""
        coarse = max(1.0, (ratio / 2) ** 0.5)
        return self.antialiased * ((NOISY - self.noise / coarse) / (NOISY - QUIET)).clamp(0, 1)

    def encoded(self) -> Tensor:
        """See `traits.Traits.encoded`."""
        noise = torch.log2(1 + 1000 * self.noise) / FULL_NOISE
        return torch.stack((self.antialiased, noise.clamp(max=1)))


def traits_of(depth: Tensor, ratio: float, span: Tensor) -> Traits:
    """`traits.traits_of`; span: no dimensions."""
    deviation = noise(depth)
    return Traits(antialiased(depth, ratio, deviation), deviation / span)


def noise(depth: Tensor) -> Tensor:
    """`traits.noise`, no dimensions."""
    step = max(1, round((depth.numel() / SAMPLES) ** 0.5))
    if min(depth.shape) < 3:
        return depth.new_zeros(())
    above, below, centre = (depth[y : y + len(depth) - 2 : step] for y in (0, 2, 1))
    across = [slice(x, x + depth.shape[1] - 2, step) for x in (0, 2, 1)]
    around = above[:, across[2]] + below[:, across[2]] + centre[:, across[0]] + centre[:, across[1]]
    ordered = torch.sub(around, centre[:, across[2]], alpha=4).abs().flatten().sort().values  # NaN come last
    known = (ordered == ordered).sum()
    middle = torch.stack((known - 1, known)).div(2, rounding_mode="floor").clamp(min=0)
    median = ordered.gather(0, middle).mean()
    return torch.where(known > 0, median / (0.6745 * 20**0.5), 0.0)


def antialiased(depth: Tensor, ratio: float, deviation: Tensor) -> Tensor:
    """`traits.antialiased`, no dimensions; deviation: none either."""
    least = LEAST_OVER_NOISE * deviation
    counts = [_edges(image, least) for image in (depth, depth.T) if image.shape[0] > 4]
    if not counts:
        return torch.full_like(deviation, 0.5)
    between, clear = torch.stack(counts).sum(0)
    edges = between + clear / 2
    known = min(1.0, max(0.0, (math.log2(max(ratio, 1.0)) - 0.4) / 0.6))
    sure = (edges / ENOUGH_EDGES).clamp(max=1) * known
    # Without an edge 0 / 0 would be NaN: and `sure` is 0, of which the answer is 0.5.
    return torch.sigmoid(18 * sure * (between / edges.clamp(min=0.5) - MIDDLE))


def _edges(depth: Tensor, least: Tensor) -> Tensor:
    """How many edges along columns have a pixel between both sides, and how many have none: 2 numbers."""
    p, a, b, c, n = (depth[i : i + len(depth) - 4] for i in range(5))
    step = (c - a).abs()
    flat = FLAT * step
    edge = (step > SMALLEST_STEP * torch.minimum(a, c)) & (step > least)  # not NaN
    edge &= ((a - p).abs() < flat) & ((n - c).abs() < flat)
    share = (b - a) / (c - a)
    # In float32, 0.15 lies above 0.15.
    between = edge & (share >= 0.15) & (share < 0.85)
    clear = edge & (share > -0.25) & (share < 1.25)
    counts = torch.stack((between.sum(), clear.sum()))
    return torch.stack((counts[0], counts[1] - counts[0])).float()


class Target(NamedTuple):
    """`preprocess.Target` as tensors; images HxW, numbers without dimensions."""

    image: Tensor
    validity: Tensor
    distance: Tensor
    low: Tensor
    """NaN where nothing at all was measured."""
    span: Tensor
    """high - low."""
    traits: Traits


class TargetGrid:
    """`preprocess.target_image` from one size to another.  triton: of `holes.Nearest`."""

    def __init__(self, given: Size, wanted: Size, device: torch.device, triton: bool = False) -> None:
        down, across = (w / g for g, w in zip(given, wanted, strict=True))
        self.ratio = (across * down) ** 0.5
        """Of the wanted size to the given one, geometric mean of both axes."""
        self._wanted = wanted
        self._pixel = max(across, down)
        self._measured = graded_validity(self.ratio)
        self._nearest = Nearest(given, device, triton)
        self._bicubic = Bicubic(given, wanted, device)
        self._rows, self._columns = (
            torch.from_numpy(_lies_in(g, w)).to(device) for g, w in zip(given, wanted, strict=True)
        )

    def __call__(self, depth: Tensor, guess: Tensor | None = None) -> Target:
        """depth: hxw metres, NaN invalid.  guess: hxw, what stands in for the invalid pixels; NaN if there is none.

        Where nothing was measured all of it is NaN.
        """
        known = depth == depth
        place, distance = self._nearest(known)
        nearest = depth.take(place)  # of measured pixels, all of them: their range is the frame's
        low, high = torch.aminmax(nearest)
        filled = blur(nearest, 3)
        if guess is not None:
            filled = torch.where(guess == guess, guess.clamp(low, high), filled)
        filled = torch.where(known, depth, filled)
        # A flat frame has no range of its own; any will do, and 1 keeps it flat.
        span = torch.where(high == low, 1.0, high - low)
        image = self._bicubic((filled - low) / span)
        traits = traits_of(depth, self.ratio, span)
        seen = known.index_select(0, self._rows).index_select(1, self._columns)
        validity = torch.where(seen, self._measured, 0.0)
        # Between a measured and a filled pixel the border runs half a pixel from both centres.
        away = bilinear((distance - 0.5).clamp(min=0) * self._pixel, self._wanted)
        return Target(image, validity, away, low, span, traits)


def _lies_in(given: int, wanted: int) -> NDArray[np.int64]:
    """For each of `wanted` pixels the one of `given` that its centre lies in; on a border, the one OpenCV takes."""
    numbers = np.arange(given, dtype=np.float32)[None]
    return cv2.resize(numbers, (wanted, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.int64)
