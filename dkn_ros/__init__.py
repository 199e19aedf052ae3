"""Guided depth upsampling for RGB-D cameras: deformable kernel networks in a ROS 2 package.

The core (everything outside `dkn_ros.ros`) needs no ROS.  Start reading at `pipeline.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkn_ros.config import PipelineConfig
    from dkn_ros.pipeline import Enhanced, Pipeline
    from dkn_ros.weights import load_model

__version__ = "0.1.0"
__all__ = ["Enhanced", "Pipeline", "PipelineConfig", "load_model"]

_HOMES = {
    "Pipeline": "pipeline",
    "Enhanced": "pipeline",
    "PipelineConfig": "config",
    "load_model": "weights",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import dkn_ros` costs nothing and loads no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"dkn_ros.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dkn_ros' has no attribute {name!r}")
