"""Passes of the network over the arrays of a frame, on a CPU: one on a small grid for the holes, one for the result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.clock import StageClock
from dkn_ros.engine import Engine
from dkn_ros.models.fdkn import Heads
from dkn_ros.preprocess import Target, coarse_size, pool, target_image
from dkn_ros.resampling import resample
from dkn_ros.sampling.fused import Finish
from dkn_ros.traits import UNKNOWN, coarser
from dkn_ros.weights import Card

FloatImage = NDArray[np.float32]


def filter_target(
    engine: Engine,
    card: Card,
    guidance_heads: Heads | None,
    target: Target,
    fill_distance: float,
    buffers: Buffers,
    out: FloatImage,
    clock: StageClock,
) -> None:
    """Filter `target` under what the guidance tower saw, and write metres into `out`, NaN beyond `fill_distance`.

    fill_distance: pixels from measured depth; infinity: all of it.  clock: counts the stages "target" and "average".
    """
    with clock.stage("target"):
        target_heads = engine.target_heads(target, buffers)
    # No surface lies outside the range that was measured; the network's overshoot does: clipped.
    strength = card.strength_at(target.ratio, target.traits.antialiased)
    distance = target.distance if np.isfinite(fill_distance) else None
    finish = Finish(strength, target.low, target.high, True, distance, fill_distance)
    with clock.stage("average"):
        engine.average(guidance_heads, target_heads, target.image, finish, out, buffers)


def guess_holes(
    engine: Engine, card: Card, rgb: NDArray[np.uint8], metres: FloatImage, buffers: Buffers, aligned: float = UNKNOWN
) -> FloatImage | None:
    """What probably belongs in the holes of `metres` (hxw, NaN invalid): hxw metres, from a pass on a small grid.

    On the colour grid the network moves depth by 7 pixels, which does not reach across an occlusion shadow.  None if
    there are no holes or the network was not taught about them.  The result lasts until the next call with `buffers`.
    aligned: see `Traits.aligned`, of the grid of `rgb`.
    """
    if not engine.model.options.validity:
        return None
    if not np.isnan(metres, out=buffers.array("unknown", metres.shape, np.bool_)).any():
        return None
    height, width = coarse_size(rgb.shape[:2], metres.shape)
    pooled = pool(metres, width, height, buffers)
    if np.isnan(pooled, out=buffers.array("blank", pooled.shape, np.bool_)).all():
        return None
    target = target_image(pooled, width, height, None, buffers, coarser(aligned, width / rgb.shape[1]))
    heads = engine.look(rgb, (height, width), buffers)
    result = buffers.array("result", (height, width))
    filter_target(engine, card, heads, target, np.inf, buffers, result, StageClock(engine.device))
    return resample(result, metres.shape[1], metres.shape[0], buffers.part("guess"))
