"""Batches come in the order of the steps and are the same whoever draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dkn_ros.batches import MOST_WORKERS, Batch, Batches, batch_of, scene_file, workers_of
from dkn_ros.config import TrainingConfig
from dkn_ros.ranks import Ranks
from dkn_ros.synthetic.samples import SceneStore

ALONE = Ranks(torch.device("cpu"))


def tiny(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"scenes": 2, "iterations": 6, "batch": 2, "crop": 48, **changes})


@pytest.fixture(scope="module")
def scenes() -> SceneStore:
    return SceneStore(2, seed=0, progress=False)


def same(batch: Batch, wanted: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(batch, wanted, strict=True))


@pytest.mark.parametrize(
    ("requested", "device", "processes", "cores", "workers"),
    [
        (0, "cpu", 1, 64, 0),
        (3, "cpu", 1, 2, 3),
        (0, "cuda", 1, 8, 7),
        (0, "cuda", 1, 1, 1),
        (0, "cuda", 4, 32, 7),
        (0, "cuda", 1, 128, MOST_WORKERS),
        (40, "cuda", 1, 8, 40),
    ],
)
def test_a_gpu_is_served_by_its_share_of_the_cores(
    requested: int, device: str, processes: int, cores: int, workers: int
) -> None:
    assert workers_of(requested, Ranks(torch.device(device), 0, processes), cores) == workers


def test_a_thread_draws_the_steps_in_order(scenes: SceneStore) -> None:
    config = tiny(stages={0.5: {"soft_edges": 1.0}}, options={"rgb": True})
    with Batches(scenes, config, ALONE, first=1) as batches:
        for step in range(1, 6):
            assert same(batches.next(), batch_of(scenes, config, step))
        assert batches.waited > 0
    assert not same(batch_of(scenes, config, 3), batch_of(scenes, tiny(options={"rgb": True}), 3))


def test_processes_that_train_together_draw_every_step_once(scenes: SceneStore) -> None:
    """Each in turn; what they send each other is in test_ranks.py."""
    config = tiny(iterations=7)
    drawn = []
    for rank in range(3):
        with Batches(scenes, config, Ranks(torch.device("cpu"), rank, 3), first=2) as batches:
            drawn.append(list(batches._drawn))
    assert [len(steps) for steps in drawn] == [2, 1, 2]
    for step in range(2, 7):
        assert same(drawn[step % 3].pop(0), batch_of(scenes, config, step))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
def test_workers_draw_what_a_thread_draws(scenes: SceneStore, tmp_path: Path) -> None:
    config, path = tiny(), tmp_path / "scenes.bin"
    with scene_file(config, path, ALONE, progress=False) as mapped:
        assert len(mapped.frames) == 2
        for (rgb, depth), (wanted_rgb, wanted_depth) in zip(mapped.frames, scenes.frames, strict=True):
            np.testing.assert_array_equal(rgb, wanted_rgb)
            np.testing.assert_array_equal(depth, wanted_depth)
            assert rgb.dtype == np.uint8 and depth.dtype == np.float32
        with Batches(mapped, config, ALONE, workers=2, first=1) as batches:
            for step in range(1, 6):
                assert same(batches.next(), batch_of(scenes, config, step))
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_the_scenes_is_gone_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "scenes.bin"
    with pytest.raises(KeyboardInterrupt), scene_file(tiny(scenes=1), path, ALONE, progress=False):
        assert path.stat().st_size == 480 * 640 * 7
        raise KeyboardInterrupt
    assert not path.exists()
