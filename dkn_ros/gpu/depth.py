"""Depth on the device: metres, what an image of them tells, and the target as the network takes it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.depth import MILLIMETRES_PER_METRE, NO_RETURN
from dkn_ros.gpu.holes import Nearest
from dkn_ros.gpu.resampling import Bicubic, Separable, Size, area_table, bilinear, blur
from dkn_ros.gpu.traits import Edges, Traits, edges, noise, traits_of
from dkn_ros.preprocess import graded_validity


class Metres:
    """`depth.to_metres`, in two steps: the limits hold once more for what the colour camera sees of the depth."""

    def __init__(self, device: torch.device) -> None:
        # A number of the host would be turned into a product with its inverse, which rounds differently.
        self._unit = torch.tensor(MILLIMETRES_PER_METRE, device=device)

    def __call__(self, depth: Tensor) -> Tensor:
        """int16 that holds the bits of uint16 millimetres -> float32 metres; float32 metres stay as they are."""
        if depth.dtype == torch.float32:
            return depth
        millimetres = torch.bitwise_and(depth.to(torch.int32), 0xFFFF)
        return torch.where(millimetres < NO_RETURN, millimetres, 0) / self._unit

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
        self._tables = Separable([area_table(g, w) for g, w in zip(given, wanted, strict=True)], device)
        self._whole = given[0] * given[1] / (wanted[0] * wanted[1])

    def __call__(self, depth: Tensor) -> Tensor:
        """depth: hxw, NaN invalid -> HxW."""
        if self._same:
            return depth
        known = depth == depth
        total, measured = self._tables(torch.stack((torch.where(known, depth, 0.0), known.float())))
        return torch.where(measured < 0.25 * self._whole, torch.nan, total / measured)


class Examined(NamedTuple):
    """What a depth image of hxw tells, whatever it is made into; numbers without dimensions."""

    depth: Tensor
    """Metres, NaN invalid."""
    known: Tensor
    filled: Tensor
    """Without holes: the means of what is nearest, see `preprocess.smooth_holes`."""
    distance: Tensor
    """Pixels to the nearest measured one."""
    low: Tensor
    """NaN where nothing at all was measured."""
    high: Tensor
    noise: Tensor
    edges: Edges


class Examination:
    """Examines depth images of one size.  triton: of `holes.Nearest`."""

    def __init__(self, size: Size, device: torch.device, triton: bool = False) -> None:
        self._nearest = Nearest(size, device, triton)

    def __call__(self, depth: Tensor) -> Examined:
        """depth: hxw metres, NaN invalid."""
        known = depth == depth
        place, distance = self._nearest(known)
        nearest = depth.take(place)  # of measured pixels, all of them: their range is the frame's
        low, high = torch.aminmax(nearest)
        filled = torch.where(known, depth, blur(nearest, 3))
        deviation = noise(depth)
        return Examined(depth, known, filled, distance, low, high, deviation, edges(depth, deviation))


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
    """`preprocess.target_image` from one size to another."""

    def __init__(self, given: Size, wanted: Size, device: torch.device) -> None:
        down, across = (w / g for g, w in zip(given, wanted, strict=True))
        self.ratio = (across * down) ** 0.5
        """Of the wanted size to the given one, geometric mean of both axes."""
        self._wanted = wanted
        self._pixel = max(across, down)
        self._measured = graded_validity(self.ratio)
        self._bicubic = Bicubic(given, wanted, device)
        self._rows, self._columns = (
            torch.from_numpy(_lies_in(g, w)).to(device) for g, w in zip(given, wanted, strict=True)
        )

    def __call__(self, found: Examined, aligned: Tensor, guess: Tensor | None = None) -> Target:
        """guess: hxw metres, what stands in for the invalid pixels; NaN if there is none.  aligned: see `Traits`.

        Where nothing was measured all of it is NaN.
        """
        filled, low, high = found.filled, found.low, found.high
        if guess is not None:
            filled = torch.where(found.known | (guess != guess), filled, guess.clamp(low, high))
        # A flat frame has no range of its own; any will do, and 1 keeps it flat.
        span = torch.where(high == low, 1.0, high - low)
        image = self._bicubic((filled - low) / span)
        traits = traits_of(found.edges, self.ratio, found.noise / span, aligned)
        seen = found.known.index_select(0, self._rows).index_select(1, self._columns)
        validity = torch.where(seen, self._measured, 0.0)
        # Between a measured and a filled pixel the border runs half a pixel from both centres.
        away = bilinear((found.distance - 0.5).clamp(min=0) * self._pixel, self._wanted)
        return Target(image, validity, away, low, span, traits)


def _lies_in(given: int, wanted: int) -> NDArray[np.int64]:
    """For each of `wanted` pixels the one of `given` that its centre lies in; on a border, the one OpenCV takes."""
    numbers = np.arange(given, dtype=np.float32)[None]
    return cv2.resize(numbers, (wanted, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.int64)
