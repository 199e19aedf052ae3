"""Registration on the device: `registration.Registration` for depth of one size.

The same four steps.  To draw, every point becomes as many items as its patch has pixels; how many that are in all
depends on the depth, so that there is room for a fixed number of them.  What they needed comes with the result: if it
was more than there is room for, patches of the last rows are missing, and the frame must be done again with more.

Against the compiled form: points and patches are the same numbers, computed in float64 where it does.  Measurements of
one surface are added up in the order in which a GPU comes to them, as differences to the nearest: results differ in the
last digits of float32.  No pixel is seen by one and not by the other, except where the device's arc tangent or fused
multiplication rounds the other way and a patch's border lies within that of a pixel's centre.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dkn_ros.calibration import EQUIDISTANT, NEAREST
from dkn_ros.gpu.resampling import Size
from dkn_ros.registration import LARGEST_PATCH, SMALLEST_PATCH, Registration

ROOM = 8
"""Items that there is room for at first, for each pixel of the larger of depth image and grid; 4 is usual."""
MARGIN = 1e-3
"""Pixels; of `registration._between`."""


class Registered(NamedTuple):
    """What the colour camera sees of the depth."""

    depth: Tensor
    """HxW float32 metres, NaN where the depth camera saw nothing that the colour camera sees."""
    needed: Tensor
    """Items that were to be drawn; no dimensions, int64."""


class DeviceRegistration:
    """Projects depth images of height and width `size` into the colour image, on `Registration.grid`.

    grid: height and width of another grid.  room: of items.
    """

    def __init__(
        self, registration: Registration, size: Size, device: torch.device, grid: Size | None = None, room: int = 0
    ) -> None:
        height, width = size
        rows, columns = self._grid = grid or tuple(reversed(registration.grid(width, height)))
        self.room = room or int(ROOM * max(height * width, rows * columns))
        """So many items are drawn at most."""
        known = registration.geometry(width, height, columns, rows)
        self._rays = tuple(torch.from_numpy(known.rays[..., i].copy()).to(device) for i in range(3))
        self._translation, self._camera = registration.translation.tolist(), known.camera.tolist()
        self._scale, self._step = known.scale, known.step
        self._items = torch.arange(self.room, device=device)

    def __call__(self, depth: Tensor) -> Registered:
        """depth: hxw float32 metres along the depth camera's axis; NaN, infinity, 0 and below invalid."""
        column, row, z = self._project(depth)
        half_width, half_height = self._patch(depth, column, row, z)
        return self._draw(*(t.flatten() for t in (column, row, z, half_width, half_height)))

    def _project(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column and row in the colour image and metres along its axis; z is 0 where there is nothing."""
        across, down, along = ((depth * ray).double() + t for ray, t in zip(self._rays, self._translation, strict=True))
        x, y = distorted(self._camera, across / along, down / along)
        seen = (depth > 0) & (along > NEAREST) & (x == x) & (y == y)
        fx, fy, cx, cy = self._camera[2:6]
        column, row = (fx * x + cx).float(), (fy * y + cy).float()
        return column, row, torch.where(seen, along, 0.0).float()

    def _patch(self, depth: Tensor, column: Tensor, row: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Half the width and height of each pixel's patch; see `registration._size`."""
        plain = (self._scale * depth.double() / z.double()).float()
        ux, vx = self._apart(depth, column, row, z)
        uy, vy = (t.T for t in self._apart(depth.T, column.T, row.T, z.T))
        no_x, no_y = ux < 0, uy < 0
        # Where one axis has no neighbour it is as long as the other, and at a right angle to it.
        width = torch.where(no_x, torch.where(no_y, plain, vy), ux) + torch.where(no_y, torch.where(no_x, 0.0, vx), uy)
        height = torch.where(no_x, torch.where(no_y, 0.0, uy), vx) + torch.where(no_y, torch.where(no_x, plain, ux), vy)
        largest = LARGEST_PATCH * plain
        least = float(SMALLEST_PATCH)
        return torch.minimum((0.5 * width).clamp(min=least), largest), torch.minimum(
            (0.5 * height).clamp(min=least), largest
        )

    def _apart(self, depth: Tensor, column: Tensor, row: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """How far the neighbours on both sides along a row went in columns and in rows; -1 where on other surfaces."""
        here, there = depth[:, :-1], depth[:, 1:]
        near = self._step * torch.minimum(here, there).double()
        same = ((here - there).abs() <= near) & (z[:, :-1] > 0) & (z[:, 1:] > 0)
        found = []
        for place in (column, row):
            gap = torch.where(same, (place[:, 1:] - place[:, :-1]).abs(), -1.0)
            found.append(torch.maximum(F.pad(gap, (1, 0), value=-1.0), F.pad(gap, (0, 1), value=-1.0)))
        return found[0], found[1]

    def _draw(self, column: Tensor, row: Tensor, z: Tensor, half_width: Tensor, half_height: Tensor) -> Registered:
        """The z-buffer and the mean of the surface in front; all arguments of n points."""
        rows, columns = self._grid
        left, right = _inside(column, 2 * half_width, columns)
        top, bottom = _inside(row, 2 * half_height, rows)
        seen = (z > 0) & (right > left) & (bottom > top)
        wide = (right - left).long()
        count = torch.where(seen, wide * (bottom - top).long(), 0)
        ends = count.cumsum(0)
        starts, needed = ends - count, ends[-1]
        # Which point an item belongs to, and which pixel of that point's box it is.
        point = torch.searchsorted(ends, self._items, right=True).clamp(max=len(ends) - 1)
        item = self._items - starts.index_select(0, point)
        across = wide.index_select(0, point).clamp(min=1)
        v = top.long().index_select(0, point) + torch.div(item, across, rounding_mode="floor")
        u = left.long().index_select(0, point) + item % across
        real = self._items < needed
        place = torch.where(real, v * columns + u, rows * columns)  # one more pixel for what is none
        column, row, z, half_width, half_height = (
            t.index_select(0, point) for t in (column, row, z, half_width, half_height)
        )
        inner = _within(u, column, half_width) & _within(v, row, half_height)
        front = torch.full((rows * columns + 1,), torch.inf, device=z.device)
        front.scatter_reduce_(0, torch.where(inner, place, rows * columns), z, "amin")
        behind = z - front.index_select(0, place)
        # Twice the patch: so the weights of two neighbours between them are those of linear interpolation.
        share = (1 - (v - row).abs() / (2 * half_height)).clamp(min=0)
        share = share * (1 - (u - column).abs() / (2 * half_width)).clamp(min=0)
        share = torch.where(behind.abs() <= 2 * self._step * z.double(), share, 0.0)
        sums = torch.zeros((2, rows * columns + 1), device=z.device)
        # Infinity in front is that of the pixel that is none, and of those that no inner patch covers.
        sums.index_add_(1, place, torch.stack((share, torch.where(share > 0, share * behind, 0.0))))
        depth = torch.where(front < torch.inf, front + sums[1] / sums[0], torch.nan)
        return Registered(depth[:-1].view(rows, columns), needed)


def _inside(centre: Tensor, half: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """First and last-plus-one pixel whose centre is nearer than `half` to `centre`, of 0 .. last - 1."""
    return ((centre - half).floor() + 1).clamp(min=0), (centre + half).ceil().clamp(max=last)


def _within(pixel: Tensor, centre: Tensor, half: Tensor) -> Tensor:
    return (pixel >= (centre - half - MARGIN).ceil()) & (pixel <= (centre + half + MARGIN).floor())


def distorted(numbers: list[float], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`calibration.distorted` of tensors."""
    d = numbers[6:]
    r2 = x * x + y * y
    if numbers[0] == EQUIDISTANT:
        r = r2.sqrt()
        t = r.atan()
        t2 = t * t
        s = t * (1 + t2 * (d[0] + t2 * (d[1] + t2 * (d[2] + t2 * d[3])))) / r
        s = torch.where(r < 1e-9, 1.0, s)
        u, v = s * x, s * y
    elif not any(d):
        u, v = x, y
    else:
        p1, p2 = d[2], d[3]
        s = 1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))
        s = s / (1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7])))
        u = s * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = s * y + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.where(r2 <= numbers[1], u, torch.nan), v
