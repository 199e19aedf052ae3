"""The resolution that depth really has: found, taken back, and worth it."""

from __future__ import annotations

import numpy as np
import pytest
from misregistered import NOTHING, boxes
from numpy.typing import NDArray

from dkn_ros.resolution import Form, Resolution, covering, form_of, pooled
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade, lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.synthetic.sensor import registered

FloatImage = NDArray[np.float32]


@pytest.fixture(scope="module")
def truth() -> FloatImage:
    return Scene(3).frame(320, 240).depth


def noisy(depth: FloatImage, rng: np.random.Generator) -> FloatImage:
    """With the noise and the millimetres of a camera, and holes."""
    made = np.rint(1000 * (depth + 0.002 * rng.standard_normal(depth.shape))) / 1000
    made[rng.random(depth.shape) < 0.02] = np.nan
    made[: depth.shape[0] // 5, : depth.shape[1] // 6] = np.nan
    return made.astype(np.float32)


@pytest.mark.parametrize("form", ["replicate", "sparse"])
@pytest.mark.parametrize("size", [(160, 120), (80, 60), (40, 30), (171, 188), (213, 160), (107, 112)])
def test_the_form_and_the_resolution_are_found(
    truth: FloatImage, form: str, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """At whole ratios and others, also where they differ between the axes, with noise and holes."""
    width, height = size
    low = noisy(truth[np.ix_(*(np.arange(n) * m // n for n, m in ((height, 240), (width, 320))))], rng)
    full = registered(low, 320, 240, form)
    found = form_of(full)
    assert found is not None
    assert found.name == {"replicate": "replicated", "sparse": "sparse"}[form]
    assert found.width == pytest.approx(width, abs=max(1, 0.01 * width))
    assert found.height == pytest.approx(height, abs=max(1, 0.01 * height))
    if (320 % width, 240 % height) == (0, 0):
        np.testing.assert_allclose(pooled(full, found.width, found.height), low, rtol=1e-6)


def test_sparse_depth_on_no_lattice_is_found_by_its_density(truth: FloatImage, rng: np.random.Generator) -> None:
    """As a driver projects it from another place: each measurement lands within a block, somewhere."""
    full = np.full((240, 320), np.nan, np.float32)
    rows, columns = np.indices((60, 80)) * 4 + rng.integers(0, 4, (2, 60, 80))
    full[rows, columns] = truth[rows, columns]
    full[:80, 100:200] = np.nan
    found = form_of(full)
    assert found is not None and found.name == "sparse"
    assert abs(found.width - 80) <= 4 and abs(found.height - 60) <= 3


@pytest.mark.parametrize("seed", range(14))
def test_sparse_depth_that_was_projected_with_a_parallax_has_one_grid(seed: int) -> None:
    """As depth_image_proc/register does it: rows stay apart, and nearly every column gets some pixel."""
    _, depth = boxes(NOTHING, seed)
    height, width = depth.shape
    low = depth[1::3, 1::3]
    rows, middles = np.mgrid[1:height:3, 1:width:3]
    columns = np.rint(middles - 16 / low).astype(int)
    full = np.full((height, width), np.nan, np.float32)
    seen = (columns >= 0) & (columns < width)
    full[rows[seen], columns[seen]] = low[seen]
    found = form_of(full)
    assert found is not None and found.name == "sparse"
    assert abs(found.width - width / 3) < 0.05 * width / 3 and abs(found.height - height / 3) < 0.05 * height / 3


def test_full_depth_stays_as_it_is(truth: FloatImage, rng: np.random.Generator) -> None:
    """With holes, with speckle, with noise, without, of few steps: all are measurements of every pixel."""
    speckled = truth.copy()
    speckled[rng.random(truth.shape) < 0.3] = np.nan
    flat = np.full((240, 320), 2.0, np.float32)
    boxes = flat.copy()
    boxes[60:120, 80:160] = 1.0
    coarse = (np.rint(truth * 10) / 10).astype(np.float32)
    for depth in (truth, noisy(truth, rng), speckled, degrade(truth, KINECT, rng), flat, boxes, coarse):
        assert form_of(depth) == Form("full", 320, 240)
        assert Resolution().reduced(depth) is depth


def test_an_empty_frame_says_nothing(truth: FloatImage) -> None:
    empty = np.full((240, 320), np.nan, np.float32)
    assert form_of(empty) is None
    sparse = registered(lower(truth, 4, "nearest"), 320, 240, "sparse")
    resolution = Resolution()
    assert resolution.reduced(empty) is empty
    assert resolution.reduced(sparse).shape == (60, 80)
    assert resolution.size((240, 320)) == (60, 80)
    assert resolution.reduced(empty).shape == (60, 80), "the camera is the same"
    resolution.forget()
    assert resolution.reduced(empty) is empty, "the camera is another"
    assert np.isnan(resolution.reduced(empty)).all()


def test_the_next_image_of_the_same_size_may_be_of_another_camera(truth: FloatImage) -> None:
    resolution = Resolution()
    replicated = registered(lower(truth, 4, "nearest"), 320, 240, "replicate")
    for _ in range(2):
        assert resolution.reduced(replicated).shape == (60, 80)
        assert resolution.reduced(truth) is truth


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (7, 5), (40, 11)])
def test_small_images_are_left_alone(shape: tuple[int, int]) -> None:
    depth = np.full(shape, 1.0, np.float32)
    assert form_of(depth) == Form("full", shape[1], shape[0])


def test_the_sixty_four_rows_that_have_no_depth(rng: np.random.Generator) -> None:
    """1280 x 1024 of which 640 x 480 measurements cover the first 960 rows, at a quarter of the size."""
    low = noisy(Scene(4).frame(160, 120).depth, rng)
    full = np.full((256, 320), np.nan, np.float32)
    full[:240] = registered(low, 320, 240, "replicate")
    assert form_of(full) == Form("replicated", 160, 128)
    back = Resolution().reduced(full)
    np.testing.assert_allclose(back[:120], low, rtol=1e-6)
    assert np.isnan(back[120:]).all()
    # The same depth, sent in its own size, lands in the same place.
    np.testing.assert_array_equal(covering(low, (256, 320)), back)


def test_what_depth_of_another_shape_covers(rng: np.random.Generator) -> None:
    vga = rng.uniform(1, 2, (48, 64)).astype(np.float32)
    assert covering(vga, (96, 128)) is vga
    assert covering(vga, (90, 160)) is vga, "wider than the depth: another camera, which covers all for all we know"
    assert covering(vga, (1024, 1280), "all") is vga
    assert covering(vga, (1024, 1280)).shape == (51, 64)
    assert covering(vga, (128, 128), "top").shape == (64, 64)
    assert covering(vga, (64, 128), "top") is vga, "colour is wider: the whole width already has more rows"
    with pytest.raises(ValueError, match=r"depth_covers is 'middle'; wanted: auto, all, top"):
        covering(vga, (96, 128), "middle")


def test_pooling_keeps_to_one_surface() -> None:
    depth = np.array([[1.0, 1.01, 3.0], [1.0, 1.02, 3.0], [np.nan, 3.0, 3.0]], np.float32)
    assert pooled(depth, 1, 1)[0, 0] == pytest.approx((1 + 1 + 1.01 + 1.02) / 4)
    depth[1, 1] = np.nan
    depth[0, 1] = 3.0
    assert pooled(depth, 1, 1)[0, 0] == pytest.approx(3.0)
    assert np.isnan(pooled(np.full((3, 3), np.nan, np.float32), 1, 1)).all()


@pytest.mark.parametrize("size", [(5, 3), (7, 5), (1, 1), (9, 8)])
def test_pooling_to_any_size(size: tuple[int, int], rng: np.random.Generator) -> None:
    width, height = size
    depth = rng.uniform(1, 1.001, (5, 7)).astype(np.float32)
    found = pooled(depth, width, height)
    assert found.shape == (height, width) and np.isfinite(found).all()


def test_a_ratio_that_is_given() -> None:
    depth = np.ones((30, 45), np.float32)
    assert Resolution("2.5").reduced(depth).shape == (12, 18)
    assert Resolution("1").reduced(depth) is depth
    assert Resolution("full").reduced(np.repeat(depth, 2, axis=1)).shape == (30, 90)


@pytest.mark.parametrize("setting", ["half", "", "0", "0.5", "17", "nan", "-2"])
def test_what_is_no_resolution_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"depth_resolution is .*; wanted: auto, full or a ratio from 1 to 16"):
        Resolution(setting)


@pytest.mark.parametrize("form", ["replicate", "sparse"])
def test_it_is_better_than_taking_every_pixel_for_a_measurement(form: str) -> None:
    """The shipped network on rendered scenes, 4x: RMSE where both know the depth."""
    from dkn_ros.config import PipelineConfig
    from dkn_ros.metrics import rmse
    from dkn_ros.pipeline import Pipeline

    errors: dict[str, list[float]] = {"auto": [], "full": []}
    pipelines = {name: Pipeline(PipelineConfig(device="cpu", depth_resolution=name)) for name in errors}
    for seed in (11, 12):
        frame = Scene(seed).frame(320, 240)
        camera = CameraModel(factor=4, registered=form)
        depth = degrade(frame.depth, camera, np.random.default_rng(seed))
        found = {name: pipeline.enhance(frame.rgb, depth).depth.copy() for name, pipeline in pipelines.items()}
        known = np.logical_and.reduce([np.isfinite(depth) for depth in found.values()])
        assert known.mean() > 0.9
        for name in errors:
            errors[name].append(rmse(found[name], frame.depth, where=known))
    print(form, errors)
    assert np.mean(errors["auto"]) < 0.95 * np.mean(errors["full"])
