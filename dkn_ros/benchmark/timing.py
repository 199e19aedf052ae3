"""Frames to time on, and contenders that take turns on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.depth import to_millimetres
from dkn_ros.synthetic.degradation import lower

SEED = 27
VIEWS = 3
"""Frames that are rendered of the scene; they come again and again."""
SECONDS = 4.0
"""How long each contender works at each size, unless told a number of frames, within these limits:"""
FRAMES = (10, 100)
FEW = (3, 20)
"""Of a contender that is there to be compared with."""


@dataclass(frozen=True)
class View:
    """One input frame: colour HxWx3, depth in uint16 millimetres without holes."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]


def views(width: int, height: int, factor: int) -> list[View]:
    """Frames of the package's scene as the camera moves through it."""
    from dkn_ros.synthetic.scene import Scene  # compiles the ray caster: only for those who render

    scene = Scene(SEED)
    frames = (scene.frame(width, height, time=float(i)) for i in range(VIEWS))
    return [View(frame.rgb, to_millimetres(lower(frame.depth, factor, "area"))) for frame in frames]


Run = Callable[[View], Mapping[str, float] | None]
"""Works on a frame; returns the milliseconds of its stages, if it knows any."""


@dataclass
class Contender:
    """Something that is timed."""

    run: Run
    aside: bool = False
    """There to be compared with: few frames will do."""
    milliseconds: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)

    def time(self, view: View, device: torch.device) -> None:
        """Run once; on a GPU until it is done."""
        start = time.perf_counter()
        stages = self.run(view) or {}
        settle(device)
        self.milliseconds.append(1e3 * (time.perf_counter() - start))
        for name, value in stages.items():
            self.stages.setdefault(name, []).append(value)

    def count(self, frames: int) -> int:
        """How many frames to time, from the last one; forgets what was timed so far.  frames: 0 or what was asked."""
        least, most = FEW if self.aside else FRAMES
        affordable = int(np.clip(1e3 * SECONDS / self.milliseconds[-1], least, most))
        self.milliseconds.clear()
        self.stages.clear()
        return min(frames, affordable) if frames and self.aside else frames or affordable

    @property
    def whole(self) -> dict[str, float]:
        """Median, p95 and p99 of what was timed."""
        return spread(self.milliseconds)


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile."""
    return {name: float(np.percentile(milliseconds, p)) for name, p in (("median", 50), ("p95", 95), ("p99", 99))}


def race(contenders: Sequence[Contender], given: Sequence[View], device: torch.device, frames: int, bar: tqdm) -> None:
    """Time all contenders in turns, those that run fewer frames spread over the others', after two to warm up."""
    for contender in contenders:
        for _ in range(2):
            contender.time(given[0], device)
    counts = [contender.count(frames) for contender in contenders]
    rounds = max(counts)
    bar.reset(sum(counts))
    for i in range(rounds):
        for contender, count in zip(contenders, counts, strict=True):
            if i * count // rounds < (i + 1) * count // rounds:
                contender.time(given[i % len(given)], device)
                bar.update()
