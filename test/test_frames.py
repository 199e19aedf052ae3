"""The way of a frame where it goes wrong; where it goes right, test_node.py follows it."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import image, needs_rclpy

from dkn_ros.config import NodeConfig
from dkn_ros.ros.counts import Statistics
from dkn_ros.ros.frames import Frames
from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.worker import Foresight

pytestmark = needs_rclpy

SIZE = 12, 16


class Failing:
    """A pipeline whose device has gone; notes what was asked of it."""

    misregistered = ""

    def __init__(self) -> None:
        self.looked = 0

    def look(self, *_: Any) -> Any:
        """As of Pipeline."""
        self.looked += 1
        raise RuntimeError("CUDA error: unspecified launch failure\nand much advice")

    def enhance(self, *_: Any) -> Any:
        """As of Pipeline."""
        raise RuntimeError("CUDA error: unspecified launch failure\nand much advice")


class Said:
    """A logger of rclpy."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, text: str, **_: Any) -> None:
        """As of rclpy's."""
        self.lines.append(text)

    warning = error


def test_a_device_that_fails_in_an_early_look_is_told_with_its_pair_and_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline, said, statistics = Failing(), Said(), Statistics(lambda: 0)
    registering = SimpleNamespace(registration=lambda *_: None)
    outputs = SimpleNamespace(begin=lambda *_: (None, None))
    given: Any = (NodeConfig(), [pipeline], registering, outputs, statistics, {}, said, lambda: True)
    frames = Frames(*given)

    def drain() -> None:
        while frames._worker._item is not None or frames._worker._idle_work is not None:
            time.sleep(0.001)  # between two looks

    with caplog.at_level(logging.WARNING):
        for stamp in range(Foresight.ENOUGH + 3):
            rgb, depth = image("rgb8", np.zeros((*SIZE, 3), np.uint8)), image("16UC1", np.full(SIZE, 1500, np.uint16))
            frames.colour(rgb)
            drain()
            frames.pair(Pair(rgb, depth, stamp, stamp))
            drain()
        assert frames.stop(30.0)
    assert pipeline.looked > 0
    assert not caplog.records
    assert set(said.lines) == {"frame failed: RuntimeError: CUDA error: unspecified launch failure"}
    assert statistics.snapshot().failure == said.lines[0]
