"""Weight files: a card says what a file holds, the file is verified and strictly loaded.

A weight file is safetensors (numbers only, nothing that could run).  Its card tells the network class, its options,
the sha256, the licence and where the numbers come from.  Shipped weights have their cards in `weights/cards.yaml`; any
other file `W.safetensors` has its card beside it in `W.yaml`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from dkn_ros.models import FDKN, build_model
from dkn_ros.resources import share_path

SUFFIX = ".safetensors"


class WeightsError(ValueError):
    """A weight file or card that cannot be used; the message is one line that says what to do."""


CARDS = "cards.yaml"
"""The cards of several weight files in one folder, by name, as the shipped ones have them."""
PRUNING_CROPS = 300, 20
"""Crops and scenes on which a channel has to fire once, or it is left out."""


@dataclass(frozen=True)
class Card:
    """What is known of a weight file."""

    name: str
    file: str
    """File name, relative to the card."""
    sha256: str
    model: str
    """Network class, see `models`."""
    options: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    description: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    """How to train it again: the TrainingConfig, versions, machine and time."""
    strength: dict[Any, Any] = field(default_factory=dict)
    """Ratio of colour to depth size -> share of the network's correction that is applied, see `strength_at`."""
    ratios: tuple[float, float] = (1.0, 16.0)
    """Smallest and largest ratio of colour to depth size that the network can serve; for others the pipeline lets it
    work at another resolution, see `preprocess.working_size`."""
    back_projection: float = 0.0
    """Share of a step of back-projection that is taken where the input allows it, see `Traits.trust`."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measured figures and the command that gives them."""

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self) if f.name not in ("ratios", "back_projection")):
            wanted = dict if name in ("options", "recipe", "strength", "metrics") else str
            if not isinstance(getattr(self, name), wanted):
                raise WeightsError(f"{name} of the card is {getattr(self, name)!r}; wanted: {wanted.__name__}")
        numbers = (*self.strength, *self.strength.values())
        if not all(type(n) in (int, float) and n > 0 for n in numbers):
            raise WeightsError(f"strength of the card is {self.strength}; wanted: ratio: share, both above 0")
        ends = self.ratios if isinstance(self.ratios, (list, tuple)) else ()
        if len(ends) != 2 or not all(type(n) in (int, float) for n in ends) or not 1 <= ends[0] <= ends[1] < math.inf:
            raise WeightsError(f"ratios of the card are {self.ratios}; wanted: [smallest, largest], both at least 1")
        object.__setattr__(self, "ratios", (float(ends[0]), float(ends[1])))
        if type(self.back_projection) not in (int, float) or not 0 <= self.back_projection <= 1:
            raise WeightsError(f"back_projection of the card is {self.back_projection!r}; wanted: a number from 0 to 1")

    def strength_at(self, ratio: float, antialiased: float = 0.0) -> float:
        """The share of the network's correction to apply at a ratio: all of it where the card says nothing.

        Between the card's ratios it goes with the logarithm of the ratio.  The finer the input, the less is left to
        gain and the more an edge in the wrong place costs.
        antialiased: of `Traits`; means say where the edge is, so the surer it is of them, the nearer the share is to 1.
        """
        if not self.strength:
            return 1.0
        ratios = sorted(self.strength)
        share = float(np.interp(np.log2(ratio), np.log2(ratios), [self.strength[r] for r in ratios]))
        return share + (1 - share) * antialiased if share < 1 else share


def shipped_cards() -> dict[str, Card]:
    """Cards of the weights that come with the package, by name."""
    return _cards(share_path("weights", CARDS))


def _cards(path: Path) -> dict[str, Card]:
    return {name: _card(path, entry, name=name) for name, entry in _read_yaml(path).items()}


def find_weights(source: str) -> tuple[Path, Card]:
    """The weight file and card of a shipped name or of a path to a safetensors file.

    Raises WeightsError if there is no such name or file, or if the file has no card.
    """
    if not source.endswith(SUFFIX):
        cards = shipped_cards()
        if source not in cards:
            raise WeightsError(
                f"weights are {source!r}; wanted: one of {', '.join(cards) or '(none shipped)'}, "
                f"or the path of a {SUFFIX} file"
            )
        return share_path("weights", cards[source].file), cards[source]
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"no weight file {path}; give an existing file or one of {', '.join(shipped_cards())}")
    together, beside = path.with_name(CARDS), path.with_suffix(".yaml")
    if together.is_file():  # where a recipe may have the name that a card of its own has elsewhere
        for card in _cards(together).values():
            if card.file == path.name:
                return path, card
    if not beside.is_file():
        raise WeightsError(
            f"{path} has no card {beside.name} beside it; make both with `dkn weights import` or `dkn train`"
        )
    return path, _card(beside, _read_yaml(beside))


def load_model(source: str = "fdkn") -> tuple[FDKN, Card]:
    """A network with the weights of a shipped name or a file, in evaluation mode on the CPU, and its card.

    Raises WeightsError if the file is missing, altered, or does not fit the network its card names.
    """
    path, card = find_weights(source)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.sha256:
        raise WeightsError(
            f"{path} has sha256 {digest[:12]}..., its card says {card.sha256[:12]}...; the file is damaged or not the "
            "one the card describes: fetch it again"
        )
    try:
        state = safetensors.torch.load(data)
        model = build_model(card.model, card.options)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    _load_strictly(model, state, str(path))
    return model.eval(), card


def check_output(path: Path) -> None:
    """Raise WeightsError unless weights can be written to `path`, and their card beside it."""
    if path.suffix != SUFFIX:
        raise WeightsError(f"output is {path}; wanted: a name that ends with {SUFFIX}")
    beside = path.with_suffix(".yaml")
    if beside.exists() and "sha256" not in _read_yaml(beside):
        raise WeightsError(f"{beside} is there and is no card, which would be written over it; choose another folder")


def save_weights(network: torch.nn.Module, path: Path, **about: Any) -> Card:
    """Write `path` (safetensors) and its card beside it; `about` are fields of `Card`.  Returns the card."""
    check_output(path)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    data = safetensors.torch.save(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    card = Card(name=path.stem, file=path.name, sha256=hashlib.sha256(data).hexdigest(), **about)
    write_atomically(path, data)
    write_atomically(path.with_suffix(".yaml"), yaml.safe_dump(dataclasses.asdict(card), sort_keys=False).encode())
    return card


def prune(source: str, output: Path) -> Card:
    """Write the network of a name or file without the channels that never fire, see `models.pruning`; all else stays.

    Raises WeightsError for weights that cannot be loaded.
    """
    from dkn_ros.models.pruning import pruned
    from dkn_ros.synthetic.samples import typical_crops

    model, card = load_model(source)
    o = model.options
    small = pruned(model, typical_crops(o.rgb, *PRUNING_CROPS, alignment=o.alignment))
    slim = {name: list(getattr(small.options, name)) for name in ("guidance_channels", "target_channels")}
    kept = {f.name: getattr(card, f.name) for f in dataclasses.fields(card) if f.name not in ("name", "file", "sha256")}
    return save_weights(small, output, **{**kept, "options": card.options | {n: c for n, c in slim.items() if c}})


def import_checkpoint(source: Path, output: Path, ratio: float | None = None) -> Card:
    """Turn the authors' published FDKN checkpoint (a torch state dict) into safetensors with a card.

    ratio: the one that it was trained for; at others it then works at the resolution that makes them this one.  Without
    it, it works on the colour grid at any ratio, as the authors' code does.
    Read with torch's weights-only unpickler, which builds tensors and nothing else.  The options are found from the
    shapes.  Raises WeightsError for a file that is not such a checkpoint.
    """
    if not source.is_file():
        raise WeightsError(f"no checkpoint {source}; give the path of the authors' published file")
    try:
        published = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes the unpickler stumble in any way there is
        raise WeightsError(
            f"{source} cannot be read safely: it is damaged or holds more than tensors; wanted: a torch state dict"
        ) from error
    if (
        not isinstance(published, Mapping)
        or "DepthKernel.conv_weight.weight" not in published
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in published.items())
    ):
        raise WeightsError(f"{source} is no FDKN checkpoint; wanted: a state dict with ImageKernel.* and DepthKernel.*")
    state: dict[str, Tensor] = {}
    for name, value in published.items():
        state[name.replace("ImageKernel.", "guidance.").replace("DepthKernel.", "target.")] = value
    try:
        options = _published_options(state)
        network = build_model("fdkn", options)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{source} is no FDKN checkpoint that can be imported: {error}") from error
    _load_strictly(network, state, str(source))
    return save_weights(
        network,
        output,
        model="fdkn",
        options=options,
        licence="unknown: the authors' own terms",
        ratios=(1.0, 16.0) if ratio is None else (ratio, ratio),
        description=f"imported from {source.name}, a checkpoint published by the authors of arXiv 1910.08373",
    )


def _published_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    subpixels = 16
    guided = "guidance.conv1.weight" in state
    options: dict[str, Any] = {
        "kernel_size": round((state["target.conv_weight.weight"].shape[0] / subpixels) ** 0.5),
        "n2": state["target.conv6.weight"].shape[0],
        "guided": guided,
        "published_grid": True,
    }
    if guided:
        options["n1"] = state["guidance.conv6.weight"].shape[0]
        options["rgb"] = state["guidance.conv1.weight"].shape[1] == 3 * subpixels
    return options


def _load_strictly(model: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)
    for problem, names in (("lacks", missing), ("has unknown", extra), ("has other shapes for", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(f"{what} {problem} {', '.join(names[:3])}{more}: not the weights of this network")
    model.load_state_dict(dict(state))


def _card(path: Path, entry: Any, **more: str) -> Card:
    try:
        return Card(**{**more, **entry})
    except (TypeError, WeightsError) as error:
        raise WeightsError(f"{path} holds no valid card: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}; wanted: a mapping")
    return content


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)
