"""What a network is trained on: crops, the grids and scales of their images, and what is drawn how often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.config import TrainingConfig
from dkn_ros.preprocess import Target
from dkn_ros.synthetic import samples
from dkn_ros.synthetic.degradation import CameraModel, lower
from dkn_ros.synthetic.samples import ANY_RATIO, RATIOS, Sample, SceneStore, random_ratios
from dkn_ros.traits import Traits, noise

FloatImage = NDArray[np.float32]


def tiny(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"crop": 48, **changes})


@pytest.fixture(scope="module")
def scenes() -> SceneStore:
    return SceneStore(2, seed=0, progress=False)


def store_of(depth: FloatImage) -> SceneStore:
    """One frame of 640 x 480, in grey."""
    store = SceneStore(0, seed=0, progress=False)
    store.frames.append((np.full((*depth.shape, 3), 128, np.uint8), depth))
    return store


def draws(store: SceneStore, count: int, **changes: Any) -> Iterator[Sample]:
    for i in range(count):
        yield store.draw(tiny(**changes), np.random.default_rng(i))


def test_scenes_are_those_of_the_seed(scenes: SceneStore) -> None:
    again, other = SceneStore(1, seed=0, progress=False), SceneStore(1, seed=1, progress=False)
    for ours, wanted in zip(again.frames[0], scenes.frames[0], strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert not np.array_equal(other.frames[0][1], scenes.frames[0][1])


def test_crops_are_on_one_grid_and_in_range(scenes: SceneStore) -> None:
    config = tiny(misregistration=0.0)
    for i in range(40):
        sample = scenes.draw(config, np.random.default_rng(i))
        for image in (sample.target, sample.validity, sample.truth):
            assert image.shape == (48, 48) and image.dtype == np.float32 and np.isfinite(image).all()
        assert sample.guidance.shape == (1, 48, 48) and 0 <= sample.guidance.min() <= sample.guidance.max() <= 1
        assert sample.validity.min() >= 0 and 0 < sample.validity.max() <= 1 and len(np.unique(sample.validity)) <= 2
        measured = sample.validity > 0
        # Where depth was measured, the input is near the truth, on the same scale and in the same place.
        assert np.median(np.abs(sample.target - sample.truth)[measured]) < 0.2
        assert sample.target.min() > -0.3 and sample.target.max() < 1.3


def test_colour_and_depth_of_a_crop_show_the_same_place() -> None:
    """In scenes whose brightness is their depth, so it is in crops, mirrored or not."""
    rng = np.random.default_rng(0)
    hills = cv2.GaussianBlur(rng.standard_normal((480, 640)), (0, 0), 6)
    hills = (hills - hills.min()) / np.ptp(hills)
    scenes = SceneStore(0, seed=0, progress=False)
    rgb = np.repeat((40 + 120 * hills)[..., None], 3, axis=2).astype(np.uint8)
    scenes.frames.append((rgb, (2 + hills).astype(np.float32)))
    likeness = []
    for i in range(60):
        sample = scenes.draw(tiny(misregistration=0.0), np.random.default_rng(i))
        likeness.append(abs(np.corrcoef(sample.guidance.ravel(), sample.truth.ravel())[0, 1]))
    assert min(likeness) > 0.6 and np.median(likeness) > 0.99  # colour noise and exposure take something off
    shifted = [scenes.draw(tiny(misregistration=20.0), np.random.default_rng(i)) for i in range(60)]
    assert min(abs(np.corrcoef(s.guidance.ravel(), s.truth.ravel())[0, 1]) for s in shifted) < 0.5


def test_colour_guidance_is_drawn_for_networks_that_want_it(scenes: SceneStore) -> None:
    config = tiny(options={"n1": 8, "n2": 8, "rgb": True})
    assert scenes.draw(config, np.random.default_rng(0)).guidance.shape == (3, 48, 48)


def test_ratios_are_probabilities_and_fit_the_crop() -> None:
    assert sum(RATIOS.values()) == pytest.approx(1)
    assert all(48 % factor == 0 for factor in RATIOS)


def test_the_same_seed_draws_the_same_sample(scenes: SceneStore) -> None:
    settings: dict[str, Any] = {"soft_edges": 0.5, "rough_truth": 0.5}
    first, again = (list(draws(scenes, 30, **settings)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        for name in ("guidance", "target", "validity", "truth", "traits"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert len({float(sample.truth.sum()) for sample in first}) == 30


def test_everything_that_is_drawn_is_finite(scenes: SceneStore) -> None:
    for sample in draws(scenes, 200, soft_edges=0.5, rough_truth=0.5, misregistration=4.0):
        for image in (sample.guidance, sample.target, sample.validity, sample.truth):
            assert np.isfinite(image).all()
        assert sample.traits.shape == (3,) and sample.traits.min() >= 0 and sample.traits.max() <= 1
        assert np.ptp(sample.truth) < 20 and sample.validity.max() > 0


# --- ratios and crops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [48, 96])
def test_ratios_make_whole_pixels_and_are_drawn_as_often_as_they_shall(crop: int) -> None:
    ratios = np.array([random_ratios(crop, np.random.default_rng(i)) for i in range(4000)])
    np.testing.assert_allclose(crop / ratios, np.rint(crop / ratios), atol=1e-9)
    assert ratios.min() >= 1 and ratios.max() <= 16
    unlike = ratios[:, 0] != ratios[:, 1]
    assert 0.5 * ANY_RATIO < unlike.mean() < 1.05 * ANY_RATIO  # a few round to the same number of pixels
    assert len({tuple(pair) for pair in ratios[unlike]}) > 100
    assert (ratios[unlike, 0] / ratios[unlike, 1]).max() < 2.2  # 1 / 0.55 and rounding
    for ratio in (4, 8):
        share = np.mean((ratios == ratio).all(axis=1))
        assert share == pytest.approx((1 - ANY_RATIO) * RATIOS[ratio], abs=0.03)


Seen = list[tuple[FloatImage, CameraModel, FloatImage]]
"""Truth, camera and low depth of all crops that are drawn."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    calls: Seen = []
    degrade = samples.degrade

    def noted(depth: FloatImage, camera: CameraModel, *others: Any) -> FloatImage:
        low = degrade(depth, camera, *others)
        calls.append((depth, camera, low))
        return low

    monkeypatch.setattr(samples, "degrade", noted)
    return calls


def test_crops_come_at_any_ratio_and_another_one_for_each_axis(scenes: SceneStore, seen: Seen) -> None:
    for sample in draws(scenes, 200):
        assert sample.target.shape == (48, 48)
    for truth, camera, low in seen:
        assert truth.shape == (48, 48)
        assert low.shape == (round(48 / camera.factors[1]), round(48 / camera.factors[0]))
    ratios = {camera.factors for _, camera, _ in seen}
    assert set(RATIOS) - {12, 16} <= {x for x, y in ratios if x == y}
    assert len({(x, y) for x, y in ratios if x != y and x != int(x)}) > 10


@pytest.mark.parametrize("zoom", [1, 2, 3])
def test_zoomed_crops_show_more_of_the_scene(seen: Seen, monkeypatch: pytest.MonkeyPatch, zoom: int) -> None:
    ramp = np.broadcast_to(np.linspace(2, 3, 641)[:640], (480, 640)).astype(np.float32)
    monkeypatch.setattr(samples, "_zoom", lambda *_: zoom)
    for _ in draws(store_of(ramp), 10):
        pass
    for truth, _, _ in seen:
        assert truth.shape == (48, 48)
        np.testing.assert_allclose(np.abs(np.diff(truth, axis=1)), zoom / 640, atol=1e-5)


def test_crops_are_zoomed_where_depth_is_about_as_fine_as_colour() -> None:
    def zooms(crop: int, *ratios: float) -> list[int]:
        return [samples._zoom(crop, (ratios[0], ratios[1]), np.random.default_rng(i)) for i in range(300)]

    for fine in ((1.0, 1.0), (2.4, 2.4)):
        shares = [zooms(96, *fine).count(zoom) / 300 for zoom in (1, 2, 3)]
        np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.08)  # 0.6 of them by 1, 2 or 3
    assert set(zooms(96, 3.0, 2.0)) == set(zooms(96, 8.0, 8.0)) == {1}
    assert set(zooms(192, 1.0, 1.0)) == {1, 2}  # three times 192 is more than 480 rows


# --- truth --------------------------------------------------------------------------------------------------------


def wall_and_post() -> FloatImage:
    depth = np.full((480, 640), 3, np.float32)
    depth[:, 20::40] = depth[:, 21::40] = depth[:, 22::40] = 2
    return depth


def test_truth_is_as_it_is_unless_it_shall_be_rough_or_soft(seen: Seen) -> None:
    for _ in draws(store_of(wall_and_post()), 40):
        pass
    assert all(set(np.unique(truth)) <= {2.0, 3.0} for truth, camera, _ in seen if max(camera.factors) > 2.5)


def test_rough_truth_has_waves_and_wandering_outlines(seen: Seen) -> None:
    for _ in draws(store_of(wall_and_post()), 60, rough_truth=1.0):
        pass
    deviations, wanders = [], []
    for truth, camera, _ in seen:
        if max(camera.factors) > 2.5:  # zoomed ones mix post and wall
            near = truth < 2.5
            waves = np.where(near, truth / 2, truth / 3) - 1
            deviations.append(waves.std())
            wanders.append(bool((near != near[0]).any()))
            assert abs(waves).max() < 0.006 * 6
    assert 0.0005 < np.median(deviations) < 0.006  # of up to 0.6 %
    assert np.mean(wanders) > 0.5  # by up to 2 pixels


def test_rough_truth_is_a_share_of_the_crops(seen: Seen) -> None:
    for _ in draws(store_of(wall_and_post()), 150, rough_truth=0.3):
        pass
    rough = [len(np.unique(truth)) > 2 for truth, camera, _ in seen if max(camera.factors) > 2.5]
    assert np.mean(rough) == pytest.approx(0.3, abs=0.12)


def test_soft_edges_blur_the_truth_and_leave_walls(seen: Seen) -> None:
    for _ in draws(store_of(wall_and_post()), 40, soft_edges=1.0):
        pass
    for truth, _, _ in seen:
        assert truth.min() >= 2 - 1e-4 and truth.max() <= 3 + 1e-4
        assert len(np.unique(np.round(truth, 3))) > 2
        assert np.ptp(truth, axis=0).max() < 1e-4  # upright edges stay upright


# --- traits -------------------------------------------------------------------------------------------------------


def test_samples_tell_of_their_cameras(scenes: SceneStore, seen: Seen) -> None:
    told: dict[str, list[float]] = {"nearest": [], "area": [], "bicubic": []}
    for sample in draws(scenes, 300):
        camera = seen[-1][1]
        if max(camera.factors) < 1.5:
            assert sample.traits[0] == 0.5
        elif camera.method in told:
            told[camera.method].append(sample.traits[0])
    assert np.mean(told["nearest"]) < 0.25 and min(np.mean(told["area"]), np.mean(told["bicubic"])) > 0.75


def test_samples_tell_the_noise_of_their_own_image(scenes: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a ratio of 1 the network sees the very pixels that the camera measured, wherever in 0..1 they were put."""
    monkeypatch.setattr(samples, "random_ratios", lambda *_: (1.0, 1.0))
    codes = []
    for sample in draws(scenes, 80, noiseless=0.3):
        if (sample.validity > 0).all():
            codes.append((sample.traits[1], Traits(0.5, noise(sample.target)).encoded()[1]))
    told, wanted = np.array(codes).T
    np.testing.assert_allclose(told, wanted, atol=1e-3)
    assert len(codes) > 20 and np.ptp(told) > 0.3


# --- guesses in holes ---------------------------------------------------------------------------------------------


def test_holes_sometimes_hold_a_good_guess(scenes: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[tuple[FloatImage, FloatImage, FloatImage | None]] = []
    given: list[FloatImage | None] = []
    guess, target_image = samples._guess, samples.target_image

    def guessed(low: FloatImage, truth: FloatImage, rng: np.random.Generator) -> FloatImage | None:
        known.append((low, truth, guess(low, truth, rng)))
        return known[-1][2]

    def made(low: FloatImage, width: int, height: int, stand_in: FloatImage | None) -> Target:
        given.append(stand_in)
        return target_image(low, width, height, stand_in)

    monkeypatch.setattr(samples, "_guess", guessed)
    monkeypatch.setattr(samples, "target_image", made)
    for _ in draws(scenes, 300):
        pass
    assert all(a is b for (_, _, a), b in zip(known, given, strict=True))
    holes = [bool(np.isnan(low).any()) for low, _, _ in known]
    guesses = [stand_in is not None for _, _, stand_in in known]
    assert not any(a and not b for a, b in zip(guesses, holes, strict=True))  # without holes there is nothing to guess
    assert np.sum(guesses) / np.sum(holes) == pytest.approx(0.35, abs=0.12)
    errors = []
    for low, truth, stand_in in known:
        if stand_in is not None:
            assert stand_in.shape == low.shape and np.isfinite(stand_in).all()
            whole = tuple(large / small for large, small in zip(truth.shape, low.shape, strict=True))
            there = lower(truth, whole[1], "area", factor_y=whole[0])
            errors.append(np.median(np.abs(stand_in / there - 1)))
    assert np.median(errors) < 0.02 and max(errors) < 0.2
    assert max(errors) > 0  # a guess is not the truth
