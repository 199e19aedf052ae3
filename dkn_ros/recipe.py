"""A training recipe: read from YAML, checked, and as it is at a step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from dkn_ros.config import TrainingConfig

STAGED = ("square_weight", "soft_edges", "rough_truth", "misregistered", "misregistration", "noiseless")
"""Settings that stages of a recipe may change."""
UNSEEN = ("device", "workers")
"""Settings that the result does not depend on, so that a training may go on with others."""


def read_recipe(path: Path) -> TrainingConfig:
    """A recipe from YAML; ValueError says which field is wrong."""
    if not path.is_file():
        raise ValueError(f"no recipe {path}; give a YAML file with fields of TrainingConfig")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; wanted: a mapping of settings")
    return TrainingConfig.from_mapping(content)


def check_stages(config: TrainingConfig) -> None:
    """Raise ValueError unless the stages of a recipe are shares of its steps with settings that may change."""
    for share, changes in config.stages.items():
        if type(share) not in (int, float) or not 0 <= share <= 1 or not isinstance(changes, dict):
            raise ValueError(f"stages hold {share!r}: {changes!r}; wanted: a share of the steps, 0 to 1: settings")
        fixed = sorted(str(name) for name in changes if name not in STAGED)
        if fixed:
            raise ValueError(f"{', '.join(fixed)} cannot change between stages; wanted: any of {', '.join(STAGED)}")
        dataclasses.replace(config, **changes)  # their values are checked as all are


def recipe_at(config: TrainingConfig, step: int) -> TrainingConfig:
    """The recipe as it is at a step, see `TrainingConfig.stages`."""
    reached = [share for share in sorted(config.stages) if step >= share * config.iterations]
    changes = {name: value for share in reached for name, value in config.stages[share].items()}
    return dataclasses.replace(config, **changes) if changes else config


def unlike(config: TrainingConfig, earlier: dict[str, object]) -> list[str]:
    """Settings that make another training of it than `earlier` was; what that does not name had its default."""
    usual = dataclasses.asdict(TrainingConfig())
    now = dataclasses.asdict(config)
    return [name for name in now if name not in UNSEEN and now[name] != earlier.get(name, usual[name])]
