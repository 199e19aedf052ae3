"""Compressed depth comes back: decoded by decoders written from the format's description alone."""

from __future__ import annotations

import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compressed_depth import FORMATS, Coding, compress, format_string

HEIGHT, WIDTH = 48, 67


def data_of(depth: NDArray, coding: Coding, buffers: Buffers | None = None) -> bytes:
    return b"".join(part.tobytes() for part in compress(depth, coding, buffers))


def decoded(data: bytes, form: str, metric: bool) -> NDArray:
    """What a receiver makes of the data."""
    kind, a, b = struct.unpack("<iff", data[:12])
    assert kind == 0
    if form == "png":
        codes = cv2.imdecode(np.frombuffer(data[12:], np.uint8), cv2.IMREAD_UNCHANGED)
    else:
        width, height = struct.unpack("<II", data[12:20])
        assert width * height <= 5 * len(data[12:]), "image_transport takes this for damaged"
        codes = np.array(rvl_decoded(data[20:], width * height), np.uint16).reshape(height, width)
    assert codes is not None and codes.dtype == np.uint16
    if not metric:
        assert (a, b) == (0, 0)
        return np.asarray(codes)
    with np.errstate(divide="ignore"):
        return np.where(codes == 0, np.nan, a / (codes - np.float64(b)))


def rvl_decoded(data: bytes, count: int) -> list[int]:
    groups = [(word >> shift) & 15 for (word,) in struct.iter_unpack("<I", data) for shift in range(28, -4, -4)]
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            group = groups[at]
            at += 1
            value |= (group & 7) << shift
            shift += 3
            if not group & 8:
                return value

    values: list[int] = []
    previous = 0
    while len(values) < count:
        values += [0] * number()
        for _ in range(number()):
            folded = number()
            previous += -((folded + 1) // 2) if folded % 2 else folded // 2
            values.append(previous)
    assert not any(groups[at:]), "more than the numbers need"
    return values


def metres(rng: np.random.Generator) -> NDArray[np.float32]:
    """Depth from 0.2 to 9.9 m with steps, noise and holes."""
    y, x = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    depth = np.where(x > 30, 0.2 + 0.05 * y, 9.9 - 0.05 * x) + 0.001 * rng.random((HEIGHT, WIDTH), np.float32)
    depth[rng.random(depth.shape) < 0.1] = np.nan
    depth[:3] = np.nan
    return depth.astype(np.float32)


@pytest.mark.parametrize("form", FORMATS)
def test_millimetres_come_back_as_they_are(form: str, rng: np.random.Generator) -> None:
    depth = np.nan_to_num(1000 * metres(rng)).astype(np.uint16)
    np.testing.assert_array_equal(decoded(data_of(depth, Coding(form)), form, metric=False), depth)


@pytest.mark.parametrize("form", FORMATS)
def test_any_codes_come_back(form: str, rng: np.random.Generator) -> None:
    """The largest differences, isolated pixels, and zeros at either end."""
    depth = rng.choice(np.array([0, 0, 1, 7, 8, 32768, 65535], np.uint16), (HEIGHT, WIDTH))
    depth[0, 0], depth[-1, -1] = 0, 65535
    for image in (depth, depth[::-1, ::-1], np.zeros_like(depth), np.full_like(depth, 65535), depth[:1, :1]):
        np.testing.assert_array_equal(decoded(data_of(image, Coding(form, 100.0)), form, metric=False), image)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("quantization", [40.0, 100.0, 150.0])
def test_metres_come_back_within_the_step_of_the_codes(
    form: str, quantization: float, rng: np.random.Generator
) -> None:
    depth = metres(rng)
    depth = np.where(depth > 0.4, depth, np.float32(np.nan))  # what the finest of them can carry
    back = decoded(data_of(depth, Coding(form, 10.0, quantization)), form, metric=True)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(depth))
    known = ~np.isnan(depth)
    z = depth[known].astype(np.float64)
    step = z * z / (quantization * (quantization + 1) - z)
    error = back[known] - z
    rounding = 1e-5 * z  # of float32
    assert (error < step + rounding).all() and (error > -rounding).all()
    assert error.max() > 0.5 * step.min()  # it is not exact, so that the bound above means something


@pytest.mark.parametrize("form", FORMATS)
def test_what_has_no_code_is_invalid(form: str) -> None:
    depth = np.array([[0.1, 0.15, 0.16, 5.0], [9.99, 10.0, np.inf, -1.0], [0.0, np.nan, 11.0, 1.0]], np.float32)
    back = decoded(data_of(depth, Coding(form)), form, metric=True)
    np.testing.assert_array_equal(
        ~np.isnan(back),
        [[False, False, True, True], [True, False, False, False], [False, False, False, True]],
    )
    near = np.array([[3999, 4000, 4001]], np.uint16)
    np.testing.assert_array_equal(decoded(data_of(near, Coding(form, 4.0)), form, metric=False), [[3999, 4000, 0]])


def test_an_image_that_is_mostly_empty_is_not_taken_for_a_damaged_one() -> None:
    """image_transport's receiver refuses more than five pixels of rvl a byte; a run of zeros takes no more than one."""
    hole = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    data = data_of(hole, Coding("rvl"))
    assert np.isnan(decoded(data, "rvl", metric=True)).all()
    assert len(data) == 12 + 4 * -(-HEIGHT * WIDTH // 20)
    hole[0, 0] = 2.0
    full = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    assert len(data_of(full, Coding("rvl"))) > 12 + HEIGHT * WIDTH / 2, "not longer than it has to be"
    assert decoded(data_of(hole, Coding("rvl")), "rvl", metric=True)[0, 0] == pytest.approx(2.0, abs=1e-3)


def test_format_as_image_transport_names_it() -> None:
    assert format_string("16UC1", "png") == "16UC1; compressedDepth png"
    assert format_string("32FC1", "rvl") == "32FC1; compressedDepth rvl"


def test_header_of_known_bytes() -> None:
    """q = 100 and 10 m: A = 10100 and B = -1009."""
    data = data_of(np.full((1, 1), 5.0, np.float32), Coding("rvl"))
    # One word: no zeros (0), one other (1), and the code 10100 / 5 - 1009 = 1011, folded 2022 = 0o3746.
    assert data == struct.pack("<iffIII", 0, 10100.0, -1009.0, 1, 1, 0x01ECF300)


def test_views_of_any_strides_give_the_same(rng: np.random.Generator) -> None:
    depth = metres(rng)
    wide = np.zeros((HEIGHT, 2 * WIDTH), np.float32)
    wide[:, ::2] = depth
    assert data_of(wide[:, ::2], Coding("rvl")) == data_of(depth, Coding("rvl"))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="form of compressed depth is 'jpeg'; wanted: png or rvl"):
        compress(np.ones((2, 2), np.float32), Coding("jpeg"))
    with pytest.raises(ValueError, match=r"depth is float64 of shape \(2, 2\)"):
        compress(np.ones((2, 2)), Coding())


def test_rvl_makes_no_new_arrays() -> None:
    depth, buffers = np.full((480, 640), 2.0, np.float32), Buffers()
    compress(depth, Coding("rvl"), buffers)
    tracemalloc.start()
    try:
        for _ in range(3):
            compress(depth, Coding("rvl"), buffers)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()
