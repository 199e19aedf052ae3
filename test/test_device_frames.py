"""Whole frames by lanes and captured steps: on a tape and threads everywhere, on streams and graphs on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from misregistered import KINECT, boxes
from numpy.typing import NDArray
from tape import TapeRecorder
from test_steady_state import growth_of
from torch import Tensor

from dkn_ros.calibration import Calibration
from dkn_ros.config import PipelineConfig
from dkn_ros.device import Cuda
from dkn_ros.engine import NUMBA, PYTORCH, TRITON, Engine, TritonError, Way
from dkn_ros.gpu import device_frames
from dkn_ros.gpu.frame import Frame, Plan, settings_of
from dkn_ros.gpu.graphs import Recorder
from dkn_ros.gpu.stream import PLACES
from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import Heads
from dkn_ros.pipeline import Pipeline
from dkn_ros.registration import Registration
from dkn_ros.sampling import WINDOW, reference
from dkn_ros.weights import save_weights

FloatImage = NDArray[np.float32]
HERE = Way(torch.device("cpu"), PYTORCH)
CPU = Way(torch.device("cpu"), NUMBA)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def plain_filter(self: FDKN, target: Tensor, guidance_heads: Heads | None, target_heads: Heads) -> Tensor:
    filtered = reference.deformable_average(target, *self.kernels(guidance_heads, target_heads), WINDOW)
    return target + filtered if self.options.residual else filtered


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """On a CPU as on a GPU: PyTorch's operations alone, which a tape sees, on threads in place of streams."""
    if request.param == "cuda":
        return Way(torch.device("cuda"), TRITON)
    monkeypatch.setattr(FDKN, "filter", plain_filter)
    monkeypatch.setattr("dkn_ros.pipeline.cuda_state", lambda: Cuda(True))
    monkeypatch.setattr("dkn_ros.pipeline.ways_of", lambda *asked: ([HERE, CPU], []))
    return HERE


class Counting:
    """A recorder that is counted."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.captures = recorder, 0

    def record(self, work: Any) -> Any:
        self.captures += 1
        return self.recorder.record(work)


@pytest.fixture
def recorder(way: Way, monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = device_frames.recorder_of(way.device)
    assert (made is None) == (way is HERE)
    counting = Counting(made or TapeRecorder())
    monkeypatch.setattr(device_frames, "recorder_of", lambda device: counting)
    return counting


@pytest.fixture(scope="module")
def weights(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Told all that a network can be told, with back-projection."""
    told: dict[str, Any] = {"validity": True, "traits": True, "alignment": True}
    path = tmp_path_factory.mktemp("weights") / "told.safetensors"
    about = {"options": {"n1": 8, "n2": 8, **told}, "ratios": (1.0, 8.0), "back_projection": 1.0}
    save_weights(make_model(**told), path, model="fdkn", **about)
    return path


@pytest.fixture
def pipeline(way: Way, weights: Path) -> Iterator[Pipeline]:
    made = Pipeline(PipelineConfig(weights=str(weights), device="cuda", precision="float32", threads=1))
    assert made.path == str(way)
    yield made
    made.release()


def images(seed: int, ratio: int = 4, dtype: type = np.uint16, size: tuple[int, int] = (32, 48)) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y, x = np.indices((size[0] // ratio, size[1] // ratio))
    depth = 1000 + 30 * ratio * (x + y / 2) + rng.normal(0, 5, x.shape)
    depth[1:3, seed % 4 : seed % 4 + 3] = 0
    depth = np.rint(depth).astype(np.uint16)
    rgb = rng.integers(0, 256, (*size, 3), np.uint8)
    return rgb, depth if dtype == np.uint16 else (depth / 1000).astype(np.float32)


def one_by_one(pipeline: Pipeline, rgb: Any, depth: Any, confidence: bool = False) -> tuple[FloatImage, Any]:
    """The frame's steps on the current stream, without lanes, captures and buffers that stay."""
    millimetres = depth.dtype == np.uint16
    measured = pipeline._intake.resolution.size(depth.shape)
    plan = Plan.of(pipeline.config, pipeline.card, rgb.shape, depth.shape, millimetres, measured, confidence=confidence)
    given = depth.view(np.int16) if millimetres else depth
    settings = torch.tensor(settings_of(pipeline.config), dtype=torch.float32)
    inputs = [tensor.to(pipeline.device) for tensor in (torch.from_numpy(rgb), torch.from_numpy(given), settings)]
    with torch.inference_mode():
        done = Frame(pipeline.engine, pipeline.card, plan).enhance(inputs[0], inputs[1], inputs[2])
    return done.depth.cpu().numpy(), None if done.confidence is None else done.confidence.cpu().numpy()


def test_a_captured_frame_is_what_its_steps_give(pipeline: Pipeline, recorder: Counting) -> None:
    """In the second frame of each kind nothing is captured any more; each content is another one."""
    out, confidence = np.empty((32, 48), np.float32), np.empty((32, 48), np.float32)
    kinds = [(4, np.uint16, None), (4, np.float32, confidence), (2, np.uint16, None)]
    for round_number in range(3):
        before = recorder.captures
        for i, (ratio, dtype, sure) in enumerate(kinds):
            rgb, depth = images(10 * round_number + i, ratio, dtype)
            wanted, wanted_sure = one_by_one(pipeline, rgb, depth, sure is not None)
            pipeline.enhance(rgb, depth, out=out, confidence=sure)
            np.testing.assert_array_equal(out, wanted)
            assert np.isfinite(out).any()
            if sure is not None:
                np.testing.assert_array_equal(sure, wanted_sure)
        # Three steps for each kind and place; each kind comes to a place of its own at every round.
        assert recorder.captures - before <= 3 * len(kinds)
    pipeline.enhance(*images(1), out=out)
    before = recorder.captures
    for seed in range(4):
        pipeline.enhance(*images(seed), out=out)
    assert recorder.captures == before and pipeline.notes == ()


def test_settings_that_change_reach_a_captured_frame(pipeline: Pipeline, recorder: Counting) -> None:
    rgb, depth = images(3)
    found = []
    changes: tuple[dict[str, Any], ...] = (
        {}, {}, {"fill_distance": 1.0}, {"max_depth": 1.6}, {"min_depth": 1.2}, {"fill_distance": 1000.0},
    )  # fmt: skip
    for change in changes:
        pipeline.config = dataclasses.replace(pipeline.config, **change)
        found.append(pipeline.enhance(rgb, depth).depth)
        np.testing.assert_array_equal(found[-1], one_by_one(pipeline, rgb, depth)[0])
        if len(found) == 2:
            captured = recorder.captures
    assert recorder.captures == captured
    assert len({image.tobytes() for image in found}) == len(changes) - 1
    pipeline.config = dataclasses.replace(pipeline.config, flying_pixels=0.03)  # other work: captured anew
    pipeline.enhance(rgb, depth)
    assert recorder.captures > captured


def test_what_was_seen_early_is_used(pipeline: Pipeline, recorder: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    put_colour = device_frames.FrameWork.put_colour

    def counted(self: device_frames.FrameWork, rgb: Any) -> None:
        looks.append(1)
        put_colour(self, rgb)

    monkeypatch.setattr(device_frames.FrameWork, "put_colour", counted)
    for seed in range(6):
        rgb, depth = images(seed)
        wanted = one_by_one(pipeline, rgb, depth)[0]
        for _ in range(seed % 3):  # some lead to nothing
            pipeline.look(images(20 + seed)[0], depth.shape)
        looks.clear()
        seen = pipeline.look(rgb, depth.shape)
        result = pipeline.enhance(rgb, depth, seen)
        np.testing.assert_array_equal(result.depth, wanted)
        assert len(looks) == 1 and seen.milliseconds >= 0
        pipeline.enhance(rgb, depth, seen)  # a second time it is of no use, and does no harm
        assert len(looks) == 2


def test_frames_under_way_together(pipeline: Pipeline, recorder: Counting) -> None:
    frames = pipeline._on_device.frames(pipeline.engine)
    assert frames is not None
    given = [images(seed) for seed in range(5)]
    out = np.empty((32, 48), np.float32)
    under_way: list[Any] = []
    for i in range(len(given) + PLACES):
        if i >= PLACES:
            frames.finish(under_way.pop(0), device_frames.Outputs(out, None))
            np.testing.assert_array_equal(out, one_by_one(pipeline, *given[i - PLACES])[0])
        if i < len(given):
            under_way.append(frames.begin(pipeline.config, *given[i]))


def test_a_device_gives_what_the_cpu_gives(pipeline: Pipeline, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkn_ros.pipeline.ways_of", lambda *asked: ([CPU], []))
    cpu = Pipeline(PipelineConfig(weights=str(weights), device="cpu", precision="float32", threads=1))
    for seed in range(3):
        rgb, depth = images(seed)
        found, wanted = pipeline.enhance(rgb, depth), cpu.enhance(rgb, depth)
        assert np.nanmedian(np.abs(found.depth - wanted.depth)) < 1e-3
        assert list(found.timings) == ["align", "copy up", "guidance", "target", "average", "copy down", "whole"]
        assert found.blind is False and min(found.timings.values()) >= 0


def test_colour_beside_its_depth_is_moved_as_on_a_cpu(
    pipeline: Pipeline, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dkn_ros.pipeline.ways_of", lambda *asked: ([CPU], []))
    cpu = Pipeline(PipelineConfig(weights=str(weights), device="cpu", precision="float32", threads=1))
    for seed in range(2):
        rgb, depth = boxes(KINECT, seed)
        depth = np.rint(1000 * depth[2::4, 2::4]).astype(np.uint16)
        early = pipeline.look(rgb, depth.shape)  # of the colour as it is: not to be used
        found, wanted = pipeline.enhance(rgb, depth, early), cpu.enhance(rgb, depth)
        assert pipeline.misregistered == cpu.misregistered != ""
        as_it_is = Pipeline(dataclasses.replace(cpu.config, align_colour=False)).enhance(rgb, depth)
        off, unmoved = (np.nanmean(np.abs(result.depth - wanted.depth)) for result in (found, as_it_is))
        assert off < 0.1 * unmoved


def test_a_frame_without_depth_is_blind(pipeline: Pipeline) -> None:
    rgb, depth = images(0)
    confidence = np.ones((32, 48), np.float32)
    result = pipeline.enhance(rgb, np.zeros_like(depth), confidence=confidence)
    assert result.blind and np.isnan(result.depth).all() and not confidence.any()
    assert not pipeline.enhance(rgb, depth).blind


def test_replicated_depth_is_found_out_within_its_first_frame(pipeline: Pipeline, recorder: Counting) -> None:
    """As on a CPU; there it is looked at before the frame, here after it."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (64, 64, 3), np.uint8)
    small = rng.integers(1000, 3000, (16, 16)).astype(np.uint16)
    replicated = np.ascontiguousarray(small.repeat(4, 0).repeat(4, 1))
    first = pipeline.enhance(rgb, replicated).depth
    assert pipeline._intake.resolution.size(replicated.shape) == (16, 16)
    np.testing.assert_array_equal(first, one_by_one(pipeline, rgb, replicated)[0])
    captured = recorder.captures
    np.testing.assert_array_equal(pipeline.enhance(rgb, replicated).depth, first)
    assert recorder.captures <= captured + 3  # the other place's, once


class Refuses:
    """A recorder on a machine whose driver captures nothing."""

    def record(self, work: Any) -> Any:
        raise RuntimeError("CUDA error: operation not supported\nadvice")


def beside() -> Registration:
    """From a depth camera 3 cm beside the colour camera, of a third of its resolution."""
    depth_camera = Calibration(24, 16, (20.0, 0, 12.0, 0, 20.0, 8.0, 0, 0, 1), (), "plumb_bob")
    colour_camera = Calibration(48, 32, (44.0, 0, 24.0, 0, 44.0, 16.0, 0, 0, 1), (), "plumb_bob")
    return Registration(depth_camera, colour_camera, np.eye(3), (0.03, 0.0, 0.0))


@pytest.mark.parametrize("room", [None, 300], ids=["room enough", "too little room at first"])
def test_depth_of_another_camera_is_registered_on_the_device(
    pipeline: Pipeline, recorder: Counting, weights: Path, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """As on the CPU, also by a look at the colour image before its depth; what has no room is done again with more."""
    if room:
        monkeypatch.setattr("dkn_ros.gpu.registration.ROOM", room / (24 * 16))
    registration = beside()
    for seed in (5, 6):
        rgb, depth = images(seed, 2)
        seen = pipeline.look(rgb, depth.shape, registration)
        found = pipeline.enhance(rgb, depth, seen, registration=registration).depth
        plain = pipeline.enhance(rgb, depth).depth
        on_cpu = registration.register(np.where(depth > 0, depth / 1000, np.nan).astype(np.float32))
        wanted = pipeline.enhance(rgb, on_cpu).depth
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert np.nanmax(np.abs(found - plain)) > 0.01
    assert pipeline.notes == ()


def test_refused_captures_are_one_note_and_no_frame_is_lost(
    pipeline: Pipeline, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_frames, "recorder_of", lambda device: Refuses())
    pipeline._on_device.leave()
    for seed in range(4):
        rgb, depth = images(seed, 4 if seed % 2 else 2)
        seen = pipeline.look(rgb, depth.shape)
        np.testing.assert_array_equal(pipeline.enhance(rgb, depth, seen).depth, one_by_one(pipeline, rgb, depth)[0])
    assert pipeline.notes == (f"{way} captures no graph: CUDA error: operation not supported; goes on without",)


@pytest.mark.parametrize("step", ["look", "prepare", "finish"])
def test_a_step_that_fails_takes_the_frame_down_the_ladder(
    pipeline: Pipeline, recorder: Counting, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, depth = images(0)

    def fail(*given: Any) -> None:
        raise TritonError("no kernel image")

    early = pipeline.look(images(1)[0], depth.shape)
    with monkeypatch.context() as broken:
        broken.setattr(Frame, step, fail)
        pipeline._on_device.leave()
        result = pipeline.enhance(rgb, depth, early)
    assert pipeline.path != str(HERE) and "no kernel image" in pipeline.notes[0]
    assert np.isfinite(result.depth).any()
    np.testing.assert_array_equal(pipeline.enhance(rgb, depth).depth, result.depth)


def test_memory_that_is_short_goes_to_the_frame_at_hand(
    pipeline: Pipeline, way: Way, recorder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the CPU has to take over, what is kept for frames of other kinds is given up."""
    rgb, depth = images(0)
    wanted = one_by_one(pipeline, rgb, depth)[0]
    pipeline.enhance(*images(1, 2))
    frames, make, room = pipeline._on_device.frames(pipeline.engine), device_frames.FrameWork, [True]
    assert frames is not None and frames._stream.kinds > 0
    stream = frames._stream

    def short(*given: Any) -> device_frames.FrameWork:
        if stream.kinds > 0 or not room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(*given)

    monkeypatch.setattr(device_frames, "FrameWork", short)
    np.testing.assert_array_equal(pipeline.enhance(rgb, depth).depth, wanted)
    assert pipeline.notes == () and pipeline.path == str(way)
    assert pipeline._on_device.frames(pipeline.engine) is frames and stream.kinds == 1
    room.clear()
    with pytest.raises(torch.OutOfMemoryError):
        frames.enhance(pipeline.config, *images(1, 2), None, device_frames.Outputs(np.empty_like(wanted), None))
    assert frames.closed


class Immediate:
    """Lanes on which work is done as it is submitted, and fails there, as to submit it to a GPU fails."""

    device = torch.device("cpu")

    def __getitem__(self, name: str) -> Immediate:
        return self

    def submit(self, work: Any) -> None:
        with torch.inference_mode():
            work()

    def mark(self) -> Immediate:
        return self

    def wait(self, mark: Any = None) -> None: ...

    def since(self, earlier: Any) -> float:
        return 0.0

    def settle(self) -> None: ...

    drain = close = settle


def test_memory_that_is_short_of_graphs_goes_on_without_them(
    pipeline: Pipeline, way: Way, recorder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is captured is kept between two frames; the CPU takes over only where the work itself does not fit."""
    rgb, depth = images(0)
    wanted = one_by_one(pipeline, rgb, depth)[0]
    if way is HERE:
        monkeypatch.setattr(device_frames, "lanes_of", lambda device: Immediate())

    def short(work: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recorder, "record", short)
    for _ in range(3):
        np.testing.assert_array_equal(pipeline.enhance(rgb, depth).depth, wanted)
    assert pipeline.path == str(way) and len(pipeline.notes) == 1
    assert "captures no graph: CUDA out of memory; goes on without" in pipeline.notes[0]


def test_other_settings_of_the_engine_and_a_release_begin_anew(pipeline: Pipeline, recorder: Counting) -> None:
    rgb, depth = images(0)
    wanted = pipeline.enhance(rgb, depth).depth
    seen = pipeline.look(rgb, depth.shape)
    pipeline.release()
    np.testing.assert_array_equal(pipeline.enhance(rgb, depth, seen).depth, wanted)
    engine = pipeline.engine
    pipeline.config = dataclasses.replace(pipeline.config, precision="bfloat16")
    assert np.nanmedian(np.abs(pipeline.enhance(rgb, depth, seen).depth - wanted)) < 0.05
    assert pipeline.engine is not engine and pipeline.precision == torch.bfloat16


def test_bad_depth_is_refused_and_nothing_falls(pipeline: Pipeline, way: Way) -> None:
    rgb, depth = images(0)
    with pytest.raises(ValueError, match="depth"):
        pipeline.enhance(rgb, depth.astype(np.int64))
    assert pipeline.path == str(way) and pipeline.enhance(rgb, depth).valid.any()


class Still:
    """A recorder whose replays do nothing, so that what is left is the host's part of a frame."""

    def record(self, work: Any) -> Any:
        return lambda: None, work()


def test_the_steady_state_makes_no_arrays(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's; of the device's see below."""
    monkeypatch.setattr(device_frames, "recorder_of", lambda device: Still())
    pipeline._on_device.leave()
    rgb, depth = images(0, 2, size=(512, 512))
    out = np.empty((512, 512), np.float32)

    def work() -> None:
        pipeline.enhance(rgb, depth, pipeline.look(rgb, depth.shape), out)

    assert growth_of(work) < depth.size


@needs_gpu
def test_the_steady_state_allocates_nothing_on_the_device(weights: Path) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(weights), device="cuda"))
    rgb, depth = images(0)
    out = np.empty((32, 48), np.float32)
    for _ in range(3):
        pipeline.enhance(rgb, depth, out=out)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for seed in range(5):
        pipeline.enhance(*images(seed), out=out)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert pipeline.notes == ()


def test_a_cpu_works_as_it_did(weights: Path) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(weights), device="cpu", precision="float32", threads=1))
    assert pipeline._on_device.frames(pipeline.engine) is None
    assert isinstance(pipeline.engine, Engine) and pipeline.look(*_looked()).seen is None


def _looked() -> tuple[Any, tuple[int, int]]:
    rgb, depth = images(0)
    return rgb, (depth.shape[0], depth.shape[1])
