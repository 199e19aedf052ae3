"""share_path finds the package's files in every kind of installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dkn_ros import resources

PACKAGE = Path(resources.__file__).parent


def test_finds_the_files_of_this_checkout() -> None:
    assert resources.share_path("config", "dkn.yaml").is_file()
    assert resources.share_path("launch", "kinect.launch.py").is_file()


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'models'; wanted: one of weights, config, launch"):
        resources.share_path("models", "x")


def test_missing_file_lists_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/somewhere")
    with pytest.raises(FileNotFoundError) as raised:
        resources.share_path("weights", "absent.safetensors")
    message = str(raised.value)
    assert "/opt/somewhere/share/dkn_ros/weights/absent.safetensors" in message
    assert f"{sys.prefix}/share/dkn_ros/weights/absent.safetensors" in message
    assert "\n" not in message


@pytest.mark.parametrize("home", ["lib/python3.12/site-packages", "local/lib/python3.10/dist-packages", "."])
def test_finds_the_share_of_its_own_prefix(tmp_path: Path, home: str) -> None:
    """A copy of the module, installed under a prefix, takes the files of that prefix and no other's."""
    other = tmp_path / "other"
    prefix = tmp_path / "prefix"
    for root in (prefix, other):
        file = root / "share" / "dkn_ros" / "config" / "dkn.yaml"
        file.parent.mkdir(parents=True)
        file.touch()
    assert _found_by_copy(prefix / home, other) == prefix / "share" / "dkn_ros" / "config" / "dkn.yaml"


def test_finds_the_share_on_the_ament_path(tmp_path: Path) -> None:
    file = tmp_path / "underlay" / "share" / "dkn_ros" / "config" / "dkn.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert _found_by_copy(tmp_path / "elsewhere" / "a" / "b" / "c" / "d", tmp_path / "underlay") == file


def test_a_site_packages_folder_is_no_checkout(tmp_path: Path) -> None:
    """A folder `config` that another package left in site-packages is not taken for ours."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "dkn.yaml").touch()
    ours = tmp_path / "ours"
    file = ours / "share" / "dkn_ros" / "config" / "dkn.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert _found_by_copy(tmp_path, ours) == file


def _found_by_copy(home: Path, ament_prefix: Path) -> Path:
    """What a copy of the module under `home` answers for config/dkn.yaml, in a process of its own."""
    copy = home / "dkn_ros"
    copy.mkdir(parents=True)
    (copy / "__init__.py").touch()
    shutil.copy(PACKAGE / "resources.py", copy)
    program = "from dkn_ros.resources import share_path; print(share_path('config', 'dkn.yaml'))"
    environment = {"PYTHONPATH": str(home), "AMENT_PREFIX_PATH": str(ament_prefix), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", program]
    answer = subprocess.check_output(command, env=environment, cwd=home, text=True, timeout=60)
    return Path(answer.strip()).resolve()
