"""Margins around both images where the blocks of depth, or its sparse pixels, do not begin at the image's corner.

Depth that its driver brought to the colour image's size is taken back to the grid of its measurements, see
`resolution`, and all that follows takes that grid to cover the whole image.  It does not where both images were cut, or
where the driver rounds in its own way: then part of a block lies at the border.  Both images get margins that make it
whole, and lose them again in the end:

    rgb, depth ── margins ── a frame like any other ── cut ── depth, confidence

Measured on a rendered 640 x 480 frame, replicated 4 times and cut by 2 pixels: an RMSE of 5.3 cm, as where nothing was
cut; 19.8 cm on a grid that begins at the corner all the same, and 11.6 cm where such depth is left as it is.
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
from dkn_ros.resolution import FULL, NO_MARGINS, Margins, Resolution

FloatImage = NDArray[np.float32]
Enhance = Callable[[NDArray[np.uint8], NDArray, FloatImage, FloatImage | None], Enhanced]
"""From colour and depth to an image for depth and one for confidence, if that is wanted."""


class Framing:
    """Gives a camera's images the margins that they need; for one thread at a time.

    resolution: what finds out, with every frame, where the blocks of its depth begin.
    """

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution
        self._margins: dict[tuple[int, ...], Margins] = {}
        self._colour: tuple[NDArray[np.uint8], Margins, NDArray[np.uint8]] | None = None
        self._buffers = Buffers()

    def release(self) -> None:
        """Free the arrays that are kept for the next frame."""
        self._buffers, self._colour = Buffers(), None

    def forget(self) -> None:
        """What comes next is of another camera."""
        self._margins.clear()

    def of(self, rgb: NDArray[np.uint8], depth_size: tuple[int, ...]) -> Margins:
        """The margins of images like these, by what is known so far.  Depth of another size than colour has none."""
        return self._margins.get(depth_size, NO_MARGINS) if depth_size == rgb.shape[:2] else NO_MARGINS

    def colour(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A colour image with its margins, the same array for the same image; that image itself if it has none."""
        margins = self.of(rgb, rgb.shape[:2])
        if margins == NO_MARGINS:
            return rgb
        if self._colour is None or self._colour[0] is not rgb or self._colour[1] != margins:
            # A new array: what the guidance tower saw in the last one is told apart by it.
            self._colour = rgb, margins, _around(rgb, margins, cv2.BORDER_REPLICATE)
        return self._colour[2]

    def around(self, rgb: NDArray[np.uint8], depth: NDArray) -> tuple[NDArray[np.uint8], NDArray, Margins]:
        """Both images with the margins that this very depth needs, in which the resolution was just looked for."""
        form = self._resolution.form(depth.shape)
        if form is None or depth.shape != rgb.shape[:2] or form.margins == NO_MARGINS:
            return rgb, depth, NO_MARGINS
        self._margins[depth.shape] = form.margins
        return self.colour(rgb), _around(depth, form.margins, cv2.BORDER_CONSTANT), form.margins

    def run(
        self, enhance: Enhance, rgb: NDArray[np.uint8], depth: NDArray, out: FloatImage, confidence: FloatImage | None
    ) -> Enhanced:
        """What `enhance` makes of the images with their margins, cut back to them; images as in `Pipeline.enhance`.

        The frame that shows that the margins are others than those before it is done again with them.
        """
        for _ in range(2):
            margins = self.of(rgb, depth.shape)
            made = self._within(enhance, margins, rgb, depth, out, confidence)
            if not self._learn(margins, rgb, depth.shape):
                break
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
        made = enhance(self.colour(rgb), _around(depth, margins, cv2.BORDER_CONSTANT), wide, sure)
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
        if margins == NO_MARGINS:
            self._margins[given] = form.margins
        elif form.margins != NO_MARGINS or form.name == FULL:  # another camera: first without, then anew
            del self._margins[given]
        return self.of(rgb, given) != margins


def _around(image: NDArray[Any], margins: Margins, border: int) -> NDArray[Any]:
    """The image with its border repeated around it, or with 0, which is invalid depth."""
    sides = margins.top, margins.bottom, margins.left, margins.right
    return np.asarray(cv2.copyMakeBorder(np.ascontiguousarray(image), *sides, border, value=0))
