"""Channels that died in a training, begun anew while it goes on.

A channel behind a ReLU whose input is never above zero has no gradient and stays as it is.  Left alone, three quarters
of the last convolutions died so, and in one network the whole guidance tower, see `pruning`.  This is the remedy of
Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning" (ICML 2023): such a channel gets new
weights before it, and none behind it, so that what the network gives stays the same and the gradient finds it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkn_ros.models.fdkn import CONVOLUTIONS, FDKN, Tower
from dkn_ros.models.pruning import peaks_of, tower_inputs, towers_of

if TYPE_CHECKING:
    from dkn_ros.synthetic.samples import Sample

Anew = dict[str, Tensor]
"""Name in the network's state -> which of its entries were begun anew."""


@torch.no_grad()
def revive(model: FDKN, crops: Sequence[Sample], seed: int) -> Anew:
    """Begin the channels anew, in place, that never fire on `crops`; there the network's result stays the same.

    Returns which entries are new, so that what goes with them (running averages, moments) can begin anew too.
    """
    training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    peaks = peaks_of(model, crops)
    anew: Anew = {}
    for name, tower in towers_of(model).items():
        batches = (tower_inputs(model, name, crop) for crop in crops)
        images = torch.cat([tower.blocks(*given) for given in batches])
        found = _revive_tower(tower, images, [~(peak > 0) for peak in peaks[name]], generator)
        anew |= {f"{name}.{entry}": mask for entry, mask in found.items()}
    model.train(training)
    return anew


def living_share(model: FDKN, crops: Sequence[Sample]) -> float:
    """Of all channels behind a ReLU, the share that fires somewhere on `crops`."""
    training = model.training
    peaks = torch.cat([peak for tower in peaks_of(model.eval(), crops).values() for peak in tower])
    model.train(training)
    return float((peaks > 0).float().mean())


def _revive_tower(tower: Tower, x: Tensor, dead: Sequence[Tensor], generator: torch.Generator) -> Anew:
    """x: what the first convolution is given; dead: of each convolution which channels.  Mask of every entry."""
    anew: Anew = {}
    before = torch.zeros(tower.conv1.in_channels, dtype=torch.bool, device=x.device)
    for name, these in zip(CONVOLUTIONS, dead, strict=True):
        layer: nn.Conv2d = getattr(tower, name)
        norm: nn.BatchNorm2d | None = getattr(tower, f"{name}_bn", None)
        assert layer.bias is not None
        _forget(anew, f"{name}.weight", layer.weight, before)
        fresh = torch.empty(layer.weight.shape)
        nn.init.kaiming_normal_(fresh, nonlinearity="relu", generator=generator)
        layer.weight[these] = fresh.to(x.device)[these]
        layer.bias[these] = 0
        values = layer(x)
        if norm is None:
            _centre(layer, values, these)
        else:
            _begin_norm(norm, values, these)
        anew[f"{name}.weight"] = anew[f"{name}.weight"] | these[:, None, None, None]
        anew[f"{name}.bias"] = these
        parts = () if norm is None else ("weight", "bias", "running_mean", "running_var")
        anew |= {f"{name}_bn.{part}": these for part in parts}
        values = layer(x)
        x, before = F.relu(values if norm is None else norm(values)), these
    for name in ("conv_weight", "conv_offset"):
        _forget(anew, f"{name}.weight", getattr(tower, name).weight, before)
    return anew


def _forget(anew: Anew, name: str, weight: Tensor, before: Tensor) -> None:
    """No layer looks at channels that are new."""
    weight[:, before] = 0
    anew[name] = before[None, :, None, None].expand(weight.shape)


def _centre(layer: nn.Conv2d, values: Tensor, these: Tensor) -> None:
    """Without a batch norm behind it: as far from zero as the others are, half of the time above."""
    assert layer.bias is not None
    mean, spread = values.mean((0, 2, 3)), values.std((0, 2, 3)).clamp(min=1e-6)
    usual = spread[~these].median() if not these.all() else 1.0
    scale = (usual / spread)[these]
    layer.weight[these] *= scale[:, None, None, None]
    layer.bias[these] = -mean[these] * scale


def _begin_norm(norm: nn.BatchNorm2d, values: Tensor, these: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.weight[these] = norm.weight[~these].abs().median() if not these.all() else 1.0
    norm.bias[these] = 0
    norm.running_mean[these] = values.mean((0, 2, 3))[these]
    norm.running_var[these] = values.var((0, 2, 3))[these]
