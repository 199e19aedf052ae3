"""Where colour lies on depth, found by their edges: for cameras whose registration is missing or wrong.

Depth that passes for registered may lie ten pixels beside its colour: another focal length, a baseline that nobody took
out.  The network would then move depth edges to colour edges that are not theirs.  So the gradients of the colour image
are summed up over the depth edges, moved by a scale, a shift and a parallax; where a move makes the sum much larger,
that is how both lie (`edges`).  The bounds were set on public frames, those of 7-Scenes (a raw Kinect) and a RealSense
frame of SUN RGB-D on one side, of cameras that are registered on the other.

What moves is the colour, as the network's guide.  The depth stays where the driver put it.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import cv2
import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import compiled
from dkn_ros.edges import (
    FAR_AND_WIDE,
    FEWEST,
    NEAR_BY,
    SEARCH,
    SEARCHES,
    TRACK,
    Alignment,
    ColourEdges,
    depth_edges,
    grid_of,
)
from dkn_ros.preprocess import fill_holes
from dkn_ros.traits import UNKNOWN

FloatImage = NDArray[np.float32]

PROMISE = 1.2
"""A few trials, near by or far and wide, must raise the sum by this factor, or nothing is searched."""
MET, BESIDE = 1.04, 1.10
"""What a few trials near by raise the sum by where depth edges lie on colour edges, and where they do not; measured on
public frames: up to 1.06 for Redwood, ICL-NUIM and two of NYU v2, from 1.08 on for TUM, SUN RGB-D and 7-Scenes."""
ON, OFF, MOVED = 0.75, 0.05, 0.3
"""What the network is told then, and where the colour is moved, see `Traits.aligned`."""
PAUSE = 30
"""Frames until a camera that seems registered is looked at again."""
DOUBTS = 10
"""Frames in a row that do not confirm an alignment, until it is given up."""
FOLLOWS = 0.3
"""Share of a new alignment in the one that is used: colour and depth that are not taken at once change as the camera
moves, and what the edges tell trembles by some tenths of a pixel."""


class Found(NamedTuple):
    """What is known of a camera."""

    alignment: Alignment | None = None
    """In use; None: both lie on each other, as far as can be told."""
    pixels: float = 0.0
    """How far, in the mean over the depth edges, colour and depth lie apart; pixels of the colour image."""
    aligned: float = UNKNOWN
    """How well depth edges lie on colour edges, moved ones if they are, see `Traits.aligned`."""


class Aligner:
    """Finds and follows how the colour of one camera lies on its depth.

    A camera whose edges meet, or that shows none, is looked at in every 30th frame.  Of one whose edges do not, the
    alignment is searched once, and followed in every frame from then on.

    Threads may share it, each with buffers of its own: while one looks, the others use what is known.
    """

    def __init__(self) -> None:
        self.found = Found()
        """Replaced as a whole, so that whoever reads it once has one state."""
        self._size: tuple[int, ...] = ()
        self._pause = self._doubts = 0
        self._looking = threading.Lock()

    def asks(self, size: tuple[int, ...]) -> bool:
        """Whether a frame with colour of that shape is to be given to `guide`; else there is no need to.

        To be called once a frame.
        """
        if size == self._size and self.found.alignment is None and self._pause > 0:
            self._pause -= 1  # two threads at once may count one frame, or one below 0
            return False
        return True

    def forget(self) -> None:
        """What comes next is of another camera."""
        self.found = Found()
        self._pause = self._doubts = 0

    def guide(self, rgb: NDArray[np.uint8], depth: FloatImage, buffers: Buffers) -> NDArray[np.uint8]:
        """The colour image as seen from where the depth is: itself, or one in the `buffers`.

        rgb: HxWx3 or HxW.  depth: hxw metres of the same field of view, NaN invalid.
        """
        if self._looking.acquire(blocking=False):
            try:
                if rgb.shape != self._size:
                    self.forget()
                    self._size = rgb.shape
                self._look(rgb, depth, buffers)
            finally:
                self._looking.release()
        alignment = self.found.alignment
        if alignment is None or rgb.shape != self._size or np.isnan(depth).all():
            return rgb
        return moved(rgb, depth, alignment, buffers)

    def _look(self, rgb: NDArray[np.uint8], depth: FloatImage, buffers: Buffers) -> None:
        before = self.found.alignment
        if before is None:
            self._pause = PAUSE - 1
        height, width = grid_of(rgb)
        points = depth_edges(depth, width, height)
        if points.shape[1] < FEWEST:
            return  # which tells nothing, as of a bare wall
        edges, fineness = ColourEdges(rgb, buffers), _fineness(depth, height, width)
        if before is None:
            near, far = (edges.fit(points, stages, Alignment(), fineness) for stages in (NEAR_BY, FAR_AND_WIDE))
            if far.faint and near.faint:
                return  # nor does a covered lens
            self.found = Found(aligned=float(np.interp(near.gain, (MET, BESIDE), (ON, OFF))))
            if max(near.gain, far.gain) < PROMISE:
                return
            fits = [edges.fit(points, SEARCH, Alignment(), fineness, number) for number in range(SEARCHES)]
            fit = max(fits, key=lambda found: found.gain)
        else:
            fit = edges.fit(points, TRACK, before.enlarged(1 / edges.factor), fineness)
        if not fit.sure:
            if before is not None and not fit.faint:
                self._doubt()
            return
        self._doubts = 0
        now = fit.alignment.enlarged(edges.factor)
        if before is not None:
            now = Alignment(*((1 - FOLLOWS) * b + FOLLOWS * n for b, n in zip(before, now, strict=True)))
        self.found = Found(now, edges.factor * _distance(points, now.enlarged(1 / edges.factor)), MOVED)

    def _doubt(self) -> None:
        self._doubts += 1
        if self._doubts >= DOUBTS:
            self.forget()


def moved(rgb: NDArray[np.uint8], depth: FloatImage, alignment: Alignment, buffers: Buffers) -> NDArray[np.uint8]:
    """The colour image (HxWx3 or HxW) as the depth's camera would see it, in one of the `buffers`.

    At a depth edge the nearer surface counts: it is what hides the other, and the edge is its outline.
    """
    height, width = rgb.shape[:2]
    nearness = np.divide(1, fill_holes(depth, buffers.part("filled"))[0], out=buffers.array("nearness", depth.shape))
    nearer = cv2.dilate(nearness, np.ones((3, 3), np.uint8), buffers.array("nearer", depth.shape))
    fine = cv2.resize(nearer, (width, height), buffers.array("fine nearness", (height, width)))
    across, down = (buffers.array(f"look {name}", (height, width)) for name in ("across", "down"))
    _places(fine, np.array(alignment), across, down)
    out = buffers.array("moved", rgb.shape, np.uint8)
    cv2.remap(rgb, across, down, cv2.INTER_LINEAR, out, borderMode=cv2.BORDER_REPLICATE)
    return out


def _fineness(depth: FloatImage, height: int, width: int) -> float:
    """How far to blur gradients at least, pixels: a coarse depth image knows its edges no better."""
    return max(1.0, 0.3 * width / depth.shape[1], 0.3 * height / depth.shape[0])


def _distance(points: FloatImage, alignment: Alignment) -> float:
    x, y, nearness = points[:3]
    across = alignment.scale * x + alignment.right + alignment.parallax * nearness
    return float(np.hypot(across, alignment.scale * y + alignment.down).mean())


_IMAGE = types.float32[:, ::1]


@compiled(types.void(_IMAGE, types.float64[::1], _IMAGE, _IMAGE), nogil=True, parallel=True, error_model="numpy")
def _places(nearness, move, across, down):  # type: ignore[no-untyped-def]
    """Where each pixel's colour lies, in OpenCV's coordinates: whole numbers are pixel centres."""
    height, width = nearness.shape
    for y in numba.prange(height):
        for x in range(width):
            column, row = x + 0.5 - 0.5 * width, y + 0.5 - 0.5 * height
            across[y, x] = (1 + move[0]) * column + move[1] + move[3] * nearness[y, x] + 0.5 * width - 0.5
            down[y, x] = (1 + move[0]) * row + move[2] + 0.5 * height - 0.5
