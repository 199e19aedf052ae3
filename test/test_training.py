"""The training loop: it learns, an interruption leaves no trace, and the card tells how it was done."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import MakeModel
from torch import Tensor

import dkn_ros
from dkn_ros import training, validation
from dkn_ros.batches import Batch, batch_of
from dkn_ros.config import TrainingConfig
from dkn_ros.models.start import start_from
from dkn_ros.recipe import read_recipe
from dkn_ros.synthetic.samples import SceneStore
from dkn_ros.training import Trainer, loss_of
from dkn_ros.weights import load_model, save_weights

TINY: dict[str, Any] = {
    "name": "tiny",
    "options": {"n1": 8, "n2": 8},
    "scenes": 2,
    "iterations": 6,
    "batch": 2,
    "crop": 48,
    "warm_up": 2,
    "average": 0.5,
    "checkpoint_every": 2,
    "device": "cpu",
}


def tiny(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{**TINY, **changes})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One scene to validate on, and one thread: on a busy machine a network this small only waits for a second one."""
    monkeypatch.setattr(validation, "SCENES", 1)
    monkeypatch.setattr(training, "REVIVAL_CROPS", (8, 1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes() -> SceneStore:
    return SceneStore(2, seed=0, progress=False)


@pytest.fixture
def reuse_scenes(scenes: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Render them once: `test_scenes_are_those_of_the_seed` in test_samples.py holds that they are always the same."""
    monkeypatch.setattr(training, "SceneStore", lambda count, seed, progress: scenes)


def averaged(trainer: Trainer) -> dict[str, float]:
    """Stands for a validation, which takes long, where its figures do not matter; of the averaged weights, as it is."""
    return {"x2_clean": sum(float(value.double().sum()) for value in trainer.average.state_dict().values())}


class Interrupted(Exception):
    """Stands for a lost machine."""


def losing(at: int) -> Callable[[Trainer, Batch], Tensor]:
    """In place of `Trainer.train_step`: the machine is lost at a step."""
    step = Trainer.train_step

    def lost(self: Trainer, batch: Batch) -> Tensor:
        if self.step == at:
            raise Interrupted
        return step(self, batch)

    return lost


def test_loss_is_the_mean_absolute_error_with_filled_pixels_weighing_less() -> None:
    truth, validity = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    output = torch.tensor([[[[0.0, 0.4], [0.0, 0.2]]]])
    assert float(loss_of(output, truth, validity)) == pytest.approx(0.15)
    assert float(loss_of(truth, truth, validity)) == 0
    validity *= 0.5  # how sharp the measured pixels are does not count
    validity[0, 0, 0, 1] = 0  # filled: 0.5 of 3.5
    assert float(loss_of(output, truth, validity)) == pytest.approx((0.5 * 0.4 + 0.2) / 3.5)
    twice = loss_of(torch.cat((output, truth)), torch.cat((truth, truth)), torch.ones(2, 1, 2, 2))
    assert float(twice) == pytest.approx(0.15 / 2)  # over all pixels of all crops
    squares = loss_of(output, truth, torch.ones(1, 1, 2, 2), square_weight=3.0)
    assert float(squares) == pytest.approx(0.15 + 3 * (0.4**2 + 0.2**2) / 4)


def test_a_stage_changes_nothing_before_its_time(scenes: SceneStore, tmp_path: Path) -> None:
    plain = Trainer(tiny(iterations=4), tmp_path)
    late = Trainer(tiny(iterations=4, stages={0.5: {"square_weight": 3.0, "soft_edges": 1.0}}), tmp_path)
    for step in range(4):
        batches = [batch_of(scenes, trainer.config, step) for trainer in (plain, late)]
        same = all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
        assert same == (step < 2)
    losses = [[trainer.train_step(batch_of(scenes, trainer.config, i)) for i in range(3)] for trainer in (plain, late)]
    assert losses[0][:2] == losses[1][:2] and losses[0][2] != losses[1][2]


def test_stages_add_up(tmp_path: Path) -> None:
    stages = {0.7: {"square_weight": 2.0}, 0.2: {"square_weight": 8.0, "noiseless": 0.1}}  # in any order
    trainer = Trainer(tiny(iterations=100, stages=stages), tmp_path)
    assert [trainer.settings(step).square_weight for step in (0, 19, 20, 69, 70, 99)] == [0, 0, 8, 8, 2, 2]
    assert [trainer.settings(step).noiseless for step in (0, 20, 99)] == [0.5, 0.1, 0.1]


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ({1.5: {"square_weight": 1.0}}, "stages hold 1.5"),
        ({"half": {"square_weight": 1.0}}, "stages hold 'half'"),
        ({0.5: 3.0}, "stages hold 0.5: 3.0; wanted: a share of the steps"),
        ({0.5: {"crop": 96}}, "crop cannot change between stages; wanted: any of square_weight"),
        ({0.5: {"colour": 1}}, "colour cannot change between stages"),
        ({0.5: {"noiseless": 2.0}}, "noiseless is 2.0; wanted: at most 1.0"),
    ],
    ids=str,
)
def test_refuses_stages_that_cannot_be(tmp_path: Path, stages: dict[Any, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Trainer(tiny(stages=stages), tmp_path)


def test_learning_rate_rises_then_falls_to_a_hundredth(tmp_path: Path) -> None:
    trainer = Trainer(tiny(iterations=100, warm_up=10, learning_rate=2e-3), tmp_path)
    rates = [trainer.learning_rate(step) for step in range(101)]
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[10:]) < 0)
    assert rates[0] == pytest.approx(2e-4) and rates[9] == rates[10] == pytest.approx(2e-3)
    assert rates[100] == pytest.approx(2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_lowers_the_loss(scenes: SceneStore, tmp_path: Path, precision: str) -> None:
    plan = {"iterations": 80, "batch": 4, "warm_up": 5, "learning_rate": 4e-3, "noiseless": 1.0}
    trainer = Trainer(tiny(precision=precision, **plan), tmp_path)
    others = [batch_of(scenes, trainer.config, 10_000 + i) for i in range(8)]

    def loss() -> float:
        """Median over crops that are not trained on: single ones differ from others a thousandfold."""
        trainer.model.train()  # the running statistics of a network that has not trained yet mean nothing
        with torch.no_grad():
            outputs = [(trainer.model(g, t), truth, v) for g, t, v, truth, _ in others]
        errors = [float(loss_of(o[i : i + 1], t[i : i + 1], v[i : i + 1])) for o, t, v in outputs for i in range(4)]
        return float(np.median(errors))

    start = loss()
    losses = [trainer.train_step(batch_of(scenes, trainer.config, i)) for i in range(80)]
    assert np.isfinite(losses).all()
    assert loss() < 0.9 * start


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_that_is_told_traits_trains(scenes: SceneStore, tmp_path: Path, precision: str) -> None:
    options = {**TINY["options"], "validity": True, "traits": True}
    trainer = Trainer(tiny(options=options, precision=precision), tmp_path)
    traits = batch_of(scenes, trainer.config, 0)[4]
    assert traits.shape == (2, 3) and traits.min() >= 0 and traits.max() <= 1
    before = trainer.model.target.conv1.weight[:, 32:].detach().clone()
    assert np.isfinite([trainer.train_step(batch_of(scenes, trainer.config, i)) for i in range(3)]).all()
    assert (trainer.model.target.conv1.weight[:, 32:] != before).all(dim=(0, 2, 3)).all()


INPUTS = [
    ({}, {"traits": True}),
    ({}, {"validity": True}),
    ({}, {"validity": True, "traits": True}),
    ({"validity": True}, {"validity": True, "traits": True}),
    ({"traits": True}, {"validity": True, "traits": True}),
    ({"traits": True}, {"traits": True}),
    ({}, {"traits": True, "alignment": True}),
    ({"traits": True}, {"validity": True, "traits": True, "alignment": True}),
    ({"traits": True, "alignment": True}, {"traits": True, "alignment": True}),
    ({"guided": False, "kernel_size": 5}, {"guided": False, "kernel_size": 5, "traits": True}),
    ({"rgb": True, "residual": False}, {"rgb": True, "residual": False, "validity": True, "traits": True}),
    ({"traits": True}, {"traits": True, "alignment": True, "n1": 16, "target_channels": (4, 4, 8, 8, 16, 8)}),
]


@pytest.mark.parametrize(("then", "now"), INPUTS, ids=str)
def test_a_network_begins_as_the_one_that_it_starts_from(
    make_model: MakeModel, then: dict[str, Any], now: dict[str, Any]
) -> None:
    earlier, model = make_model(**then), make_model(seed=1, **now)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(6, 1, 1, 21, 26, generator=generator)
    guidance = None if not model.options.guided else images[:3, 0].transpose(0, 1) if model.options.rgb else images[3]
    told = guidance, images[4], images[5].round(), torch.rand(1, 3, generator=generator)
    with torch.no_grad():
        wanted, before = earlier(*told), model(*told)
        start_from(model, earlier)
        torch.testing.assert_close(model(*told), wanted, rtol=0, atol=1e-6)  # zeros may change the order of a sum
        assert not torch.allclose(before, wanted, atol=1e-3)
        assert model.training == earlier.training is False


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        ({"n2": 16}, {}, "start holds a network with n2 16; wanted: n2 8, as in the options"),
        ({"n1": 16}, {"n2": 16}, "n1 16, n2 8; wanted: n1 8, n2 16"),
        ({}, {"n1": 4, "kernel_size": 5, "traits": True}, "kernel_size 3, n1 8; wanted: kernel_size 5, n1 4"),
        ({}, {"guided": False}, "guided True; wanted: guided False"),
        ({"guided": False}, {}, "guided False; wanted: guided True"),
        ({}, {"rgb": True}, "rgb False; wanted: rgb True"),
        ({}, {"residual": False}, "residual True; wanted: residual False"),
        ({"traits": True}, {}, "traits True; wanted: traits False"),
        ({"validity": True}, {"traits": True}, "validity True; wanted: validity False"),
        ({"traits": True, "alignment": True}, {"traits": True}, "alignment True; wanted: alignment False"),
    ],
    ids=str,
)
def test_a_start_that_does_not_fit_is_refused(
    make_model: MakeModel, tmp_path: Path, then: dict[str, Any], now: dict[str, Any], named: str
) -> None:
    model, earlier = make_model(seed=1, **now), make_model(**then)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(named)):
        start_from(model, earlier)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    save_weights(earlier, tmp_path / "earlier.safetensors", model="fdkn", options={**TINY["options"], **then})
    plan = tiny(options={**TINY["options"], **now}, start=str(tmp_path / "earlier.safetensors"))
    with pytest.raises(ValueError, match=re.escape(named)):
        Trainer(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("reuse_scenes")
def test_a_training_starts_from_weights_and_its_card_says_so(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "validate", averaged)
    earlier, path = make_model(), tmp_path / "earlier.safetensors"
    save_weights(earlier, path, model="fdkn", options=TINY["options"])
    plan = tiny(options={**TINY["options"], "traits": True}, start=str(path))
    trainer = Trainer(plan, tmp_path / "out")
    for network in (trainer.model, trainer.average.module):
        state = network.state_dict()
        assert state["target.conv1.weight"].shape[1] == 18 and not state["target.conv1.weight"][:, 16:].any()
        for name, value in earlier.state_dict().items():
            assert torch.equal(state[name][:, :16] if name == "target.conv1.weight" else state[name], value), name
    card = trainer.run(progress=False)
    assert card.recipe["config"]["start"] == str(path)
    assert load_model(str(tmp_path / "out" / "tiny.safetensors"))[0].options.traits


def test_weights_to_start_from_must_be_there(tmp_path: Path) -> None:
    assert TrainingConfig().start == ""
    with pytest.raises(ValueError, match=r"no weight file .*absent\.safetensors"):
        Trainer(tiny(start=str(tmp_path / "absent.safetensors")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {**trainer.model.state_dict(), **{f"average {k}": v for k, v in trainer.average.state_dict().items()}}


@pytest.mark.usefixtures("reuse_scenes")
@pytest.mark.parametrize("lost_at", [1, 2, 5])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_at: int
) -> None:
    monkeypatch.setattr(Trainer, "validate", averaged)
    whole = Trainer(tiny(), tmp_path / "whole")
    card = whole.run(progress=False)

    step = Trainer.train_step
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "train_step", losing(lost_at))
        Trainer(tiny(), tmp_path / "parts").run(progress=False)
    torch.manual_seed(99)  # another process has another generator
    resumed = Trainer(tiny(), tmp_path / "parts")
    steps: list[int] = []

    def noted(self: Trainer, batch: Batch) -> Tensor:
        steps.append(self.step)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", noted)
        assert resumed.run(progress=False).sha256 == card.sha256
    assert steps == list(range(lost_at // 2 * 2, 6))  # from the last checkpoint, not from the start
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(resumed)[name], value), name
    assert resumed.history == whole.history


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("reuse_scenes")
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "workers": 1, "revive_every": 2}], ids=str)
def test_a_training_on_a_gpu_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Sums on a GPU have no fixed order, so both ends differ by rounding; Adam counts its steps on the CPU."""
    config = tiny(device="cuda", **changes)
    whole = Trainer(config, tmp_path / "whole")
    whole.run(progress=False)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "train_step", losing(3))
        Trainer(config, tmp_path / "parts").run(progress=False)
    resumed = Trainer(config, tmp_path / "parts")
    resumed.run(progress=False)
    assert resumed.step == 6 and all(s["step"].device.type == "cpu" for s in resumed.optimiser.state.values())
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(resumed)[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.usefixtures("reuse_scenes")
def test_a_finished_training_leaves_weights_card_and_curve(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), tmp_path / "new" / "folder")
    card = trainer.run(progress=False)
    files = {path.name for path in trainer.output.iterdir()}
    assert files == {"tiny.safetensors", "tiny.yaml", "checkpoint.pt", "loss.csv", "loss.png"}

    model, found = load_model(str(trainer.output / "tiny.safetensors"))
    assert found == card
    for name, value in trainer.average.module.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert (card.name, card.model, card.options, card.licence) == ("tiny", "fdkn", TINY["options"], "Apache-2.0")
    assert card.recipe["config"] == dataclasses.asdict(tiny())
    assert TrainingConfig.from_mapping(card.recipe["config"]) == tiny()  # the recipe of the card can be used again
    assert card.recipe["dkn_ros"] == dkn_ros.__version__ and torch.__version__.startswith(card.recipe["torch"])
    measured = next(iter(card.metrics.values()))
    assert {"x2_clean", "x8_sensor", "loss"} <= set(measured) and all(np.isfinite(v) for v in measured.values())

    with open(trainer.output / "loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in trainer.history]
    # A training that is done does not train again.
    assert Trainer(tiny(), trainer.output).run(progress=False).sha256 == card.sha256


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 1e-4}, "learning_rate"), ({"options": {"n1": 8, "n2": 12}, "seed": 1}, "options, seed")],
    ids=str,
)
def test_a_changed_recipe_is_not_resumed(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    trainer = Trainer(tiny(), tmp_path)
    trainer.history.append({"step": 2, "loss": 0.1, "x2_clean": 1.0})
    trainer.save()
    with pytest.raises(ValueError, match=f"checkpoint.pt was made with other {named}; remove it or choose another"):
        Trainer(tiny(**changes), tmp_path).run(progress=False)
    assert Trainer(tiny(device="auto"), tmp_path).resume()  # the machine may be another one
    assert not Trainer(tiny(), tmp_path / "empty").resume()


def test_a_training_goes_on_with_other_workers_and_from_before_there_were_any(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), tmp_path)
    trainer.history.append({"step": 2, "loss": 0.1, "x2_clean": 1.0})
    trainer.step = 2
    trainer.save()
    state = torch.load(trainer.checkpoint, weights_only=True)
    del state["config"]["workers"]
    torch.save(state, trainer.checkpoint)
    again = Trainer(tiny(workers=3), tmp_path)
    assert again.resume() and again.step == 2 and again.workers == 3


def test_recipes_come_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY))
    assert read_recipe(path) == tiny()
    path.write_text("")
    assert read_recipe(path) == TrainingConfig()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("iteratoins: 10", "unknown setting iteratoins; known: .*iterations"),
        ("iterations: many", "iterations is 'many' .*wanted: int"),
        ("iterations: 0", "iterations is 0; wanted: at least 1"),
        ("precision: float16", "precision is 'float16'; wanted: one of 'float32', 'bfloat16'"),
        ("options: [1, 2]", r"options is \[1, 2\] .*wanted: dict"),
        ("- iterations", "recipe.yaml holds list; wanted: a mapping of settings"),
        ("iterations: [1", "recipe.yaml is no valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_field(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=named) as raised:
        read_recipe(path)
    assert "\n" not in str(raised.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe .*absent\.yaml"):
        read_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"model": "gan"}, "model is 'gan'"), ({"options": {"kernel_size": 4}}, "kernel_size is 4")],
    ids=str,
)
def test_a_network_that_does_not_exist_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Trainer(tiny(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []
