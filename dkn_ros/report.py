"""What an evaluation says: tables for the terminal, a document for programs, a picture of the worst frame."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dkn_ros import __version__
from dkn_ros.evaluation import MEASURES, PROTOCOLS, Block, Shot
from dkn_ros.methods import REFERENCE

ABOUT = {
    "clean": "antialiased bicubic reduction",
    "nearest": "every n-th pixel",
    "area": "mean of each block",
    "holes": "clean, with shadows, a blind border and four ellipses cut out",
    "kinect": "noise and steps of a Kinect v1, every n-th pixel, holes",
    "real": "every n-th pixel of frames with invalid pixels of their own",
    "replicated": "mean of each block, in all its pixels at the colour's size",
    "sparse": "every n-th pixel, alone in its block at the colour's size",
}
LEGEND = """\
All methods of a table are measured on the same pixels: those that the truth and every method know, 6 from the border.
all, hole, near, far  RMSE in cm: everywhere; in holes that were made; measured, at most n pixels from an invalid one;
                      farther than 2n from any (n: the ratio)
far/free              RMSE far from holes over that of the same pixels without the holes: above 1, holes spoil them
MAE, >5%              mean absolute error in cm; percentage of pixels that are off by more than 5 % of their depth
edge                  RMSE in cm at most 3 pixels from a depth edge, a step of more than 5 %
flicker               mean change in cm from one frame to the next where the scene stands still
ratio                 RMSE over that of bicubic, below 1 is better
differs, p99          of a number type from the first (--precisions), mean of the frames / worst frame: root mean square
                      in percent of the depth's, and 99th percentile in mm, over all pixels that both know
worst                 ratio of the worst frame, and its name"""


def table(block: Block) -> str:
    """One block as text, a line a method; columns that no method has a figure for are left out."""
    count, coverage = len(block.frames), float(np.mean(block.coverage))
    title = f"{block.protocol} {block.factor}x: {ABOUT[block.protocol]}; {count} frame{'s'[: count > 1]}"
    columns: dict[str, list[str]] = {"": list(block.scores)}
    for zone in ("all", "hole", "near", "far"):
        columns[zone] = [_number(100 * block.mean(method, zone)) for method in block.scores]
    if isnan(block.mean(REFERENCE, "near")):
        del columns["far"]  # without holes everything is far from them
    columns["far/free"] = [_number(block.spoiled(method)) for method in block.scores]
    columns["MAE"] = [_number(100 * block.mean(method, "mae")) for method in block.scores]
    columns[">5%"] = [_number(100 * block.mean(method, "off")) for method in block.scores]
    columns["edge"] = [_number(100 * block.mean(method, "edge")) for method in block.scores]
    columns["flicker"] = [_number(100 * block.mean(method, "flicker")) for method in block.scores]
    columns["ratio"] = [_number(block.ratio(method)) for method in block.scores]
    columns["differs"] = [_differs(block, method, "differs", 100) for method in block.scores]
    columns["p99"] = [_differs(block, method, "differs_p99", 1000) for method in block.scores]
    columns["worst"] = [_worst(block, method) for method in block.scores]
    lines = [""] * (1 + len(block.scores))
    for head, cells in columns.items():
        if all(cell == "-" for cell in cells):
            continue
        width = max(map(len, (head, *cells)))
        for i, cell in enumerate((head, *cells)):
            # Names are read from the left, numbers by their last digit.
            lines[i] += f"  {cell:<{width}}" if head in ("", "worst") else f"  {cell:>{width}}"
    return "\n".join([f"{title}, {coverage:.1%} of the known depth compared", *(line.rstrip() for line in lines)])


def document(blocks: Sequence[Block], methods: dict[str, Any], **about: Any) -> dict[str, Any]:
    """Everything that was measured, for json.dumps: metres and shares, None where there was nothing to measure.

    methods: name -> what it is.  about: what else is to stand there, such as the command.
    """
    return {
        **about,
        "versions": {
            "dkn_ros": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "methods": methods,
        "measures": LEGEND.splitlines(),
        "results": [_entry(block) for block in blocks],
    }


def picture(block: Block, shot: Shot, folder: Path) -> Path:
    """Draw the worst frame of a block into a folder that exists; returns the file."""
    from dkn_ros.figures import comparison

    one = shot.sample
    ratio, _ = block.worst(shot.method)
    path = folder / f"{block.protocol}_{block.factor}x_{one.frame}.png"
    title = f"{block.protocol} {block.factor}x, frame {one.frame}: RMSE {ratio:.2f} of bicubic's"
    if len(block.frames) > 1:
        title += f", the worst of {len(block.frames)} frames"
    comparison(one.rgb, one.low, shot.bicubic, shot.output, one.truth, path, title, shot.method)
    return path


def _entry(block: Block) -> dict[str, Any]:
    rows = {}
    for method, scores in block.scores.items():
        ratio, frame = block.worst(method)
        rows[method] = {
            "mean": {measure: _known(block.mean(method, measure)) for measure in MEASURES},
            "ratio": block.ratio(method),
            "worst": {"ratio": ratio, "frame": frame},
            "far_over_far_without_holes": _known(block.spoiled(method)),
            "flicker_ratio": _known(block.ratio(method, "flicker")),
            "frames": {measure: [_known(figure) for figure in figures] for measure, figures in scores.items()},
        }
    return {
        "protocol": block.protocol,
        "camera": dataclasses.asdict(dataclasses.replace(PROTOCOLS[block.protocol], factor=block.factor)),
        "factor": block.factor,
        "frames": block.frames,
        "seeds": block.seeds,
        "coverage": float(np.mean(block.coverage)),
        "coverage_of_frames": block.coverage,
        "methods": rows,
    }


def _worst(block: Block, method: str) -> str:
    if method == REFERENCE:
        return ""
    ratio, frame = block.worst(method)
    return f"{ratio:.2f} {frame}"


def _differs(block: Block, method: str, measure: str, scale: float) -> str:
    if isnan(block.mean(method, measure)):
        return "-"
    return f"{scale * block.mean(method, measure):.3f} / {scale * block.most(method, measure):.3f}"


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


def _known(value: float) -> float | None:
    return None if isnan(value) else value
