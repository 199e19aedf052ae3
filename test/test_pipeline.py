"""The pipeline: a colour image and a depth image in, depth on the colour grid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray

from dkn_ros.calibration import Calibration
from dkn_ros.config import PipelineConfig
from dkn_ros.device import Cuda
from dkn_ros.pipeline import Enhanced, Pipeline
from dkn_ros.preprocess import target_image
from dkn_ros.registration import Registration
from dkn_ros.weights import WeightsError, save_weights

FloatImage = NDArray[np.float32]
MakePipeline = Callable[..., Pipeline]

STAGES = ["preprocess", "align", "fill", "guidance", "target", "average", "postprocess"]
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def make(small_weights: Path) -> MakePipeline:
    """Makes a pipeline on one CPU thread in float32, with other settings where they are given."""

    def make_pipeline(**settings: Any) -> Pipeline:
        config = {"weights": str(small_weights), "device": "cpu", "precision": "float32", "threads": 1, **settings}
        return Pipeline(PipelineConfig(**config))

    return make_pipeline


@pytest.fixture
def pipeline(make: MakePipeline) -> Pipeline:
    return make()


@pytest.fixture
def identity(make: MakePipeline, identity_weights: Path) -> Pipeline:
    """Its network returns its input, so what comes out shows what the rest does."""
    return make(weights=str(identity_weights))


def colour(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(width: int = 16, height: int = 12) -> FloatImage:
    """Metres between 1 and 3, with an edge."""
    y, x = np.mgrid[:height, :width]
    depth = 2 + np.sin(x / 5) * 0.5 + np.cos(y / 4) * 0.3
    depth[:, : width // 3] -= 0.2
    return depth.astype(np.float32)


def assert_same(result: Enhanced, wanted: Enhanced) -> None:
    np.testing.assert_array_equal(result.depth, wanted.depth)
    np.testing.assert_array_equal(result.valid, wanted.valid)


def assert_sound(result: Enhanced, width: int, height: int) -> None:
    """What holds for every result."""
    assert result.depth.shape == result.valid.shape == (height, width)
    assert result.depth.dtype == np.float32 and result.valid.dtype == np.bool_
    np.testing.assert_array_equal(result.valid, np.isfinite(result.depth))
    assert not np.isinf(result.depth).any() and not (result.depth <= 0).any()


@pytest.mark.parametrize(
    ("size", "depth_size"),
    [
        ((64, 48), (16, 12)),
        ((64, 48), (64, 48)),
        ((63, 47), (16, 12)),
        ((45, 38), (18, 15)),
        ((71, 33), (20, 30)),
        ((32, 24), (50, 40)),
        ((5, 3), (2, 2)),
        ((1, 1), (1, 1)),
        ((40, 30), (1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_any_size_to_any_size(
    pipeline: Pipeline, size: tuple[int, int], depth_size: tuple[int, int], dtype: type
) -> None:
    depth = smooth(*depth_size)
    result = pipeline.enhance(colour(*size), depth if dtype == np.float32 else np.rint(1000 * depth).astype(np.uint16))
    assert_sound(result, *size)
    assert result.valid.all()
    assert result.depth.min() >= depth.min() - 0.001 and result.depth.max() <= depth.max() + 0.001


def test_the_network_works_on_the_depth(pipeline: Pipeline, identity: Pipeline) -> None:
    rgb, depth = colour(), smooth()
    result, untouched = pipeline.enhance(rgb, depth).depth, identity.enhance(rgb, depth).depth
    assert np.abs(result - untouched).mean() > 0.005
    assert np.abs(pipeline.enhance(255 - rgb, depth).depth - result).mean() > 1e-4


@pytest.mark.parametrize("told", [{"validity": True}, {"traits": True}, {"validity": True, "traits": True}], ids=str)
def test_pipeline_gives_what_its_network_gives(
    make: MakePipeline, make_model: MakeModel, tmp_path: Path, told: dict[str, bool]
) -> None:
    """The pipeline calls the network's parts; together they are its `forward`."""
    options = {"n1": 8, "n2": 8, "rgb": True, **told}
    model = make_model(rgb=True, **told)
    save_weights(model, tmp_path / "w.safetensors", model="fdkn", options=options)
    rgb, depth = colour(30, 22), smooth(15, 11)
    depth[3:9, 4:8] = np.nan
    pipeline = make(weights=str(tmp_path / "w.safetensors"), fill_distance=100)
    result = pipeline.enhance(rgb, depth)
    low, high = np.nanmin(depth), np.nanmax(depth)
    ready = target_image(depth, 30, 22, pipeline.guess(rgb, depth))
    with torch.no_grad():
        guidance = torch.from_numpy(rgb.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        target, validity = (torch.from_numpy(image)[None, None] for image in (ready.image, ready.validity))
        traits = torch.from_numpy(ready.traits.encoded())[None]
        wanted = model(guidance, target, validity, traits)[0, 0].clamp(0, 1).numpy() * (high - low) + low
    np.testing.assert_allclose(result.depth, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (45, 37), (16, 12)], ids=str)
def test_a_ramp_lands_on_the_colour_grid_without_a_shift(identity: Pipeline, size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.broadcast_to(1000 + 1600 * (np.arange(16) + 0.5) / 16, (12, 16)).astype(np.uint16)
    result = identity.enhance(colour(*size), ramp).depth
    wanted = np.broadcast_to(1 + 1.6 * (np.arange(width) + 0.5) / width, (height, width))
    inside = np.s_[:, width // 4 : -width // 4]
    np.testing.assert_allclose(result[inside], wanted[inside], rtol=0, atol=2e-3)


def test_millimetres_and_metres_give_the_same(pipeline: Pipeline) -> None:
    millimetres = np.rint(1000 * smooth()).astype(np.uint16)
    millimetres[4:6, 5:9] = 0
    metres = millimetres.astype(np.float32) / np.float32(1000)
    invalid = metres.copy()
    invalid[metres == 0] = np.nan
    wanted = pipeline.enhance(colour(), millimetres)
    assert_same(pipeline.enhance(colour(), metres), wanted)
    assert_same(pipeline.enhance(colour(), invalid), wanted)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_every_kind_of_invalid_depth_is_the_same_hole(pipeline: Pipeline, value: float) -> None:
    depth = smooth()
    depth[3:6, 4:9] = np.nan
    wanted = pipeline.enhance(colour(), depth)
    depth[3:6, 4:9] = value
    assert_same(pipeline.enhance(colour(), depth), wanted)
    assert wanted.valid.all()  # smaller than fill_distance


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_frame_without_depth_gives_a_frame_without_depth(pipeline: Pipeline, dtype: type) -> None:
    result = pipeline.enhance(colour(), np.zeros((12, 16), dtype))
    assert_sound(result, WIDTH, HEIGHT)
    assert np.isnan(result.depth).all()
    assert list(result.timings) == ["preprocess", "whole"]


def test_one_measured_pixel_is_enough(pipeline: Pipeline) -> None:
    depth = np.zeros((12, 16), np.uint16)
    depth[6, 8] = 1500
    result = pipeline.enhance(colour(), depth)
    assert_sound(result, WIDTH, HEIGHT)
    assert result.valid[26, 34] and not result.valid[0, 0]
    assert (result.depth[result.valid] == np.float32(1.5)).all()


@pytest.mark.parametrize("fill_distance", [0.0, 4.0, 8.0, 1000.0])
def test_holes_are_filled_as_far_as_fill_distance(make: MakePipeline, fill_distance: float) -> None:
    depth = smooth()
    depth[:, 8:] = np.nan  # from column 32 of the colour image
    result = make(fill_distance=fill_distance).enhance(colour(), depth)
    assert_sound(result, WIDTH, HEIGHT)
    column = np.arange(WIDTH) + 0.5 - 32
    assert result.valid[:, column <= fill_distance - 2].all()
    assert not result.valid[:, column > fill_distance + 2].any()


def validity_weights(make_model: MakeModel, tmp_path: Path, **card: Any) -> str:
    """Small random weights of a network that is told where depth was measured."""
    path = tmp_path / "told.safetensors"
    options = {"n1": 8, "n2": 8, "validity": True}
    save_weights(make_model(**options), path, model="fdkn", options=options, **card)
    return str(path)


def test_no_depth_is_invented_beyond_the_fill_distance(
    make: MakePipeline, make_model: MakeModel, tmp_path: Path
) -> None:
    """Whatever the network says, and however often it looks: farther from measured depth there is nothing."""
    depth = smooth(32, 24)
    depth[4:20, 6:28] = np.nan
    depth[12, 15] = 2.0
    given = np.isfinite(depth)
    far = cv2.distanceTransform((~given).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).repeat(4, 0).repeat(4, 1)
    weights = validity_weights(make_model, tmp_path)
    for reach in (0.0, 6.0, 17.0):
        result = make(weights=weights, fill_distance=reach).enhance(colour(128, 96), depth)
        assert_sound(result, 128, 96)
        assert not result.valid[4 * far > reach + 6].any()
        assert result.valid[4 * far < reach - 6].all() and result.valid[far == 0].mean() > 0.9


def test_holes_are_filled_with_what_the_network_finds_on_the_small_grid(
    make: MakePipeline, make_model: MakeModel, tmp_path: Path
) -> None:
    rgb, depth = colour(), smooth()
    filled = make(weights=validity_weights(make_model, tmp_path))
    blank = make(weights=validity_weights(make_model, tmp_path))
    blank.guess = lambda rgb, metres: None  # type: ignore[method-assign]
    assert_same(filled.enhance(rgb, depth), blank.enhance(rgb, depth))  # nothing to fill
    depth[4:8, 5:10] = np.nan
    hole = np.isnan(depth).repeat(4, 0).repeat(4, 1)
    changed = filled.enhance(rgb, depth).depth != blank.enhance(rgb, depth).depth
    assert changed[hole].mean() > 0.9
    far = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > 40
    assert not changed[far].any()


@pytest.mark.parametrize("ratio", [2.0, 8.0])
def test_weights_work_at_the_ratio_that_their_card_names(identity: Pipeline, ratio: float) -> None:
    """A ramp comes out where it went in, though the network saw it on another grid than the colour's."""
    identity.card = dataclasses.replace(identity.card, ratios=(ratio, ratio))
    ramp = np.broadcast_to(1 + (np.arange(16) + 0.5) / 16, (12, 16)).astype(np.float32)
    guidance, target = identity.prepare(colour(), ramp)
    assert guidance.shape[1:] == target.image.shape == (round(12 * ratio), round(16 * ratio))
    result = identity.enhance(colour(), ramp)
    assert_sound(result, WIDTH, HEIGHT)
    wanted = np.broadcast_to(1 + (np.arange(WIDTH) + 0.5) / WIDTH, (HEIGHT, WIDTH))
    np.testing.assert_allclose(result.depth[:, 8:-8], wanted[:, 8:-8], atol=2e-3)


@pytest.mark.parametrize("unit", ["mm", "disparity", "8 bit"])
def test_units_do_not_matter(pipeline: Pipeline, unit: str) -> None:
    """Metres, millimetres, disparities and 8-bit levels: the same up to scale."""
    rgb = colour()
    levels = np.rint(smooth() * 50).astype(np.float32)  # whole numbers in 8 bit and, 20 mm each, in millimetres
    wanted = pipeline.enhance(rgb, levels / np.float32(50)).depth
    given, scale = {
        "mm": ((20 * levels).astype(np.uint16), 1.0),
        "disparity": (np.float32(43.5 / 50) * levels, 43.5),
        "8 bit": (levels, 50.0),
    }[unit]
    np.testing.assert_allclose(pipeline.enhance(rgb, given).depth / scale, wanted, rtol=2e-4)


def test_depth_outside_of_the_limits_is_a_hole(make: MakePipeline) -> None:
    depth = smooth()
    depth[2:10, :4], depth[2:10, 12:] = 0.5, 7.0
    limited = make(min_depth=0.6, max_depth=5.0).enhance(colour(), depth)
    depth[2:10, :4] = depth[2:10, 12:] = np.nan
    assert_same(limited, make().enhance(colour(), depth))
    assert limited.depth.min() > 0.6 and limited.depth.max() < 5.0


def test_depth_beyond_the_limits_hides_nothing_in_another_camera(make: MakePipeline, rng: np.random.Generator) -> None:
    """What a sensor invents right before its lens would cover the surface behind it once it is registered."""
    k = (60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0)
    camera = Calibration(64, 48, k)
    registration = Registration(camera, camera, np.eye(3), (0.05, 0.0, 0.0))
    depth = (2 + 0.1 * rng.random((48, 64))).astype(np.float32)
    invented = rng.random(depth.shape) < 0.05
    rgb = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pipeline = make(min_depth=0.5, fill_distance=0.0)
    wanted = pipeline.enhance(rgb, np.where(invented, np.float32(np.nan), depth), registration=registration)
    assert_same(pipeline.enhance(rgb, np.where(invented, np.float32(0.1), depth), registration=registration), wanted)
    assert wanted.valid.mean() > 0.7


@pytest.mark.parametrize("holes", [False, True])
def test_result_lies_in_the_range_that_was_measured(pipeline: Pipeline, rng: np.random.Generator, holes: bool) -> None:
    depth = rng.uniform(0.8, 6, (12, 16)).astype(np.float32)
    if holes:
        depth[rng.random(depth.shape) < 0.3] = np.nan
    result = pipeline.enhance(colour(), depth)
    assert_sound(result, WIDTH, HEIGHT)
    assert np.nanmin(result.depth) >= np.nanmin(depth) and np.nanmax(result.depth) <= np.nanmax(depth) + 1e-6


@pytest.mark.parametrize("holes", [False, True])
def test_a_flat_wall_stays_flat(pipeline: Pipeline, holes: bool) -> None:
    depth = np.full((12, 16), 1234, np.uint16)
    if holes:
        depth[3:6, 2:9] = 0
    result = pipeline.enhance(colour(), depth)
    assert (result.depth == np.float32(1.234)).all()


def test_result_scales_with_the_depth(pipeline: Pipeline) -> None:
    rgb, depth = colour(), smooth()
    result = pipeline.enhance(rgb, depth).depth
    np.testing.assert_array_equal(pipeline.enhance(rgb, 2 * depth).depth, 2 * result)
    np.testing.assert_allclose(pipeline.enhance(rgb, 3.7 * depth + 1.1).depth, 3.7 * result + 1.1, rtol=0, atol=1e-4)


def test_grey_guidance_is_taken(pipeline: Pipeline) -> None:
    grey = colour()[..., 1]
    result = pipeline.enhance(grey, smooth())
    as_colour = pipeline.enhance(np.repeat(grey[..., None], 3, axis=2), smooth())
    np.testing.assert_allclose(result.depth, as_colour.depth, rtol=0, atol=1e-4)


def test_timings_hold_every_stage_and_the_whole(pipeline: Pipeline) -> None:
    timings = pipeline.enhance(colour(), smooth()).timings
    assert list(timings) == [*STAGES, "whole"]
    assert all(value >= 0 for value in timings.values())
    assert sum(timings[name] for name in STAGES) <= timings["whole"]


@pytest.mark.parametrize(
    ("rgb", "depth", "named"),
    [
        (np.zeros((8, 8, 4), np.uint8), smooth(), r"rgb is uint8 of shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), smooth(), r"rgb is float32 of shape \(8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), smooth(), r"rgb is uint8 of shape \(0, 8, 3\)"),
        (colour(8, 8), np.ones((4, 4), np.float64), r"depth is float64 of shape \(4, 4\)"),
        (colour(8, 8), np.ones((4, 4, 1), np.uint16), r"depth is uint16 of shape \(4, 4, 1\)"),
        (colour(8, 8), np.ones((4, 0), np.uint16), r"depth is uint16 of shape \(4, 0\)"),
        (colour(8, 8), colour(8, 8), r"depth is uint8 of shape \(8, 8, 3\)"),
    ],
    ids=["rgba", "float colour", "no colour", "double", "channels", "no depth", "colour as depth"],
)
def test_refuses_other_images_and_names_what_was_given(
    pipeline: Pipeline, rgb: NDArray, depth: NDArray, named: str
) -> None:
    with pytest.raises(ValueError, match=f"{named}; wanted: HxW"):
        pipeline.enhance(rgb, depth)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1, ::-1],
        lambda image: image[::2, 1::3],
        lambda image: np.asfortranarray(image),
        lambda image: image.swapaxes(0, 1),
        lambda image: image[..., ::-1],
        lambda image: np.pad(image, [(0, 0), (0, 5)] + [(0, 0)] * (image.ndim - 2))[:, :-5],
    ],
    ids=["turned", "strided", "fortran", "transposed", "bgr", "padded rows"],
)
def test_views_count_as_what_they_show(pipeline: Pipeline, view: Callable[[NDArray], NDArray]) -> None:
    for rgb in (colour(), colour()[..., 0]):
        for depth in (smooth(), np.rint(1000 * smooth(64, 48)).astype(np.uint16)):
            shown_rgb, shown_depth = view(rgb), view(depth)
            wanted = pipeline.enhance(np.array(shown_rgb, order="C"), np.array(shown_depth, order="C"))
            assert_same(pipeline.enhance(shown_rgb, shown_depth), wanted)
            assert_same(pipeline.enhance(np.array(shown_rgb, order="C"), shown_depth), wanted)


@pytest.mark.filterwarnings("error")
def test_inputs_are_not_written_to(pipeline: Pipeline) -> None:
    rgb: NDArray[np.uint8]
    for rgb in (colour(), colour()[..., 0]):
        for depth in (smooth(), smooth(64, 48), np.rint(1000 * smooth()).astype(np.uint16)):
            depth[2, 3] = 0
            before = rgb.copy(), depth.copy()
            rgb.flags.writeable = depth.flags.writeable = False
            result = pipeline.enhance(rgb, depth)
            np.testing.assert_array_equal(rgb, before[0])
            np.testing.assert_array_equal(depth, before[1])
            assert not np.shares_memory(result.depth, depth)


def test_the_same_input_gives_the_same_output_whatever_came_between(pipeline: Pipeline) -> None:
    first = pipeline.enhance(colour(), smooth())
    kept = Enhanced(first.depth.copy(), {})
    pipeline.enhance(colour(30, 20), smooth(7, 5))
    pipeline.enhance(255 - colour(), 2 * smooth())
    assert_same(first, kept)  # a result is the caller's: later frames do not write into it
    assert_same(pipeline.enhance(colour(), smooth()), kept)


HOLES: list[list[tuple[slice, slice]]] = [[], [np.s_[3:6, 4:9]], [np.s_[:, 9:]]]
"""None, one that is filled, and one that is too wide for that."""


def with_holes(depth: FloatImage, holes: list[tuple[slice, slice]]) -> FloatImage:
    depth = depth.copy()
    for hole in holes:
        depth[hole] = np.nan
    return depth


@pytest.mark.parametrize("ratios", [(1.0, 16.0), (2.0, 2.0)], ids=["on the colour grid", "on another"])
@pytest.mark.parametrize("holes", HOLES, ids=["whole", "hole", "half"])
def test_the_result_is_written_to_out(
    make: MakePipeline, make_model: MakeModel, tmp_path: Path, ratios: tuple[float, float], holes: list
) -> None:
    pipeline = make(weights=validity_weights(make_model, tmp_path, ratios=ratios), fill_distance=16)
    depth = with_holes(smooth(), holes)
    wanted = pipeline.enhance(colour(), depth)
    assert wanted.valid.all() != (holes == HOLES[2])
    out = np.full((HEIGHT, WIDTH), 7, np.float32)
    result = pipeline.enhance(colour(), depth, out=out)
    assert result.depth is out and not np.shares_memory(wanted.depth, out)
    assert_same(result, wanted)
    nothing = pipeline.enhance(colour(), 0 * depth, out=out)
    assert_same(nothing, Enhanced(np.full_like(out, np.nan), {}))
    assert nothing.blind and not result.blind


@pytest.mark.parametrize(
    ("out", "given"),
    [
        (np.empty((HEIGHT, WIDTH + 1), np.float32), r"float32 of shape \(48, 65\)"),
        (np.empty((WIDTH, HEIGHT), np.float32), r"float32 of shape \(64, 48\)"),
        (np.empty((HEIGHT, WIDTH, 1), np.float32), r"float32 of shape \(48, 64, 1\)"),
        (np.empty((12, 16), np.float32), r"float32 of shape \(12, 16\)"),
        (np.empty((HEIGHT, WIDTH)), r"float64 of shape \(48, 64\)"),
        (np.empty((HEIGHT, WIDTH), ">f4"), r">f4 of shape \(48, 64\)"),
        (np.empty((HEIGHT, WIDTH), np.uint16), r"uint16 of shape \(48, 64\)"),
        (np.empty((HEIGHT, WIDTH), np.float32, order="F"), r"float32 of shape \(48, 64\), not contiguous"),
        (np.empty((HEIGHT, 2 * WIDTH), np.float32)[:, ::2], r"float32 of shape \(48, 64\), not contiguous"),
    ],
    ids=[
        "wide",
        "turned",
        "channels",
        "of the depth's size",
        "double",
        "big-endian",
        "millimetres",
        "fortran",
        "strided",
    ],
)
def test_refuses_an_out_that_does_not_fit_before_it_works(pipeline: Pipeline, out: NDArray, given: str) -> None:
    before = out.tobytes()
    with pytest.raises(ValueError, match=rf"^out is {given}; wanted: C-contiguous float32 of shape \(48, 64\)$"):
        pipeline.enhance(colour(), smooth(), out=out)
    assert out.tobytes() == before


def test_a_result_is_the_callers_own(pipeline: Pipeline) -> None:
    first = pipeline.enhance(colour(), smooth()).depth
    second = pipeline.enhance(colour(), smooth()).depth
    assert not np.shares_memory(first, second)
    second[:] = 0
    assert_same(pipeline.enhance(colour(), smooth()), Enhanced(first, {}))


@pytest.fixture(params=[(1.0, 16.0), (2.0, 2.0)], ids=["on the colour grid", "on another"])
def seeing(request: pytest.FixtureRequest, make: MakePipeline, make_model: MakeModel, tmp_path: Path) -> Pipeline:
    """A pipeline that is told of holes, and works on the colour grid or on one of half the size."""
    return make(weights=validity_weights(make_model, tmp_path, ratios=request.param))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("holes", HOLES, ids=["whole", "hole", "half"])
@pytest.mark.parametrize(
    "rgb", [colour(), colour()[..., ::-1], colour()[..., 1], colour(61, 45)], ids=lambda i: f"{i.shape}"
)
def test_to_look_first_gives_what_enhancing_alone_gives(
    seeing: Pipeline, make: MakePipeline, rgb: NDArray[np.uint8], holes: list, precision: str
) -> None:
    pipeline = make(weights=seeing.config.weights, precision=precision)
    depth = with_holes(smooth(), holes)
    wanted = pipeline.enhance(rgb, depth)
    guidance = pipeline.look(rgb, depth.shape)
    assert guidance.milliseconds > 0
    assert_same(pipeline.enhance(rgb, depth, guidance), wanted)
    guidance = pipeline.look(rgb, depth.shape)
    pipeline.enhance(colour(30, 20), smooth(7, 5))  # as a late frame would between the two
    assert_same(pipeline.enhance(rgb, depth, guidance), wanted)


def test_what_was_seen_is_used(seeing: Pipeline) -> None:
    """Guidance of another image that pretends to be of this one gives the other one's result."""
    rgb, other, depth = colour(), colour() // 100, smooth()  # a small network does not see every difference
    pretending = dataclasses.replace(seeing.look(other, depth.shape), rgb=rgb)
    assert_same(seeing.enhance(rgb, depth, pretending), seeing.enhance(other, depth))
    assert np.abs(seeing.enhance(rgb, depth, pretending).depth - seeing.enhance(rgb, depth).depth).max() > 1e-3


def test_guidance_of_another_image_is_not_used(seeing: Pipeline) -> None:
    rgb, depth = colour(), smooth()
    wanted = seeing.enhance(rgb, depth)
    for other in (rgb // 100, rgb[..., 0] // 100, colour(30, 20) // 100):
        assert_same(seeing.enhance(rgb, depth, seeing.look(other, depth.shape)), wanted)


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (6, 8), (13, 16), (1, 1)], ids=str)
def test_guidance_for_depth_of_another_size_does_no_harm(seeing: Pipeline, size: tuple[int, int]) -> None:
    """It is used where the network works on the same grid all the same, else it looks again."""
    rgb, depth = colour(), smooth()
    assert_same(seeing.enhance(rgb, depth, seeing.look(rgb, size)), seeing.enhance(rgb, depth))


def test_a_network_without_guidance_sees_nothing(make: MakePipeline, make_model: MakeModel, tmp_path: Path) -> None:
    options = {"n1": 8, "n2": 8, "guided": False}
    save_weights(make_model(guided=False), tmp_path / "w.safetensors", model="fdkn", options=options)
    pipeline = make(weights=str(tmp_path / "w.safetensors"))
    wanted = pipeline.enhance(colour(), smooth())
    rgb = 255 - colour()
    guidance = pipeline.look(rgb, (12, 16))
    assert guidance.heads is None
    assert_same(pipeline.enhance(rgb, smooth(), guidance), wanted)


def test_looking_at_what_is_no_colour_image_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"rgb is uint8 of shape \(8, 8, 4\); wanted: HxW"):
        pipeline.look(np.zeros((8, 8, 4), np.uint8), (4, 4))


def test_bfloat16_is_near_float32(make: MakePipeline) -> None:
    rgb, depth = cv2.GaussianBlur(colour(), (0, 0), 2).astype(np.uint8), smooth()
    exact, rounded = (make(precision=p).enhance(rgb, depth).depth for p in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    difference = np.abs(exact - rounded)
    assert 0 < difference.mean() < 0.005 and difference.max() < 0.05  # of a range of 2 m


def test_threads_and_precision_are_those_asked_for(make: MakePipeline) -> None:
    assert make(threads=1).threads == 1 and torch.get_num_threads() == 1
    assert make(precision="bfloat16").precision == torch.bfloat16
    assert make(precision="float32").precision == torch.float32


def test_what_cannot_be_used_is_refused_when_it_is_made(
    make: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dkn_ros.pipeline.cuda_state", lambda: Cuda(False))
    with pytest.raises(ValueError, match="device is 'cuda' but PyTorch finds no CUDA device"):
        make(device="cuda", fallback=False)
    assert make(device="auto").device == torch.device("cpu")
    with pytest.raises(WeightsError, match="no weight file"):
        make(weights=str(tmp_path / "absent.safetensors"))


def test_live_settings_may_change_between_frames(pipeline: Pipeline, make: MakePipeline) -> None:
    pipeline.enhance(colour(), smooth())
    pipeline.config = dataclasses.replace(pipeline.config, max_depth=2.0)
    assert_same(pipeline.enhance(colour(), smooth()), make(max_depth=2.0).enhance(colour(), smooth()))


def test_warm_up_runs_the_whole_pipeline(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    enhance = pipeline.enhance

    def noted(rgb: NDArray[np.uint8], depth: NDArray) -> Enhanced:
        results.append(enhance(rgb, depth))
        return results[-1]

    monkeypatch.setattr(pipeline, "enhance", noted)
    assert pipeline.warm_up(40, 30, 10, 6) > 0
    assert results[0].depth.shape == (30, 40) and list(results[0].timings) == [*STAGES, "whole"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_raw_images_keep_their_scale(identity: Pipeline, dtype: type) -> None:
    whole = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image: NDArray = (np.linspace(-0.2 if whole == 1 else 0, 1, 600).reshape(20, 30) * whole).astype(dtype)
    result = identity.filter_raw(colour(30, 20), image)
    assert result.dtype == np.float32 and result.shape == (20, 30)
    np.testing.assert_allclose(result, image.astype(np.float64) / whole, rtol=0, atol=1e-6)


def test_raw_images_are_filtered(pipeline: Pipeline) -> None:
    image = colour(30, 20)[..., 0]
    assert np.abs(pipeline.filter_raw(colour(30, 20), image) - image / 255).mean() > 0.01


def test_refuses_raw_images_that_do_not_fit(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"raw image is \(20, 31\), rgb \(20, 30, 3\); wanted: the same height"):
        pipeline.filter_raw(colour(30, 20), np.zeros((20, 31), np.float32))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="raw image holds NaN or infinity"):
            pipeline.filter_raw(colour(30, 20), np.full((20, 30), value, np.float32))


def test_strength_applies_a_share_of_the_correction(small_weights: Path, rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (48, 64, 3), np.uint8)
    depth = rng.integers(1000, 3000, (12, 16)).astype(np.uint16)
    whole = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32"))
    half, none = (
        Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32")) for _ in range(2)
    )
    half.card, none.card = (dataclasses.replace(whole.card, strength={4: share}) for share in (0.5, 1e-6))
    start, middle, end = (p.enhance(rgb, depth).depth for p in (none, half, whole))
    assert np.abs(end - start).max() > 0.01
    low, high = depth.min() / 1000 + 1e-4, depth.max() / 1000 - 1e-4
    inside = np.all([(d > low) & (d < high) for d in (start, middle, end)], axis=0)  # the measured range clips the rest
    assert inside.mean() > 0.5
    np.testing.assert_allclose(middle[inside], (start + end)[inside] / 2, atol=1e-4)
