"""What `dkn_ros.alignment` is worth for a camera that nobody registered: the table and the picture in README.

    python -m dkn_ros.synthetic.alignment_check [WEIGHTS] [ROOMS] [PICTURE.png]

renders the first ROOMS rooms (8): colour, and depth as a Kinect's depth camera sees it, 25 mm beside and of another
focal length, as if both were one camera's.  The network gets every 4th or 8th pixel of the depth.  PICTURE: of the
first room, at 8x.  To be done again for new weights.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.alignment import moved
from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.evaluation import bicubic
from dkn_ros.figures_alignment import beside_and_moved
from dkn_ros.metrics import BORDER, rmse
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.confidence_fit import OTHER_ROOMS
from dkn_ros.synthetic.degradation import lower
from dkn_ros.synthetic.render import render_depth
from dkn_ros.synthetic.scene import Scene

FloatImage = NDArray[np.float32]
BASELINE = 0.025
"""Metres between the lenses of a Kinect v1, the depth camera's to the left."""
FOCAL_LENGTHS = 580 / 525
"""Of its depth camera over that of its colour camera."""
FACTORS = (4, 8)
METHODS = ("bicubic", "colour as it is", "colour moved")


def raw_kinect(room: int, width: int = 640, height: int = 480) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colour and true depth (metres) of a room, as two cameras see it that are taken for one."""
    scene = Scene(room)
    colour = scene.camera(width, height, time=1.0)
    beside = colour.rotation.astype(np.float64) @ (-BASELINE, 0.0, 0.0)
    depth = dataclasses.replace(
        colour,
        position=(colour.position + beside).astype(np.float32),
        focal_length=FOCAL_LENGTHS * colour.focal_length,
    )
    return scene.frame(width, height, time=1.0).rgb, render_depth(scene.world, depth)


def results(pipeline: Pipeline, rgb: NDArray[np.uint8], truth: FloatImage, factor: int) -> dict[str, FloatImage]:
    """What the METHODS make of the lowered depth, HxW metres."""
    low = lower(truth, factor, "nearest")
    found = {"bicubic": bicubic(low, truth.shape[1], truth.shape[0])}
    for name, align in (("colour as it is", False), ("colour moved", True)):
        pipeline.config = dataclasses.replace(pipeline.config, align_colour=align)
        pipeline.forget_camera()
        found[name] = pipeline.enhance(rgb, low).depth
    return found


def errors(pipeline: Pipeline, rooms: Iterable[int], **size: int) -> dict[int, dict[str, list[float]]]:
    """Factor -> method -> RMSE of every room, metres."""
    found: dict[int, dict[str, list[float]]] = {factor: {name: [] for name in METHODS} for factor in FACTORS}
    for room in tqdm(rooms, unit="room", leave=False):
        rgb, truth = raw_kinect(room, **size)
        inside = np.zeros(truth.shape, bool)
        inside[BORDER:-BORDER, BORDER:-BORDER] = True
        for factor in FACTORS:
            for name, depth in results(pipeline, rgb, truth, factor).items():
                found[factor][name].append(rmse(depth, truth, where=inside & np.isfinite(depth)))
    return found


def table(found: dict[int, dict[str, list[float]]]) -> str:
    """For people: means over the rooms in centimetres, and over bicubic's."""
    lines = [f"{'RMSE, cm (over bicubic)':<26}" + "".join(f"{name:>22}" for name in METHODS)]
    for factor, methods in found.items():
        ratios = {name: np.mean(np.divide(values, methods["bicubic"])) for name, values in methods.items()}
        cells = (f"{100 * np.mean(methods[name]):.2f} ({ratios[name]:.2f})" for name in METHODS)
        lines.append(f"{f'every {factor}th pixel':<26}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def draw(pipeline: Pipeline, room: int, path: Path) -> None:
    """Colour and errors, as it is and moved."""
    rgb, truth = raw_kinect(room)
    found = results(pipeline, rgb, truth, 8)
    alignment = pipeline.alignment
    if alignment is None:
        raise ValueError(f"in room {room} nothing is found to move; wanted: another one")
    seen = moved(rgb, lower(truth, 8, "nearest"), alignment, Buffers())
    images = (rgb, found["colour as it is"]), (seen, found["colour moved"])
    beside_and_moved(images, truth, path)


def main() -> int:
    """Measure, print, draw."""
    given = sys.argv[1:]
    weights = given[0] if given else PipelineConfig.weights
    rooms = OTHER_ROOMS[: int(given[1]) if len(given) > 1 else 8]
    pipeline = Pipeline(PipelineConfig(weights, device="cpu", precision="float32"))
    print(table(errors(pipeline, rooms)))
    if len(given) > 2:
        draw(pipeline, rooms[0], Path(given[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
