"""Images on disk: what is written comes back, and every refusal is one clear line."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.images import ImageFileError, frame_pairs, read_depth, read_rgb, write_depth

FloatImage = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
DEPTH = np.array([[0.5, np.nan, 1.2345], [3.0, 12.5, 65.535]], np.float32)


def assert_one_line(raised: pytest.ExceptionInfo[ValueError], *parts: object) -> None:
    message = str(raised.value)
    assert "\n" not in message and message.strip() == message
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("suffix", [".npy", ".tiff", ".tif"])
def test_float_formats_keep_every_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"depth{suffix}"
    write_depth(path, DEPTH)
    for unit in ("auto", "m", "raw"):
        back = read_depth(path, unit)
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, DEPTH)


def test_exr_keeps_every_bit_or_says_that_this_opencv_cannot(tmp_path: Path) -> None:
    path = tmp_path / "depth.exr"
    if re.search(r"OpenEXR: +NO", cv2.getBuildInformation()):
        with pytest.raises(ImageFileError, match="cannot be written") as raised:
            write_depth(path, DEPTH)
        assert_one_line(raised, path)
        return
    # In a process that loads OpenCV before us: the switch that allows this format must not come too late.
    script = (
        "import cv2, sys, pathlib, numpy as np; from dkn_ros.images import read_depth, write_depth\n"
        "depth, path = np.load(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        "write_depth(path, depth); np.testing.assert_array_equal(read_depth(path), depth)"
    )
    np.save(tmp_path / "depth.npy", DEPTH)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "depth.npy"), str(path)], check=True, cwd=ROOT)


def test_png_holds_millimetres_with_zero_for_invalid(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    write_depth(path, DEPTH)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None and stored.dtype == np.uint16
    assert stored.tolist() == [[500, 0, 1234], [3000, 12500, 65535]]
    np.testing.assert_array_equal(read_depth(path), stored)
    np.testing.assert_array_equal(read_depth(path, "mm"), stored)


def test_raw_png_holds_parts_of_the_largest_value(tmp_path: Path) -> None:
    path = tmp_path / "raw.png"
    write_depth(path, np.array([[0.0, 0.25, 1.0], [-0.1, 1.1, np.nan]], np.float32), unit="raw")
    assert read_depth(path, "raw").tolist() == [[0, 16384, 65535], [0, 65535, 0]]


@pytest.mark.parametrize(
    ("stored", "unit", "wanted"),
    [
        (np.array([[0, 1500]], np.uint16), "auto", np.array([[0, 1500]], np.uint16)),
        (np.array([[0, 1500]], np.int64), "mm", np.array([[0, 1500]], np.uint16)),
        (np.array([[-1, 70000]], np.int32), "mm", np.array([[-0.001, 70.0]], np.float32)),
        (np.array([[np.nan, 1500.5]], np.float64), "mm", np.array([[np.nan, 1.5005]], np.float32)),
        (np.array([[0, 3]], np.uint8), "m", np.array([[0, 3]], np.float32)),
        (np.array([[0.5, 3]], np.float64), "auto", np.array([[0.5, 3]], np.float32)),
        (np.array([[0, 255]], np.uint8), "raw", np.array([[0, 255]], np.uint8)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_units(tmp_path: Path, stored: NDArray, unit: str, wanted: NDArray) -> None:
    path = tmp_path / "depth.npy"
    np.save(path, stored)
    read = read_depth(path, unit)
    assert read.dtype == wanted.dtype
    np.testing.assert_array_equal(read, wanted)


def test_colour_is_read_as_rgb(tmp_path: Path) -> None:
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[0, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    cv2.imwrite(str(tmp_path / "colour.png"), rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), rgb[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    for name in ("colour.png", "deep.png"):
        read = read_rgb(tmp_path / name)
        assert read.dtype == np.uint8 and read.flags.c_contiguous
        np.testing.assert_array_equal(read, rgb)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize("read", [read_rgb, read_depth])
@pytest.mark.parametrize("name", ["image.png", "image.npy", "image.tiff"])
@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x93NUMPY\x01\x00", b"PK\x03\x04zip"], ids=str)
def test_refuses_files_that_are_missing_or_broken(
    tmp_path: Path, read: Callable[[Path], NDArray], name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageFileError) as raised:
        read(path)
    assert_one_line(raised, path)


def test_refuses_pickles_and_archives(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", depth=DEPTH)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for name in ("objects.npy", "archive.npy"):
        with pytest.raises(ImageFileError) as raised:
            read_depth(tmp_path / name)
        assert_one_line(raised, name)


def test_refuses_depth_that_says_nothing_of_its_unit(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "byte.png"), np.zeros((4, 5), np.uint8))
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 5, 3), np.uint8))
    np.save(tmp_path / "one.npy", DEPTH)
    with pytest.raises(ImageFileError, match="holds uint8; say what it means: --depth-unit mm, m or raw"):
        read_depth(tmp_path / "byte.png")
    with pytest.raises(ImageFileError, match=r"has shape \(4, 5, 3\); wanted: one channel, HxW"):
        read_depth(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="depth unit is 'cm'; wanted: one of auto, mm, m, raw"):
        read_depth(tmp_path / "one.npy", "cm")


def test_refuses_depth_that_is_no_image_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "depth.npy"
    for content, unit, said in (
        (np.empty((0, 0), np.uint16), "auto", r"has shape \(0, 0\); wanted: one channel, HxW, and a pixel at least"),
        (np.empty((0, 4), np.float32), "m", r"has shape \(0, 4\)"),
        (np.array([["a"]]), "m", "holds <U1; wanted: 16-bit integers"),
        (np.ones((2, 2), np.complex64), "mm", "holds complex64; wanted: 16-bit integers"),
        (np.ones((2, 2), bool), "raw", "holds bool; wanted: 16-bit integers"),
    ):
        np.save(path, content)
        with pytest.raises(ImageFileError, match=said) as raised:
            read_depth(path, unit)
        assert_one_line(raised, path)


def test_a_damaged_header_is_one_line_whatever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "depth.npy"
    np.save(path, np.ones((4, 4), np.float32))
    sound = path.read_bytes()
    assert sound[10:11] == b"{"
    for damaged in (b"\x00", b"(", b"'", b"\n", b"#"):
        path.write_bytes(sound[:12] + damaged + sound[13:])
        with pytest.raises(ImageFileError, match=r"is no readable \.npy file") as raised:
            read_depth(path, "m")
        assert_one_line(raised, path)


def test_colour_of_16_bits_is_read_and_of_floats_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 65536, (5, 6, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), (image >> 8).astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(tmp_path / "float.tiff"), (image / 65535).astype(np.float32))
    with pytest.raises(ImageFileError, match=r"float\.tiff holds float32; wanted: a colour image of 8 or 16 bits"):
        read_rgb(tmp_path / "float.tiff")


def test_refuses_files_that_claim_to_be_larger_than_anything(tmp_path: Path) -> None:
    size = struct.pack(">II", 100_000, 100_000)
    chunk = b"IHDR" + size + b"\x08\x02\x00\x00\x00"
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "huge.png").write_bytes(png)
    with open(tmp_path / "huge.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)}
        np.lib.format.write_array_header_1_0(file, header)
    for read, name in ((read_rgb, "huge.png"), (read_depth, "huge.png"), (read_depth, "huge.npy")):
        with pytest.raises(ImageFileError) as raised:
            read(tmp_path / name)
        assert_one_line(raised, name)


def test_refuses_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    for path, wanted in (
        (tmp_path / "depth.jpg", "wanted: a name that ends with one of .npy, .png"),
        (tmp_path / "depth", "wanted: a name that ends with one of .npy, .png"),
        (tmp_path / "absent" / "depth.png", "make it first"),
        (tmp_path / "absent" / "depth.npy", "make it first"),
    ):
        with pytest.raises(ImageFileError) as raised:
            write_depth(path, DEPTH)
        assert_one_line(raised, wanted)
    assert list(tmp_path.iterdir()) == []


def test_pairs_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b_rgb.png", "b_depth.png", "a_rgb.jpg", "a_depth.npy", "c_rgb.png", "d_depth.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [(pair.name, pair.rgb.name, pair.depth.name) for pair in frame_pairs(tmp_path)] == [
        ("a", "a_rgb.jpg", "a_depth.npy"),
        ("b", "b_rgb.png", "b_depth.png"),
    ]


def test_refuses_folders_without_a_pair(tmp_path: Path) -> None:
    (tmp_path / "a_rgb.png").touch()
    for folder, wanted in ((tmp_path, "holds no pair"), (tmp_path / "absent", "no folder")):
        with pytest.raises(ImageFileError) as raised:
            frame_pairs(folder)
        assert_one_line(raised, folder, wanted)
