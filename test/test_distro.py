"""What differs between the distributions: both sides of every difference, the other one by what stands in for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from harness import Peer, needs_rclpy, next_domain, peer_in

from dkn_ros.ros import distro


class HumbleCallbacks:
    """PublisherEventCallbacks of Humble, by its signature."""

    def __init__(
        self, *, deadline: Any = None, liveliness: Any = None, incompatible_qos: Any = None,
        use_default_callbacks: bool = True,
    ) -> None:  # fmt: skip
        self.incompatible_qos = incompatible_qos


class LaterCallbacks(HumbleCallbacks):
    """The same from Jazzy on."""

    def __init__(self, *, incompatible_qos: Any = None, matched: Any = None) -> None:
        super().__init__(incompatible_qos=incompatible_qos)
        self.matched = matched


def ignore(event: Any) -> None:
    """A callback."""


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(contents)
    return made


@pytest.fixture
def humble(monkeypatch: pytest.MonkeyPatch) -> None:
    """An rclpy whose event callbacks are those of Humble, where Humble has them."""
    monkeypatch.setitem(sys.modules, "rclpy", module("rclpy", __path__=[]))
    monkeypatch.setitem(sys.modules, "rclpy.event_handler", None)
    monkeypatch.setitem(sys.modules, "rclpy.qos_event", module("qos_event", PublisherEventCallbacks=HumbleCallbacks))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the later ones, in which the old home is not to be imported."""
    monkeypatch.setitem(sys.modules, "rclpy", module("rclpy", __path__=[]))
    made = module("event_handler", PublisherEventCallbacks=LaterCallbacks)
    monkeypatch.setitem(sys.modules, "rclpy.event_handler", made)
    monkeypatch.setitem(sys.modules, "rclpy.qos_event", None)


def test_event_callbacks_of_humble(humble: None) -> None:
    assert distro.event_callbacks("PublisherEventCallbacks", matched=print) is None
    made = distro.event_callbacks("PublisherEventCallbacks", incompatible_qos=print)
    assert isinstance(made, HumbleCallbacks) and made.incompatible_qos is print


def test_event_callbacks_of_later_ones(later: None) -> None:
    made = distro.event_callbacks("PublisherEventCallbacks", matched=print, incompatible_qos=ignore)
    assert isinstance(made, LaterCallbacks)
    assert (made.matched, made.incompatible_qos) == (print, ignore)


# In a real node.


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peer_in(next_domain()) as made:
        yield made


def no_callbacks(kind: str, **callbacks: Any) -> None:
    """As on Humble."""


def unsupported(kind: str, **callbacks: Any) -> Any:
    """As with a middleware that has no such event."""

    class Callbacks:
        def create_event_handlers(self, *of: Any) -> Any:
            raise distro.event_module().UnsupportedEventTypeError("matched")

    return Callbacks()


@needs_rclpy
@pytest.mark.parametrize("stand_in", [None, no_callbacks, unsupported], ids=["events", "humble", "unsupported"])
def test_subscriptions_that_come_and_go_are_noticed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Any] | None
) -> None:
    from std_msgs.msg import Header

    if stand_in is not None:
        monkeypatch.setattr(distro, "event_callbacks", stand_in)
    counts: list[int] = []
    matching = distro.Matching(peer.node, lambda: counts.append(publisher.get_subscription_count()))
    publisher = matching.create_publisher(Header, "watched", 10)  # type: ignore[arg-type]
    other = matching.create_publisher(Header, "not_watched", 10)  # type: ignore[arg-type]
    assert matching.polls is (stand_in is not None)

    subscription = peer.node.create_subscription(Header, "watched", print, 10)
    peer.until(lambda: counts[-1:] == [1], "the subscription to be noticed")
    peer.node.destroy_subscription(subscription)
    peer.until(lambda: counts[-1:] == [0], "its end to be noticed")
    matching.close()
    assert not matching.polls
    for made in (publisher, other):
        peer.node.destroy_publisher(made)


@needs_rclpy
def test_an_impossible_transition_is_answered_in_all_of_them(peer: Peer) -> None:
    from lifecycle_msgs.srv import ChangeState
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

    class Jazzy(LifecycleNode):
        """Its state machine's error is let out, as up to Jazzy."""

        def _LifecycleNodeMixin__change_state(self, transition_id: int) -> Any:
            self._state_machine.trigger_transition_by_id(transition_id, True)
            self._state_machine.trigger_transition_by_label(TransitionCallbackReturn.SUCCESS.to_label(), True)
            return TransitionCallbackReturn.SUCCESS

    with pytest.raises(RuntimeError):
        bare = Jazzy("bare", context=peer.context)
        bare.trigger_activate()
    bare.destroy_node()

    for name, kind in (("jazzy", Jazzy), ("later", LifecycleNode)):
        node = distro.answering(kind)(name, context=peer.context)
        assert type(node).__name__ == kind.__name__
        peer.executor.add_node(node)
        try:
            for transition, success in (("activate", False), ("configure", True), ("activate", True)):
                request = ChangeState.Request()
                request.transition.label = transition
                assert peer.call(ChangeState, f"/{name}/change_state", request).success is success, (name, transition)
        finally:
            peer.executor.remove_node(node)
            node.destroy_node()


def test_a_node_without_that_weakness_stays_as_it_is() -> None:
    assert distro.answering(dict) is dict


# message_filters.


@pytest.mark.parametrize("fourth", ["allow_headerless", "queue_offset"], ids=["to Jazzy", "later"])
def test_nothing_lands_in_the_fourth_argument(monkeypatch: pytest.MonkeyPatch, fourth: str) -> None:
    class Synchroniser:
        def __init__(self, fs: Any, queue_size: int, slop: float, changing: Any = "untouched") -> None:
            self.given = fs, queue_size, slop
            self.changing = {fourth: changing}

    filters = module(
        "message_filters", SimpleFilter=type("SimpleFilter", (), {}), ApproximateTimeSynchronizer=Synchroniser
    )
    monkeypatch.setitem(sys.modules, "message_filters", filters)
    made, inputs = distro.approximate_time(7)
    assert made.given == (list(inputs), 7, 0.0)
    assert made.changing == {fourth: "untouched"}


def test_without_message_filters_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "message_filters", None)
    with pytest.raises(ImportError):
        distro.approximate_time(7)
