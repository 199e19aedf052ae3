"""The frames that a simulated camera plays: rendered scenes or real frames from a folder, with their truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import CameraConfig
from dkn_ros.images import frame_pairs, read_pair
from dkn_ros.synthetic.degradation import KINECT, degrade, lower

SYNTHETIC = "synthetic"
NOMINAL_FOCAL_LENGTH = 525 / 640
"""Of the image's width: PrimeSense's colour camera, for folders, which do not tell theirs."""


@dataclass(frozen=True)
class Shot:
    """What the camera sends for one frame, and what it should have seen."""

    rgb: NDArray[np.uint8]
    """HxWx3."""
    depth: NDArray[np.float32]
    """(H // factor)x(W // factor) metres, NaN invalid."""
    truth: NDArray[np.float32]
    """HxW metres, NaN where unknown."""
    focal_length: float
    """Pixels of the colour image."""


def shots(config: CameraConfig) -> Iterator[Shot]:
    """The frames of one round, in order; played forth and back they make a continuous motion."""
    if config.source == SYNTHETIC:
        return _rendered(config)
    return _recorded(Path(config.source).expanduser(), config.factor, config.method)


def _rendered(config: CameraConfig) -> Iterator[Shot]:
    from dkn_ros.synthetic.scene import Scene  # compiles the ray caster: only for those who render

    scene = Scene(config.seed)
    camera = dataclasses.replace(KINECT, factor=config.factor, method=config.method)
    for i in range(config.frames):
        frame = scene.frame(config.width, config.height, time=i / config.rate)
        low = degrade(frame.depth, camera, np.random.default_rng((config.seed, i)))
        yield Shot(frame.rgb, low, frame.depth, frame.focal_length)


def _recorded(folder: Path, factor: int, method: str) -> Iterator[Shot]:
    """Real frames, the depth made smaller; pixels the sensor did not see stay unknown in both."""
    for pair in frame_pairs(folder):
        rgb, truth = read_pair(pair, factor)
        yield Shot(rgb, lower(truth, factor, method), truth, NOMINAL_FOCAL_LENGTH * truth.shape[1])
