"""The camera model: from true depth to what a depth camera of lower resolution reports.

`CameraModel` holds what one camera does, `degrade` applies it, `random_camera` draws one for training.
Structured light measures disparity d = f b / z, so its noise and its quantisation steps grow with z squared
(Khoshelham and Elberink, "Accuracy and resolution of Kinect depth data", Sensors 2012); lateral noise moves edges by
about half a pixel (Nguyen et al., "Modeling Kinect sensor noise", 3DIMPVT 2012).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.preprocess import fill_holes, resample

FloatImage = NDArray[np.float32]

FOCAL_LENGTH = 580.0
"""Pixels, of the Kinect v1's infrared camera at 640 x 480."""
BASELINE = 0.075
"""Metres between its projector and its camera."""
FARTHEST = 20.0
"""Metres; a device reports nothing beyond, and noise must not make it."""


@dataclass(frozen=True)
class CameraModel:
    """What a depth camera does to true depth; the defaults do nothing but lower the resolution."""

    factor: int = 1
    """How many times smaller the result is, per axis."""
    method: str = "nearest"
    """How it is made smaller: nearest (every factor-th pixel), area (block means) or bicubic (antialiased)."""
    phase: tuple[float, float] = (0.5, 0.5)
    """Which pixel (x, y) of a block `nearest` takes, 0..1; 0.5 is the centre."""
    lateral_noise: float = 0.0
    """Standard deviation in full-size pixels by which a pixel looks beside its place."""
    disparity_noise: float = 0.0
    """Standard deviation in pixels of disparity."""
    disparity_step: float = 0.0
    """Quantisation step in pixels of disparity; 0: none."""
    shadows: float = 0.0
    """Share of the geometric projector shadow (left of near surfaces) that becomes invalid; 0: none."""
    border: int = 0
    """Invalid strip at the image's edge, in pixels of the result."""
    blobs: int = 0
    """Number of random invalid ellipses."""
    speckle: float = 0.0
    """Share of single pixels that become invalid at random."""

    def __post_init__(self) -> None:
        if self.method not in ("nearest", "area", "bicubic"):
            raise ValueError(f"method is {self.method!r}; wanted: nearest, area or bicubic")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; wanted: at least 1")


KINECT = CameraModel(lateral_noise=0.5, disparity_noise=1 / 6, disparity_step=1 / 8, shadows=1.0, border=2, blobs=4)
"""The Kinect v1 of the `kinect` protocol; give it a factor with `dataclasses.replace`."""


def random_camera(rng: np.random.Generator, factor: int) -> CameraModel:
    """Draw a camera for training: from a clean bicubic reduction to a noisy, holey, decimating sensor."""
    method = str(rng.choice(["nearest", "area", "bicubic"], p=[0.4, 0.2, 0.4]))
    camera = CameraModel(factor=factor, method=method)
    if method == "nearest" and rng.random() < 0.5:
        camera = dataclasses.replace(camera, phase=(float(rng.random()), float(rng.random())))
    if rng.random() < 0.35:
        strength = rng.random()
        camera = dataclasses.replace(
            camera,
            lateral_noise=0.8 * strength * rng.random(),
            disparity_noise=strength * rng.random() / 3,
            disparity_step=float(rng.choice([0.0, 1 / 8, 1 / 4])) * strength,
        )
    if rng.random() < 0.4:
        camera = dataclasses.replace(
            camera,
            shadows=float(rng.random()) if rng.random() < 0.7 else 0.0,
            border=int(rng.integers(0, 3)),
            blobs=int(rng.integers(0, 4)),
            speckle=float(rng.choice([0.0, 0.0, 0.01, 0.05])) * rng.random(),
        )
    return camera


def degrade(depth: FloatImage, camera: CameraModel, rng: np.random.Generator) -> FloatImage:
    """What `camera` reports of a scene.

    depth: HxW metres, NaN where nothing is known.  Returns (H // factor)x(W // factor) metres with NaN for invalid.
    """
    noisy = _sensor_noise(depth, camera, rng)
    low = lower(noisy, camera.factor, camera.method, camera.phase)
    hole = np.isnan(low)
    if camera.shadows:
        hole |= _projector_shadow(low, camera)
    if camera.border:
        inside = np.zeros_like(hole)
        inside[camera.border : -camera.border, camera.border : -camera.border] = True
        hole |= ~inside
    hole |= _blobs(low.shape, camera.blobs, rng)
    if camera.speckle:
        hole |= rng.random(low.shape) < camera.speckle
    if hole.all():  # a small crop can lie wholly in a blob; a frame without depth teaches nothing
        return low
    return np.where(hole, np.float32(np.nan), low)


def lower(depth: FloatImage, factor: int, method: str, phase: tuple[float, float] = (0.5, 0.5)) -> FloatImage:
    """Make depth `factor` times smaller per axis; see `CameraModel.method`.

    `nearest` carries NaN over; the others average what is known, and a block of which less than half is known becomes
    NaN, as a sensor's pixel reports what most of it sees.
    """
    if factor == 1:
        return depth.copy()
    height, width = depth.shape[0] // factor, depth.shape[1] // factor
    cut = depth[: height * factor, : width * factor]
    if method == "nearest":
        x, y = (min(int(p * factor), factor - 1) for p in phase)
        return np.ascontiguousarray(cut[y::factor, x::factor])
    known = ~np.isnan(cut).reshape(height, factor, width, factor)
    count = known.sum(axis=(1, 3))
    if method == "area":
        blocks = np.where(known, cut.reshape(known.shape), np.float32(0)).sum(axis=(1, 3), dtype=np.float32)
        low = blocks / np.maximum(count, 1).astype(np.float32)
    else:
        # Bicubic reaches beyond its block, so unknown pixels need values that do not spoil their neighbours'.
        low = resample(fill_holes(cut)[0] if known.any() else cut, width, height)
    low[2 * count < factor * factor] = np.nan
    return low


def _sensor_noise(depth: FloatImage, camera: CameraModel, rng: np.random.Generator) -> FloatImage:
    """Lateral jitter, then noise and quantisation of the disparity."""
    if camera.lateral_noise:
        height, width = depth.shape
        y, x = np.indices(depth.shape, dtype=np.float32)
        jitter = rng.standard_normal((2, height, width), dtype=np.float32) * np.float32(camera.lateral_noise)
        x = np.clip(np.rint(x + jitter[0]), 0, width - 1).astype(np.intp)
        y = np.clip(np.rint(y + jitter[1]), 0, height - 1).astype(np.intp)
        depth = depth[y, x]
    if camera.disparity_noise or camera.disparity_step:
        disparity = np.float32(FOCAL_LENGTH * BASELINE) / depth
        if camera.disparity_noise:
            noise = rng.standard_normal(depth.shape, dtype=np.float32)
            disparity = disparity + noise * np.float32(camera.disparity_noise)
        if camera.disparity_step:
            step = np.float32(camera.disparity_step)
            disparity = np.rint(disparity / step) * step
        # Noise may carry a far surface to disparity 0, which is infinitely far: no measurement.
        smallest = np.float32(FOCAL_LENGTH * BASELINE / FARTHEST)
        disparity = np.where(disparity > smallest, disparity, np.float32(np.nan))
        depth = np.float32(FOCAL_LENGTH * BASELINE) / disparity
    return depth


def _projector_shadow(low: FloatImage, camera: CameraModel) -> NDArray[np.bool_]:
    """Pixels that the projector, BASELINE to one side, does not see: left of a near surface.

    Going from right to left, a surface hides what lies behind it as far as the difference of the disparities reaches.
    """
    width = low.shape[1]
    disparity = np.nan_to_num(np.float32(FOCAL_LENGTH * BASELINE) / low) * np.float32(camera.shadows / camera.factor)
    # A pixel at column x is projected to x - disparity; it is hidden if something right of it lands left of that.
    landing = np.arange(width, dtype=np.float32) - disparity
    leftmost = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(landing > leftmost + 0.5)


def _blobs(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Ellipses of up to a tenth of the image, as dark or shining surfaces leave them."""
    height, width = shape
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (1 + int(rng.random() * width * 0.1), 1 + int(rng.random() * height * 0.1))
        cv2.ellipse(mask, centre, axes, float(rng.random() * 180), 0, 360, 1, -1)
    return mask.astype(bool)
