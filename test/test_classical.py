"""The baselines: what any upsampling must do, that colour guides them, and that holes are left out of the averages."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.metrics import rmse
from dkn_ros.models import classical
from dkn_ros.models.classical import BASELINES, Baseline
from dkn_ros.preprocess import fill_holes
from dkn_ros.resampling import resample

FloatImage = NDArray[np.float32]
FACTOR, HEIGHT, WIDTH = 8, 64, 96

needs_ximgproc = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="this OpenCV came without contrib modules")
each = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


def step() -> tuple[NDArray[np.uint8], FloatImage]:
    """A bright surface at 1 m right of a dark one at 2 m; the edge is slanted, and colour shows it."""
    y, x = np.indices((HEIGHT, WIDTH))
    near = x > 40 + y // 5
    truth = np.where(near, 1, 2).astype(np.float32)
    rgb = np.where(near[..., None], (200, 180, 160), (40, 50, 60)).astype(np.uint8)
    return rgb, truth


def every_nth(truth: FloatImage) -> FloatImage:
    return truth[FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR].copy()


def bicubic(low: FloatImage) -> FloatImage:
    return resample(fill_holes(low)[0], WIDTH, HEIGHT)


@needs_ximgproc
@each
@pytest.mark.parametrize("size", [(1, 1), (13, 17), (60, 80)])
def test_a_flat_scene_stays_flat(baseline: Baseline, size: tuple[int, int]) -> None:
    """Whatever the colours, the ratio and the holes."""
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    low = np.full(size, 3.5, np.float32)
    low[: size[0] // 2] = np.nan
    result = baseline(rgb, low)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.full((60, 80), 3.5), rtol=1e-5)


@needs_ximgproc
@each
def test_colour_puts_the_edge_into_its_place(baseline: Baseline) -> None:
    rgb, truth = step()
    low = every_nth(truth)
    grey = np.full_like(rgb, 128)
    guided, blind = rmse(baseline(rgb, low), truth), rmse(baseline(grey, low), truth)
    assert guided < 0.9 * rmse(bicubic(low), truth)
    assert guided < 0.9 * blind


@needs_ximgproc
@each
def test_unit_and_offset_make_no_difference(baseline: Baseline) -> None:
    rgb, truth = step()
    low = every_nth(truth)
    low[2:4, 5:8] = np.nan
    np.testing.assert_allclose(baseline(rgb, 5 * low + 10), 5 * baseline(rgb, low) + 10, rtol=1e-5)


@needs_ximgproc
@pytest.mark.parametrize("name", ["jbu", "fgs"])
def test_what_was_not_measured_is_not_averaged(name: str) -> None:
    """The edge runs through a hole, half of which is nearest to the wrong surface; colour knows better."""
    rgb, truth = step()
    low = every_nth(truth)
    low[:, 5] = np.nan
    hole = np.zeros(truth.shape, bool)
    hole[:, 5 * FACTOR : 6 * FACTOR] = True
    assert rmse(BASELINES[name](rgb, low), truth, where=hole) < 0.7 * rmse(bicubic(low), truth, where=hole)


@needs_ximgproc
@each
def test_nothing_measured(baseline: Baseline) -> None:
    with pytest.raises(ValueError, match="no valid pixel"):
        baseline(step()[0], np.full((8, 12), np.nan, np.float32))


@each
def test_opencv_without_contrib_says_what_to_do(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    rgb, truth = step()
    with pytest.raises(ValueError, match=r"install opencv-contrib-python-headless .* or choose --baselines none"):
        baseline(rgb, every_nth(truth))
    with pytest.raises(ValueError, match="no ximgproc"):
        classical.ximgproc()
