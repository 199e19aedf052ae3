"""Channels without effect are taken out, and the network gives the same as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor, nn

from dkn_ros import weights
from dkn_ros.cli import main
from dkn_ros.models import FDKN, FDKNOptions
from dkn_ros.models.pruning import MULTIPLE, pruned, widened
from dkn_ros.synthetic.samples import Sample, typical_crops
from dkn_ros.weights import load_model, save_weights

TOLD: dict[str, Any] = {"validity": True, "traits": True, "alignment": True}


def kill(layer: nn.Conv2d | nn.BatchNorm2d, channels: slice) -> None:
    """Nothing of them gets above zero."""
    with torch.no_grad():
        assert layer.bias is not None
        layer.weight[channels] = 0
        layer.bias[channels] = -1


@pytest.fixture
def dying(make_model: MakeModel) -> FDKN:
    """Of 64 channels, as many have died in several layers of both towers."""
    model = make_model(n1=64, n2=64, **TOLD)
    assert model.guidance is not None
    kill(model.guidance.conv6, slice(10, 64))
    kill(model.guidance.conv5_bn, slice(0, 20))
    kill(model.target.conv6, slice(30, 60))
    kill(model.target.conv4, slice(0, 16))
    return model


@pytest.fixture(scope="module")
def crops() -> list[Sample]:
    return typical_crops(count=20, scenes=2, alignment=True)


def results(model: FDKN, crops: list[Sample]) -> list[Tensor]:
    images = [(crop.guidance, crop.target[None], crop.validity[None], crop.traits) for crop in crops[::4]]
    with torch.no_grad():
        return [model(*(torch.from_numpy(image)[None] for image in given)) for given in images]


def test_what_is_left_gives_the_same(dying: FDKN, crops: list[Sample]) -> None:
    small = pruned(dying, crops)
    o = small.options
    assert o.guidance_channels[5] == 16 and o.guidance_channels[4] <= 48  # of 10 and 44 that may live
    assert o.target_channels[5] <= 48 and o.target_channels[3] == 16
    assert all(count % MULTIPLE == 0 for count in (*o.guidance_channels, *o.target_channels))
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in dying.parameters())
    torch.testing.assert_close(results(small, crops), results(dying, crops), rtol=0, atol=1e-5)
    wide = widened(small)
    assert wide.options == dying.options
    torch.testing.assert_close(results(wide, crops), results(dying, crops), rtol=0, atol=1e-5)


def test_a_network_all_of_which_fires_stays_as_it_is(make_model: MakeModel, crops: list[Sample]) -> None:
    model = make_model(n1=16, n2=16, **TOLD)
    small = pruned(model, crops)
    assert small.options.target_channels == model.options.channels("target")
    torch.testing.assert_close(results(small, crops), results(model, crops), rtol=0, atol=1e-6)


def test_a_dead_tower_is_left_with_what_it_always_says(dying: FDKN, crops: list[Sample]) -> None:
    assert dying.guidance is not None
    kill(dying.guidance.conv6, slice(None))
    small = pruned(dying, crops)
    assert small.options.guidance_channels == (16,) * 6
    torch.testing.assert_close(results(small, crops), results(dying, crops), rtol=0, atol=1e-5)


def test_a_dead_tower_stays_dead_without_the_layers_before_it(make_model: MakeModel, crops: list[Sample]) -> None:
    """That is, where it was dead for what those gave, and not for anything."""
    model = make_model(n1=64, n2=16, **TOLD)
    assert model.guidance is not None
    kill(model.guidance.conv5_bn, slice(0, 16))  # which are the ones that stay, as the first of equals
    with torch.no_grad():
        model.guidance.conv6.weight.fill_(-1)
        assert model.guidance.conv6.bias is not None
        model.guidance.conv6.bias.fill_(0.1)
    small = pruned(model, crops)
    assert small.guidance is not None
    assert not any(
        value.any() for value in list(small.guidance.activations(torch.from_numpy(crops[0].guidance)[None]))[5:]
    )
    torch.testing.assert_close(results(small, crops), results(model, crops), rtol=0, atol=1e-5)


def test_depth_only_and_larger_kernels(make_model: MakeModel, crops: list[Sample]) -> None:
    model = make_model(n2=64, guided=False, kernel_size=5, residual=False)
    kill(model.target.conv6, slice(0, 40))
    small = pruned(model, crops)
    assert small.options.guidance_channels == () and small.options.target_channels[5] <= 32
    torch.testing.assert_close(results(small, crops), results(model, crops), rtol=0, atol=1e-5)


def test_the_command_writes_a_file_that_gives_the_same(
    dying: FDKN,
    crops: list[Sample],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "PRUNING_CROPS", (20, 2))
    card = {"licence": "CC0", "strength": {1: 0.5}, "back_projection": 0.25}
    save_weights(dying, tmp_path / "all.safetensors", model="fdkn", options={"n1": 64, "n2": 64, **TOLD}, **card)
    assert main(["weights", "prune", str(tmp_path / "all.safetensors"), "-o", str(tmp_path / "slim.safetensors")]) == 0
    assert " parameters, options " in capsys.readouterr().out
    small, written = load_model(str(tmp_path / "slim.safetensors"))
    assert (written.licence, written.strength, written.back_projection) == ("CC0", {1: 0.5}, 0.25)
    assert small.options.guidance_channels[5] == 16
    torch.testing.assert_close(results(small, crops), results(dying, crops), rtol=0, atol=1e-5)
    assert main(["weights", "prune", str(tmp_path / "none.safetensors"), "-o", str(tmp_path / "b.safetensors")]) == 1


@pytest.mark.parametrize("given", [(16, 16), (16, 16, 32, 32, 64, 0), (1, 2, 3, 4, 5, 6.5)])
def test_channels_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"target_channels is .*; wanted: six positive numbers"):
        FDKNOptions(target_channels=given)
    assert FDKNOptions(target_channels=[16] * 6).target_channels == (16,) * 6  # type: ignore[arg-type]
