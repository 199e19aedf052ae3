"""Images as the towers take them: a quarter of the resolution, every 4 x 4 block as 16 channels, channels last.

`models.fdkn.Tower.forward` makes the same of ordinary images in three passes (pad, unshuffle, layout); here one pass
reads what the camera sent and writes what the first convolution reads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba.core import types
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled
from dkn_ros.models.fdkn import STRIDE, FDKNOptions
from dkn_ros.preprocess import LUMINANCE, Target, check_rgb

FloatImage = NDArray[np.float32]
SUBPIXELS = STRIDE * STRIDE


def guidance_blocks(rgb: NDArray[np.uint8], options: FDKNOptions, buffers: Buffers) -> Tensor:
    """What the guidance tower's layers take of an HxWx3 (RGB order, any strides) or HxW uint8 image.

    Returns 1xCxH/4xW/4 float32 in one of the `buffers`, rounded up to whole blocks by repeating the border; values
    0..1.
    """
    check_rgb(rgb)
    channels = rgb if rgb.ndim == 3 else np.broadcast_to(rgb[..., None], (*rgb.shape, 3))
    mixes = np.eye(3, dtype=np.float32) if options.rgb else np.array([LUMINANCE], np.float32)
    blocks = _blocks("guidance", rgb.shape[:2], len(mixes) * SUBPIXELS, buffers)
    for i, mix in enumerate(mixes):
        _mixed_blocks(channels, mix / np.float32(255), i * SUBPIXELS, blocks)
    return _tensor(blocks)


def target_blocks(target: Target, options: FDKNOptions, buffers: Buffers) -> Tensor:
    """What the target tower's layers take: depth, and validity and traits where the options ask for them."""
    images = [target.image, *([target.validity] if options.validity else [])]
    total = len(images) * SUBPIXELS + options.told
    blocks = _blocks("target", target.image.shape, total, buffers)
    for i, image in enumerate(images):
        _image_blocks(image, i * SUBPIXELS, blocks)
    if options.traits:
        _constants(target.traits.encoded()[: options.told], len(images) * SUBPIXELS, blocks)
    return _tensor(blocks)


def _blocks(name: str, size: tuple[int, ...], channels: int, buffers: Buffers) -> FloatImage:
    rows, columns = (-(-side // STRIDE) for side in size[:2])
    return buffers.array(f"{name} blocks", (rows, columns, channels))


def _tensor(blocks: FloatImage) -> Tensor:
    return torch.from_numpy(blocks)[None].permute(0, 3, 1, 2)


_OUT = types.float32[:, :, ::1]


@compiled(
    types.void(any_image(types.uint8, 3), types.float32[::1], types.int64, _OUT),
    nogil=True, parallel=True, fastmath={"contract", "reassoc"}, error_model="numpy",
)  # fmt: skip
def _mixed_blocks(rgb, mix, first, out):  # type: ignore[no-untyped-def]
    height, width = rgb.shape[:2]
    for row in numba.prange(out.shape[0]):
        for i in range(STRIDE):
            y = min(STRIDE * row + i, height - 1)
            for column in range(out.shape[1]):
                for j in range(STRIDE):
                    x = min(STRIDE * column + j, width - 1)
                    value = mix[0] * rgb[y, x, 0] + mix[1] * rgb[y, x, 1] + mix[2] * rgb[y, x, 2]
                    out[row, column, first + STRIDE * i + j] = np.float32(value)


@compiled(types.void(types.float32[:, ::1], types.int64, _OUT), nogil=True, parallel=True, error_model="numpy")
def _image_blocks(image, first, out):  # type: ignore[no-untyped-def]
    height, width = image.shape
    for row in numba.prange(out.shape[0]):
        for i in range(STRIDE):
            y = min(STRIDE * row + i, height - 1)
            for column in range(out.shape[1]):
                for j in range(STRIDE):
                    x = min(STRIDE * column + j, width - 1)
                    out[row, column, first + STRIDE * i + j] = image[y, x]


@compiled(types.void(types.float32[::1], types.int64, _OUT), nogil=True, error_model="numpy")
def _constants(values, first, out):  # type: ignore[no-untyped-def]
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for c in range(values.shape[0]):
                out[row, column, first + c] = values[c]
