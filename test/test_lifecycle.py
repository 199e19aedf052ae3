"""The node as a managed node: driven by the lifecycle services from another process, and failing in every way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    Bench,
    Peer,
    Process,
    Status,
    image,
    needs_rclpy,
    next_domain,
    of_stamp,
    parameters,
    peer_in,
    running,
)

from dkn_ros.ros.diagnostics import Level

pytestmark = needs_rclpy

OUTPUT = "/depth/upsampled"


class Manager:
    """What drives a node: asks for its state, and for transitions by their names."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def state(self) -> str:
        """The node's own word."""
        from lifecycle_msgs.srv import GetState

        return str(self._peer.call(GetState, "/dkn_node/get_state", GetState.Request()).current_state.label)

    def change(self, transition: str) -> bool:
        """Whether it succeeded."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.label = transition
        return bool(self._peer.call(ChangeState, "/dkn_node/change_state", request).success)


def pair() -> tuple[Any, Any]:
    rgb = np.full((48, 64, 3), 90, np.uint8)
    return image("rgb8", rgb), image("16UC1", np.full((12, 16), 1500, np.uint16))


def settings(small_weights: Path, **more: Any) -> list[str]:
    given = {"device": "cpu", "precision": "float32", "threads": 1, "warm_up_width": 0, "weights": str(small_weights)}
    return parameters(**(given | {"autostart": False} | more))


def status_of(heard: list[Any], peer: Peer, process: Process, state: str) -> Status:
    """The next diagnostics that name this state."""
    known = len(heard)

    def named() -> Status | None:
        found = (Status(message) for message in heard[known:])
        return next((status for status in found if status.values["lifecycle"] == state), None)

    return peer.until(named, f"diagnostics of a node that is {state}", process)


def no_frame_comes(bench: Bench) -> None:
    """Pairs are sent until two more diagnostics have come."""
    known, stamps = len(bench.diagnostics), []

    def send() -> bool:
        stamps.append(bench.send(*pair()))
        return len(bench.diagnostics) >= known + 2

    bench.until(send, "diagnostics")
    assert not any(of_stamp(bench.outputs, stamp) for stamp in stamps)


def test_from_unconfigured_to_finalized(small_weights: Path) -> None:
    domain = next_domain()
    with running("dkn_ros.ros.node", settings(small_weights), domain) as process, peer_in(domain) as peer:
        manager, heard = Manager(peer), peer.diagnostics()
        assert manager.state() == "unconfigured"
        status = status_of(heard, peer, process, "unconfigured")
        assert (status.level, status.message) == (Level.OK, "unconfigured: waits for a lifecycle transition")
        assert "ros2 lifecycle set /dkn_node configure" in process.log
        assert peer.node.count_publishers(OUTPUT) == 0

        assert manager.change("configure") and manager.state() == "inactive"
        assert status_of(heard, peer, process, "inactive").values["device"] == "cpu"
        assert manager.change("activate") and manager.state() == "active"
        bench = Bench(peer, process)
        assert bench.answer(*pair())
        assert status_of(heard, peer, process, "active").count("published") > 0

        assert manager.change("deactivate") and manager.state() == "inactive"
        bench.until(lambda: not bench.rgb.get_subscription_count(), "the node to leave the camera's topics")
        no_frame_comes(bench)
        status = status_of(heard, peer, process, "inactive")
        assert (status.level, status.message) == (Level.OK, "inactive: waits for a lifecycle transition")

        assert manager.change("activate")
        assert bench.answer(*pair())

        # Not by itself: a transition that leads nowhere from here is answered, and nothing changes.
        assert not manager.change("configure") and manager.state() == "active"

        assert manager.change("deactivate") and manager.change("cleanup") and manager.state() == "unconfigured"
        bench.until(lambda: not peer.node.count_publishers(OUTPUT), "the publishers to be gone")
        assert "device" not in status_of(heard, peer, process, "unconfigured").values

        # What is read-only otherwise is taken anew.
        assert bench.set_parameter("threads", 2).successful
        assert bench.set_parameter("output_encoding", "16UC1").successful
        assert manager.change("configure") and manager.change("activate")
        assert bench.answer(*pair()).encoding == "16UC1"
        assert status_of(heard, peer, process, "active").values["threads"] == "2"

        assert manager.change("shutdown") and manager.state() == "finalized"
        status = status_of(heard, peer, process, "finalized")
        assert (status.level, status.message) == (Level.OK, "finalized: does not work again; start the process anew")
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert "Traceback" not in process.log


def test_wrong_weights_fail_with_the_reason_and_can_be_put_right(small_weights: Path) -> None:
    domain = next_domain()
    wrong = settings(small_weights, weights="/nowhere/fdkn.safetensors", lazy=False)
    with running("dkn_ros.ros.node", wrong, domain) as process, peer_in(domain) as peer:
        manager, heard = Manager(peer), peer.diagnostics()
        assert not manager.change("configure") and manager.state() == "unconfigured"
        reason = "cannot configure: no weight file /nowhere/fdkn.safetensors"
        status = status_of(heard, peer, process, "unconfigured")
        assert status.level == Level.ERROR and reason in status.message
        assert sum(reason in line for line in process.log.splitlines()) == 1
        assert not manager.change("activate") and manager.state() == "unconfigured"

        assert peer.set_parameter("weights", str(small_weights)).successful
        assert manager.change("configure") and manager.change("activate")
        status = status_of(heard, peer, process, "active")  # which may warn that nobody publishes yet
        assert status.level < Level.ERROR and "cannot" not in status.message
        assert Bench(peer, process).answer(*pair())

        answer = peer.set_parameter("weights", "fdkn")
        assert not answer.successful
        assert answer.reason == "weights is read-only while the node is configured; set at start, or after cleanup"
        assert peer.set_parameter("weights", str(small_weights)).successful, "what it has already is no change"
        assert "read-only" in peer.set_parameter("autostart", True).reason


def test_what_fails_to_be_configured_leaves_no_publisher_behind(small_weights: Path) -> None:
    """It would publish beside that of the next, and the diagnostics would warn of another node of this name."""
    domain = next_domain()
    clash = settings(small_weights, camera_info_topic="depth/upsampled")  # one topic of two types
    with running("dkn_ros.ros.node", clash, domain) as process, peer_in(domain) as peer:
        manager, heard = Manager(peer), peer.diagnostics()
        assert not manager.change("configure") and manager.state() == "unconfigured"
        status = status_of(heard, peer, process, "unconfigured")
        assert status.level == Level.ERROR and "cannot configure: " in status.message
        assert peer.set_parameter("camera_info_topic", "depth/camera_info").successful
        assert manager.change("configure") and manager.change("activate")
        assert Bench(peer, process).answer(*pair())
        assert peer.node.count_publishers(OUTPUT) == 1


def test_signal_ends_a_node_that_is_being_configured(small_weights: Path) -> None:
    domain = next_domain()
    large = settings(small_weights, warm_up_width=1920, warm_up_height=1080)
    with running("dkn_ros.ros.node", large, domain) as process, peer_in(domain) as peer:
        from lifecycle_msgs.srv import ChangeState

        client: Any = peer.node.create_client(ChangeState, "/dkn_node/change_state")
        peer.until(client.service_is_ready, "the node", process)
        request = ChangeState.Request()
        request.transition.label = "configure"
        client.call_async(request)
        peer.spin(lambda: False, 0.3)  # most likely in the middle of it
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert "Traceback" not in process.log


# What fails, in a node of this process.

MakeNode = Callable[..., Any]


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Makes a managed node in which some of the steps raise, and drives it."""
    from dkn_ros.ros.distro import answering
    from dkn_ros.ros.managed import ManagedNode

    with peer_in(next_domain()) as peer:
        made = []

        def make(**errors: Exception) -> Any:
            class Stubborn(ManagedNode):
                def _step(self, name: str) -> None:
                    if name in errors:
                        raise errors[name]

                def configure(self) -> None:
                    self._step("configure")

                def activate(self) -> None:
                    self._step("activate")

                def deactivate(self) -> None:
                    self._step("deactivate")

                def clean_up(self) -> None:
                    self._step("clean_up")

            made.append(answering(Stubborn)("stubborn", context=peer.context))
            return made[-1]

        yield make
        for node in made:
            node.destroy_node()


def real_state(node: Any) -> str:
    return str(node._state_machine.current_state[1])


@pytest.mark.parametrize(
    ("errors", "transitions", "state", "complaint"),
    [
        ({"configure": ValueError("no")}, ["configure"], "unconfigured", "cannot configure: no"),
        ({"activate": OSError("no")}, ["configure", "activate"], "inactive", "cannot activate: no"),
        ({"activate": KeyError("no")}, ["configure", "activate"], "inactive", "cannot activate: KeyError: 'no'"),
        (
            {"deactivate": RuntimeError("no")},
            ["configure", "activate", "deactivate"],
            "unconfigured",
            "cannot deactivate: no",
        ),
        ({"clean_up": ValueError("no")}, ["configure", "cleanup"], "finalized", "cannot cleanup: no"),
        ({}, ["activate"], "unconfigured", ""),
        ({}, ["configure", "activate", "shutdown"], "finalized", ""),
    ],
)
def test_a_node_is_in_the_state_that_it_names(
    make_node: MakeNode, errors: dict[str, Exception], transitions: list[str], state: str, complaint: str
) -> None:
    node = make_node(**errors)
    for transition in transitions:
        getattr(node, f"trigger_{transition}")()
    assert (node.state, node.complaint) == (state, complaint)
    assert real_state(node) == state


def test_a_start_by_itself_raises_what_stands_in_the_way(make_node: MakeNode) -> None:
    node = make_node()
    node.start()
    assert node.state == real_state(node) == "active"
    error = KeyError("no")
    node = make_node(activate=error)
    with pytest.raises(KeyError) as raised:
        node.start()
    assert raised.value is error


@pytest.fixture
def make_dkn(small_weights: Path) -> Iterator[MakeNode]:
    """Makes nodes of the package in this process, on the executor of the peer that it returns with them."""
    from dkn_ros.ros.distro import answering
    from dkn_ros.ros.node import DknNode

    with peer_in(next_domain()) as peer:
        made = []

        def make(*arguments: str, **more: Any) -> Any:
            given = [*settings(small_weights, **more), *arguments]
            node = answering(DknNode)(context=peer.context, cli_args=given)
            made.append(node)
            peer.executor.add_node(node)
            return node, peer

        yield make
        for node in made:
            node.close()
            peer.executor.remove_node(node)
            node.destroy_node()


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dkn_worker")]


def deaf(node: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes subscriptions to depth images fail, as those to a topic that has another type here do."""
    patch = monkeypatch.context()
    create = type(node).create_subscription

    def refuse(self: Any, kind: type, topic: str, *given: Any, **more: Any) -> Any:
        if topic == "in/depth/image":
            raise RuntimeError("incompatible type")
        return create(self, kind, topic, *given, **more)

    patch.__enter__().setattr(type(node), "create_subscription", refuse)
    return patch


def test_one_topic_for_two_inputs_is_refused_before_anything_is_loaded(make_dkn: MakeNode) -> None:
    for topic, other, argument in (
        ("in/rgb/image", "in/rgb/camera_info", "rgb_topic and rgb_info_topic"),
        ("in/depth/image", "in/rgb/image", "rgb_topic and depth_topic"),
    ):
        node, _ = make_dkn("-r", f"{topic}:=/camera/all", "-r", f"{other}:=/camera/all")
        node.trigger_configure()
        assert real_state(node) == "unconfigured"
        assert "are both /camera/all; wanted: a topic for each" in node.complaint and argument in node.complaint
    node, _ = make_dkn("-r", "in/rgb/camera_info:=/camera/info", "-r", "in/depth/camera_info:=/camera/info")
    node.trigger_configure()
    assert node.complaint == "" and real_state(node) == "inactive", "one calibration for both is none too few"


def test_an_activation_that_fails_leaves_nothing_behind(make_dkn: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = make_dkn(lazy=False)
    node.trigger_configure()
    before, patch = workers(), deaf(node, monkeypatch)
    node.trigger_activate()
    assert real_state(node) == "inactive" and node.frames is None and not node.inputs and workers() == before
    said = "cannot activate: cannot subscribe to /in/depth/image for in/depth/image (Image): incompatible type"
    assert node.complaint == said
    assert node.count_subscribers("in/rgb/image") == 0
    patch.__exit__(None, None, None)
    node.trigger_activate()
    assert real_state(node) == "active" and node.inputs and node.complaint == ""
    assert len(workers()) == len(before) + 1


def test_a_lazy_node_that_cannot_subscribe_lives_on_and_says_so(
    make_dkn: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensor_msgs.msg import Image

    node, peer = make_dkn(lazy=True)
    node.trigger_configure()
    node.trigger_activate()
    patch = deaf(node, monkeypatch)
    listener = peer.node.create_subscription(Image, OUTPUT, lambda _: None, 1)
    peer.until(lambda: node._at_rest()[0] == Level.ERROR, "a complaint")
    said = node._at_rest()[1]
    assert said.startswith("active: cannot subscribe to /in/depth/image") and not node.inputs and node.complaint == ""
    peer.spin(lambda: False, 1.5)
    assert node._at_rest() == (Level.ERROR, said), "the next try failed, too"
    peer.node.destroy_subscription(listener)
    peer.until(lambda: node._at_rest()[0] == Level.OK, "nothing to complain of, where nobody listens")
    peer.node.create_subscription(Image, OUTPUT, lambda _: None, 1)
    peer.until(lambda: node._at_rest()[0] == Level.ERROR, "a complaint")
    patch.__exit__(None, None, None)
    peer.until(lambda: bool(node.inputs), "subscriptions, by themselves")
    assert node._at_rest()[0] == Level.OK
