"""A network in training that begins with the weights of another one."""

from __future__ import annotations

import dataclasses

import torch

from dkn_ros.models.fdkn import FDKN
from dkn_ros.models.pruning import widened


def fewer_channels(earlier: FDKN, model: FDKN) -> bool:
    """Whether a network has fewer channels than another that begins with its weights."""
    return any(earlier.options.channels(tower) != model.options.channels(tower) for tower in ("guidance", "target"))


def start_from(model: FDKN, earlier: FDKN) -> None:
    """Begin with the weights of another network; what that was not told (`validity`, `traits`, `alignment`) begins
    without effect, and so do channels that it has not, see `TrainingConfig.revive_every`.

    Raises ValueError for a network that differs in anything else.
    """
    now, then = model.options, earlier.options
    more = {name: getattr(then, name) or getattr(now, name) for name in ("validity", "traits", "alignment")}
    wanted, given = ([o.channels(tower) for tower in ("guidance", "target")] for o in (now, then))
    if all(a >= b for towers in zip(wanted, given, strict=True) for a, b in zip(*towers, strict=True)):
        earlier = earlier if wanted == given else widened(earlier, *wanted)
        more |= {name: getattr(now, name) for name in ("n1", "n2", "guidance_channels", "target_channels")}
    alike = dataclasses.replace(then, **more)
    unlike = [f.name for f in dataclasses.fields(now) if getattr(now, f.name) != getattr(alike, f.name)]
    if unlike:
        raise ValueError(
            f"start holds a network with {', '.join(f'{name} {getattr(then, name)}' for name in unlike)}; wanted: "
            f"{', '.join(f'{name} {getattr(now, name)}' for name in unlike)}, as in the options"
        )
    state, first = dict(earlier.state_dict()), "target.conv1.weight"
    before, after = state[first], torch.zeros_like(model.target.conv1.weight)
    images = before.shape[1] - then.told  # the traits stand last, validity between
    after[:, :images] = before[:, :images]
    first_told = after.shape[1] - now.told
    after[:, first_told : first_told + then.told] = before[:, images:]
    state[first] = after
    model.load_state_dict(state)
