"""The ONNX file: its form of the average against the definition, and ONNX Runtime against the pipeline."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray
from test_sampling import SHAPES, random_inputs

from dkn_ros import cli
from dkn_ros.config import PipelineConfig
from dkn_ros.export import NEEDED, OPSET, Exportable, read_size, windowed_average
from dkn_ros.pipeline import Pipeline
from dkn_ros.postprocess import LEAST_SHARE
from dkn_ros.sampling import WINDOW, reference
from dkn_ros.sampling.fused import Finish
from dkn_ros.synthetic.degradation import CameraModel, degrade
from dkn_ros.synthetic.scene import Scene
from dkn_ros.weights import save_weights

missing = [name for name in (*NEEDED, "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("reach", [0.0, 2.0, 7.0, 40.0])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] == 1], ids=str)
def test_grid_sample_within_a_window_is_the_average(shape: tuple[int, int, int, int], reach: float) -> None:
    inputs = random_inputs(*shape, reach=reach, dtype=torch.float64)
    torch.testing.assert_close(
        windowed_average(*inputs), reference.deformable_average(*inputs, WINDOW), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("edge", [-WINDOW // 2 - 1, -(WINDOW // 2), WINDOW // 2, WINDOW // 2 + 1])
@pytest.mark.parametrize("beside", [-0.25, 0.0, 0.25])
def test_a_sample_beyond_the_windows_edge_fades(edge: int, beside: float) -> None:
    depth, weight, offset = random_inputs(1, 21, 30, 3)
    offset = torch.full_like(offset, edge + beside)
    wanted = reference.deformable_average(depth, weight, offset, WINDOW)
    torch.testing.assert_close(windowed_average(depth, weight, offset), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", ["640", "640x", "x480", "640x480x3", "0x480", "640x0", "-1x4", "9000x100", "640×480"])
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="wanted: WIDTHxHEIGHT"):
        read_size(text)
    assert read_size("640x480") == (640, 480)


def test_without_the_packages_it_says_what_to_install(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dkn_ros.export.NEEDED", ("onnx_of_nobody", "scripts_of_nobody"))
    assert cli.main(["weights", "export", str(small_weights), "-o", str(tmp_path / "x.onnx")]) == 1
    assert capsys.readouterr().err.endswith("missing; install: pip install onnx_of_nobody scripts_of_nobody\n")
    assert not (tmp_path / "x.onnx").exists()


def exported(weights: str, size: str, path: Path) -> Any:
    """ONNX Runtime's session of a file that the command wrote."""
    import onnxruntime

    assert cli.main(["weights", "export", weights, "--format", "onnx", "--size", size, "-o", str(path)]) == 0
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (20, 12)),
        ({"validity": True, "traits": True}, (27, 18)),
        ({"rgb": True, "residual": False}, (5, 3)),
        ({"guided": False, "kernel_size": 5}, (16, 16)),
        ({"published_grid": True}, (13, 9)),
    ],
    ids=str,
)
def test_onnx_runtime_gives_what_the_network_gives(
    make_model: MakeModel, tmp_path: Path, options: dict[str, Any], size: tuple[int, int]
) -> None:
    model = make_model(**options)
    save_weights(model, tmp_path / "w.safetensors", model="fdkn", options={"n1": 8, "n2": 8, **options})
    session = exported(str(tmp_path / "w.safetensors"), f"{size[0]}x{size[1]}", tmp_path / "w.onnx")
    torch.manual_seed(1)
    inputs = Exportable(model).inputs(*size)
    assert [i.name for i in session.get_inputs()] == list(inputs)
    assert [i.shape for i in session.get_inputs()] == [list(value.shape) for value in inputs.values()]
    with torch.no_grad():
        wanted = model(*(inputs.get(name) for name in ("guidance", "target", "validity", "traits")))
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert (wanted - inputs["target"]).abs().max() > 0.05
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)


@needs_onnx
def test_the_shipped_network_in_onnx_is_that_of_the_pipeline(tmp_path: Path) -> None:
    """By what README says of its inputs and output."""
    import onnx

    session = exported("fdkn", "160x120", tmp_path / "fdkn.onnx")
    frame = Scene(0).frame(160, 120)
    low = degrade(frame.depth, CameraModel(factor=4, method="nearest"), np.random.default_rng(0))
    pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32", threads=1))
    assert np.isfinite(low).all()
    wanted = pipeline.enhance(frame.rgb, low).depth
    guidance, target = pipeline.prepare(frame.rgb, low)
    assert pipeline.card.back_projection * target.traits.trust(target.ratio) < LEAST_SHARE
    given: dict[str, NDArray[np.float32]] = {
        "guidance": guidance[None],
        "target": target.image[None, None],
        "validity": target.validity[None, None],
        "traits": target.traits.encoded()[None, : pipeline.model.options.told],
    }
    (filtered,) = session.run(["filtered"], given)
    strength = pipeline.card.strength_at(target.ratio, target.traits.antialiased)
    found = np.empty_like(target.image)
    Finish(strength, target.low, target.high, True).apply(filtered[0, 0], target.image, found)
    assert np.abs(wanted - (target.low + (target.high - target.low) * target.image)).max() > 0.05
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * (target.high - target.low))
    file = onnx.load(str(tmp_path / "fdkn.onnx"))
    onnx.checker.check_model(file)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", OPSET)]
    assert [node.op_type for node in file.graph.node].count("GridSample") == 1
    assert {entry.key: entry.value for entry in file.metadata_props}["dkn_ros.sha256"] == pipeline.card.sha256
