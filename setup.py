"""Installs dkn_ros: for `colcon build` (ament_python) and for pip alike."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

NAME = "dkn_ros"
HERE = Path(__file__).resolve().parent


def files(folder: str) -> list[str]:
    """The files of `folder`, relative to this one as colcon wants them."""
    return sorted(f"{folder}/{path.name}" for path in (HERE / folder).glob("[!._]*") if path.is_file())


def version() -> str:
    """The version in package.xml."""
    found = ElementTree.parse(HERE / "package.xml").findtext("version")
    if found is None:
        raise SystemExit("package.xml has no <version>; add one, such as <version>0.1.0</version>")
    return found


setup(
    name=NAME,
    version=version(),
    description="Guided depth upsampling for RGB-D cameras in real time, by deformable kernel networks",
    maintainer="dkn_ros maintainers",
    maintainer_email="maintainers@dkn-ros.invalid",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    python_requires=">=3.10",
    install_requires=[
        "setuptools",
        "numpy",
        "numba",
        "torch",
        "safetensors",
        "PyYAML",
        "opencv-python-headless",
        "Pillow",
        "matplotlib",
        "tqdm",
    ],
    extras_require={
        "ros": ["ros-rclpy[fastrtps]", "ros-sensor-msgs", "ros-diagnostic-msgs"],
        "bag": ["rosbags"],
        "onnx": ["onnx", "onnxscript"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *((f"share/{NAME}/{folder}", files(folder)) for folder in ("launch", "config", "weights")),
    ],
    entry_points={
        "console_scripts": [
            "dkn = dkn_ros.cli:main",
            "dkn_node = dkn_ros.ros.node:main",
            "sim_camera = dkn_ros.ros.sim_camera:main",
        ]
    },
    zip_safe=True,
)
