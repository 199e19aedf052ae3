"""RViz's configuration against the running node and camera: every topic is there, with the type its display takes.

RViz itself comes with a ROS installation only; what it would ask the graph for is asked here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import PATIENCE, needs_rclpy, next_domain, peer_in, running

from dkn_ros.ros import launch_description as shared
from dkn_ros.ros.presets import PRESETS

CONFIG = Path(__file__).resolve().parents[1] / "config" / "dkn.rviz"
TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
}
"""Class of a display -> the type of its topic."""


def manager() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text())["Visualization Manager"]
    return found


def displays() -> dict[str, str]:
    """Topic -> type that RViz subscribes to, for the displays that have a topic."""
    return {d["Topic"]["Value"]: TYPES[d["Class"]] for d in manager()["Displays"] if "Topic" in d}


def test_displays_are_those_that_the_launch_description_remaps() -> None:
    assert displays().keys() == {*shared.RVIZ_TOPICS, *shared.RVIZ_OUTPUTS}
    assert all(d["Enabled"] for d in manager()["Displays"])


def test_displays_hear_publishers_of_any_reliability_and_keep_no_queue() -> None:
    for display in manager()["Displays"]:
        if "Topic" in display:
            qos = display["Topic"]
            assert (qos["Reliability Policy"], qos["Durability Policy"]) == ("Best Effort", "Volatile"), display["Name"]
            assert qos["Depth"] <= 2


def test_it_opens_on_colour_depth_and_points() -> None:
    shown = {d["Name"]: d["Topic"]["Value"] for d in manager()["Displays"]}
    assert shown["Colour"] == PRESETS["kinect"].rgb_topic
    assert shown["Depth upsampled"] == "/depth/preview" and shown["Points"] == "/depth/points"
    # The launch files name the frame of their camera; without them it is the first preset's.
    assert manager()["Global Options"]["Fixed Frame"] == PRESETS["kinect"].frame


@needs_rclpy
@pytest.mark.parametrize(("name", "namespace"), [("kinect", ""), ("realsense", "robot")])
def test_every_display_has_its_topic_and_type(name: str, namespace: str, identity_weights: Path) -> None:
    preset, domain = PRESETS[name], next_domain()
    given = {"namespace": namespace, "weights": str(identity_weights), "device": "cpu"}
    camera, node = shared.programs(preset, given, sim=True)
    remapped = dict(shared.rviz_remappings(preset, given))
    wanted = {(remapped.get(topic, topic), kind) for topic, kind in displays().items()}
    small = [
        "-p",
        "width:=160",
        "-p",
        "height:=120",
        "-p",
        "depth_width:=80",
        "-p",
        "depth_height:=60",
        "-p",
        "frames:=1",
    ]
    quick = ["-p", "warm_up_width:=0", "-p", "threads:=1"]
    with (
        running("dkn_ros.ros.sim_camera", [*camera.ros_arguments(), *small], domain) as first,
        running("dkn_ros.ros.node", [*node.ros_arguments(), *quick], domain) as second,
        peer_in(domain) as peer,
    ):

        def published() -> set[tuple[str, str]]:
            topics = peer.node.get_topic_names_and_types()
            return {(topic, kind) for topic, kinds in topics for kind in kinds if peer.node.count_publishers(topic)}

        peer.spin(lambda: wanted <= published() or first.status is not None or second.status is not None, PATIENCE)
        assert wanted <= published(), f"RViz would wait for {sorted(wanted - published())}"
