"""What is told from a depth image: whether its pixels are means or samples, and its noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.preprocess import target_image
from dkn_ros.synthetic.degradation import CameraModel, degrade, lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.traits import (
    ENOUGH_EDGES,
    MEANS_TELL,
    SAMPLES_TELL,
    UNKNOWN,
    Traits,
    antialiased,
    coarser,
    noise,
    traits_of,
)

FloatImage = NDArray[np.float32]

SCENES = (0, 1, 2, 3, 5, 6)
BARE = 4
"""The seed of a scene that shows no edges."""
SIZES = [(1, 1), (1, 2), (3, 3), (1, 40), (40, 1), (2, 9), (9, 2), (4, 4)]


@pytest.fixture(scope="module")
def truths() -> list[FloatImage]:
    return [Scene(seed).frame().depth for seed in SCENES]


def plane(height: int = 60, width: int = 80) -> FloatImage:
    """A slanted one, 2 to 4 m."""
    y, x = np.indices((height, width))
    return (2 + x / width + y / height).astype(np.float32)


def steps(count: int, share: float) -> FloatImage:
    """Upright edges from 1 m to 2 m and back, in one row each; their middle pixel lies at `share` of the step."""
    rows = np.ones((count + 4, 11), np.float32)
    rows[2:-2, 5] += share
    rows[2:-2, 6:] = 2
    rows[:2], rows[-2:] = np.nan, np.nan  # else there were edges between the rows as well
    return rows


def with_noise(depth: FloatImage, sigma: float, seed: int = 0) -> FloatImage:
    return (depth + sigma * np.random.default_rng(seed).standard_normal(depth.shape)).astype(np.float32)


def with_gaps(depth: FloatImage, share: float, seed: int = 0) -> FloatImage:
    return np.where(np.random.default_rng(seed).random(depth.shape) < share, np.float32(np.nan), depth)


# --- means or samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [0.0, 0.1])
@pytest.mark.parametrize("ratio", [4, 8])
def test_means_are_told_from_samples(truths: list[FloatImage], ratio: int, gaps: float) -> None:
    for truth in truths:
        told = {
            method: antialiased(with_gaps(lower(truth, ratio, method), gaps), ratio)
            for method in ("nearest", "area", "bicubic")
        }
        assert told["nearest"] < 0.1 and told["area"] > 0.8 and told["bicubic"] > 0.9, told


@pytest.mark.parametrize("phase", [(0.0, 0.0), (0.3, 0.9)], ids=str)
def test_any_pixel_of_a_block_is_a_sample(truths: list[FloatImage], phase: tuple[float, float]) -> None:
    assert max(antialiased(lower(truth, 4, "nearest", phase), 4) for truth in truths) < 0.1


def test_shadows_and_blobs_do_not_hide_it(truths: list[FloatImage]) -> None:
    camera = CameraModel(factor=4, shadows=1.0, border=2, blobs=4, speckle=0.02)
    for i, truth in enumerate(truths):
        samples, means = (
            degrade(truth, dataclasses.replace(camera, method=method), np.random.default_rng(i))
            for method in ("nearest", "area")
        )
        assert np.isnan(samples).mean() > 0.02
        assert antialiased(samples, 4) < 0.2 and antialiased(means, 4) > 0.8


@pytest.mark.parametrize("method", ["nearest", "area"])
def test_unknown_where_depth_is_as_fine_as_colour(truths: list[FloatImage], method: str) -> None:
    low = lower(truths[0], 4, method)
    assert [antialiased(low, ratio) for ratio in (0.25, 1.0, 1.2)] == [0.5] * 3
    certainty = [abs(antialiased(low, ratio) - 0.5) for ratio in (1.0, 1.5, 2.0)]
    assert 0 == certainty[0] < certainty[1] < certainty[2]


def test_unknown_without_edges() -> None:
    assert antialiased(plane(), 8) == 0.5
    bare = Scene(BARE).frame().depth
    assert [antialiased(lower(bare, 8, method), 8) for method in ("nearest", "area")] == [0.5, 0.5]
    assert antialiased(steps(40, 0.5) / np.float32(16) + 2, 8) == 0.5  # of 3 %, as a slanted surface has


def test_more_edges_make_it_surer() -> None:
    few, many = int(ENOUGH_EDGES) // 4, 2 * int(ENOUGH_EDGES)
    assert 0.5 < antialiased(steps(1, 0.5), 8) < antialiased(steps(few, 0.5), 8) < antialiased(steps(many, 0.5), 8)
    assert 0.5 > antialiased(steps(1, 0.0), 8) > antialiased(steps(few, 0.0), 8) > antialiased(steps(many, 0.0), 8)
    assert antialiased(steps(many, 0.5), 8) > 0.99 and antialiased(steps(many, 0.0), 8) < 0.01


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_rows_and_columns_count_alike(share: float) -> None:
    upright = steps(12, share)
    assert antialiased(upright.T, 8) == antialiased(upright[:, ::-1], 8) == antialiased(upright, 8) != 0.5


def test_a_slope_between_two_surfaces_is_no_edge() -> None:
    ramp = np.tile(np.concatenate((np.ones(8), np.linspace(1, 2, 8), np.full(8, 2))).astype(np.float32), (20, 1))
    assert antialiased(ramp, 8) == 0.5


@pytest.mark.parametrize("unit", [0.001, 0.37, 1000.0])
def test_units_do_not_matter(truths: list[FloatImage], unit: float) -> None:
    low = with_noise(lower(truths[1], 8, "area"), 0.01)
    metres, others = traits_of(low, 8, 3.0), traits_of(low * np.float32(unit), 8, 3.0 * unit)
    assert metres.antialiased != 0.5 and metres.noise > 0
    np.testing.assert_allclose(others, metres, rtol=1e-3)


# --- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 80), (240, 320), (480, 640), (7, 400)], ids=str)
@pytest.mark.parametrize("sigma", [0.002, 0.05])
def test_noise_is_that_of_a_noisy_plane(size: tuple[int, int], sigma: float) -> None:
    assert noise(with_noise(plane(*size), sigma)) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("size", [(60, 80), (480, 640)], ids=str)
def test_a_plane_has_no_noise(size: tuple[int, int]) -> None:
    assert noise(plane(*size)) < 1e-6
    assert noise(np.full(size, 1.5, np.float32)) == 0


def test_edges_and_gaps_are_no_noise(truths: list[FloatImage]) -> None:
    blocks = plane() + 2 * (np.indices((60, 80)).sum(axis=0) // 30 % 2).astype(np.float32)
    assert noise(with_gaps(blocks, 0.1)) < 1e-6
    assert noise(with_gaps(with_noise(blocks, 0.01), 0.1)) == pytest.approx(0.01, rel=0.15)
    assert max(noise(lower(truth, 4, "nearest")) for truth in truths) < 0.004


def test_noise_counts_in_parts_of_the_range() -> None:
    depth = with_noise(plane(), 0.01)
    assert traits_of(depth, 4, 0.5).noise == pytest.approx(2 * noise(depth))


# --- odd images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("fill", [1.5, np.nan])
def test_too_small_or_empty_images_tell_nothing(size: tuple[int, int], fill: float) -> None:
    assert traits_of(np.full(size, fill, np.float32), 8, 1.0)[:2] == (0.5, 0.0)


@pytest.mark.parametrize("size", [*SIZES, (20, 30)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_whatever_comes_is_told_in_bounds(size: tuple[int, int], share: float) -> None:
    for seed in range(5):
        depth = np.random.default_rng(seed).uniform(0.5, 5, size).astype(np.float32)
        told = traits_of(with_gaps(depth, share, seed), 4, 4.5)
        assert 0 <= told.antialiased <= 1 and 0 <= told.noise < 4
        assert np.isfinite(told.encoded()).all()


def test_what_is_told_of_colour_edges_is_less_for_means_and_more_on_a_coarse_grid() -> None:
    """Two pixels apart are one on half the grid."""
    ground = np.linspace(1, 4, 192, dtype=np.float32)
    cliffs = np.repeat(np.where(np.arange(16) % 2, np.float32(2), np.float32(1)), 12)
    samples, means = (np.tile(row, (40, 1)) for row in (cliffs, np.convolve(cliffs, (0.5, 0.5), "same")))
    told = [traits_of(np.ascontiguousarray(depth, np.float32), 8, 1.0, aligned=0.8) for depth in (samples, means)]
    assert told[0].antialiased < 0.2 and told[0].aligned == 0.8
    assert told[1].antialiased > 0.9 and told[1].aligned < 0.9 * (1 - 0.8 * MEANS_TELL)
    assert traits_of(np.tile(ground, (40, 1)), 8, 1.0).aligned == UNKNOWN
    for ratio, wanted in ((1, 0.9), (2, SAMPLES_TELL), (4, 0.9), (16, 0.9)):
        assert traits_of(np.tile(ground, (40, 1)), ratio, 1.0, aligned=0.9).aligned == pytest.approx(wanted)
    assert coarser(float(np.exp(-2 / 2)), 0.5) == pytest.approx(np.exp(-1 / 2))
    assert Traits(0.2, 0.0, 0.8).encoded()[2] == np.float32(0.8)


def test_looking_does_not_write() -> None:
    depth = with_gaps(plane(), 0.1)
    before = depth.copy()
    depth.flags.writeable = False
    traits_of(depth, 4, 1.0)
    np.testing.assert_array_equal(depth, before)


# --- the code -----------------------------------------------------------------------------------------------------


def test_the_code_is_in_bounds_and_rises() -> None:
    levels = [0.0, 1e-4, 1e-3, 0.01, 0.1, 0.25]
    code = np.stack([Traits(0.5, level).encoded() for level in levels])
    assert code.dtype == np.float32 and code.shape == (6, 3)
    assert code[0, 1] == 0 and (np.diff(code[:, 1]) > 0.01).all() and 0.95 < code[-1, 1] <= 1
    assert Traits(0.5, 1e6).encoded()[1] == 1
    shares = [0.0, 0.2, 0.5, 1.0]
    np.testing.assert_allclose([Traits(share, 0.01).encoded()[0] for share in shares], shares, rtol=1e-6)


@pytest.mark.parametrize("method", ["nearest", "area"])
def test_a_target_has_the_traits_of_its_depth(truths: list[FloatImage], method: str) -> None:
    low = with_gaps(with_noise(lower(truths[1], 8, method), 0.02), 0.05)
    target = target_image(low, 640, 480)
    assert target.traits == traits_of(low, 8.0, target.high - target.low)
    assert (target.traits.antialiased > 0.5) == (method == "area") and target.traits.noise > 0
