"""What the process tests share: the package's programs as processes, and a ROS node in the test that talks to them.

Every process and its peer have a domain of their own, so no two tests hear each other.  Everything waits with a limit,
for a condition and not for a time.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from dkn_ros.ros.launch_description import transport_environment
from dkn_ros.ros.messages import stamp_ns

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine before it counts as broken."""
FRAME_ID = "camera_rgb_optical_frame"
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

needs_rclpy = pytest.mark.skipif(
    not find_spec("rclpy"), reason="rclpy is not installed: it comes with ROS 2, or from PyPI as ros-rclpy[fastrtps]"
)

Result = TypeVar("Result")
_numbers = itertools.count()
_locks: deque[int] = deque()


def next_domain() -> int:
    """A ROS domain that no other test uses at the moment, of this process or of another one on this machine.

    102 to 199, of which 98 are enough: the last eight that were given out stay locked, the older ones are free again.
    """
    first = 7 * os.getpid()
    folder = Path(gettempdir()) / f"dkn_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(98):
        domain = 102 + (first + next(_numbers)) % 98
        lock = os.open(folder / str(domain), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _locks.append(lock)
        if len(_locks) > 8:
            os.close(_locks.popleft())
        return domain
    raise RuntimeError("98 ROS domains are in use by other tests on this machine; end some of them")


def parameters(**values: Any) -> list[str]:
    """Command-line arguments that set ROS parameters."""
    pairs = [("-p", f"{name}:={json.dumps(value)}") for name, value in values.items()]
    return ["--ros-args", *itertools.chain.from_iterable(pairs)]


class Process:
    """A Python module that runs as a process of its own; stdout and stderr go to one log.

    profile: whether it has the transport profile, as the launch files give it.
    """

    def __init__(self, module: str, arguments: Sequence[str], domain: int, profile: bool = True) -> None:
        self._folder = TemporaryDirectory(prefix="dkn_test_")
        self._log = Path(self._folder.name) / "output.log"
        modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {
            "PYTHONPATH": modules,
            "PYTHONUNBUFFERED": "1",
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": self._folder.name,
            "RCUTILS_COLORIZED_OUTPUT": "0",
            "RCUTILS_CONSOLE_OUTPUT_FORMAT": "[{severity}] [{time}] [{name}]: {message}",
        }
        if profile:
            environment |= transport_environment(environment)
        else:
            environment = {name: value for name, value in environment.items() if name not in PROFILES}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """All that the process wrote so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status, when it has ended by itself."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process has not ended within {seconds:g} s; its log:\n{self.log}") from None

    def wait_for_log(self, text: str) -> None:
        """Return when `text` is in the log."""
        end = time.monotonic() + PATIENCE
        while text not in self.log:
            assert self.status is None, f"the process ended with status {self.status}; its log:\n{self.log}"
            assert time.monotonic() < end, f"no {text!r} within {PATIENCE:g} s; the log:\n{self.log}"
            time.sleep(0.02)  # between two looks at a file

    def wait_for_handler(self, number: signal.Signals) -> None:
        """Return when it handles that signal; Linux tells."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            pytest.skip("only Linux tells which signals a process handles")
        end = time.monotonic() + PATIENCE
        while True:
            (caught,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
            if int(caught, 16) >> (number - 1) & 1:
                return
            assert time.monotonic() < end, f"no handler for {number.name} within {PATIENCE:g} s"
            time.sleep(0.005)  # between two looks at a file

    def written_files(self) -> set[str]:
        """The files it has open for writing, less its log and what Fast DDS shares on purpose; Linux tells."""
        folder = Path(f"/proc/{self._process.pid}")
        if not (folder / "fdinfo").exists():
            pytest.skip("only Linux tells which files a process has open")
        found = set()
        for info in (folder / "fdinfo").iterdir():
            flags = next(line.split()[1] for line in info.read_text().splitlines() if line.startswith("flags"))
            path = os.readlink(folder / "fd" / info.name)
            if int(flags, 8) & os.O_ACCMODE and path.startswith("/") and not path.startswith(("/dev/", "/proc/")):
                found.add(path)
        return found - {str(self._log)}

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End it, however it takes it."""
        for end in (self._process.terminate, self._process.kill):
            if self.status is not None:
                break
            end()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                continue
        self._folder.cleanup()


@contextmanager
def running(module: str, arguments: Sequence[str], domain: int, profile: bool = True) -> Iterator[Process]:
    """A process that is ended with the block; its log is printed, which pytest shows when the test fails."""
    process = Process(module, arguments, domain, profile)
    try:
        yield process
    finally:
        print(f"--- log of {module}\n{process.log}---")
        process.close()


class Peer:
    """A ROS node in the test's own process, and the waiting for what it hears."""

    def __init__(self, domain: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def publisher(self, kind: type, topic: str) -> Any:
        """A reliable publisher, which also serves best-effort subscriptions."""
        return self.node.create_publisher(kind, topic, 10)

    def listen(self, kind: type, topic: str) -> list[Any]:
        """Subscribe (reliable); what is heard is appended to the list that is returned."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, 100)
        return heard

    def diagnostics(self) -> list[Any]:
        """What is heard on /diagnostics from now on."""
        from diagnostic_msgs.msg import DiagnosticArray

        return self.listen(DiagnosticArray, "/diagnostics")

    def now_ns(self) -> int:
        """The time by which messages are stamped."""
        return int(self.node.get_clock().now().nanoseconds)

    def spin(self, condition: Callable[[], Result | None], seconds: float) -> Result | None:
        """Let messages in until `condition` holds or the time is over; returns its last value."""
        end = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def until(self, condition: Callable[[], Result | None], what: str, process: Process | None = None) -> Result:
        """The value of `condition` when it holds; fails when that takes too long or `process` has ended."""

        def ended() -> bool:
            return process is not None and process.status is not None

        self.spin(lambda: condition() or ended(), PATIENCE)
        value = condition()
        assert value, f"waited for {what}; the process {'has ended' if ended() else 'did not do it'}"
        return value

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The response of a service."""
        client: Any = self.node.create_client(kind, service)
        try:
            self.until(client.service_is_ready, f"the service {service}")
            # Ready means that we know the server. Until it knows where to answer, which nobody tells us, what it
            # responds is dropped ("failed to send response (timeout)").
            self.spin(lambda: False, 0.3)
            future = client.call_async(request)
            self.until(future.done, f"the response of {service}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def set_parameter(self, name: str, value: Any) -> Any:
        """Ask `dkn_node` to change a parameter; the response says whether it did, and why not."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "/dkn_node/set_parameters", request).results[0]

    def close(self) -> None:
        """Leave the graph."""
        import rclpy

        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@contextmanager
def peer_in(domain: int) -> Iterator[Peer]:
    """A peer for one block."""
    peer = Peer(domain)
    try:
        yield peer
    finally:
        peer.close()


class Bench:
    """A running `dkn_node` with a camera at its inputs and an ear at its outputs: publish X, expect Y."""

    def __init__(self, peer: Peer, process: Process) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image

        self.peer, self.process = peer, process
        self.outputs = peer.listen(Image, "depth/upsampled")
        self.infos = peer.listen(CameraInfo, "depth/camera_info")
        self.timings = peer.listen(DiagnosticArray, "depth/timing")
        self.diagnostics = peer.diagnostics()
        self.rgb = peer.publisher(Image, "in/rgb/image")
        self.depth = peer.publisher(Image, "in/depth/image")
        self.rgb_info = peer.publisher(CameraInfo, "in/rgb/camera_info")

        inputs = (self.rgb, self.depth, self.rgb_info)
        self.until(lambda: all(p.get_subscription_count() for p in inputs), "the node to subscribe")
        self.until(lambda: self.diagnostics, "the node's first diagnostics")

    def until(self, condition: Callable[[], Result | None], what: str) -> Result:
        """The value of `condition` when it holds."""
        return self.peer.until(condition, what, self.process)

    def send(self, rgb: Any, depth: Any, later_ns: int = 0) -> int:
        """Publish a pair with the stamp of now, which is returned; the depth's stamp is `later_ns` later."""
        now = self.peer.now_ns()
        stamp(rgb, now)
        stamp(depth, now + later_ns)
        self.send_as_it_is(rgb, depth)
        return now

    def send_as_it_is(self, rgb: Any, depth: Any) -> None:
        """Publish a pair with the stamps that it has."""
        self.depth.publish(depth)
        self.rgb.publish(rgb)

    def answer(self, rgb: Any, depth: Any, later_ns: int = 0, info: Any = None) -> Any:
        """The output image for a pair; sent again, with a new stamp, where best effort has lost it."""
        return self.repeat(lambda: self._answer(rgb, depth, later_ns, info), "an output image of the pair's stamp")

    def repeat(self, attempt: Callable[[], Result | None], what: str) -> Result:
        """Make the attempt until it gives something."""
        end = time.monotonic() + PATIENCE
        while not (value := attempt()):
            assert self.process.status is None, f"the node ended with status {self.process.status}"
            assert time.monotonic() < end, f"waited {PATIENCE:g} s for {what}"
        return value

    def _answer(self, rgb: Any, depth: Any, later_ns: int, info: Any) -> Any:
        if info is not None:
            self.rgb_info.publish(info)
        stamp = self.send(rgb, depth, later_ns)
        return self.peer.spin(lambda: of_stamp(self.outputs, stamp), 2.0)

    def next_status(self) -> Status:
        """The next diagnostics of the node."""
        known = len(self.diagnostics)
        self.until(lambda: len(self.diagnostics) > known, "diagnostics of the node")
        return Status(self.diagnostics[-1])

    def status_when(self, condition: Callable[[Status], bool], what: str) -> Status:
        """The first diagnostics, from the latest on, for which `condition` holds."""

        def latest() -> Status | None:
            status = Status(self.diagnostics[-1])
            return status if condition(status) else None

        return self.until(latest, what)

    def set_parameter(self, name: str, value: Any) -> Any:
        """See Peer.set_parameter."""
        return self.peer.set_parameter(name, value)


class Status:
    """The one status of a DiagnosticArray."""

    def __init__(self, message: Any) -> None:
        (status,) = message.status
        self.stamp_ns = stamp_ns(message.header.stamp)
        self.level: int = status.level[0]
        self.name: str = status.name
        self.message: str = status.message
        self.values: Mapping[str, str] = {item.key: item.value for item in status.values}

    def count(self, key: str) -> int:
        """A counter; 0 while it is not there."""
        return int(self.values.get(key, 0))


def stamp(message: Any, nanoseconds: int) -> Any:
    """The message with that stamp."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    message.header.stamp.sec, message.header.stamp.nanosec = seconds, rest
    return message


def of_stamp(messages: Sequence[Any], stamp: int) -> Any:
    """The latest message of a stamp (nanoseconds); None if there is none."""
    return next((m for m in reversed(messages) if stamp_ns(m.header.stamp) == stamp), None)


def image(encoding: str, pixels: NDArray, padding: int = 0, big: bool = False) -> Any:
    """A sensor_msgs/Image of `pixels`, whose channels are in the encoding's order; `padding` bytes follow each row."""
    from sensor_msgs.msg import Image

    height, width = pixels.shape[:2]
    sent = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(sent.tobytes(), np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA)
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=rows.shape[1])
    message.header.frame_id = FRAME_ID
    message.data = array("B", rows.tobytes())
    return message


def write_frames(folder: Path, count: int = 3, width: int = 160, height: int = 120) -> Path:
    """A folder of real-looking frames: a slanted wall, a box that moves from frame to frame, and a hole."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.indices((height, width))
    for number in range(count):
        box = (abs(x - width // 3 - 5 * number) < width // 6) & (abs(y - height // 2) < height // 4)
        depth = np.where(box, 1000 + 100 * number, 2000 + 3 * x).astype(np.uint16)
        depth[: height // 6, -width // 6 :] = 0
        bgr = np.stack([np.where(box, 200, 40), x * 255 // width, y * 255 // height], axis=2).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03}_depth.png"), depth)
        cv2.imwrite(str(folder / f"{number:03}_rgb.png"), bgr)
    return folder


def pixels_of(message: Any) -> NDArray:
    """The values of an output image (32FC1 or 16UC1, this machine's byte order, no padding)."""
    kind = np.dtype({"32FC1": np.float32, "16UC1": np.uint16}[message.encoding])
    assert message.step == message.width * kind.itemsize
    assert len(message.data) == message.step * message.height
    assert message.is_bigendian == (sys.byteorder == "big")
    return np.frombuffer(memoryview(message.data), kind).reshape(message.height, message.width)
