"""The device's operations on images and depth against the compiled ones of the CPU path, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dkn_ros import preprocess
from dkn_ros.blocks import guidance_blocks, target_blocks
from dkn_ros.buffers import Buffers
from dkn_ros.confidence import confidence
from dkn_ros.depth import to_metres
from dkn_ros.flying import forget_flying
from dkn_ros.gpu import result
from dkn_ros.gpu.depth import AreaPool, Examination, Examined, Metres, TargetGrid, covered
from dkn_ros.gpu.holes import Nearest
from dkn_ros.gpu.images import ColourGrid, blocks_of
from dkn_ros.gpu.resampling import Bicubic
from dkn_ros.gpu.resolution import Pooling, evidence, form_of_evidence
from dkn_ros.gpu.traits import edges, noise
from dkn_ros.models.fdkn import FDKNOptions
from dkn_ros.postprocess import back_project, reach
from dkn_ros.preprocess import Target, pool, shrink, target_image
from dkn_ros.resampling import resample
from dkn_ros.resolution import covering, form_of, pooled
from dkn_ros.traits import Traits, traits_of

FloatImage = NDArray[np.float32]
CPU = torch.device("cpu")
SIZES = [
    ((12, 16), (48, 64)), ((48, 64), (12, 16)), ((47, 63), (12, 16)), ((31, 50), (96, 128)), ((40, 30), (20, 60)),
    ((33, 41), (33, 41)), ((5, 3), (2, 1)), ((1, 1), (7, 5)), ((3, 130), (90, 4)),
]  # fmt: skip


def surfaces(height: int, width: int, holes: float = 0.0, seed: int = 0) -> FloatImage:
    """Metres: waves, steps and noise, with holes one pixel wide and, if there are such, larger ones."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] * 12.0 / height
    depth = 2 + np.sin(x / 2) / 2 + np.cos(y / 3) / 3 + chance.normal(0, 0.001, (height, width))
    depth[:, : width // 3] -= 0.6
    if holes:
        depth[chance.random(depth.shape) < holes] = np.nan
        depth[height // 4 : height // 2, width // 2 :] = np.nan
        depth[-(height // 8) or height :] = np.nan
    return depth.astype(np.float32)


def tensor(image: NDArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))


def examined(depth: FloatImage) -> Examined:
    return Examination((depth.shape[0], depth.shape[1]), CPU)(tensor(depth))


@pytest.fixture
def exact_holes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has the CPU path fill holes from the nearest pixels that the device finds: OpenCV's are not always nearest."""

    def fill(depth: FloatImage, buffers: Buffers | None = None) -> tuple[FloatImage, FloatImage]:
        place, distance = Nearest(depth.shape, CPU)(torch.from_numpy(~np.isnan(depth)))
        return depth.reshape(-1)[place.numpy()], distance.numpy().copy()

    monkeypatch.setattr(preprocess, "fill_holes", fill)
    yield


# --- colour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
def test_colour_on_another_grid_is_that_of_the_cpu(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*given, 3), np.uint8)
    found = ColourGrid(given, wanted, CPU)(tensor(rgb)).permute(1, 2, 0).numpy()
    cpu = shrink(rgb, wanted[1], wanted[0])
    if max(w / g for g, w in zip(given, wanted, strict=True)) <= 1:
        np.testing.assert_array_equal(found, cpu)
    else:  # OpenCV's bicubic weights have 11 bits
        assert np.abs(found - cpu).max() <= 1 and (found != cpu).mean() < 0.05


def test_of_four_pixels_a_tie_may_be_rounded_the_other_way() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    found = ColourGrid((48, 64), (24, 32), CPU)(tensor(rgb))[0].numpy()
    exact = rgb.reshape(24, 2, 32, 2).mean((1, 3))
    np.testing.assert_array_equal(found, np.rint(exact))
    assert np.abs(found - shrink(rgb, 32, 24)).max() <= 1


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("shape", [(12, 16, 3), (13, 17, 3), (1, 1, 3), (9, 30)], ids=str)
def test_guidance_blocks_are_those_of_the_cpu(shape: tuple[int, ...], colour: bool, kind: torch.dtype) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    found = ColourGrid(shape[:2], shape[:2], CPU).blocks(tensor(rgb), colour, kind)  # type: ignore[arg-type]
    wanted = guidance_blocks(rgb, FDKNOptions(rgb=colour), Buffers()).to(kind)
    assert found.shape == wanted.shape and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, wanted, rtol=2**-8 if kind == torch.bfloat16 else 1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "told", [{}, {"validity": True}, {"validity": True, "traits": True, "alignment": True}], ids=str
)
def test_target_blocks_are_those_of_the_cpu(told: dict[str, Any]) -> None:
    images = np.random.default_rng(2).random((3, 13, 18), np.float32)
    target = Target(images[0], images[1], images[2], 1.0, 3.0, 2.0, Traits(0.25, 0.001))
    planes = [tensor(image) for image in images[: 1 + told.get("validity", False)]]
    constants = tensor(target.traits.encoded()) if told.get("traits") else None
    wanted = target_blocks(target, FDKNOptions(**told), Buffers()).to(torch.bfloat16)
    assert torch.equal(blocks_of(planes, torch.bfloat16, constants), wanted)


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.5, 0.0), (0.0, 4.0), (1.0, 2.0)])
def test_metres_are_those_of_the_cpu_to_the_last_bit(limits: tuple[float, float]) -> None:
    raw = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    metres = np.random.default_rng(0).uniform(-1, 6, (20, 30)).astype(np.float32)
    metres[0, :5] = np.nan, np.inf, -np.inf, 0, -0.0
    make, ends = Metres(CPU), (limits[0], limits[1] or np.finfo(np.float32).max)
    near, far = torch.tensor(ends, dtype=torch.float32)
    for image, given in ((raw, tensor(raw.view(np.int16))), (metres, tensor(metres))):
        np.testing.assert_array_equal(make.limited(make(given), near, far).numpy(), to_metres(image, *limits))


def test_rows_without_depth_are_added_below() -> None:
    depth = surfaces(12, 16)
    np.testing.assert_array_equal(covered(tensor(depth), 13).numpy(), covering(depth, (1024, 1280)))
    assert covered(tensor(depth), 12).shape == (12, 16)


@pytest.mark.parametrize(("given", "wanted"), [*SIZES, ((424, 512), (540, 960)), ((576, 640), (36, 30))], ids=str)
def test_resampling_is_that_of_the_cpu(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(given, np.float32)
    found = Bicubic(given, wanted, CPU)(tensor(image)).numpy()
    # White noise changes by 1 from pixel to pixel; PyTorch's taps are placed to 1e-4 of one.
    np.testing.assert_allclose(found, resample(image, wanted[1], wanted[0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("given", "wanted"), [s for s in SIZES if s[1] <= s[0] and s[1][1] <= s[0][1]], ids=str)
def test_pooling_is_that_of_the_cpu(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    for holes in (0.0, 0.6, 1.0):
        depth = surfaces(*given, holes)
        found = AreaPool(given, wanted, CPU)(tensor(depth)).numpy()
        np.testing.assert_allclose(found, pool(depth, wanted[1], wanted[0]), rtol=1e-6)


@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
@pytest.mark.parametrize("holes", [0.0, 0.15])
@pytest.mark.usefixtures("exact_holes")
def test_the_target_is_that_of_the_cpu(given: tuple[int, int], wanted: tuple[int, int], holes: float) -> None:
    depth = surfaces(*given, holes)
    if np.isnan(depth).all():
        depth[0, 0] = 1.5
    guess = np.random.default_rng(1).uniform(0, 5, given).astype(np.float32)
    grid = TargetGrid(given, wanted, CPU)
    for given_guess, aligned in ((None, 1.0), (guess, 0.3)):
        found = grid(examined(depth), torch.tensor(aligned), None if given_guess is None else tensor(given_guess))
        cpu = target_image(depth, wanted[1], wanted[0], given_guess, aligned=aligned)
        assert float(found.low) == pytest.approx(cpu.low) and float(found.low + found.span) == pytest.approx(cpu.high)
        np.testing.assert_allclose(found.image.numpy(), cpu.image, rtol=0, atol=2e-6)
        np.testing.assert_allclose(found.distance.numpy(), cpu.distance, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found.validity.numpy(), cpu.validity)
        assert grid.ratio == cpu.ratio
        # Noise is in parts of the range: 1e-7 of the depth.
        np.testing.assert_allclose([float(t) for t in found.traits], cpu.traits, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.traits.encoded().numpy(), cpu.traits.encoded(), rtol=1e-3, atol=1e-4)
        trust = float(found.traits.trust(cpu.ratio))
        assert trust == pytest.approx(cpu.traits.trust(cpu.ratio), rel=1e-3, abs=1e-4)


def test_a_missing_guess_is_no_guess() -> None:
    depth, grid, met = examined(surfaces(12, 16, 0.2)), TargetGrid((12, 16), (12, 16), CPU), torch.ones(())
    assert torch.equal(grid(depth, met, torch.full((12, 16), torch.nan)).image, grid(depth, met).image)


def test_a_constant_frame_and_an_empty_one() -> None:
    grid = TargetGrid((6, 8), (24, 32), CPU)
    flat = grid(examined(np.full((6, 8), 2.0, np.float32)), torch.tensor(0.4))
    assert float(flat.low) == 2 and float(flat.span) == 1 and not flat.image.any() and not flat.distance.any()
    assert [float(t) for t in flat.traits] == pytest.approx([0.5, 0.0, 0.4])
    empty = grid(examined(np.full((6, 8), np.nan, np.float32)), torch.tensor(0.4))
    assert empty.low.isnan() and empty.image.isnan().all() and not empty.validity.any()


@pytest.mark.parametrize("method", ["area", "nearest"])
@pytest.mark.parametrize("size", [(60, 80), (101, 67), (2, 9), (4, 4), (9, 3), (300, 400)], ids=str)
def test_traits_are_those_of_the_cpu(size: tuple[int, int], method: str) -> None:
    """Of scenes with edges: means of 4 x 4 pixels, or samples."""
    y, x = np.mgrid[: 4 * size[0], : 4 * size[1]]
    fine = 1 + ((x // 83 + y // 71) % 3 + 0.001 * np.random.default_rng(0).normal(size=x.shape)).astype(np.float32)
    cells = fine.reshape(size[0], 4, size[1], 4)
    depth = np.ascontiguousarray(cells.mean((1, 3)) if method == "area" else cells[:, 0, :, 0], np.float32)
    depth[size[0] // 2, : size[1] // 2] = np.nan
    deviation = noise(tensor(depth))
    found = float(edges(tensor(depth), deviation).antialiased(4.0)), float(deviation / 2)
    cpu = traits_of(depth, 4.0, 2.0)
    np.testing.assert_allclose(found, cpu[:2], rtol=1e-5, atol=1e-7)
    if size == (300, 400):
        assert abs(cpu.antialiased - (method == "area")) < 0.2


# --- its own resolution ---------------------------------------------------------------------------------------------


def forms() -> list[FloatImage]:
    full = surfaces(60, 88, 0.1)
    replicated = np.repeat(np.repeat(surfaces(20, 24), 4, 0), 4, 1)
    sparse = np.full((80, 96), np.nan, np.float32)
    sparse[1::4, 2::4] = surfaces(20, 24)
    strewn = np.where(np.random.default_rng(0).random((90, 100)) < 0.1, surfaces(90, 100), np.nan)
    return [
        full, replicated, sparse, strewn.astype(np.float32), surfaces(7, 9), np.full((40, 50), np.nan, np.float32),
        np.full((64, 64), 2.0, np.float32),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(7))
def test_the_form_is_found_as_on_the_cpu(number: int) -> None:
    depth = forms()[number]
    found = form_of_evidence(evidence(tensor(depth)), depth.shape)
    assert found == form_of(depth)
    assert number not in (1, 2, 3) or (found and (found.width, found.height) != depth.shape[::-1])


@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=str)
@pytest.mark.parametrize("holes", [0.0, 0.5])
def test_measurements_are_pooled_as_on_the_cpu(given: tuple[int, int], wanted: tuple[int, int], holes: float) -> None:
    depth = surfaces(*given, holes)
    found = Pooling(given, wanted, CPU)(tensor(depth)).numpy()
    np.testing.assert_allclose(found, pooled(depth, wanted[1], wanted[0]), rtol=5e-7)


# --- the result -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measured", "working"), SIZES, ids=str)
def test_back_projection_is_that_of_the_cpu(measured: tuple[int, int], working: tuple[int, int]) -> None:
    depth, filtered = surfaces(*measured, 0.1), surfaces(*working, seed=3)
    found = result.BackProjection(working, measured, CPU)(tensor(filtered), tensor(depth), torch.tensor(0.7)).numpy()
    back_project(filtered, depth, 0.7, Buffers())
    np.testing.assert_allclose(found, filtered, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [(48, 64), (7, 5), (1, 1), (3, 30)], ids=str)
@pytest.mark.parametrize("threshold", [0.02, 0.05])
def test_flying_pixels_are_those_of_the_cpu(size: tuple[int, int], threshold: float) -> None:
    """Between two surfaces, noisy ones, and holes."""
    chance = np.random.default_rng(0)
    depth = np.where(np.arange(size[1]) < size[1] // 2, 1.0, 2.0) * chance.normal(1, 0.01, size)
    depth[:, size[1] // 2] = chance.uniform(1, 2, size[0])
    depth[chance.random(size) < 0.1] = np.nan
    cpu = depth.astype(np.float32)
    found = result.without_flying(tensor(cpu), torch.tensor(threshold)).numpy()
    forget_flying(cpu, threshold, Buffers())
    np.testing.assert_array_equal(found, cpu)
    assert size != (48, 64) or np.isnan(cpu).sum() > np.isnan(depth).sum() + 10


@pytest.mark.parametrize("given", [(48, 64), (24, 30)], ids=str)
@pytest.mark.usefixtures("exact_holes")
def test_confidence_is_that_of_the_cpu(given: tuple[int, int]) -> None:
    depth = surfaces(48, 64, 0.05, seed=1)
    target = target_image(surfaces(*given, 0.1), given[1], given[0])
    wanted = np.empty_like(depth)
    confidence(depth, target, Buffers(), wanted)
    away = result.reach(tensor(target.distance), (48, 64))
    np.testing.assert_allclose(away.numpy(), reach(target, 64, 48), rtol=0, atol=1e-4)
    low, span = torch.tensor(target.low), torch.tensor(target.high - target.low)
    image = result.bilinear(tensor(target.image), (48, 64))
    found = result.confidence(tensor(depth), image, low, span, away, target.ratio).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert wanted.min() == 0 and wanted.max() > 0.5
