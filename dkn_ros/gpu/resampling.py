"""Resampling between pixel centres on the device; all tables are made once, when the sizes are known.

`Bicubic` is `resampling.resample`: PyTorch's antialiased bicubic follows Pillow as well (Keys' a = -0.5).  It computes
the centres of its taps in float32, which moves them by at most 1e-4 pixels in images of some thousand columns.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.resampling import taps

Size = tuple[int, int]
"""Height and width."""

LARGEST_SHRINK = 16
"""PyTorch's kernel keeps its taps in shared memory, which ends at some forty times smaller."""


class Separable:
    """Weighted sums along rows and columns: ...xhxw -> ...xHxW float32, by tables of which pixels and how much."""

    def __init__(
        self, down: tuple[NDArray[np.int64], NDArray], across: tuple[NDArray[np.int64], NDArray], device: torch.device
    ) -> None:
        """down, across: index and weight, both output pixels x taps."""
        self._rows, self._columns = (torch.from_numpy(index).to(device) for index, _ in (down, across))
        self._down = torch.from_numpy(down[1].astype(np.float32))[..., None].to(device)
        self._across = torch.from_numpy(across[1].astype(np.float32)).to(device)

    def __call__(self, image: Tensor) -> Tensor:
        """image: ...xhxw of any type."""
        tall = (image[..., self._rows, :] * self._down).sum(-2)
        return (tall[..., self._columns] * self._across).sum(-1)


class Bicubic:
    """What `resampling.resample` does from one size to another; the image itself where they are the same."""

    def __init__(self, given: Size, wanted: Size, device: torch.device) -> None:
        self._given, self._wanted = given, wanted
        self._tables: Separable | None = None
        # To images of one column PyTorch 2.13 repeats the first row on a CPU.
        if 1 in wanted or max(g / w for g, w in zip(given, wanted, strict=True)) > LARGEST_SHRINK:
            self._tables = Separable(*(_window(g, w) for g, w in zip(given, wanted, strict=True)), device)

    def __call__(self, image: Tensor) -> Tensor:
        """image: hxw float32 -> HxW."""
        if self._given == self._wanted:
            return image
        if self._tables is not None:
            return self._tables(image)
        return F.interpolate(image[None, None], self._wanted, mode="bicubic", antialias=True)[0, 0]


def _window(given: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    first, weight = taps(given, wanted)
    return first[:, None] + np.arange(weight.shape[1]), weight


def area_table(given: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index and weight of `wanted` means of `given` pixels, each weighted by how much of it lies in the mean's cell.

    Weights are in pixels: of cells of whole pixels, sums of whole numbers are exact.  They sum to given / wanted.
    """
    edges = np.arange(wanted + 1) * (given / wanted)
    begin, end = edges[:-1, None], edges[1:, None]
    first = np.floor(begin + 1e-9).astype(np.int64)
    count = int((np.ceil(end - 1e-9) - first).max())
    index = first + np.arange(count)
    weight = np.clip(np.minimum(index + 1, end) - np.maximum(index, begin), 0, 1)
    weight[weight < 1e-6] = 0
    return np.minimum(index, given - 1), weight


def bilinear(image: Tensor, size: Size) -> Tensor:
    """OpenCV's INTER_LINEAR: hxw float32 -> HxW."""
    if image.shape == size:
        return image
    return F.interpolate(image[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def blur(image: Tensor, side: int) -> Tensor:
    """Means of `side` x `side` pixels, the border repeated; HxW."""
    reach = side // 2
    return F.avg_pool2d(F.pad(image[None], (reach,) * 4, mode="replicate"), side, stride=1)[0]
