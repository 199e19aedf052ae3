"""The stage clock: what is charged to whom; the same logic runs with a GPU's events where there is one."""

from __future__ import annotations

import time

import pytest
import torch

from dkn_ros.clock import HostMoment, StageClock

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def test_moments_are_as_far_apart_as_the_clock_says() -> None:
    before = time.perf_counter()
    first = HostMoment()
    time.sleep(0.01)
    second = HostMoment()
    assert 10 <= second.since(first) <= 1e3 * (time.perf_counter() - before)


@pytest.mark.parametrize("device", DEVICES)
def test_stages_come_in_order_add_up_and_lie_within_the_whole(device: str) -> None:
    clock = StageClock(torch.device(device))
    for name in ("first", "second", "first"):
        with clock.stage(name):
            torch.ones(1 << 18, device=device).cumsum(0)
    timings = clock.timings()
    assert list(timings) == ["first", "second", "whole"]
    assert all(milliseconds > 0 for milliseconds in timings.values())
    assert timings["first"] + timings["second"] <= timings["whole"] + 0.1  # an event is good for half a microsecond
    assert clock.timings()["first"] == timings["first"] and clock.timings()["whole"] > timings["whole"]


def test_a_stage_that_comes_again_is_charged_with_both_times() -> None:
    clock = StageClock(torch.device("cpu"))
    with clock.stage("once"):
        time.sleep(0.005)
    with clock.stage("twice"):
        time.sleep(0.005)
    with clock.stage("twice"):
        time.sleep(0.005)
    timings = clock.timings()
    assert timings["once"] >= 5 and timings["twice"] >= 10
