"""What differs between the ROS 2 distributions, from Humble to Lyrical, found by what is there and not by a version.

    what                                   Humble           Jazzy     Kilted, Lyrical
    matched events of a publisher          no: poll         yes       yes
    home of the event callbacks            rclpy.qos_event  rclpy.event_handler
    a lifecycle transition that is not     ends the         ends the  is answered
    possible from the present state        process          process
    a callback before parameters are set   no               yes       yes
    4th of ApproximateTimeSynchronizer     allow_headerless           queue_offset: all by keyword

The EventsExecutor (from Jazzy 7.1.4 on, experimental) is not used: in rclpy 9.1.2 from PyPI a process that spins it
gets no timer, and SIGTERM does not end it.  The rest that the package uses of rclpy is the same in all of them, so
nothing more stands here: `rclpy.lifecycle` has the same names, `add_on_set_parameters_callback` is there, and one
private name, the parameters that a node was given.  Nothing here imports ROS at module level.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile
    from rclpy.timer import Timer

Made = TypeVar("Made")

POLL_SECONDS = 1 / 30
"""Where nothing tells of new subscriptions, they are looked for so often: they wait for a frame at most so long."""


def event_module() -> Any:
    """Where PublisherEventCallbacks and SubscriptionEventCallbacks are: importing the old home warns in later ones."""
    try:
        return importlib.import_module("rclpy.event_handler")
    except ModuleNotFoundError:
        return importlib.import_module("rclpy.qos_event")


def event_callbacks(kind: str, **callbacks: Callable[[Any], None]) -> Any | None:
    """A PublisherEventCallbacks or SubscriptionEventCallbacks, as `kind` says, that calls these back by their names.

    None where it does not know one of the names.
    """
    made = getattr(event_module(), kind)
    if not callbacks.keys() <= inspect.signature(made.__init__).parameters.keys():
        return None
    return made(**callbacks)


class Matching:
    """Makes publishers of a node, and calls back when one of them may have gained or lost a subscription.

    By matched events where this rclpy and its middleware have them (`polls` is False then), else every POLL_SECONDS.
    """

    def __init__(self, node: Any, callback: Callable[[], None]) -> None:
        self._node, self._callback = node, callback
        self._timer: Timer | None = None

    @property
    def polls(self) -> bool:
        """Whether some publisher has no events."""
        return self._timer is not None

    def create_publisher(self, kind: type, topic: str, profile: QoSProfile) -> Publisher:
        """As the node's own function."""
        events = event_callbacks("PublisherEventCallbacks", matched=lambda _: self._callback())
        if events is not None:
            try:
                return self._node.create_publisher(kind, topic, profile, event_callbacks=events)
            except event_module().UnsupportedEventTypeError:
                pass  # by this middleware
        if self._timer is None:
            from rclpy.clock import Clock, ClockType

            clock = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self._node.create_timer(POLL_SECONDS, self._callback, clock=clock)
        return self._node.create_publisher(kind, topic, profile)

    def close(self) -> None:
        """Call back no more for lack of events; with the publishers their events go."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None


def answering(node: type[Made]) -> type[Made]:
    """The LifecycleNode class, but its nodes answer a transition that is not possible with failure in any distribution.

    Up to Jazzy the request raises out of the executor (ros2/rclpy 1319), so that anybody could end the process by it.
    """
    change_state = "_LifecycleNodeMixin__change_state"  # called by that name, so that a subclass can replace it
    original = getattr(node, change_state, None)
    if original is None:
        return node
    from rclpy.lifecycle import TransitionCallbackReturn

    def change(self: Any, transition_id: int) -> Any:
        try:
            return original(self, transition_id)
        except RuntimeError as error:  # RCLError is one
            if not self.context.ok():
                raise
            self.get_logger().error(f"transition {transition_id} is not possible: {error}".splitlines()[0])
            return TransitionCallbackReturn.ERROR

    answering_node: type[Made] = type(node.__name__, (node,), {change_state: change})
    return answering_node


def given_parameters(node: Any) -> list[str]:
    """Names of the parameters that were given to a node at start, by files, arguments or its maker; sorted.

    rclpy keeps them to itself, by one name in all distributions.
    """
    return sorted(node._parameter_overrides)


def before_set(node: Any, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have parameters that are to be set replaced by what `change` makes of them, where rclpy lets one; call once.

    Where it does not, a parameter keeps the type in which it was given.
    """
    if hasattr(node, "add_pre_set_parameters_callback"):
        node.add_pre_set_parameters_callback(change)


def approximate_time(queue_size: int) -> tuple[Any, tuple[Any, Any]]:
    """An ApproximateTimeSynchronizer of message_filters for two topics with slop 0, and the filters that feed it.

    Raises ImportError where message_filters is not installed.
    """
    filters = importlib.import_module("message_filters")
    inputs = (filters.SimpleFilter(), filters.SimpleFilter())
    return filters.ApproximateTimeSynchronizer(fs=list(inputs), queue_size=queue_size, slop=0.0), inputs
