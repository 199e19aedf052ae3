"""ROS parameters made from the settings dataclasses: one a field, described, in range, read-only unless live."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Peer, needs_rclpy, next_domain

from dkn_ros.config import CameraConfig, NodeConfig, PipelineConfig
from dkn_ros.ros import parameters
from dkn_ros.settings import Settings, settings_of

pytestmark = needs_rclpy

KINDS = (PipelineConfig, NodeConfig, CameraConfig)
FIELDS = [(kind, name) for kind in KINDS for name in settings_of(kind)]

MakeNode = Callable[..., Any]


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer(next_domain())
    yield peer
    peer.close()


@pytest.fixture
def make_node(peer: Peer) -> Iterator[MakeNode]:
    """Makes nodes with given parameter values; they are destroyed after the test."""
    import rclpy
    from rclpy.parameter import Parameter

    nodes = []

    def make(**values: Any) -> Any:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        nodes.append(rclpy.create_node("tested", context=peer.context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_dataclass(make_node: MakeNode, kind: type[Settings]) -> None:
    node = make_node()
    assert parameters.declare(node, kind) == kind()
    assert {name: node.get_parameter(name).value for name in settings_of(kind)} == vars(kind())


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
def test_every_field_is_described(make_node: MakeNode, kind: type[Settings], name: str) -> None:
    node = make_node()
    parameters.declare(node, kind)
    descriptor = node.describe_parameter(name)
    python_type, default, known = settings_of(kind)[name]
    assert descriptor.description == known.description
    assert descriptor.read_only is not known.live
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    if python_type in (int, float) and (known.minimum, known.maximum) != (None, None):
        (found,) = ranges
        assert found.from_value <= default <= found.to_value
        assert known.minimum is None or found.from_value == known.minimum
        assert known.maximum is None or found.to_value == known.maximum
    else:
        assert ranges == []
    assert all(str(choice) in descriptor.additional_constraints for choice in known.choices or ())


def test_given_values_are_taken(make_node: MakeNode) -> None:
    node = make_node(slop=0.05, queue_size=3, output_encoding="16UC1")
    assert parameters.declare(node, NodeConfig) == NodeConfig(slop=0.05, queue_size=3, output_encoding="16UC1")


def test_values_of_the_type_that_yaml_makes_of_them_are_taken(make_node: MakeNode) -> None:
    """`max_depth: 4` and `registration: off`, at start and later."""
    from rclpy.parameter import Parameter

    node = make_node(max_depth=4, fill_distance=8, registration=False, slop=1)
    assert parameters.declare(node, PipelineConfig, managed=True) == PipelineConfig(max_depth=4.0, fill_distance=8.0)
    config = parameters.declare(node, NodeConfig, managed=True)
    assert config == NodeConfig(registration="off", slop=1.0)
    later: list[Any] = [Parameter("registration", value=True), Parameter("slop", value=2)]
    assert all(answer.successful for answer in node.set_parameters(later))
    assert parameters.changed(config, later) == NodeConfig(registration="on", slop=2.0)


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("depth_resolution", 4, "4"),
        ("depth_resolution", 2.5, "2.5"),
        ("max_depth", 4, 4.0),
        ("registration", False, "off"),
    ],
)
def test_others_are_told_what_was_meant(make_node: MakeNode, name: str, given: Any, meant: Any) -> None:
    """At start and later."""
    from rclpy.parameter import Parameter

    from dkn_ros.ros.distro import before_set

    def told() -> Any:
        value = node.get_parameter(name).value
        return type(value), value

    kinds = [PipelineConfig, NodeConfig]
    node = make_node(**{name: given})
    for kind in kinds:
        found = vars(parameters.declare(node, kind, managed=True))
        assert found.get(name, meant) == meant
    assert told() == (type(meant), meant)
    before_set(node, functools.partial(parameters.taken, kinds))
    default = next(settings_of(kind)[name][1] for kind in kinds if name in settings_of(kind))
    (answer,) = node.set_parameters([Parameter(name, value=default)])
    assert answer.successful and told() != (type(meant), meant)
    (answer,) = node.set_parameters([Parameter(name, value=given)])
    assert answer.successful
    if hasattr(node, "add_pre_set_parameters_callback"):  # not in Humble
        assert told() == (type(meant), meant)


def test_the_command_line_of_ros_may_give_a_number(peer: Peer) -> None:
    """`-p depth_resolution:=4`, and a name that is none of ours."""
    import rclpy

    arguments = ["--ros-args", "-p", "depth_resolution:=4", "-p", "use_sim_time:=false"]
    node = rclpy.create_node("tested", context=peer.context, cli_args=arguments)
    try:
        assert parameters.declare(node, PipelineConfig, managed=True).depth_resolution == "4"
        assert parameters.unknown(node) == []
    finally:
        node.destroy_node()


def test_parameters_that_are_not_there_are_named_with_what_may_be_meant(make_node: MakeNode) -> None:
    given = {"max_deph": 4.0, "use_sim_time": False, "fps": 30, "max_depth": 4.0}
    node = make_node(**given, **{"qos_overrides./tf.subscription.depth": 3})
    parameters.declare(node, PipelineConfig)
    parameters.declare(node, NodeConfig)
    assert parameters.unknown(node) == [
        "there is no parameter fps, so it has no effect",
        "there is no parameter max_deph, so it has no effect; did you mean max_depth?",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slop", 11),
        ("slop", True),
        ("pairing", False),
        ("queue_size", 0),
        ("queue_size", 1.5),
        ("slop", -0.1),
        ("slop", "wide"),
        ("output_encoding", "8UC1"),
        ("input_reliability", "perhaps"),
        ("warm_up_width", True),
    ],
)
def test_values_that_do_not_fit_end_the_start(make_node: MakeNode, name: str, value: Any) -> None:
    from dkn_ros.ros.process import START_ERRORS

    with pytest.raises(START_ERRORS, match=name):
        parameters.declare(make_node(**{name: value}), NodeConfig)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("slop", 0.02, True),
        ("slop", 11.0, False),  # out of the declared range
        ("pairing", 1, False),  # another type
        ("queue_size", 20, False),  # read-only
    ],
)
def test_rclpy_holds_a_running_node_to_the_declaration(
    make_node: MakeNode, name: str, value: Any, accepted: bool
) -> None:
    from rclpy.parameter import Parameter

    node = make_node()
    parameters.declare(node, NodeConfig)
    before = node.get_parameter(name).value
    (answer,) = node.set_parameters([Parameter(name, value=value)])
    assert answer.successful is accepted
    assert bool(answer.reason) is not accepted
    assert node.get_parameter(name).value == (value if accepted else before)


def test_changed_takes_only_its_own_fields() -> None:
    from rclpy.parameter import Parameter

    given = [Parameter("slop", value=0.5), Parameter("max_depth", value=4.0)]
    assert parameters.changed(NodeConfig(queue_size=3), given) == NodeConfig(queue_size=3, slop=0.5)
    assert parameters.changed(PipelineConfig(), given) == PipelineConfig(max_depth=4.0)


def test_changed_refuses_what_the_declaration_cannot_say() -> None:
    """Strings have no range in ROS: their choices are checked here, and the reason goes to who asked."""
    from rclpy.parameter import Parameter

    with pytest.raises(ValueError, match="output_encoding is '8UC1'; wanted: one of '32FC1', '16UC1'") as error:
        parameters.changed(NodeConfig(), [Parameter("output_encoding", value="8UC1")])
    answer = parameters.result(error.value)
    assert (answer.successful, answer.reason) == (False, str(error.value))
    assert parameters.result(None).successful


# A managed node, which takes what is not live whenever it is configured.


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
def test_of_a_managed_node_only_what_is_fixed_is_always_read_only(
    make_node: MakeNode, kind: type[Settings], name: str
) -> None:
    node = make_node()
    parameters.declare(node, kind, managed=True)
    descriptor, (_, _, known) = node.describe_parameter(name), settings_of(kind)[name]
    assert descriptor.read_only is known.fixed
    told = descriptor.additional_constraints.endswith("read-only while the node is configured")
    assert told is not (known.live or known.fixed)


def test_while_it_is_configured_only_live_ones_may_differ() -> None:
    parameters.check_live(NodeConfig(), NodeConfig(slop=0.1, lazy=False, idle_seconds=1.0))
    parameters.check_live(PipelineConfig(), PipelineConfig(precision="float32", fill_distance=1.0))
    with pytest.raises(ValueError, match=r"^queue_size is read-only while the node is configured; set at start"):
        parameters.check_live(NodeConfig(), NodeConfig(slop=0.1, queue_size=3))
    with pytest.raises(ValueError, match=r"^weights, device are read-only"):
        parameters.check_live(PipelineConfig(), PipelineConfig(weights="x", device="cpu"))
