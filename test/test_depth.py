"""Units and the invalid rule of depth images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.depth import check_depth, to_metres, to_millimetres


def row(values: list[float], dtype: type = np.float32) -> NDArray:
    return np.array([values], dtype)


def test_millimetres_become_metres_and_zero_becomes_nan() -> None:
    metres = to_metres(row([0, 1, 999, 2047, 65534, 65535], np.uint16))
    assert metres.dtype == np.float32
    np.testing.assert_array_equal(metres, row([np.nan, 0.001, 0.999, 2.047, 65.534, np.nan]))


def test_every_millimetre_is_the_float_of_its_decimal_number_and_comes_back() -> None:
    millimetres = np.arange(65535, dtype=np.uint16)[None]
    metres = to_metres(millimetres)
    np.testing.assert_array_equal(metres[0, 1:], np.array([float(f"{i}e-3") for i in range(1, 65535)], np.float32))
    np.testing.assert_array_equal(to_millimetres(metres), millimetres)


def test_float_depth_keeps_its_values_and_loses_what_is_no_measurement() -> None:
    metres = to_metres(row([1.25, np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e-3, 300.0]))
    np.testing.assert_array_equal(metres, row([1.25, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, 1e-3, 300.0]))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depth_outside_of_the_limits_is_invalid_and_on_them_valid(dtype: type) -> None:
    unit = 1000 if dtype == np.uint16 else 1
    for low, high in ((0.3, 3.0), (0.7, 4.1), (1.1, 8.2)):  # no float32 is one of these exactly
        values = [(low - 0.001) * unit, low * unit, (low + high) / 2 * unit, high * unit, (high + 0.001) * unit]
        depth: NDArray = np.round(row(values, np.float64), 3).astype(dtype)
        assert list(np.isfinite(to_metres(depth, low, high))[0]) == [False, True, True, True, False]
        assert list(np.isfinite(to_metres(depth, low))[0]) == [False, True, True, True, True]
        assert list(np.isfinite(to_metres(depth, 0.0, high))[0]) == [True, True, True, True, False]


def test_input_is_left_as_it_was() -> None:
    for depth in (row([0, 500], np.uint16), row([-1.0, 0.5])):
        before = depth.copy()
        depth.flags.writeable = False
        result = to_metres(depth)
        np.testing.assert_array_equal(depth, before)
        assert not np.shares_memory(result, depth)


VIEWS: dict[str, Callable[[NDArray], NDArray]] = {
    "as it is": lambda depth: depth,
    "turned": lambda depth: depth[::-1, ::-1],
    "transposed": lambda depth: depth.T,
    "fortran": lambda depth: np.asfortranarray(depth),
    "strided": lambda depth: depth[::2, 1::3],
    "padded rows": lambda depth: np.pad(depth, [(0, 0), (0, 3)], constant_values=9)[:, :-3],
    "one row again and again": lambda depth: np.broadcast_to(depth[1], depth.shape),
}


@pytest.mark.parametrize("writeable", [True, False], ids=["writeable", "read-only"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_views_are_read_as_what_they_show(dtype: type, view: Callable[[NDArray], NDArray], writeable: bool) -> None:
    depth: NDArray = np.arange(24, dtype=dtype).reshape(4, 6)
    shown = view(depth)
    if not writeable:
        shown.flags.writeable = False
    wanted = to_metres(shown.copy())
    np.testing.assert_array_equal(to_metres(shown), wanted)
    np.testing.assert_array_equal(to_metres(shown, out=np.zeros(shown.shape, np.float32)), wanted)
    if dtype == np.float32:
        np.testing.assert_array_equal(to_millimetres(shown), 1000 * shown)


@pytest.mark.parametrize(
    "depth", [row([0, 1234, 500], np.uint16), row([np.nan, 1.234, -1.0])], ids=["uint16", "float32"]
)
def test_metres_are_written_to_out(depth: NDArray) -> None:
    out = np.full(depth.shape, 7, np.float32)
    assert to_metres(depth, 0.6, 2.0, out) is out
    np.testing.assert_array_equal(out, row([np.nan, 1.234, np.nan]))


def test_millimetres_are_written_to_out() -> None:
    out = np.full((1, 4), 7, np.uint16)
    assert to_millimetres(row([np.nan, 1.2344, 70.0, -1.0]), out) is out
    assert out.tolist() == [[0, 1234, 0, 0]]


def test_to_millimetres_rounds_and_marks_what_does_not_fit() -> None:
    metres = row([0.0014, 0.0016, 1.2345, 65.535, 65.536, 1e9, np.inf, -np.inf, np.nan, -1.0, 0.0, 0.0001])
    millimetres = to_millimetres(metres)
    assert millimetres.dtype == np.uint16
    assert millimetres.tolist() == [[1, 2, 1234, 65535, 0, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "depth",
    [
        np.zeros((3, 4), np.uint8),
        np.zeros((3, 4), np.float64),
        np.zeros((3, 4), np.int32),
        np.zeros((3, 4), ">u2"),
        np.zeros((3, 4, 1), np.uint16),
        np.zeros(3, np.float32),
        np.zeros((0, 4), np.float32),
    ],
    ids=lambda depth: f"{depth.dtype.str}{depth.shape}",
)
def test_refuses_what_is_no_depth_image(depth: NDArray) -> None:
    for refuse in (check_depth, to_metres):
        with pytest.raises(ValueError, match="wanted: HxW, uint16 millimetres or float32 metres") as raised:
            refuse(depth)
        assert f"depth is {depth.dtype} of shape {depth.shape}" in str(raised.value)
