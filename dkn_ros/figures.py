"""The pictures and plots that training, demo and README show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib.figure import Figure

FloatImage = NDArray[np.float32]

UNKNOWN = "0.75"  # a grey that neither colour map holds
DEPTH_COLOURS = {"cmap": matplotlib.colormaps["turbo"].with_extremes(bad=UNKNOWN)}
ERROR_COLOURS = {"cmap": matplotlib.colormaps["magma"].with_extremes(bad=UNKNOWN)}
CHANGE_COLOURS = {"cmap": matplotlib.colormaps["bwr"].with_extremes(bad=UNKNOWN)}
Panels = Sequence[tuple[NDArray, str, dict[str, Any]]]
"""Image, title, and one of the above for images of one channel in metres."""


def loss_curve(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training loss and validation ratios over the steps; `history` rows have `step`, `loss` and one key a ratio.

    `living`, the share of the channels that fire at all, may be among them.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in history]
    left.plot(steps, [row["loss"] for row in history])
    left.set(xlabel="step", ylabel="loss (parts of the depth range)", yscale="log", title="training")
    for name in history[0] if history else ():
        if name not in ("step", "loss"):
            label, style = ("living channels", "k:") if name == "living" else (name.replace("_", ", "), "-")
            right.plot(steps, [row[name] for row in history], style, label=label)
    right.axhline(1.0, color="grey", linewidth=0.8)
    right.set(xlabel="step", ylabel="RMSE / RMSE of bicubic", title="unseen scenes")
    right.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def before_after(
    rgb: NDArray[np.uint8] | None,
    low: FloatImage,
    bicubic: FloatImage,
    output: FloatImage,
    truth: FloatImage,
    path: Path,
    factor: int,
) -> None:
    """Colour, input depth, bicubic, output and the errors of the last two, with one bar for depth and one for error.

    low: hxw, the others HxW; metres with NaN, which is drawn grey.  rgb may be missing.
    """
    figure, axes, bars = _sheet(3)
    errors = [np.abs(image - truth) for image in (bicubic, output)]
    rmse = [100 * float(np.sqrt(np.nanmean(np.square(e)[np.newaxis, ~np.isnan(errors[1])]))) for e in errors]
    panels = [
        (rgb if rgb is not None else np.ones((*truth.shape, 3)), f"colour, {truth.shape[1]} x {truth.shape[0]}", {}),
        (low, f"input depth, {low.shape[1]} x {low.shape[0]}", DEPTH_COLOURS),
        (bicubic, f"bicubic, {factor}x", DEPTH_COLOURS),
        (output, f"dkn_ros, {factor}x", DEPTH_COLOURS),
        (errors[0], f"error of bicubic, RMSE {rmse[0]:.1f} cm", ERROR_COLOURS),
        (errors[1], f"error of dkn_ros, RMSE {rmse[1]:.1f} cm", ERROR_COLOURS),
    ]
    _draw(figure, axes, bars, panels, truth, errors[0])
    figure.savefig(path, dpi=100)


def comparison(
    rgb: NDArray[np.uint8],
    low: FloatImage,
    bicubic: FloatImage,
    output: FloatImage,
    truth: FloatImage,
    path: Path,
    title: str,
    method: str,
) -> None:
    """All that explains an error: what `before_after` shows, the truth, and where the output is better or worse.

    low: hxw, the others HxW; metres with NaN, which is drawn grey.  method: what made `output`.
    """
    figure, axes, bars = _sheet(4)
    errors = [np.abs(image - truth) for image in (bicubic, output)]
    panels = [
        (rgb, f"colour, {truth.shape[1]} x {truth.shape[0]}", {}),
        (low, f"input depth, {low.shape[1]} x {low.shape[0]}", DEPTH_COLOURS),
        (bicubic, "bicubic", DEPTH_COLOURS),
        (output, method, DEPTH_COLOURS),
        (errors[1] - errors[0], f"blue: {method} better, red: bicubic better", CHANGE_COLOURS),
        (truth, "truth", DEPTH_COLOURS),
        (errors[0], "error of bicubic", ERROR_COLOURS),
        (errors[1], f"error of {method}", ERROR_COLOURS),
    ]
    _draw(figure, axes, bars, panels, truth, errors[0])
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def _sheet(columns: int) -> tuple[Figure, NDArray, NDArray]:
    """A figure, its axes in two rows of panels, and those of the two colour bars."""
    figure = Figure(figsize=(4.3 * columns, 6.6), layout="constrained")
    grid = figure.subplots(2, columns + 1, gridspec_kw={"width_ratios": (*[1] * columns, 0.04)})
    return figure, grid[:, :columns], grid[:, columns]


def _draw(figure: Figure, axes: NDArray, bars: NDArray, panels: Panels, truth: FloatImage, error: FloatImage) -> None:
    """Fill the panels: one scale for all depths, that of the truth, and one for all errors, that of `error`."""
    near, far = np.nanpercentile(truth, (1, 99))
    worst = max(0.02, float(np.nanpercentile(error, 98)))
    limits = {id(DEPTH_COLOURS): (near, far), id(ERROR_COLOURS): (0, worst), id(CHANGE_COLOURS): (-worst, worst)}
    drawn = {}
    for axis, (image, title, colours) in zip(axes.flat, panels, strict=True):
        low, high = limits.get(id(colours), (None, None))
        # One field of view, whatever the number of pixels.
        field = (0, truth.shape[1], truth.shape[0], 0)
        drawn[id(colours)] = axis.imshow(image, interpolation="nearest", extent=field, vmin=low, vmax=high, **colours)
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.colorbar(drawn[id(DEPTH_COLOURS)], cax=bars[0], label="depth, m")
    figure.colorbar(drawn[id(ERROR_COLOURS)], cax=bars[1], label="absolute error, m")


def latency(received: Sequence[tuple[float, float]], path: Path) -> None:
    """Latency over time; `received` has seconds and milliseconds of every output."""
    seconds, milliseconds = np.array(received).T
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.plot(seconds, milliseconds, ".", markersize=4)
    for name, share, style in (("p50", 50, "-"), ("p95", 95, "--"), ("p99", 99, ":")):
        value = float(np.percentile(milliseconds, share))
        axis.axhline(value, color="black", linestyle=style, linewidth=0.8, label=f"{name}: {value:.0f} ms")
    axis.set(xlabel="stamp of the frame, s", ylabel="stamp to receipt, ms", title="latency of depth/upsampled")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper right", fontsize="small")
    figure.savefig(path, dpi=110)
