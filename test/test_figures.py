"""The pictures: written, of a fit size, not blank, whatever is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros import figures

pytestmark = pytest.mark.filterwarnings("error")

HEIGHT, WIDTH, FACTOR = 48, 64, 4


def read(path: Path) -> NDArray[np.uint8]:
    """A picture for a screen: it is one, wider than high, and shows something."""
    image = np.asarray(cv2.imread(str(path)), np.uint8)
    height, width = image.shape[:2]
    assert 300 <= height < width <= 2000
    assert np.std(image) > 5
    return image


def scene() -> dict[str, Any]:
    y, x = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    truth = 1 + x / WIDTH
    truth[:8, :8] = np.nan
    low = truth[2::FACTOR, 2::FACTOR].copy()
    low[5, 5] = np.nan
    bicubic = 1 + x / WIDTH + np.float32(0.1) * np.sin(y)
    output = 1 + x / WIDTH
    output[:, -6:] = np.nan
    rgb = np.stack([x * 3, y * 4, x + y], axis=2).astype(np.uint8)
    return {"rgb": rgb, "low": low, "bicubic": bicubic, "output": output, "truth": truth}


@pytest.mark.parametrize("change", [{}, {"rgb": None}, {"rgb": np.zeros((HEIGHT, WIDTH), np.uint8)}])
def test_before_after(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "before_after.png"
    figures.before_after(**(scene() | change), path=path, factor=FACTOR)
    read(path)


def test_before_after_shows_the_output(tmp_path: Path) -> None:
    """Two outputs give two pictures, and the same one the same picture."""
    pictures = []
    for name, shift in (("a", 0), ("b", 0), ("c", 0.3)):
        given = scene()
        given["output"] += np.float32(shift)
        figures.before_after(**given, path=tmp_path / f"{name}.png", factor=FACTOR)
        pictures.append(read(tmp_path / f"{name}.png"))
    first, same, other = pictures
    np.testing.assert_array_equal(first, same)
    assert first.shape == other.shape
    assert (first != other).any()


def test_comparison_shows_truth_and_output(tmp_path: Path) -> None:
    """Each image and the title count, whatever is unknown in it."""
    pictures = []
    for change in ("", "truth", "output", "bicubic", "low", "title"):
        given = scene() | {"title": "clean 4x, frame 7", "method": "fdkn"}
        if change == "title":
            given["title"] = "other"
        elif change:
            given[change] = given[change] + np.float32(0.2) * (np.arange(given[change].shape[1]) % 3 == 0)
        figures.comparison(**given, path=tmp_path / "picture.png")
        pictures.append(read(tmp_path / "picture.png"))
    for other in pictures[1:]:
        assert other.shape == pictures[0].shape
        assert (other != pictures[0]).any()


@pytest.mark.parametrize("frames", [1, 2, 300])
def test_latency(tmp_path: Path, rng: np.random.Generator, frames: int) -> None:
    path = tmp_path / "latency.png"
    figures.latency([(i / 30, 20 + 5 * rng.random()) for i in range(frames)], path)
    read(path)


@pytest.mark.parametrize("rows", [1, 20])
def test_loss_curve(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "loss.png"
    history = [{"step": 100 * i, "loss": 0.1 / (1 + i), "clean_8": 1 / (1 + i), "kinect_4": 0.9} for i in range(rows)]
    figures.loss_curve(history, path)
    read(path)
