"""What happens when a GPU is missing, too small, or fails: told by engines that run on the CPU under a GPU's name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.device import Cuda, cuda_state
from dkn_ros.engine import NUMBA, PYTORCH, TRITON, Engine, TritonError, Way
from dkn_ros.fallback import ways_of
from dkn_ros.models import FDKN
from dkn_ros.pipeline import Pipeline

FloatImage = NDArray[np.float32]
MakePipeline = Callable[..., Pipeline]

GPU = torch.device("cuda", 1)
CPU = Way(torch.device("cpu"), NUMBA)
FULL = [Way(GPU, TRITON), Way(GPU, PYTORCH), CPU]
OLD = Cuda(False, "The NVIDIA driver on your system is too old (found version 11040).")

OutOfMemory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ...")
Lost = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
Broken = TritonError("no kernel image")


@pytest.mark.parametrize(
    ("requested", "cuda", "allowed", "ways", "note"),
    [
        ("cpu", Cuda(True), True, [CPU], ""),
        ("auto", Cuda(False), True, [CPU], ""),
        ("auto", Cuda(False), False, [CPU], ""),
        (
            "auto",
            OLD,
            True,
            [CPU],
            "no GPU: The NVIDIA driver on your system is too old (found version 11040).; goes on",
        ),
        ("cpu", OLD, True, [CPU], ""),
        ("cuda:1", Cuda(True), True, FULL, ""),
        ("cuda:1", Cuda(True), False, FULL[:2], ""),
        ("cuda:1", Cuda(False), True, [CPU], "device is 'cuda:1' but PyTorch finds none; goes on with cpu with numba"),
        ("cuda", OLD, True, [CPU], "device is 'cuda' but The NVIDIA driver on your system is too old"),
    ],
    ids=str,
)
def test_ways_from_the_best_down(requested: str, cuda: Cuda, allowed: bool, ways: list[Way], note: str) -> None:
    found, notes = ways_of(requested, cuda, allowed)
    assert found == ways
    assert len(notes) == bool(note) and "".join(notes).startswith(note)


@pytest.mark.parametrize("requested", ["gpu", "cuda:", ""])
@pytest.mark.parametrize("allowed", [True, False])
def test_the_name_of_no_device_has_no_substitute(requested: str, allowed: bool) -> None:
    with pytest.raises(ValueError, match="wanted: auto, cpu, cuda or cuda:N"):
        ways_of(requested, Cuda(False), allowed)


def test_without_leave_a_missing_gpu_is_an_error() -> None:
    with pytest.raises(ValueError, match="device is 'cuda' but PyTorch finds no CUDA device"):
        ways_of("cuda", Cuda(False), False)


def test_this_machine_says_whether_it_has_a_gpu() -> None:
    assert cuda_state().available == torch.cuda.is_available()
    assert not (cuda_state().available and cuda_state().complaint)


# --- a pipeline whose engines fail ----------------------------------------------------------------------------------


class Plan:
    """What fails when: for each way the errors of successive starts, and of successive calls of its target tower.

    None is a success; after the last one all succeed.
    """

    def __init__(self) -> None:
        self.starts: dict[Way, list[Exception | None]] = {}
        self.calls: dict[Way, list[Exception | None]] = {}
        self.started: list[Way] = []

    def engine(self, model: FDKN, way: Way, precision: str) -> Engine:
        self.started.append(way)
        _raise_next(self.starts.get(way))
        engine = Engine(model, CPU, precision)
        tower = engine._target
        assert tower is not None

        def failing(blocks: torch.Tensor) -> Any:
            _raise_next(self.calls.get(way))
            return tower(blocks)

        engine._target = failing
        return engine


def _raise_next(errors: list[Exception | None] | None) -> None:
    error = errors.pop(0) if errors else None
    if error is not None:
        raise error


@pytest.fixture
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def wanted(small_weights: Path) -> FloatImage:
    """What a pipeline gives in which nothing fails."""
    config = PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1)
    return Pipeline(config).enhance(RGB, DEPTH).depth


@pytest.fixture
def make(plan: Plan, wanted: FloatImage, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> MakePipeline:
    """Makes a pipeline on a machine that seems to have a GPU."""
    monkeypatch.setattr("dkn_ros.pipeline.cuda_state", lambda: Cuda(True))
    monkeypatch.setattr("dkn_ros.pipeline.Engine", plan.engine)

    def make_pipeline(**settings: Any) -> Pipeline:
        fixed = {"weights": str(small_weights), "device": "cuda:1", "precision": "float32", "threads": 1}
        return Pipeline(PipelineConfig(**{**fixed, **settings}))

    return make_pipeline


RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
DEPTH = np.linspace(1, 3, 48, dtype=np.float32).reshape(6, 8)


def assert_enhances(pipeline: Pipeline, wanted: FloatImage, **given: Any) -> None:
    np.testing.assert_array_equal(pipeline.enhance(RGB, DEPTH, **given).depth, wanted)


def test_a_gpu_that_works_is_used_and_nothing_is_said(make: MakePipeline, plan: Plan, wanted: FloatImage) -> None:
    pipeline = make()
    assert_enhances(pipeline, wanted)
    assert plan.started == [FULL[0]] and pipeline.notes == () and pipeline.path == "cuda:1 with Triton"


@pytest.mark.parametrize(
    ("errors", "ways", "said"),
    [
        ([OutOfMemory], [0, 2], ["cuda:1 with Triton failed: CUDA out of memory. Tried to allocate 20.00 MiB."]),
        ([Broken], [0, 1], ["cuda:1 with Triton failed: no kernel image"]),
        ([Lost], [0, 0], ["cuda:1 with Triton failed: CUDA error: unspecified launch failure"]),
        ([Lost, Lost], [0, 0, 2], ["cuda:1 with Triton failed: CUDA error: unspecified launch failure"] * 2),
        (
            [Lost, None, None, Lost],
            [0, 0, 2],
            ["cuda:1 with Triton failed: CUDA error: unspecified launch failure"] * 2,
        ),
        ([Lost, OutOfMemory], [0, 0, 2], ["cuda:1 with Triton failed: CUDA ", "cuda:1 with Triton failed: CUDA out"]),
    ],
    ids=str,
)
def test_a_frame_that_fails_is_done_another_way(
    make: MakePipeline, plan: Plan, wanted: FloatImage,
    errors: list[Exception], ways: list[int], said: list[str],
) -> None:  # fmt: skip
    plan.calls[FULL[0]] = list(errors)
    pipeline = make()
    for _ in range(4):
        assert_enhances(pipeline, wanted)
    assert plan.started == [FULL[i] for i in ways]
    assert pipeline.path == str(FULL[ways[-1]])
    assert len(pipeline.notes) == len(said)
    for note, start, way in zip(pipeline.notes, said, ways[1:], strict=True):
        assert note.startswith(start) and note.endswith(f"; goes on with {FULL[way]}") and "\n" not in note


@pytest.mark.parametrize("error", [OutOfMemory, Lost, Broken], ids=str)
def test_a_gpu_that_cannot_be_started(make: MakePipeline, plan: Plan, wanted: FloatImage, error: Exception) -> None:
    plan.starts[FULL[0]], plan.starts[FULL[1]] = [error], [error]
    pipeline = make()
    assert_enhances(pipeline, wanted)
    assert plan.started == FULL and pipeline.path == str(CPU)
    (note,) = pipeline.notes
    assert note.startswith("cuda:1 with Triton failed: ") and "; cuda:1 with PyTorch failed: " in note
    assert note.endswith("; goes on with cpu with numba")


def test_a_precision_that_the_gpu_alone_has_stands_in_nobodys_way(make: MakePipeline, plan: Plan) -> None:
    """The CPU works with its own; other settings may change all the same, and this one to what the CPU has."""
    plan.starts[FULL[0]], plan.starts[FULL[1]] = [Lost], [Lost]
    pipeline = make(precision="float16")
    assert pipeline.path == str(CPU)
    pipeline.check(replace(pipeline.config, min_depth=0.5))
    pipeline.check(replace(pipeline.config, precision="int8"))
    with pytest.raises(ValueError, match="precision is float16"):
        pipeline.config = replace(pipeline.config, precision="int8")
        pipeline.check(replace(pipeline.config, precision="float16"))


def test_a_lost_gpu_that_does_not_come_back(make: MakePipeline, plan: Plan, wanted: FloatImage) -> None:
    plan.calls[FULL[0]], plan.starts[FULL[0]], plan.starts[FULL[1]] = [None, Lost], [None, Lost], [Lost]
    pipeline = make()
    for _ in range(3):
        assert_enhances(pipeline, wanted)
    assert plan.started == [FULL[0], FULL[0], FULL[1], CPU] and len(pipeline.notes) == 1


def test_without_leave_the_cpu_does_not_stand_in(make: MakePipeline, plan: Plan, wanted: FloatImage) -> None:
    plan.calls[FULL[0]], plan.calls[FULL[1]] = [Broken], [None, OutOfMemory]
    pipeline = make(fallback=False)
    assert_enhances(pipeline, wanted)
    assert pipeline.path == "cuda:1 with PyTorch"
    with pytest.raises(torch.OutOfMemoryError):
        pipeline.enhance(RGB, DEPTH)
    assert_enhances(pipeline, wanted)
    assert plan.started == FULL[:2] and len(pipeline.notes) == 1


def test_errors_that_are_not_the_devices_are_raised(make: MakePipeline, plan: Plan) -> None:
    plan.calls[FULL[0]] = [TypeError("ours")]
    plan.calls[CPU] = [RuntimeError("of the CPU")]
    pipeline = make()
    with pytest.raises(ValueError, match="rgb is"):
        pipeline.enhance(RGB[..., :2], DEPTH)
    with pytest.raises(TypeError, match="ours"):
        pipeline.enhance(RGB, DEPTH)
    assert pipeline.notes == () and plan.started == FULL[:1]
    with pytest.raises(RuntimeError, match="of the CPU"):
        make(device="cpu").enhance(RGB, DEPTH)


def test_what_another_engine_saw_in_a_colour_image_is_not_used(
    make: MakePipeline, plan: Plan, wanted: FloatImage
) -> None:
    plan.calls[FULL[0]] = [OutOfMemory]
    pipeline = make()
    seen = pipeline.look(RGB, (6, 8))
    assert seen.heads is not None
    with torch.inference_mode():
        seen.heads[0].fill_(float("nan"))
    assert_enhances(pipeline, wanted, guidance=seen)
    assert pipeline.path == str(CPU)
    assert_enhances(pipeline, wanted, guidance=seen)


def test_raw_images_fall_too(make: MakePipeline, plan: Plan) -> None:
    plan.calls[FULL[0]] = [OutOfMemory]
    pipeline = make()
    raw = np.random.default_rng(1).uniform(0, 1, RGB.shape[:2]).astype(np.float32)
    first = pipeline.filter_raw(RGB, raw)
    assert pipeline.path == str(CPU) and len(pipeline.notes) == 1
    np.testing.assert_array_equal(pipeline.filter_raw(RGB, raw), first)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which Triton cannot serve")
def test_triton_that_cannot_serve_says_why(make_model: MakeModel) -> None:
    with pytest.raises(TritonError) as raised:
        Engine(make_model(), Way(torch.device("cpu"), TRITON), "float32")
    assert str(raised.value) and "\n" not in str(raised.value)


LOSE = """
import numpy as np, sys, torch
from dkn_ros.config import PipelineConfig
from dkn_ros.device import return_freed_memory
from dkn_ros.pipeline import Pipeline
pipeline = Pipeline(PipelineConfig(weights=sys.argv[1], device="cuda", precision="float32"))
rgb, depth = np.zeros((96, 128, 3), np.uint8), np.full((24, 32), 1000, np.uint16)
pipeline.enhance(rgb, depth)
torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]  # an assertion on the device: its context is lost
result = pipeline.enhance(rgb, depth)
pipeline.release()
return_freed_memory()
print(result.valid.all(), pipeline.path)
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_lost_does_not_take_the_process_with_it(small_weights: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOSE, str(small_weights)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"True {CPU}" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_out_of_memory_goes_on_with_the_cpu(small_weights: Path) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(small_weights), device="cuda", precision="float32"))
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        result = pipeline.enhance(np.zeros((1080, 1920, 3), np.uint8), np.full((270, 480), 1000, np.uint16))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.valid.all() and pipeline.path == str(CPU) and "out of memory" in pipeline.notes[0]
