"""Weight files: only the right ones load, nothing in them ever runs, and the authors' checkpoints come in unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from conftest import MakeModel
from torch import Tensor

from dkn_ros import weights
from dkn_ros.config import PipelineConfig, TrainingConfig
from dkn_ros.images import read_rgb
from dkn_ros.metrics import rmse
from dkn_ros.models import FDKN
from dkn_ros.pipeline import Pipeline
from dkn_ros.training import Trainer
from dkn_ros.weights import (
    CARDS,
    Card,
    WeightsError,
    find_weights,
    import_checkpoint,
    load_model,
    save_weights,
    shipped_cards,
)

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"
SMALL = {"n1": 8, "n2": 8}


def random_images(channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, channels, 21, 26, generator=generator), torch.rand(1, 1, 21, 26, generator=generator)


def outputs(model: FDKN) -> Tensor:
    guidance, target = random_images(3 if model.options.rgb else 1)
    validity = torch.ones_like(target) if model.options.validity else None
    with torch.no_grad():
        traits = torch.tensor([[0.9, 0.3, 0.4]]) if model.options.traits else None
        output: Tensor = model(guidance if model.options.guided else None, target, validity, traits)
    return output


def rewrite_card(path: Path, **changes: Any) -> None:
    """Change fields of the card beside a weight file; None takes a field away."""
    card = path.with_suffix(".yaml")
    content = {**yaml.safe_load(card.read_text()), **changes}
    card.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))


def rewrite_state(path: Path, state: dict[str, Tensor]) -> None:
    """Put other numbers into a weight file, with a card that agrees."""
    data = safetensors.torch.save(state)
    path.write_bytes(data)
    rewrite_card(path, sha256=hashlib.sha256(data).hexdigest())


def refused(source: object, *parts: object) -> None:
    """Loading raises WeightsError with one line that holds all `parts`."""
    with pytest.raises(WeightsError) as raised:
        load_model(str(source))
    assert "\n" not in str(raised.value)
    for part in parts:
        assert str(part) in str(raised.value)


@pytest.fixture
def saved(make_model: MakeModel, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_weights(make_model(), path, model="fdkn", options=SMALL, licence="Apache-2.0", recipe={"seed": 3})
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 5, "residual": False}, {"guided": False}, {"rgb": True, "published_grid": True},
     {"validity": True, "traits": True}],
    ids=str,
)  # fmt: skip
def test_what_is_saved_is_loaded(make_model: MakeModel, tmp_path: Path, options: dict[str, Any]) -> None:
    model = make_model(**options)
    path = tmp_path / "new" / "network.safetensors"
    written = save_weights(model, path, model="fdkn", options={**SMALL, **options}, metrics={"rmse": 1.5})
    loaded, card = load_model(str(path))
    assert card == written and card.metrics == {"rmse": 1.5} and card.name == "network"
    assert loaded.options == model.options
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert torch.equal(outputs(loaded), outputs(model))
    assert sorted(p.name for p in path.parent.iterdir()) == ["network.safetensors", "network.yaml"]


def test_card_tells_the_sha256_of_the_file(saved: Path) -> None:
    card = yaml.safe_load(saved.with_suffix(".yaml").read_text())
    assert card["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert (card["model"], card["options"]) == ("fdkn", SMALL)
    assert (card["licence"], card["recipe"]) == ("Apache-2.0", {"seed": 3})


def test_weights_are_not_written_where_a_recipe_would_be_lost(make_model: MakeModel, tmp_path: Path) -> None:
    recipe = tmp_path / "fdkn.yaml"
    recipe.write_text("name: fdkn\nscenes: 2\n")
    with pytest.raises(WeightsError, match=r"fdkn\.yaml is there and is no card, which would be written over it"):
        save_weights(make_model(), tmp_path / "fdkn.safetensors", model="fdkn", options=SMALL)
    with pytest.raises(WeightsError, match=r"fdkn\.yaml is there and is no card"):
        Trainer(TrainingConfig(name="fdkn", options=SMALL), tmp_path)  # and not only when it is done
    assert recipe.read_text().startswith("name: fdkn") and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["x: hello", "x: [1]", "x:"])
def test_cards_that_are_none_are_named(saved: Path, content: str) -> None:
    (saved.parent / CARDS).write_text(content)
    refused(saved, saved.parent / CARDS, "holds no valid card")


def test_shipped_weights_are_found_by_their_path_too(saved: Path) -> None:
    path, card = find_weights("fdkn")
    assert path.with_suffix(".yaml").is_file()  # a recipe, which must not be taken for the card
    assert find_weights(str(path)) == (path, card)
    together = {"other": yaml.safe_load(saved.with_suffix(".yaml").read_text()) | {"name": "other"}}
    (saved.parent / CARDS).write_text(yaml.safe_dump(together))
    saved.with_suffix(".yaml").unlink()
    assert find_weights(str(saved))[1].name == "other"
    outputs(load_model(str(saved))[0])


@pytest.mark.parametrize("place", [0, 100, -1])
def test_an_altered_byte_is_found(saved: Path, place: int) -> None:
    data = bytearray(saved.read_bytes())
    data[place] ^= 1
    saved.write_bytes(data)
    refused(saved, saved, "has sha256 ", "its card says ")


def test_a_cut_file_is_found(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-10])
    refused(saved, "sha256")


def test_a_file_that_is_no_safetensors_is_refused_even_with_the_right_sum(saved: Path) -> None:
    data = b"\x80\x02garbage"
    saved.write_bytes(data)
    rewrite_card(saved, sha256=hashlib.sha256(data).hexdigest())
    refused(saved, saved)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors", "no weight file", tmp_path / "absent.safetensors")
    saved.with_suffix(".yaml").unlink()
    refused(saved, f"{saved} has no card network.yaml beside it", "dkn weights import")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sha256": 12345}, "sha256 of the card is 12345; wanted: str"),
        ({"sha256": None}, "sha256"),
        ({"model": None}, "model"),
        ({"model": ["fdkn"]}, "model of the card is ['fdkn']; wanted: str"),
        ({"options": "n1: 8"}, "options of the card is 'n1: 8'; wanted: dict"),
        ({"recipe": [1]}, "recipe of the card is [1]; wanted: dict"),
        ({"licence": 2.0}, "licence of the card is 2.0; wanted: str"),
        ({"author": "somebody"}, "author"),
        ({"model": "gan"}, "model is 'gan'; wanted: one of fdkn"),
        ({"options": {**SMALL, "depth": 3}}, "model fdkn has no option depth"),
        ({"options": {**SMALL, "kernel_size": 4}}, "kernel_size is 4"),
        ({"options": {"n1": 8, "n2": "8"}}, "n2 is '8'; wanted: int"),
        ({"options": {**SMALL, "guided": "no"}}, "guided is 'no'; wanted: bool"),
        ({"options": {8: "n1"}}, "no option 8"),
        ({"ratios": 8}, "ratios of the card are 8; wanted: [smallest, largest]"),
        ({"ratios": [8, 1]}, "ratios of the card are [8, 1]; wanted: [smallest, largest]"),
        ({"ratios": [0.5, 1]}, "ratios of the card are [0.5, 1]; wanted: [smallest, largest], both at least 1"),
        (
            {"ratios": [1, float("inf")]},
            "ratios of the card are [1, inf]; wanted: [smallest, largest], both at least 1",
        ),
        ({"ratios": [1, "16"]}, "ratios of the card are [1, '16']"),
    ],
    ids=str,
)
def test_a_wrong_card_is_refused_by_the_field(saved: Path, changes: dict[str, Any], named: str) -> None:
    rewrite_card(saved, **changes)
    refused(saved, named)


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just text", b"a: [1\n", b"\xff\xfe\x00"], ids=str)
def test_a_card_that_is_no_mapping_is_refused(saved: Path, content: bytes) -> None:
    saved.with_suffix(".yaml").write_bytes(content)
    refused(saved, saved.with_suffix(".yaml"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n1": 12, "n2": 8}, "has other shapes for guidance."),
        ({"n1": 8, "n2": 8, "kernel_size": 5}, "has other shapes for guidance.conv_offset.bias"),
        ({"n2": 8, "guided": False}, "has unknown guidance."),
    ],
    ids=str,
)
def test_weights_of_other_options_are_refused(saved: Path, options: dict[str, Any], problem: str) -> None:
    rewrite_card(saved, options=options)
    refused(saved, problem, "not the weights of this network")


def test_missing_and_extra_tensors_are_refused(saved: Path) -> None:
    state = safetensors.torch.load(saved.read_bytes())
    rewrite_state(saved, {name: value for name, value in state.items() if name != "target.conv6.bias"})
    refused(saved, "lacks target.conv6.bias")
    rewrite_state(saved, {**state, "target.conv7.bias": torch.zeros(3)})
    refused(saved, "has unknown target.conv7.bias")
    rewrite_state(saved, {name: value for name, value in state.items() if "bias" not in name})
    refused(saved, "lacks guidance.conv1.bias, guidance.conv1_bn.bias, guidance.conv2.bias and ", " more")


def test_weights_are_saved_under_their_suffix_only(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"wanted: a name that ends with .safetensors"):
        save_weights(make_model(), tmp_path / "network.pt", model="fdkn")
    assert list(tmp_path.iterdir()) == []


def test_shipped_weights_are_found_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = yaml.safe_load(saved.with_suffix(".yaml").read_text())
    del entry["name"]
    (saved.parent / "cards.yaml").write_text(yaml.safe_dump({"first": entry, "second": entry}))
    monkeypatch.setattr(weights, "share_path", lambda kind, name: saved.parent / name)
    assert list(shipped_cards()) == ["first", "second"]
    path, card = find_weights("second")
    assert path == saved and card.name == "second" and dataclasses.asdict(card)["options"] == SMALL
    assert load_model("first")[0].options.n1 == 8
    refused("third", "weights are 'third'; wanted: one of first, second, or the path of a .safetensors file")


@pytest.mark.parametrize("name", shipped_cards())
def test_the_weights_that_come_with_the_package_load_and_filter(name: str) -> None:
    model, card = load_model(name)
    assert card.licence != "unknown" and card.description and card.recipe and card.metrics
    assert torch.isfinite(outputs(model)).all()


def test_every_weight_file_of_the_package_has_a_card() -> None:
    files = {path.name for path in (ROOT / "weights").glob("*.safetensors")}
    assert files == {card.file for card in shipped_cards().values()}


def published(model: FDKN) -> dict[str, Tensor]:
    """The state of a network under the names of the authors' code."""
    names = {"guidance": "ImageKernel", "target": "DepthKernel"}
    state = {}
    for name, value in model.state_dict().items():
        tower, rest = name.split(".", 1)
        state[f"{names[tower]}.{rest}"] = value
    return state


@pytest.mark.parametrize(
    "options",
    [{}, {"n1": 4, "n2": 12}, {"kernel_size": 5}, {"rgb": True}, {"guided": False}],
    ids=str,
)
def test_a_published_checkpoint_is_imported_unchanged(
    make_model: MakeModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    model = make_model(published_grid=True, **options)
    torch.save(published(model), tmp_path / "FDKN_small")
    card = import_checkpoint(tmp_path / "FDKN_small", tmp_path / "imported.safetensors")
    loaded, found = load_model(str(tmp_path / "imported.safetensors"))
    assert found == card and "FDKN_small" in card.description
    if model.options.guided:
        assert loaded.options == model.options
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize(("ratio", "ratios"), [(None, (1.0, 16.0)), (8.0, (8.0, 8.0))])
def test_an_import_may_name_the_ratio_of_its_training(
    make_model: MakeModel, tmp_path: Path, ratio: float | None, ratios: tuple[float, float]
) -> None:
    torch.save(published(make_model(published_grid=True)), tmp_path / "FDKN_small")
    import_checkpoint(tmp_path / "FDKN_small", tmp_path / "imported.safetensors", ratio)
    assert load_model(str(tmp_path / "imported.safetensors"))[1].ratios == ratios


def test_an_import_for_a_ratio_below_one_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    torch.save(published(make_model(published_grid=True)), tmp_path / "FDKN_small")
    with pytest.raises(WeightsError, match="both at least 1"):
        import_checkpoint(tmp_path / "FDKN_small", tmp_path / "imported.safetensors", 0.5)
    assert not list(tmp_path.glob("imported*"))


class Malicious:
    """Unpickled by a loader that trusts its input, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(
    make_model: MakeModel, tmp_path: Path, zipped: bool
) -> None:
    victim = tmp_path / "victim"
    content = {**published(make_model()), "DepthKernel.extra": Malicious(victim)}
    torch.save(content, tmp_path / "evil", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="cannot be read safely") as raised:
        import_checkpoint(tmp_path / "evil", tmp_path / "imported.safetensors")
    assert "\n" not in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil"]
    torch.load(tmp_path / "evil", weights_only=False)
    assert victim.is_dir()  # the checkpoint is as evil as the test believes


def assert_no_import(source: Path, *parts: object) -> None:
    with pytest.raises(WeightsError) as raised:
        import_checkpoint(source, source.with_name("imported.safetensors"))
    assert "\n" not in str(raised.value) and str(source) in str(raised.value)
    for part in parts:
        assert str(part) in str(raised.value)
    assert not source.with_name("imported.safetensors").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_is_no_checkpoint(tmp_path: Path) -> None:
    assert_no_import(tmp_path / "absent", "no checkpoint")
    rng = np.random.default_rng(0)
    for i in range(200):
        start = (b"", b"\x80\x02", b"PK\x03\x04", b"(")[i % 4]
        (tmp_path / "garbage").write_bytes(start + rng.bytes(int(rng.integers(0, 60))))
        assert_no_import(tmp_path / "garbage")


@pytest.mark.parametrize(
    "change",
    [
        {"DepthKernel.conv_weight.weight": None},
        {"DepthKernel.conv6.weight": None},
        {"ImageKernel.conv6.weight": None},
        {"DepthKernel.conv6.weight": torch.zeros(())},
        {"DepthKernel.conv_weight.weight": 3},
        {"DepthKernel.conv_weight.weight": torch.zeros(64, 8, 1, 1)},
        {"DepthKernel.conv1.bias": None},
        {"DepthKernel.conv1.bias": "zero"},
        {"DepthKernel.conv9.bias": torch.zeros(2)},
        {"DepthKernel.conv1.bias": torch.zeros(7)},
        {7: torch.zeros(2)},
    ],
    ids=lambda change: str({k: v.shape if isinstance(v, Tensor) else v for k, v in change.items()}),
)
def test_a_checkpoint_of_another_network_is_refused(
    make_model: MakeModel, tmp_path: Path, change: dict[Any, Any]
) -> None:
    state = {**published(make_model()), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "other")
    assert_no_import(tmp_path / "other")


@pytest.mark.parametrize("content", [[1, 2], 3, {}, {"state_dict": {}}], ids=str)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other")
    assert_no_import(tmp_path / "other", "is no FDKN checkpoint; wanted: a state dict")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the authors' checkpoint and sample pair are not on this machine")
def test_the_authors_checkpoint_gives_the_authors_output(tmp_path: Path) -> None:
    """The whole chain; on every machine, `test_fdkn.test_published_grid_...` and the import of a checkpoint of the same
    layout above hold its parts."""
    path = tmp_path / "published.safetensors"
    import_checkpoint(REFERENCE / "FDKN_8x", path)
    pipeline = Pipeline(PipelineConfig(weights=str(path), device="cpu", precision="float32"))
    rgb = read_rgb(REFERENCE / "rgb.png")
    target, truth = (cv2.imread(str(REFERENCE / name), cv2.IMREAD_UNCHANGED) for name in ("target_8x.png", "truth.png"))
    assert target is not None and truth is not None
    output = pipeline.filter_raw(rgb, target)
    np.testing.assert_allclose(output, np.load(REFERENCE / "output.npy"), rtol=0, atol=1e-4)
    assert rmse(255 * output, truth.astype(np.float32)) == pytest.approx(1.81, abs=0.01)


def test_strength_goes_with_the_logarithm_of_the_ratio_and_stays_beyond_the_ends() -> None:
    card = Card("w", "w.safetensors", "0", "fdkn", strength={2: 0.4, 8: 1.0})
    assert [card.strength_at(r) for r in (1, 2, 4, 8, 16)] == pytest.approx([0.4, 0.4, 0.7, 1.0, 1.0])
    assert [card.strength_at(4, surely) for surely in (0, 0.5, 1)] == pytest.approx([0.7, 0.85, 1.0])
    assert Card("w", "w.safetensors", "0", "fdkn").strength_at(2) == 1.0


@pytest.mark.parametrize("strength", [{"2": 0.4}, {2: -1}, {0: 0.5}, {2: "half"}])
def test_a_strength_that_is_no_ratio_to_share_is_refused(strength: dict[object, object]) -> None:
    with pytest.raises(WeightsError, match="strength of the card"):
        Card("w", "w.safetensors", "0", "fdkn", strength=strength)
