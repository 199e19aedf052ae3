"""The frames that a simulated camera plays: rendered scenes or real frames from a folder, with their truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dkn_ros.config import CameraConfig
from dkn_ros.geometry import Transform
from dkn_ros.images import frame_pairs, read_pair
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade, lower

if TYPE_CHECKING:
    from dkn_ros.synthetic.render import Camera

SYNTHETIC = "synthetic"
NOMINAL_FOCAL_LENGTH = 525 / 640
"""Of the image's width: PrimeSense's colour camera, for folders, which do not tell theirs."""


@dataclass(frozen=True)
class Shot:
    """What the camera sends for one frame, and what it should have seen."""

    rgb: NDArray[np.uint8]
    """HxWx3."""
    depth: NDArray[np.float32]
    """hxw metres, NaN invalid; seen from the colour camera, or from where the extrinsics say."""
    truth: NDArray[np.float32]
    """HxW metres, NaN where unknown; always seen from the colour camera."""
    focal_length: float
    """Pixels of the colour image."""
    depth_focal_lengths: tuple[float, float]
    """Pixels of the depth image, across and down."""


def shots(config: CameraConfig) -> Iterator[Shot]:
    """The frames of one round, in order; played forth and back they make a continuous motion.

    Raises ValueError for extrinsics that are none, or of frames from a folder, and for depth that is larger than colour
    where one camera sees both.
    """
    if config.source == SYNTHETIC:
        return _rendered(config, Transform.parsed(config.extrinsics) if config.extrinsics else None)
    if config.extrinsics:
        raise ValueError("extrinsics are set for frames of a folder; wanted: source synthetic, or no extrinsics")
    return _recorded(Path(config.source).expanduser(), config.factor, config.method)


def _rendered(config: CameraConfig, place: Transform | None) -> Iterator[Shot]:
    from dkn_ros.synthetic.render import render_depth  # compile the ray caster: only for those who render
    from dkn_ros.synthetic.scene import Scene

    scene, model = Scene(config.seed), _model(config)
    for i in range(config.frames):
        view = config.width, config.height, i / config.rate, config.focal_length
        frame, rng = scene.frame(*view), np.random.default_rng((config.seed, i))
        if place is None:
            depth = degrade(frame.depth, model, rng)
            across, down = (1.0, 1.0) if model.registered else model.factors
            focal = frame.focal_length / across, frame.focal_length / down
        else:
            camera = _beside(scene.camera(*view), config, place)
            depth = degrade(render_depth(scene.world, camera), dataclasses.replace(KINECT, factor=1), rng)
            focal = camera.focal_length, camera.focal_length
        yield Shot(frame.rgb, depth, frame.depth, frame.focal_length, focal)


def _model(config: CameraConfig) -> CameraModel:
    """What becomes of depth that is seen from the colour camera."""
    across = config.width / config.depth_width if config.depth_width else config.factor
    down = config.height / config.depth_height if config.depth_height else config.factor
    return dataclasses.replace(KINECT, factor=across, factor_y=down, method=config.method, registered=config.registered)


def _beside(camera: Camera, config: CameraConfig, place: Transform) -> Camera:
    """The depth camera beside this colour camera."""
    width = config.depth_width or config.width // config.factor
    height = config.depth_height or config.height // config.factor
    turn = camera.rotation.astype(np.float64)
    return dataclasses.replace(
        camera,
        width=width,
        height=height,
        focal_length=(config.depth_focal_length or camera.focal_length / camera.width) * width,
        position=(camera.position + turn @ place.translation).astype(np.float32),
        rotation=(turn @ place.rotation).astype(np.float32),
    )


def _recorded(folder: Path, factor: int, method: str) -> Iterator[Shot]:
    """Real frames, the depth made smaller; pixels the sensor did not see stay unknown in both."""
    for pair in frame_pairs(folder):
        rgb, truth = read_pair(pair, factor)
        focal = NOMINAL_FOCAL_LENGTH * truth.shape[1]
        yield Shot(rgb, lower(truth, factor, method), truth, focal, (focal / factor, focal / factor))
