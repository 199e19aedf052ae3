"""What happens to the network's result: back-projection where the input allows it, NaN where nothing is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.pipeline import Pipeline
from dkn_ros.postprocess import back_project, forget_beyond, reach
from dkn_ros.preprocess import target_image
from dkn_ros.resampling import resample
from dkn_ros.synthetic.degradation import lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.traits import Traits
from dkn_ros.weights import Card, WeightsError

FloatImage = NDArray[np.float32]


def smooth(width: int, height: int) -> FloatImage:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return 2 + np.sin(x / 7) * np.cos(y / 5)


def left_over(result: FloatImage, measured: FloatImage) -> float:
    """Root mean square of what the result, made smaller, does not give of the input."""
    seen = resample(result, measured.shape[1], measured.shape[0])
    return float(np.sqrt(np.nanmean((seen - measured) ** 2)))


def test_a_step_brings_the_result_nearer_to_the_input_and_half_a_step_half_as_much() -> None:
    measured = lower(smooth(64, 48), 4, "area")
    start = smooth(64, 48) + np.random.default_rng(0).normal(0, 0.1, (48, 64)).astype(np.float32)
    before = left_over(start, measured)
    half, whole = start.copy(), start.copy()
    back_project(half, measured, 0.5, Buffers())
    back_project(whole, measured, 1.0, Buffers())
    assert left_over(whole, measured) < 0.5 * before
    np.testing.assert_allclose(half, (start + whole) / 2, atol=1e-5)


def test_nothing_is_added_where_nothing_was_measured() -> None:
    measured = lower(smooth(64, 48), 4, "area")
    measured[:, 8:] = np.nan
    result = smooth(64, 48) + np.float32(0.3)
    before = result.copy()
    back_project(result, measured, 1.0, Buffers())
    np.testing.assert_array_equal(result[:, 4 * 8 + 8 :], before[:, 4 * 8 + 8 :])
    assert np.abs(result[:, : 4 * 6] - before[:, : 4 * 6]).mean() > 0.2


def test_a_result_that_gives_the_input_stays() -> None:
    result = np.full((48, 64), 1.5, np.float32)
    back_project(result, np.full((12, 16), 1.5, np.float32), 1.0, Buffers())
    np.testing.assert_allclose(result, 1.5, rtol=1e-6)


def test_what_lies_beyond_reach_becomes_nan() -> None:
    depth = np.full((12, 16), 2.0, np.float32)
    depth[:, 4:] = np.nan
    target = target_image(depth, 64, 48)
    distance = reach(target, 64, 48)
    result = np.full((48, 64), 2.0, np.float32)
    forget_beyond(result, distance, 10.0, Buffers())
    np.testing.assert_array_equal(np.isnan(result), distance > 10.0)
    assert np.isnan(result).any() and not np.isnan(result[:, :24]).any()


def test_distance_on_another_grid_is_in_its_pixels() -> None:
    depth = np.full((12, 16), 2.0, np.float32)
    depth[:, 4:] = np.nan
    target = target_image(depth, 64, 48)
    np.testing.assert_allclose(reach(target, 128, 96)[:, -8:].mean(), 2 * target.distance[:, -4:].mean(), rtol=0.03)


@pytest.mark.parametrize(
    ("antialiased", "noise", "wanted"), [(1, 0, 1), (0, 0, 0), (1, 0.1, 0), (0.5, 0.001, 0.5), (1, 0.00275, 0.5)]
)
def test_means_without_noise_are_trusted(antialiased: float, noise: float, wanted: float) -> None:
    assert Traits(antialiased, noise).trust(2) == pytest.approx(wanted)


def test_a_coarse_grid_may_look_noisier() -> None:
    assert Traits(1, 0.006).trust(2) == 0 and Traits(1, 0.006).trust(16) > 0.9


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True])
def test_a_card_with_another_share_is_refused(share: object) -> None:
    with pytest.raises(WeightsError, match=r"back_projection of the card is .*; wanted: a number from 0 to 1"):
        Card(name="w", file="w.safetensors", sha256="", model="fdkn", back_projection=share)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipelines() -> tuple[Pipeline, Pipeline]:
    """The shipped weights with a whole step of back-projection, and without any."""
    stepping, plain = Pipeline(), Pipeline()
    stepping.card = dataclasses.replace(stepping.card, back_projection=1.0)
    plain.card = dataclasses.replace(plain.card, back_projection=0.0)
    return stepping, plain


def steps() -> tuple[NDArray[np.uint8], FloatImage]:
    """A near panel before a tilted wall, in colour and depth; its edges lie inside the pixels of every coarser grid."""
    x = np.arange(640, dtype=np.float32)
    panel = np.zeros((480, 640), bool)
    panel[107:405, 171:459] = True
    rgb = np.repeat(np.where(panel, 200, 60)[..., None], 3, axis=2).astype(np.uint8)
    return rgb, np.where(panel, 1.0, 2 + 0.3 * x / 640).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_the_pipeline_projects_means_back_and_leaves_samples(pipelines: tuple[Pipeline, Pipeline], factor: int) -> None:
    rgb, depth = steps()
    means, samples = (lower(depth, factor, method) for method in ("area", "nearest"))
    stepped, plain = (p.enhance(rgb, means).depth for p in pipelines)
    assert left_over(stepped, means) < 0.9 * left_over(plain, means)
    assert np.nanmin(means) <= stepped.min() and stepped.max() <= np.nanmax(means)
    one, other = (p.enhance(rgb, samples).depth for p in pipelines)
    np.testing.assert_array_equal(one, other)


def test_holes_are_nan_after_back_projection_too(pipelines: tuple[Pipeline, Pipeline]) -> None:
    frame = Scene(5).frame(320, 240, time=1.0)
    depth = lower(frame.depth, 4, "area")
    depth[20:50, 20:60] = np.nan
    one, other = (p.enhance(frame.rgb, depth).valid for p in pipelines)
    np.testing.assert_array_equal(one, other)
    assert not one.all()
