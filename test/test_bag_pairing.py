"""`dkn bag` pairs every frame of slow, short and cut recordings, the first ones too, and none wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

import test_bag
from test_bag import DEPTH, OUTPUT, RGB, T0, Recording, Run, decoded, header, image, messages, millimetres, pixels

from dkn_ros.ros.matchers import Pair
from dkn_ros.ros.messages import stamp_ns
from dkn_ros.ros.sync import PairSynchroniser
from dkn_ros.synthetic.source import Shot

# Its fixtures.
expected, fail, flags, run, scenes = (
    test_bag.expected, test_bag.fail, test_bag.flags, test_bag.run, test_bag.scenes
)  # fmt: skip

MS = 1_000_000
LATENCY = 5 * MS
RHYTHMS = [(200, 40), (100, 30), (1000, 100), (67, 20), (200, 90), (200, -40), (33, 10)]
"""Period, and offset of depth from its colour image, milliseconds."""


def recorded(scenes: list[Shot], period: int, offset: int, frames: int = 12) -> Recording:
    """Colour and depth at this rhythm, in milliseconds; the bag has them 5 ms after their stamps."""
    items = []
    for i in range(frames):
        stamp = T0 + i * period * MS
        shot, later = scenes[i % len(scenes)], stamp + offset * MS
        items += [
            (RGB, "sensor_msgs/msg/Image", stamp + LATENCY, image(stamp, shot.rgb, "rgb8")),
            (DEPTH, "sensor_msgs/msg/Image", later + LATENCY, image(later, millimetres(shot), "16UC1")),
        ]
    return Recording(items)


def paired(target: Path) -> list[int]:
    """The milliseconds from the start of the colour images that were paired."""
    return [(stamp_ns(message.header.stamp) - T0) // MS for _, message in decoded(target, OUTPUT)]


def test_an_offset_of_nearly_half_a_period_is_that_of_all_first_stamps_not_of_the_very_first() -> None:
    """Of a few stamps jitter can choose the side, and the offset is followed from there on."""
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pairs: list[Pair] = []
        synchroniser = PairSynchroniser(pairs.append, queue_size=10)
        stamps = [
            sorted((int(1e9 + 33e6 * i + shift + rng.normal(0, 1e6)), topic, i) for i in range(32))
            for topic, shift in ((0, 0.0), (1, 15e6))
        ]
        for stamp, topic, number in sorted(stamps[0] + stamps[1]):
            synchroniser.add(topic, stamp, number, stamp)
        synchroniser.settle()
        offset = synchroniser.state().offset_ns
        wrong += offset is None or abs(offset - 15e6) > 5e6
    assert wrong == 0


@pytest.mark.parametrize(("period", "offset"), RHYTHMS)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 12])
def test_no_camera_is_too_slow_and_no_recording_too_short(
    run: Run, tmp_path: Path, scenes: list[Shot], expected: list[NDArray], frames: int, period: int, offset: int
) -> None:
    target = tmp_path / "out"
    done = run(recorded(scenes, period, offset, frames).write(tmp_path / "in"), target)
    assert done.status == 0, done.err
    assert f"{frames} pairs, {frames} written" in done.out
    assert paired(target) == [i * period for i in range(frames)]
    for i, (_, message) in enumerate(decoded(target, OUTPUT)):
        np.testing.assert_array_equal(pixels(message), expected[i])


@pytest.mark.parametrize("stampless", [{RGB}, {RGB, DEPTH}], ids=["colour", "both"])
def test_slow_images_without_stamps_are_paired_by_the_time_of_recording(
    run: Run, tmp_path: Path, scenes: list[Shot], stampless: set[str]
) -> None:
    recording = recorded(scenes, 200, 40, 3)
    for topic, _, _, message in recording.items:
        if topic in stampless:
            message.header = header(0)
    done = run(recording.write(tmp_path / "in"), tmp_path / "out")
    assert "3 pairs, 3 written" in done.out


def test_a_lost_frame_of_a_short_recording_pairs_nothing_wrongly(run: Run, tmp_path: Path, scenes: list[Shot]) -> None:
    whole = recorded(scenes, 100, 30, 3).items
    for lost, topic in enumerate((RGB, DEPTH) * 3):
        rest = Recording([item for i, item in enumerate(whole) if i != lost])
        target = tmp_path / f"out{lost}"
        done = run(rest.write(tmp_path / f"in{lost}"), target)
        assert "2 pairs, 2 written" in done.out, f"without {topic} of frame {lost // 2}"
        assert paired(target) == [100 * i for i in range(3) if i != lost // 2]


def test_single_images_that_lie_far_apart_are_no_pair(
    fail: Callable[..., str], tmp_path: Path, scenes: list[Shot]
) -> None:
    source = recorded(scenes, 1000, 600, 1).write(tmp_path / "in")
    assert "no pair among 1 images on" in fail(source, tmp_path / "out")


def test_the_first_pairs_after_stamps_that_went_back_are_not_lost(run: Run, tmp_path: Path, scenes: list[Shot]) -> None:
    first = recorded(scenes, 200, 40)
    again = [(topic, kind, time + 3000 * MS, message) for topic, kind, time, message in first.items]
    done = run(Recording(first.items + again).write(tmp_path / "in"), tmp_path / "out")
    assert "24 pairs, 24 written" in done.out


def test_the_end_of_a_recording_is_paired_by_the_rhythm_of_its_beginning(
    run: Run, fail: Callable[..., str], tmp_path: Path, scenes: list[Shot]
) -> None:
    """By one image of each alone the last colour image would be paired with the depth image before it."""
    slow = recorded(scenes, 200, 40).write(tmp_path / "slow")
    done = run(slow, tmp_path / "out", "--start", 2.195)
    assert "1 pairs, 1 written" in done.out
    lost = Recording(recorded(scenes, 100, 40).items[:-1]).write(tmp_path / "lost")
    assert [(topic, t - T0 - LATENCY) for topic, _, t, _ in messages(lost)][-2:] == [
        (DEPTH, 1040 * MS),
        (RGB, 1100 * MS),
    ]
    assert "no pair among 1 images on" in fail(lost, tmp_path / "none", "--start", 1.02)


def test_what_cannot_be_read_is_counted_once(run: Run, tmp_path: Path, scenes: list[Shot]) -> None:
    recording = recorded(scenes, 200, 40)
    recording.items[0] = (*recording.items[0][:3], b"\x00\x01\x00\x00 this is no image")
    done = run(recording.write(tmp_path / "in"), tmp_path / "out", "--rgb", RGB)
    assert done.status == 1
    assert "11 pairs, 11 written" in done.out
    assert done.out.strip().endswith("dropped: 1 depth without partner, 1 for unreadable")
