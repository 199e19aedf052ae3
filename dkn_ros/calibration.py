"""A camera's calibration: where in the image a point is seen, and along which ray a pixel looks.

The distortion models are those of sensor_msgs/CameraInfo, as OpenCV defines them (calib3d, "Camera calibration and 3D
reconstruction", and fisheye).  With x = X / Z, y = Y / Z, r^2 = x^2 + y^2:

plumb_bob, rational_polynomial   s = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)
                                 x' = s x + 2 p1 x y + p2 (r^2 + 2 x^2),  y' = s y + p1 (r^2 + 2 y^2) + 2 p2 x y
equidistant                      t = atan(r),  x' = x / r (t + k1 t^3 + k2 t^5 + k3 t^7 + k4 t^9), y' likewise

and the pixel is (fx x' + cx, fy y' + cy).  All of them stop to be one to one at some radius, beyond which points would
come back into the image: such points are not seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba.core import types
from numpy.typing import ArrayLike, NDArray

from dkn_ros.compiled import compiled
from dkn_ros.geometry import scale_intrinsics

Points = NDArray[np.float64]

POLYNOMIAL, EQUIDISTANT = 0, 1
MODELS = {
    "": POLYNOMIAL,
    "none": POLYNOMIAL,
    "plumb_bob": POLYNOMIAL,
    "rational_polynomial": POLYNOMIAL,
    "equidistant": EQUIDISTANT,
    "fisheye": EQUIDISTANT,
}
"""Names of the models; the last is one that some drivers use."""
COEFFICIENTS = {POLYNOMIAL: (0, 4, 5, 8), EQUIDISTANT: (0, 4)}
"""How many numbers D may have; none means no distortion for a polynomial and the plain r = f t for equidistant."""
NEAREST = 0.01
"""Metres; a point that is nearer to the camera's plane, or behind it, is not seen."""
WIDEST = 10.0
"""Radius r up to which the model is searched for its end: 84 degrees from the axis."""
EXACT = 1e-6
"""A ray found for a pixel is good if it comes back so near to it, in focal lengths."""
NEWTON_STEPS = 30


@dataclass(frozen=True)
class Calibration:
    """Size, intrinsics and distortion of one camera; raises ValueError, saying what is wanted, where they are unfit."""

    width: int
    height: int
    k: tuple[float, ...]
    """The nine numbers of the camera matrix, row by row, in pixels; pixel centres lie at whole coordinates."""
    d: tuple[float, ...] = ()
    """Distortion: k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1 k2 k3 k4 of equidistant."""
    model: str = "plumb_bob"
    """One of MODELS."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", tuple(float(v) for v in np.ravel(self.k)))
        object.__setattr__(self, "d", _without_zeros(tuple(float(v) for v in np.ravel(self.d)), self.model))
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"camera is {self.width}x{self.height}; wanted: width and height above 0")
        if len(self.k) != 9 or not np.isfinite(self.k).all():
            raise ValueError(f"camera matrix K is {_numbers(self.k)}; wanted: 9 finite numbers")
        if not any(self.k):
            raise ValueError("camera matrix K is all 0, which means not calibrated; wanted: a calibrated camera")
        fixed = self.k[1], self.k[3], self.k[6], self.k[7], self.k[8]
        if self.k[0] <= 0 or self.k[4] <= 0 or fixed != (0, 0, 0, 0, 1):
            raise ValueError(f"camera matrix K is {_numbers(self.k)}; wanted: fx 0 cx 0 fy cy 0 0 1, fx and fy above 0")
        if self.model not in MODELS:
            known = ", ".join(name for name in MODELS if name)
            raise ValueError(f"distortion model is {self.model!r}; wanted: {known}")
        wanted = COEFFICIENTS[MODELS[self.model]]
        if len(self.d) not in wanted or not np.isfinite(self.d).all():
            counts = ", ".join(map(str, wanted))
            raise ValueError(f"distortion D of {self.model} is {_numbers(self.d)}; wanted: {counts} finite numbers")

    @property
    def focal_lengths(self) -> tuple[float, float]:
        """fx and fy in pixels."""
        return self.k[0], self.k[4]

    def resized(self, width: int, height: int) -> Calibration:
        """The calibration of this camera's image resized to `width` x `height`; distortion does not change."""
        if (width, height) == (self.width, self.height):
            return self
        if width <= 0 or height <= 0:
            raise ValueError(f"wanted size is {width}x{height}; wanted: width and height above 0")
        k = scale_intrinsics(np.reshape(self.k, (3, 3)), width / self.width, height / self.height)
        return Calibration(width, height, tuple(k.ravel()), self.d, self.model)

    @functools.cached_property
    def numbers(self) -> Points:
        """What compiled code takes: model, end of the model (r^2), fx, fy, cx, cy, and 8 distortion coefficients."""
        d = np.zeros(8)
        d[: len(self.d)] = self.d
        head = (MODELS[self.model], self._end(d) ** 2, self.k[0], self.k[4], self.k[2], self.k[5])
        return np.array((*head, *d), np.float64)

    def project(self, points: ArrayLike) -> Points:
        """Pixels (x, y) that see `points`: Nx3 metres in the camera's optical frame (z forward) -> Nx2.

        NaN for a point that no pixel of an image of any size would see.
        """
        given = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
        pixels = np.empty((len(given), 2))
        _project(given, self.numbers, pixels)
        return pixels

    def rays(self) -> Points:
        """height x width x 2: x = X / Z and y = Y / Z of what each pixel sees; NaN where the model has no answer.

        Found by Newton's method on the equations above.
        """
        fx, fy, cx, cy = self.k[0], self.k[4], self.k[2], self.k[5]
        rows, columns = np.indices((self.height, self.width), dtype=np.float64)
        distorted = np.stack([(columns - cx) / fx, (rows - cy) / fy], axis=-1).reshape(-1, 2)
        if MODELS[self.model] == EQUIDISTANT:
            rays = self._rays_by_angle(distorted)
        elif self.d:
            rays = self._rays_by_place(distorted)
        else:
            rays = distorted
        return rays.reshape(self.height, self.width, 2)

    def _rays_by_place(self, distorted: Points) -> Points:
        rays, h = distorted.copy(), 1e-7
        right, below = np.array((h, 0.0)), np.array((0.0, h))
        for _ in range(NEWTON_STEPS):
            error = _distort(rays, self.numbers) - distorted
            a, c = ((_distort(rays + right, self.numbers) - _distort(rays - right, self.numbers)) / (2 * h)).T
            b, d = ((_distort(rays + below, self.numbers) - _distort(rays - below, self.numbers)) / (2 * h)).T
            with np.errstate(invalid="ignore", divide="ignore"):
                det = a * d - b * c
                step = (
                    np.stack([d * error[:, 0] - b * error[:, 1], a * error[:, 1] - c * error[:, 0]], 1) / det[:, None]
                )
            rays -= step
            if not np.nanmax(np.abs(step), initial=0.0) > 1e-12:
                break
        error = np.abs(_distort(rays, self.numbers) - distorted).max(axis=1)
        rays[~(error < EXACT)] = np.nan  # NaN beyond the model's end, too
        return rays

    def _rays_by_angle(self, distorted: Points) -> Points:
        k = self.numbers[6:10]
        wanted = np.hypot(distorted[:, 0], distorted[:, 1])
        angle = np.minimum(wanted, np.pi / 2)
        for _ in range(NEWTON_STEPS):
            t2 = angle * angle
            value = angle * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
            slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))
            with np.errstate(invalid="ignore", divide="ignore"):
                step = (value - wanted) / slope
            angle = angle - step
            if not np.nanmax(np.abs(step), initial=0.0) > 1e-13:
                break
        with np.errstate(invalid="ignore", divide="ignore"):
            stretch = np.where(wanted > 1e-12, np.tan(angle) / wanted, 1.0)
            rays = distorted * stretch[:, None]
        # From 90 degrees on nothing has a depth along the axis; what Newton found beyond the model's end is no ray.
        good = (
            (angle >= 0)
            & (angle < np.deg2rad(89.0))
            & (np.abs(_distort(rays, self.numbers) - distorted).max(1) < EXACT)
        )
        rays[~good] = np.nan
        return rays

    def _end(self, d: Points) -> float:
        """The radius r at which the model stops growing; beyond WIDEST it is not looked for."""
        if MODELS[self.model] == EQUIDISTANT:
            t = np.linspace(0, np.deg2rad(89.0), 8001)
            grown = t * (1 + d[0] * t**2 + d[1] * t**4 + d[2] * t**6 + d[3] * t**8)
            r = np.tan(t)
        else:
            r = np.linspace(0, WIDEST, 20001)
            upper = 1 + d[0] * r**2 + d[1] * r**4 + d[4] * r**6
            with np.errstate(invalid="ignore", divide="ignore"):
                grown = r * upper / (1 + d[5] * r**2 + d[6] * r**4 + d[7] * r**6)
        stops = ~(np.diff(grown) > 0)
        return float(r[int(stops.argmax())]) if stops.any() else (float(r[-1]) if len(r) == 8001 else math.inf)


def _without_zeros(d: tuple[float, ...], model: str) -> tuple[float, ...]:
    """Without zeros after the most numbers that the model takes, or without any if all are 0.

    A longer model of OpenCV (thin prism, tilt) has them, and drivers that send D of one length for every lens.
    """
    if not any(d):
        return ()
    most = max(COEFFICIENTS[MODELS.get(model, POLYNOMIAL)])
    return d if any(d[most:]) else d[:most]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:g}" for v in values) or "empty"


def _distort(rays: Points, numbers: Points) -> Points:
    """Nx2 -> Nx2: x', y' of x, y; NaN beyond the model's end."""
    out = np.empty_like(rays)
    _distort_all(rays, numbers, out)
    return out


@compiled(nogil=True, inline="always", error_model="numpy")
def distorted(numbers, x, y):  # type: ignore[no-untyped-def]
    """x', y' of x, y for `Calibration.numbers`; NaN beyond the model's end."""
    r2 = x * x + y * y
    if not r2 <= numbers[1]:
        return np.nan, np.nan
    if numbers[0] == EQUIDISTANT:
        r = np.sqrt(r2)
        if r < 1e-9:
            return x, y
        t = np.arctan(r)
        t2 = t * t
        s = t * (1 + t2 * (numbers[6] + t2 * (numbers[7] + t2 * (numbers[8] + t2 * numbers[9])))) / r
        return s * x, s * y
    p1, p2 = numbers[8], numbers[9]
    s = 1 + r2 * (numbers[6] + r2 * (numbers[7] + r2 * numbers[10]))
    s /= 1 + r2 * (numbers[11] + r2 * (numbers[12] + r2 * numbers[13]))
    return s * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), s * y + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


_MATRIX, _NUMBERS = types.float64[:, ::1], types.float64[::1]


@compiled(types.void(_MATRIX, _NUMBERS, _MATRIX), nogil=True, error_model="numpy")
def _distort_all(rays, numbers, out):  # type: ignore[no-untyped-def]
    for n in range(len(rays)):
        out[n, 0], out[n, 1] = distorted(numbers, rays[n, 0], rays[n, 1])


@compiled(types.void(_MATRIX, _NUMBERS, _MATRIX), nogil=True, error_model="numpy")
def _project(points, numbers, out):  # type: ignore[no-untyped-def]
    for n in range(len(points)):
        z = points[n, 2]
        out[n, 0] = out[n, 1] = np.nan
        if z > NEAREST:
            x, y = distorted(numbers, points[n, 0] / z, points[n, 1] / z)
            out[n, 0], out[n, 1] = numbers[2] * x + numbers[4], numbers[3] * y + numbers[5]
