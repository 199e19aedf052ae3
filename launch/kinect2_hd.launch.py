"""Depth of a Kinect v2 (driver kinect2_ros2), upsampled on its colour image of 1920 x 1080.

`ros2 launch dkn_ros kinect2_hd.launch.py`; `--show-args` lists the arguments;
`sim:=true` starts a simulated camera in the place of the Kinect.
"""

from dkn_ros.ros.launch_description import describe
from dkn_ros.ros.presets import PRESETS


def generate_launch_description():
    """The description that ROS 2 launch asks for."""
    return describe(PRESETS["kinect2_hd"])
