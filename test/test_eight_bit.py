"""Towers in 8-bit integers: what they give, and that no processor adds them wrong."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dkn_ros.config import PipelineConfig
from dkn_ros.models import eight_bit
from dkn_ros.models.fdkn import FDKN, FDKNOptions, Tower
from dkn_ros.models.inference import folded, prepared
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.samples import typical_crops

CPU = torch.device("cpu")
KINDS = (torch.float32, torch.bfloat16)


def lively(options: FDKNOptions, seed: int = 0) -> FDKN:
    """A network whose batch norms are not neutral, as after a training."""
    torch.manual_seed(seed)
    model = FDKN(options).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("_bn.weight", "running_var")):
                value.uniform_(0.3, 2.0)
            elif name.endswith(("_bn.bias", "running_mean")):
                value.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def blocks() -> Tensor:
    """A crop's depth and validity as the target tower takes them."""
    crop = typical_crops(count=1, scenes=1)[0]
    images = torch.from_numpy(np.stack((crop.target, crop.validity)))[None]
    return torch.nn.functional.pixel_unshuffle(images, 4).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("channels", [16, 64, 128])
def test_a_tower_gives_nearly_what_it_gives_in_float32(blocks: Tensor, channels: int, kind: torch.dtype) -> None:
    model = lively(FDKNOptions(n1=channels, n2=channels, validity=True))
    before = copy.deepcopy(model.state_dict())
    guidance, target = eight_bit.eight_bit_towers(model, kind, typical_crops(count=12, scenes=1))
    for name, value in model.state_dict().items():  # the network itself stays as it is
        assert torch.equal(value, before[name])
    assert guidance is not None
    with torch.inference_mode():
        wanted = prepared(model.target, CPU, torch.float32)(blocks)
        found = target(blocks)
    for exact, head in zip(wanted, found, strict=True):
        assert head.dtype == kind and head.shape == exact.shape
        noise = float((head.float() - exact).square().mean().sqrt() / exact.std())
        assert 0 < noise < 0.05


def test_a_depth_only_network_has_no_guidance_tower() -> None:
    model = lively(FDKNOptions(guided=False, n2=16))
    guidance, target = eight_bit.eight_bit_towers(model, torch.float32, typical_crops(count=2, scenes=1))
    assert guidance is None
    with torch.inference_mode():
        weights, offsets = target(torch.zeros(1, 16, 3, 5).to(memory_format=torch.channels_last))
    assert weights.shape == (1, 144, 3, 5) and offsets.shape == (1, 288, 3, 5)


def test_evening_out_channels_changes_nothing(blocks: Tensor) -> None:
    """Neither what comes out nor, but for the scale, the peaks; and a channel that never lives does no harm."""
    tower = folded(lively(FDKNOptions(n2=16, validity=True)).target)
    with torch.no_grad():
        tower.conv3.weight[2] = 0.0
        tower.conv3.bias[2] = -1.0  # type: ignore[index]
    evened = copy.deepcopy(tower)
    peaks = _peaks(tower, blocks)
    assert float(peaks[2][2]) == 0
    with torch.inference_mode():
        after = eight_bit._evened(evened, peaks)
        for exact, found in zip(tower.layers(blocks), evened.layers(blocks), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    for expected, found in zip(_peaks(evened, blocks), after, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    spread = [float(p[p > 0].max() / p[p > 0].min()) for p in (peaks[0], after[0])]
    assert spread[1] < spread[0]


def _peaks(tower: Tower, blocks: Tensor) -> eight_bit.Peaks:
    peaks = [torch.zeros(1)] * len(eight_bit.LAYERS)
    hooks = eight_bit._watch(tower, peaks)
    with torch.inference_mode():
        tower.layers(blocks)
    for hook in hooks:
        hook.remove()
    return peaks


def test_rounding() -> None:
    values = torch.tensor(
        [-3.0, -0.4, 0.0, 0.49, 0.5, 1.25, 127.0, 254.4, 255.0, 255.6, 1e9, -1e9, 3.0, 77.0, 9.0, 6.7]
    )
    image = values.view(1, 4, 2, 2).to(memory_format=torch.channels_last)
    found = eight_bit._rounded(image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = (image.clamp(0, 255) + 0.5).floor().to(torch.uint8)
    assert torch.equal(found, wanted)


PROBE = """
import torch
from dkn_ros.models.eight_bit import SAFE, Convolution, largest_weight
largest = largest_weight()
torch.manual_seed(0)
layer = torch.nn.Conv2d(64, 64, 3, padding=1)
image = torch.randint(0, 256, (1, 64, 9, 11), dtype=torch.uint8).to(memory_format=torch.channels_last)
with torch.inference_mode():
    found = Convolution(layer, 1.0, largest, 1.0, torch.float32)(image)
    wanted = layer(image.float())
print(largest == SAFE, float((found - wanted).square().mean().sqrt() / wanted.std()))
"""


@pytest.mark.parametrize("isa", ["AVX2", "ALL"])
def test_no_sum_is_cut_off(isa: str) -> None:
    """Also without the instructions made for it, where weights of full size would lose half of a sum."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    safe, noise = ran.stdout.split()
    assert isa == "ALL" or safe == "True"
    assert 0 < float(noise) < 0.02


def test_a_machine_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> None:
    """Also before a running pipeline takes the setting."""

    def refuse(*_: object) -> None:
        raise RuntimeError("no such operation\nand a stack")

    eight_bit.largest_weight.cache_clear()
    monkeypatch.setattr(eight_bit, "Convolution", refuse)
    with pytest.raises(
        eight_bit.EightBitError, match=r"int8, which PyTorch .* cannot .* \(no such operation\); wanted: auto, float32"
    ):
        eight_bit.largest_weight()
    running = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1))
    running.check(dataclasses.replace(running.config, precision="bfloat16"))
    with pytest.raises(ValueError, match="no such operation"):
        running.check(dataclasses.replace(running.config, precision="int8"))
    with pytest.raises(ValueError, match="no such operation"):
        Pipeline(dataclasses.replace(running.config, precision="int8"))
    monkeypatch.setattr(eight_bit, "Convolution", lambda *_: lambda image: torch.zeros(1))
    with pytest.raises(eight_bit.EightBitError, match="come out wrong; wanted: auto, float32 or bfloat16"):
        eight_bit.largest_weight()
