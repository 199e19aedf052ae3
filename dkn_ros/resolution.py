"""The resolution that depth really has: drivers bring it to the colour image's size without knowing more.

Three forms occur.  *Replicated*: every measurement fills a block of equal pixels.  *Sparse*: every measurement is one
pixel, and those between are invalid.  *Full*: every pixel is a measurement of its own; it may have holes.  The first
two are taken back to the grid of their measurements, which the network then brings to the colour image's: it was taught
to do that, and takes blocks for the shape of things and what lies between sparse pixels for holes.

Measured on two rendered scenes at 4x with the shipped network: RMSE 7.1 and 17.9 cm, against 8.4 and 22.6 cm where
replicated depth is taken as full, 9.7 and 23.8 cm where sparse depth is.

Where blocks do not begin at the image's corner they do with margins around it, see `margins`; without those, depth
counts as full.

What the driver left empty, as the last 64 rows of a 1280 x 1024 image that 4:3 depth does not cover, stays empty: the
coarser grid covers the whole image.  Depth that comes in its own size and shape is given those rows by `covering`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled
from dkn_ros.lattice import FEWEST, LARGEST_RATIO, LEAST_RATIO, NO_MARGINS, Margins, lattice, margins_of

FloatImage = NDArray[np.float32]
Flags = NDArray[np.bool_]

AUTO, FULL = "auto", "full"
ISOLATED = 0.5
"""Depth is sparse where less than this share of the valid pixels has a valid one to its right."""
STRETCHED = 1.5
"""By more than this the distances of sparse rows and columns do not differ, unless there are as many pixels as that
makes: where it was projected with a parallax, nearly every column has some pixel."""
SAME_SURFACE = 0.02
"""Measurements that fall together are averaged where they differ by no more than this share of the depth."""
COVERS = (AUTO, "all", "top")


class Form(NamedTuple):
    """What form depth has, and how many measurements it holds along each axis of the whole image."""

    name: str
    """full, replicated or sparse."""
    width: int
    height: int
    margins: Margins = NO_MARGINS
    """With these around it its measurements cover an image to its borders; without, the numbers are rounded."""


def form_of(depth: FloatImage) -> Form | None:
    """The form of a depth image (hxw, NaN invalid); None where too little is valid to tell."""
    height, width = depth.shape
    columns, rows = np.zeros((2, width), np.bool_), np.zeros((2, height), np.bool_)
    return form_from(columns, rows, *_look(depth, columns, rows))


def form_from(columns: Flags, rows: Flags, valid: int, followed: int, cells: int, filled: int) -> Form | None:
    """`form_of` from what `_look` finds in the image."""
    width, height = columns.shape[1], rows.shape[1]
    if not (columns[0].sum() >= FEWEST and rows[0].sum() >= FEWEST and valid >= FEWEST * FEWEST):
        return None if valid < width * height / 2 and min(width, height) >= FEWEST else Form(FULL, width, height)
    if followed < ISOLATED * valid:
        if filled == 0:  # no block that tells how dense it is
            cells, filled = height * width, max(valid, 1)
        axes = lattice(columns[0]), lattice(rows[0])
        ratios, dense = (axes[0][0], axes[1][0]), cells / filled
        stretched = max(ratios) / min(ratios) > STRETCHED and not 1 / STRETCHED < dense / math.prod(ratios) < STRETCHED
        if min(ratios) < LEAST_RATIO or stretched:  # on no lattice, as where it was projected from another place
            ratios, margins = (math.sqrt(dense),) * 2, NO_MARGINS
        else:  # a pixel lies in the middle of what it stands for, of an even number behind it
            margins = margins_of(width, height, *((pitch, place - (pitch / 2 - 0.25)) for pitch, place in axes))
        name = "sparse"
    else:
        axes, name = (lattice(columns[1]), lattice(rows[1])), "replicated"
        ratios, margins = (axes[0][0], axes[1][0]), margins_of(width, height, *axes)
    if min(ratios) < LEAST_RATIO:
        return Form(FULL, width, height)
    return Form(name, max(1, round(width / ratios[0])), max(1, round(height / ratios[1])), margins)


def pooled(depth: FloatImage, width: int, height: int, buffers: Buffers | None = None) -> FloatImage:
    """Depth (hxw metres, NaN invalid) on a coarser grid of `width` x `height`: NaN where nothing is valid.

    Of the valid pixels of a cell those count that lie on the surface of the one nearest to its centre; their mean is
    taken.  A mean over two surfaces would be a point in the air between them.
    """
    out = (buffers or Buffers()).array("pooled", (height, width))
    _pool(depth, out)
    return out


class Resolution:
    """Takes depth back to the resolution it has; for one thread at a time.

    Every frame is looked at, which takes 0.9 ms at 640 x 480: the next image of the same size may be of another camera.

    setting: "auto" finds it, "full" changes nothing, a number is the ratio of the image's size to the measurements'.
    Raises ValueError for anything else.
    """

    def __init__(self, setting: str = AUTO) -> None:
        self._ratio = 1.0
        self._find = setting == AUTO
        if setting not in (AUTO, FULL):
            try:
                self._ratio = float(setting)
            except ValueError:
                self._ratio = math.nan
            if not 1 <= self._ratio <= LARGEST_RATIO:
                wanted = f"auto, full or a ratio from 1 to {LARGEST_RATIO}"
                raise ValueError(f"depth_resolution is {setting!r}; wanted: {wanted}")
        self._forms: dict[tuple[int, ...], Form] = {}

    def reduced(self, depth: FloatImage, buffers: Buffers | None = None) -> FloatImage:
        """Depth (hxw metres, NaN invalid) on the grid of its measurements, or itself where that is its own.

        buffers: what the result is made in, so that it lasts until the next call with them.
        """
        if self._find:
            self.learn(depth.shape, form_of(depth))
        height, width = self.size(depth.shape)
        return depth if depth.shape == (height, width) else pooled(depth, width, height, buffers)

    def learn(self, given: tuple[int, ...], form: Form | None) -> None:
        """Take a form that was found in depth of height and width `given` elsewhere, as on a GPU, for `size`."""
        if form is not None:  # else an empty frame, which tells nothing of the camera
            self._forms[given] = form

    def form(self, given: tuple[int, ...]) -> Form | None:
        """What was found last in depth of height and width `given`; None if nothing was."""
        return self._forms.get(given)

    def forget(self) -> None:
        """What comes next is of another camera."""
        self._forms.clear()

    def size(self, given: tuple[int, ...]) -> tuple[int, int]:
        """Height and width that `reduced` gives depth of height and width `given`, by what is known so far."""
        form = self.form(given)
        if form is not None:
            return (form.height, form.width) if form.margins == NO_MARGINS else (given[0], given[1])
        height, width = (max(1, round(n / self._ratio)) for n in given)
        return height, width


def covering(
    depth: FloatImage, colour: tuple[int, int], covers: str = AUTO, buffers: Buffers | None = None
) -> FloatImage:
    """Depth (hxw, NaN invalid) with NaN rows below it, so that it covers the whole of the colour image.

    colour: height and width of the colour image.  covers: what of it the depth covers: "all"; "top": its whole width,
    and as many rows as that makes; "auto": the top for 4:3 depth and a 5:4 colour image, as PrimeSense cameras send
    with 1280 x 1024, else all.  Raises ValueError for another word.
    """
    (height, width), (rows, _) = depth.shape, covered_size(depth.shape, colour, covers)
    if rows == height:
        return depth
    out = (buffers or Buffers()).array("covering", (rows, width))
    out[:height] = depth
    out[height:] = np.nan
    return out


def covered_size(depth: tuple[int, ...], colour: tuple[int, ...], covers: str = AUTO) -> tuple[int, int]:
    """Height and width that `covering` gives depth of height and width `depth`."""
    if covers not in COVERS:
        raise ValueError(f"depth_covers is {covers!r}; wanted: {', '.join(COVERS)}")
    height, width = depth
    # The shapes are compared to a percent: of depth that was pooled, sizes are rounded.
    if covers == AUTO:
        shapes = abs(3 * width / (4 * height) - 1), abs(4 * colour[1] / (5 * colour[0]) - 1)
        covers = "top" if max(shapes) < 0.01 else "all"
    rows = round(colour[0] * width / colour[1])
    return (rows if covers == "top" and rows > height else height), width


_IMAGE = any_image(types.float32, 2)
_FLAGS = types.bool_[:, ::1]
BLOCK = 16
"""The density of sparse depth is measured in blocks of so many pixels, of which the empty ones are holes."""


@compiled(types.UniTuple(types.int64, 4)(_IMAGE, _FLAGS, _FLAGS), nogil=True, error_model="numpy")
def _look(depth, columns, rows):  # type: ignore[no-untyped-def]
    """columns, rows: 2xn; set where anything is valid, and where anything differs from the one before.

    Returns how many pixels are valid, how many of those have a valid one to their right, how many pixels lie in blocks
    that have valid ones inside and all around, and how many of those are valid.
    """
    height, width = depth.shape
    valid, followed, cells, filled = 0, 0, 0, 0
    down, across = (height + BLOCK - 1) // BLOCK, (width + BLOCK - 1) // BLOCK
    counts = np.zeros((down, across), np.int64)
    for y in range(height):
        for x in range(width):
            here = depth[y, x]
            known = here == here
            if known:
                valid += 1
                counts[y // BLOCK, x // BLOCK] += 1
                columns[0, x] = rows[0, y] = True
                if x + 1 < width and depth[y, x + 1] == depth[y, x + 1]:
                    followed += 1
            if x:
                before = depth[y, x - 1]
                if here != before and (known or before == before):
                    columns[1, x] = True
            if y:
                before = depth[y - 1, x]
                if here != before and (known or before == before):
                    rows[1, y] = True
    # The border blocks of a hole are partly empty; only where all blocks around have something does density count.
    for j in range(down):
        for i in range(across):
            full = (j + 1) * BLOCK <= height and (i + 1) * BLOCK <= width
            for b in range(max(0, j - 1), min(down, j + 2)):
                for a in range(max(0, i - 1), min(across, i + 2)):
                    full = full and counts[b, a] > 0
            if full:
                cells += BLOCK * BLOCK
                filled += counts[j, i]
    return valid, followed, cells, filled


@compiled(types.void(_IMAGE, types.float32[:, ::1]), nogil=True, error_model="numpy")
def _pool(depth, out):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    rows, columns = out.shape
    for j in range(rows):
        # Of the pixels whose centres lie in the cell; on a finer grid, the one that the cell's centre lies in.
        top, bottom = np.ceil(j * height / rows - 0.5), np.ceil((j + 1) * height / rows - 0.5)
        middle_y = (j + 0.5) * height / rows - 0.5
        if bottom <= top:
            top, bottom = np.rint(middle_y), np.rint(middle_y) + 1
        for i in range(columns):
            left, right = np.ceil(i * width / columns - 0.5), np.ceil((i + 1) * width / columns - 0.5)
            middle_x = (i + 0.5) * width / columns - 0.5
            if right <= left:
                left, right = np.rint(middle_x), np.rint(middle_x) + 1
            nearest, chosen = np.inf, np.float32(np.nan)
            for y in range(int(top), min(height, int(bottom))):
                for x in range(int(left), min(width, int(right))):
                    away = (y - middle_y) ** 2 + (x - middle_x) ** 2
                    if away < nearest and depth[y, x] == depth[y, x]:
                        nearest, chosen = away, depth[y, x]
            total, count = 0.0, 0
            for y in range(int(top), min(height, int(bottom))):
                for x in range(int(left), min(width, int(right))):
                    if abs(depth[y, x] - chosen) <= SAME_SURFACE * chosen:
                        total += depth[y, x]
                        count += 1
            out[j, i] = np.float32(total / count) if count else np.float32(np.nan)
