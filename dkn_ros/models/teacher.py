"""What a small network learns from a large one before it learns from the truth.

Of the truth alone a small network learned to look at the depth and never at the colour: until a guidance tower says
something of use, the target tower's best is to do without it, and then nothing tells the guidance tower what to say.
A teacher tells both towers apart what to say, at every pixel (distillation; of layers within a network it is the hint
of Romero et al., "FitNets", ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dkn_ros.models.fdkn import FDKN
from dkn_ros.models.pruning import tower_inputs, towers_of

if TYPE_CHECKING:
    from dkn_ros.synthetic.samples import Sample


LEAST_VARIANCE = 1e-4
"""Of a head that tells anything; those of `fdkn` have 0.02 and more, those of a tower that died 1e-5 and less."""


class Teacher:
    """A network in evaluation mode, and how much each of its heads varies on typical crops."""

    def __init__(self, model: FDKN, crops: Sequence[Sample]) -> None:
        self._model = model
        with torch.no_grad():
            said = [_heads(model, {n: tower_inputs(model, n, crop) for n in towers_of(model)}) for crop in crops]
        whole = [torch.cat(heads) for heads in zip(*said, strict=True)]
        self._variances = [float(head.var((0, 2, 3)).mean()) for head in whole]
        if min(self._variances) < LEAST_VARIANCE:
            raise ValueError(
                "teacher says the same everywhere with one of its towers, from which nothing is learned; wanted: one "
                "that looks at colour and depth"
            )

    def check(self, model: FDKN) -> None:
        """Raise ValueError unless the heads of `model` mean the same."""
        for name in ("kernel_size", "residual", "guided", "rgb", "published_grid"):
            taught, teaching = getattr(model.options, name), getattr(self._model.options, name)
            if taught != teaching:
                raise ValueError(f"teacher has {name} {teaching}, the network {taught}; wanted: the same")

    def unlikeness(self, model: FDKN, guidance: Tensor, target: Tensor, validity: Tensor, traits: Tensor) -> Tensor:
        """Of what varies in a head of the teacher, the share that the network's does not follow, the mean of all heads.

        0: alike; 1: no better than the teacher's mean.  Arguments as of `FDKN.forward`, sizes multiples of 4.
        """
        given = (guidance, target, validity, traits)
        with torch.no_grad():
            wanted = _heads(self._model, _inputs(self._model, *given))
        found = _heads(model, _inputs(model, *given))
        shares = [
            (a.float() - b.float()).square().mean() / variance
            for a, b, variance in zip(found, wanted, self._variances, strict=True)
        ]
        return torch.stack(shares).mean()


Inputs = dict[str, tuple[Tensor, Tensor | None]]


def _inputs(model: FDKN, guidance: Tensor, target: Tensor, validity: Tensor, traits: Tensor) -> Inputs:
    inputs: Inputs = {"target": model.target_input(target, validity, traits)}
    return inputs if model.guidance is None else {**inputs, "guidance": (guidance, None)}


def _heads(model: FDKN, inputs: Inputs) -> list[Tensor]:
    """Weights and offsets of every tower, in the order of `towers_of`."""
    return [head for name, tower in towers_of(model).items() for head in tower(*inputs[name])]
