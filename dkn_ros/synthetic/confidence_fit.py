"""Where the five numbers of `dkn_ros.confidence` come from: a logistic regression on rendered rooms.

    python -m dkn_ros.synthetic.confidence_fit [WEIGHTS]

prints the numbers for these weights, fitted to some rooms, and how well the confidence that is now in the code keeps
its word on others.  To be done again for new weights; takes some minutes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.buffers import Buffers
from dkn_ros.confidence import LEAST_CORRECTION, LEAST_SPREAD, WITHIN, confidence, evidence
from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.scene import Frame, Scene

FLIGHT = CameraModel(tof_noise=0.003, flying_pixels=0.7, border=1, grazing=80)
CHECKED = (
    *(dataclasses.replace(KINECT, factor=factor) for factor in (1, 2, 4, 8)),
    *(dataclasses.replace(FLIGHT, factor=factor) for factor in (2, 4)),
    CameraModel(4, "nearest"),
    CameraModel(4, "area"),
    CameraModel(8, "area"),
    CameraModel(8, "area", shadows=1, blobs=4),
)
"""Cameras that the confidence is checked with."""
FITTED = (
    *CHECKED,
    dataclasses.replace(KINECT, factor=2.5),
    dataclasses.replace(FLIGHT, factor=8),
    CameraModel(8, "nearest"),
    CameraModel(4, "area", shadows=1, blobs=4),
    CameraModel(2, "area"),
    CameraModel(2, "nearest", shadows=1, blobs=3),
    CameraModel(16, "area"),
)
ROOMS, OTHER_ROOMS = range(5000, 5012), range(2000, 2008)
"""Seeds of the rooms to fit to and to check with."""
SAMPLES = 4000
"""Pixels that are taken of a frame to fit to."""
UNSEEN = 0.9
"""A frame with a larger share of invalid depth is left out."""
STEPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0 + 1e-6)
NUMBERS = ("SPREAD", "CORRECTION", "DISTANCE", "RATIO", "BIAS")

Columns = NDArray[np.float64]


def fit(features: Columns, right: NDArray[np.bool_], steps: int = 30) -> Columns:
    """The weights w of the logistic regression P(right) = 1 / (1 + exp(-features w)), by Newton's method.

    features: nxk.  right: n.  Returns k.
    """
    weights = np.zeros(features.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features
        weights += np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), features.T @ (right - chance))
    return weights


def seen(
    rooms: Iterable[int], cameras: Iterable[CameraModel], width: int = 640, height: int = 480
) -> Iterator[tuple[Frame, NDArray[np.float32]]]:
    """Each room (a seed) and its depth through each camera, but those that see too little of it."""
    cameras = list(cameras)
    for room in rooms:
        frame = Scene(room).frame(width, height, time=1.0)
        for number, camera in enumerate(cameras):
            low = degrade(frame.depth, camera, np.random.default_rng((room, number)), frame.rgb)
            if np.isnan(low).mean() <= UNSEEN:
                yield frame, low


def frames(
    pipeline: Pipeline, rooms: Iterable[int], cameras: Iterable[CameraModel], width: int = 640, height: int = 480
) -> Iterator[tuple[Columns, Columns, Columns]]:
    """Features nx5, relative errors n and the confidence n of the n valid pixels of each room through each camera."""
    buffers = Buffers()
    out = np.empty((height, width), np.float32)
    for frame, low in seen(rooms, cameras, width, height):
        depth = pipeline.enhance(frame.rgb, low).depth
        metres = pipeline.metres(low, (height, width))
        _, target = pipeline.prepare(frame.rgb, metres, pipeline.guess(frame.rgb, metres))
        found = evidence(depth, target, buffers)
        valid = ~np.isnan(depth)
        terms = (
            np.log2(1 + found.spread[valid] / LEAST_SPREAD),
            np.log2(1 + found.correction[valid] / LEAST_CORRECTION),
            np.log2(1 + found.distance[valid]),
            np.full(valid.sum(), np.log2(max(found.ratio, 1.0))),
            np.ones(valid.sum()),
        )
        error = (np.abs(depth - frame.depth) / frame.depth)[valid]
        confidence(depth, target, buffers, out)
        yield np.stack(terms, axis=1).astype(np.float64), error.astype(np.float64), out[valid].astype(np.float64)


def fitted(pipeline: Pipeline, rooms: Iterable[int] = ROOMS, cameras: Iterable[CameraModel] = FITTED) -> Columns:
    """The five numbers, in the order of NUMBERS, for the weights of a pipeline."""
    features, right = [], []
    chance = np.random.default_rng(0)
    for terms, error, _ in tqdm(frames(pipeline, rooms, cameras), desc="fit", unit="frame", leave=False):
        taken = chance.choice(len(error), min(SAMPLES, len(error)), replace=False)
        features.append(terms[taken])
        right.append(error[taken] < WITHIN)
    return fit(np.concatenate(features), np.concatenate(right))


def reliability(confidences: Columns, errors: Columns) -> str:
    """A table: what the confidence says, and what is so."""
    lines = ["confidence     share of pixels   within 2 %   mean error"]
    for low, high in pairwise(STEPS):
        of = (confidences >= low) & (confidences < high)
        if of.any():
            right, mean = 100 * (errors[of] < WITHIN).mean(), 100 * errors[of].mean()
            lines.append(f"{low:4.2f} to {high:4.2f}  {100 * of.mean():13.1f} %  {right:9.0f} %  {mean:9.2f} %")
    return "\n".join(lines)


def main() -> int:
    """Fit, check and print."""
    weights = sys.argv[1] if len(sys.argv) > 1 else PipelineConfig.weights
    pipeline = Pipeline(PipelineConfig(weights, device="cpu", precision="float32"))
    for name, value in zip(NUMBERS, fitted(pipeline), strict=True):
        print(f"{name} = {value:.3f}")
    checked = [found[1:] for found in tqdm(frames(pipeline, OTHER_ROOMS, CHECKED), desc="check", leave=False)]
    errors, confidences = (np.concatenate(parts) for parts in zip(*checked, strict=True))
    print(f"\nwith the numbers now in dkn_ros/confidence.py, {len(errors) / 1e6:.1f} million pixels of other rooms:")
    print(reliability(confidences, errors))
    return 0


if __name__ == "__main__":
    sys.exit(main())
