"""Geometry: what becomes of camera intrinsics when an image is resized or cropped; where one camera is from another.

Everywhere in this package the centre of a pixel lies at a whole coordinate, so the image covers -0.5 .. width - 0.5.
Resizing by s maps coordinates as c' = s (c + 0.5) - 0.5: it holds the borders of the image in place, not the centre of
its first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Transform:
    """p_colour = rotation @ p_depth + translation, in metres, between optical frames."""

    rotation: NDArray[np.float64]
    """3x3."""
    translation: NDArray[np.float64]
    """3."""

    @classmethod
    def of_numbers(cls, numbers: Any) -> Transform:
        """Of x y z qx qy qz qw, as `static_transform_publisher` takes them for colour frame -> depth frame.

        Raises ValueError, saying what was given and what is wanted, unless these are 7 finite numbers with a quaternion
        of about unit length.
        """
        values = np.asarray(numbers, np.float64)
        length = float(np.linalg.norm(values[3:])) if values.shape == (7,) else math.nan
        if not np.isfinite(values).all() or not abs(length - 1) < 0.01:
            given = " ".join(f"{v:g}" for v in values.ravel()) or "nothing"
            raise ValueError(f"extrinsics are {given}; wanted: x y z in metres and a unit quaternion qx qy qz qw")
        x, y, z, w = values[3:] / length
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, values[:3])

    @classmethod
    def parsed(cls, text: str) -> Transform:
        """Of 7 numbers in a string, separated by blanks or commas.  Raises ValueError."""
        try:
            numbers = [float(part) for part in text.replace(",", " ").split()]
        except ValueError:
            raise ValueError(f"extrinsics are {text!r}; wanted: tf, or 7 numbers x y z qx qy qz qw") from None
        return cls.of_numbers(numbers)


def scale_intrinsics(matrix: ArrayLike, scale_x: float, scale_y: float) -> NDArray[np.float64]:
    """Intrinsics of an image resized by `scale_x` and `scale_y`.

    matrix: the 3x3 camera matrix K or the 3x4 projection matrix P, in pixels.
    scale_x, scale_y: size after / size before, both above 0.
    Returns a matrix of the same shape: f' = s f, c' = s (c + 0.5) - 0.5; skew and the baseline term of P scale along.
    An uncalibrated (all zero) matrix stays zero.  Raises ValueError for another shape or scale.
    """
    if not (scale_x > 0 and scale_y > 0):
        raise ValueError(f"scale is {scale_x} x {scale_y}; wanted: both above 0")
    resize = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])
    return resize @ _intrinsics(matrix)


def crop_intrinsics(matrix: ArrayLike, left: float, top: float) -> NDArray[np.float64]:
    """Intrinsics (3x3 K or 3x4 P) of the part of an image that starts at pixel (left, top): c' = c - offset."""
    return np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]) @ _intrinsics(matrix)


def _intrinsics(matrix: ArrayLike) -> NDArray[np.float64]:
    checked = np.asarray(matrix, dtype=np.float64)
    if checked.shape not in ((3, 3), (3, 4)):
        raise ValueError(f"intrinsics have shape {checked.shape}; wanted: 3x3 (K) or 3x4 (P)")
    return checked
