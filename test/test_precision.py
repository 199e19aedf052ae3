"""How far bfloat16 is from float32, with the weights that come with the package, on its own scenes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.degradation import KINECT, CameraModel, degrade
from dkn_ros.synthetic.scene import Scene

SEEDS = (0, 1, 2)
CAMERAS = {
    "4x with noise and holes": dataclasses.replace(KINECT, factor=4),
    "8x clean": CameraModel(factor=8, method="bicubic"),
}


@pytest.fixture(scope="module")
def pipelines() -> tuple[Pipeline, Pipeline]:
    """In float32 and in bfloat16."""
    exact, rounded = (Pipeline(PipelineConfig(device="cpu", precision=kind)) for kind in ("float32", "bfloat16"))
    return exact, rounded


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize("seed", SEEDS)
def test_bfloat16_adds_little_to_the_error(
    pipelines: tuple[Pipeline, Pipeline], camera: CameraModel, seed: int
) -> None:
    frame = Scene(seed).frame(320, 240)
    low = degrade(frame.depth, camera, np.random.default_rng(seed))
    exact, rounded = (pipeline.enhance(frame.rgb, low).depth for pipeline in pipelines)
    np.testing.assert_array_equal(np.isnan(exact), np.isnan(rounded))
    known = np.isfinite(exact)
    assert known.mean() > 0.5
    difference, error = np.abs(exact - rounded)[known], (exact - frame.depth)[known]
    print(f"RMS {rms(difference):.6f}, 99th percentile {np.percentile(difference, 99):.6f}, RMSE {rms(error):.6f} m")
    assert 0 < rms(difference) < 0.001 * rms(exact[known])
    assert np.median(difference) < 0.0005  # metres
    assert np.percentile(difference, 99) < 0.002 * np.ptp(exact[known])  # at edges it is a share of their step
    assert rms(difference) < 0.04 * rms(error)


def test_the_precision_changes_between_two_frames(pipelines: tuple[Pipeline, Pipeline]) -> None:
    """Also where the colour image was looked at in the other one."""
    frame = Scene(7).frame(160, 120)
    low = degrade(frame.depth, CAMERAS["8x clean"], np.random.default_rng(7))
    exact, rounded = (pipeline.enhance(frame.rgb, low).depth for pipeline in pipelines)
    assert not np.array_equal(exact, rounded)
    changing = Pipeline(PipelineConfig(device="cpu", precision="float32"))
    np.testing.assert_array_equal(changing.enhance(frame.rgb, low).depth, exact)
    for kind, expected in (("bfloat16", rounded), ("float32", exact)):
        seen = changing.look(frame.rgb, low.shape)
        changing.config = dataclasses.replace(changing.config, precision=kind)
        np.testing.assert_array_equal(changing.enhance(frame.rgb, low, seen).depth, expected)
        assert str(changing.precision) == f"torch.{kind}"


def rms(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
