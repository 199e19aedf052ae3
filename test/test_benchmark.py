"""The benchmark: what it compares with is the same filter, and what it writes is complete; how fast is not tested."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dkn_ros import cli
from dkn_ros.benchmark import floors, memory, report, run, timing
from dkn_ros.benchmark.floors import Amounts, Cover, Yardsticks
from dkn_ros.benchmark.published import Published, bytes_available, bytes_needed, published_filter
from dkn_ros.config import PipelineConfig
from dkn_ros.device import Cuda
from dkn_ros.engine import PYTORCH, Way
from dkn_ros.gpu import device_frames
from dkn_ros.models import FDKN
from dkn_ros.pipeline import Pipeline
from dkn_ros.sampling import WINDOW, published, reference
from dkn_ros.settings import chosen

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}
SIZES = ((64, 48), (96, 80))
SPREAD = {"median", "p95", "p99"}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LITTLE = Amounts(side=64, rows=12, megabytes=4)
"""Yardsticks that measure nothing but take no time."""


@pytest.fixture
def pipeline(small_weights: Path) -> Pipeline:
    return Pipeline(PipelineConfig(weights=str(small_weights), precision="float32", **CPU))


@pytest.fixture(scope="module")
def document(small_weights: Path) -> dict[str, Any]:
    """A benchmark of both number types at two sizes."""
    config = PipelineConfig(weights=str(small_weights), **CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ALONE_SIZE", SIZES[0])
        patch.setitem(floors.AMOUNTS, "cpu", LITTLE)
        found = run.run(run.Plan(SIZES, config, ("float32", "bfloat16"), frames=2))
    return {**found, "machine": report.machine("cpu", 1)}


# The published way


@pytest.mark.parametrize("size", [3, 5])
def test_published_average_is_the_definition(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    depth = torch.rand(2, 1, 19, 22, generator=generator)
    weight = torch.randn(2, size**2, 19, 22, generator=generator)
    offset = 5 * torch.randn(2, 2 * size**2, 19, 22, generator=generator)  # some lead out of window and image
    expected = reference.deformable_average(depth, weight, offset, WINDOW)
    assert torch.std(expected) > 0.1
    torch.testing.assert_close(published.deformable_average(depth, weight, offset, WINDOW), expected, atol=2e-5, rtol=0)


@needs_gpu
def test_published_average_of_more_pixels_than_a_batch_of_cudnn() -> None:
    depth, weight = torch.rand(1, 1, 260, 260), torch.randn(1, 9, 260, 260)
    offset = torch.randn(1, 18, 260, 260)
    expected = reference.deformable_average(depth, weight, offset, WINDOW)
    found = published.deformable_average(depth.cuda(), weight.cuda(), offset.cuda(), WINDOW)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"residual": False}, {"guided": False}, {"rgb": True, "validity": True}, {"published_grid": True},
     {"kernel_size": 5}, {"validity": True, "traits": True}],
    ids=str,
)  # fmt: skip
def test_published_filter_is_the_network(make_model: Any, options: dict[str, Any]) -> None:
    model: FDKN = make_model(**options)
    generator = torch.Generator().manual_seed(1)
    guidance = torch.rand(1, 3 if model.options.rgb else 1, 21, 30, generator=generator)
    target, validity = torch.rand(2, 1, 1, 21, 30, generator=generator)
    traits = torch.tensor([[0.9, 0.3, 0.4]])
    given = (guidance if model.options.guided else None, target, validity, traits)
    with torch.no_grad():
        expected = model(*given)
    result = published_filter(model, *given)
    assert result.shape == target.shape
    assert (result - target).abs().max() > 0.01  # or there is nothing to compare
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 4])
def test_published_frame_is_the_pipelines(pipeline: Pipeline, factor: int) -> None:
    view = timing.views(66, 50, factor)[0]
    expected = pipeline.enhance(view.rgb, view.depth)
    assert expected.valid.all()
    np.testing.assert_allclose(Published(pipeline).enhance(view.rgb, view.depth), expected.depth, atol=1e-4)


def test_needed_memory_is_that_of_the_patches_and_more(make_model: Any) -> None:
    model = make_model()
    patches = 2 * 4 * WINDOW**2 * 640 * 480
    assert patches < bytes_needed(640, 480, model) < 2 * patches
    assert (bytes_available(torch.device("cpu")) or 0) > 1 << 20


def test_a_published_way_that_fails_costs_no_other_figure(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nadvice")

    monkeypatch.setattr(run, "measure", fail)
    plan = run.Plan(SIZES[:1], pipeline.config, ("float32",), frames=2)
    view = timing.views(64, 48, 4)[0]
    assert run._reference_peak(plan, pipeline, view, 64, 48) == (
        None,
        "fails: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    )


# Frames and contenders


def test_views_have_no_holes_and_the_asked_sizes() -> None:
    found = timing.views(64, 48, 4)
    assert len(found) == timing.VIEWS
    for view in found:
        assert (view.rgb.shape, view.depth.shape) == ((48, 64, 3), (12, 16))
        assert view.depth.dtype == np.uint16 and view.depth.min() > 0 and np.ptp(view.depth) > 100
    assert (found[0].rgb != found[1].rgb).any()


def test_contenders_take_turns() -> None:
    calls = ""

    def contender(name: str, aside: bool) -> timing.Contender:
        def work(_: timing.View) -> dict[str, float]:
            nonlocal calls
            calls += name
            return {"stage": 1.0}

        return timing.Contender(work, aside)

    both = [contender("a", False), contender("b", True)]
    view = timing.View(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.uint16))
    with timing.tqdm(disable=True) as bar:
        timing.race(both, [view], torch.device("cpu"), 40, bar)
    assert calls[:4] == "aabb"
    assert calls[4:] == "aab" * timing.FEW[1]
    assert [len(one.milliseconds) for one in both] == [40, 20] == [len(one.stages["stage"]) for one in both]


def test_number_of_frames() -> None:
    def count(milliseconds: float, frames: int, aside: bool) -> int:
        return timing.Contender(lambda _: None, aside, [milliseconds]).count(frames)

    (least, most), (few, some) = timing.FRAMES, timing.FEW
    assert [count(ms, 0, False) for ms in (1e-3, 1e6)] == [most, least]
    assert [count(ms, 0, True) for ms in (1e-3, 1e6)] == [some, few]
    assert [count(1e6, 2, aside) for aside in (False, True)] == [2, 2]
    assert [count(1e6, 50, aside) for aside in (False, True)] == [50, few]


# What the machine allows


@pytest.mark.parametrize(
    "options", [{}, {"guided": False}, {"rgb": True, "validity": True, "traits": True}, {"kernel_size": 5}], ids=str
)
def test_multiply_adds_are_what_pytorch_counts(make_model: Any, options: dict[str, Any]) -> None:
    model: FDKN = make_model(**options)
    generator = torch.Generator().manual_seed(1)
    guidance = torch.rand(1, 3 if model.options.rgb else 1, 21, 30, generator=generator)
    target, validity = torch.rand(2, 1, 1, 21, 30, generator=generator)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(guidance if model.options.guided else None, target, validity, torch.tensor([[0.9, 0.3, 0.4]]))
    assert floors.multiply_adds(model, 21, 30) == counter.get_total_flops() / 2 > 1e5


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_of_the_average_are_those_of_its_images(small_weights: Path, precision: str, size: int) -> None:
    pipeline = Pipeline(PipelineConfig(weights=str(small_weights), precision=precision, **CPU))
    heads = floors.heads_of(pipeline, timing.views(66, 50, 4)[0])
    assert len(heads) == 4 and {head.element_size() for head in heads} == {size}
    # A weight and an offset in x and y for each of 9 samples by each of two towers; depth and result in float32.
    assert floors.average_bytes(heads, 48, 64) == (2 * 27 * size + 8) * 48 * 64
    assert floors.average_bytes(heads, 47, 61) == 2 * 27 * size * 48 * 64 + 8 * 47 * 61


def test_yardsticks_are_faster_than_nothing_and_slower_than_light() -> None:
    kinds = (torch.float32, torch.bfloat16, torch.int8, torch.float32)
    yardsticks = Yardsticks(torch.device("cpu"), kinds, LITTLE)
    view = timing.View(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.uint16))
    with timing.tqdm(disable=True) as bar:
        timing.race(yardsticks.contenders(floors.READ), [view], torch.device("cpu"), 2, bar)
        assert set(yardsticks.rates) == {floors.READ}
        timing.race(yardsticks.contenders(), [view], torch.device("cpu"), 2, bar)
    assert set(yardsticks.rates) == {
        "read", "matrix product, float32", "3 x 3 convolution, float32", "matrix product, bfloat16",
        "3 x 3 convolution, bfloat16", "matrix product, int8", "3 x 3 convolution, int8",
    }  # fmt: skip
    assert all(1e6 < rate < 1e15 for rate in yardsticks.rates.values())


def test_a_rate_is_the_amount_over_the_shortest_time() -> None:
    contender = timing.Contender(lambda _: None, stages={floors.WORK: [4.0, 2.0, 8.0]})
    assert floors.Yardstick(6e6, contender).rate == 3e9


def test_work_is_timed_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        seen.append(torch.is_inference_mode_enabled())

    timings = floors.on_device(work, Cover(torch.device("cpu"), 1))(timing.View(np.zeros(0), np.zeros(0)))  # type: ignore[arg-type]
    assert seen == [True] and timings is not None and set(timings) == {floors.WORK}


@pytest.mark.parametrize("stages", [{"guidance": 3.0, "target": 5.0, "average": 2.0}, {"guidance": 3.0}], ids=str)
def test_floors_are_work_over_the_best_rate(pipeline: Pipeline, stages: dict[str, float]) -> None:
    rates = {"read": 1e9, "matrix product, float32": 1e9, "3 x 3 convolution, float32": 2e9, "faster, bfloat16": 9e9}
    found = floors.floors(pipeline, timing.views(64, 48, 4)[0], rates, stages)
    convolutions, average = found["convolutions"], found["average"]
    assert (convolutions["rate_by"], average["rate_by"]) == ("3 x 3 convolution, float32", "read")
    assert convolutions["ms"] == 1e3 * floors.multiply_adds(pipeline.model, 48, 64) / 2e9
    assert average["ms"] == 1e3 * (2 * 27 * 4 + 8) * 48 * 64 / 1e9
    if len(stages) > 1:
        assert convolutions["ratio"] == 8 / convolutions["ms"] and average["ratio"] == 2 / average["ms"]
    else:
        assert convolutions["ratio"] is average["ratio"] is None


# Memory


def resident(size: int) -> memory.Peak:
    def work() -> None:
        np.ones(size << 17).sum()  # MiB of float64

    return memory.resident_peak(work)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_peak_is_that_of_the_work() -> None:
    for size in (400, 100):  # the second smaller than what came before
        found = resident(size)
        assert found.megabytes is not None
        assert abs(found.megabytes - size * 1.048576) < 25


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_peak_is_sampled_where_the_mark_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_mark", lambda proc: False)
    found = resident(400)
    assert "millisecond" in found.method
    assert found.megabytes is not None and 0 < found.megabytes < 450


def test_peak_without_proc(tmp_path: Path) -> None:
    done = []
    found = memory.resident_peak(lambda: done.append(1), tmp_path)
    assert found.megabytes is None and "unknown" in found.method and done == [1]


def _die(*_: object) -> None:
    os._exit(1)


def _run_out(*_: object) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.\nmore")


@pytest.mark.parametrize("failing", [_die, _run_out])
def test_lack_of_memory_is_told(monkeypatch: pytest.MonkeyPatch, small_weights: Path, failing: Any) -> None:
    monkeypatch.setattr(memory, "_measure_here", failing)
    view = timing.View(np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), np.uint16))
    with pytest.raises(memory.DoesNotFitError) as raised:
        memory.measure(PipelineConfig(weights=str(small_weights), **CPU), view.rgb, view.depth)
    assert len(str(raised.value).splitlines()) == 1


# The whole


def test_document_is_complete_and_sane(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    places = [(entry["width"], entry["height"], entry["precision"]) for entry in document["results"]]
    assert places == [(*size, precision) for size in SIZES for precision in ("float32", "bfloat16")]
    for entry in document["results"]:
        assert (entry["device"], entry["threads"], entry["frames"]) == ("cpu", 1, 2)
        whole = entry["whole_ms"]
        assert set(whole) == SPREAD and 0 < whole["median"] <= whole["p95"] <= whole["p99"]
        stages = entry["stages_ms"]
        assert {"preprocess", "guidance", "target", "average", "postprocess"} <= set(stages)
        assert "whole" not in stages and all(value > 0 for value in stages.values())
        assert stages == {name: found["median"] for name, found in entry["stages_spread_ms"].items()}
        assert entry["speedup"] == entry["reference_ms"]["median"] / whole["median"]
        assert entry["reference_frames"] == 2 and entry["reference_note"] == ""
        assert entry["peak_mb"] >= 0 and entry["reference_peak_mb"] > 0
        assert set(entry["early_ms"]) == SPREAD and entry["early_ms"]["median"] > 0
        assert 0 < entry["difference_relative"] < (1e-4 if entry["precision"] == "float32" else 0.05)
        assert entry["difference_mm"]["p99"] < (0.1 if entry["precision"] == "float32" else 100)
        assert set(entry["floors"]) == {"convolutions", "average"}
        for floor in entry["floors"].values():
            assert math.isclose(floor["ms"], 1e3 * floor["amount"] / floor["rate_per_s"])
            assert math.isclose(floor["ratio"], floor["measured_ms"] / floor["ms"])
            assert entry["precision"] in floor["rate_by"] or floor["unit"] == "bytes"
        megapixels = entry["width"] * entry["height"] / 1e6
        assert math.isclose(entry["ms_per_megapixel"] * megapixels, whole["median"])
    assert [entry["relative_per_megapixel"] for entry in document["results"][:2]] == [1, 1]
    assert set(document["average"]["ms"]) == {
        "published", "plain", "sampling", "plain_from_heads", "pipeline_from_heads"
    }  # fmt: skip
    assert document["average"]["speedup"] > 0 and document["average"]["speedup_from_heads"] > 0
    floor = document["average"]["floor"]
    assert math.isclose(floor["ratio"] * floor["ms"], document["average"]["ms"]["pipeline_from_heads"])
    assert set(document["outputs"]["ms"]) == {"confidence", "validity", "preview", "points", "png", "rvl"}
    assert all(ms > 0 for ms in document["outputs"]["ms"].values())
    facts = document["machine"]
    assert facts["cpu"] and facts["torch"] == torch.__version__ and facts["gpu"] is None


class Refusing:
    """No graph can be captured."""

    def record(self, work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("device", ["threads", pytest.param("cuda", marks=needs_gpu)])
def test_whole_frames_on_a_device_are_measured_too(
    device: str, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On threads in place of a GPU's streams; confidence is no stage of its own there."""
    monkeypatch.setattr(run, "ALONE_SIZE", SIZES[0])
    monkeypatch.setattr(run, "measure", lambda *_, **__: memory.Peak(1.0, "not measured"))
    monkeypatch.setitem(floors.AMOUNTS, "cpu", LITTLE)
    monkeypatch.setitem(floors.AMOUNTS, "cuda", LITTLE)
    if device == "threads":
        here = Way(torch.device("cpu"), PYTORCH)
        monkeypatch.setattr("dkn_ros.pipeline.cuda_state", lambda: Cuda(True))
        monkeypatch.setattr("dkn_ros.pipeline.ways_of", lambda *asked: ([here], []))
        monkeypatch.setattr(device_frames, "recorder_of", lambda device: Refusing())
    config = PipelineConfig(weights=str(small_weights), device="cuda", threads=1)
    found = run.run(run.Plan(SIZES[:1], config, ("float32",), frames=2))
    assert {"copy up", "guidance", "target", "average", "copy down"} <= set(found["results"][0]["stages_ms"])
    assert found["outputs"]["ms"]["confidence"] >= 0
    if device == "threads":
        assert found["path"] == str(here)
        assert len(found["path_notes"]) == 1 and "captures no graph" in found["path_notes"][0]
    else:
        assert found["path_notes"] == []


@pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs OpenCV's contrib modules")
def test_classical_filters_are_timed(document: dict[str, Any]) -> None:
    assert [(entry["method"], entry["width"]) for entry in document["classical"]] == [
        ("guided", 64), ("fgs", 64), ("guided", 96), ("fgs", 96)
    ]  # fmt: skip
    assert all(entry["whole_ms"]["median"] > 0 for entry in document["classical"])


def test_without_reference_and_classical_filters(
    monkeypatch: pytest.MonkeyPatch, small_weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "ALONE_SIZE", SIZES[0])
    monkeypatch.setitem(floors.AMOUNTS, "cpu", LITTLE)
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    plan = run.Plan(SIZES[:1], PipelineConfig(weights=str(small_weights), **CPU), ("float32",), 2, 1, reference=False)
    found = {**run.run(plan), "machine": report.machine("cpu", 1)}
    (entry,) = found["results"]
    assert entry["reference_ms"] is entry["speedup"] is entry["reference_peak_mb"] is entry["difference_mm"] is None
    assert entry["difference_relative"] is None
    assert found["classical"] == [] and "published" not in found["average"]["ms"]
    text = report.table(found)
    assert "not asked for" in text and "no ximgproc" in text
    report.plot(found, tmp_path / "plot.png")


def test_reference_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    view = timing.views(64, 48, 4)[0]
    plan = run.Plan(SIZES, pipeline.config)
    monkeypatch.setattr(run, "bytes_available", lambda device: 10**6)
    peak, note = run._reference_peak(plan, pipeline, view, 1920, 1080)
    assert peak is None and note.endswith("0.0 GB are free")

    def fail(*_: object, **__: object) -> None:
        raise memory.DoesNotFitError("killed")

    monkeypatch.setattr(run, "measure", fail)
    monkeypatch.setattr(run, "bytes_available", lambda device: None)
    assert run._reference_peak(plan, pipeline, view, 64, 48) == (None, "does not fit in memory: killed")
    with pytest.raises(memory.DoesNotFitError, match=r"64x48 .* leave it out"):
        run._peak(pipeline, view)


def test_table_is_readable(document: dict[str, Any]) -> None:
    text = report.table(document)
    assert max(map(len, text.splitlines())) <= 130
    for wanted in ("64x48", "96x80", "float32", "bfloat16", "published", "guidance", "deformable average alone", "rvl",
                   "floor, convolutions", "GB/s", "10^9 multiply-adds/s"):  # fmt: skip
        assert wanted in text
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("size "))
    assert len({line.count("x") for line in lines[head + 1 : head + 5]}) == 1
    assert [[size, kind] for size, _, kind, *_ in map(str.split, lines[head + 1 : head + 5])] == [
        ["64x48", "float32"], ["64x48", "bfloat16"], ["96x80", "float32"], ["96x80", "bfloat16"]
    ]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_plot_is_written(document: dict[str, Any], tmp_path: Path) -> None:
    report.plot(document, tmp_path / "plot.png")
    image = cv2.imread(str(tmp_path / "plot.png"))
    assert image is not None and image.shape[0] >= 300 and np.std(image) > 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16 x\n", ("Some CPU", ["avx2", "avx512_bf16"])),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", ("", ["asimd", "bf16"])),
        ("", ("", [])),
    ],
)  # fmt: skip
def test_facts_of_the_cpu(text: str, expected: tuple[str, list[str]]) -> None:
    assert report.cpu_facts(text) == expected


# The command


def test_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small_weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "ALONE_SIZE", SIZES[0])
    monkeypatch.setitem(floors.AMOUNTS, "cpu", LITTLE)
    output, picture = tmp_path / "numbers.json", tmp_path / "plot.png"
    arguments = ["benchmark", "--weights", str(small_weights), "--device", "cpu", "--threads", "1", "--frames", "1"]
    arguments += ["--sizes", "64x48", "--precisions", "float32", "--no-reference"]
    status = cli.main([*arguments, "--json", str(output), "--plot", str(picture)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "64x48" in printed.out and re.search(r"^stages, \S+, float32 ", printed.out, re.MULTILINE)
    found = json.loads(output.read_text())
    assert found["command"].startswith("dkn benchmark --weights") and found["factor"] == 4
    assert [entry["width"] for entry in found["results"]] == [64]
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--sizes", "640"], "WIDTHxHEIGHT"),
        (["--sizes", "64x48,"], "WIDTHxHEIGHT"),
        (["--sizes", "8x8"], "32 to 8192"),
        (["--precisions", "float64"], "auto, float32, bfloat16, float16, int8"),
        (["--factor", "0"], "1 to 16"),
        (["--frames", "-1"], "1 or more"),
        (["--device", "tpu"], "auto, cpu, cuda or cuda:N"),
        (["--weights", "none"], "none"),
        (["--json", "no/folder/numbers.json"], "no/folder"),
        (["--plot", "plot.jpg"], ".png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: str) -> None:
    assert cli.main(["benchmark", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("dkn benchmark: ") and wanted in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_sizes_and_precisions() -> None:
    assert run.read_sizes("640x480, 320x240,640x480") == ((320, 240), (640, 480))
    assert chosen(PipelineConfig, "precision", "bfloat16,auto, bfloat16") == ("bfloat16", "auto")
