"""The nearest measured pixel of every pixel, on the device; exact.

Squared distances are parabolas (Felzenszwalb, Huttenlocher, "Distance Transforms of Sampled Functions").  Along a
column the nearest measured pixel is a running maximum of row numbers, from both sides.  Along a row it lies in the
column whose parabola, starting at the square of what its own column found, is lowest there: all columns are compared,
in plain operations all of them at every pixel, in Triton from the pixel outwards until none can be lower.

Jump flooding, which is usual on GPUs, was tried: along rows, with three passes of 11 candidates, it was wrong at up to
4 % of the pixels, by up to 40 of them.  OpenCV's 5 x 5 chamfer, which the CPU path uses, is off by -1.8 to 1.9 % of the
distance, and so its nearest pixel is another one where two are about as far: there both paths fill holes differently.
Of pixels that are as far, the one in the leftmost column counts here, and in a column the upper one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dkn_ros.engine import TritonError, first_line
from dkn_ros.gpu.resampling import Size

AT_ONCE = 1 << 23
"""So many numbers plain operations compare at a time: all columns with all in images of 160 x 120 or so."""
LARGEST = 4096
"""Larger sides' squares need more than 32 bits."""


class Nearest:
    """Finds nearest measured pixels in images of one size.  triton: whether its kernel compares the columns."""

    def __init__(self, size: Size, device: torch.device, triton: bool = False) -> None:
        self._size, self._triton, side = size, triton, max(size)
        kind = torch.int32 if side <= LARGEST else torch.int64
        # What is not measured lies so far away that whatever is measured is nearer, and its square still fits.
        self._far = 4 * side
        self._rows = torch.arange(size[0], device=device, dtype=kind)[:, None]
        self._columns = torch.arange(size[1], device=device, dtype=kind)
        self._squares, self._slopes = self._columns**2, -2 * self._columns

    def __call__(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """known: hxw bool.  Returns the place (row * w + column) of each pixel's nearest, and its distance in pixels.

        Where nothing is known places are arbitrary ones of the image.
        """
        height, width = self._size
        rows = self._rows
        above = torch.where(known, rows, -self._far).cummax(0).values
        below = torch.where(known, rows, height + self._far).flip(0).cummin(0).values.flip(0)
        row = torch.where(rows - above <= below - rows, above, below)
        least = (row - rows).square()
        column = _by_triton(least) if self._triton else self._compared(least)
        row = row.gather(1, column)
        distance = ((row - rows).square() + (column - self._columns).square()).float().sqrt()
        return row.clamp(0, height - 1) * width + column, distance

    def _compared(self, least: Tensor) -> Tensor:
        """Of (x - column)^2 + least the lowest column; x^2 is the same for all of them and left out."""
        height, width = self._size
        least = least + self._squares
        found, lowest = None, None
        count = max(1, AT_ONCE // (height * width))
        for first in range(0, width, count):
            some = slice(first, first + count)
            cost, column = torch.addcmul(least[:, some, None], self._columns[some, None], self._slopes).min(1)
            column += first
            if found is not None and lowest is not None:
                column = torch.where(cost < lowest, column, found)
                cost = torch.minimum(cost, lowest)
            found, lowest = column, cost
        assert found is not None
        return found


def _by_triton(least: Tensor) -> Tensor:
    try:
        from dkn_ros.gpu import columns_cuda

        return columns_cuda.lowest(least)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # its compiler, the linker that it calls and its driver raise what they like
        raise TritonError(first_line(error)) from error
