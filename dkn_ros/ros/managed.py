"""A managed (lifecycle) node that says why a transition failed, and that can make its way to work by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dkn_ros.ros.process import START_ERRORS

STATES = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
}
"""Transition -> the state it leads to."""
FORTH = ("configure", "activate")
"""Transitions that leave the node as it was when they fail; where another one fails, all that it has is given up."""


class ManagedNode(LifecycleNode):
    """Does what its subclass says at each transition.

    What is raised there fails the transition: it is logged, kept in `complaint`, and the process lives on.  rclpy by
    itself would swallow it.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.state = "unconfigured"
        """As the lifecycle services name it, between two transitions."""
        self.complaint = ""
        """What stood in the way of the last transition; empty if nothing did."""
        self._error: Exception | None = None
        self._by_itself = False

    @abstractmethod
    def configure(self) -> None:
        """Make what work needs; leave nothing behind where that fails."""

    @abstractmethod
    def activate(self) -> None:
        """Begin to work; leave nothing behind where that fails."""

    @abstractmethod
    def deactivate(self) -> None:
        """End the work."""

    @abstractmethod
    def clean_up(self) -> None:
        """Release what was made, from any state."""

    def start(self) -> None:
        """Configure and activate without being told to; raises what stands in the way."""
        self._by_itself = True
        for trigger in (self.trigger_configure, self.trigger_activate):
            trigger()
            if self._error is not None:
                raise self._error
        self._by_itself = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `configure`."""
        return self._transition("configure", self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `activate`."""
        return self._transition("activate", self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `deactivate`."""
        return self._transition("deactivate", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `clean_up`."""
        return self._transition("cleanup", self.clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `clean_up`; the process goes on, so that it can be asked for its state."""
        return self._transition("shutdown", self.clean_up)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """What could not be ended in order is given up; the node may be configured anew."""
        try:
            self.clean_up()
        except Exception as error:
            self.get_logger().error(f"cannot clean up: {error}")
            self.state = "finalized"
            return TransitionCallbackReturn.FAILURE
        self.state = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def _transition(self, name: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        self._error, self.complaint = None, ""
        try:
            work()
        except Exception as error:
            self._error = error
            kind = "" if isinstance(error, START_ERRORS) else f"{type(error).__name__}: "
            self.complaint = f"cannot {name}: {kind}{error}"
            if not self._by_itself:
                self.get_logger().error(self.complaint)
            return TransitionCallbackReturn.FAILURE if name in FORTH else TransitionCallbackReturn.ERROR
        self.state = STATES[name]
        if not self._by_itself:
            self.get_logger().info(f"{name}: {self.state}")
        return TransitionCallbackReturn.SUCCESS
