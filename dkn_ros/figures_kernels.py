"""The picture of one pixel's kernel: where the network sampled the depth, with which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from dkn_ros.explain import Explanation
from dkn_ros.sampling import WINDOW

POSITIVE, NEGATIVE = "#ff8c1a", "#2f7bff"  # told apart by the colour-blind too, and in no grey image
LABELLED = 9
"""The strongest samples have a number in the images and a line in the list; a kernel can have 49."""
REACH = WINDOW / 2 + 2.5
"""Half the side of the crops, in pixels of the network's grid."""


def kernel(rgb: NDArray[np.uint8], explained: Explanation, path: Path, written: float | None = None) -> None:
    """The samples over colour and over the upsampled input depth, and what each contributes; writes `path`.

    rgb: HxWx3 or HxW, the image that was explained.  written: metres at the pixel in the final result, NaN invalid.
    """
    figure = Figure(figsize=(16, 6), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.75), height_ratios=(1, 1.1))
    colour, depth = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    colour.imshow(rgb, cmap="gray", interpolation="nearest")
    colour.set_title("colour", fontsize=11)
    field = (-0.5, rgb.shape[1] - 0.5, rgb.shape[0] - 0.5, -0.5)  # the depth may have a grid of its own
    near, far = _limits(explained)
    drawn = depth.imshow(explained.depth, interpolation="nearest", cmap="gray", extent=field, vmin=near, vmax=far)
    depth.set_title("input depth, upsampled", fontsize=11)
    figure.colorbar(drawn, cax=depth.inset_axes((1.03, 0, 0.045, 1)), label="depth, m")
    for axis in (colour, depth):
        _outlines(axis, explained)
        _samples(axis, explained)
    _legend(colour, explained)
    _place(figure.add_subplot(grid[0, 2]), rgb, explained)
    _contributions(figure.add_subplot(grid[1, 2]), explained)
    figure.suptitle(_sentence(explained, written), fontsize=13)
    figure.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.15)


def _sentence(explained: Explanation, written: float | None) -> str:
    sentence = (
        f"pixel ({explained.x}, {explained.y}):  input {explained.input_depth:.3f} m,  "
        f"{len(explained.weights)} samples {_signed(explained.contributions.sum(), 3)} m,  "
        f"network's output {explained.output_depth:.3f} m"
    )
    if written is None:
        return sentence
    return sentence + (",  written: invalid" if np.isnan(written) else f",  written {written:.3f} m")


def _signed(value: float, digits: int) -> str:
    """With its sign, a proper minus, and no sign on what rounds to zero."""
    rounded = round(float(value), digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f" {0:.{digits}f}"


def _strongest(explained: Explanation) -> NDArray[np.intp]:
    """Indices of the samples by the size of their weights, largest first."""
    return np.argsort(-np.abs(explained.weights), kind="stable")


def _limits(explained: Explanation) -> tuple[float, float]:
    """The range of depth that the crop shows, 2 cm or more: in the frame's whole range its steps would not be seen."""
    reach = int(REACH)
    column, row = (int((c + 0.5) / s) for c, s in zip(explained.centre, explained.step, strict=True))
    seen = explained.depth[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    middle, half = (seen.max() + seen.min()) / 2, max((seen.max() - seen.min()) / 2, 0.01)
    return float(middle - half), float(middle + half)


def _outlines(axis: Axes, explained: Explanation) -> None:
    """The crop, the window and the pixel."""
    for colour, width, style in (("black", 2.6, "-"), ("white", 1.2, "--")):
        axis.add_patch(_box(explained, WINDOW / 2, ec=colour, lw=width, ls=style))
    # The pixel is small and samples lie on it: its square stands above them.
    for colour, width in (("black", 3.2), ("yellow", 1.6)):
        axis.add_patch(_box(explained, 0.5, ec=colour, lw=width, zorder=60))
    (x, y), (across, down) = explained.centre, explained.step
    axis.set(xlim=(x - REACH * across, x + REACH * across), ylim=(y + REACH * down, y - REACH * down))
    axis.tick_params(labelsize=8)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(MaxNLocator(6, integer=True))
    axis.patch.set(facecolor="white", edgecolor="0.8", hatch="///")  # seen where the crop leaves the image


def _box(explained: Explanation, half: float, **style: Any) -> Rectangle:
    """A square around the pixel; half: of its side, in pixels of the network's grid."""
    (x, y), (across, down) = explained.centre, explained.step
    return Rectangle((x - half * across, y - half * down), 2 * half * across, 2 * half * down, fill=False, **style)


def _samples(axis: Axes, explained: Explanation) -> None:
    """Circles whose areas go with the weights, the strongest with their numbers."""
    order = _strongest(explained)
    largest = max(float(np.abs(explained.weights).max()), 1e-9)
    areas = 15 + 200 * np.abs(explained.weights) / largest
    for rank, n in enumerate(order):
        colour = POSITIVE if explained.weights[n] >= 0 else NEGATIVE
        face, edge = (colour, "white") if explained.inside[n] > 0 else ("none", colour)
        # The strongest first, so that a weak sample on the same place stays visible.
        x, y = explained.positions[n]
        for line, width in (("black", 2.6), (edge, 1.2)):
            axis.scatter(x, y, s=areas[n], fc=face, ec=line, lw=width, zorder=3 + rank)
    labelled = explained.positions[order[:LABELLED]]
    text: dict[str, Any] = {"size": 9, "weight": "bold", "ha": "center", "va": "center", "clip_on": True, "zorder": 70}
    text["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
    for rank, (sample, place) in enumerate(zip(labelled, _label_places(labelled, min(explained.step)), strict=True)):
        axis.plot(*zip(sample, place, strict=True), color="black", lw=2.0, zorder=58)
        axis.plot(*zip(sample, place, strict=True), color="white", lw=0.9, zorder=59)
        axis.text(place[0], place[1], str(rank + 1), **text)


def _label_places(samples: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """Nx2 places for the numbers of N samples: outward of each, pushed apart until they can be read.

    unit: how much of the axes a pixel of the network's grid is.
    """
    outward = samples - samples.mean(axis=0)
    # Samples on one place need different directions to begin with.
    angle = 2 * np.pi * np.arange(len(samples)) / len(samples)
    outward += 1e-3 * unit * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    places = samples + 1.2 * unit * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    for _ in range(60):
        for others in (places.copy(), samples):
            apart = places[:, None] - others[None]
            distance = np.maximum(np.linalg.norm(apart, axis=2, keepdims=True), 1e-6)
            places += 0.2 * (apart / distance * np.clip(1.15 * unit - distance, 0, None)).sum(axis=1)
    return places


def _legend(axis: Axes, explained: Explanation) -> None:
    dot: dict[str, Any] = {"ls": "", "marker": "o", "ms": 9}
    square: dict[str, Any] = {"ls": "", "marker": "s", "mfc": "none", "ms": 10, "mec": "black"}
    own = "" if explained.step == (1.0, 1.0) else " of the network's grid"
    entries = [
        Line2D([], [], label="weight above 0", color=POSITIVE, **dot),
        Line2D([], [], label="weight below 0", color=NEGATIVE, **dot),
        Line2D([], [], label=f"the pixel{own}", **(square | {"mfc": "yellow", "ms": 7})),
        Line2D([], [], label=f"window, {WINDOW} x {WINDOW}{own}", color="black", ls="--"),
    ]
    if (explained.inside == 0).any():
        label = "outside: counts as the frame's nearest depth"
        entries.append(Line2D([], [], label=label, **(dot | {"mfc": "none", "mec": "black"})))
    axis.legend(handles=entries, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncol=2, fontsize=9, frameon=False)


def _place(axis: Axes, rgb: NDArray[np.uint8], explained: Explanation) -> None:
    """The whole image, with a box for what the crops show."""
    axis.imshow(rgb, cmap="gray")
    for colour, width in (("black", 3.4), ("yellow", 1.6)):
        axis.add_patch(_box(explained, REACH, ec=colour, lw=width, clip_on=False, in_layout=False))
    axis.set_axis_off()


def _contributions(axis: Axes, explained: Explanation) -> None:
    """Bars of the weights, beside each what the sample saw and by how much it moves the pixel."""
    order = _strongest(explained)[:LABELLED]
    weights = explained.weights[order]
    axis.barh(range(len(order)), weights, color=[POSITIVE if w >= 0 else NEGATIVE for w in weights], height=0.7)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(order)))
    axis.set_yticklabels([str(rank + 1) for rank in range(len(order))], fontsize=9, weight="bold")
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    place: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "size": 9, "va": "center", "ha": "right"}
    cells = [("weight", "depth, m", "moves it, cm")] + [
        (_signed(w, 3), f"{v:.3f}", _signed(100 * c, 1))
        for w, v, c in zip(weights, explained.values[order], explained.contributions[order], strict=True)
    ]
    for row, line in enumerate(cells, start=-1):
        for column, cell in zip((1.2, 1.43, 1.74), line, strict=True):
            axis.text(column, row, cell, **place)
    if len(explained.weights) > len(order):
        axis.set_xlabel(f"weight, the strongest {len(order)} of {len(explained.weights)}", fontsize=9)
    else:
        axis.set_xlabel("weight", fontsize=9)
