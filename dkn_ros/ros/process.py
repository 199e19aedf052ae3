"""The process of a node: how it starts, spins and ends."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions, install_signal_handlers

Made = TypeVar("Made", bound=Node)

START_ERRORS = (
    ValueError,
    OSError,
    RuntimeError,  # what torch raises for a device that is there but cannot be used
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
"""What a node's start raises for parameters, weights and files that cannot be used."""


def run(make: Callable[[], Made], spin: Callable[[Made], None], name: str, args: list[str] | None) -> int:
    """Make a node and spin it until Ctrl-C or SIGTERM; exit status 0 then, 1 if it cannot be made."""
    # Making it takes seconds in which rclpy would swallow the signal: end at once, with the status of a wanted end.
    on_signals(lambda *_: sys.exit(0))
    node = None
    try:
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            node = make()
        except START_ERRORS as error:
            rclpy.logging.get_logger(name).fatal(f"cannot start: {_without_places(str(error))}")
            return 1
        on_signals(signal.SIG_DFL)
        install_signal_handlers(SignalHandlerOptions.ALL)
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal can end the context between rclpy's look at it and its use, which then fails in many ways.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _without_places(text: str) -> str:
    """What rcl says of a parameter file or a remapping, without the lines of its own source that it appends."""
    return re.sub(r", at \S+:\d+", "", text)


def on_signals(handler: Any) -> None:
    """Have SIGTERM and SIGINT handled so."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
