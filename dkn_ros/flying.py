"""Flying pixels: depth that floats between two surfaces, where there is nothing.

A sensor's pixel at a depth edge sees both sides and reports something between them, and so does whatever averages
across an edge.  Such a pixel has hardly a neighbour at its own depth, but some in front of it and some behind.

Measured on rendered rooms (seeds 2000 to 2007, ten cameras: 1 to 8 times smaller, means and samples, a Kinect v1's
noise, time of flight), after the network; wrong is off by more than 5 %, right within 2 %
(`python -m dkn_ros.synthetic.flying_check`):

    threshold    wrong pixels removed    right pixels lost    of all pixels
      0.02              68 %                  0.32 %              3.0 %
      0.03              59 %                  0.10 %              2.2 %
      0.05              44 %                  0.02 %              1.4 %

0.03 is what to ask for.  The filter is off by default all the same: what it removes leaves holes along every depth
edge, 2 % of the image, and whoever wants dense depth gets a wrong pixel there rather than none.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import compiled

FloatImage = NDArray[np.float32]

REACH = 2
"""Neighbours are looked for in a square of 2 REACH + 1 pixels."""
COMPANY = 9
"""A pixel with so many neighbours at its own depth lies on a surface."""


def forget_flying(depth: FloatImage, threshold: float, buffers: Buffers) -> None:
    """Make NaN of every pixel that floats between two surfaces; in place.

    depth: HxW metres, NaN invalid, C-contiguous.  threshold: how far two pixels of one surface may be apart, in parts
    of their depth; 0 does nothing.
    """
    if threshold <= 0:
        return
    flying = buffers.array("flying", depth.shape, np.bool_)
    _flying(depth, np.float32(threshold), flying)
    np.copyto(depth, np.float32(np.nan), where=flying)


@compiled(
    types.void(types.float32[:, ::1], types.float32, types.bool_[:, ::1]), nogil=True, error_model="numpy"
)  # fmt: skip
def _flying(depth, threshold, out):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for y in range(height):
        top, bottom = max(0, y - REACH), min(height, y + REACH + 1)
        for x in range(width):
            out[y, x] = False
            here = depth[y, x]
            near, far = here * (np.float32(1) - threshold), here * (np.float32(1) + threshold)
            # Most pixels lie on a surface, which the four next to them tell.
            close = 0
            if y > 0 and depth[y - 1, x] > near and depth[y - 1, x] < far:
                close += 1
            if y + 1 < height and depth[y + 1, x] > near and depth[y + 1, x] < far:
                close += 1
            if x > 0 and depth[y, x - 1] > near and depth[y, x - 1] < far:
                close += 1
            if x + 1 < width and depth[y, x + 1] > near and depth[y, x + 1] < far:
                close += 1
            if close >= 3 or here != here:
                continue
            close, before, behind = -1, 0, 0  # not counting itself
            for v in range(top, bottom):
                for u in range(max(0, x - REACH), min(width, x + REACH + 1)):
                    other = depth[v, u]
                    if other <= near:
                        before += 1
                    elif other >= far:
                        behind += 1
                    elif other == other:
                        close += 1
            out[y, x] = close < COMPANY and before > 0 and behind > 0
