"""`dkn demo` for real: a simulated camera, the node and the probe as processes over DDS; its verdict and its table."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import needs_rclpy, next_domain, running, write_frames

# The modules of the demo import ROS only when it runs.
from dkn_ros.ros import demo

SECONDS = 5.0
"""Fast DDS may take three seconds until two processes know each other."""


@dataclass(frozen=True)
class Run:
    """A demo that has ended."""

    status: int
    log: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text(encoding="utf-8")))


RunDemo = Callable[..., Run]


@pytest.fixture
def run_demo(tmp_path: Path) -> RunDemo:
    """Runs the demo on three small frames, with other arguments where they are given."""

    def run(weights: Path, source: Path | None = None) -> Run:
        folder = tmp_path / "out"
        given = {
            "--source": source or write_frames(tmp_path / "frames"),
            "--weights": weights,
            "--seconds": SECONDS,
            "--rate": 10,
            "--device": "cpu",
            "--depth-delay": 0.05,
            "--out": folder,
        }
        arguments = [str(part) for pair in given.items() for part in pair]
        with running("dkn_ros.cli", ["demo", *arguments], next_domain()) as process:
            status = process.wait(120)
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(encoding='utf-8')}")
            return Run(status, process.log, folder)

    return run


@needs_rclpy
def test_good_run_ends_with_numbers_and_pictures(run_demo: RunDemo, identity_weights: Path) -> None:
    """A network that changes nothing beats bicubic by a hair, since the pipeline cuts what overshoots."""
    run = run_demo(identity_weights)
    assert run.status == 0
    summary = run.summary
    assert summary["sent"] == 10 * SECONDS
    assert 0 < summary["published"] <= summary["accepted"] <= summary["pairs"] <= summary["sent"]
    assert 0.9 * summary["sent"] <= summary["pairs"], "the camera waits for the node, so next to nothing is lost"
    assert demo.ENOUGH * summary["accepted"] <= summary["received"] <= summary["sent"]
    assert all(isinstance(count, int) for count in summary["dropped"].values())
    assert summary["rate_hz"] > 0
    assert summary["depth_delay_ms"] == 50 <= summary["latency_ms"]["p50"]
    assert 0 < summary["early_guidance"] <= summary["published"], "after the first eight pairs"
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"] <= summary["latency_ms"]["p99"]
    assert {"guidance", "target", "average"} <= summary["stages_ms"].keys()
    assert all(milliseconds >= 0 for milliseconds in summary["stages_ms"].values())
    assert 0 < summary["rmse_m"]["output"] < summary["rmse_m"]["bicubic"] < 1
    assert summary["compared"] > 0
    assert summary["device"] == "cpu"
    assert summary["weights"].startswith("identity ")
    for name, height in (("before_after.png", 300), ("latency.png", 300), ("points.png", 250)):
        picture = cv2.imread(str(run.folder / name))
        assert picture is not None, name
        assert picture.shape[0] > height, name
        assert np.std(picture) > 0, name
        assert name in run.log
    assert demo.table(summary) in run.log


@needs_rclpy
def test_run_that_does_not_beat_bicubic_fails_and_says_so(run_demo: RunDemo, small_weights: Path) -> None:
    run = run_demo(small_weights)
    assert run.status == 1
    assert run.summary["rmse_m"]["output"] > run.summary["rmse_m"]["bicubic"]
    last = run.log.rstrip().splitlines()[-1]
    assert last.startswith("dkn demo: the output's RMSE of ")
    assert "does not beat bicubic's" in last


@needs_rclpy
@pytest.mark.parametrize(
    ("broken", "process"), [("weights", "dkn_node"), ("source", "sim_camera")], ids=["weights", "source"]
)
def test_process_that_cannot_start_is_named(
    run_demo: RunDemo, small_weights: Path, tmp_path: Path, broken: str, process: str
) -> None:
    """What is not there at all is told before, see test_cli.py; these are damaged."""
    weights, frames = tmp_path / "damaged.safetensors", write_frames(tmp_path / "damaged")
    weights.write_bytes(small_weights.read_bytes()[:-1])
    weights.with_suffix(".yaml").write_bytes(small_weights.with_suffix(".yaml").read_bytes())
    (frames / "001_depth.png").write_bytes(b"no image")
    run = run_demo(weights) if broken == "weights" else run_demo(small_weights, frames)
    assert run.status == 1
    last = run.log.rstrip().splitlines()[-1]
    assert last.startswith(f"dkn demo: {process} ended with status 1: ") and "damaged" in last
    assert last.endswith(f"; all of it: {run.folder / process}.log")
    assert not (run.folder / "summary.json").exists()


GOOD: dict[str, Any] = {
    "sent": 100,
    "pairs": 98,
    "accepted": 90,
    "published": 90,
    "received": 89,
    "dropped": {"busy": 8, "rgb without depth": 0},
    "rate_hz": 29.96,
    "latency_ms": {"p50": 20.4, "p95": 31.0, "p99": 44.0},
    "stages_ms": {"preprocess": 1.25, "average": 10.0},
    "rmse_m": {"bicubic": 0.1, "output": 0.075},
    "compared": 20,
    "device": "cpu",
    "precision": "int8",
    "weights": "fdkn 0123456789ab",
    "depth_delay_ms": 0.0,
    "early_guidance": 0,
}


def changed(**values: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD) | values


@pytest.mark.parametrize(
    ("summary", "wrong"),
    [
        (GOOD, ()),
        (changed(received=86), ()),
        (changed(received=85), ("85 of 90 accepted pairs arrived; wanted: at least 95%",)),
        (changed(accepted=0, received=0), ("0 of 0 accepted pairs arrived",)),
        (changed(rmse_m={"bicubic": 0.1, "output": 0.1}), ("0.1000 m does not beat bicubic's 0.1000 m",)),
        (changed(rmse_m={"bicubic": 0.1, "output": 0.2}), ("0.2000 m does not beat bicubic's 0.1000 m",)),
        (changed(rmse_m={"bicubic": None, "output": None}), ("no output could be compared",)),
        (changed(received=1, rmse_m={"bicubic": 0.1, "output": 0.2}), ("1 of 90", "does not beat")),
    ],
)
def test_verdict(summary: dict[str, Any], wrong: tuple[str, ...]) -> None:
    found = demo.verdict(summary)
    assert len(found) == len(wrong)
    assert all(part in sentence for part, sentence in zip(wrong, found, strict=True))


def test_table() -> None:
    lines = dict(line.split(maxsplit=1) for line in demo.table(GOOD).splitlines())
    assert lines["frames"] == "100 sent, 98 paired, 90 published, 89 received"
    assert lines["dropped"] == "8 busy"
    assert lines["rate"] == "30.0 Hz"
    assert lines["latency"].startswith("20 / 31 / 44 ms")
    assert "preprocess 1.2, average 10.0 ms" in lines["stages"]
    assert lines["device"] == "cpu, int8, weights fdkn 0123456789ab"
    assert "bicubic 10.00 cm, output 7.50 cm (25% less" in lines["RMSE"]


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (changed(dropped={"busy": 0}), "dropped  none"),
        (changed(rmse_m={"bicubic": 0.1, "output": 0.12}), "20% more"),
    ],
)
def test_table_in_other_cases(summary: dict[str, Any], expected: str) -> None:
    assert expected in demo.table(summary)


def test_table_tells_the_head_start_of_colour() -> None:
    text = demo.table(changed(depth_delay_ms=45.0, early_guidance=81))
    assert " / 44 ms (p50 / p95 / p99), 45 of them from colour to depth; 81 of 90 frames begun there\n" in text


def test_table_without_a_comparison() -> None:
    assert "RMSE" not in demo.table(changed(rmse_m={"bicubic": None, "output": None}))
