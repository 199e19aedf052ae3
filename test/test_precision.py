"""How far bfloat16 and int8 are from float32, with the weights that come with the package, on its own scenes."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dkn_ros import engine
from dkn_ros.blocks import guidance_blocks, target_blocks
from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.engine import PYTORCH, Engine, Way
from dkn_ros.fallback import Ladder
from dkn_ros.models.inference import folded, prepared
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.scene import Scene

CPU = torch.device("cpu")
SEEDS = (0, 1, 2)
CAMERAS = {
    "4x with noise and holes": dataclasses.replace(KINECT, factor=4),
    "8x clean": CameraModel(factor=8, method="bicubic"),
}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    """By their precision."""
    return {kind: Pipeline(PipelineConfig(device="cpu", precision=kind)) for kind in ("float32", "bfloat16", "int8")}


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "allowance"), [("bfloat16", 0.6), ("int8", 4.0)])
def test_fewer_digits_add_little_to_the_error(
    pipelines: dict[str, Pipeline], camera: CameraModel, seed: int, kind: str, allowance: float
) -> None:
    frame = Scene(seed).frame(320, 240)
    low = degrade(frame.depth, camera, np.random.default_rng(seed))
    exact, rounded = (pipelines[name].enhance(frame.rgb, low).depth for name in ("float32", kind))
    np.testing.assert_array_equal(np.isnan(exact), np.isnan(rounded))
    known = np.isfinite(exact)
    assert known.mean() > 0.5
    difference, error = np.abs(exact - rounded)[known], (exact - frame.depth)[known]
    print(f"RMS {rms(difference):.6f}, 99th percentile {np.percentile(difference, 99):.6f}, RMSE {rms(error):.6f} m")
    assert 0 < rms(difference) < 0.001 * allowance * rms(exact[known])
    assert np.median(difference) < 0.0005 * allowance  # metres
    # At edges it is a share of their step.
    assert np.percentile(difference, 99) < 0.002 * allowance * np.ptp(exact[known])
    assert rms(difference) < 0.04 * allowance * rms(error)
    assert abs(rms((rounded - frame.depth)[known]) / rms(error) - 1) < 0.01


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_float16_is_nearer_than_bfloat16(camera: CameraModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU rounds, on the CPU: there PyTorch computes in float16 too, only slowly, so that no pipeline takes it."""
    frame = Scene(0).frame(320, 240)
    low = degrade(frame.depth, camera, np.random.default_rng(0))
    found = {}
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        monkeypatch.setattr(engine, "resolve_precision", lambda *_, kind=kind: kind)
        pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32"))
        pipeline._ladder = Ladder([Way(CPU, PYTORCH)], partial(_engine, pipeline), "float32")
        assert pipeline.precision == kind
        found[kind] = pipeline.enhance(frame.rgb, low).depth
        pipeline.release()
    exact, rounded, half = found.values()
    known = np.isfinite(exact)
    np.testing.assert_array_equal(known, np.isfinite(half))
    assert 0 < rms((half - exact)[known]) < 0.5 * rms((rounded - exact)[known])
    assert rms((half - exact)[known]) < 0.0002 * rms(exact[known])


@pytest.mark.parametrize("name", ["guidance", "target"])
def test_bfloat16_begins_in_float32(pipelines: dict[str, Pipeline], name: str) -> None:
    """Of all roundings that of the images would change the heads most."""
    pipeline, frame = pipelines["float32"], Scene(3).frame(320, 240)
    low = degrade(frame.depth, CAMERAS["8x clean"], np.random.default_rng(3))
    options, tower = pipeline.model.options, getattr(pipeline.model, name)
    target = pipeline.prepare(frame.rgb, low)[1]
    seen = guidance_blocks(frame.rgb, options, Buffers())
    blocks = seen if name == "guidance" else target_blocks(target, options, Buffers())
    with torch.inference_mode():
        exact = prepared(tower, CPU, torch.float32)(blocks)
        mixed = prepared(tower, CPU, torch.bfloat16)(blocks)
        rounded = folded(tower).to(torch.bfloat16).layers(blocks.to(torch.bfloat16))
    for wanted, near, far in zip(exact, mixed, rounded, strict=True):
        assert near.dtype == torch.bfloat16
        distances = [rms((found.float() - wanted).numpy()) for found in (near, far)]
        assert 0 < distances[0] < 0.9 * distances[1]


def _engine(pipeline: Pipeline, way: Way, precision: str) -> Engine:
    return Engine(pipeline.model, way, precision)


def test_the_precision_changes_between_two_frames(pipelines: dict[str, Pipeline]) -> None:
    """Also where the colour image was looked at in the other one."""
    frame = Scene(7).frame(160, 120)
    low = degrade(frame.depth, CAMERAS["8x clean"], np.random.default_rng(7))
    for pipeline in pipelines.values():
        pipeline.forget_camera()  # which other tests have shown other frames
    wanted = {kind: pipeline.enhance(frame.rgb, low).depth for kind, pipeline in pipelines.items()}
    assert not np.array_equal(wanted["float32"], wanted["bfloat16"])
    assert not np.array_equal(wanted["bfloat16"], wanted["int8"])
    changing = Pipeline(PipelineConfig(device="cpu", precision="float32"))
    np.testing.assert_array_equal(changing.enhance(frame.rgb, low).depth, wanted["float32"])
    for kind in ("bfloat16", "int8", "float32"):
        seen = changing.look(frame.rgb, low.shape)
        changing.config = dataclasses.replace(changing.config, precision=kind)
        np.testing.assert_array_equal(changing.enhance(frame.rgb, low, seen).depth, wanted[kind])
        assert str(changing.precision) == f"torch.{kind}"


def rms(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
