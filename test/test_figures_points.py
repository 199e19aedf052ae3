"""Pictures of point clouds: the same points, from another place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dkn_ros.figures_points import ANGLE, BACKGROUND, before_after_points, seen_from_beside

pytestmark = pytest.mark.filterwarnings("error")

HEIGHT, WIDTH, FOCAL = 121, 161, 150.0
MIDDLE = 2.0
RED, GREEN = (200, 0, 0), (0, 200, 0)


def test_the_point_in_the_middle_stays_and_what_is_nearer_moves() -> None:
    """The eye goes to one side; by the angle and the distance to the middle, so does what is before it in the image."""
    depth = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    centre = HEIGHT // 2, WIDTH // 2
    depth[centre], rgb[centre] = MIDDLE, GREEN
    picture = seen_from_beside(rgb, depth, FOCAL, MIDDLE)
    assert tuple(picture[centre]) == GREEN
    depth[centre], rgb[centre] = 1.0, RED
    picture = seen_from_beside(rgb, depth, FOCAL, MIDDLE)
    (columns,) = np.nonzero((picture == RED).all(axis=2).any(axis=0))
    expected = FOCAL * np.sin(ANGLE) / (2 - np.cos(ANGLE))  # one metre before the point that the eye turns around
    assert abs(abs(columns.mean() - 0.5 - WIDTH // 2) - expected) < 2


def test_near_hides_far_and_where_nothing_is_known_is_background() -> None:
    depth = np.full((HEIGHT, WIDTH), 3.0, np.float32)
    rgb = np.full((HEIGHT, WIDTH, 3), GREEN, np.uint8)
    depth[40:80, 60:100], rgb[40:80, 60:100] = 1.5, RED
    picture = seen_from_beside(rgb, depth, FOCAL, MIDDLE)
    red, green = ((picture == colour).all(axis=2) for colour in (RED, GREEN))
    rows, columns = np.nonzero(red)
    assert not green[rows.min() + 3 : rows.max() - 3, columns.min() + 3 : columns.max() - 3].any()
    assert (red | green | (picture == BACKGROUND).all(axis=2)).all()
    assert (picture == BACKGROUND).all(axis=2).mean() > 0.02  # the box's shadow, and what lies outside the view


def test_the_three_pictures(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depth = np.tile(np.linspace(1, 3, WIDTH, dtype=np.float32), (HEIGHT, 1))
    depth[:9] = np.nan
    before_after_points(rgb, depth[2::5, 2::5], depth, FOCAL, tmp_path / "points.png")
    picture = np.asarray(cv2.imread(str(tmp_path / "points.png")))
    assert picture.shape[1] > 3 * picture.shape[0] > 750
    thirds = np.array_split(picture, 3, axis=1)
    assert all(third.std() > 20 for third in thirds)
