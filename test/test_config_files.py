"""The parameter files of config/ agree with config.py, the only place of defaults."""

from __future__ import annotations

import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dkn_ros.config import CameraConfig, NodeConfig, PipelineConfig
from dkn_ros.settings import settings_of

CONFIG = Path(__file__).resolve().parents[1] / "config"
PRESETS = sorted(CONFIG.glob("*.yaml"))
SECTIONS = {"/**/dkn_node": (PipelineConfig, NodeConfig), "/**/sim_camera": (CameraConfig,)}
OF_EVERY_NODE = {"use_sim_time"}


def active(path: Path) -> dict[str, dict[str, Any]]:
    """Section -> the parameters that the file sets."""
    return {section: body["ros__parameters"] for section, body in yaml.safe_load(path.read_text()).items()}


def shown(path: Path) -> dict[str, dict[str, Any]]:
    """Section -> the parameters that the file sets or shows as a comment `#name: value`."""
    uncommented = re.sub(r"^( +)#(\w+: )", r"\1\2", path.read_text(), flags=re.MULTILINE)
    return {section: body["ros__parameters"] for section, body in yaml.safe_load(uncommented).items()}


def settings(section: str) -> dict[str, tuple[type, Any, Any]]:
    return {name: known for cls in SECTIONS[section] for name, known in settings_of(cls).items()}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_active_values_are_allowed_and_differ_from_the_defaults(path: Path) -> None:
    for section, values in active(path).items():
        assert values, f"{path.name}: ROS rejects the empty section {section}"
        known = settings(section)
        for name, value in values.items():
            if name in OF_EVERY_NODE:
                continue
            kind, default, _ = known[name]
            assert type(value) is kind, f"{path.name}: {name} is {value!r}; ROS wants {kind.__name__}"
            assert value != default, f"{path.name}: {name} is the default; make it a comment"
        for cls in SECTIONS[section]:
            names = settings_of(cls)
            cls.from_mapping({name: value for name, value in values.items() if name in names})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_commented_values_are_the_defaults(path: Path) -> None:
    for section, values in shown(path).items():
        for name in values.keys() - active(path)[section].keys():
            kind, default, _ = settings(section)[name]
            assert (type(values[name]), values[name]) == (kind, default), f"{path.name}: {name}"


def test_the_full_file_shows_every_setting_with_its_description() -> None:
    path = CONFIG / "dkn.yaml"
    lines = [line.strip() for line in path.read_text().splitlines()]
    described = [(above, line.lstrip("#").partition(":")[0]) for above, line in pairwise(lines)]
    for section, values in shown(path).items():
        known = settings(section)
        assert [name for name in values if name not in OF_EVERY_NODE] == list(known)
        for name, (_, _, setting) in known.items():
            above = f"# {setting.description}{' [live]' if setting.live else ''}"
            assert (above, name) in described, f"{name} wants this line above it: {above}"


def test_the_defaults_themselves_are_allowed() -> None:
    for classes in SECTIONS.values():
        for cls in classes:
            assert cls.from_mapping(asdict(cls())) == cls()
