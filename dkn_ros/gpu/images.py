"""Colour images on the device: on another grid, as luminance or colour, and as the blocks that the towers take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dkn_ros.gpu.resampling import Separable, Size, area_table
from dkn_ros.models.fdkn import STRIDE, pad
from dkn_ros.preprocess import LUMINANCE

SUBPIXELS = STRIDE * STRIDE


class ColourGrid:
    """`preprocess.shrink` from one size to another, and the guidance tower's blocks of what it gives.

    Values are rounded to whole numbers as OpenCV's uint8 are, so that both paths see the same image: means of blocks of
    whole pixels are the same numbers up to how ties are rounded; other means and bicubic growth, for which OpenCV
    computes in 11 bits, differ by at most one step of 255.
    """

    def __init__(self, given: Size, wanted: Size, device: torch.device) -> None:
        self._wanted = wanted
        self._resized = given != wanted
        self._means: Separable | None = None
        self._share = 1.0
        if self._resized and wanted[0] <= given[0] and wanted[1] <= given[1]:
            self._means = Separable(*(area_table(g, w) for g, w in zip(given, wanted, strict=True)), device)
            self._share = wanted[0] * wanted[1] / (given[0] * given[1])

    def __call__(self, rgb: Tensor) -> Tensor:
        """HxWx3 (RGB order) or HxW uint8 -> 3xH'xW' of whole numbers 0..255, uint8 or float32; grey is repeated."""
        planes = rgb.permute(2, 0, 1) if rgb.ndim == 3 else rgb[None]
        if self._means is not None:
            planes = (self._means(planes) * self._share).round()
        elif self._resized:  # OpenCV's INTER_CUBIC, with a = -0.75 and the border repeated, is PyTorch's
            grown = F.interpolate(planes[None].float(), self._wanted, mode="bicubic", align_corners=False)[0]
            planes = grown.round().clamp(0, 255)
        return planes.expand(3, -1, -1)

    def blocks(self, rgb: Tensor, colour: bool, kind: torch.dtype) -> Tensor:
        """`blocks.guidance_blocks` of the image on its new grid: 1xCxH'/4xW'/4 of the type `kind`, channels last."""
        red, green, blue = self(rgb)
        if colour:
            return blocks_of([plane * (1 / 255) for plane in (red, green, blue)], kind)
        mixed = red * (LUMINANCE[0] / 255)
        mixed = torch.add(mixed, green, alpha=LUMINANCE[1] / 255)
        return blocks_of([torch.add(mixed, blue, alpha=LUMINANCE[2] / 255)], kind)


def blocks_of(planes: Sequence[Tensor], kind: torch.dtype, constants: Tensor | None = None) -> Tensor:
    """4 x 4 blocks of HxW float32 planes as channels, rounded up to whole blocks by repeating the border.

    constants: further channels that are the same everywhere.  Returns 1xCxH/4xW/4 of the type `kind`, channels last.
    """
    rows, columns = (-(-side // STRIDE) for side in planes[0].shape)
    total = SUBPIXELS * len(planes) + (0 if constants is None else len(constants))
    out = planes[0].new_empty((rows, columns, total), dtype=kind)
    for i, plane in enumerate(planes):
        cells = pad(plane[None])[0].view(rows, STRIDE, columns, STRIDE).permute(0, 2, 1, 3)
        out[..., SUBPIXELS * i : SUBPIXELS * (i + 1)].unflatten(-1, (STRIDE, STRIDE)).copy_(cells)
    if constants is not None:
        out[..., SUBPIXELS * len(planes) :].copy_(constants)
    return out[None].permute(0, 3, 1, 2)
