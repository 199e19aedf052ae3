"""ROS parameters made from the settings dataclasses of `config.py`: one parameter a field, no default of their own."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dkn_ros.config import CameraConfig, NodeConfig, PipelineConfig
from dkn_ros.ros.distro import given_parameters
from dkn_ros.settings import Setting, Settings, settings_of

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
    from rclpy.node import Node
    from rclpy.parameter import Parameter

Config = TypeVar("Config", bound=Settings)

NOT_OURS = "qos_overrides."
"""What the names of parameters begin with that rclpy takes itself, if at all."""


def declare(node: Node, kind: type[Config], managed: bool = False) -> Config:
    """Declare every field of a settings dataclass as a parameter and return the values that were given.

    Fields that are not `live` are read-only; of a `managed` node, which takes them anew whenever it is configured,
    only those that are `fixed`: it has to ask `check_live` while it is configured.  Where a value is taken for one of
    another type (4 for "4"), that is what others are told, unless the parameter is read-only.
    Raises ValueError, naming the parameter, for values out of range.
    """
    values = {}
    for name, (python_type, default, known) in settings_of(kind).items():
        descriptor = _descriptor(python_type, known, managed)
        given = node.declare_parameter(name, default, descriptor).value
        values[name] = taken = known.taken(python_type, given)
        if taken is not given and not descriptor.read_only:
            node.undeclare_parameter(name)
            node.declare_parameter(name, taken, descriptor, ignore_override=True)
    return kind(**values)


def taken(kinds: Sequence[type[Settings]], parameters: Sequence[Parameter]) -> list[Parameter]:
    """`parameters`, but those of these settings with the value that was meant, see `Setting.taken`."""
    from rclpy.parameter import Parameter

    known = {name: setting for kind in kinds for name, setting in settings_of(kind).items()}
    meant = []
    for p in parameters:
        kind, _, setting = known.get(p.name, (None, None, None))
        value = p.value if kind is None or setting is None else setting.taken(kind, p.value)
        meant.append(p if value is p.value else Parameter(p.name, value=value))
    return meant


def unknown(node: Node) -> list[str]:
    """A sentence on each parameter that was given at start and that the node does not have; call when all are declared.

    ROS itself says nothing of a name that is misspelt.
    """
    names = [name for kind in (PipelineConfig, NodeConfig, CameraConfig) for name in settings_of(kind)]
    names = [name for name in names if node.has_parameter(name)]
    sentences = []
    for given in given_parameters(node):
        if not (node.has_parameter(given) or given.startswith(NOT_OURS)):
            nearest = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(given, names, 1))
            sentences.append(f"there is no parameter {given}, so it has no effect{nearest}")
    return sentences


def changed(config: Config, parameters: Sequence[Parameter]) -> Config:
    """`config` with those of `parameters` that it has; ValueError says what is wrong with a value."""
    names = settings_of(type(config))
    return dataclasses.replace(config, **{p.name: p.value for p in parameters if p.name in names})


def check_live(old: Settings, new: Settings) -> None:
    """Raise ValueError, which says what to do, if a field differs that may not change while the node is configured."""
    known = settings_of(type(old))
    refused = [name for name in known if not known[name][2].live and getattr(old, name) != getattr(new, name)]
    if refused:
        names = f"{', '.join(refused)} {'is' if len(refused) == 1 else 'are'}"
        raise ValueError(f"{names} read-only while the node is configured; set at start, or after cleanup")


def result(error: ValueError | None) -> SetParametersResult:
    """The answer to a request to set parameters."""
    from rcl_interfaces.msg import SetParametersResult

    return SetParametersResult(successful=error is None, reason="" if error is None else str(error))


def commented_yaml() -> str:
    """A parameter file of both nodes that changes nothing: every parameter in a comment, with its default.

    `config/dkn.yaml` is this text (`dkn parameters`).
    """
    return _YAML_HEAD + "\n\n".join(
        f"/**/{node}:\n  ros__parameters:\n{_YAML_FILLER}" + "\n\n".join(_yaml_lines(kind) for kind in kinds)
        for node, kinds in (("dkn_node", (PipelineConfig, NodeConfig)), ("sim_camera", (CameraConfig,)))
    )


_YAML_HEAD = """\
# Every parameter of dkn_node and sim_camera, made by `dkn parameters`. "#name: value" shows a default: remove the "#"
# to change it, in a copy:
#   ros2 launch dkn_ros kinect.launch.py params_file:=/path/to/copy.yaml
# [live]: may change while the node runs, with "ros2 param set"; the others only before dkn_node is configured. "/**/"
# makes a section hold in every namespace.

"""
_YAML_FILLER = """\
    # ROS rejects a section without any value; this one is here so that all the others may be comments
    use_sim_time: false

"""


def _yaml_lines(kind: type[Settings]) -> str:
    lines = []
    for name, (_, default, known) in settings_of(kind).items():
        lines.append(f"    # {known.description}{' [live]' if known.live else ''}")
        shown = str(default).lower() if isinstance(default, bool) else str(default) or '""'
        lines.append(f"    #{name}: {shown}")
    return "\n".join(lines)


def _descriptor(kind: type, known: Setting, managed: bool) -> ParameterDescriptor:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    descriptor = ParameterDescriptor(
        description=known.description,
        read_only=known.fixed or not (known.live or managed),
        # What YAML makes of "4" and "off" is of another type than the default; the dataclass takes it or says why not.
        dynamic_typing=any(known.taken(kind, value) is not value for value in (1, True)),
    )
    if known.choices:
        descriptor.additional_constraints = "one of " + ", ".join(map(str, known.choices))
    if managed and not (known.live or known.fixed):
        constraints = filter(None, (descriptor.additional_constraints, "read-only while the node is configured"))
        descriptor.additional_constraints = "; ".join(constraints)
    if kind in (int, float) and (known.minimum is not None or known.maximum is not None):
        largest: Any = 2**31 - 1 if kind is int else sys.float_info.max
        low = kind(known.minimum) if known.minimum is not None else -largest
        high = kind(known.maximum) if known.maximum is not None else largest
        if kind is int:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor
