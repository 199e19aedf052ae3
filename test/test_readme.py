"""The README keeps to the code: parameters, topics, commands and files that it names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dkn_ros.cli import _parser
from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_parameter_table_states_every_parameter_as_the_settings_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", README, re.MULTILINE)
    settings = {**settings_of(PipelineConfig), **settings_of(NodeConfig)}
    expected = [
        (name, str(default), known.description + (" *(live)*" if known.live else ""))
        for name, (_, default, known) in settings.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("command", re.findall(r"^(?:\.venv/bin/)?(dkn [^#\n]+)", README, re.MULTILINE))
def test_every_dkn_command_of_the_readme_is_understood(command: str) -> None:
    given = _parser().parse_args(shlex.split(command)[1:])
    assert callable(given.run)


def test_every_file_that_the_readme_names_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    named = re.findall(r"`((?:dkn_ros|config|weights|launch)/[\w./]+)`", README)
    assert links and named
    missing = [path for path in links + named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("make", ["make demo", "make test"])
def test_the_two_commands_come_first(make: str) -> None:
    assert make in README[:2000]
