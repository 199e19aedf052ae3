"""Point clouds as pictures: what depth looks like from a place where its camera did not stand."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib.figure import Figure

from dkn_ros.buffers import Buffers
from dkn_ros.calibration import Calibration
from dkn_ros.cloud import POINT_STEP, write_points
from dkn_ros.flying import forget_flying

FloatImage = NDArray[np.float32]

ANGLE = np.deg2rad(16.0)
"""By so much the view is turned around the middle of the scene."""
RISE = np.deg2rad(6.0)
THRESHOLD = 0.03
"""Of the filter of flying pixels, see `flying`."""
BACKGROUND = 24
"""Grey."""


def before_after_points(
    rgb: NDArray[np.uint8], low: FloatImage, output: FloatImage, focal_length: float, path: Path
) -> None:
    """The input's points, the output's, and those that the filter of flying pixels leaves, from beside the camera.

    rgb: HxWx3.  low: hxw, drawn with every pixel repeated as often as the colour image has pixels for it.
    output: HxW.  Both in metres with NaN.  focal_length: pixels of the colour image, its centre in the middle.
    """
    height, width = output.shape
    replicated = cv2.resize(low, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    filtered = output.copy()
    forget_flying(filtered, THRESHOLD, Buffers())
    titles = (
        f"input depth, {low.shape[1]} x {low.shape[0]}, repeated",
        f"dkn_ros, {width} x {height}",
        f"dkn_ros, flying_pixels: {THRESHOLD}",
    )
    middle = float(np.nanmedian(output))
    figure = Figure(figsize=(10.8, 3.0), layout="constrained")
    for axis, title, depth in zip(figure.subplots(1, 3), titles, (replicated, output, filtered), strict=True):
        axis.imshow(seen_from_beside(rgb, np.asarray(depth, np.float32), focal_length, middle))
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.savefig(path, dpi=100)


def seen_from_beside(
    rgb: NDArray[np.uint8], depth: FloatImage, focal_length: float, middle: float
) -> NDArray[np.uint8]:
    """HxWx3: the points of a frame, from a place turned by ANGLE and RISE around what is `middle` metres ahead."""
    height, width = depth.shape
    k = (focal_length, 0, (width - 1) / 2, 0, focal_length, (height - 1) / 2, 0, 0, 1)
    points = np.zeros((height, width, POINT_STEP), np.uint8)
    write_points(depth, rgb, Calibration(width, height, k).rays().astype(np.float32), points)
    xyz = points.view(np.float32)[..., :3].reshape(-1, 3)
    known = ~np.isnan(xyz[:, 2])
    centre = np.array([0, 0, middle], np.float32)
    moved = (xyz[known] - centre) @ _turn(ANGLE, RISE).T + centre
    front = moved[:, 2] > 0.1 * middle
    order = np.argsort(-moved[front, 2])  # the nearest is drawn last
    moved, colours = moved[front][order], rgb.reshape(-1, 3)[known][front][order]
    pixels = np.rint(focal_length * moved[:, :2] / moved[:, 2:] + ((width - 1) / 2, (height - 1) / 2)).astype(int)
    picture = np.full((height + 1, width + 1, 3), BACKGROUND, np.uint8)
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):  # a point covers 2 x 2 pixels
        x, y = pixels[:, 0] + right, pixels[:, 1] + down
        inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
        picture[y[inside], x[inside]] = colours[inside]
    return picture[:height, :width]


def _turn(yaw: float, pitch: float) -> NDArray[np.float32]:
    c, s = np.cos(yaw), np.sin(yaw)
    b, t = np.cos(pitch), np.sin(pitch)
    around_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    around_x = np.array([[1, 0, 0], [0, b, -t], [0, t, b]])
    return (around_x @ around_y).astype(np.float32)
