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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dkn_ros.config import PipelineConfig
from dkn_ros.engine import TRITON, Engine
from dkn_ros.gpu.depth import AreaPool, Examination, Examined, Metres, Target, TargetGrid, covered
from dkn_ros.gpu.holes import LARGEST
from dkn_ros.gpu.images import ColourGrid, blocks_of
from dkn_ros.gpu.registration import DeviceRegistration
from dkn_ros.gpu.resampling import Bicubic, Size, bilinear
from dkn_ros.gpu.resolution import Pooling, evidence
from dkn_ros.gpu.result import BackProjection, confidence, reach, without_flying
from dkn_ros.models.fdkn import Heads
from dkn_ros.postprocess import LEAST_SHARE
from dkn_ros.preprocess import coarse_size, working_size
from dkn_ros.registration import Registration
from dkn_ros.resolution import covered_size
from dkn_ros.traits import UNKNOWN
from dkn_ros.weights import Card

MIN_DEPTH, MAX_DEPTH, FILL_DISTANCE, FLYING_PIXELS, ALIGNED = range(5)
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
        return self.registration.grid_size(self.depth)


def settings_of(config: PipelineConfig, aligned: float = UNKNOWN) -> tuple[float, ...]:
    """What may change from frame to frame without another plan, for the tensor `settings`.

    aligned: see `traits.Traits.aligned`, of the colour image's grid.
    """
    farthest = config.max_depth if config.max_depth > 0 else torch.finfo(torch.float32).max
    return config.min_depth, farthest, config.fill_distance, config.flying_pixels, aligned


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
    """int32: what `gpu.resolution.form_of_evidence` tells the form of the depth by; None if it is not looked for."""
    needed: Tensor | None
    """Items that the registration had to draw, no dimensions; more than its `room` and the frame has to be done again
    with more.  None where nothing is registered."""


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
    room: of `DeviceRegistration`, where the plan registers; see `Prepared.needed`.
    """

    def __init__(self, engine: Engine, card: Card, plan: Plan, room: int = 0) -> None:
        self.plan = plan
        self._engine, self._card, device = engine, card, engine.device
        self._options = engine.model.options
        self._metres = Metres(device)
        self.registration: DeviceRegistration | None = None
        """Projects depth into the colour image; None where it need not."""
        if plan.registration is not None:
            self.registration = DeviceRegistration(plan.registration, plan.depth, device, room=room)
        self._pooling = Pooling(plan.registered, plan.measured, device) if plan.registered != plan.measured else None
        self._colour = ColourGrid(plan.colour, plan.working, device)
        triton = engine.way.average == TRITON and max(plan.covered) <= LARGEST
        self._examine = Examination(plan.covered, device, triton)
        self._grid = TargetGrid(plan.covered, plan.working, device)
        self._scale = plan.working[1] / plan.colour[1]  # see `traits.coarser`
        self._coarse = Coarse(plan, device, triton) if self._options.validity else None
        self._back = BackProjection(plan.working, plan.covered, device) if card.back_projection else None
        self._enlarged = Bicubic(plan.working, plan.colour, device)
        # Nothing more can be done to what is NaN: so only what is last makes it.
        self._last = self._back is None and plan.working == plan.colour
        self._nothing, self._one = torch.zeros((), device=device), torch.ones((), device=device)

    def inputs(self) -> Inputs:
        """Tensors on the device of the sizes and types that the plan says, for a caller that keeps them."""
        plan, device = self.plan, self._engine.device
        shape = plan.colour if plan.grey else (*plan.colour, 3)
        rgb = torch.zeros(shape, dtype=torch.uint8, device=device)
        depth = torch.zeros(plan.depth, dtype=torch.int16 if plan.millimetres else torch.float32, device=device)
        return Inputs(rgb, depth, torch.zeros(len(settings_of(PipelineConfig())), device=device))

    @torch.inference_mode()
    def look(self, rgb: Tensor) -> Heads | None:
        """The guidance tower's heads on the working grid; None for a depth-only network.  rgb: see `Inputs`."""
        return self._see(self._colour, rgb)

    @torch.inference_mode()
    def prepare(self, rgb: Tensor, depth: Tensor, settings: Tensor) -> Prepared:
        """All that can be done without `look`'s result.  Arguments: see `Inputs`."""
        limits = settings[MIN_DEPTH], settings[MAX_DEPTH]
        metres, needed = self._metres.limited(self._metres(depth), *limits), None
        if self.registration is not None:
            metres, needed = self.registration(metres)
            metres = self._metres.limited(metres, *limits)
        found = evidence(metres) if self.plan.look_for_form else None
        if self._pooling is not None:
            metres = self._pooling(metres)
        metres = covered(metres, self.plan.covered[0])
        examined = self._examine(metres)
        aligned = settings[ALIGNED]
        target = self._grid(examined, aligned**self._scale, self._guess(rgb, examined, aligned))
        numbers = self._numbers(target, self._grid.ratio, settings[FILL_DISTANCE])
        share = self._card.back_projection * target.traits.trust(self._grid.ratio)
        share = torch.where(share < LEAST_SHARE, 0.0, share)
        blind = target.low != target.low
        return Prepared(self._aim(target), target, metres, numbers, share, blind, found, needed)

    @torch.inference_mode()
    def finish(self, heads: Heads | None, prepared: Prepared, settings: Tensor) -> Finished:
        """Filter and finish.  heads: of `look`."""
        target, plan = prepared.target, self.plan
        distance = target.distance if self._last else None
        depth = self._engine.average_of(heads, prepared.heads, target.image, prepared.numbers, distance)
        away = reach(target.distance, plan.colour)
        if not self._last:
            if self._back is not None:
                depth = self._back(depth, prepared.metres, prepared.share)
            depth = self._enlarged(depth).clamp(target.low, target.low + target.span)  # both overshoot
            depth = torch.where(away > settings[FILL_DISTANCE], torch.nan, depth)
        if plan.flying:
            depth = without_flying(depth, settings[FLYING_PIXELS])
        sure = None
        if plan.confidence:
            given = bilinear(target.image, plan.colour)
            sure = confidence(depth, given, target.low, target.span, away, self._grid.ratio)
        return Finished(depth, sure)

    def enhance(self, rgb: Tensor, depth: Tensor, settings: Tensor, heads: Heads | None = None) -> Finished:
        """A whole frame.  heads: of `look` for this `rgb`, if it was called."""
        prepared = self.prepare(rgb, depth, settings)
        return self.finish(self.look(rgb) if heads is None else heads, prepared, settings)

    def _guess(self, rgb: Tensor, fine: Examined, aligned: Tensor) -> Tensor | None:
        """What probably belongs in the holes, see `Pipeline.guess`; NaN where there is no telling."""
        if self._coarse is None:
            return None
        target = self._coarse.target(self._coarse.examined(fine), aligned**self._coarse.scale)
        numbers = self._numbers(target, self._coarse.target.ratio, self._one)
        heads = self._see(self._coarse.colour, rgb)
        return self._coarse.enlarged(self._engine.average_of(heads, self._aim(target), target.image, numbers))

    def _see(self, grid: ColourGrid, rgb: Tensor) -> Heads | None:
        if not self._options.guided:
            return None
        return self._engine.guidance_heads_of(grid.blocks(rgb, self._options.rgb, self._engine.kind))

    def _aim(self, target: Target) -> Heads:
        """The target tower's heads."""
        planes = [target.image, target.validity] if self._options.validity else [target.image]
        told = target.traits.encoded()[: self._options.told] if self._options.traits else None
        return self._engine.target_heads_of(blocks_of(planes, self._engine.kind, told))

    def _numbers(self, target: Target, ratio: float, farthest: Tensor) -> Tensor:
        """`Finish.numbers`; of the card's strength, which is linear in the trait, both ends."""
        samples, means = (self._card.strength_at(ratio, sure) for sure in (0.0, 1.0))
        strength = samples + (means - samples) * target.traits.antialiased
        return torch.stack((strength, target.low, target.span, self._nothing, self._one, farthest))


class Coarse:
    """The small grid on which the holes are filled, see `Pipeline.guess`."""

    def __init__(self, plan: Plan, device: torch.device, triton: bool) -> None:
        size = coarse_size(plan.colour, plan.covered)
        self._pool = AreaPool(plan.covered, size, device) if size != plan.covered else None
        self.scale = size[1] / plan.colour[1]
        """Its width over the colour image's."""
        self._examine = Examination(size, device, triton)
        self.colour = ColourGrid(plan.colour, size, device)
        self.target = TargetGrid(size, size, device)
        self.enlarged = Bicubic(size, plan.covered, device)

    def examined(self, fine: Examined) -> Examined:
        """The depth on the small grid; the same where that is its own."""
        return fine if self._pool is None else self._examine(self._pool(fine.depth))
