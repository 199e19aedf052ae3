"""Images on disk: colour, depth in its unit, and what comes out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV reads it when it is loaded

import cv2
import numpy as np
from numpy.typing import NDArray

from dkn_ros.depth import to_metres, to_millimetres

UNITS = ("auto", "mm", "m", "raw")
OUTPUTS = (".npy", ".png", ".tiff", ".tif", ".exr")


class ImageFileError(ValueError):
    """A file that is missing, unreadable or of the wrong kind."""


@dataclass(frozen=True)
class FramePair:
    """One frame of a folder: `NAME_rgb.png` and `NAME_depth.png` (16 bit, millimetres) or `NAME_depth.npy` (metres)."""

    name: str
    rgb: Path
    depth: Path


def frame_pairs(folder: Path) -> list[FramePair]:
    """The frames of a folder in the order of their names; ImageFileError if there are none."""
    if not folder.is_dir():
        raise ImageFileError(f"no folder {folder}; wanted: a folder with NAME_rgb.png and NAME_depth.png")
    return list(_pairs(folder)) or _fail(f"{folder} holds no pair; wanted: NAME_rgb.png with NAME_depth.png or .npy")


def _pairs(folder: Path) -> Iterator[FramePair]:
    for rgb in sorted(folder.glob("*_rgb.*")):
        name = rgb.stem.removesuffix("_rgb")
        for suffix in (".png", ".npy"):
            depth = folder / f"{name}_depth{suffix}"
            if depth.is_file():
                yield FramePair(name, rgb, depth)
                break


def _fail(message: str) -> list[FramePair]:
    raise ImageFileError(message)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """HxWx3 uint8 in RGB order; of 16 bits a channel the upper 8."""
    image = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:  # OpenCV would cut 0..1 down to 0 and 1
        raise ImageFileError(f"{path} holds {image.dtype}; wanted: a colour image of 8 or 16 bits a channel")
    return np.ascontiguousarray(image[..., ::-1])


def read_depth(path: Path, unit: str = "auto") -> NDArray:
    """Depth as `Pipeline.enhance` wants it, or any single-channel image if `unit` is raw.

    unit: mm, m, raw, or auto: 16-bit integers are millimetres, floats are metres.
    """
    image = _read_npy(path) if path.suffix == ".npy" else _read(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 2 or not image.size:
        raise ImageFileError(f"{path} has shape {image.shape}; wanted: one channel, HxW, and a pixel at least")
    if image.dtype.kind not in "iuf":
        raise ImageFileError(f"{path} holds {image.dtype}; wanted: 16-bit integers (millimetres) or floats (metres)")
    integer = np.issubdtype(image.dtype, np.integer)
    if unit == "raw":
        return np.asarray(image)
    if unit == "auto":
        if image.dtype not in (np.uint16, np.float32, np.float64):
            raise ImageFileError(f"{path} holds {image.dtype}; say what it means: --depth-unit mm, m or raw")
        unit = "mm" if integer else "m"
    if unit == "mm":
        if integer and image.min() >= 0 and image.max() <= np.iinfo(np.uint16).max:
            return image.astype(np.uint16)
        return (image / 1000).astype(np.float32)
    if unit == "m":
        return image.astype(np.float32)
    raise ValueError(f"depth unit is {unit!r}; wanted: one of {', '.join(UNITS)}")


def read_pair(pair: FramePair, factor: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colour HxWx3 and true depth HxW (metres, NaN unknown) of a frame.

    Both are cut to whole blocks of `factor` pixels, so that colour and lowered depth cover the same field.
    Raises ImageFileError if the two have different sizes or are smaller than a block.
    """
    rgb, truth = read_rgb(pair.rgb), to_metres(read_depth(pair.depth))
    if rgb.shape[:2] != truth.shape or min(truth.shape) < factor:
        raise ImageFileError(
            f"{pair.rgb} is {rgb.shape[:2]}, its depth {truth.shape}; wanted: the same size, {factor} pixels or more"
        )
    height, width = (size // factor * factor for size in truth.shape)
    return np.ascontiguousarray(rgb[:height, :width]), np.ascontiguousarray(truth[:height, :width])


def check_output(path: Path) -> None:
    """Raise ImageFileError unless `write_depth` can write to `path`, as far as that can be told before the work."""
    if path.suffix not in OUTPUTS:
        raise ImageFileError(f"output is {path}; wanted: a name that ends with one of {', '.join(OUTPUTS)}")
    if not path.parent.is_dir():
        raise ImageFileError(f"no folder {path.parent} for the output; make it first")


def write_depth(path: Path, depth: NDArray[np.float32], unit: str = "m") -> None:
    """Write depth by the ending of `path`: .npy, .tiff and .exr as float32, .png with 16 bits.

    unit: m (depth in metres; a .png gets millimetres with 0 invalid) or raw (0..1; a .png gets parts of 65535).
    """
    check_output(path)
    if path.suffix == ".npy":
        np.save(path, depth)
        return
    image: NDArray = depth
    if path.suffix == ".png":
        raw = np.clip(np.nan_to_num(depth), 0, 1)
        image = np.rint(raw * 65535).astype(np.uint16) if unit == "raw" else to_millimetres(depth)
    try:
        written = cv2.imwrite(str(path), image)
    except cv2.error as error:
        raise ImageFileError(f"{path} cannot be written: {str(error).strip().splitlines()[-1]}") from error
    if not written:
        raise ImageFileError(f"{path} cannot be written; is the folder writable?")


def _read(path: Path, flags: int) -> NDArray:
    try:
        image = cv2.imread(str(_existing(path)), flags)
    except cv2.error as error:  # as of a header that claims more pixels than OpenCV allows
        raise ImageFileError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if image is None:
        raise ImageFileError(f"{path} is no image that OpenCV can read; wanted: such as .png, .jpg, .tiff or .exr")
    return np.asarray(image)


def _read_npy(path: Path) -> NDArray:
    with open(_existing(path), "rb") as file:
        try:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except Exception as error:  # a damaged header goes through Python's own parser, which raises what it likes
            said = " ".join(str(error).split()) or type(error).__name__
            raise ImageFileError(f"{path} is no readable .npy file: {said}") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ImageFileError(f"no file {path}")
    return path
