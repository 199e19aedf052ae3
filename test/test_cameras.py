"""Random cameras: every kind is drawn, as often as it shall, and each of them works."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dkn_ros.synthetic.cameras import METHODS, NOISE, antialiasing_believed, random_camera
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


def test_what_is_believed_of_antialiasing_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    means = np.arange(20_000) % 2 == 0
    cameras = {True: CameraModel(factor=4, method="area"), False: CameraModel(factor=4, method="nearest")}
    believed = np.array([antialiasing_believed(cameras[bool(mean)], rng) for mean in means])
    for low in np.arange(0, 1, 0.1):
        told = (believed >= low) & (believed < low + 0.1) & (believed > 0) & (believed < 1)
        assert told.sum() > 300
        assert means[told].mean() == pytest.approx(believed[told].mean(), abs=0.05)
    assert means[believed == 1].all() and not means[believed == 0].any()
    assert np.mean((believed == 0) | (believed == 1)) == pytest.approx(0.65, abs=0.02)


def test_what_is_believed_of_drawn_cameras_is_about_right() -> None:
    rng = np.random.default_rng(1)
    drawn = [camera for camera in cameras(6000, 4) if camera.method != "box"]
    believed = np.array([antialiasing_believed(camera, rng) for camera in drawn])
    means = np.array([camera.method != "nearest" for camera in drawn])
    for low in np.arange(0, 1, 0.25):
        told = (believed >= low) & (believed < low + 0.25)
        assert means[told].mean() == pytest.approx(believed[told].mean(), abs=0.12)  # there are more means than samples


def test_a_mean_of_the_middle_is_believed_to_be_in_between() -> None:
    rng = np.random.default_rng(2)
    believed = [antialiasing_believed(CameraModel(factor=4, method="box"), rng) for _ in range(300)]
    assert 0.3 <= min(believed) < 0.35 and 0.85 < max(believed) <= 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("ratios", "known"),
    [((1.0, 0.0), False), ((1.4, 0.0), False), ((1.0, 1.4), False), ((1.0, 1.5), True), ((1.5, 0.0), True)],
    ids=str,
)
def test_nothing_is_believed_where_depth_is_about_as_fine_as_colour(
    method: str, ratios: tuple[float, float], known: bool
) -> None:
    camera = CameraModel(factor=ratios[0], factor_y=ratios[1], method=method)
    believed = {antialiasing_believed(camera, np.random.default_rng(i)) for i in range(20)}
    assert (believed == {0.5}) != known


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
