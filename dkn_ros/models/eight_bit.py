"""Towers in 8-bit integers for the CPU: half the time of bfloat16, and the same error.

All convolutions but the first take unsigned 8-bit images and signed 8-bit weights and add in 32 bits, by oneDNN, which
PyTorch brings.  The heads are not rounded again: they leave in the number type that the average reads faster.

    blocks ── conv1 ── round ─ conv2 ... conv6 ─ heads
    float32                    8 bits            float32 or bfloat16

What an image's 255 steps stand for is found at the start, by what the towers make of crops of the package's own scenes
through random cameras, as in training.  One step for all channels wastes most of it on those that stay small: so their
scales are evened out first, which a ReLU between two convolutions allows (cross-layer equalisation, section 4.1 of
arXiv 1906.04721).

Measured on 17 frames of five public data sets at 4x and 8x with `fdkn` (`dkn evaluate DIR --tests nearest --factors 4,8
--precisions float32,bfloat16,int8`): the RMS difference to float32 is 0.02 to 0.17 % of the depth, that of bfloat16
0.004 to 0.045 %; the RMSE to the truth changes by 0.3 % at most, in the mean of a data set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba.core import types
from torch import Tensor, nn

from dkn_ros.compiled import compiled
from dkn_ros.models.fdkn import FDKN, Heads, Tower
from dkn_ros.models.inference import folded

if TYPE_CHECKING:
    from dkn_ros.synthetic.samples import Sample

STEPS = 255
"""Steps of an image's 8 bits; it is never negative."""
MOST, SAFE = 127, 64
"""Largest weight, and the largest for which no processor's sum of two products leaves 16 bits (2 x 255 x 64 < 2^15)."""
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
HEADS = ("conv_weight", "conv_offset")
EVEN = 0.5
"""How much of the difference between channels is left to the weights: 0 none, 1 all.  At both ends the difference that
the command above gives was 1.5 to 4 times as large on nyu and tum."""
Peaks = list[Tensor]
"""Largest value of each channel after each of `LAYERS`."""


class EightBitError(ValueError):
    """This processor or this PyTorch cannot convolve 8-bit integers."""


def eight_bit_towers(
    model: FDKN, kind: torch.dtype, crops: Sequence[Sample]
) -> tuple[Callable[[Tensor], Heads] | None, Callable[[Tensor], Heads]]:
    """Guidance and target tower of a network, as `inference.prepared` makes them, in 8 bits.

    kind: number type of what the towers give, float32 or bfloat16.
    crops: typical of what the towers will see; of too few, what exceeds them is cut off (measured on tum: with 24
        crops 0.27 % of the depth off, with 60 to 80 0.14 %).
    Raises EightBitError where this machine cannot.
    """
    largest = largest_weight()
    towers = [tower for tower in (model.guidance, model.target) if tower is not None]
    peaks = [[torch.zeros(1)] * len(LAYERS) for _ in towers]
    hooks = [hook for tower, found in zip(towers, peaks, strict=True) for hook in _watch(tower, found)]
    try:
        with torch.inference_mode():
            for crop in crops:
                images = crop.guidance, crop.target[None], crop.validity[None], crop.traits
                model(*(torch.from_numpy(image)[None] for image in images))
    finally:
        for hook in hooks:
            hook.remove()
    made = [EightBitTower(tower, found, kind, largest) for tower, found in zip(towers, peaks, strict=True)]
    return (made[0] if model.guidance is not None else None), made[-1]


class EightBitTower:
    """`Tower.layers` in 8 bits; the tower it is made of stays as it is.

    peaks: of typical images; what exceeds them is cut off.  largest: weight, see `largest_weight`.
    """

    @torch.inference_mode()
    def __init__(self, tower: Tower, peaks: Peaks, kind: torch.dtype, largest: int = MOST) -> None:
        plain = folded(tower).float()
        steps = [float(peak.max()) / STEPS for peak in _evened(plain, peaks)]
        self._first = copy.deepcopy(plain.conv1)
        assert self._first.bias is not None
        self._first.weight /= steps[0]  # so that what comes out only has to be rounded
        self._first.bias /= steps[0]
        self._first.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._layers = [
            Convolution(getattr(plain, name), steps[i], largest, steps[i + 1], torch.uint8)
            for i, name in enumerate(LAYERS[1:])
        ]
        self._heads = [Convolution(getattr(plain, name), steps[-1], largest, 1.0, kind) for name in HEADS]

    def __call__(self, blocks: Tensor) -> Heads:
        """1xCxh/4xw/4 float32, channels last -> weights before the sigmoid and offsets, of the number type `kind`."""
        x = _rounded(self._first(blocks))
        for layer in self._layers:
            x = layer(x)
        return self._heads[0](x), self._heads[1](x)


class Convolution:
    """One convolution of 8-bit images; with a ReLU where it gives such an image.

    step_in, step_out: what a step of the images that it takes and gives stands for.
    """

    def __init__(self, layer: nn.Conv2d, step_in: float, largest: int, step_out: float, kind: torch.dtype) -> None:
        scale = layer.weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / largest
        weight = (layer.weight / scale[:, None, None, None]).round().to(torch.int8)
        padding = [int(p) for p in layer.padding]
        assert layer.bias is not None
        packed = torch.ops.onednn.qconv_prepack(weight, scale, step_in, 0, [1, 1], padding, [1, 1], 1, None)
        no_offset = torch.zeros(len(scale), dtype=torch.int32)
        self._given = (step_in, 0, packed, scale, no_offset, layer.bias.clone(), [1, 1], padding, [1, 1], 1)
        self._wanted: tuple[Any, ...] = (step_out, 0, kind, "relu" if kind == torch.uint8 else "none", [], "")

    def __call__(self, image: Tensor) -> Tensor:
        """1xCxhxw uint8, channels last -> what the layer makes of it."""
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(image, *self._given, *self._wanted)
        return result


@cache
def largest_weight() -> int:
    """The largest 8-bit weight with which this processor adds right; found by a trial.

    Without the instructions that are made for it (VNNI) products are added in pairs of 16 bits, and what leaves them is
    cut off.  Raises EightBitError where even small ones come out wrong or there is no such operation.
    """
    channels = 64
    image = torch.full((1, channels, 4, 4), STEPS, dtype=torch.uint8).to(memory_format=torch.channels_last)
    for largest in (MOST, SAFE):
        layer = nn.Conv2d(channels, channels, 1)
        nn.init.constant_(layer.weight, largest)
        nn.init.zeros_(_bias(layer))
        try:
            with torch.inference_mode():
                found = Convolution(layer, 1.0, largest, 1.0, torch.float32)(image)
        except (AttributeError, RuntimeError) as error:
            raise EightBitError(
                f"precision is int8, which PyTorch {torch.__version__} cannot convolve here "
                f"({str(error).splitlines()[0]}); wanted: auto, float32 or bfloat16"
            ) from error
        if bool((found == channels * largest * STEPS).all()):
            return largest
    raise EightBitError(
        "precision is int8, in which this processor's convolutions come out wrong; wanted: auto, float32 or bfloat16"
    )


def _watch(tower: Tower, peaks: Peaks) -> list[torch.utils.hooks.RemovableHandle]:
    """Keep the largest value of each channel in `peaks` while the tower works: of what the next layer is given."""

    def watcher(i: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def watch(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            peaks[i] = torch.maximum(peaks[i], given[0].amax((0, 2, 3)))

        return watch

    following = (*LAYERS[1:], HEADS[0])
    return [getattr(tower, name).register_forward_pre_hook(watcher(i)) for i, name in enumerate(following)]


def _evened(tower: Tower, peaks: Peaks) -> Peaks:
    """Scale the channels between each two layers such that they differ less; returns the peaks after it.

    A channel divided by a number, and the weights that look at it multiplied by the same, give what they gave.
    """
    after = []
    for i, (name, peak) in enumerate(zip(LAYERS, peaks, strict=True)):
        layer = getattr(tower, name)
        following = [getattr(tower, LAYERS[i + 1])] if i + 1 < len(LAYERS) else [getattr(tower, h) for h in HEADS]
        seen = torch.stack([f.weight.abs().amax((0, 2, 3)) for f in following]).amax(0).clamp(min=1e-6)
        scale = peak.clamp(min=1e-6) ** EVEN / seen ** (1 - EVEN)
        scale /= scale.log().mean().exp()
        layer.weight /= scale[:, None, None, None]
        layer.bias /= scale
        for f in following:
            f.weight *= scale[None, :, None, None]
        after.append(peak / scale)
    return after


def _rounded(image: Tensor) -> Tensor:
    """An image in steps, float32 and channels last, as 8 bits: what is negative is 0, the ReLU."""
    rows = image.permute(0, 2, 3, 1).contiguous()
    out = torch.empty(rows.shape, dtype=torch.uint8)
    _round(rows.numpy().reshape(-1), out.numpy().reshape(-1))
    return out.permute(0, 3, 1, 2)


@compiled(
    types.void(types.float32[::1], types.uint8[::1]),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _round(image, out):  # type: ignore[no-untyped-def]
    for i in numba.prange(image.shape[0]):
        value = min(max(image[i], np.float32(0)), np.float32(STEPS))
        out[i] = np.uint8(np.int32(value + np.float32(0.5)))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
