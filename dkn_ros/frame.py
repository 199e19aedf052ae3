"""What the pipeline gives of one frame, and what it keeps of a colour image whose depth is still to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkn_ros.engine import Engine
from dkn_ros.models.fdkn import Heads

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Enhanced:
    """The result of one frame."""

    depth: FloatImage
    """HxW metres on the colour grid, NaN where nothing can be known: beyond `fill_distance` from measured depth."""
    timings: dict[str, float]
    """Milliseconds of every stage, in order, and of the `whole`."""
    blind: bool = False
    """Whether nothing of the given depth was valid, so that all of `depth` is NaN."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """HxW, where `depth` is trusted; made anew each time."""
        return ~np.isnan(self.depth)


@dataclass(frozen=True)
class Guidance:
    """What the network sees in a colour image, see `Pipeline.look`."""

    rgb: NDArray[np.uint8]
    size: tuple[int, int]
    """Height and width of the grid that the network works on."""
    heads: Heads | None
    """None for a network without guidance."""
    milliseconds: float
    """How long it took."""
    engine: Engine
    """What made it; another one has no use for it."""
    seen: object = None
    """What `gpu.device_frames.DeviceFrames.look` gave, which then holds the heads."""


def check_out(name: str, out: FloatImage, size: tuple[int, int]) -> None:
    """Raise ValueError, naming the argument, unless a result of height and width `size` can be written into `out`."""
    if out.shape != size or out.dtype != np.float32 or not out.flags.c_contiguous:
        given = f"{out.dtype} of shape {out.shape}" + ("" if out.flags.c_contiguous else ", not contiguous")
        raise ValueError(f"{name} is {given}; wanted: C-contiguous float32 of shape {size}")
