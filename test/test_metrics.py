"""Error measures against numbers worked out by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.metrics import BORDER, compared, coverage, mae, rmse

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


@pytest.mark.parametrize("measure", [rmse, mae])
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


@pytest.mark.parametrize("measure", [compared, rmse, mae, coverage])
def test_refuses_images_of_different_shape(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"depth is \(20, 30\), truth \(20, 31\); wanted: the same shape"):
        measure(np.ones((20, 30), np.float32), np.ones((20, 31), np.float32))


@pytest.mark.parametrize("measure", [compared, rmse, mae, coverage])
@pytest.mark.parametrize("size", [12, 16])
def test_refuses_to_measure_nothing(measure: Measure, size: int) -> None:
    """All unknown, or all cut away with the border."""
    depth = np.ones((size, size), np.float32)
    truth = depth if size == 12 else np.full_like(depth, nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="nothing can be measured"):
            measure(depth, truth)
