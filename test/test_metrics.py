"""Error measures against numbers worked out by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.metrics import (
    BORDER,
    EDGE_REACH,
    compared,
    coverage,
    enlarged,
    flicker,
    mae,
    near_edges,
    off_share,
    rmse,
    still,
    zones,
)

FloatImage = NDArray[np.float32]
Measure = Callable[..., Any]
nan = np.nan


def image(rows: list[list[float]]) -> FloatImage:
    return np.array(rows, np.float32)


TRUTH = image([[1, 2, 3], [4, nan, 6]])
DEPTH = image([[1, 5, nan], [4, 9, 2]])  # errors 0, 3, 0, 4 where both are known


def test_errors_of_the_pixels_that_both_know() -> None:
    assert mae(DEPTH, TRUTH, border=0) == pytest.approx(7 / 4)
    assert rmse(DEPTH, TRUTH, border=0) == pytest.approx(np.sqrt(25 / 4))
    assert rmse(TRUTH, DEPTH, border=0) == rmse(DEPTH, TRUTH, border=0)


def test_infinities_are_no_depth() -> None:
    depth = DEPTH.copy()
    depth[0, 2] = np.inf
    assert mae(depth, TRUTH, border=0) == pytest.approx(7 / 4)


@pytest.mark.parametrize("measure", [rmse, mae, off_share])
def test_the_border_is_cut_and_nothing_else(measure: Measure) -> None:
    truth = np.zeros((20, 30), np.float32)
    inner, outer = [(6, 6), (13, 23), (6, 23)], [(5, 10), (14, 10), (10, 5), (10, 24)]
    for y, x in inner + outer:
        depth = truth.copy()
        depth[y, x] = 1
        assert (measure(depth, truth) > 0) == ((y, x) in inner)
    assert BORDER == 6


@pytest.mark.parametrize("measure", [rmse, mae])
def test_errors_are_worked_out_in_double_precision(measure: Measure) -> None:
    """In single precision the first square would be infinite and the second difference 1."""
    depth, truth = np.full((20, 20), 1e25, np.float32), np.zeros((20, 20), np.float32)
    assert measure(depth, truth) == pytest.approx(1e25)
    assert measure(np.ones_like(truth), np.full_like(truth, 1e-9)) == pytest.approx(1 - 1e-9, rel=1e-12)


def test_coverage_is_the_share_of_the_truth_that_is_known() -> None:
    assert coverage(DEPTH, TRUTH, border=0) == pytest.approx(4 / 5)
    assert coverage(TRUTH, TRUTH, border=0) == 1.0
    assert coverage(np.full_like(TRUTH, nan), TRUTH, border=0) == 0.0


@pytest.mark.parametrize("measure", [compared, rmse, mae, off_share, coverage])
def test_refuses_images_of_different_shape(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"depth is \(20, 30\), truth \(20, 31\); wanted: the same shape"):
        measure(np.ones((20, 30), np.float32), np.ones((20, 31), np.float32))


@pytest.mark.parametrize("measure", [compared, rmse, mae, off_share, coverage])
@pytest.mark.parametrize("size", [12, 16])
def test_refuses_to_measure_nothing(measure: Measure, size: int) -> None:
    """All unknown, or all cut away with the border."""
    depth = np.ones((size, size), np.float32)
    truth = depth if size == 12 else np.full_like(depth, nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="nothing can be measured"):
            measure(depth, truth)


@pytest.mark.parametrize("measure", [rmse, mae, off_share])
def test_only_the_mask_is_measured(measure: Measure) -> None:
    where = np.array([[True, False, True], [True, True, False]])
    assert measure(DEPTH, TRUTH, border=0, where=where) == 0, "the pixels that are off lie outside"
    where[0, 1] = True
    assert measure(DEPTH, TRUTH, border=0, where=where) > 0
    with pytest.raises(ValueError, match="nothing can be measured"):
        measure(DEPTH, TRUTH, border=0, where=np.zeros_like(where))


def test_off_by_more_than_a_twentieth_of_the_truth() -> None:
    truth = image([[1, 1, 4, 4, 4, nan]])
    depth = image([[1.04, 1.06, 4.19, 3.79, 3.81, 9]])
    assert off_share(depth, truth, border=0) == pytest.approx(2 / 5)


def test_zones_of_one_made_hole_and_one_of_the_frame() -> None:
    made = np.zeros((5, 20), bool)
    made[2, 3] = True
    invalid = made.copy()
    invalid[2, 15] = True
    found = zones(made, invalid, 4)
    hole = np.zeros((20, 80), bool)
    hole[8:12, 12:16] = True
    np.testing.assert_array_equal(found.hole, hole)
    row = 9
    measured = set(range(80)) - set(range(12, 16)) - set(range(60, 64))
    away = {x: min(max(12 - x, x - 15), max(60 - x, x - 63)) for x in measured}
    assert set(np.flatnonzero(found.near[row])) == {x for x in measured if away[x] <= 4}
    assert set(np.flatnonzero(found.far[row])) == {x for x in measured if away[x] > 8}
    assert not (found.hole & found.near | found.near & found.far | found.hole & found.far).any()


def test_without_holes_everything_is_far() -> None:
    none = np.zeros((3, 4), bool)
    found = zones(none, none, 2)
    assert found.far.all()
    assert not found.near.any() and not found.hole.any()


def test_enlarged_makes_blocks() -> None:
    np.testing.assert_array_equal(enlarged(np.array([[True, False]]), 2), [[True, True, False, False]] * 2)


@pytest.mark.parametrize("turned", [False, True])
def test_edges_are_steps_of_more_than_a_twentieth_of_the_nearer_depth(turned: bool) -> None:
    truth = np.full((5, 30), 2, np.float32)
    truth[:, 10:] = 2.11
    truth[:, 20:] = 2.2  # 0.09 more: no edge
    truth[:, 28:] = nan
    near = near_edges(truth.T if turned else truth)
    columns = (near.T if turned else near)[2]
    assert list(np.flatnonzero(columns)) == list(range(9 - EDGE_REACH, 11 + EDGE_REACH))


def test_no_edges_on_a_slope() -> None:
    assert not near_edges(np.tile(np.linspace(1, 4, 200, dtype=np.float32), (10, 1))).any()


def test_flicker_is_the_mean_change_of_static_pixels() -> None:
    previous, now = image([[1, 2, 3, nan]]), image([[1.5, 1, 9, 4]])
    static = np.array([[True, True, False, True]])
    assert flicker(previous, now, static, border=0) == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(ValueError, match="nothing can be measured"):
        flicker(previous, now, np.array([[False, False, False, True]]), border=0)


def test_still_is_where_neither_light_nor_depth_changes() -> None:
    light, depth = np.full((40, 60), 0.5, np.float32), np.full((40, 60), 2, np.float32)
    brighter, deeper = light.copy(), depth.copy()
    brighter[:, :20] += 0.1
    deeper[:, 40:] += 0.05
    deeper[:, 30:40] += 0.03  # 1.5 %: noise
    deeper[0, 30] = nan
    static = still((light, brighter), (depth, deeper))
    assert not static[:, :18].any() and not static[:, 40:].any() and not static[0, 30]
    assert static[1:, 26:40].all()

    speckled = light.copy()
    speckled[10, 30] += 0.1
    assert still((light, speckled), (depth, depth)).all(), "noise of single pixels is smoothed away"
