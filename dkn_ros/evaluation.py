"""How good the depth is: frames on disk, lowered as a protocol says, upsampled by every method, measured by the truth.

All methods of a block (one protocol at one factor) get the same input and are measured on the same pixels: those that
the truth and every method's output know.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros import metrics
from dkn_ros.images import FramePair, frame_pairs, read_pair
from dkn_ros.methods import REFERENCE, Method
from dkn_ros.metrics import rmse
from dkn_ros.preprocess import fill_holes, guidance_image
from dkn_ros.resampling import resample
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]

PROTOCOLS: Mapping[str, CameraModel] = {
    "clean": CameraModel(method="bicubic"),
    "nearest": CameraModel(method="nearest"),
    "area": CameraModel(method="area"),
    "holes": CameraModel(method="bicubic", shadows=1.0, border=2, blobs=4),
    "kinect": KINECT,
    "real": CameraModel(method="nearest"),
    "replicated": CameraModel(method="area", registered="replicate"),
    "sparse": CameraModel(method="nearest", registered="sparse"),
}
"""What is done to the truth, besides making it smaller.  `real` is for frames with invalid pixels of their own, which
stay invalid: what a sensor of lower resolution would have seen, against what the sensor saw.  `replicated` and `sparse`
are of the colour's size, as drivers register depth: every measurement in all pixels of its block, or in one."""

MEASURES = (
    "all", "hole", "near", "far", "far_without_holes", "mae", "off", "edge", "flicker", "differs", "differs_p99"
)  # fmt: skip
"""RMSE in metres in the zones of `metrics.zones` and, in the far zone, of the same frame without its holes; mean
absolute error in metres; share of pixels that are off, see `metrics.off_share`; RMSE near depth edges, see
`metrics.near_edges`; change from one frame to the next in metres, see `metrics.flicker`.  Of a method that is to give
what another one gives, see `evaluate`: root mean square of their difference over that of the depth, and 99th percentile
of the difference in metres, both over all pixels that the two know."""

Outputs = dict[str, FloatImage]


@dataclass(frozen=True)
class Sample:
    """One frame as all methods get it; images as in `Method`."""

    frame: str
    rgb: NDArray[np.uint8]
    truth: FloatImage
    low: FloatImage
    made: Mask
    """hxw, where the degradation made a hole."""
    holeless: FloatImage | None
    """`low` without those holes, the rest being the same; None if the protocol makes none, or noise besides."""
    again: FloatImage | None
    """`low` with other noise and the same holes; None if the protocol has no noise."""


@dataclass(frozen=True)
class Shot:
    """What a picture shows: the frame of a block on which the first network did worst against bicubic."""

    sample: Sample
    method: str
    bicubic: FloatImage
    output: FloatImage


@dataclass(frozen=True)
class Block:
    """All that was measured of one protocol at one factor; every list has one entry a frame."""

    protocol: str
    factor: int
    frames: list[str]
    seeds: list[list[int]]
    coverage: list[float]
    """Share of the known truth that is compared."""
    scores: dict[str, dict[str, list[float]]]
    """Method -> measure (MEASURES) -> figures; NaN where there was no pixel to measure."""

    def mean(self, method: str, measure: str = "all") -> float:
        """Mean over the frames that have the figure; NaN if none has."""
        figures = np.array(self.scores[method][measure])
        return float(figures[~np.isnan(figures)].mean()) if not np.isnan(figures).all() else float("nan")

    def most(self, method: str, measure: str) -> float:
        """The largest of the frames; NaN if none has the figure."""
        figures = np.array(self.scores[method][measure])
        return float(np.nanmax(figures)) if not np.isnan(figures).all() else float("nan")

    def ratio(self, method: str, measure: str = "all") -> float:
        """A mean over that of bicubic: below 1 is better than bicubic."""
        return float(_over(self.mean(method, measure), self.mean(REFERENCE, measure)))

    def spoiled(self, method: str) -> float:
        """RMSE far from holes over that of the same pixels without the holes: 1 if holes spoil nothing far away."""
        return float(_over(self.mean(method, "far"), self.mean(method, "far_without_holes")))

    def worst(self, method: str) -> tuple[float, str]:
        """Largest ratio to bicubic on one frame, and that frame."""
        ratios = _over(np.array(self.scores[method]["all"]), np.array(self.scores[REFERENCE]["all"]))
        return float(ratios.max()), self.frames[int(ratios.argmax())]


def bicubic(depth: FloatImage, width: int, height: int) -> FloatImage:
    """The reference: holes take the nearest measured depth, then bicubic resampling.

    depth: hxw metres, NaN invalid.  Returns height x width metres.  Raises ValueError if nothing was measured.
    """
    return resample(fill_holes(depth)[0], width, height)


def compare(output: FloatImage, low: FloatImage, truth: FloatImage) -> tuple[float, float]:
    """RMSE in metres of bicubic and of `output`, both on the pixels that `output` and `truth` know."""
    baseline = bicubic(low, truth.shape[1], truth.shape[0])
    baseline[np.isnan(output)] = np.nan
    return rmse(baseline, truth), rmse(output, truth)


def evaluate(
    networks: Mapping[str, Method],
    baselines: Mapping[str, Method],
    folder: Path,
    protocols: Sequence[str],
    factors: Sequence[int],
    every: int = 1,
    sequence: bool = False,
    progress: bool = True,
    like: Mapping[str, str] | None = None,
) -> Iterator[tuple[Block, Shot]]:
    """A block for every protocol and factor over every `every`-th frame of a folder, each when it is done.

    The methods of a block are bicubic, the baselines and the networks, of which there must be one.  sequence: the
    frames follow each other in time, and flicker is measured from one to the next; else noisy protocols give each frame
    twice.  like: methods -> what each is to give the same as, see `twins`.  Raises ValueError for what cannot be
    evaluated, before anything is.
    """
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown:
        raise ValueError(f"unknown protocol {', '.join(unknown)}; known: {', '.join(PROTOCOLS)}")
    if every < 1:
        raise ValueError(f"every is {every}; wanted: at least 1")
    methods = {REFERENCE: _reference, **baselines, **networks}
    if not networks or len(methods) < 1 + len(baselines) + len(networks):
        raise ValueError("wanted: at least one network, and a name of its own for every method")
    frames = list(enumerate(frame_pairs(folder)))[::every]
    jobs = [(protocol, factor) for protocol in protocols for factor in factors]
    shown = next(iter(networks))

    def blocks() -> Iterator[tuple[Block, Shot]]:
        with tqdm(total=len(jobs) * len(frames), unit="frame", disable=not progress, leave=False) as bar:
            for protocol, factor in jobs:
                yield _block(methods, shown, frames, protocol, factor, sequence, like or {}, bar)

    return blocks()


def seed_of(index: int, protocol: str) -> list[int]:
    """What the random numbers of a frame start from: its place in the folder, and the protocol, nothing else."""
    return [index, zlib.crc32(protocol.encode())]


def sample(pair: FramePair, protocol: str, factor: int, seed: Sequence[int], twice: bool = True) -> Sample:
    """Read a frame and lower it by a protocol; `twice`: once more with other noise, if there is any.

    Raises ValueError, which names the frame, if nothing of its depth is left.
    """
    rgb, truth = read_pair(pair, factor)
    camera = dataclasses.replace(PROTOCOLS[protocol], factor=factor)
    without_holes = dataclasses.replace(camera, shadows=0.0, border=0, blobs=0, speckle=0.0)
    low = degrade(truth, camera, np.random.default_rng(seed))
    # The noise is drawn before the holes, so that the same seed gives the same noise with and without them.
    holeless = degrade(truth, without_holes, np.random.default_rng(seed)) if camera != without_holes else None
    noisy = bool(camera.lateral_noise or camera.disparity_noise)
    again = None
    if noisy and twice:
        again = degrade(truth, without_holes, np.random.default_rng([*seed, 1]))
        again[np.isnan(low)] = np.nan
    if np.isnan(low).all() or (again is not None and np.isnan(again).all()):
        raise ValueError(f"frame {pair.name} keeps no depth at {protocol} {factor}x; leave it or this factor out")
    made = np.isnan(low) & ~np.isnan(holeless) if holeless is not None else np.zeros(low.shape, bool)
    return Sample(pair.name, rgb, truth, low, made, None if noisy else holeless, again)


def _block(
    methods: Mapping[str, Method],
    shown: str,
    frames: Sequence[tuple[int, FramePair]],
    protocol: str,
    factor: int,
    sequence: bool,
    like: Mapping[str, str],
    bar: tqdm,
) -> tuple[Block, Shot]:
    names, seeds, coverage, shots = [], [], [], []
    scores: dict[str, dict[str, list[float]]] = {method: {m: [] for m in MEASURES} for method in methods}
    previous: tuple[Sample, Outputs] | None = None
    worst = -1.0
    for index, pair in frames:
        seeds.append(seed_of(index, protocol))
        one = sample(pair, protocol, factor, seeds[-1], twice=not sequence)
        outputs = _outputs(methods, one.rgb, one.low)
        share, figures = _measure(methods, one, outputs, previous)
        for method in methods:
            figures[method] |= _difference(outputs[method], outputs.get(like.get(method, "")))
        names.append(one.frame)
        coverage.append(share)
        for method, measure in ((method, measure) for method in methods for measure in MEASURES):
            scores[method][measure].append(figures[method][measure])
        ratio = float(_over(figures[shown]["all"], figures[REFERENCE]["all"]))
        if ratio > worst:
            worst, shots = ratio, [Shot(one, shown, outputs[REFERENCE], outputs[shown])]
        previous = (one, outputs) if sequence else None
        bar.update()
    return Block(protocol, factor, names, seeds, coverage, scores), shots[0]


def _measure(
    methods: Mapping[str, Method], one: Sample, outputs: Outputs, previous: tuple[Sample, Outputs] | None
) -> tuple[float, dict[str, dict[str, float]]]:
    """The coverage, and method -> measure -> figure, of one frame."""
    truth, factor = one.truth, one.truth.shape[0] // one.low.shape[0]
    inside = np.zeros(truth.shape, bool)
    inside[metrics.BORDER : -metrics.BORDER, metrics.BORDER : -metrics.BORDER] = True
    wanted = inside & np.isfinite(truth)
    known = wanted & _known(outputs)
    if not known.any():
        raise ValueError(f"frame {one.frame} at {factor}x leaves no pixel to compare; leave it or this factor out")
    zones = metrics.zones(one.made, np.isnan(one.low), factor)
    edge = known & metrics.near_edges(truth)
    # Which two images make the flicker, and where.
    first, second, static = outputs, outputs, np.zeros_like(known)
    if previous is not None and previous[0].truth.shape == truth.shape:
        first, static = previous[1], known & _known(previous[1]) & _still(previous[0], one, factor)
    elif one.again is not None:
        second = _outputs(methods, one.rgb, one.again)
        static = known & _known(second)
    holeless = _outputs(methods, one.rgb, one.holeless) if one.holeless is not None else {}
    unspoiled = known & zones.far & _known(holeless) if holeless else np.zeros_like(known)

    figures = {}
    for method, output in outputs.items():
        figures[method] = {
            "all": _figure(metrics.rmse, output, truth, known),
            "hole": _figure(metrics.rmse, output, truth, known & zones.hole),
            "near": _figure(metrics.rmse, output, truth, known & zones.near),
            "far": _figure(metrics.rmse, output, truth, unspoiled if holeless else known & zones.far),
            "far_without_holes": _figure(metrics.rmse, holeless.get(method, output), truth, unspoiled),
            "mae": _figure(metrics.mae, output, truth, known),
            "off": _figure(metrics.off_share, output, truth, known),
            "edge": _figure(metrics.rmse, output, truth, edge),
            "flicker": metrics.flicker(first[method], second[method], static) if static.any() else float("nan"),
        }
    return float(known.sum() / wanted.sum()), figures


def _difference(output: FloatImage, wanted: FloatImage | None) -> dict[str, float]:
    """The measures `differs` and `differs_p99`; NaN where nothing is wanted, or no pixel is known to both."""
    known = np.isfinite(output) & np.isfinite(wanted) if wanted is not None else np.zeros(0, bool)
    if wanted is None or not known.any():
        return {"differs": float("nan"), "differs_p99": float("nan")}
    difference = np.abs(output[known] - wanted[known], dtype=np.float64)
    relative = np.sqrt(np.mean(difference**2) / np.mean(wanted[known].astype(np.float64) ** 2))
    return {"differs": float(relative), "differs_p99": float(np.percentile(difference, 99))}


def _over(figure: Any, other: Any) -> Any:
    """A ratio of errors in metres that stays finite on flat scenes, which nobody gets wrong."""
    return figure / np.maximum(other, 1e-9)


def _figure(measure: Callable[..., float], depth: FloatImage, truth: FloatImage, where: Mask) -> float:
    return measure(depth, truth, where=where) if where.any() else float("nan")


def _outputs(methods: Mapping[str, Method], rgb: NDArray[np.uint8], low: FloatImage) -> Outputs:
    return {name: method(rgb, low) for name, method in methods.items()}


def _known(outputs: Outputs) -> Mask:
    """HxW, what every method knows."""
    return np.asarray(np.logical_and.reduce([np.isfinite(output) for output in outputs.values()]))


def _still(previous: Sample, now: Sample, factor: int) -> Mask:
    """HxW, static pixels of two frames that were measured in both: a hole that comes or goes is no flicker."""
    light = (guidance_image(previous.rgb)[0], guidance_image(now.rgb)[0])
    measured = np.isfinite(previous.low) & np.isfinite(now.low)
    return metrics.still(light, (previous.truth, now.truth)) & metrics.enlarged(measured, factor)


def _reference(rgb: NDArray[np.uint8], low: FloatImage) -> FloatImage:
    return bicubic(low, rgb.shape[1], rgb.shape[0])
