"""The parts of a depth camera's error: arrays in, arrays out; `degradation` puts them together.

All depth is HxW metres on the colour grid with NaN where nothing is known.  Sources:

[1] Khoshelham, Elberink: Accuracy and resolution of Kinect depth data, Sensors 12 (2012): noise and steps in disparity.
[2] Nguyen, Izadi, Lovell: Modeling Kinect sensor noise, 3DIMPVT 2012: lateral noise, growth with the surface's angle.
[3] Hansard, Lee, Choi, Horaud: Time-of-flight cameras, Springer 2012: noise over amplitude, flying pixels.
[4] Sarbolandi, Lefloch, Kolb: Kinect range sensing, CVIU 139 (2015): dark, shining and grazing surfaces of both kinds.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.preprocess import fill_holes

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]

FOCAL_LENGTH = 580.0
"""Pixels, of the Kinect v1's infrared camera at 640 x 480."""
BASELINE = 0.075
"""Metres between its projector and its camera."""
FARTHEST = 20.0
"""Metres; a device reports nothing beyond, and noise must not make it."""
STEEPEST = np.deg2rad(82.0)
"""Noise grows no further beyond: at a depth edge the gradient says 90 degrees, where the model goes to infinity."""


def surface_angle(depth: FloatImage, focal_length: float = FOCAL_LENGTH) -> FloatImage:
    """Angle between the surface's normal and the line of sight in radians, 0 to pi / 2, HxW.

    Exact for a pixel in the middle of the view; a crop does not know how far from there it lies.
    """
    known = np.nan_to_num(depth)
    slope = np.hypot(cv2.Sobel(known, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(known, cv2.CV_32F, 0, 1, scale=1 / 8))
    return np.arctan(np.float32(focal_length) * slope / np.maximum(known, np.float32(1e-3)))


def steepness(angle: FloatImage) -> FloatImage:
    """theta^2 / (pi/2 - theta)^2, the growth of axial noise with the angle [2, equation 4]."""
    angle = np.minimum(angle, np.float32(STEEPEST))
    return np.square(angle / (np.float32(np.pi / 2) - angle))


def grained_noise(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> FloatImage:
    """Normal noise of unit variance whose neighbours agree over about `grain` pixels, as matching windows make it."""
    if grain <= 0:
        return rng.standard_normal(shape, dtype=np.float32)
    # Wider by the reach of the window: at the border of the noise it would count the same values twice.
    reach = int(np.ceil(4 * grain))
    noise = rng.standard_normal([size + 2 * reach for size in shape], dtype=np.float32)
    window = cv2.getGaussianKernel(2 * reach + 1, grain)
    blurred = cv2.sepFilter2D(noise, cv2.CV_32F, window, window)[reach:-reach, reach:-reach]
    # A window leaves this share of white noise's deviation for each axis: the root of its squares' sum.
    return np.asarray(blurred / np.float32(np.sum(window**2)), np.float32)


def lateral_jitter(depth: FloatImage, deviation: float | FloatImage, rng: np.random.Generator) -> FloatImage:
    """Every pixel looks beside its place by `deviation` pixels [2]: edges fray, surfaces stay."""
    height, width = depth.shape
    y, x = np.indices(depth.shape, dtype=np.float32)
    jitter = rng.standard_normal((2, height, width), dtype=np.float32) * np.asarray(deviation, np.float32)
    x = np.clip(np.rint(x + jitter[0]), 0, width - 1).astype(np.intp)
    y = np.clip(np.rint(y + jitter[1]), 0, height - 1).astype(np.intp)
    return np.asarray(depth[y, x])


def structured_light(
    depth: FloatImage, noise: float | FloatImage, step: float, grain: float, rng: np.random.Generator
) -> FloatImage:
    """Noise and quantisation of the disparity d = f b / z [1], so both grow with the square of the depth.

    noise: standard deviation in pixels of disparity.  step: quantisation in pixels of disparity, 0: none.
    """
    disparity = np.float32(FOCAL_LENGTH * BASELINE) / depth
    if np.any(noise):
        disparity = disparity + grained_noise(depth.shape, grain, rng) * np.asarray(noise, np.float32)
    if step:
        disparity = np.rint(disparity / np.float32(step)) * np.float32(step)
    # Noise may carry a far surface to disparity 0, which is infinitely far: no measurement.
    smallest = np.float32(FOCAL_LENGTH * BASELINE / FARTHEST)
    disparity = np.where(disparity > smallest, disparity, np.float32(np.nan))
    return np.asarray(np.float32(FOCAL_LENGTH * BASELINE) / disparity)


def time_of_flight(depth: FloatImage, noise: float, luminance: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Noise inverse to the amplitude of the light that comes back, which falls as reflectivity / z^2 [3].

    noise: standard deviation in metres of a white wall at 1 m.  luminance: HxW, 0..1, stands for the reflectivity.
    """
    reflectivity = np.float32(0.1) + np.float32(0.9) * luminance
    deviation = np.float32(noise) * np.square(depth) / reflectivity
    noisy = depth + np.minimum(deviation, np.float32(0.3)) * rng.standard_normal(depth.shape, dtype=np.float32)
    return np.where((noisy > 0.05) & (noisy < FARTHEST), noisy, np.float32(np.nan))


def flying_pixels(depth: FloatImage, share: float, rng: np.random.Generator) -> FloatImage:
    """At depth edges a pixel sees both surfaces and reports something between them [3, 4]; `share` of those do."""
    known = np.nan_to_num(depth)
    box = np.ones((3, 3), np.uint8)
    near, far = cv2.erode(known, box), cv2.dilate(known, box)
    mixed = (far - near > 0.03 * far) & (rng.random(depth.shape) < share) & (near > 0)
    between = near + rng.random(depth.shape, dtype=np.float32) * (far - near)
    return np.where(mixed, between, depth).astype(np.float32, copy=False)


def shifted(depth: FloatImage, x: float, y: float) -> FloatImage:
    """The image that a camera calibrated `x`, `y` pixels wrong delivers: content moves right and down.

    Exact to 1/64 pixel.  Holes move by whole pixels and keep their size.
    """
    hole = np.isnan(depth)
    if hole.all():
        return depth
    move = np.array([[1, 0, x], [0, 1, y]], np.float64)
    size = (depth.shape[1], depth.shape[0])
    # Linear interpolation would spread a NaN to all pixels around it.
    filled, border = fill_holes(depth)[0], cv2.BORDER_REPLICATE
    moved = cv2.warpAffine(filled, move, size, flags=cv2.INTER_LINEAR, borderMode=border)
    gone = cv2.warpAffine(hole.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST, borderMode=border)
    return np.where(gone > 0, np.float32(np.nan), moved).astype(np.float32, copy=False)


def wobbled(depth: FloatImage, amplitude: float, grain: float, rng: np.random.Generator) -> FloatImage:
    """Edges that wander by `amplitude` pixels over some `grain` pixels: matching windows know no outline [1, 4]."""
    across, down = (np.float32(amplitude) * grained_noise(depth.shape, grain, rng) for _ in range(2))
    rows, columns = np.indices(depth.shape, dtype=np.float32)
    x, y = np.asarray(columns + across, np.float32), np.asarray(rows + down, np.float32)
    moved = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def unseen(depth: FloatImage, luminance: FloatImage, dark: float, specular: float, grazing: float) -> Mask:
    """HxW, surfaces that send too little light back, or too much, or are seen too flat [4].

    dark: luminance below which nothing comes back.  specular: luminance above which the sensor saturates, 1: never.
    grazing: angle in degrees beyond which nothing comes back, 90: never.
    """
    lost = luminance < dark
    if specular < 1:
        lost |= luminance > specular
    if grazing < 90:
        # Edges of objects are steep for the gradient alone; only steep surfaces, which are wider, count.
        steep = (surface_angle(depth) > np.deg2rad(grazing)).astype(np.uint8)
        lost |= cv2.morphologyEx(steep, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).astype(bool)
    # Single dark pixels are the colour camera's noise; the sensor integrates over its matching window.
    return np.asarray(cv2.medianBlur(lost.astype(np.uint8), 5) > 0)


def projector_shadow(low: FloatImage, share: float, factor: float) -> Mask:
    """Pixels that the projector, BASELINE to one side, does not see: left of a near surface [1].

    low: hxw at 1 / `factor` of the width.  Going from right to left, a surface hides what lies behind it as far as the
    difference of the disparities reaches.
    """
    disparity = np.nan_to_num(np.float32(FOCAL_LENGTH * BASELINE) / low) * np.float32(share / factor)
    # A pixel at column x is projected to x - disparity; it is hidden if something right of it lands left of that.
    landing = np.arange(low.shape[1], dtype=np.float32) - disparity
    leftmost = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(landing > leftmost + 0.5)


def blobs(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> Mask:
    """Ellipses of up to a tenth of the image, as dark or shining surfaces leave them."""
    height, width = shape
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (1 + int(rng.random() * width * 0.1), 1 + int(rng.random() * height * 0.1))
        cv2.ellipse(mask, centre, axes, float(rng.random() * 180), 0, 360, 1, -1)
    return mask.astype(bool)


def registered(low: FloatImage, width: int, height: int, form: str) -> FloatImage:
    """Depth of low resolution as drivers register it into a larger colour image of `width` x `height`.

    form: replicate (every measurement fills its block) or sparse (every measurement lands on one pixel).
    """
    h, w = low.shape
    if form == "replicate":
        rows = np.minimum((np.arange(height) + 0.5) * h / height, h - 1).astype(np.intp)
        columns = np.minimum((np.arange(width) + 0.5) * w / width, w - 1).astype(np.intp)
        return np.ascontiguousarray(low[rows[:, None], columns])
    full = np.full((height, width), np.nan, np.float32)
    rows = ((np.arange(h) + 0.5) * height / h).astype(np.intp)
    columns = ((np.arange(w) + 0.5) * width / w).astype(np.intp)
    full[rows[:, None], columns] = low
    return full
