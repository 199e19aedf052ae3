"""The pipeline: a colour image and a depth image in, sharp depth on the colour grid out.

    rgb ──── luminance ───────────────────────────┐
                                                  ├─ network ─ metres, validity
    depth ── metres ─ fill holes ─ resample, scale┘

Where depth is missing the same network first works on a small grid, on which its samples reach across holes; what it
finds there is what fills them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.config import PipelineConfig
from dkn_ros.depth import to_metres
from dkn_ros.device import available_cores, bfloat16_gain, resolve_device, resolve_precision, resolve_threads
from dkn_ros.models.fdkn import Heads, pad
from dkn_ros.preprocess import (
    Target,
    check_rgb,
    coarse_size,
    guidance_image,
    pool,
    resample,
    shrink,
    target_image,
    working_size,
)
from dkn_ros.weights import load_model

FloatImage = NDArray[np.float32]

_NUMBA_POOL = numba.get_num_threads()


@dataclass(frozen=True)
class Enhanced:
    """The result of one frame."""

    depth: FloatImage
    """HxW metres on the colour grid, NaN where nothing can be known."""
    valid: NDArray[np.bool_]
    """HxW, where `depth` is trusted: measured, or within `fill_distance` of a measured pixel."""
    timings: dict[str, float]
    """Milliseconds of every stage, in order, and of the `whole`."""


class StageClock:
    """Times stages of one frame; on a GPU each stage waits for its own work, so that it is charged with it."""

    def __init__(self, device: torch.device) -> None:
        self.milliseconds: dict[str, float] = {}
        self._device = device
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the `with`; a stage that comes again adds up."""
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1e3 * (time.perf_counter() - start)

    def timings(self) -> dict[str, float]:
        """Milliseconds of the stages so far, and of the whole."""
        return {**self.milliseconds, "whole": 1e3 * (time.perf_counter() - self._start)}


class Pipeline:
    """Guided depth upsampling with loaded weights; for one thread at a time.

    Raises WeightsError for weights and ValueError for a device that cannot be used.
    """

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.config = config or PipelineConfig()
        self.device = resolve_device(self.config.device, torch.cuda.is_available())
        self.threads = resolve_threads(self.config.threads, available_cores())
        torch.set_num_threads(self.threads)
        self.precision = resolve_precision(self.config.precision, self.device, bfloat16_gain)
        self.model, self.card = load_model(self.config.weights)
        for tower in (self.model.guidance, self.model.target):
            if tower is not None:
                tower.to(self.device, self.precision).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def enhance(self, rgb: NDArray[np.uint8], depth: NDArray) -> Enhanced:
        """Upsample `depth` onto the grid of `rgb`.

        rgb: HxWx3 (RGB order) or HxW, uint8.
        depth: hxw of any size, seen from the colour camera; uint16 millimetres (0 invalid) or float32 metres (NaN, 0
            and below invalid).
        Raises ValueError for other shapes and types.
        """
        check_rgb(rgb)
        clock = StageClock(self.device)
        height, width = rgb.shape[:2]

        with clock.stage("preprocess"):
            metres = to_metres(depth, self.config.min_depth, self.config.max_depth)
            blind = bool(np.isnan(metres).all())
        if blind:
            return self._nothing(height, width, clock)

        with clock.stage("fill"):
            guess = self.guess(rgb, metres)

        with clock.stage("preprocess"):
            guidance, target = self.prepare(rgb, metres, guess)

        filtered = self._filter(guidance, target.image, target.validity, clock)

        with clock.stage("postprocess"):
            result = resample(self._finish(filtered, target), width, height)
            valid = self.reach(target, width, height) <= self.config.fill_distance
            result[~valid] = np.nan
        return Enhanced(result, valid, clock.timings())

    def prepare(
        self, rgb: NDArray[np.uint8], metres: FloatImage, guess: FloatImage | None = None
    ) -> tuple[FloatImage, Target]:
        """Guidance and target as the network sees them, on the grid that it works on, see `Card.ratios`.

        rgb: as in `enhance`.  metres: hxw, NaN invalid.  guess: hxw metres to put in the holes; see `target_image`.
        """
        height, width = working_size(rgb.shape[:2], metres.shape, self.card.ratios)
        guidance = guidance_image(shrink(rgb, width, height), self.model.options.rgb)
        return guidance, target_image(metres, width, height, guess)

    def guess(self, rgb: NDArray[np.uint8], metres: FloatImage) -> FloatImage | None:
        """hxw metres that probably belong in the holes, from a pass of the network on a small grid.

        On the colour grid it moves depth by 7 pixels, which does not reach across an occlusion shadow.  None if there
        are no holes or the network was not taught about them.
        """
        if not self.model.options.validity or not np.isnan(metres).any():
            return None
        height, width = coarse_size(rgb.shape[:2], metres.shape)
        pooled = pool(metres, width, height)
        if np.isnan(pooled).all():
            return None
        target = target_image(pooled, width, height)
        guidance = guidance_image(shrink(rgb, width, height), self.model.options.rgb)
        filtered = self._filter(guidance, target.image, target.validity, StageClock(self.device))
        return resample(self._finish(filtered, target), metres.shape[1], metres.shape[0])

    def _finish(self, filtered: FloatImage, target: Target) -> FloatImage:
        """The network's result in metres; overwrites `filtered`."""
        strength = self.card.strength_at(target.ratio)
        if strength < 1.0:
            filtered -= target.image
            filtered *= np.float32(strength)
            filtered += target.image
        # No surface lies outside the range that was measured; the network's overshoot does.
        np.clip(filtered, 0.0, 1.0, out=filtered)
        filtered *= np.float32(target.high - target.low)
        filtered += np.float32(target.low)
        return filtered

    @staticmethod
    def reach(target: Target, width: int, height: int) -> FloatImage:
        """height x width, pixels of the colour grid to the nearest measured depth."""
        if target.distance.shape == (height, width):
            return target.distance
        scale = np.float32(width / target.distance.shape[1])
        resized = cv2.resize(target.distance * scale, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)

    def filter_raw(self, rgb: NDArray[np.uint8], image: NDArray) -> FloatImage:
        """Filter an image of any scale that has no units and no invalid values.

        image: HxW on the grid of `rgb`; integers count as parts of their type's largest value, floats go in as they
        are.  Returns HxW float32 in that scale.
        """
        check_rgb(rgb)
        if image.shape != rgb.shape[:2]:
            raise ValueError(f"raw image is {image.shape}, rgb {rgb.shape}; wanted: the same height and width")
        scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
        target = image.astype(np.float32) / np.float32(scale)
        if not np.isfinite(target).all():
            raise ValueError("raw image holds NaN or infinity; wanted: finite values, or a metric depth unit")
        guidance = guidance_image(rgb, self.model.options.rgb)
        return self._filter(guidance, target, np.ones_like(target), StageClock(self.device))

    def warm_up(self, width: int, height: int, depth_width: int, depth_height: int) -> float:
        """Run once on made-up images of these sizes, so that no frame waits for compilers; returns milliseconds."""
        rgb = np.zeros((height, width, 3), np.uint8)
        depth = np.full((depth_height, depth_width), 1000, np.uint16)
        depth[0] = 0  # a hole, so that this path is warm too
        return self.enhance(rgb, depth).timings["whole"]

    @torch.inference_mode()
    def heads(
        self, guidance: FloatImage, target: FloatImage, validity: FloatImage, clock: StageClock
    ) -> tuple[Tensor, Heads | None, Heads]:
        """What both towers make of guidance CxHxW, target and validity HxW in 0..1.

        Returns the target 1x1xH'xW', padded to whole strides, and the heads of the guidance and of the target tower.
        """
        model = self.model
        with clock.stage("guidance"):
            guidance_heads = None
            if model.guidance is not None:
                guidance_heads = model.guidance(pad(self._tensor(guidance[None])).to(self.precision))
        with clock.stage("target"):
            padded = pad(self._tensor(target[None, None]))
            seen = pad(self._tensor(validity[None, None])) if model.options.validity else None
            return padded, guidance_heads, model.target(model.target_input(padded, seen).to(self.precision))

    @torch.inference_mode()
    def _filter(self, guidance: FloatImage, target: FloatImage, validity: FloatImage, clock: StageClock) -> FloatImage:
        """Guidance CxHxW, target and validity HxW in 0..1 -> the filtered target HxW."""
        numba.set_num_threads(min(self.threads, _NUMBA_POOL))  # numba keeps the number for each thread that asks
        heads = self.heads(guidance, target, validity, clock)
        with clock.stage("average"):
            result = self.model.filter(*heads)
            return result[0, 0, : target.shape[0], : target.shape[1]].float().cpu().numpy()

    def _tensor(self, array: FloatImage) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _nothing(self, height: int, width: int, clock: StageClock) -> Enhanced:
        depth = np.full((height, width), np.nan, np.float32)
        return Enhanced(depth, np.zeros((height, width), bool), clock.timings())
