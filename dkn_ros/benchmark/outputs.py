"""What the further outputs cost that a node makes of a frame where somebody listens, without messages and DDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from dkn_ros.benchmark.timing import Contender, Run, View, race
from dkn_ros.buffers import Buffers
from dkn_ros.calibration import Calibration
from dkn_ros.cloud import POINT_STEP, write_points
from dkn_ros.compressed_depth import FORMATS, Coding, compress
from dkn_ros.pipeline import Pipeline
from dkn_ros.preview import Preview

CONFIDENCE = "confidence"
FOCAL_LENGTH = 0.9
"""Over the width of the image, of the points."""


def outputs_alone(pipeline: Pipeline, view: View, frames: int, bar: tqdm) -> dict[str, Any]:
    """Milliseconds of confidence, validity, preview, points and compressedDepth (png, rvl) of a frame."""
    depth = pipeline.enhance(view.rgb, view.depth).depth
    height, width = depth.shape
    confidence, valid = np.empty_like(depth), np.empty(depth.shape, np.uint8)
    picture, points = np.empty((height, width, 3), np.uint8), np.empty((height, width, POINT_STEP), np.uint8)
    focal, centre = FOCAL_LENGTH * width, ((width - 1) / 2, (height - 1) / 2)
    lens = Calibration(width, height, k=(focal, 0.0, centre[0], 0.0, focal, centre[1], 0.0, 0.0, 1.0))
    rays = lens.rays().astype(np.float32)
    preview, buffers = Preview(), Buffers()

    def validity() -> None:
        np.equal(depth, depth, out=valid.view(np.bool_))
        np.multiply(valid, 255, out=valid)

    def with_confidence(given: View) -> dict[str, float]:
        return dict(pipeline.enhance(given.rgb, given.depth, confidence=confidence).timings)

    works: dict[str, Callable[[], object]] = {
        "validity": validity,
        "preview": lambda: preview.draw(depth, 0.0, picture),
        "points": lambda: write_points(depth, view.rgb, rays, points),
    } | {form: _compressing(depth, Coding(form), buffers) for form in FORMATS}
    plain = Contender(lambda given: pipeline.enhance(given.rgb, given.depth).timings, aside=True)
    contenders = {CONFIDENCE: Contender(with_confidence, aside=True)}
    contenders |= {name: Contender(_ignoring(work), aside=True) for name, work in works.items()}
    race([plain, *contenders.values()], [view], pipeline.device, frames, bar)
    median = {name: contender.whole["median"] for name, contender in contenders.items()}
    stage = contenders[CONFIDENCE].stages.get(CONFIDENCE)
    # On a GPU it is part of the average: what remains is how much longer a frame takes with it.
    more = median[CONFIDENCE] - plain.whole["median"]
    median[CONFIDENCE] = max(0.0, more) if stage is None else float(np.median(stage))
    return {"width": width, "height": height, "threads": pipeline.threads, "ms": median}


def _compressing(depth: Any, coding: Coding, buffers: Buffers) -> Callable[[], object]:
    return lambda: compress(depth, coding, buffers)


def _ignoring(work: Callable[[], object]) -> Run:
    def run(_: View) -> None:
        work()

    return run
