"""The launch description that all launch files of the package share.

The tables at the top are plain data, `programs` makes of them and a preset what is to be started, both without ROS;
`launch` is imported where the description is made.  An argument that is not given states nothing: the value in the
parameter file holds, and below it the default in `config.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dkn_ros.resources import share_path
from dkn_ros.ros.presets import Preset

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription

NODE = "dkn_node"
CAMERA = "sim_camera"


INPUTS = {
    "rgb_topic": "in/rgb/image",
    "rgb_info_topic": "in/rgb/camera_info",
    "depth_topic": "in/depth/image",
    "depth_info_topic": "in/depth/camera_info",
}
"""Topic argument -> relative topic that `dkn_node` subscribes to."""

CAMERA_OUTPUTS = {
    "rgb_topic": "rgb/image",
    "rgb_info_topic": "rgb/camera_info",
    "depth_topic": "depth/image",
    "depth_info_topic": "depth/camera_info",
}
"""Topic argument -> relative topic that `sim_camera` publishes, so that it stands in for the driver."""

OVERRIDES = ("device", "precision", "weights", "registration", "extrinsics")
"""Arguments that are parameters of `dkn_node` of the same name and, when given, override the parameter file."""

RVIZ_TOPICS = {"/kinect/image_raw": "rgb_topic", "/kinect/depth/image_raw": "depth_topic"}
"""Topic that `config/dkn.rviz` shows -> topic argument that it is remapped to."""

RVIZ_OUTPUTS = ("/depth/preview", "/depth/points")
"""What it shows of the node, as in the root namespace."""

DESCRIPTIONS = {
    "camera": "what the driver's topics begin with, such as /front for a second camera; empty: its own default",
    "rgb_topic": "colour image of the camera",
    "rgb_info_topic": "camera_info of the colour image",
    "depth_topic": "depth image of the camera, 16UC1 or 32FC1",
    "depth_info_topic": "camera_info of the depth image",
    "params_file": "parameter file (YAML) of dkn_node and sim_camera; what it does not state is as for the camera",
    "namespace": "namespace of the nodes and of the output topics; empty: the root",
    "registration": "auto, on or off: bring the depth into the colour image; empty: as in the parameter file",
    "extrinsics": "tf, or x y z qx qy qz qw of the depth camera in colour's frame; empty: as in the parameter file",
    "device": "auto, cpu, cuda or cuda:N; empty: as in the parameter file",
    "precision": "number type of the network's convolutions, such as int8 on a CPU; empty: as in the parameter file",
    "weights": "name of a card, or path of a .safetensors file; empty: as in the parameter file",
    "log_level": "debug, info, warn, error or fatal; empty: as ROS has it",
    "sim": "true: start a simulated camera that publishes on the camera's topics as its driver does",
    "rviz": "true: show colour, depth and points in RViz",
}
"""Launch argument -> description; these are all the arguments."""


@dataclass(frozen=True)
class Program:
    """One process: an executable of the package, which is also the name of its node."""

    name: str
    namespace: str
    params_files: tuple[str, ...]
    """The later one wins."""
    overrides: Mapping[str, str]
    """Parameters that are strings and stand above those of the files."""
    remappings: Mapping[str, str]

    def ros_arguments(self) -> list[str]:
        """The command line with which `ros2 run` starts it as the launch file does."""
        rules = [f"__name:={self.name}", f"__ns:=/{self.namespace.strip('/')}"]
        rules += [f"{topic}:={wanted}" for topic, wanted in self.remappings.items()]
        remapped = [part for rule in rules for part in ("-r", rule)]
        parameters = [part for n, value in self.overrides.items() for part in ("-p", f"{n}:={json.dumps(value)}")]
        files = [part for file in self.params_files for part in ("--params-file", file)]
        return ["--ros-args", *remapped, *files, *parameters]


def defaults(preset: Preset) -> dict[str, str]:
    """The value of every launch argument that is not given."""
    values = dict.fromkeys(DESCRIPTIONS, "") | {"sim": "false", "rviz": "false"}
    values |= {name: getattr(preset, name) for name in INPUTS}
    return values | {"params_file": str(share_path("config", preset.params))}


def programs(preset: Preset, given: Mapping[str, str], sim: bool = False) -> list[Program]:
    """What the launch file of a preset starts for these arguments: the simulated camera, if asked for, and the node.

    given: launch arguments by name.  Raises FileNotFoundError for a parameter file that is not there.
    """
    values = defaults(preset) | dict(given)
    if not os.path.isfile(values["params_file"]):
        raise FileNotFoundError(f"params_file is {values['params_file']!r}; wanted: the path of a YAML file")
    topics = topics_of(preset, values)
    overrides = {name: values[name] for name in OVERRIDES if values[name]}
    camera = {}
    if sim and preset.sim_extrinsics:
        overrides = {"extrinsics": preset.sim_extrinsics} | overrides
        camera = {"extrinsics": overrides["extrinsics"]}
    # Below a file of the user's own stands the preset's: it says what the camera needs, such as registration.
    files = tuple(dict.fromkeys((defaults(preset)["params_file"], values["params_file"])))
    surroundings = values["namespace"], files
    inputs = {topic: topics[name] for name, topic in INPUTS.items()}
    sent = {topic: topics[name] for name, topic in CAMERA_OUTPUTS.items()}
    node = Program(NODE, *surroundings, overrides, inputs)
    return [Program(CAMERA, *surroundings, camera, sent), node] if sim else [node]


def topics_of(preset: Preset, values: Mapping[str, str]) -> dict[str, str]:
    """The camera's topics by argument; `camera`, if given, stands for the preset's root in those that are not given."""
    camera = values["camera"].strip("/")
    own = {name: getattr(preset, name) for name in INPUTS}
    return {
        name: f"/{camera}{topic.removeprefix(preset.root)}" if camera and values[name] == topic else values[name]
        for name, topic in own.items()
    }


def transport_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment` so that large images pass through Fast DDS; nothing where a profile is chosen.

    Fast DDS 2 and 3 read the profile from different variables, and 3 warns of the old one.
    """
    old, new = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
    if environment.get(old) or environment.get(new):
        return {}
    name = old if environment.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else new
    return {name: str(share_path("config", "fastdds.xml"))}


def describe(preset: Preset) -> LaunchDescription:
    """The launch description of one camera family."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    values = defaults(preset)
    arguments = [
        DeclareLaunchArgument(name, default_value=values[name], description=description)
        for name, description in DESCRIPTIONS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions, args=[preset])])


def _actions(context: LaunchContext, preset: Preset) -> list[Any]:
    """The processes; whether RViz starts, its condition decides."""
    from launch.actions import LogInfo
    from launch.conditions import IfCondition
    from launch_ros.actions import Node
    from launch_ros.parameter_descriptions import ParameterValue

    given = {name: context.launch_configurations[name] for name in DESCRIPTIONS}
    started = programs(preset, given, IfCondition(given["sim"]).evaluate(context))
    transport = transport_environment(os.environ)
    surroundings: dict[str, Any] = {"output": "screen", "additional_env": transport}

    def node(program: Program) -> Node:
        # Without value_type a weights file named 1e3 would become a number.
        overrides = {name: ParameterValue(value, value_type=str) for name, value in program.overrides.items()}
        return Node(
            package="dkn_ros",
            executable=program.name,
            name=program.name,
            namespace=program.namespace,
            parameters=[*program.params_files, *([overrides] if overrides else [])],
            remappings=list(program.remappings.items()),
            ros_arguments=["--log-level", given["log_level"]] if given["log_level"] else None,
            **surroundings,
        )

    # RViz first: where it is not installed, launch gives up here and leaves no node behind.
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(share_path("config", "dkn.rviz")), "-f", preset.frame],
            remappings=rviz_remappings(preset, given),
            condition=IfCondition(given["rviz"]),
            **surroundings,
        ),
        *(LogInfo(msg=f"set for these processes; the driver wants it, too: {n}={v}") for n, v in transport.items()),
        *map(node, started),
    ]


def rviz_remappings(preset: Preset, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """From the topics in `config/dkn.rviz` to those of this camera and namespace, where they differ."""
    values = defaults(preset) | dict(given)
    topics = topics_of(preset, values)
    shown = {topic: topics[name] for topic, name in RVIZ_TOPICS.items()}
    namespace = values["namespace"].strip("/")
    if namespace:
        shown |= {topic: f"/{namespace}{topic}" for topic in RVIZ_OUTPUTS}
    return [(topic, wanted) for topic, wanted in shown.items() if topic != wanted]
