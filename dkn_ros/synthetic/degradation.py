"""The camera model: from true depth to what a depth camera of lower resolution reports.

`CameraModel` holds what one camera does, `degrade` applies it; `sensor` has the parts with their sources, `cameras`
draws models at random for training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.preprocess import fill_holes, guidance_image
from dkn_ros.resampling import resample
from dkn_ros.synthetic import sensor
from dkn_ros.synthetic.sensor import BASELINE, FARTHEST, FOCAL_LENGTH

__all__ = ["BASELINE", "FARTHEST", "FOCAL_LENGTH", "KINECT", "CameraModel", "degrade", "lower"]

FloatImage = NDArray[np.float32]

METHODS = ("nearest", "area", "box", "bicubic")
REGISTERED = ("", "replicate", "sparse")


@dataclass(frozen=True)
class CameraModel:
    """What a depth camera does to true depth; the defaults do nothing but lower the resolution."""

    factor: float = 1
    """How many times smaller the result is, per axis; any number from 1."""
    method: str = "nearest"
    """How it is made smaller: nearest (one pixel of each block), area (block means), box (means over the block's inner
    quarter, a sensor whose pixels see half of their pitch) or bicubic (antialiased)."""
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
    factor_y: float = 0
    """The ratio of the heights where it is another than that of the widths; 0: the same."""
    noise_grain: float = 0.0
    """Full-size pixels over which the disparity noise agrees; 0: every pixel has its own."""
    angle_noise: float = 0.0
    """How much lateral and disparity noise grow with the surface's angle, see `sensor.steepness`; 0: not."""
    tof_noise: float = 0.0
    """Time of flight: standard deviation in metres of a white wall at 1 m; grows with z squared and darkness."""
    flying_pixels: float = 0.0
    """Share of the pixels at depth edges that report something between both surfaces."""
    wobble: float = 0.0
    """Full-size pixels by which depth edges wander along their length."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Misregistration: by how many full-size pixels (x, y) the depth lies beside the colour."""
    dark: float = 0.0
    """Luminance (0..1) below which a surface is not seen."""
    specular: float = 1.0
    """Luminance above which a surface is not seen; 1: none."""
    grazing: float = 90.0
    """Angle in degrees beyond which a surface is not seen; 90: none."""
    nearest_range: float = 0.0
    """Metres; nearer surfaces are not seen."""
    farthest_range: float = 0.0
    """Metres; farther surfaces are not seen; 0: no limit."""
    registered: str = ""
    """replicate or sparse: the result is brought back to the colour's size, see `sensor.registered`."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; wanted: {', '.join(METHODS[:-1])} or {METHODS[-1]}")
        if self.registered not in REGISTERED:
            raise ValueError(f"registered is {self.registered!r}; wanted: replicate, sparse or nothing")
        for name, least in (("factor", 1), ("factor_y", 1)):
            value = getattr(self, name)
            if value < least and not (name == "factor_y" and value == 0):
                raise ValueError(f"{name} is {value}; wanted: at least 1")

    @property
    def factors(self) -> tuple[float, float]:
        """Ratio of the widths and of the heights."""
        return self.factor, self.factor_y or self.factor


KINECT = CameraModel(lateral_noise=0.5, disparity_noise=1 / 6, disparity_step=1 / 8, shadows=1.0, border=2, blobs=4)
"""The Kinect v1 of the `kinect` protocol; give it a factor with `dataclasses.replace`."""


def degrade(
    depth: FloatImage, camera: CameraModel, rng: np.random.Generator, rgb: NDArray[np.uint8] | None = None
) -> FloatImage:
    """What `camera` reports of a scene.

    depth: HxW metres, NaN where nothing is known.  rgb: HxWx3, for what depends on a surface's brightness; without it
    every surface is grey.  Returns (H / factor)x(W / factor) metres, rounded down, with NaN for invalid;
    HxW if the camera registers it.
    """
    luminance = np.full_like(depth, 0.5) if rgb is None else guidance_image(rgb)[0]
    noisy = _measured(depth, camera, luminance, rng)
    low = lower(noisy, camera.factor, camera.method, camera.phase, camera.factor_y)
    hole = np.isnan(low)
    if camera.shadows:
        hole |= sensor.projector_shadow(low, camera.shadows, camera.factor)
    if camera.border:
        inside = np.zeros_like(hole)
        inside[camera.border : -camera.border, camera.border : -camera.border] = True
        hole |= ~inside
    hole |= sensor.blobs(low.shape, camera.blobs, rng)
    if camera.speckle:
        hole |= rng.random(low.shape) < camera.speckle
    # A small crop can lie wholly in a blob; a frame without depth teaches nothing.
    result = low if hole.all() else np.where(hole, np.float32(np.nan), low)
    if camera.registered:
        full = np.full(depth.shape, np.nan, np.float32)
        height, width = (_covered(*sizes) for sizes in zip(depth.shape, camera.factors[::-1], strict=True))
        full[:height, :width] = sensor.registered(result, width, height, camera.registered)
        return full
    return result


def lower(
    depth: FloatImage,
    factor: float,
    method: str,
    phase: tuple[float, float] = (0.5, 0.5),
    factor_y: float = 0,
) -> FloatImage:
    """Make depth `factor` (and `factor_y`, if it is another) times smaller; see `CameraModel.method`.

    A whole ratio cuts what is left over at the right and below; any other ratio takes the whole image and is met as
    nearly as whole pixels allow.  `nearest` carries NaN over; the others average what is known, and a pixel of which
    less than half is known becomes NaN, as a sensor's pixel reports what most of it sees.
    """
    factor_y = factor_y or factor
    if factor == 1 and factor_y == 1:
        return depth.copy()
    height, pitch_y = _grid(depth.shape[0], factor_y)
    width, pitch_x = _grid(depth.shape[1], factor)
    if method == "nearest":
        rows, columns = _picked(height, pitch_y, phase[1]), _picked(width, pitch_x, phase[0])
        return np.ascontiguousarray(depth[rows[:, None], columns])
    known = ~np.isnan(depth)
    part = 0.5 if method == "box" else 1.0
    share = _block_means(known.astype(np.float32), (height, width), (pitch_y, pitch_x), part)
    if method == "bicubic":
        cut = depth[: _covered(depth.shape[0], factor_y), : _covered(depth.shape[1], factor)]
        # Bicubic reaches beyond its block, so unknown pixels need values that do not spoil their neighbours'.
        low = resample(cut if np.isnan(cut).all() else fill_holes(cut)[0], width, height)
    else:
        total = _block_means(np.where(known, depth, np.float32(0)), (height, width), (pitch_y, pitch_x), part)
        low = np.asarray(total / np.maximum(share, 1e-6), np.float32)
    return np.where(share < 0.5 - 1e-6, np.float32(np.nan), low).astype(np.float32)


def _grid(size: int, factor: float) -> tuple[int, float]:
    """Number of pixels that `size` pixels become, and how many of the old ones each covers."""
    count = max(1, int(size / factor + 1e-6))
    return count, factor if factor == int(factor) else size / count


def _covered(size: int, factor: float) -> int:
    """How many of `size` pixels are not cut."""
    count, pitch = _grid(size, factor)
    return round(count * pitch)


def _picked(count: int, pitch: float, phase: float) -> NDArray[np.intp]:
    """Which pixel of each block is taken: never one of the next block."""
    first = np.arange(count) * pitch
    last = np.maximum(np.ceil(first + pitch - 1e-6) - 1, first)
    return np.minimum(np.floor(first + phase * pitch + 1e-6), last).astype(np.intp)


def _block_means(
    image: FloatImage, size: tuple[int, int], pitch: tuple[float, float], part: float
) -> NDArray[np.float64]:
    """Means over blocks of `pitch` pixels, or over their inner `part`; blocks may end within a pixel."""
    means = image.astype(np.float64)
    for axis in (0, 1):
        total = np.concatenate((np.zeros_like(means.take([0], axis)), np.cumsum(means, axis)), axis)
        middle = (np.arange(size[axis]) + 0.5) * pitch[axis]
        ends = [middle - part * pitch[axis] / 2, middle + part * pitch[axis] / 2]
        first, last = (_between(total, np.clip(end, 0, image.shape[axis]), axis) for end in ends)
        means = (last - first) / (part * pitch[axis])
    return means


def _between(total: NDArray[np.float64], where: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Linear interpolation of running sums at places `where` along an axis."""
    left = np.minimum(where.astype(np.intp), total.shape[axis] - 2)
    share = np.expand_dims(where - left, 1 - axis)
    return total.take(left, axis) * (1 - share) + total.take(left + 1, axis) * share


def _measured(depth: FloatImage, camera: CameraModel, luminance: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Depth of full size as the sensor measures it: moved edges, noise, steps, surfaces that it does not see."""
    lost = np.isnan(depth)
    if camera.dark or camera.specular < 1 or camera.grazing < 90:
        lost = lost | sensor.unseen(depth, luminance, camera.dark, camera.specular, camera.grazing)
    if camera.nearest_range:
        lost = lost | (depth < camera.nearest_range)
    if camera.farthest_range:
        lost = lost | (depth > camera.farthest_range)
    if lost.any() and not lost.all():
        depth = np.where(lost, np.float32(np.nan), depth)
    if camera.shift != (0.0, 0.0):
        depth = sensor.shifted(depth, *camera.shift)
    if camera.wobble:
        depth = sensor.wobbled(depth, camera.wobble, 4.0, rng)
    growth: FloatImage | float = 1.0
    if camera.angle_noise:
        growth = 1 + np.float32(camera.angle_noise) * sensor.steepness(sensor.surface_angle(depth))
        growth = np.minimum(cv2.blur(growth, (3, 3)), np.float32(4.0))
    if camera.lateral_noise:
        depth = sensor.lateral_jitter(depth, camera.lateral_noise * growth, rng)
    if camera.flying_pixels:
        depth = sensor.flying_pixels(depth, camera.flying_pixels, rng)
    if camera.disparity_noise or camera.disparity_step:
        noise = camera.disparity_noise * growth
        depth = sensor.structured_light(depth, noise, camera.disparity_step, camera.noise_grain, rng)
    if camera.tof_noise:
        depth = sensor.time_of_flight(depth, camera.tof_noise, luminance, rng)
    return depth
