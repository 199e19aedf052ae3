"""The launch files: their tables without ROS, and the processes they start where ROS launch is installed."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import next_domain, peer_in, running

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.ros import launch_description as shared
from dkn_ros.ros.presets import PRESETS, Preset
from dkn_ros.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
# Not "launch": the folder launch/ makes that name importable.
needs_launch = pytest.mark.skipif(not find_spec("launch_ros"), reason="launch_ros comes with a ROS installation")
needs_rclpy = pytest.mark.skipif(not find_spec("rclpy"), reason="rclpy is not installed")
RUN_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *arguments = sys.argv[1:]
given = [tuple(argument.split(":=")) for argument in arguments]
service = LaunchService()
source = PythonLaunchDescriptionSource(file)
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given)])
)
sys.exit(service.run())
"""


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_states_the_preset_of_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without ROS: the file hands it to the shared description."""
    given: list[Preset] = []
    monkeypatch.setattr(shared, "describe", given.append)
    runpy.run_path(str(path))["generate_launch_description"]()
    assert given == [PRESETS[path.name.removesuffix(".launch.py")]]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_its_files_and_topics_below_its_root(name: str) -> None:
    preset = PRESETS[name]
    assert ROOT / "launch" / f"{name}.launch.py" in LAUNCH_FILES
    assert preset.params == f"{name}.yaml" and (ROOT / "config" / preset.params).is_file()
    topics = shared.topics_of(preset, shared.defaults(preset))
    assert all(topic.startswith(f"{preset.root}/") for topic in topics.values())
    another = shared.topics_of(preset, shared.defaults(preset) | {"camera": "front/"})
    assert another == {name: topic.replace(preset.root, "/front", 1) for name, topic in topics.items()}


def test_every_topic_argument_feeds_the_node_and_the_simulated_camera() -> None:
    topics = {field.name for field in fields(Preset) if field.name.endswith("_topic")}
    assert topics == set(shared.INPUTS) == set(shared.CAMERA_OUTPUTS)
    assert topics | set(shared.OVERRIDES) <= set(shared.DESCRIPTIONS)
    assert set(shared.RVIZ_TOPICS.values()) <= topics
    assert set(shared.OVERRIDES) <= set(settings_of(PipelineConfig)) | set(settings_of(NodeConfig))
    assert set(shared.defaults(PRESETS["kinect"])) == set(shared.DESCRIPTIONS)


def test_arguments_reach_the_programs(tmp_path: Path) -> None:
    """What the test below sees in processes, without ROS launch."""
    mine = tmp_path / "mine.yaml"
    mine.touch()
    given = {"params_file": str(mine), "namespace": "/robot/", "camera": "/front", "rgb_topic": "/my/rgb"}
    given |= {"device": "cpu", "weights": "1e3"}
    camera, node = shared.programs(PRESETS["azure"], given, sim=True)
    assert (camera.name, node.name) == ("sim_camera", "dkn_node")
    assert camera.overrides == {"extrinsics": PRESETS["azure"].sim_extrinsics}
    assert node.overrides == {**camera.overrides, "device": "cpu", "weights": "1e3"}
    assert camera.remappings["depth/image"] == node.remappings["in/depth/image"] == "/front/depth/image_raw"
    assert camera.remappings["rgb/image"] == node.remappings["in/rgb/image"] == "/my/rgb"
    arguments = node.ros_arguments()
    assert {"__ns:=/robot", "in/depth/image:=/front/depth/image_raw", 'weights:="1e3"'} <= set(arguments)
    files = [after for flag, after in pairwise(arguments) if flag == "--params-file"]
    assert files == [str(ROOT / "config" / "azure.yaml"), str(mine)], "what mine does not state stays as the camera is"
    (alone,) = shared.programs(PRESETS["azure"], given)
    assert alone.overrides == {"device": "cpu", "weights": "1e3"}
    (alone,) = shared.programs(PRESETS["azure"], {"extrinsics": "tf", "registration": "off"})
    assert alone.overrides == {"extrinsics": "tf", "registration": "off"}


@needs_rclpy
def test_a_parameter_file_of_mine_changes_only_what_it_states(tmp_path: Path, small_weights: Path) -> None:
    """The Kinect's own registration is none of the defaults: without it depth would lie beside the colour."""
    from rcl_interfaces.srv import GetParameters

    mine = tmp_path / "mine.yaml"
    mine.write_text("/**/dkn_node:\n  ros__parameters:\n    max_depth: 4\n    min_deph: 0.2\n    autostart: false\n")
    (node,) = shared.programs(PRESETS["kinect"], {"params_file": str(mine), "weights": str(small_weights)})
    domain = next_domain()
    with running("dkn_ros.ros.node", node.ros_arguments(), domain) as process, peer_in(domain) as peer:
        process.wait_for_log("there is no parameter min_deph, so it has no effect; did you mean min_depth?")
        request = GetParameters.Request(names=["max_depth", "min_depth", "registration"])
        farthest, nearest, registration = peer.call(GetParameters, "/dkn_node/get_parameters", request).values
    assert (farthest.double_value, nearest.double_value, registration.string_value) == (4.0, 0.4, "on")


def test_a_parameter_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"params_file is '/none.yaml'; wanted: the path"):
        shared.programs(PRESETS["kinect"], {"params_file": "/none.yaml"})


@pytest.mark.parametrize(
    ("module", "topics"),
    [("subscriptions", shared.INPUTS), ("sim_camera", shared.CAMERA_OUTPUTS)],
    ids=["node", "camera"],
)
def test_remapped_topics_are_those_of_the_source(module: str, topics: dict[str, str]) -> None:
    """Runs without rclpy: the names are read from the source text."""
    tree = ast.parse((ROOT / "dkn_ros" / "ros" / f"{module}.py").read_text())
    patterns = [_pattern(node) for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr)]
    for topic in topics.values():
        assert any(re.fullmatch(pattern, topic) for pattern in patterns), topic


def test_rviz_is_remapped_to_the_camera_and_the_namespace() -> None:
    assert shared.rviz_remappings(PRESETS["kinect"], {}) == []
    found = dict(shared.rviz_remappings(PRESETS["azure"], {"namespace": "robot", "camera": "/front"}))
    assert found.pop("/kinect/image_raw") == "/front/rgb/image_raw"
    assert found.pop("/kinect/depth/image_raw") == "/front/depth/image_raw"
    assert found == {topic: f"/robot{topic}" for topic in shared.RVIZ_OUTPUTS}


def test_transport_profile_is_set_unless_the_user_chose_one() -> None:
    profile = str(ROOT / "config" / "fastdds.xml")
    assert shared.transport_environment({"ROS_DISTRO": "jazzy"}) == {"FASTRTPS_DEFAULT_PROFILES_FILE": profile}
    assert shared.transport_environment({"ROS_DISTRO": "lyrical"}) == {"FASTDDS_DEFAULT_PROFILES_FILE": profile}
    assert shared.transport_environment({}) == {"FASTDDS_DEFAULT_PROFILES_FILE": profile}
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        assert shared.transport_environment({name: "/mine.xml"}) == {}


@needs_launch
def test_arguments_reach_the_processes(tmp_path: Path) -> None:
    """Executables that only note how they were started stand in for the nodes."""
    note = f"""
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.path.join({str(tmp_path)!r}, name + ".json"), "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
"""
    prefix = _install(tmp_path / "prefix", {"dkn_node": note, "sim_camera": note})
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**/dkn_node:\n  ros__parameters:\n    threads: 1\n")
    arguments = ["sim:=true", "namespace:=robot", "device:=cpu", "log_level:=debug", "rgb_topic:=/my/rgb"]
    with _launched(prefix, f"params_file:={parameters}", *arguments) as process:
        process.wait(60)
    (node, node_environment), (camera, _) = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("dkn_node", "sim_camera")
    )
    assert shared.transport_environment(os.environ).items() <= node_environment.items()
    for started, rgb in ((node, "in/rgb/image"), (camera, "rgb/image")):
        assert {"__ns:=/robot", f"{rgb}:=/my/rgb", str(parameters), "debug"} <= set(started)
    assert "in/depth/image:=/kinect/depth/image_raw" in node
    cameras, mine, overrides = [after for flag, after in pairwise(node) if flag == "--params-file"]
    assert (Path(cameras).name, mine) == ("kinect.yaml", str(parameters))
    wanted = {"device": "cpu", "extrinsics": PRESETS["kinect"].sim_extrinsics}
    assert list(yaml.safe_load(Path(overrides).read_text()).values()) == [{"ros__parameters": wanted}]


@needs_launch
@needs_rclpy
def test_simulated_kinect_gives_upsampled_depth(tmp_path: Path, small_weights: Path) -> None:
    run = "import sys; from dkn_ros.ros.{} import main; sys.exit(main())"
    prefix = _install(tmp_path, {"dkn_node": run.format("node"), "sim_camera": run.format("sim_camera")})
    with _launched(prefix, "sim:=true", "device:=cpu", f"weights:={small_weights}") as process:
        image = _first_image("/depth/upsampled", process)
    assert (image.width, image.height, image.encoding) == (640, 480, "32FC1")
    assert image.header.frame_id == "kinect_rgb", "the parameter file did not reach the camera"


MANAGED = """
import os
from launch import LaunchDescription
from launch.actions import EmitEvent, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

def generate_launch_description():
    given = {"autostart": False, "device": "cpu", "warm_up_width": 0, "weights": os.environ["TEST_WEIGHTS"]}
    node = LifecycleNode(
        package="dkn_ros", executable="dkn_node", name="dkn_node", namespace="front", parameters=[given]
    )
    configure, activate = (
        EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )
    configured = OnStateTransition(
        target_lifecycle_node=node, start_state="configuring", goal_state="inactive", entities=[activate]
    )
    return LaunchDescription([
        node,
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure])),
        RegisterEventHandler(configured),
    ])
"""
"""A launch file of a user's, which manages the node."""


@needs_launch
@needs_rclpy
def test_a_lifecycle_node_of_launch_ros_manages_it(
    tmp_path: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What test_lifecycle.py does by the lifecycle services, by the events of launch."""
    from lifecycle_msgs.srv import GetState

    domain = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("TEST_WEIGHTS", str(small_weights))
    file = tmp_path / "managed.launch.py"
    file.write_text(MANAGED)
    prefix = _install(
        tmp_path / "prefix", {"dkn_node": "import sys; from dkn_ros.ros.node import main; sys.exit(main())"}
    )
    with _launched(prefix, file=file) as process, peer_in(domain) as peer:

        def active() -> bool:
            assert process.poll() is None
            return (
                str(peer.call(GetState, "/front/dkn_node/get_state", GetState.Request()).current_state.label)
                == "active"
            )

        peer.until(active, "the node to be active")


def _pattern(text: ast.AST) -> str:
    """A regular expression of a literal string or f-string."""
    if isinstance(text, ast.JoinedStr):
        return "".join(map(_pattern, text.values))
    return re.escape(str(text.value)) if isinstance(text, ast.Constant) else r"\w+"


def _install(prefix: Path, programs: dict[str, str]) -> Path:
    """An install prefix as colcon makes it, whose executables run `programs`."""
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "dkn_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    executables = prefix / "lib" / "dkn_ros"
    executables.mkdir(parents=True)
    for name, program in programs.items():
        (executables / name).write_text(f"#!{sys.executable}\n{program}\n")
        (executables / name).chmod(0o755)
    return prefix


@contextmanager
def _launched(
    prefix: Path, *arguments: str, file: Path = ROOT / "launch" / "kinect.launch.py"
) -> Iterator[subprocess.Popen[bytes]]:
    """A launch file in a process of its own, interrupted at the end as by Ctrl-C."""
    path = os.pathsep.join(filter(None, [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]))
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"AMENT_PREFIX_PATH": path, "PYTHONPATH": modules, "ROS_LOG_DIR": str(prefix / "log")}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_LAUNCH, str(file), *arguments],
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _first_image(topic: str, process: subprocess.Popen[bytes], seconds: float = 120.0) -> Any:
    """The first image of a topic; fails when `process` ends or the time is over before it comes."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    images: list[Any] = []
    node.create_subscription(Image, topic, images.append, qos_profile_sensor_data)
    end = time.monotonic() + seconds
    try:
        while not images:
            assert process.poll() is None, "the launched processes ended before an image came"
            assert time.monotonic() < end, f"no image on {topic} within {seconds:.0f} s"
            executor.spin_once(timeout_sec=0.2)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    return images[0]
