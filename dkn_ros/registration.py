"""Registration: depth that was seen from another place than colour, as the colour camera would have seen it.

Every depth pixel is a small patch of a surface.  Its corners are not known, but its neighbours are: where they lie on
the same surface, the patches reach half way to each other in the colour image, so that a surface has no gaps however
it is stretched, and ends half a pixel beyond its last measurement.

1. Every pixel goes along its ray to its depth, into the colour camera's frame and onto its image (`_project`).
2. Its patch's size there follows from where its neighbours went (`_size`).
3. Of all patches over a pixel the nearest counts: the z-buffer (`_draw`).
4. The pixel's depth is the mean of the measurements of that surface, each weighted by how near to the pixel it is
   (`_draw`).  Surfaces behind it have no part in it; a pixel without a patch is invalid.

On rendered scenes seen from places 5 cm apart, noiseless, edges lie a quarter of a pixel off in the median and at most
3 in 10000 pixels show what is behind (`test_registration.py`); 640 x 480 takes some 10 ms on two cores.

The grid should be about as fine as the depth is (`Registration.grid`): the network brings it to the colour image's
resolution, which it does better than a larger patch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba.core import types
from numpy.typing import ArrayLike, NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.calibration import NEAREST, Calibration, distorted
from dkn_ros.compiled import any_image, compiled
from dkn_ros.depth import check_depth

FloatImage = NDArray[np.float32]

STEEPEST = math.tan(math.radians(82))
"""Neighbours whose depths differ by more than on a surface this steep lie on different surfaces."""
NOISE = 0.015
"""... but a difference of this share of the depth may always be noise, or a step of the sensor's scale."""
LARGEST_PATCH = 8.0
"""A patch is at most so many times as large as one of a surface that faces the camera."""
SMALLEST_PATCH = np.float32(0.01)
"""Pixels; what is seen edge-on has a patch all the same."""
FARTHEST_APART = 5.0
"""Metres between the cameras; more is taken for millimetres."""
BAND = 32
"""Rows of the result that one thread draws at a time."""


class Geometry(NamedTuple):
    """What is known of a registration before any depth comes."""

    rays: NDArray[np.float32]
    """hxwx3: where each depth pixel looks, for 1 m of depth, along the colour camera's axes."""
    camera: NDArray[np.float64]
    """`Calibration.numbers` of the colour camera on the wanted grid."""
    scale: float
    """Size of a depth pixel's patch on the grid, of a surface at the same distance from both cameras."""
    step: float
    """Share of the depth by which neighbours on one surface may differ."""


class Registration:
    """Projects depth images of one camera into the image of another; for one thread at a time.

    depth_camera, colour_camera: calibration of the images as they are sent, of any size.
    rotation, translation: 3x3 and 3 in metres: p_colour = rotation @ p_depth + translation, both frames optical (x
        right, y down, z forward), which is what TF's lookup_transform(colour frame, depth frame) answers.
    Raises ValueError for a rotation that is none and for a translation that cannot be in metres.
    """

    def __init__(
        self, depth_camera: Calibration, colour_camera: Calibration, rotation: ArrayLike, translation: ArrayLike
    ) -> None:
        self.depth_camera, self.colour_camera = depth_camera, colour_camera
        self.rotation = np.asarray(rotation, np.float64)
        self.translation = np.ascontiguousarray(translation, np.float64)
        turn = self.rotation
        if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
            raise ValueError(f"rotation is {turn.tolist()}; wanted: a 3x3 rotation matrix")
        if self.translation.shape != (3,) or not np.linalg.norm(self.translation) <= FARTHEST_APART:
            wanted = f"3 numbers in metres, at most {FARTHEST_APART:g} m in all"
            raise ValueError(f"translation is {self.translation.tolist()}; wanted: {wanted}")
        self._buffers = Buffers()
        self._directions: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def grid(self, depth_width: int, depth_height: int) -> tuple[int, int]:
        """Width and height of a grid over the colour image on which a pixel is as large as one of the depth's.

        depth_width, depth_height: of the depth image.  Never larger than the colour image.  A grid as fine as the
        colour image would need patches of many pixels, which are no more than nearest neighbour upsampling.
        """
        depth, colour = self.depth_camera.resized(depth_width, depth_height), self.colour_camera
        scales = (min(1.0, d / c) for d, c in zip(depth.focal_lengths, colour.focal_lengths, strict=True))
        width, height = (max(1, round(n * s)) for n, s in zip((colour.width, colour.height), scales, strict=True))
        return width, height

    def grid_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """`grid` as height and width, of depth of height and width `size`."""
        width, height = self.grid(size[1], size[0])
        return height, width

    def register(
        self, depth: FloatImage, width: int = 0, height: int = 0, buffers: Buffers | None = None
    ) -> FloatImage:
        """Depth as the colour camera sees it, on a grid of `width` x `height` pixels over the colour image.

        depth: hxw float32 metres along the depth camera's axis, NaN invalid; the whole image of the depth camera, of
            any size.  width, height: 0 takes `grid`'s.  buffers: to work in; without them it has some of its own.
        Returns height x width float32 metres along the colour camera's axis; NaN where the depth camera saw nothing
        that the colour camera sees.  The result lasts until the next call with the same buffers.  Raises ValueError for
        another depth.
        """
        check_depth(depth)
        if depth.dtype != np.float32:
            raise ValueError(f"depth is {depth.dtype}; wanted: float32 metres")
        rows, columns = depth.shape
        if not (width and height):
            width, height = self.grid(columns, rows)
        buffers = self._buffers if buffers is None else buffers
        known = self.geometry(columns, rows, width, height)
        points = buffers.array("points", (rows, columns, 3))
        patches = buffers.array("patches", (rows, columns, 2))
        reach = buffers.array("reach", (rows, 2))
        _project(depth, known.rays, self.translation, known.camera, points)
        _size(depth, points, known.step, known.scale, patches, reach)
        front, out = buffers.array("front", (height, width)), buffers.array("out", (height, width))
        _draw(points, patches, reach, 2 * known.step, front, buffers.array("weight", (height, width)), out)
        return out

    def geometry(self, columns: int, rows: int, width: int, height: int) -> Geometry:
        """For depth of `columns` x `rows` on a grid of `width` x `height`."""
        depth, colour = self.depth_camera.resized(columns, rows), self.colour_camera.resized(width, height)
        area = math.prod(depth.focal_lengths)
        scale = math.sqrt(math.prod(colour.focal_lengths) / area)
        step = max(STEEPEST / math.sqrt(area), NOISE)
        return Geometry(self._rays(columns, rows), colour.numbers, scale, step)

    def _rays(self, width: int, height: int) -> NDArray[np.float32]:
        size = (height, width)
        if size not in self._directions:
            rays = self.depth_camera.resized(width, height).rays()
            directions = rays @ self.rotation[:, :2].T + self.rotation[:, 2]
            self._directions = {size: np.ascontiguousarray(directions, np.float32)}
        return self._directions[size]


_F32, _F64 = types.float32, types.float64
_IMAGE, _VECTORS = _F32[:, ::1], _F32[:, :, ::1]


@compiled(
    types.void(any_image(_F32, 2), _VECTORS, _F64[::1], _F64[::1], _VECTORS),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _project(depth, rays, translation, camera, points):  # type: ignore[no-untyped-def]
    """points: hxwx3, column and row in the colour image and metres along its axis; NaN where there is nothing."""
    for y in numba.prange(depth.shape[0]):
        for x in range(depth.shape[1]):
            metres = depth[y, x]
            z = metres * rays[y, x, 2] + translation[2]
            points[y, x, 0] = points[y, x, 1] = points[y, x, 2] = np.float32(np.nan)
            if metres > 0 and z > NEAREST:
                u = (metres * rays[y, x, 0] + translation[0]) / z
                v = (metres * rays[y, x, 1] + translation[1]) / z
                u, v = distorted(camera, u, v)
                if u == u:
                    points[y, x, 0] = camera[2] * u + camera[4]
                    points[y, x, 1] = camera[3] * v + camera[5]
                    points[y, x, 2] = z


@compiled(nogil=True, inline="always")
def _apart(depth, points, step, y, x, dy, dx):  # type: ignore[no-untyped-def]
    """How far the neighbours on both sides along one axis went in columns and in rows; -1 where on other surfaces."""
    across, down = np.float32(-1), np.float32(-1)
    for side in (-1, 1):
        j, i = y + side * dy, x + side * dx
        if 0 <= j < depth.shape[0] and 0 <= i < depth.shape[1]:
            here, there = depth[y, x], depth[j, i]
            if abs(here - there) <= step * min(here, there) and points[j, i, 2] > 0:
                across = max(across, abs(points[j, i, 0] - points[y, x, 0]))
                down = max(down, abs(points[j, i, 1] - points[y, x, 1]))
    return across, down


@compiled(
    types.void(any_image(_F32, 2), _VECTORS, _F64, _F64, _VECTORS, _IMAGE),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _size(depth, points, step, scale, patches, reach):  # type: ignore[no-untyped-def]
    """patches: hxwx2, half the width and height of each pixel's patch.  reach: hx2, rows that a row may draw to.

    A patch is the box around the parallelogram that the steps to the neighbours span.
    """
    for y in numba.prange(depth.shape[0]):
        top, bottom = np.float32(np.inf), np.float32(-np.inf)
        for x in range(depth.shape[1]):
            z = points[y, x, 2]
            if not z > 0:
                continue
            plain = np.float32(scale * depth[y, x] / z)
            ux, vx = _apart(depth, points, step, y, x, 0, 1)
            uy, vy = _apart(depth, points, step, y, x, 1, 0)
            # Where one axis has no neighbour it is as long as the other, and at a right angle to it.
            if ux < 0 and uy < 0:
                ux, vx, uy, vy = plain, np.float32(0), np.float32(0), plain
            elif ux < 0:
                ux, vx = vy, uy
            elif uy < 0:
                uy, vy = vx, ux
            half_width = min(max(np.float32(0.5) * (ux + uy), SMALLEST_PATCH), np.float32(LARGEST_PATCH) * plain)
            half_height = min(max(np.float32(0.5) * (vx + vy), SMALLEST_PATCH), np.float32(LARGEST_PATCH) * plain)
            patches[y, x, 0], patches[y, x, 1] = half_width, half_height
            top = min(top, points[y, x, 1] - np.float32(2) * half_height)
            bottom = max(bottom, points[y, x, 1] + np.float32(2) * half_height)
        reach[y, 0], reach[y, 1] = top, bottom


@compiled(nogil=True, inline="always")
def _between(centre, half, first, last):  # type: ignore[no-untyped-def]
    """First and last-plus-one pixel whose centre lies within `half` of `centre`, of first .. last - 1."""
    begin = max(np.float32(first), np.ceil(centre - half - np.float32(1e-3)))
    end = min(np.float32(last), np.floor(centre + half + np.float32(1e-3)) + np.float32(1))
    return (int(begin), int(end)) if end > begin else (0, 0)


@compiled(
    types.void(_VECTORS, _VECTORS, _IMAGE, _F64, _IMAGE, _IMAGE, _IMAGE),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _draw(points, patches, reach, tolerance, front, weight, out):  # type: ignore[no-untyped-def]
    """front: HxW, the z-buffer.  tolerance: share of the depth within which measurements are of one surface."""
    height, width = out.shape
    for band in numba.prange((height + BAND - 1) // BAND):
        top, bottom = band * BAND, min(height, (band + 1) * BAND)
        front[top:bottom], weight[top:bottom], out[top:bottom] = np.float32(np.inf), np.float32(0), np.float32(0)
        for y in range(points.shape[0]):
            if reach[y, 1] < top - 1 or reach[y, 0] > bottom:
                continue
            for x in range(points.shape[1]):
                z = points[y, x, 2]
                if z > 0:
                    first, last = _between(points[y, x, 1], patches[y, x, 1], top, bottom)
                    left, right = _between(points[y, x, 0], patches[y, x, 0], 0, width)
                    for v in range(first, last):
                        for u in range(left, right):
                            front[v, u] = min(front[v, u], z)
        for y in range(points.shape[0]):
            if reach[y, 1] < top - 1 or reach[y, 0] > bottom:
                continue
            for x in range(points.shape[1]):
                z = points[y, x, 2]
                if z > 0:
                    # Twice the patch: so the weights of two neighbours between them are those of linear interpolation.
                    column, row = points[y, x, 0], points[y, x, 1]
                    wide, high = np.float32(2) * patches[y, x, 0], np.float32(2) * patches[y, x, 1]
                    first, last = _between(row, high, top, bottom)
                    left, right = _between(column, wide, 0, width)
                    for v in range(first, last):
                        share = max(np.float32(0), np.float32(1) - abs(v - row) / high)
                        for u in range(left, right):
                            if abs(z - front[v, u]) <= tolerance * z:
                                part = share * max(np.float32(0), np.float32(1) - abs(u - column) / wide)
                                weight[v, u] += part
                                out[v, u] += part * z
        for v in range(top, bottom):
            for u in range(width):
                out[v, u] = out[v, u] / weight[v, u] if front[v, u] < np.inf else np.float32(np.nan)
