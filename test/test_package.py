"""The package's metadata agree with each other and everything they name exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import setuptools

import dkn_ros

ROOT = Path(__file__).resolve().parents[1]
ROS_MODULES = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "rclpy",
    "rosbag2_py",
    "sensor_msgs",
    "std_msgs",
    "tf2_ros",
}


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools, run in the root as colcon and pip do."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return arguments


def test_manifest_is_that_of_an_ament_python_package(manifest: ElementTree.Element) -> None:
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == dkn_ros.__name__
    assert manifest.findtext("license") == "Apache-2.0"
    assert manifest.findtext("export/build_type") == "ament_python"


def test_versions_agree(manifest: ElementTree.Element, setup_arguments: dict[str, Any]) -> None:
    version = manifest.findtext("version")
    assert version == dkn_ros.__version__ == setup_arguments["version"]
    assert re.search(rf"^{re.escape(str(version))} \(", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)


def test_every_imported_ros_module_is_declared(manifest: ElementTree.Element) -> None:
    declared = {element.text for tag in ("depend", "exec_depend") for element in manifest.iter(tag)}
    imported = {name for path in (ROOT / "dkn_ros").rglob("*.py") for name in _imports(path)}
    assert not (imported & ROS_MODULES) - declared


def test_every_imported_library_is_required(setup_arguments: dict[str, Any]) -> None:
    """requirements.txt pins what setup.py asks for; OpenCV's contrib wheel holds the plain one."""
    pinned = {line.split("==")[0].lower().replace("-contrib", "") for line in _requirements("requirements.txt")}
    extras = setup_arguments["extras_require"]
    wanted = [*setup_arguments["install_requires"], *extras["ros"], *extras["bag"]]
    assert {name.lower() for name in wanted} == pinned


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_exact(name: str) -> None:
    for line in _requirements(name):
        assert re.fullmatch(r"[\w.\[\]-]+==[\w.]+(; .+)?", line), line


def test_installed_files_exist(setup_arguments: dict[str, Any]) -> None:
    installed = dict(setup_arguments["data_files"])
    assert installed["share/ament_index/resource_index/packages"] == ["resource/dkn_ros"]
    for names in installed.values():
        for name in names:
            assert (ROOT / name).is_file()
    for folder in ("launch", "config", "weights"):
        present = {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*") if path.is_file()}
        assert present == set(installed[f"share/dkn_ros/{folder}"])
        assert present


def test_every_package_folder_is_installed(setup_arguments: dict[str, Any]) -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dkn_ros").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(setup_arguments["packages"])


def test_commands_exist(setup_arguments: dict[str, Any]) -> None:
    commands = dict(command.split(" = ") for command in setup_arguments["entry_points"]["console_scripts"])
    assert set(commands) == {"dkn", "dkn_node", "sim_camera"}
    for target in commands.values():
        module, function = target.split(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_transport_profile_is_the_default_and_holds_large_images() -> None:
    root = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    space = {"dds": root.tag[1 : root.tag.index("}")]}
    descriptors = {
        element.findtext("dds:transport_id", namespaces=space): element
        for element in root.iterfind(".//dds:transport_descriptor", space)
    }
    participant = root.find(".//dds:participant[@is_default_profile='true']", space)
    assert participant is not None
    used = [element.text for element in participant.iterfind(".//dds:userTransports/dds:transport_id", space)]
    assert {descriptors[name].findtext("dds:type", namespaces=space) for name in used} == {"SHM", "UDPv4"}
    assert int(root.findtext(".//dds:segment_size", "0", space)) >= 64 << 20


def _requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _imports(path: Path) -> Iterator[str]:
    """The top-level names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
