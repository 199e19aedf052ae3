"""The flying-pixel filter: what floats between two surfaces goes, surfaces stay."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.flying import forget_flying
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.flying_check import counts, table, total
from dkn_ros.synthetic.scene import Scene

HEIGHT, WIDTH = 40, 60
THRESHOLD = 0.03


def step() -> NDArray[np.float32]:
    """A near surface at the left, a far one at the right."""
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    depth[:, WIDTH // 2 :] = 2.0
    return depth


def removed(depth: NDArray[np.float32], threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    kept = depth.copy()
    forget_flying(kept, threshold, Buffers())
    gone = np.isnan(kept) & ~np.isnan(depth)
    np.testing.assert_array_equal(kept[~gone], depth[~gone])  # what stays is not changed
    return gone


def test_what_floats_between_two_surfaces_goes() -> None:
    depth = step()
    depth[5, 30], depth[20, 30], depth[21, 29] = 1.5, 1.3, 1.8
    gone = removed(depth)
    assert np.argwhere(gone).tolist() == [[5, 30], [20, 30], [21, 29]]


def test_a_seam_of_them_goes() -> None:
    """As an averaging sensor makes it: one column between both, at another depth in every row."""
    depth = step()
    depth[:, WIDTH // 2] = np.linspace(1.15, 1.85, HEIGHT)
    gone = removed(depth)
    assert gone[:, WIDTH // 2].mean() > 0.8
    assert gone.sum() == gone[:, WIDTH // 2].sum()


def test_steps_slopes_thin_things_and_noise_stay(rng: np.random.Generator) -> None:
    y, x = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    slope = 1 + 0.012 * x + 0.005 * y
    thin = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    thin[:, 20:22] = 1.0
    thin[10, 30:50] = 1.2
    noisy = (2 + 0.01 * rng.standard_normal((HEIGHT, WIDTH))).astype(np.float32)
    for depth in (step(), slope.astype(np.float32), thin, noisy):
        assert not removed(depth).any()


def test_what_sticks_out_alone_stays() -> None:
    """With something behind it, but nothing before it, a pixel may be the tip of a thing."""
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[10, 10], depth[20, 20] = 1.0, 3.0
    assert not removed(depth).any()


def test_nothing_at_a_threshold_of_zero_and_in_empty_images() -> None:
    depth = step()
    depth[5, 30] = 1.5
    assert not removed(depth, 0.0).any()
    assert not removed(np.full((3, 4), np.nan, np.float32)).any()
    assert not removed(np.ones((1, 1), np.float32)).any()


def test_what_is_removed_does_not_decide_about_its_neighbours() -> None:
    """In place, but as if all pixels were judged at once: mirrored input gives the mirrored result."""
    rng = np.random.default_rng(3)
    depth = np.where(rng.random((HEIGHT, WIDTH)) < 0.5, 1, 2).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 1.5
    gone = removed(depth)
    assert gone.any()
    np.testing.assert_array_equal(removed(np.ascontiguousarray(depth[::-1, ::-1]))[::-1, ::-1], gone)


@pytest.mark.parametrize(
    "camera",
    [
        dataclasses.replace(KINECT, factor=4),
        CameraModel(factor=4, method="area"),
        CameraModel(factor=2, tof_noise=0.003, flying_pixels=0.7),
    ],
    ids=["kinect 4x", "means 4x", "time of flight 2x"],
)
def test_on_rendered_rooms_wrong_pixels_go_and_right_ones_stay(camera: CameraModel) -> None:
    """Wrong is off by more than 5 %, right within 2 %; rooms that the threshold was not chosen with."""
    counts = np.zeros(4)
    plain = Pipeline(PipelineConfig(device="cpu", threads=1))
    for seed in (9100, 9101):
        frame = Scene(seed).frame(640, 480)
        low = degrade(frame.depth, camera, np.random.default_rng(seed), frame.rgb)
        depth = plain.enhance(frame.rgb, low).depth
        error = np.abs(depth - frame.depth) / frame.depth
        gone = removed(depth)
        wrong, right = error > 0.05, error <= 0.02
        counts += (gone & wrong).sum(), wrong.sum(), (gone & right).sum(), right.sum()
    print(f"wrong ones removed: {counts[0] / counts[1]:.1%}, right ones lost: {counts[2] / counts[3]:.3%}")
    assert counts[0] > 0.35 * counts[1]
    assert counts[2] < 0.005 * counts[3]


def test_the_check_counts_what_goes() -> None:
    """One pixel between a box and a wall goes; one beside them, wrong as it is, lies on a surface of its own kind."""
    truth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    truth[:, : WIDTH // 2] = 1.0
    depth = truth.copy()
    depth[5, WIDTH // 2] = 1.5
    depth[6:10, -4:] = 2.2
    depth[-1, -1] = np.nan
    gone = removed(depth.copy())
    assert gone[5, WIDTH // 2] and gone.sum() == 1
    found = counts(depth, truth, THRESHOLD, Buffers())
    size = depth.size
    np.testing.assert_array_equal(found, [[17, 1], [size - 18, 0], [size - 1, 1]])
    last = table({0.03: found}).splitlines()[-1].split()
    assert last[:6] == ["0.03", "6", "%", "0.00", "%", f"{100 / (size - 1):.1f}"]


def test_the_check_looks_at_every_camera(small_weights: Path) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", threads=1))
    found = total(pipeline, (2000,), (CameraModel(4, "area"), CameraModel(2, "area")), 64, 48)
    assert set(found) == {0.02, 0.03, 0.05}
    for sums in found.values():
        assert sums[2, 0] == 2 * 64 * 48 and (sums[:, 1] <= sums[:, 0]).all()


def test_the_pipeline_applies_it_last_and_only_if_asked() -> None:
    frame = Scene(9102).frame(320, 240)
    low = degrade(frame.depth, CameraModel(factor=4, method="area"), np.random.default_rng(0))
    config = PipelineConfig(device="cpu", precision="float32", threads=1)
    whole = Pipeline(config).enhance(frame.rgb, low).depth
    asked = dataclasses.replace(config, flying_pixels=THRESHOLD)
    filtered = Pipeline(asked).enhance(frame.rgb, low).depth
    assert np.isnan(filtered).sum() > np.isnan(whole).sum()
    expected = whole.copy()
    forget_flying(expected, THRESHOLD, Buffers())
    np.testing.assert_array_equal(filtered, expected)


def test_it_makes_no_new_arrays() -> None:
    depth, buffers = np.ones((240, 320), np.float32), Buffers()
    forget_flying(depth, THRESHOLD, buffers)
    tracemalloc.start()
    try:
        forget_flying(depth, THRESHOLD, buffers)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()
