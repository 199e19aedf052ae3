"""How good the depth is: frames on disk, lowered as a protocol says, upsampled, compared with bicubic and the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.images import FramePair, frame_pairs, read_pair
from dkn_ros.metrics import rmse
from dkn_ros.pipeline import Pipeline
from dkn_ros.preprocess import fill_holes, resample
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade

FloatImage = NDArray[np.float32]

PROTOCOLS: Mapping[str, CameraModel] = {
    "clean": CameraModel(method="bicubic"),
    "nearest": CameraModel(method="nearest"),
    "area": CameraModel(method="area"),
    "holes": CameraModel(method="bicubic", shadows=1.0, border=2, blobs=4),
    "kinect": KINECT,
}
"""What is done to the truth, besides making it smaller.  On frames with holes of their own, `nearest` is the `real`
protocol: every s-th pixel, invalid ones stay invalid, and the truth is what the sensor saw."""


@dataclass(frozen=True)
class Row:
    """One line of the table: means over the frames."""

    protocol: str
    factor: int
    frames: int
    bicubic: float
    """RMSE in metres of bicubic upsampling with the nearest measured depth in the holes."""
    output: float
    """RMSE in metres of the network, on the same pixels."""
    worst: float
    """Largest ratio of the two on one frame."""

    @property
    def ratio(self) -> float:
        """`output` over `bicubic`: below 1 is better than bicubic."""
        return self.output / self.bicubic


def bicubic(depth: FloatImage, width: int, height: int) -> FloatImage:
    """The baseline: holes take the nearest measured depth, then bicubic resampling.

    depth: hxw metres, NaN invalid.  Returns height x width metres.  Raises ValueError if nothing was measured.
    """
    return resample(fill_holes(depth)[0], width, height)


def compare(output: FloatImage, low: FloatImage, truth: FloatImage) -> tuple[float, float]:
    """RMSE in metres of bicubic and of `output`, both on the pixels that `output` and `truth` know."""
    baseline = bicubic(low, truth.shape[1], truth.shape[0])
    baseline[np.isnan(output)] = np.nan
    return rmse(baseline, truth), rmse(output, truth)


def evaluate(
    pipeline: Pipeline, folder: Path, protocols: Sequence[str], factors: Sequence[int], progress: bool = True
) -> list[Row]:
    """Rows for every protocol and factor over all frames of a folder; ValueError for a protocol that does not exist."""
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown:
        raise ValueError(f"unknown protocol {', '.join(unknown)}; known: {', '.join(PROTOCOLS)}")
    frames = frame_pairs(folder)
    jobs = [(protocol, factor) for protocol in protocols for factor in factors]
    rows = []
    with tqdm(total=len(jobs) * len(frames), unit="frame", disable=not progress, leave=False) as bar:
        for protocol, factor in jobs:
            camera = dataclasses.replace(PROTOCOLS[protocol], factor=factor)
            errors = []
            for pair in _pairs(pipeline, frames, camera):
                errors.append(pair)
                bar.update()
            before, after = np.array(errors).T
            rows.append(
                Row(protocol, factor, len(errors), float(before.mean()), float(after.mean()),
                    float((after / before).max()))
            )  # fmt: skip
    return rows


def _pairs(pipeline: Pipeline, frames: Sequence[FramePair], camera: CameraModel) -> Iterator[tuple[float, float]]:
    for i, frame in enumerate(frames):
        rgb, truth = read_pair(frame, camera.factor)
        low = degrade(truth, camera, np.random.default_rng(i))
        yield compare(pipeline.enhance(rgb, low).depth, low, truth)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, errors in centimetres."""
    lines = [f"{'protocol':<10}{'factor':>7}{'frames':>8}{'bicubic cm':>12}{'output cm':>11}{'ratio':>8}{'worst':>8}"]
    lines += [
        f"{r.protocol:<10}{r.factor:>7}{r.frames:>8}{100 * r.bicubic:>12.2f}{100 * r.output:>11.2f}"
        f"{r.ratio:>8.2f}{r.worst:>8.2f}"
        for r in rows
    ]
    return "\n".join(lines)
