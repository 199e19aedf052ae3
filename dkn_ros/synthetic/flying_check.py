"""What `dkn_ros.flying` takes away: the table in its docstring.

    python -m dkn_ros.synthetic.flying_check [WEIGHTS] [ROOMS]

looks at the network's result for rooms and cameras that `confidence_fit` checks with, the first ROOMS of them (8).  To
be done again for new weights; takes some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.flying import forget_flying
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.confidence_fit import CHECKED, OTHER_ROOMS, seen
from dkn_ros.synthetic.degradation import CameraModel

THRESHOLDS = (0.02, 0.03, 0.05)
WRONG, RIGHT = 0.05, 0.02
"""Off by more than the first is wrong, within the second is right; in parts of the true depth."""

Counts = NDArray[np.int64]
"""Of wrong, right and all valid pixels: how many there are, and how many are removed; 3x2."""


def counts(depth: NDArray[np.float32], truth: NDArray[np.float32], threshold: float, buffers: Buffers) -> Counts:
    """What the filter does to a result; both HxW metres, NaN invalid."""
    kept = depth.copy()
    forget_flying(kept, threshold, buffers)
    valid = np.isfinite(depth)
    gone = valid & np.isnan(kept)
    error = np.abs(depth - truth) / truth
    return np.array([[of.sum(), (of & gone).sum()] for of in (valid & (error > WRONG), valid & (error < RIGHT), valid)])


def total(
    pipeline: Pipeline,
    rooms: Iterable[int],
    cameras: Sequence[CameraModel] = CHECKED,
    width: int = 640,
    height: int = 480,
) -> dict[float, Counts]:
    """Threshold -> counts of all rooms (seeds) through all cameras."""
    buffers = Buffers()
    found = {threshold: np.zeros((3, 2), np.int64) for threshold in THRESHOLDS}
    for frame, low in seen(tqdm(rooms, unit="room", leave=False), cameras, width, height):
        depth = pipeline.enhance(frame.rgb, low).depth
        for threshold, sums in found.items():
            sums += counts(depth, frame.depth, threshold, buffers)
    return found


def table(found: dict[float, Counts]) -> str:
    """For people."""
    lines = ["threshold    wrong pixels removed    right pixels lost    of all pixels"]
    for threshold, sums in found.items():
        wrong, right, every = 100 * sums[:, 1] / np.maximum(sums[:, 0], 1)
        lines.append(f"  {threshold:.2f}  {wrong:18.0f} %  {right:20.2f} %  {every:14.1f} %")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    weights = sys.argv[1] if len(sys.argv) > 1 else PipelineConfig.weights
    rooms = OTHER_ROOMS[: int(sys.argv[2])] if len(sys.argv) > 2 else OTHER_ROOMS
    print(table(total(Pipeline(PipelineConfig(weights, device="cpu", precision="float32")), rooms)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
