"""The picture of colour that lies beside its depth, and is moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dkn_ros.figures import ERROR_COLOURS
from dkn_ros.metrics import near_edges

FloatImage = NDArray[np.float32]
EDGE = (255, 40, 40)


def beside_and_moved(
    images: Sequence[tuple[NDArray[np.uint8], FloatImage]], truth: FloatImage, path: Path, worst: float = 0.3
) -> None:
    """Above, each colour image with the depth's edges in red; below, the errors of the depth made with it.

    images: colour HxWx3 and depth HxW (metres), as the colour came and moved.  truth: HxW.  worst: error in metres that
    has the last colour.
    """
    figure = Figure(figsize=(9.4, 7.0), layout="constrained")
    grid = figure.subplots(2, 3, gridspec_kw={"width_ratios": (1, 1, 0.03)})
    edges = near_edges(truth, 0)
    for column, (name, (rgb, depth)) in enumerate(zip(("as it came", "moved"), images, strict=True)):
        colour = rgb.copy()
        colour[edges] = EDGE
        error = np.abs(depth - truth)
        rmse = 100 * float(np.sqrt(np.nanmean(np.square(error))))
        grid[0, column].imshow(colour)
        grid[0, column].set_title(f"colour {name}, edges of the depth", fontsize=11)
        drawn = grid[1, column].imshow(error, vmin=0, vmax=worst, **ERROR_COLOURS)
        grid[1, column].set_title(f"error at 8x, RMSE {rmse:.1f} cm", fontsize=11)
    for axis in (*grid[:, :2].flat, grid[0, 2]):
        axis.set_axis_off()
    figure.colorbar(drawn, cax=grid[1, 2], label="absolute error, m")
    figure.savefig(path, dpi=80)
