"""Channels that died in a training begin anew: the result stays, and the gradient finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_pruning import TOLD, kill, results
from test_training import tiny
from torch import nn

from dkn_ros import training
from dkn_ros.batches import batch_of
from dkn_ros.models import FDKN
from dkn_ros.models.pruning import peaks_of, widened
from dkn_ros.models.revival import living_share, revive
from dkn_ros.synthetic.samples import Sample, SceneStore, typical_crops
from dkn_ros.training import Trainer
from dkn_ros.weights import save_weights


@pytest.fixture(scope="module")
def crops() -> list[Sample]:
    return typical_crops(count=8, scenes=1, alignment=True)


@pytest.fixture
def dying(make_model: MakeModel) -> FDKN:
    """The whole last convolution of the guidance tower is dead, and channels of every kind of layer of the target's."""
    model = make_model(n1=16, n2=16, **TOLD)
    assert model.guidance is not None
    kill(model.guidance.conv6, slice(None))
    for name, channels in (("conv1_bn", slice(0, 2)), ("conv4", slice(3, 5)), ("conv5_bn", slice(0, 7))):
        kill(getattr(model.target, name), channels)
    kill(model.target.conv6, slice(4, 16))
    return model


def fire_nowhere(model: FDKN, crops: list[Sample]) -> int:
    return sum(int((~(peak > 0)).sum()) for tower in peaks_of(model, crops).values() for peak in tower)


def test_all_fire_and_the_result_stays(dying: FDKN, crops: list[Sample]) -> None:
    before, share = results(dying, crops), living_share(dying, crops)
    assert fire_nowhere(dying, crops) >= 16 + 2 + 2 + 7 + 12
    dying.train()
    anew = revive(dying, crops, seed=0)
    assert dying.training  # as it was, and its batch norms have not counted the crops
    dying.eval()
    assert fire_nowhere(dying, crops) == 0 and living_share(dying, crops) == 1 > share
    torch.testing.assert_close(results(dying, crops), before, rtol=0, atol=1e-6)
    state = dying.state_dict()
    assert set(anew) < set(state) and all(mask.shape == state[name].shape for name, mask in anew.items())


def test_only_what_is_said_to_be_new_is(dying: FDKN, crops: list[Sample]) -> None:
    before = {name: value.clone() for name, value in dying.state_dict().items()}
    anew = revive(dying, crops, seed=0)
    for name, value in dying.state_dict().items():
        kept = ~anew[name] if name in anew else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], before[name][kept]), name
    assert anew["target.conv6.bias"].tolist() == [False] * 4 + [True] * 12
    assert anew["guidance.conv_offset.weight"].all() and "guidance.conv_offset.bias" not in anew


def test_their_size_is_that_of_the_others(dying: FDKN, crops: list[Sample]) -> None:
    """Far larger ones would drown the others once they are looked at, far smaller ones learn slowly."""
    revive(dying, crops, seed=0)
    for layer in (3, 5):
        new = {3: slice(3, 5), 5: slice(4, 16)}[layer]
        peaks = peaks_of(dying, crops)["target"][layer]
        others = torch.ones(len(peaks), dtype=torch.bool)
        others[new] = False
        assert 0.1 < float(peaks[new].median() / peaks[others].median()) < 10


def test_the_gradient_finds_them(dying: FDKN, crops: list[Sample]) -> None:
    """First what looks at them, then, once that is no longer zero, they themselves."""
    anew = revive(dying, crops, seed=0)
    new = anew["target.conv6.bias"]
    dying.train()
    optimiser = torch.optim.SGD(dying.parameters(), lr=0.01)
    head, layer = dying.target.conv_weight, dying.target.conv6
    reached = []
    for _ in range(2):
        crop = crops[0]
        images = crop.guidance, crop.target[None], crop.validity[None], crop.traits
        output = dying(*(torch.from_numpy(image)[None] for image in images))
        optimiser.zero_grad()
        (output - torch.from_numpy(crop.truth)[None, None]).square().mean().backward()
        assert head.weight.grad is not None and layer.weight.grad is not None
        reached.append((bool(head.weight.grad[:, new].any()), bool(layer.weight.grad[new].any())))
        optimiser.step()
    assert reached == [(True, False), (True, True)]


def test_the_same_seed_begins_the_same_way(make_model: MakeModel, crops: list[Sample]) -> None:
    models = [make_model(n1=8, n2=8, **TOLD) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        kill(model.target.conv6, slice(0, 4))
        revive(model, crops, seed)
    one, same, other = (model.target.conv6.weight for model in models)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_channels_that_are_added_come_to_life(make_model: MakeModel, crops: list[Sample]) -> None:
    model = make_model(n1=8, n2=8, **TOLD)
    wide = widened(model, (4, 4, 8, 8, 16, 16), (4, 4, 8, 8, 16, 12))
    torch.testing.assert_close(results(wide, crops), results(model, crops), rtol=0, atol=1e-6)
    assert fire_nowhere(wide, crops) >= 8 + 8 + 8 + 4
    revive(wide, crops, seed=0)
    assert fire_nowhere(wide, crops) == 0
    torch.testing.assert_close(results(wide, crops), results(model, crops), rtol=0, atol=1e-6)


# --- in a training --------------------------------------------------------------------------------------------------


@pytest.fixture
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REVIVAL_CROPS", (8, 1))


def dead_of(layer: nn.Conv2d) -> int:
    assert layer.bias is not None
    return int((layer.bias == -1).sum())


@pytest.mark.usefixtures("few_crops")
def test_a_training_revives_when_it_is_time_and_its_average_and_moments_with_it(tmp_path: Path) -> None:
    trainer = Trainer(tiny(iterations=9, revive_every=3), tmp_path)
    scenes = SceneStore(2, seed=0, progress=False)
    average: Any = trainer.average.module
    revived = []
    for step in range(9):
        for network in (trainer.model, average):
            kill(network.target.conv6, slice(0, 4))
        trainer.revive()
        revived.append(dead_of(trainer.model.target.conv6) == 0)
        if revived[-1]:
            assert torch.equal(average.target.conv6.weight[:4], trainer.model.target.conv6.weight[:4])
            assert not average.target.conv_weight.weight[:, :4].any()
            moments = trainer.optimiser.state[trainer.model.target.conv6.weight]
            if step:
                first, second = moments["exp_avg"], moments["exp_avg_sq"]
                assert not first[:4].any() and first[4:].any()
                torch.testing.assert_close(second[:4], second[4:].mean().expand(second[:4].shape))
        trainer.train_step(batch_of(scenes, trainer.config, step))
    assert revived == [True, False, False, True, False, False, True, False, False]
    never = Trainer(tiny(), tmp_path)
    kill(never.model.target.conv6, slice(0, 4))
    never.revive()
    assert dead_of(never.model.target.conv6) == 4


@pytest.mark.usefixtures("few_crops")
def test_a_whole_layer_that_is_revived_learns_as_fast_as_a_new_one(tmp_path: Path) -> None:
    """Moments of a layer that was dead are zero: kept, they would make its steps several times too large."""
    trainer = Trainer(tiny(iterations=9, revive_every=3, warm_up=0), tmp_path)
    batch = batch_of(SceneStore(2, seed=0, progress=False), trainer.config, 0)
    layer = trainer.model.target.conv6
    for _ in range(3):
        trainer.train_step(batch)
        kill(layer, slice(None))
    trainer.revive()
    before = layer.weight.detach().clone(), trainer.model.target.conv_weight.weight.detach().clone()
    trainer.train_step(batch)
    trainer.train_step(batch)
    for old, new in zip(before, (layer.weight, trainer.model.target.conv_weight.weight), strict=True):
        step = float((new.detach() - old).abs().median())
        assert 0.1 * trainer.config.learning_rate < step < 3 * trainer.config.learning_rate


@pytest.mark.usefixtures("few_crops")
def test_the_share_that_lives_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ratios", lambda *_: {})
    trainer = Trainer(tiny(), tmp_path)
    before = trainer.validate()["living"]
    average: Any = trainer.average.module
    kill(average.target.conv6, slice(None))
    lost = 8 / (2 * (2 + 2 + 4 + 4 + 8 + 8))
    assert trainer.validate()["living"] <= before - lost / 2


def test_more_channels_without_reviving_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    save_weights(make_model(), tmp_path / "small.safetensors", model="fdkn", options={"n1": 8, "n2": 8})
    plan = {"options": {"n1": 8, "n2": 16}, "start": str(tmp_path / "small.safetensors")}
    with pytest.raises(
        ValueError, match="start has fewer channels, and the new ones learn nothing; wanted: revive_every"
    ):
        Trainer(tiny(**plan), tmp_path / "out")
    assert Trainer(tiny(**plan, revive_every=2), tmp_path / "out").model.options.n2 == 16
