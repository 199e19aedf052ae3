"""Depth of an Azure Kinect that its driver has registered, upsampled on its colour image.

`ros2 launch dkn_ros azure_aligned.launch.py`; `--show-args` lists the arguments;
`sim:=true` starts a simulated camera in the place of the Kinect.
"""

from dkn_ros.ros.launch_description import describe
from dkn_ros.ros.presets import PRESETS


def generate_launch_description():
    """The description that ROS 2 launch asks for."""
    return describe(PRESETS["azure_aligned"])
