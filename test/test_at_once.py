"""Several frames at once: how many, and that they do not disturb each other."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from harness import (
    Bench,
    Status,
    image,
    needs_rclpy,
    next_domain,
    of_stamp,
    parameters,
    peer_in,
    pixels_of,
    running,
)

from dkn_ros import at_once
from dkn_ros.at_once import PERIOD_MS, frames_at_once
from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.registration import Registration
from dkn_ros.ros.messages import stamp_ns
from dkn_ros.synthetic.degradation import KINECT, degrade
from dkn_ros.synthetic.scene import Scene


def stand_in(threads: int = 2, device: str = "cpu") -> Any:
    """What the rule asks of a pipeline."""
    return SimpleNamespace(threads=threads, device=torch.device(device), company=1)


@pytest.mark.parametrize(("shared_ms", "wanted"), [(1.0, 2), (1.99 * PERIOD_MS, 2), (2.01 * PERIOD_MS, 1), (500.0, 1)])
def test_two_where_they_keep_up_by_that(shared_ms: float, wanted: int) -> None:
    asked = []
    pipeline = stand_in()

    def frame_ms() -> float:
        asked.append(pipeline.company)
        return shared_ms

    count, said = frames_at_once(0, pipeline, frame_ms)
    assert count == wanted and said == (f"2 at once {shared_ms:.0f} ms" if wanted == 2 else "")
    assert asked == [2] and pipeline.company == 1


def _unasked() -> float:
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize(
    ("asked", "pipeline", "wanted"),
    [
        (1, stand_in(), (1, "")),
        (2, stand_in(), (2, "2 at once")),
        (3, stand_in(4), (3, "3 at once")),
        (3, stand_in(), (2, "2 at once, not 3 (frames_at_once): the network has 2 threads")),
        (0, stand_in(threads=1), (1, "")),
        (0, stand_in(device="cuda"), (1, "")),
        (2, stand_in(device="cuda"), (1, "1 at once, not 2 (frames_at_once): on cuda a frame has all of it")),
    ],
)
def test_what_was_asked_for_as_far_as_it_is_possible(asked: int, pipeline: Any, wanted: tuple[int, str]) -> None:
    assert frames_at_once(asked, pipeline, _unasked) == wanted


def test_one_where_nothing_tells_how_long_a_frame_takes() -> None:
    assert frames_at_once(0, stand_in(), None) == (1, "")
    assert frames_at_once(2, stand_in(), None) == (2, "2 at once")


def test_one_where_compiled_loops_may_not_be_entered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba's own threading layer ends the process."""
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    assert frames_at_once(0, stand_in(), _unasked) == (1, "")
    said = "1 at once, not 2 (frames_at_once): numba's threading layer is workqueue; wanted: omp or tbb"
    assert frames_at_once(2, stand_in(), _unasked) == (1, said)
    assert at_once.SAFE == ("omp", "tbb")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_frames_side_by_side_are_those_that_one_pipeline_gives(precision: str) -> None:
    """With holes, and one Registration for both; without what frames before tell of how colour lies on depth."""
    config = PipelineConfig(weights="fdkn-small", device="cpu", precision=precision, threads=2, align_colour=False)
    first = Pipeline(config)
    second = first.beside()
    assert second.engine is first.engine
    frames = [_frame(i) for i in range(6)]
    registration = Registration(_camera(40, 30), _camera(160, 120), np.eye(3), np.array([0.01, 0.0, 0.0]))
    alone = [first.enhance(rgb, low, registration=registration).depth.copy() for rgb, low in frames]
    errors: list[BaseException] = []

    def run(pipeline: Pipeline, order: list[int]) -> None:
        try:
            for i in order * 3:
                pipeline.company = 2
                rgb, low = frames[i]
                np.testing.assert_array_equal(pipeline.enhance(rgb, low, registration=registration).depth, alone[i])
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=given)
        for given in ((first, [0, 1, 2, 3, 4, 5]), (second, [5, 3, 1, 4, 2, 0]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_another_precision_is_made_ready_once_for_both() -> None:
    first = Pipeline(PipelineConfig(weights="fdkn-small", device="cpu", precision="float32", threads=2))
    second = first.beside()
    rgb, low = _frame(0)
    for pipeline in (first, second):
        pipeline.config = dataclasses.replace(pipeline.config, precision="bfloat16")
    first.enhance(rgb, low)
    engine = first.engine
    second.enhance(rgb, low)
    assert engine is second.engine is first.engine and engine.precision == torch.bfloat16


def test_a_frame_in_company_takes_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(PipelineConfig(weights="fdkn-small", device="cpu", precision="float32", threads=3))
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    rgb, low = _frame(0)
    for company in (1, 2, 3, 4):
        pipeline.company = company
        pipeline.enhance(rgb, low)
    assert taken == [3, 1, 1, 1]


@needs_rclpy
def test_the_node_publishes_what_it_works_on_at_once_in_order(small_weights: Path) -> None:
    given = {"weights": str(small_weights), "device": "cpu", "precision": "float32", "threads": 2}
    pipeline = Pipeline(PipelineConfig(**given))  # type: ignore[arg-type]
    frames = [_frame(seed) for seed in range(3)]
    results = [pipeline.enhance(rgb, low).depth for rgb, low in frames]
    arguments, domain = parameters(**given, frames_at_once=2, warm_up_width=0), next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        bench = Bench(peer, process)
        sent: dict[int, int] = {}
        for i in range(60):
            rgb, low = frames[i % 3]
            sent[bench.send(image("rgb8", rgb), image("32FC1", low))] = i % 3
            peer.spin(lambda: False, 0.003)
        bench.until(lambda: of_stamp(bench.outputs, max(sent)), "the newest pair's output")
        stamps = [stamp_ns(message.header.stamp) for message in bench.outputs]
        assert stamps == sorted(set(stamps)) and len(stamps) > 3
        for message, stamp in zip(bench.outputs, stamps, strict=True):
            np.testing.assert_array_equal(pixels_of(message), results[sent[stamp]])
        bench.until(lambda: Status(bench.timings[-1]).values.get("wait_ms"), "a timing of frames that may wait")
        bench.until(lambda: Status(bench.diagnostics[-1]).values.get("frames at once") == "2", "the diagnostics")


def _frame(seed: int) -> tuple[np.ndarray, np.ndarray]:
    frame = Scene(seed).frame(160, 120)
    return frame.rgb, degrade(frame.depth, dataclasses.replace(KINECT, factor=4), np.random.default_rng(seed))


def _camera(width: int, height: int) -> Any:
    from dkn_ros.calibration import Calibration

    k = (0.9 * width, 0.0, (width - 1) / 2, 0.0, 0.9 * width, (height - 1) / 2, 0.0, 0.0, 1.0)
    return Calibration(width, height, k, (), "plumb_bob")
