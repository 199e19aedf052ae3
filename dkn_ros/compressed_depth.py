"""Depth images as image_transport's compressedDepth carries them: png or rvl of 16-bit codes, behind a small header.

The format is that of compressed_depth_image_transport (ros-perception/image_transport_plugins, src/codec.cpp and
compression_common.hpp), all numbers little-endian:

    int32 format = 0 (INV_DEPTH), float32 A, float32 B              the header
    a png file, or: uint32 width, uint32 height, rvl words          the codes

16UC1: the code is the depth in millimetres, 0 where it is invalid or beyond the largest depth; A and B are 0.
32FC1: the code is A / z + B, cut to a whole number, with A = q (q + 1) and B = 1 - A / z_max, so that z_max has the
code 1 and 0 is left for what is invalid.  A receiver makes of it z = A / (code - B): too far by at most
z^2 / (A - z).  Depth of 65536 and more, which is nearer than A / (65536 - B) or 15 cm, has no code and becomes 0.

rvl is A. D. Wilson's run-length code ("Fast Lossless Depth Image Compression", ISS 2017): in turns the length of a run
of zeros, the length of a run of others, and of those the differences to the one before, zigzag folded; every number in
groups of three bits, lowest first, a fourth bit says that more follow; eight groups fill a word from its top.  The
receiver takes an image of more than DENSEST pixels a byte for a damaged one, which one with large holes would be: words
of zeros, which it does not read, follow then.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled
from dkn_ros.depth import LARGEST_MILLIMETRES, MILLIMETRES_PER_METRE, check_depth

FORMATS = ("png", "rvl")
HEADER = 12
"""Bytes before the codes."""
SIZES = 8
"""Bytes of width and height before the words of rvl."""
DENSEST = 5
"""Pixels of rvl to a byte, those of width and height among them, that image_transport's receiver takes."""
PNG_LEVEL = 1
"""zlib's; image_transport's 9 in Humble makes files that are hardly smaller and takes many times as long; later 3."""


class Coding(NamedTuple):
    """How depth becomes codes; the defaults are those of image_transport."""

    form: str = "png"
    """One of FORMATS."""
    max_depth: float = 10.0
    """Metres; farther depth is not carried."""
    quantization: float = 100.0
    """q above: a larger one codes more finely, and loses what is near."""


def format_string(encoding: str, form: str) -> str:
    """What stands in CompressedImage.format for an image of that encoding (32FC1 or 16UC1)."""
    return f"{encoding}; compressedDepth {form}"


def compress(depth: NDArray, coding: Coding, buffers: Buffers | None = None) -> tuple[NDArray[np.uint8], ...]:
    """The parts that make the data of a CompressedImage, one after the other.

    depth: HxW float32 metres (NaN invalid) or uint16 millimetres (0 invalid).
    The parts last until the next call with the same buffers; only a png file is made anew each time, by OpenCV.
    Raises ValueError for another depth or form.
    """
    check_depth(depth)
    if coding.form not in FORMATS:
        raise ValueError(f"form of compressed depth is {coding.form!r}; wanted: {' or '.join(FORMATS)}")
    buffers = buffers or Buffers()
    codes = buffers.array("codes", depth.shape, np.uint16)
    head = buffers.array("header", (HEADER,), np.uint8)
    head[:] = 0
    if depth.dtype == np.uint16:
        most = min(coding.max_depth * MILLIMETRES_PER_METRE, LARGEST_MILLIMETRES)
        _within(depth, np.uint16(most), codes)
    else:
        q, farthest = np.float32(coding.quantization), np.float32(coding.max_depth)
        a = q * (q + np.float32(1))
        b = np.float32(1) - a / farthest
        head[4:].view("<f4")[:] = a, b
        _inverse(depth, a, b, farthest, codes)
    if coding.form == "png":
        done, file = cv2.imencode(".png", codes, (cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL))
        if not done:
            raise ValueError(f"OpenCV cannot write a png of {depth.shape[1]}x{depth.shape[0]}")
        return head, np.asarray(file, np.uint8).reshape(-1)
    # At worst a number has six groups, and a run of one pixel two more: 4 bytes a pixel, and a word of its own.
    words = buffers.array("words", (2 + codes.size + 2,), np.uint32)
    words[0], words[1] = depth.shape[1], depth.shape[0]
    count = 2 + _rvl(codes.reshape(-1), words[2:])
    least = -(-codes.size // (DENSEST * words.itemsize))
    words[count:least] = 0
    return head, words[: max(count, least)].view(np.uint8)


@compiled(
    types.void(any_image(types.uint16, 2), types.uint16, types.uint16[:, ::1]), nogil=True, error_model="numpy"
)  # fmt: skip
def _within(depth, most, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            value = depth[y, x]
            out[y, x] = value if value <= most else np.uint16(0)


@compiled(
    types.void(any_image(types.float32, 2), *3 * (types.float32,), types.uint16[:, ::1]),
    nogil=True, error_model="numpy",
)  # fmt: skip
def _inverse(depth, a, b, farthest, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            z, code = depth[y, x], np.float32(0)
            if z > np.float32(0) and z < farthest:  # not NaN
                code = a / z + b
            out[y, x] = np.uint16(code) if code < np.float32(65536) else np.uint16(0)


@compiled(nogil=True, error_model="numpy", inline="always")
def _put(words, state, value):  # type: ignore[no-untyped-def]
    """Append a number; state: words that are full, the word in work, groups in it."""
    full, word, groups = state
    while True:
        group = value & 7
        value >>= 3
        if value:
            group |= 8
        word = (word << 4) | group
        groups += 1
        if groups == 8:
            words[full] = np.uint32(word & 0xFFFFFFFF)
            full, word, groups = full + 1, 0, 0
        if not value:
            return full, word, groups


@compiled(types.int64(types.uint16[::1], types.uint32[::1]), nogil=True, error_model="numpy")
def _rvl(codes, words):  # type: ignore[no-untyped-def]
    """Write the words, return how many."""
    state = (0, 0, 0)
    place, previous = 0, np.int64(0)
    while place < codes.shape[0]:
        start = place
        while place < codes.shape[0] and codes[place] == 0:
            place += 1
        state = _put(words, state, place - start)
        start = place
        while place < codes.shape[0] and codes[place] != 0:
            place += 1
        state = _put(words, state, place - start)
        for i in range(start, place):
            difference = np.int64(codes[i]) - previous
            state = _put(words, state, (difference << 1) ^ (difference >> 63))
            previous = np.int64(codes[i])
    full, word, groups = state
    if groups:
        words[full] = np.uint32((word << (4 * (8 - groups))) & 0xFFFFFFFF)
        full += 1
    return full
