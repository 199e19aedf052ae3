"""Random cameras: every kind is drawn, as often as it shall, and each of them works."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dkn_ros.synthetic.cameras import METHODS, NOISE, random_camera
from dkn_ros.synthetic.degradation import CameraModel, degrade

NEVER_DRAWN = {"factor", "factor_y", "shift", "registered"}
"""Given, or for evaluation only."""


def cameras(count: int, factor: float = 1, factor_y: float = 0) -> list[CameraModel]:
    return [random_camera(np.random.default_rng(i), factor, factor_y) for i in range(count)]


def test_odds_are_probabilities() -> None:
    assert sum(METHODS.values()) == pytest.approx(1) and sum(NOISE.values()) == pytest.approx(1)


def test_the_same_seed_draws_the_same_camera_of_the_wanted_ratio() -> None:
    assert cameras(60, 2.4, 3) == cameras(60, 2.4, 3)
    assert len(set(cameras(60))) > 40  # the others are clean ones
    assert {camera.factors for camera in cameras(20, 2.4, 3)} == {(2.4, 3)}


def test_every_setting_is_drawn_and_left_alone() -> None:
    drawn = cameras(1500)
    for field in dataclasses.fields(CameraModel):
        changed = np.mean([getattr(camera, field.name) != field.default for camera in drawn])
        assert changed == 0 if field.name in NEVER_DRAWN else 0.03 < changed < 0.97, field.name


def test_ways_noise_and_holes_are_drawn_as_often_as_they_shall() -> None:
    drawn = cameras(3000)
    for method, share in METHODS.items():
        assert np.mean([camera.method == method for camera in drawn]) == pytest.approx(share, abs=0.03)
    matching = np.array([camera.disparity_noise > 0 for camera in drawn])
    flight = np.array([camera.tof_noise > 0 for camera in drawn])
    assert matching.mean() == pytest.approx(NOISE["structured light"] / 2, abs=0.03)
    assert flight.mean() == pytest.approx(NOISE["time of flight"] / 2, abs=0.03)
    assert not (matching & flight).any()
    # Independently: cameras without noise have holes as often as others.
    holes = np.array([camera.shadows + camera.blobs + camera.speckle > 0 for camera in drawn])
    assert holes[matching].mean() == pytest.approx(holes[~matching & ~flight].mean(), abs=0.08)
    clean = [camera for camera in drawn if camera == CameraModel(method=camera.method)]
    assert 0.1 < len(clean) / len(drawn) < 0.35


@pytest.mark.parametrize("noiseless", [0.0, 0.8, 1.0])
def test_so_many_cameras_measure_without_noise(noiseless: float) -> None:
    drawn = [random_camera(np.random.default_rng(i), 4, noiseless=noiseless) for i in range(800)]
    quiet = [camera.disparity_noise + camera.tof_noise + camera.lateral_noise == 0 for camera in drawn]
    assert np.mean(quiet) == pytest.approx(noiseless, abs=0.05)


@pytest.mark.parametrize("ratios", [(1, 0), (4, 0), (2.4, 48 / 29), (1, 3)], ids=str)
def test_random_cameras_work(ratios: tuple[float, float]) -> None:
    y, x = np.indices((48, 48), dtype=np.float32)
    depth = np.where((x > 20) & (y > 30), np.float32(1.2), 2.5 + 0.03 * x)
    rgb = np.repeat((60 + 3 * y).astype(np.uint8)[..., None], 3, axis=2)
    wanted = int(48 / (ratios[1] or ratios[0]) + 1e-6), int(48 / ratios[0] + 1e-6)
    for i, camera in enumerate(cameras(80, *ratios)):
        low = degrade(depth, camera, np.random.default_rng(i), rgb)
        assert low.shape == wanted and low.dtype == np.float32
        assert np.isfinite(low).any() and not np.isinf(low).any() and (low[np.isfinite(low)] > 0).all()
