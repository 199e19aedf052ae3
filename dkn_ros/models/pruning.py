"""Channels that a training has left without effect, taken out: the same network with less work.

A channel behind a ReLU whose input is never above zero gives nothing to the layers after it, and no gradient brings it
back.  Of the last convolutions of the shipped network three quarters had died so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dkn_ros.models.fdkn import CONVOLUTIONS, FDKN, Tower

if TYPE_CHECKING:
    from dkn_ros.synthetic.samples import Sample

MULTIPLE = 16
"""Processors work on so many channels at once: a multiple of it is kept, with dead ones if need be."""


def pruned(model: FDKN, crops: Sequence[Sample]) -> FDKN:
    """A network without the channels that never fire on `crops`.

    crops: many and varied, see `samples.typical_crops`: on an image on which a channel that is taken out would have
    fired, the result is another one.
    """
    towers = towers_of(model)
    peaks = {name: _reaching(found) for name, found in peaks_of(model, crops).items()}
    kept = {name: [_kept(peak) for peak in found] for name, found in peaks.items()}
    channels: dict[str, tuple[int, ...]] = {
        f"{name}_channels": tuple(len(keep) for keep in kept[name]) for name in towers
    }
    small = FDKN(dataclasses.replace(model.options, **channels)).eval()  # type: ignore[arg-type]
    for name, tower in towers_of(small).items():
        _copy(towers[name], tower, kept[name])
        for convolution, peak in zip(CONVOLUTIONS, peaks[name], strict=True):
            if not peak.max() > 0:
                _silence(tower, convolution)
    return small


def widened(model: FDKN, guidance: tuple[int, ...] = (), target: tuple[int, ...] = ()) -> FDKN:
    """The same network with more channels; those that are added do nothing.

    guidance, target: channels of the convolutions of the two towers, none fewer than they are; without them all those
    that n1 and n2 say.
    """
    wide = FDKN(dataclasses.replace(model.options, guidance_channels=guidance, target_channels=target)).eval()
    for name, tower in towers_of(wide).items():
        _copy(towers_of(model)[name], tower, [torch.arange(count) for count in model.options.channels(name)])
    return wide


def towers_of(model: FDKN) -> dict[str, Tower]:
    """The towers there are by the names "target" and "guidance"."""
    return {"target": model.target} | ({} if model.guidance is None else {"guidance": model.guidance})


def tower_inputs(model: FDKN, name: str, crop: Sample) -> tuple[Tensor, Tensor | None]:
    """What a tower is given of a crop: images 1xCxHxW, and what it is told."""
    device = model.target.conv1.weight.device
    images = crop.guidance, crop.target[None], crop.validity[None], crop.traits
    guidance, *rest = (torch.from_numpy(image)[None].to(device) for image in images)
    return (guidance, None) if name == "guidance" else model.target_input(*rest)


@torch.no_grad()
def peaks_of(model: FDKN, crops: Sequence[Sample]) -> dict[str, list[Tensor]]:
    """Tower -> of each of its convolutions the largest value of every channel behind the ReLU."""
    found: dict[str, list[Tensor]] = {}
    for crop in crops:
        for name, tower in towers_of(model).items():
            values = [value.amax((0, 2, 3)) for value in tower.activations(*tower_inputs(model, name, crop))]
            found[name] = [torch.maximum(*pair) for pair in zip(found.get(name, values), values, strict=True)]
    return found


def _reaching(peaks: list[Tensor]) -> list[Tensor]:
    """The same, but nothing before a layer of which nothing fires: it reaches no result."""
    dead = [i for i, peak in enumerate(peaks) if not peak.max() > 0]
    return [peak * 0 if dead and i < dead[-1] else peak for i, peak in enumerate(peaks)]


def _kept(peak: Tensor) -> Tensor:
    """Which channels stay, in order: those that fire, and of the others as many as make a multiple."""
    count = max(1, -(-int((peak > 0).sum()) // MULTIPLE)) * MULTIPLE  # or all, where there are fewer
    return peak.argsort(descending=True, stable=True)[:count].sort().values


@torch.no_grad()
def _silence(tower: Tower, name: str) -> None:
    """Nothing of this convolution fires, whatever it is given: those before it are not what they were."""
    for layer in (getattr(tower, name), getattr(tower, f"{name}_bn", None)):
        if layer is not None:
            layer.weight.zero_()
            layer.bias.zero_()


@torch.no_grad()
def _copy(source: Tower, target: Tower, kept: Sequence[Tensor]) -> None:
    """Copy the channels `kept` of each convolution, and what the next ones make of them, to the first of `target`."""
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    before = torch.arange(source.conv1.in_channels)
    every = torch.arange(source.conv_weight.out_channels), torch.arange(source.conv_offset.out_channels)
    for name, after in zip(CONVOLUTIONS, kept, strict=True):
        _copy_layer(getattr(source, name), getattr(target, name), after, before)
        if (norm := getattr(source, f"{name}_bn", None)) is not None:
            for part in ("weight", "bias", "running_mean", "running_var"):
                getattr(getattr(target, f"{name}_bn"), part)[: len(after)] = getattr(norm, part)[after]
        before = after
    for name, after in zip(("conv_weight", "conv_offset"), every, strict=True):
        _copy_layer(getattr(source, name), getattr(target, name), after, before)


def _copy_layer(source: nn.Conv2d, target: nn.Conv2d, after: Tensor, before: Tensor) -> None:
    assert source.bias is not None and target.bias is not None
    target.weight[: len(after), : len(before)] = source.weight[after][:, before]
    target.bias[: len(after)] = source.bias[after]
