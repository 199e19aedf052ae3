"""A whole frame on the device: only the raw images go up, and only the result comes down.

    rgb ───┬──────────────── look ─────────────────┐
           └ (guess in holes)                      ├ finish ─ metres, confidence
    depth ──── prepare ─────────────── target heads┘

The same steps as `Pipeline` takes on a CPU, with tensors in and out.  What depends on the data (range, traits, share of
back-projection, whether there are holes) stays in tensors without dimensions, so that nothing waits for the device, all
shapes follow from the `Plan`, and every method may be captured in a CUDA graph.  Where the CPU leaves out work for
which a frame gives no reason, such as the guess where there are no holes, it is done here all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dkn_ros.config import PipelineConfig
from dkn_ros.engine import Engine
from dkn_ros.gpu.depth import Target, TargetGrid, covered, limited, pool_table, raw_metres
from dkn_ros.gpu.images import ColourGrid
from dkn_ros.gpu.registration import DeviceRegistration
from dkn_ros.gpu.resolution import Pooling, evidence
from dkn_ros.gpu.result import back_project, confidence_of, forget_flying, reach
from dkn_ros.gpu.resampling import bicubic
from dkn_ros.models.fdkn import Heads
from dkn_ros.postprocess import LEAST_SHARE
from dkn_ros.preprocess import coarse_size, working_size
from dkn_ros.registration import Registration
from dkn_ros.resolution import covered_size
from dkn_ros.weights import Card

Size = tuple[int, int]
"""Height and width."""

MIN_DEPTH, MAX_DEPTH, FILL_DISTANCE, FLYING_PIXELS = range(4)
"""Places in the tensor of settings."""


@dataclass(frozen=True)
class Plan:
    """What is fixed about a frame; a key for what is captured of it."""

    colour: Size
    grey: bool
    """Whether the colour image is HxW, else it is HxWx3."""
    depth: Size
    """Of the raw depth image, as it goes up."""
    millimetres: bool
    """Whether raw depth is uint16, else it is float32 metres."""
    measured: Size
    """Of the grid of its measurements, see `resolution`; as large as the depth (or its registered grid) at most."""
    covered: Size
    """With the rows that the depth does not cover, see `resolution.covering`."""
    working: Size
    """Of the grid that the network works on."""
    registration: Registration | None = None
    """Where depth was seen from another place than colour; by identity."""
    look_for_form: bool = False
    """Whether the depth is examined for its form, which the host takes for the next frame, see `Prepared.evidence`."""
    flying: bool = False
    """Whether flying pixels are removed."""
    confidence: bool = False
    """Whether the confidence is asked for."""

    @classmethod
    def of(
        cls, config: PipelineConfig, card: Card, colour: Sequence[int], depth: Size, millimetres: bool, measured: Size,
        registration: Registration | None = None, confidence: bool = False,
    ) -> Plan:  # fmt: skip
        """The plan for images of these shapes.

        colour: HxW or HxWx3.  depth: hxw of the raw image.  measured: what `Resolution.size` says of the depth, or of
        `Registration.grid` where it is registered.
        """
        size = colour[0], colour[1]
        rows = covered_size(measured, size, config.depth_covers)
        return cls(
            size, len(colour) == 2, depth, millimetres, measured, rows, working_size(size, rows, card.ratios),
            registration, config.depth_resolution == "auto", config.flying_pixels > 0, confidence,
        )  # fmt: skip

    @property
    def registered(self) -> Size:
        """Of the depth as the colour camera sees it, before its form is looked at."""
        if self.registration is None:
            return self.depth
        width, height = self.registration.grid(self.depth[1], self.depth[0])
        return height, width


def settings_of(config: PipelineConfig) -> tuple[float, ...]:
    """The settings that may change from frame to frame without another plan, for the tensor `settings`."""
    farthest = config.max_depth if config.max_depth > 0 else torch.finfo(torch.float32).max
    return config.min_depth, farthest, config.fill_distance, config.flying_pixels


class Inputs(NamedTuple):
    """What a frame reads, on its device."""

    rgb: Tensor
    """HxWx3 (RGB order) or HxW, uint8."""
    depth: Tensor
    """hxw: float32 metres, or int16 that holds the bits of uint16 millimetres (PyTorch does little with uint16)."""
    settings: Tensor
    """float32: `settings_of`."""


class Prepared(NamedTuple):
    """What is made of the depth before it meets the guidance; tensors of fixed sizes."""

    heads: Heads
    """Of the target tower."""
    target: Target
    metres: Tensor
    """hxw (Plan.covered), NaN invalid."""
    numbers: Tensor
    """6, float32: as `Finish.numbers`."""
    share: Tensor
    """Of a step of back-projection; no dimensions."""
    blind: Tensor
    """Whether nothing at all was measured; no dimensions, bool."""
    evidence: Tensor | None
    """int32: what `resolution.form_from` tells the form of the depth by; None where it is not looked for."""


class Finished(NamedTuple):
    """The result of a frame, on the device."""

    depth: Tensor
    """HxW float32 metres on the colour grid, NaN where nothing can be known."""
    confidence: Tensor | None
    """HxW float32, see `confidence`; None where it was not asked for."""


class Frame:
    """One whole frame by an engine, for one plan.

    It holds tables and no state: all methods take tensors and give new ones.  `look` needs the colour image alone;
    `prepare` needs the depth, and the colour image for the guess; `finish` needs both results.
    """

    def __init__(self, engine: Engine, card: Card, plan: Plan) -> None:
        raise NotImplementedError

    def inputs(self) -> Inputs:
        """Tensors on the device of the sizes and types that the plan says, for a caller that keeps them."""
        raise NotImplementedError

    def look(self, rgb: Tensor) -> Heads | None:
        """The guidance tower's heads on the working grid; None for a depth-only network.  rgb: see `Inputs`."""
        raise NotImplementedError

    def prepare(self, rgb: Tensor, depth: Tensor, settings: Tensor) -> Prepared:
        """All that can be done without `look`'s result.  Arguments: see `Inputs`."""
        raise NotImplementedError

    def finish(self, heads: Heads | None, prepared: Prepared, settings: Tensor) -> Finished:
        """Filter and finish.  heads: of `look`."""
        raise NotImplementedError

    def enhance(self, rgb: Tensor, depth: Tensor, settings: Tensor, heads: Heads | None = None) -> Finished:
        """A whole frame.  heads: of `look` for this `rgb`, if it was called."""
        raise NotImplementedError
