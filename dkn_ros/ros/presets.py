"""The cameras that the launch files and `dkn bag` know: what their drivers call their topics.

Names are those of the drivers' own launch files with nothing changed: kinect_ros2, openni2_camera, kinect2_ros2,
Azure_Kinect_ROS_Driver (humble), realsense-ros 4, OrbbecSDK_ROS2 2.  What their images are like stands in the section
`sim_camera` of the parameter files, which is how the simulated camera takes a driver's place.

Depth that the sensor has measured is preferred to what the driver makes of it for the colour image, where both are to
be had: it is smaller, and our registration knows what is in front.  Only Kinect v2's driver registers by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from dkn_ros.resources import share_path


@dataclass(frozen=True)
class Preset:
    """What differs from camera to camera: the driver's topics, and what the parameter file of `config/` cannot say."""

    params: str
    root: str
    """What the driver's topics begin with, as its defaults have it; a second camera of the kind has another."""
    rgb_topic: str
    rgb_info_topic: str
    depth_topic: str
    depth_info_topic: str
    frame: str
    """Of the colour image, as the driver names it."""
    sim_extrinsics: str = ""
    """Where the depth camera of the simulated camera is, which sends no TF; empty: at the colour camera's place."""


def _preset(
    name: str,
    root: str,
    rgb: tuple[str, str],
    depth: tuple[str, str],
    frame: str,
    **more: str,
) -> Preset:
    """The preset whose parameter file has its name; rgb, depth: image and camera_info below `root`."""
    return Preset(
        params=f"{name}.yaml",
        root=root,
        rgb_topic=f"{root}/{rgb[0]}",
        rgb_info_topic=f"{root}/{rgb[1]}",
        depth_topic=f"{root}/{depth[0]}",
        depth_info_topic=f"{root}/{depth[1]}",
        frame=frame,
        **more,
    )


_KINECT2 = "kinect2_rgb_optical_frame"
_REALSENSE = "camera_color_optical_frame"
PRESETS = {
    "kinect": _preset(
        "kinect",
        "/kinect",
        ("image_raw", "camera_info"),
        ("depth/image_raw", "depth/camera_info"),
        "kinect_rgb",
        sim_extrinsics="-0.025 0 0 0 0 0 1",
    ),
    "xtion": _preset(
        "xtion",
        "/camera",
        ("rgb/image_raw", "rgb/camera_info"),
        ("depth/image_raw", "depth/camera_info"),
        "camera_rgb_optical_frame",
    ),
    "kinect2": _preset(
        "kinect2",
        "/kinect2",
        ("qhd/image_color_rect", "qhd/camera_info"),
        ("qhd/image_depth_rect", "qhd/camera_info"),
        _KINECT2,
    ),
    "kinect2_hd": _preset(
        "kinect2_hd",
        "/kinect2",
        ("hd/image_color_rect", "hd/camera_info"),
        ("hd/image_depth_rect", "hd/camera_info"),
        _KINECT2,
    ),
    "kinect2_raw": _preset(
        "kinect2_raw",
        "/kinect2",
        ("qhd/image_color", "qhd/camera_info"),
        ("sd/image_depth", "sd/camera_info"),
        _KINECT2,
        sim_extrinsics="-0.052 0 0 0 0 0 1",
    ),
    "azure": _preset(
        "azure",
        "",
        ("rgb/image_raw", "rgb/camera_info"),
        ("depth/image_raw", "depth/camera_info"),
        "rgb_camera_link",
        sim_extrinsics="-0.032 -0.002 0.004 -0.05234 0 0 0.99863",
    ),
    "azure_aligned": _preset(
        "azure_aligned",
        "",
        ("rgb/image_raw", "rgb/camera_info"),
        ("depth_to_rgb/image_raw", "depth_to_rgb/camera_info"),
        "rgb_camera_link",
    ),
    "realsense": _preset(
        "realsense",
        "/camera/camera",
        ("color/image_raw", "color/camera_info"),
        ("depth/image_rect_raw", "depth/camera_info"),
        _REALSENSE,
        sim_extrinsics="0.015 0 0 0 0 0 1",
    ),
    "realsense_aligned": _preset(
        "realsense_aligned",
        "/camera/camera",
        ("color/image_raw", "color/camera_info"),
        ("aligned_depth_to_color/image_raw", "aligned_depth_to_color/camera_info"),
        _REALSENSE,
    ),
    "orbbec": _preset(
        "orbbec",
        "/camera",
        ("color/image_raw", "color/camera_info"),
        ("depth/image_raw", "depth/camera_info"),
        "camera_color_optical_frame",
        sim_extrinsics="-0.025 0 0 0 0 0 1",
    ),
}
"""Name -> preset: each has a launch file and a parameter file of its name, and `dkn bag --preset` knows it."""


def node_parameters(preset: Preset) -> dict[str, Any]:
    """What the preset's parameter file sets of `dkn_node`."""
    with open(share_path("config", preset.params), encoding="utf-8") as file:
        return dict(yaml.safe_load(file)["/**/dkn_node"]["ros__parameters"])
