"""The pictures and plots that training, demo and README show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib.figure import Figure


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
