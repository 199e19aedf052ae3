"""The pipeline: a colour image and a depth image in, sharp depth on the colour grid out.

    rgb ──── luminance ───────────────────────────┐
                                                  ├─ network ─ metres, validity
    depth ── metres ─ fill holes ─ resample, scale┘

Where depth is missing the same network first works on a small grid, on which its samples reach across holes; what it
finds there is what fills them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.buffers import Buffers
from dkn_ros.clock import StageClock
from dkn_ros.confidence import confidence as write_confidence
from dkn_ros.config import PipelineConfig
from dkn_ros.device import available_cores, cuda_state, resolve_threads
from dkn_ros.edges import Alignment
from dkn_ros.engine import Engine, Way, activated, check_precision
from dkn_ros.fallback import Ladder, ways_of
from dkn_ros.flying import forget_flying
from dkn_ros.frame import Enhanced, Guidance, check_out
from dkn_ros.gpu.device_frames import OnDevice
from dkn_ros.gpu.stream import PLACES
from dkn_ros.gpu.work import Outputs
from dkn_ros.intake import Intake
from dkn_ros.lattice import NO_MARGINS, Margins
from dkn_ros.models.fdkn import Heads, pad
from dkn_ros.passes import filter_target, guess_holes
from dkn_ros.postprocess import LEAST_SHARE, back_project, forget_beyond, reach
from dkn_ros.preprocess import Target, check_rgb, guidance_image, shrink, target_image, working_size
from dkn_ros.registration import Registration
from dkn_ros.resampling import resample
from dkn_ros.traits import coarser, traits_of
from dkn_ros.weights import load_model

FloatImage = NDArray[np.float32]

_NUMBA_POOL = numba.get_num_threads()


class Pipeline:
    """Guided depth upsampling with loaded weights; for one thread at a time.

    It keeps the arrays of a frame for the next one, which makes it fast for a stream of images of one size.  `config`
    may be replaced between two frames; of its fields those count that are `live`.
    Where a GPU fails it goes on by the next best way, see `fallback`, and says so in `notes`.
    Raises WeightsError for weights and ValueError for a device that cannot be used and has no substitute.
    """

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.config = config or PipelineConfig()
        self.threads = resolve_threads(self.config.threads, available_cores())
        torch.set_num_threads(self.threads)
        ways, notes = ways_of(self.config.device, cuda_state(), self.config.fallback)
        self.model, self.card = load_model(self.config.weights)
        self.company = 1
        """So many frames, of this pipeline and of those `beside` it, are in work as the next one begins; it takes its
        share of the threads."""
        gpu_asked = self.config.device.startswith("cuda") or ways[0].device.type == "cuda"

        def engine(way: Way, precision: str) -> Engine:
            stands_in = gpu_asked and way.device.type == "cpu" and precision == "float16"
            return Engine(self.model, way, "auto" if stands_in else precision)

        self._ladder = Ladder(ways, engine, self.config.precision, notes)
        self._buffers = Buffers()
        self._intake = Intake(self.config.depth_resolution)
        self._on_device = OnDevice(self.card, self._intake.resolution, self._ladder.note)

    @property
    def engine(self) -> Engine:
        """What runs the network; another one after a fall."""
        return self._ladder.engine

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.engine.device

    @property
    def precision(self) -> torch.dtype:
        """Number type of the towers; it goes with the device."""
        return self.engine.precision

    @property
    def path(self) -> str:
        """The way in use: device, and form of the deformable average."""
        return str(self._ladder.way)

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong with devices and how it went on, a line each, oldest first; any frame may add to them."""
        return tuple(self._ladder.notes)

    @property
    def alignment(self) -> Alignment | None:
        """Where the colour of the last frame's depth was looked at, see `align_colour`; None: where it is."""
        return self._intake.aligner.found.alignment

    @property
    def misregistered(self) -> str:
        """How far colour and depth lie apart, and how the colour is moved for it; empty where they do not."""
        return self._intake.misregistered(self.config)

    def check(self, config: PipelineConfig) -> None:
        """Raise ValueError unless `config` can be taken with the next frame; one line that says why not."""
        if config.precision != self.config.precision:  # a precision that another way stands in for stays as it is
            check_precision(config.precision, self.device)

    def beside(self) -> Pipeline:
        """Another pipeline with the same engine, for a thread that works at the same time, on a CPU; see `at_once`.

        How the colour lies on the depth they find out together; what form the depth has it finds out for itself, and
        its `config` is its own.
        """
        other = copy.copy(self)
        other._buffers, other._intake = Buffers(), Intake(self.config.depth_resolution, self._intake.aligner)
        other._on_device = OnDevice(self.card, other._intake.resolution, self._ladder.note)
        return other

    def forget_camera(self) -> None:
        """The next frame is of another camera: what form its depth has, and how its colour lies on it, is to be found
        out anew."""
        self._intake.forget()

    def release(self) -> None:
        """Free the arrays that are kept for the next frame; it will make them anew."""
        self._buffers = Buffers()
        self._intake.release()
        self._on_device.leave()

    def enhance(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray,
        guidance: Guidance | None = None,
        out: FloatImage | None = None,
        confidence: FloatImage | None = None,
        registration: Registration | None = None,
    ) -> Enhanced:
        """Upsample `depth` onto the grid of `rgb`.

        rgb: HxWx3 (RGB order) or HxW, uint8.
        depth: hxw of any size, seen from the colour camera, or from where `registration` says; uint16 millimetres (0
            invalid) or float32 metres (NaN, 0 and below invalid).
        guidance: what `look` made of this very `rgb`, if it was called.
        out: HxW float32, C-contiguous, to write the result into; without it the result is a new array.
        confidence: such an array to write into how likely each pixel is right, see `confidence`; no work without it.
        registration: of another camera's depth into this colour image.
        Raises ValueError for other shapes and types.
        """
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        if out is None:
            out = np.empty((height, width), np.float32)
        check_out("out", out, (height, width))
        if confidence is not None:
            check_out("confidence", confidence, (height, width))
        self._begin()
        if registration is not None:
            return self._ladder.run(lambda: self._enhance(rgb, depth, out, confidence, guidance, registration))
        enhance, framing = functools.partial(self._enhance, guidance=guidance), self._intake.framing
        return self._ladder.run(lambda: framing.run(enhance, rgb, depth, out, confidence))

    def _enhance(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray,
        out: FloatImage,
        confidence: FloatImage | None,
        guidance: Guidance | None,
        registration: Registration | None = None,
    ) -> Enhanced:
        frames = self._on_device.frames(self.engine)
        if frames is not None:
            seen, align_ms = self._guided_on_host(rgb, depth, registration)
            early = guidance if seen is rgb else None
            images, aligned = Outputs(out, confidence), self._intake.aligner.found.aligned
            made = frames.enhance(self.config, seen, depth, early, images, registration, aligned)
            timings = {"align": align_ms, **made.timings, "whole": made.timings["whole"] + align_ms}
            return dataclasses.replace(made, timings=timings)
        clock, buffers, engine, intake = StageClock(self.device), self._buffers, self.engine, self._intake
        height, width = rgb.shape[:2]
        if registration is not None:
            with clock.stage("register"):
                depth = intake.registered(self.config, depth, registration)
        with clock.stage("preprocess"):
            metres = intake.metres(self.config, depth, (height, width))
            blind = bool(np.isnan(metres, out=buffers.array("unknown", metres.shape, np.bool_)).all())
        if blind:
            out.fill(np.nan)
            if confidence is not None:
                confidence.fill(0)
            return Enhanced(out, clock.timings(), blind=True)
        with clock.stage("align"):
            rgb = self.guide(rgb, metres)
        with clock.stage("fill"):
            guess = self.guess(rgb, metres)
        size = self._working_size(rgb, metres)
        with clock.stage("preprocess"):
            target = target_image(metres, size[1], size[0], guess, buffers, self._aligned(rgb, size))
        with clock.stage("guidance"):
            known = guidance and guidance.size == size and guidance.rgb is rgb and guidance.engine is engine
            guidance_heads = guidance.heads if guidance and known else engine.look(rgb, size, buffers)
        share = self.card.back_projection * target.traits.trust(target.ratio)
        # Nothing more can be done to what is NaN: so only what is last makes it.
        direct = size == (height, width)
        farthest, last = self.config.fill_distance, direct and share < LEAST_SHARE
        result = out if direct else buffers.array("result", size)
        reaching = farthest if last else np.inf
        filter_target(engine, self.card, guidance_heads, target, reaching, buffers, result, clock)
        with clock.stage("postprocess"):
            if share >= LEAST_SHARE:
                back_project(result, metres, share, buffers)
            if not direct:
                resample(result, width, height, buffers.part("enlarged"), out)
            if not last:
                np.clip(out, target.low, target.high, out=out)  # both overshoot
                forget_beyond(out, reach(target, width, height, buffers), farthest, buffers)
            forget_flying(out, self.config.flying_pixels, buffers)
        if confidence is not None:
            with clock.stage("confidence"):
                write_confidence(out, target, buffers.part("confidence"), confidence)
        return Enhanced(out, clock.timings())

    def look(
        self, rgb: NDArray[np.uint8], depth_size: tuple[int, int], registration: Registration | None = None
    ) -> Guidance:
        """The guidance tower's half of the work, before the depth is there.

        rgb: as in `enhance`; must stay as it is until then.  depth_size: height and width that the depth will have, and
        registration: what it will be given with; if it turns out otherwise, `enhance` may have to look again.
        """
        check_rgb(rgb)
        self._begin()
        margins = self._intake.framing.of(rgb, depth_size)
        if registration is None and margins != NO_MARGINS:
            rgb, depth_size = self._intake.framing.early(rgb), margins.size(depth_size)
        return self._ladder.run(lambda: self._look(rgb, depth_size, registration))

    def _look(self, rgb: NDArray[np.uint8], depth_size: tuple[int, int], registration: Registration | None) -> Guidance:
        clock, engine = StageClock(self.device), self.engine
        frames = self._on_device.frames(engine)
        if frames is not None:
            return frames.look(self.config, rgb, depth_size, registration)
        colour = rgb.shape[0], rgb.shape[1]
        metres_size = self._intake.metres_size(self.config, depth_size, colour, registration)
        size = working_size(colour, metres_size, self.card.ratios)
        heads = engine.look(rgb, size, self._buffers)
        return Guidance(rgb, size, heads, clock.timings()["whole"], engine)

    def metres(self, depth: NDArray, colour: tuple[int, int]) -> FloatImage:
        """See `Intake.metres`; as in `enhance`, with the settings in use."""
        return self._intake.metres(self.config, depth, colour)

    def framed(self, rgb: NDArray[np.uint8], depth: NDArray) -> tuple[NDArray[np.uint8], NDArray, Margins]:
        """Both images with the margins that they need, see `margins`; as in `enhance`, without registration."""
        self.metres(depth, (rgb.shape[0], rgb.shape[1]))  # which looks for them
        return self._intake.framing.around(rgb, depth)

    def guide(self, rgb: NDArray[np.uint8], metres: FloatImage) -> NDArray[np.uint8]:
        """See `Intake.guide`; the image itself where there is no need to."""
        return self._intake.guide(rgb, metres) if self._intake.aligns(self.config, rgb) else rgb

    def prepare(
        self, rgb: NDArray[np.uint8], metres: FloatImage, guess: FloatImage | None = None
    ) -> tuple[FloatImage, Target]:
        """Guidance CxHxW and target as the network sees them, on the grid that it works on, see `Card.ratios`.

        rgb: as in `enhance`.  metres: hxw, NaN invalid.  guess: hxw metres to put in the holes; see `target_image`.
        """
        height, width = self._working_size(rgb, metres)
        guidance = guidance_image(shrink(rgb, width, height), self.model.options.rgb)
        aligned = self._aligned(rgb, (height, width))
        return guidance, target_image(metres, width, height, guess, aligned=aligned)

    def guess(self, rgb: NDArray[np.uint8], metres: FloatImage) -> FloatImage | None:
        """See `passes.guess_holes`; the result lasts until the next frame."""
        aligned = self._intake.aligner.found.aligned
        return guess_holes(self.engine, self.card, rgb, metres, self._buffers.part("coarse"), aligned)

    def filter_raw(self, rgb: NDArray[np.uint8], image: NDArray) -> FloatImage:
        """Filter an image of any scale that has no units and no invalid values.

        image: HxW on the grid of `rgb`; integers count as parts of their type's largest value, floats go in as they
        are.  Returns HxW float32 in that scale.
        """
        check_rgb(rgb)
        if image.shape != rgb.shape[:2]:
            raise ValueError(f"raw image is {image.shape}, rgb {rgb.shape}; wanted: the same height and width")
        scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
        scaled = np.ascontiguousarray(image, np.float32) / np.float32(scale)
        if not np.isfinite(scaled).all():
            raise ValueError("raw image holds NaN or infinity; wanted: finite values, or a metric depth unit")
        everywhere, nowhere = np.ones_like(scaled), np.zeros_like(scaled)
        target = Target(scaled, everywhere, nowhere, 0.0, 1.0, 1.0, traits_of(scaled, 1.0, 1.0))
        self._begin()
        return self._ladder.run(lambda: self._filter_raw(rgb, target))

    def _filter_raw(self, rgb: NDArray[np.uint8], target: Target) -> FloatImage:
        height, width = target.image.shape
        padded, guidance_heads, target_heads = self.heads(rgb, target)
        filtered = self.engine.filter(padded, guidance_heads, target_heads)
        return np.ascontiguousarray(filtered[0, 0, :height, :width].float().cpu().numpy())

    def warm_up(self, width: int, height: int, depth_width: int, depth_height: int) -> float:
        """Run on made-up images of these sizes, so that no frame waits for compilers; the first's milliseconds."""
        rgb = np.zeros((height, width, 3), np.uint8)
        depth = np.full((depth_height, depth_width), 1000, np.uint16)
        depth[0] = 0  # a hole, so that this path is warm too
        whole = self.enhance(rgb, depth).timings["whole"]
        if self._on_device.frames(self.engine) is not None:  # every place captures graphs of its own
            for _ in range(PLACES - 1):
                self.enhance(rgb, depth)
        self.forget_camera()  # these images are of none
        return whole

    def heads(self, rgb: NDArray[np.uint8], target: Target) -> tuple[Tensor, Heads | None, Heads]:
        """What both towers make of a colour image and of a target on the grid that the network works on.

        Returns the target 1x1xH'xW', padded to whole strides, and the heads of the guidance and of the target tower.
        """
        engine, size = self.engine, (target.image.shape[0], target.image.shape[1])
        padded = pad(torch.from_numpy(target.image)[None, None]).to(engine.device)
        guidance_heads = engine.look(rgb, size, self._buffers)
        target_heads = activated(engine.target_heads(target, self._buffers))
        return padded, guidance_heads and activated(guidance_heads), target_heads

    def _begin(self) -> None:
        """Take the settings that may have changed since the last frame."""
        threads = max(1, self.threads // self.company)
        torch.set_num_threads(threads)  # both keep the number for each thread that asks
        numba.set_num_threads(min(threads, _NUMBA_POOL))
        self._ladder.ask(self.config.precision)

    def _guided_on_host(
        self, rgb: NDArray[np.uint8], depth: NDArray, registration: Registration | None
    ) -> tuple[NDArray[np.uint8], float]:
        """`guide` for frames whose depth goes to a device as it came, and the milliseconds that took.

        Of a registered camera it takes any once in 30 frames.
        """
        start, intake = time.perf_counter(), self._intake
        if intake.aligns(self.config, rgb):
            raw = depth if registration is None else intake.registered(self.config, depth, registration)
            rgb = intake.guide(rgb, intake.metres(self.config, raw, (rgb.shape[0], rgb.shape[1])))
        return rgb, 1e3 * (time.perf_counter() - start)

    def _aligned(self, rgb: NDArray[np.uint8], size: tuple[int, int]) -> float:
        """How well the colour of this frame lies on its depth, for the network on a grid of that height and width."""
        return coarser(self._intake.aligner.found.aligned, size[1] / rgb.shape[1])

    def _working_size(self, rgb: NDArray[np.uint8], metres: FloatImage) -> tuple[int, int]:
        return working_size(rgb.shape[:2], metres.shape, self.card.ratios)
