"""Random cameras for training: from a clean bicubic reduction to a noisy, holey, decimating sensor."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dkn_ros.synthetic.degradation import CameraModel
from dkn_ros.traits import UNKNOWN_DISTANCE

METHODS = {"nearest": 0.42, "area": 0.18, "box": 0.05, "bicubic": 0.35}
"""How often each way to lower the resolution is drawn."""
NOISE = {"structured light": 0.7, "time of flight": 0.3}
"""How often each kind of noise is drawn, where there is any."""


def random_camera(rng: np.random.Generator, factor: float, factor_y: float = 0, noiseless: float = 0.5) -> CameraModel:
    """Draw a camera of a given ratio: the way it reduces, its noise and its holes independently of each other.

    noiseless: share of cameras that measure without noise.
    """
    method = _choice(rng, METHODS)
    changes: dict[str, Any] = {}
    if method == "nearest" and rng.random() < 0.5:
        changes["phase"] = (float(rng.random()), float(rng.random()))
    if rng.random() >= noiseless:
        kind = _choice(rng, NOISE)
        changes.update(_structured_light(rng) if kind == "structured light" else _time_of_flight(rng))
    if rng.random() < 0.45:
        changes.update(_holes(rng))
    return dataclasses.replace(CameraModel(factor=factor, factor_y=factor_y, method=method), **changes)


def antialiasing_believed(camera: CameraModel, rng: np.random.Generator) -> float:
    """What a network in training is told as `Traits.antialiased`: mostly the truth, sometimes a doubt.

    A doubt is right as often as it says, so that the network learns what each is worth.
    """
    if max(camera.factor, camera.factor_y) < 1.5:
        return 0.5
    if camera.method == "box":  # in between, and so looks its frame
        return float(rng.uniform(0.3, 0.9))
    sure = 1.0 if rng.random() < 0.65 else float(rng.uniform(0.5, 1.0))
    right = rng.random() < sure
    return sure if (camera.method != "nearest") == right else 1 - sure


def distance_believed(distance: float, rng: np.random.Generator) -> float:
    """How far edges lie apart, as a network in training is told by `Traits.aligned`, pixels: with an error, or not."""
    if rng.random() < 0.15:
        return UNKNOWN_DISTANCE
    return float(np.abs(distance * np.exp(0.3 * rng.standard_normal()) + 0.35 * rng.standard_normal()))


def _structured_light(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "lateral_noise": 0.8 * rng.random(),
        "disparity_noise": float(rng.choice([0.08, 0.2, 0.35])) * rng.random(),
        "disparity_step": float(rng.choice([0.0, 1 / 8, 1 / 4])),
        "noise_grain": float(rng.choice([0.0, 0.0, 1.0, 3.0])) * rng.random(),
        "angle_noise": 0.3 * rng.random() if rng.random() < 0.4 else 0.0,
        "wobble": 2.0 * rng.random() if rng.random() < 0.3 else 0.0,
    }


def _time_of_flight(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "tof_noise": 0.004 * rng.random(),
        "flying_pixels": float(rng.random()) if rng.random() < 0.6 else 0.0,
        "wobble": rng.random() if rng.random() < 0.2 else 0.0,
    }


def _holes(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "shadows": float(rng.random()) if rng.random() < 0.7 else 0.0,
        "border": int(rng.integers(0, 3)),
        "blobs": int(rng.integers(0, 4)),
        "speckle": float(rng.choice([0.0, 0.0, 0.01, 0.05, 0.2])) * rng.random(),
        "dark": 0.15 * rng.random() if rng.random() < 0.25 else 0.0,
        "specular": 1 - 0.1 * rng.random() if rng.random() < 0.2 else 1.0,
        "grazing": 65 + 20 * rng.random() if rng.random() < 0.25 else 90.0,
        "farthest_range": rng.uniform(3.0, 6.0) if rng.random() < 0.15 else 0.0,
        "nearest_range": rng.uniform(0.4, 0.9) if rng.random() < 0.1 else 0.0,
    }


def _choice(rng: np.random.Generator, odds: dict[str, float]) -> str:
    return str(rng.choice(list(odds), p=list(odds.values())))
