"""What a camera and its driver did to the images is undone here before the network sees them, and learned from them.

depth ── register, or margins ── metres ── resolution ── coverage ──┬── network
rgb ───────────────── margins ──────────── where both lie, by edges ─┘
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dkn_ros.alignment import Aligner
from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.depth import check_depth, to_metres
from dkn_ros.margins import Framing
from dkn_ros.registration import Registration
from dkn_ros.resolution import Resolution, covered_size, covering

FloatImage = NDArray[np.float32]


class Intake:
    """Takes in the images of one camera; for one thread at a time.

    Its results last until the next frame.  resolution: the setting `depth_resolution`; the other settings may be others
    with every call.  aligner: of another intake of the same camera, whose thread works at the same time.
    """

    def __init__(self, resolution: str, aligner: Aligner | None = None) -> None:
        self.resolution = Resolution(resolution)
        self.framing = Framing(self.resolution)
        self.aligner = aligner or Aligner()
        self._buffers = Buffers()

    def release(self) -> None:
        """Free the arrays that are kept for the next frame."""
        self._buffers = Buffers()
        self.framing.release()

    def registered(self, config: PipelineConfig, depth: NDArray, registration: Registration) -> FloatImage:
        """Raw depth of another camera, as in `Pipeline.enhance`, as the colour camera sees it; metres, NaN invalid.

        What lies beyond the limits goes before: it would hide what lies behind it.
        """
        check_depth(depth)
        metres = self._buffers.array("as sent", depth.shape)
        to_metres(depth, config.min_depth, config.max_depth, metres)
        return registration.register(metres, buffers=self._buffers.part("registered"))

    def metres(self, config: PipelineConfig, depth: NDArray, colour: tuple[int, int]) -> FloatImage:
        """Depth as the network gets it: float32 metres, NaN invalid, on the grid of its measurements, see `resolution`.

        depth: as in `Pipeline.enhance`.  colour: height and width of the colour image.
        """
        check_depth(depth)
        metres = self._buffers.array("metres", depth.shape)
        to_metres(depth, config.min_depth, config.max_depth, metres)
        return covering(self.resolution.reduced(metres, self._buffers), colour, config.depth_covers, self._buffers)

    def metres_size(
        self,
        config: PipelineConfig,
        depth: tuple[int, int],
        colour: tuple[int, int],
        registration: Registration | None = None,
    ) -> tuple[int, int]:
        """Height and width that `metres` will probably give raw depth of such a height and width."""
        if registration is not None:
            depth = registration.grid_size(depth)
        rows, columns = covered_size(self.resolution.size(depth), colour, config.depth_covers)
        return rows, columns

    def forget(self) -> None:
        """What comes next is of another camera."""
        self.resolution.forget()
        self.framing.forget()
        self.aligner.forget()

    def aligns(self, config: PipelineConfig, rgb: NDArray[np.uint8]) -> bool:
        """Whether this frame's colour is to be given to `guide`.  To be called once a frame."""
        if not config.align_colour:
            self.aligner.forget()  # it may be switched off in the middle: what was known then is not told any more
            return False
        return self.aligner.asks(rgb.shape)

    def guide(self, rgb: NDArray[np.uint8], metres: FloatImage) -> NDArray[np.uint8]:
        """The colour image as the network is to see it: moved where it lies beside the depth, see `alignment`.

        rgb: as in `Pipeline.enhance`.  metres: of `metres`.
        """
        return self.aligner.guide(rgb, metres, self._buffers.part("alignment"))

    def misregistered(self, config: PipelineConfig) -> str:
        """How far colour and depth lie apart, and how the colour is moved for it; empty where they do not."""
        found = self.aligner.found
        if found.alignment is None or not config.align_colour:
            return ""
        return f"{found.pixels:.0f} pixels apart ({found.alignment})"
