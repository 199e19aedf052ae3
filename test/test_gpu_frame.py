"""A whole frame on the device against the pipeline's on the CPU, and that nothing in it waits for the device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray
from test_gpu_depth import exact_holes, surfaces
from test_registration import APART, pinhole

from dkn_ros.config import PipelineConfig
from dkn_ros.depth import to_metres
from dkn_ros.engine import PYTORCH, TRITON, Engine, Way
from dkn_ros.gpu.frame import Finished, Frame, Inputs, Plan, settings_of
from dkn_ros.gpu.resolution import form_of_evidence
from dkn_ros.pipeline import Pipeline
from dkn_ros.registration import Registration
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.scene import Scene
from dkn_ros.weights import save_weights

__all__ = ["exact_holes"]

FloatImage = NDArray[np.float32]
CPU = torch.device("cpu")
KERNELS = "dkn_ros.sampling.cuda", "dkn_ros.gpu.columns_cuda"
TOLD = {"validity": True, "traits": True, "alignment": True}


def colours(height: int, width: int, side: int = 8) -> NDArray[np.uint8]:
    """Squares of one colour each, HxWx3."""
    squares = np.random.default_rng(0).integers(0, 256, (height // side + 1, width // side + 1, 3), np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(squares, side, 0), side, 1)[:height, :width])


def pipeline_of(model: Any, path: Path, options: dict[str, Any], config: dict[str, Any], **card: Any) -> Pipeline:
    save_weights(model, path / "w.safetensors", model="fdkn", options={"n1": 8, "n2": 8, **options}, **card)
    # Colour and depth of these tests have no edges in common, so there is nothing to align.
    given = {"weights": str(path / "w.safetensors"), "device": "cpu", "precision": "float32", "threads": 1, **config}
    given["align_colour"] = False
    return Pipeline(PipelineConfig(**given))


def plan_of(pipeline: Pipeline, rgb: NDArray, depth: NDArray, **settings: Any) -> Plan:
    """The plan for images whose depth has the resolution that the pipeline has seen it have."""
    size = depth.shape[0], depth.shape[1]
    measured = pipeline._intake.resolution.size(size)
    return Plan.of(pipeline.config, pipeline.card, rgb.shape, size, depth.dtype == np.uint16, measured, **settings)


def on(device: torch.device, pipeline: Pipeline, rgb: NDArray, depth: NDArray) -> Inputs:
    raw = depth.view(np.int16) if depth.dtype == np.uint16 else depth
    settings = torch.tensor(settings_of(pipeline.config))
    return Inputs(*(t.to(device) for t in (torch.from_numpy(rgb), torch.from_numpy(raw), settings)))


def run(pipeline: Pipeline, rgb: NDArray, depth: NDArray, confidence: bool = False, way: str = PYTORCH) -> Finished:
    """The frame on the CPU as a device."""
    engine = Engine(pipeline.model, Way(CPU, way), pipeline.config.precision)
    frame = Frame(engine, pipeline.card, plan_of(pipeline, rgb, depth, confidence=confidence))
    return frame.enhance(*on(CPU, pipeline, rgb, depth))


def assert_same(found: torch.Tensor, wanted: FloatImage, tolerance: float = 1e-4) -> None:
    """Within float32's rounding on its way through the network; what is NaN in one is in the other."""
    np.testing.assert_array_equal(np.isnan(found.numpy()), np.isnan(wanted))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=tolerance)


CARDS: list[dict[str, Any]] = [
    {},
    {"back_projection": 1.0, "strength": {1: 1.0, 2: 0.65, 8: 0.9}},
    {"ratios": (2.0, 2.0), "back_projection": 1.0},
]
SIZES = [
    ((48, 64), (12, 16)), ((45, 62), (48, 64)), ((96, 128), (31, 50)), ((60, 80), (60, 80)), ((5, 3), (2, 2)),
    ((40, 50), (30, 40)),
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS, ids=str)
@pytest.mark.parametrize(("size", "depth_size"), SIZES, ids=str)
@pytest.mark.parametrize("holes", [0.0, 0.1])
@pytest.mark.usefixtures("exact_holes")
def test_the_frame_is_the_pipelines(
    make_model: MakeModel, tmp_path: Path, size: tuple[int, int], depth_size: tuple[int, int], holes: float,
    card: dict[str, Any],
) -> None:  # fmt: skip
    """With distances of the device, see `exact_holes`; no number lies on a threshold."""
    settings = {"fill_distance": 11.3, "min_depth": 0.9, "depth_covers": "all"}
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, settings, **card)
    rgb, depth = colours(*size), surfaces(*depth_size, holes)
    sure = np.empty(size, np.float32)
    wanted = pipeline.enhance(rgb, depth, confidence=sure)
    found = run(pipeline, rgb, depth, confidence=True)
    assert_same(found.depth, wanted.depth)
    assert found.confidence is not None
    # A logarithm's slope at no correction at all is a thousand.
    np.testing.assert_allclose(found.confidence.numpy(), sure, rtol=0, atol=5e-3)


@pytest.mark.parametrize("options", [{}, {"guided": False}, {"rgb": True}, {"residual": False}, TOLD], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("exact_holes")
def test_every_kind_of_network(make_model: MakeModel, tmp_path: Path, options: dict[str, Any], precision: str) -> None:
    pipeline = pipeline_of(make_model(**options), tmp_path, options, {"precision": precision})
    depth = np.rint(1000 * surfaces(24, 32))
    depth[3:9, 20:29] = 0
    millimetres, grey = depth.astype(np.uint16), np.ascontiguousarray(colours(48, 64)[..., 0])
    # In bfloat16 a sigmoid before or after rounding differs in the eighth bit.
    tolerance = 1e-4 if precision == "float32" else 0.02
    for rgb in (colours(48, 64), grey):
        assert_same(run(pipeline, rgb, millimetres).depth, pipeline.enhance(rgb, millimetres).depth, tolerance)


@pytest.mark.usefixtures("exact_holes")
def test_frames_without_depth_and_with_hardly_any(make_model: MakeModel, tmp_path: Path) -> None:
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {"fill_distance": 9.3})
    rgb = colours(48, 64)
    for value in (np.nan, 0.0, -1.0):
        found = run(pipeline, rgb, np.full((12, 16), value, np.float32), confidence=True)
        assert found.depth.isnan().all() and found.confidence is not None and not found.confidence.any()
    depth = np.full((24, 32), np.nan, np.float32)  # the small grid of 12 x 16 has nothing valid
    depth[7, 9] = 1.5
    depth[20, 25] = 2.0
    assert_same(run(pipeline, rgb, depth).depth, pipeline.enhance(rgb, depth).depth)
    flat = np.full((12, 16), 2.0, np.float32)
    assert_same(run(pipeline, rgb, flat).depth, flat.repeat(4, 0).repeat(4, 1))


def test_blindness_is_told(make_model: MakeModel, tmp_path: Path) -> None:
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {})
    engine = Engine(pipeline.model, Way(CPU, PYTORCH), "float32")
    rgb, depth = colours(24, 32), surfaces(12, 16, 0.3)
    frame = Frame(engine, pipeline.card, plan_of(pipeline, rgb, depth))
    assert not frame.prepare(*on(CPU, pipeline, rgb, depth)).blind
    assert frame.prepare(*on(CPU, pipeline, rgb, 0 * depth)).blind


@pytest.mark.parametrize("way", ["replicated", "sparse"])
@pytest.mark.usefixtures("exact_holes")
def test_depth_above_its_resolution(make_model: MakeModel, tmp_path: Path, way: str) -> None:
    """The host learns the form from what the device has seen, and the next frame is that of the pipeline."""
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {})
    rgb, depth = colours(80, 96), surfaces(20, 24).repeat(4, 0).repeat(4, 1)
    if way == "sparse":
        depth[np.arange(80) % 4 != 2] = np.nan
        depth[:, np.arange(96) % 4 != 2] = np.nan
    engine, images = Engine(pipeline.model, Way(CPU, PYTORCH), "float32"), on(CPU, pipeline, rgb, depth)
    plan = plan_of(pipeline, rgb, depth)
    assert plan.measured == (80, 96)
    seen = Frame(engine, pipeline.card, plan).prepare(*images).evidence
    assert seen is not None
    pipeline._intake.resolution.learn((80, 96), form_of_evidence(seen, plan.registered))
    plan = plan_of(pipeline, rgb, depth)
    assert plan.measured == (20, 24)
    found = Frame(engine, pipeline.card, plan).enhance(*images)
    assert_same(found.depth, pipeline.enhance(rgb, depth).depth)


@pytest.mark.usefixtures("exact_holes")
def test_depth_of_another_camera(make_model: MakeModel, tmp_path: Path) -> None:
    """Registered on the device; limits hold before and after it, as on a CPU."""
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {"min_depth": 1.31})
    registration = Registration(pinhole(40, 30, 36.0), pinhole(96, 72, 90.0), np.eye(3), APART)
    rgb, depth = colours(72, 96), np.rint(1000 * surfaces(30, 40)).astype(np.uint16)
    depth[4:9, 8:20] = 0
    seen = registration.register(to_metres(depth, 1.31))
    wanted = pipeline.enhance(rgb, seen).depth
    plan = Plan.of(pipeline.config, pipeline.card, rgb.shape, (30, 40), True, seen.shape, registration)
    frame = Frame(Engine(pipeline.model, Way(CPU, PYTORCH), "float32"), pipeline.card, plan)
    images = on(CPU, pipeline, rgb, depth)
    assert_same(frame.enhance(*images).depth, wanted)
    needed, device = frame.prepare(*images).needed, frame.registration
    assert needed is not None and device is not None and needed <= device.room


CAMERAS = [CameraModel(factor=4, method="area"), KINECT, CameraModel(factor=2, tof_noise=0.003, flying_pixels=0.7)]


@pytest.mark.parametrize("camera", CAMERAS, ids=["area", "kinect", "time of flight"])
def test_rendered_rooms(camera: CameraModel) -> None:
    """The shipped weights, each path with distances of its own: beside holes they may differ, but not in quality."""
    config = PipelineConfig(device="cpu", precision="float32", threads=1, flying_pixels=0.03, align_colour=False)
    pipeline = Pipeline(config)
    frame = Scene(9100).frame(160, 120)
    depth = degrade(frame.depth, camera, np.random.default_rng(0))
    rgb = np.ascontiguousarray(frame.rgb)
    wanted, found = pipeline.enhance(rgb, depth).depth, run(pipeline, rgb, depth).depth.numpy()
    both = np.isfinite(found) & np.isfinite(wanted)
    assert (np.isfinite(found) != np.isfinite(wanted)).mean() < 0.005
    difference = np.abs(found - wanted)[both]
    if not np.isnan(depth).any():
        assert difference.max() < 1e-4
    assert np.mean(difference < 5e-3) > 0.95  # the noise of a Kinect's pixel is 1 cm at 2.5 m
    errors = [np.abs(result - frame.depth)[both].mean() for result in (found, wanted)]
    assert errors[0] < 1.02 * errors[1]


# --- nothing waits for the device -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [TOLD, {"published_grid": True}], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_asks_for_a_number_and_nothing_comes_from_the_host(
    make_model: MakeModel, tmp_path: Path, precision: str, options: dict[str, Any]
) -> None:
    """On PyTorch's meta device tensors have no contents: whoever asks for one, or for a shape that depends on them, or
    brings a tensor of the host, is refused.  The average is there in the plain operations that a GPU runs.
    """
    meta = torch.device("meta")
    card = {"back_projection": 1.0, "ratios": (2.0, 2.0)}
    config = {"flying_pixels": 0.03, "precision": precision}
    pipeline = pipeline_of(make_model(**options), tmp_path, options, config, **card)
    engine = Engine(pipeline.model.to("meta"), Way(meta, PYTORCH), precision)
    registration = Registration(pinhole(40, 30, 36.0), pinhole(96, 72, 90.0, (0.1, 0, 0, 0)), np.eye(3), APART)
    for moved in (None, registration):
        # Sparse depth is taken back to its resolution.
        measured = (15, 20) if moved is None else (28, 37)
        plan = Plan.of(pipeline.config, pipeline.card, (72, 96, 3), (30, 40), True, measured, moved, True)
        frame = Frame(engine, pipeline.card, plan)
        inputs = frame.inputs()
        assert inputs.rgb.shape == (72, 96, 3) and inputs.depth.shape == (30, 40)
        found = frame.finish(frame.look(inputs.rgb), frame.prepare(*inputs), inputs.settings)
        assert found.depth.device == meta and found.depth.shape == (72, 96) and found.depth.dtype == torch.float32
        assert found.confidence is not None and found.confidence.shape == (72, 96)
        with pytest.raises(RuntimeError):
            found.depth.sum().item()


@pytest.fixture
def kernels() -> Iterator[None]:
    """Both Triton kernels, for the interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch's CUDA builds for Linux")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in KERNELS:
            patch.delitem(sys.modules, name, raising=False)
            patch.delattr(name, raising=False)
        made = [importlib.import_module(name) for name in KERNELS]
        patch.setattr(made[1], "BLOCK", 8)
        patch.setattr(made[1], "STEPS", 3)
        yield
        for name in KERNELS:
            sys.modules.pop(name, None)
            parent, _, child = name.rpartition(".")
            vars(sys.modules[parent]).pop(child, None)


@pytest.mark.usefixtures("kernels", "exact_holes")
def test_the_frame_by_triton(make_model: MakeModel, tmp_path: Path) -> None:
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {"fill_distance": 11.3}, back_projection=1.0)
    rgb, depth = colours(24, 32), surfaces(12, 16, 0.05)
    found = run(pipeline, rgb, depth, way=TRITON)
    assert_same(found.depth, pipeline.enhance(rgb, depth).depth)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; its rules hold on the meta device above")
@pytest.mark.parametrize("way", [TRITON, PYTORCH])
def test_a_real_gpu_captures_it(make_model: MakeModel, tmp_path: Path, way: str) -> None:
    device = torch.device("cuda")
    pipeline = pipeline_of(make_model(**TOLD), tmp_path, TOLD, {}, back_projection=1.0)
    rgb, depth = colours(96, 128), surfaces(24, 32, 0.1)
    frame = Frame(Engine(pipeline.model, Way(device, way), "float32"), pipeline.card, plan_of(pipeline, rgb, depth))
    given, inputs = on(device, pipeline, rgb, depth), frame.inputs()
    wanted = frame.enhance(*given).depth.cpu()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        frame.enhance(*given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = frame.enhance(*inputs).depth
    for there, image in zip(inputs, given, strict=True):
        there.copy_(image)
    graph.replay()
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-5, equal_nan=True)
    cpu = run(pipeline, rgb, depth).depth
    torch.testing.assert_close(wanted, cpu, rtol=0, atol=1e-3, equal_nan=True)
