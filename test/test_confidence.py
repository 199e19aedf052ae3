"""Confidence: what it is made of, and whether it knows where the depth is wrong, on rooms that it was not made with."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.confidence import (
    BIAS,
    CORRECTION,
    DISTANCE,
    LEAST_CORRECTION,
    LEAST_SPREAD,
    RATIO,
    SPREAD,
    WITHIN,
    confidence,
    evidence,
)
from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.preprocess import Target, target_image
from dkn_ros.synthetic.confidence_fit import fit, frames
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.scene import Scene

HEIGHT, WIDTH = 24, 36
SEEDS = (9100, 9101)
CAMERAS = (
    dataclasses.replace(KINECT, factor=4),
    CameraModel(factor=8, method="area"),
    CameraModel(factor=2, tof_noise=0.003, flying_pixels=0.7),
)


def result(rng: np.random.Generator, width: int = WIDTH, height: int = HEIGHT) -> tuple[NDArray[np.float32], Target]:
    """A made-up result with holes, and the target that it could be of, on the grid of the colour image / 1."""
    low = rng.uniform(1, 3, (HEIGHT // 4, WIDTH // 4)).astype(np.float32)
    low[1:4, 2:6] = np.nan
    target = target_image(low, width, height)
    depth = rng.uniform(1, 3, (HEIGHT, WIDTH)).astype(np.float32)
    depth[6:9, 10:14] = np.nan
    return depth, target


def of(depth: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
    out = np.full(depth.shape, -1, np.float32)
    confidence(depth, target, Buffers(), out)
    return out


def test_it_is_the_formula(rng: np.random.Generator) -> None:
    depth, target = result(rng)
    bicubic = target.low + (target.high - target.low) * target.image
    change = np.nan_to_num(np.abs(depth - bicubic) / depth)
    padded = np.pad(change, 3, mode="edge")
    expected = np.zeros_like(depth)
    for y, x in np.ndindex(*depth.shape):
        around = depth[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if np.isnan(depth[y, x]):
            continue
        spread = (np.nanmax(around) - np.nanmin(around)) / depth[y, x]
        correction = padded[y : y + 7, x : x + 7].mean()
        odds = BIAS + RATIO * np.log2(target.ratio) + DISTANCE * np.log2(1 + target.distance[y, x])
        odds += SPREAD * np.log2(1 + spread / LEAST_SPREAD) + CORRECTION * np.log2(1 + correction / LEAST_CORRECTION)
        expected[y, x] = 1 / (1 + np.exp(-odds))
    assert target.distance.max() > 0
    np.testing.assert_allclose(of(depth, target), expected, rtol=2e-3, atol=1e-5)


def test_it_is_a_probability_and_none_where_depth_is_invalid(rng: np.random.Generator) -> None:
    depth, target = result(rng)
    found = of(depth, target)
    assert ((found == 0) == np.isnan(depth)).all()
    assert found.max() <= 1


def test_the_network_may_work_on_another_grid(rng: np.random.Generator) -> None:
    """Distances are pixels of the colour image, whatever the grid."""
    depth, target = result(rng, WIDTH // 2, HEIGHT // 2)
    found = evidence(depth, target, Buffers())
    assert found.distance.shape == found.correction.shape == depth.shape
    _, whole = result(np.random.default_rng(0))
    assert found.distance.max() == pytest.approx(whole.distance.max(), rel=0.2)
    assert (of(depth, target) > 0).any()


def test_a_wall_without_doubt(rng: np.random.Generator) -> None:
    """A constant wall as measured is as sure as it gets; a step in it is not."""
    target = target_image(np.full((HEIGHT // 4, WIDTH // 4), 2, np.float32), WIDTH, HEIGHT)
    wall = np.full((HEIGHT, WIDTH), 2, np.float32)
    assert of(wall, target).min() > 0.99
    wall[:, WIDTH // 2 :] = 2.5
    found = of(wall, target)
    assert found[:, WIDTH // 2 - 1 : WIDTH // 2 + 1].max() < 0.5 < found[:, : WIDTH // 2 - 6].min()


# --- on rendered rooms ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Confidence and error in parts of the true depth, of every pixel that has a depth, with the shipped weights."""
    pipeline = Pipeline(PipelineConfig(device="cpu", threads=1))
    found, errors = [], []
    for seed in SEEDS:
        frame = Scene(seed).frame(640, 480)
        for number, camera in enumerate(CAMERAS):
            low = degrade(frame.depth, camera, np.random.default_rng((seed, number)), frame.rgb)
            out = np.empty(frame.depth.shape, np.float32)
            depth = pipeline.enhance(frame.rgb, low, confidence=out).depth
            known = ~np.isnan(depth)
            found.append(out[known])
            errors.append((np.abs(depth - frame.depth) / frame.depth)[known])
    return np.concatenate(found), np.concatenate(errors)


Measured = tuple[NDArray[np.float32], NDArray[np.float32]]


def test_the_error_grows_as_confidence_falls(measured: Measured) -> None:
    found, errors = measured
    tenths = [float(part.mean()) for part in np.array_split(errors[np.argsort(found)], 10)]
    print("mean error of each tenth, least sure first:", [f"{error:.2%}" for error in tenths])
    assert tenths[0] > 4 * tenths[1] > 4 * tenths[-1]
    assert tenths[0] > 50 * tenths[-1]
    assert all(worse > better for worse, better in zip(tenths, tenths[2:], strict=False))


def test_ranks_agree(measured: Measured) -> None:
    found, errors = (np.argsort(np.argsort(values)) for values in measured)
    assert np.corrcoef(-found, errors)[0, 1] > 0.5


def test_it_means_what_it_says(measured: Measured) -> None:
    """Of the pixels with a confidence of about p, a share of about p is within 2 %."""
    found, errors = measured
    right = errors < WITHIN
    for least, most in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        here = (found >= least) & (found < most)
        assert here.sum() > 2000
        said, was = float(found[here].mean()), float(right[here].mean())
        print(f"{least:.2f} to {most:.2f}: {here.mean():6.2%} of the pixels, says {said:.3f}, is {was:.3f}")
        assert abs(said - was) < 0.15


# --- in the pipeline ------------------------------------------------------------------------------------------------


def test_asking_for_it_changes_no_depth() -> None:
    pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32", threads=1))
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (48, 64, 3), np.uint8)
    low = rng.integers(1000, 3000, (12, 16)).astype(np.uint16)
    without = pipeline.enhance(rgb, low)
    out = np.full((48, 64), -1, np.float32)
    asked = pipeline.enhance(rgb, low, confidence=out)
    np.testing.assert_array_equal(asked.depth, without.depth)
    assert "confidence" in asked.timings and "confidence" not in without.timings
    assert ((out > 0) == asked.valid).all()


def test_without_any_depth_there_is_none() -> None:
    pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32", threads=1))
    out = np.full((48, 64), -1, np.float32)
    pipeline.enhance(np.zeros((48, 64, 3), np.uint8), np.zeros((12, 16), np.uint16), confidence=out)
    assert (out == 0).all()


def test_an_array_that_does_not_fit_is_refused() -> None:
    pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32", threads=1))
    rgb, low = np.zeros((48, 64, 3), np.uint8), np.ones((12, 16), np.float32)
    with pytest.raises(ValueError, match=r"confidence is float64 of shape \(48, 64\); wanted: C-contiguous float32"):
        pipeline.enhance(rgb, low, confidence=np.empty((48, 64)))  # type: ignore[arg-type]


def test_a_later_frame_makes_no_array_of_an_images_size() -> None:
    depth, buffers = np.ones((240, 320), np.float32), Buffers()
    target = target_image(np.ones((60, 80), np.float32), 320, 240)
    out = np.empty_like(depth)
    confidence(depth, target, buffers, out)
    tracemalloc.start()
    try:
        confidence(depth, target, buffers, out)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()


def test_the_fit_finds_what_made_the_data(rng: np.random.Generator) -> None:
    wanted = np.array([-0.9, -0.5, 1.5])
    features = np.column_stack([rng.uniform(0, 6, (40000, 2)), np.ones(40000)])
    right = rng.random(40000) < 1 / (1 + np.exp(-features @ wanted))
    np.testing.assert_allclose(fit(features, right), wanted, atol=0.1)


def test_the_fit_of_a_small_room_gives_numbers_of_the_right_sign() -> None:
    """Steeper, more corrected, farther from measured depth or coarser: less sure."""
    pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32"))
    cameras = [CameraModel(2, "area"), CameraModel(8, "area", shadows=1, blobs=3)]
    found = list(frames(pipeline, (9200,), cameras, 160, 120))
    assert len(found) == len(cameras)
    features, errors, confidences = (np.concatenate(parts) for parts in zip(*found, strict=True))
    numbers = np.array([SPREAD, CORRECTION, DISTANCE, RATIO, BIAS])
    np.testing.assert_allclose(confidences, 1 / (1 + np.exp(-features @ numbers)), atol=1e-3)
    spread, correction, distance, ratio, bias = fit(features, errors < WITHIN)
    assert spread < 0 and correction < 0 and distance < 0 and ratio < 0 < bias
