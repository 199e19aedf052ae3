"""The launch description that all launch files of the package share.

The tables at the top are plain data and need no ROS; `launch` is imported where the description is made.  An argument
that is not given states nothing: the value in the parameter file holds, and below it the default in `config.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dkn_ros.resources import share_path

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription

NODE = "dkn_node"
CAMERA = "sim_camera"


@dataclass(frozen=True)
class Preset:
    """What differs from camera to camera: the driver's topics and the parameter file of `config/`."""

    rgb_topic: str
    rgb_info_topic: str
    depth_topic: str
    depth_info_topic: str
    params: str


PRESETS = {
    "kinect": Preset(
        rgb_topic="/kinect/image_raw",
        rgb_info_topic="/kinect/camera_info",
        depth_topic="/kinect/depth/image_raw",
        depth_info_topic="/kinect/depth/camera_info",
        params="kinect.yaml",
    ),
}
"""Camera family -> preset: each has a launch file of its name, and `dkn bag --preset` knows it."""

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

OVERRIDES = ("device", "weights")
"""Arguments that are parameters of `dkn_node` of the same name and, when given, override the parameter file."""

RVIZ_TOPICS = {"/kinect/image_raw": "rgb_topic", "/kinect/depth/image_raw": "depth_topic"}
"""Topic that `config/dkn.rviz` shows -> topic argument that it is remapped to."""

RVIZ_OUTPUT = "/depth/upsampled"

DESCRIPTIONS = {
    "rgb_topic": "colour image of the camera",
    "rgb_info_topic": "camera_info of the colour image",
    "depth_topic": "depth image of the camera, 16UC1 or 32FC1",
    "depth_info_topic": "camera_info of the depth image",
    "params_file": "parameter file (YAML) of dkn_node and sim_camera",
    "namespace": "namespace of the nodes and of the output topics; empty: the root",
    "device": "auto, cpu, cuda or cuda:N; empty: as in the parameter file",
    "weights": "name of a card, or path of a .safetensors file; empty: as in the parameter file",
    "log_level": "debug, info, warn, error or fatal; empty: as ROS has it",
    "sim": "true: start a simulated camera that publishes on the camera's topics",
    "rviz": "true: show colour, input depth and output depth in RViz",
}
"""Launch argument -> description; these are all the arguments."""


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

    defaults = dict.fromkeys(DESCRIPTIONS, "") | {"sim": "false", "rviz": "false"}
    defaults |= {name: value for name, value in asdict(preset).items() if name in DESCRIPTIONS}
    defaults["params_file"] = str(share_path("config", preset.params))
    arguments = [
        DeclareLaunchArgument(name, default_value=defaults[name], description=description)
        for name, description in DESCRIPTIONS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Any]:
    """The nodes; whether camera and RViz start, their conditions decide."""
    from launch.conditions import IfCondition
    from launch_ros.actions import Node
    from launch_ros.parameter_descriptions import ParameterValue

    given = {name: context.launch_configurations[name] for name in DESCRIPTIONS}
    if not os.path.isfile(given["params_file"]):
        raise FileNotFoundError(f"params_file is {given['params_file']!r}; wanted: the path of a YAML file")
    surroundings: dict[str, Any] = {"output": "screen", "additional_env": transport_environment(os.environ)}

    def node(name: str, topics: Mapping[str, str], parameters: list[Any], **more: Any) -> Node:
        return Node(
            package="dkn_ros",
            executable=name,
            name=name,
            namespace=given["namespace"],
            parameters=parameters,
            remappings=[(topic, given[argument]) for argument, topic in topics.items()],
            ros_arguments=["--log-level", given["log_level"]] if given["log_level"] else None,
            **surroundings,
            **more,
        )

    # Without value_type a weights file named 1e3 would become a number.
    overrides = {name: ParameterValue(given[name], value_type=str) for name in OVERRIDES if given[name]}
    shown = {topic: given[argument] for topic, argument in RVIZ_TOPICS.items()}
    shown[RVIZ_OUTPUT] = "/".join(["", *filter(None, given["namespace"].split("/")), RVIZ_OUTPUT[1:]])
    # RViz first: where it is not installed, launch gives up here and leaves no node behind.
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(share_path("config", "dkn.rviz"))],
            remappings=[(topic, wanted) for topic, wanted in shown.items() if topic != wanted],
            condition=IfCondition(given["rviz"]),
            **surroundings,
        ),
        node(CAMERA, CAMERA_OUTPUTS, [given["params_file"]], condition=IfCondition(given["sim"])),
        node(NODE, INPUTS, [given["params_file"], *([overrides] if overrides else [])]),
    ]
