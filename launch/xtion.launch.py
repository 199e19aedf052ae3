"""Depth of an Xtion or another PrimeSense camera (driver openni2_camera), upsampled on its colour image.

`ros2 launch dkn_ros xtion.launch.py`; `--show-args` lists the arguments;
`sim:=true` starts a simulated camera in the place of the camera.
"""

from dkn_ros.ros.launch_description import describe
from dkn_ros.ros.presets import PRESETS


def generate_launch_description():
    """The description that ROS 2 launch asks for."""
    return describe(PRESETS["xtion"])
