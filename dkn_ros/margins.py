"""Margins around both images where the blocks of depth, or its sparse pixels, do not begin at the image's corner.

Depth that its driver brought to the colour image's size is taken back to the grid of its measurements, see
`resolution`, and all that follows takes that grid to cover the whole image.  It does not where both images were cut, or
where the driver rounds in its own way: then part of a block lies at the border.  Both images get margins that make it
whole, and lose them again in the end:

    rgb, depth ── margins ── a frame like any other ── cut ── depth, confidence

What comes out is as good as where nothing was cut, and better than where such depth is left as it is (`test_margins.py`
holds both); on a grid that begins at the corner all the same it was worse than what went in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.frame import Enhanced
from dkn_ros.lattice import NO_MARGINS, Margins
from dkn_ros.resolution import FULL, Resolution

FloatImage = NDArray[np.float32]
PATIENCE = 300
"""Frames after which images get margins again whose blocks had turned out irregular: ten seconds of a camera."""
Enhance = Callable[[NDArray[np.uint8], NDArray, FloatImage, FloatImage | None], Enhanced]
"""From colour and depth to an image for depth and one for confidence, if that is wanted."""


class Framing:
    """Gives a camera's images the margins that they need; for one thread at a time.

    resolution: what finds out, with every frame, where the blocks of its depth begin.
    """

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution
        self._margins: dict[tuple[int, ...], Margins] = {}
        self._irregular: dict[tuple[int, ...], int] = {}  # frames for which they get none
        # Until the next frame alone: who writes the next picture into the same array must not see this one.
        self._early: tuple[NDArray[np.uint8], Margins, NDArray[np.uint8]] | None = None
        self._buffers = Buffers()

    def release(self) -> None:
        """Free the arrays that are kept for the next frame."""
        self._buffers, self._early = Buffers(), None

    def forget(self) -> None:
        """What comes next is of another camera."""
        self._margins.clear()
        self._irregular.clear()

    def of(self, rgb: NDArray[np.uint8], depth_size: tuple[int, ...]) -> Margins:
        """The margins of images like these, by what is known so far.  Depth of another size than colour has none."""
        return self._margins.get(depth_size, NO_MARGINS) if depth_size == rgb.shape[:2] else NO_MARGINS

    def early(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A colour image with the margins that are known; it will be the same array in the next frame, if they hold."""
        margins = self.of(rgb, rgb.shape[:2])
        wide = _around(rgb, margins, cv2.BORDER_REPLICATE)
        self._early = rgb, margins, wide
        return wide

    def around(self, rgb: NDArray[np.uint8], depth: NDArray) -> tuple[NDArray[np.uint8], NDArray, Margins]:
        """Both images with the margins that this very depth needs, in which the resolution was just looked for."""
        form = self._resolution.form(depth.shape)
        if form is None or depth.shape != rgb.shape[:2] or form.margins == NO_MARGINS:
            return rgb, depth, NO_MARGINS
        margins = form.margins
        return _around(rgb, margins, cv2.BORDER_REPLICATE), _around(depth, margins, cv2.BORDER_CONSTANT), margins

    def run(
        self, enhance: Enhance, rgb: NDArray[np.uint8], depth: NDArray, out: FloatImage, confidence: FloatImage | None
    ) -> Enhanced:
        """What `enhance` makes of the images with their margins, cut back to them; images as in `Pipeline.enhance`.

        The frame that shows that the margins are others than those before it is done again with them.  Where they do
        not hold in that very frame, blocks are not as regular as they seemed, and images of that size get none for a
        while.
        """
        margins = self.of(rgb, depth.shape)
        made = self._within(enhance, margins, rgb, depth, out, confidence)
        self._early = None
        if self._learn(margins, rgb, depth.shape):
            margins = self.of(rgb, depth.shape)
            made = self._within(enhance, margins, rgb, depth, out, confidence)
            if self._learn(margins, rgb, depth.shape) and margins != NO_MARGINS:
                self._irregular[depth.shape] = PATIENCE
        return made

    def _within(
        self, enhance: Enhance, margins: Margins, rgb: NDArray[np.uint8], depth: NDArray, out: FloatImage,
        confidence: FloatImage | None,
    ) -> Enhanced:  # fmt: skip
        if margins == NO_MARGINS:
            return enhance(rgb, depth, out, confidence)
        size = margins.size(depth.shape)
        wide = self._buffers.array("depth", size)
        sure = None if confidence is None else self._buffers.array("confidence", size)
        early = self._early
        if early is not None and early[0] is rgb and early[1] == margins:
            colour = early[2]
        else:
            colour = _around(rgb, margins, cv2.BORDER_REPLICATE)
        made = enhance(colour, _around(depth, margins, cv2.BORDER_CONSTANT), wide, sure)
        inside = margins.inside(depth.shape)
        np.copyto(out, wide[inside])
        if confidence is not None and sure is not None:
            np.copyto(confidence, sure[inside])
        return dataclasses.replace(made, depth=out)

    def _learn(self, margins: Margins, rgb: NDArray[np.uint8], given: tuple[int, ...]) -> bool:
        """Take note of what a frame with these margins showed; returns whether it needs others."""
        form = self._resolution.form(margins.size(given))
        if form is None or given != rgb.shape[:2]:
            return False
        if self._irregular.get(given, 0) > 0:
            self._irregular[given] -= 1
            return False
        if margins == NO_MARGINS:
            self._margins[given] = form.margins
        elif form.margins != NO_MARGINS or form.name == FULL:  # another camera: first without, then anew
            del self._margins[given]
        return self.of(rgb, given) != margins


def _around(image: NDArray[Any], margins: Margins, border: int) -> NDArray[Any]:
    """The image with its border repeated around it, or with 0, which is invalid depth."""
    sides = margins.top, margins.bottom, margins.left, margins.right
    return np.asarray(cv2.copyMakeBorder(np.ascontiguousarray(image), *sides, border, value=0))
