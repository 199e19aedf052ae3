"""Depth's own resolution on the device, see `dkn_ros.resolution`: what tells its form, and the step back to it.

The form decides about sizes, which a device cannot: the host reads the evidence with the frame's result.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dkn_ros.gpu.resampling import Size
from dkn_ros.resolution import BLOCK, SAME_SURFACE, Form, form_from

NOWHERE = 1 << 30


def evidence(depth: Tensor) -> Tensor:
    """What `form_of_evidence` tells the form of a depth image by; int32, 4 + 2 (w + h) numbers.

    depth: hxw metres, NaN invalid.
    """
    known = depth == depth
    right = (depth[:, 1:] != depth[:, :-1]) & (known[:, 1:] | known[:, :-1])
    below = (depth[1:] != depth[:-1]) & (known[1:] | known[:-1])
    counts, full = _blocks(known)
    numbers = (known.sum(), (known[:, 1:] & known[:, :-1]).sum(), full.sum() * BLOCK * BLOCK, (counts * full).sum())
    flags = known.any(0), F.pad(right.any(0), (1, 0)), known.any(1), F.pad(below.any(1), (1, 0))
    return torch.cat([torch.stack(numbers), *flags]).to(torch.int32)


def _blocks(known: Tensor) -> tuple[Tensor, Tensor]:
    """Valid pixels of each block, and whether it is whole and has some in itself and in all blocks around."""
    height, width = known.shape
    padded = F.pad(known, (0, -width % BLOCK, 0, -height % BLOCK)).float()[None]
    counts = F.avg_pool2d(padded, BLOCK)[0] * (BLOCK * BLOCK)
    emptiest = -F.max_pool2d(-counts[None], 3, stride=1, padding=1)[0]  # what is padded never is the largest
    emptiest[height // BLOCK :] = 0
    emptiest[:, width // BLOCK :] = 0
    return counts, emptiest > 0


def form_of_evidence(found: Tensor, size: Size) -> Form | None:
    """`resolution.form_of` of a depth image of height and width `size` from its evidence, which is on the host."""
    height, width = size
    numbers, flags = found[:4].tolist(), found[4:].numpy().astype(np.bool_)
    columns, rows = flags[: 2 * width].reshape(2, width), flags[2 * width :].reshape(2, height)
    return form_from(columns, rows, *numbers)


class Pooling:
    """`resolution.pooled` from one size to another."""

    def __init__(self, given: Size, wanted: Size, device: torch.device) -> None:
        (rows, row_in, high), (columns, column_in, wide) = (_cells(g, w) for g, w in zip(given, wanted, strict=True))
        away = (high[:, :, None, None] ** 2 + wide[None, None] ** 2).transpose(0, 2, 1, 3)
        inside = (row_in[:, :, None, None] & column_in[None, None]).transpose(0, 2, 1, 3)
        away = np.where(inside, away, np.inf).reshape(*away.shape[:2], -1)
        # In the order in which a cell's pixels are asked for, so that of two as near the same one always counts.
        order = np.argsort(np.argsort(away, axis=-1, kind="stable"), axis=-1, kind="stable").astype(np.int32)
        order = np.where(np.isinf(away), NOWHERE, order).reshape(inside.shape).transpose(0, 2, 1, 3)
        self._order = torch.from_numpy(np.ascontiguousarray(order)).to(device)
        self._rows, self._columns = (torch.from_numpy(index).to(device) for index in (rows, columns))

    def __call__(self, depth: Tensor) -> Tensor:
        """depth: hxw metres, NaN invalid -> HxW."""
        cells = depth[self._rows][:, :, self._columns]  # rows, of them, columns, of them
        order = torch.where(cells == cells, self._order, NOWHERE)
        first = order.amin((1, 3), keepdim=True)
        chosen = torch.where(order == first, cells, 0.0).sum((1, 3), keepdim=True)
        apart = cells - chosen
        same = (apart.abs() <= SAME_SURFACE * chosen) & (order < NOWHERE)
        mean = torch.where(same, apart, 0.0).sum((1, 3)) / same.sum((1, 3))  # 0 / 0 where nothing is valid
        return chosen[:, 0, :, 0] + mean


def _cells(given: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels lie in each cell, whether they do (the others make up the count), and how far from its centre."""
    cell = np.arange(wanted)
    begin, end = np.ceil(cell * given / wanted - 0.5), np.ceil((cell + 1) * given / wanted - 0.5)
    middle = (cell + 0.5) * given / wanted - 0.5
    none = end <= begin
    begin, end = np.where(none, np.rint(middle), begin), np.where(none, np.rint(middle) + 1, end)
    index = begin[:, None] + np.arange(int((end - begin).max()))
    inside = (index < end[:, None]) & (index < given)
    return np.minimum(index, given - 1).astype(np.int64), inside, index - middle[:, None]
