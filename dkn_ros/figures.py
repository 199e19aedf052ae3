"""The pictures and plots that training, demo and README show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib.figure import Figure

FloatImage = NDArray[np.float32]

UNKNOWN = "0.75"  # a grey that neither colour map holds
DEPTH_COLOURS = {"cmap": matplotlib.colormaps["turbo"].with_extremes(bad=UNKNOWN)}
ERROR_COLOURS = {"cmap": matplotlib.colormaps["magma"].with_extremes(bad=UNKNOWN)}


def loss_curve(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training loss and validation ratios over the steps; `history` rows have `step`, `loss` and one key a ratio."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in history]
    left.plot(steps, [row["loss"] for row in history])
    left.set(xlabel="step", ylabel="loss (parts of the depth range)", yscale="log", title="training")
    for name in history[0] if history else ():
        if name not in ("step", "loss"):
            right.plot(steps, [row[name] for row in history], label=name.replace("_", ", "))
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
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    grid = figure.subplots(2, 4, gridspec_kw={"width_ratios": (1, 1, 1, 0.04)})
    axes, bars = grid[:, :3], grid[:, 3]
    near, far = np.nanpercentile(truth, (1, 99))
    errors = [np.abs(image - truth) for image in (bicubic, output)]
    worst = max(0.02, float(np.nanpercentile(errors[0], 98)))
    rmse = [100 * float(np.sqrt(np.nanmean(np.square(e)[np.newaxis, ~np.isnan(errors[1])]))) for e in errors]
    panels = [
        (rgb if rgb is not None else np.ones((*truth.shape, 3)), f"colour, {truth.shape[1]} x {truth.shape[0]}", {}),
        (low, f"input depth, {low.shape[1]} x {low.shape[0]}", DEPTH_COLOURS),
        (bicubic, f"bicubic, {factor}x", DEPTH_COLOURS),
        (output, f"dkn_ros, {factor}x", DEPTH_COLOURS),
        (errors[0], f"error of bicubic, RMSE {rmse[0]:.1f} cm", ERROR_COLOURS),
        (errors[1], f"error of dkn_ros, RMSE {rmse[1]:.1f} cm", ERROR_COLOURS),
    ]
    drawn = {}
    for axis, (image, title, colours) in zip(axes.flat, panels, strict=True):
        limits = {}
        if colours:
            limits = dict(zip(("vmin", "vmax"), (near, far) if colours is DEPTH_COLOURS else (0, worst), strict=True))
        # One field of view, whatever the number of pixels.
        field = (0, truth.shape[1], truth.shape[0], 0)
        drawn[id(colours)] = axis.imshow(image, interpolation="nearest", extent=field, **colours, **limits)
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.colorbar(drawn[id(DEPTH_COLOURS)], cax=bars[0], label="depth, m")
    figure.colorbar(drawn[id(ERROR_COLOURS)], cax=bars[1], label="absolute error, m")
    figure.savefig(path, dpi=100)


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
