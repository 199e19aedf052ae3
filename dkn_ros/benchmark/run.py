"""How long a frame takes and how much memory, stage by stage, and how many times less than the published way.

Frames of the package's own scene, their depth made smaller, go through `Pipeline.enhance`.  Whatever is compared takes
turns on the same frames in the same process: a machine that gets slower or faster meanwhile does so for all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from dkn_ros.benchmark.average import average_alone
from dkn_ros.benchmark.floors import Yardsticks, floors, named
from dkn_ros.benchmark.memory import DoesNotFitError, Peak, measure
from dkn_ros.benchmark.outputs import outputs_alone
from dkn_ros.benchmark.published import Published, bytes_available, bytes_needed
from dkn_ros.benchmark.timing import Contender, Run, View, race, settle, spread, views
from dkn_ros.config import PipelineConfig
from dkn_ros.depth import to_metres
from dkn_ros.engine import first_line
from dkn_ros.models.classical import BASELINES, ximgproc
from dkn_ros.pipeline import Pipeline

CLASSICAL = ("guided", "fgs")
ALONE_SIZE = (640, 480)
"""Width and height at which average and further outputs are timed alone."""
LEAST_SIDE, MOST_SIDE = 32, 8192


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height of the colour images."""
    config: PipelineConfig = field(default_factory=PipelineConfig)
    """Weights, device and threads; its precision is not looked at."""
    precisions: tuple[str, ...] = ("auto",)
    factor: int = 4
    """How many times smaller the depth is, per axis."""
    frames: int = 0
    """At each size; 0: as many as take some seconds."""
    reference: bool = True
    """Whether to run the published way too."""
    others: tuple[str, ...] = ()
    """Further weights, which take turns with those of `config`; the published way runs those of `config`."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 16:
            raise ValueError(f"factor is {self.factor}; wanted: 1 to 16")
        if self.frames < 0:
            raise ValueError(f"frames is {self.frames}; wanted: 1 or more, or 0 for as many as take some seconds")


def read_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`640x480,320x240` -> widths and heights, the smallest first; ValueError for anything else."""
    sizes = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", part)
        if not match or not all(LEAST_SIDE <= int(side) <= MOST_SIDE for side in match.groups()):
            wanted = f"WIDTHxHEIGHT of {LEAST_SIDE} to {MOST_SIDE} pixels each, separated by commas"
            raise ValueError(f"size is {part!r}; wanted: {wanted}, such as 640x480")
        sizes.add((int(match[1]), int(match[2])))
    return tuple(sorted(sizes, key=lambda size: size[0] * size[1]))


def run(plan: Plan) -> dict[str, Any]:
    """Measure; returns `results` (one for each size and precision), `average`, `outputs`, `classical` and notes.

    Raises ValueError for a device that is not there, WeightsError for weights, DoesNotFitError if the pipeline itself
    finds too little memory for a size.
    """
    pipelines = _pipelines(plan)
    device = pipelines[0].device
    yardsticks = Yardsticks(device, [pipeline.precision for pipeline in pipelines])
    missing = _classical_missing()
    document: dict[str, Any] = {
        "factor": plan.factor, "weights": ", ".join((plan.config.weights, *plan.others)), "device": str(device),
        "threads": pipelines[0].threads, "path": "", "path_notes": [],
        "memory_method": "", "results": [], "average": {}, "outputs": {}, "classical": [], "classical_missing": missing,
    }  # fmt: skip
    opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(pipelines[0].threads)  # what a contender does with OpenCV gets the threads of all the others
    try:
        for width, height in plan.sizes:
            with tqdm(desc=f"{width}x{height}", unit="frame", leave=False) as bar:
                _measure_size(plan, pipelines, yardsticks, width, height, document, bar)
        view = views(*ALONE_SIZE, plan.factor)[0]
        with tqdm(desc="deformable average", unit="frame", leave=False) as bar:
            document["average"] = average_alone(pipelines[0], view, yardsticks, plan.reference, plan.frames, bar)
        with tqdm(desc="further outputs", unit="frame", leave=False) as bar:
            document["outputs"] = outputs_alone(pipelines[0], view, plan.frames, bar)
    finally:
        cv2.setNumThreads(opencv_threads)
    # Now, not before: frames may have fallen to another way, or found that no graph can be captured.
    document["path"] = pipelines[0].path
    document["path_notes"] = list(dict.fromkeys(note for pipeline in pipelines for note in pipeline.notes))
    _add_linearity(document["results"])
    return document


def _pipelines(plan: Plan) -> list[Pipeline]:
    found: dict[tuple[str, torch.dtype], Pipeline] = {}
    for weights in (plan.config.weights, *plan.others):
        for name in plan.precisions:
            pipeline = Pipeline(dataclasses.replace(plan.config, weights=weights, precision=name))
            found.setdefault((weights, pipeline.precision), pipeline)
    return list(found.values())


def _classical_missing() -> str | None:
    try:
        ximgproc()
    except ValueError:
        return "no ximgproc in this OpenCV: guided filter and fast global smoother were not timed"
    return None


def _measure_size(
    plan: Plan,
    pipelines: Sequence[Pipeline],
    yardsticks: Yardsticks,
    width: int,
    height: int,
    document: dict[str, Any],
    bar: tqdm,
) -> None:
    """Everything at one size; adds to `results` and `classical` of the document."""
    device, given = pipelines[0].device, views(width, height, plan.factor)
    bar.set_postfix_str("memory")
    peaks = [_peak(pipeline, given[0]) for pipeline in pipelines]
    document["memory_method"] = peaks[0].method
    reference_peak, note = _reference_peak(plan, pipelines[0], given[0], width, height)
    bar.set_postfix_str("")

    ours = [Contender(_enhancing(pipeline)) for pipeline in pipelines]
    early = [Contender(_looking_early(pipeline), aside=True) for pipeline in pipelines]
    known = Published(pipelines[0]) if reference_peak else None
    theirs = [Contender(_publishing(known), aside=True)] if known else []
    classical = {} if document["classical_missing"] else {name: _classical(name) for name in CLASSICAL}
    race([*ours, *early, *theirs, *classical.values(), *yardsticks.contenders()], given, device, plan.frames, bar)

    rates = yardsticks.rates
    reference_frames = len(theirs[0].milliseconds) if theirs else 0
    reference_ms = {"median": theirs[0].whole["median"]} if theirs else None
    differences = [
        _difference(p, known, given[0]) if known and p.card == pipelines[0].card else (None, None) for p in pipelines
    ]
    for pipeline, contender, ahead, peak, (difference, relative) in zip(
        pipelines, ours, early, peaks, differences, strict=True
    ):
        contender.stages.pop("whole", None)
        stages = {name: spread(values) for name, values in contender.stages.items()}
        document["results"].append({
            "width": width, "height": height, "device": str(device), "weights": pipeline.card.name,
            "precision": named(pipeline.precision), "threads": pipeline.threads,
            "frames": len(contender.milliseconds), "whole_ms": contender.whole,
            "stages_ms": {name: found["median"] for name, found in stages.items()}, "stages_spread_ms": stages,
            "early_ms": spread(ahead.stages["from_depth"]),
            "floors": floors(pipeline, given[0], rates, {name: found["median"] for name, found in stages.items()}),
            "reference_ms": reference_ms, "reference_frames": reference_frames, "reference_note": note,
            "speedup": reference_ms["median"] / contender.whole["median"] if reference_ms else None,
            "difference_mm": difference, "difference_relative": relative,
            "peak_mb": peak.megabytes, "reference_peak_mb": reference_peak.megabytes if reference_peak else None,
        })  # fmt: skip
    for name, contender in classical.items():
        entry = {"width": width, "height": height, "method": name, "whole_ms": contender.whole}
        document["classical"].append(entry | {"frames": len(contender.milliseconds)})


def _peak(pipeline: Pipeline, view: View) -> Peak:
    config = dataclasses.replace(pipeline.config, precision=named(pipeline.precision))  # auto, resolved once
    try:
        return measure(config, view.rgb, view.depth)
    except DoesNotFitError as error:
        height, width = view.rgb.shape[:2]
        raise DoesNotFitError(f"{width}x{height} does not fit in memory ({error}); leave it out of --sizes") from error


def _reference_peak(plan: Plan, pipeline: Pipeline, view: View, width: int, height: int) -> tuple[Peak | None, str]:
    """The peak of the published way, or None and why it is not run."""
    if not plan.reference:
        return None, "not asked for"
    needed, available = bytes_needed(width, height, pipeline.model), bytes_available(pipeline.device)
    if available is not None and needed > available:
        return None, f"needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"
    config = dataclasses.replace(pipeline.config, precision=named(pipeline.precision))
    try:
        return measure(config, view.rgb, view.depth, reference=True), ""
    except DoesNotFitError as error:
        return None, f"does not fit in memory: {error}"
    except RuntimeError as error:  # what a library makes of so large a batch must not cost all other figures
        return None, f"fails: {first_line(error)}"


def _difference(pipeline: Pipeline, known: Published, view: View) -> tuple[dict[str, float], float]:
    """Between the pipeline's result and that of the published way, which do the same work, or should.

    99th percentile and largest in millimetres, and root mean square in parts of the depth's.
    """
    wanted = known.enhance(view.rgb, view.depth)
    difference = np.abs(pipeline.enhance(view.rgb, view.depth).depth - wanted)
    relative = float(np.sqrt(np.nanmean(difference**2) / np.nanmean(wanted**2)))
    p99, largest = float(np.nanpercentile(difference, 99)), float(np.nanmax(difference))
    return {"p99": 1e3 * p99, "max": 1e3 * largest}, relative


def _enhancing(pipeline: Pipeline) -> Run:
    return lambda view: pipeline.enhance(view.rgb, view.depth).timings


def _looking_early(pipeline: Pipeline) -> Run:
    def enhanced(view: View) -> dict[str, float]:
        height, width = view.depth.shape
        guidance = pipeline.look(view.rgb, (height, width))
        settle(pipeline.device)  # the colour image came well before
        return {"from_depth": pipeline.enhance(view.rgb, view.depth, guidance).timings["whole"]}

    return enhanced


def _publishing(known: Published) -> Run:
    def enhanced(view: View) -> None:
        known.enhance(view.rgb, view.depth)

    return enhanced


def _classical(name: str) -> Contender:
    def filtered(view: View) -> None:
        BASELINES[name](view.rgb, to_metres(view.depth))

    return Contender(filtered, aside=True)


def _add_linearity(results: list[dict[str, Any]]) -> None:
    """Milliseconds a megapixel, and over those of the smallest size of the same weights and precision."""
    first: dict[tuple[str, str], float] = {}
    for entry in results:
        each = entry["whole_ms"]["median"] / (1e-6 * entry["width"] * entry["height"])
        entry["ms_per_megapixel"] = each
        entry["relative_per_megapixel"] = each / first.setdefault((entry["weights"], entry["precision"]), each)
