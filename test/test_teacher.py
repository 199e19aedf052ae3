"""A small network learns from a large one before it learns from the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_training import tiny

from dkn_ros import training
from dkn_ros.batches import batch_of
from dkn_ros.models import FDKN
from dkn_ros.models.pruning import tower_inputs
from dkn_ros.models.teacher import Teacher
from dkn_ros.synthetic.samples import Sample, SceneStore, typical_crops
from dkn_ros.training import Trainer
from dkn_ros.weights import save_weights

OPTIONS: dict[str, Any] = {"n1": 16, "n2": 16, "validity": True, "traits": True}


@pytest.fixture(scope="module")
def crops() -> list[Sample]:
    return typical_crops(count=8, scenes=1)


def given(crop: Sample) -> list[torch.Tensor]:
    return [torch.from_numpy(i)[None] for i in (crop.guidance, crop.target[None], crop.validity[None], crop.traits)]


def lively(make_model: MakeModel) -> FDKN:
    """A network whose heads differ from place to place by more than those of a new one."""
    model = make_model(**OPTIONS)
    with torch.no_grad():
        for tower in (model.guidance, model.target):
            assert tower is not None
            tower.conv_weight.weight *= 3
            tower.conv_offset.weight *= 3
    return model


def test_zero_for_the_same_and_one_for_what_only_knows_the_mean(make_model: MakeModel, crops: list[Sample]) -> None:
    model = lively(make_model)
    teacher = Teacher(model, crops)
    with torch.no_grad():
        assert sum(float(teacher.unlikeness(model, *given(crop))) for crop in crops) == 0
        other = make_model(seed=1, **OPTIONS)
        assert all(float(teacher.unlikeness(other, *given(crop))) > 0.1 for crop in crops)
        for name in ("target", "guidance"):
            mine, its = getattr(other, name), getattr(model, name)
            said = [its(*tower_inputs(model, name, crop)) for crop in crops]
            weights, offsets = (torch.cat(heads).mean((0, 2, 3)) for heads in zip(*said, strict=True))
            for head, mean in ((mine.conv_weight, torch.logit(weights)), (mine.conv_offset, offsets)):
                head.weight.zero_()
                head.bias.copy_(mean)
        shares = [float(teacher.unlikeness(other, *given(crop))) for crop in crops]
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"kernel_size": 5}, "teacher has kernel_size 3, the network 5; wanted: the same"),
        ({"guided": False}, "teacher has guided True, the network False; wanted: the same"),
        ({"residual": False}, "teacher has residual True, the network False; wanted: the same"),
    ],
    ids=str,
)
def test_a_teacher_of_another_kind_is_refused(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr(training, "REVIVAL_CROPS", (8, 1))
    save_weights(make_model(**OPTIONS), tmp_path / "large.safetensors", model="fdkn", options=OPTIONS)
    options = {**OPTIONS, "n1": 8, "n2": 8, **now}
    with pytest.raises(ValueError, match=named):
        Trainer(tiny(options=options, teacher=str(tmp_path / "large.safetensors")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_says_the_same_everywhere_is_refused(make_model: MakeModel, crops: list[Sample]) -> None:
    model = lively(make_model)
    assert model.guidance is not None
    with torch.no_grad():
        model.guidance.conv_offset.weight.zero_()
    with pytest.raises(ValueError, match="teacher says the same everywhere with one of its towers"):
        Teacher(model, crops)


def test_a_training_follows_its_teacher_first_and_then_the_truth(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REVIVAL_CROPS", (8, 1))
    large = lively(make_model)
    save_weights(large, tmp_path / "large.safetensors", model="fdkn", options=OPTIONS)
    plan = tiny(
        options={**OPTIONS, "n1": 8, "n2": 8},
        teacher=str(tmp_path / "large.safetensors"),
        taught=0.8,
        iterations=50,
        learning_rate=0.01,
    )
    trainer = Trainer(plan, tmp_path / "out")
    assert trainer.teacher is not None
    scenes = SceneStore(2, seed=0, progress=False)
    batch = batch_of(scenes, plan, 0)
    losses = [trainer.train_step(batch) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]  # which is how unlike they are
    with torch.no_grad():
        trainer.model.train()
        output = trainer.model(*batch[:3], batch[4])
        truth = float(training.loss_of(output, batch[3], batch[2]))
    assert trainer.train_step(batch) == pytest.approx(truth, rel=1e-3)
