"""Every preset with a simulated camera that behaves like the driver: what the driver sends, what comes out, over DDS.

What the drivers do was read from their sources, and stands here once more, by hand: a preset that is wrong about a name
would otherwise be wrong in both places.  Images are smaller than the drivers', in the same proportions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import Peer, Process, Status, needs_rclpy, next_domain, peer_in, pixels_of, running
from numpy.typing import NDArray

from dkn_ros.depth import to_metres
from dkn_ros.ros.launch_description import programs
from dkn_ros.ros.messages import read_depth, stamp_ns
from dkn_ros.ros.presets import PRESETS

MODULES = {"sim_camera": "dkn_ros.ros.sim_camera", "dkn_node": "dkn_ros.ros.node"}
SEED = 3
"""Of a scene with things near and far."""


@dataclass(frozen=True)
class Driver:
    """What a driver sends; sizes are (width, height)."""

    rgb: str
    rgb_info: str
    depth: str
    depth_info: str
    encoding: str
    frame: str
    depth_frame: str
    size: tuple[int, int]
    depth_size: tuple[int, int]
    info_frame: str = ""
    """Where it is not the image's."""
    queue: int = 10
    """QoS history depth; 10 is ROS's own."""
    output_info: str = "/depth/camera_info"
    stamped: bool = True
    registers: bool = False
    """Whether the node has to register its depth."""
    smaller: int = 4
    """How many times smaller than the driver's the test's images are."""


QHD = "/kinect2/qhd/camera_info"
HD = "/kinect2/hd/camera_info"
K2_FRAME = "kinect2_rgb_optical_frame"
RS = "/camera/camera"
RS_FRAME, RS_DEPTH = "camera_color_optical_frame", "camera_depth_optical_frame"
AZURE = "/depth/upsampled/camera_info"
DRIVERS = {
    "kinect": Driver(
        "/kinect/image_raw", "/kinect/camera_info", "/kinect/depth/image_raw", "/kinect/depth/camera_info",
        "rgb8", "", "kinect_depth", (640, 480), (640, 480), "kinect_rgb", stamped=False, registers=True, smaller=2,
    ),
    "xtion": Driver(
        "/camera/rgb/image_raw", "/camera/rgb/camera_info", "/camera/depth/image_raw", "/camera/depth/camera_info",
        "rgb8", "camera_rgb_optical_frame", "camera_rgb_optical_frame", (640, 480), (640, 480), smaller=2, queue=1,
    ),
    "kinect2": Driver(
        "/kinect2/qhd/image_color_rect", QHD, "/kinect2/qhd/image_depth_rect", QHD,
        "bgr8", K2_FRAME, K2_FRAME, (960, 540), (960, 540), smaller=4, queue=5,
    ),
    "kinect2_hd": Driver(
        "/kinect2/hd/image_color_rect", HD, "/kinect2/hd/image_depth_rect", HD,
        "bgr8", K2_FRAME, K2_FRAME, (1920, 1080), (1920, 1080), smaller=8, queue=5,
    ),
    "kinect2_raw": Driver(
        "/kinect2/qhd/image_color", QHD, "/kinect2/sd/image_depth", "/kinect2/sd/camera_info",
        "bgr8", K2_FRAME, "kinect2_ir_optical_frame", (960, 540), (512, 424), registers=True, smaller=4, queue=5,
    ),
    "azure": Driver(
        "/rgb/image_raw", "/rgb/camera_info", "/depth/image_raw", "/depth/camera_info",
        "bgra8", "rgb_camera_link", "depth_camera_link", (1280, 720), (640, 576), output_info=AZURE, registers=True,
        queue=1,
    ),
    "azure_aligned": Driver(
        "/rgb/image_raw", "/rgb/camera_info", "/depth_to_rgb/image_raw", "/depth_to_rgb/camera_info",
        "bgra8", "rgb_camera_link", "rgb_camera_link", (1280, 720), (1280, 720), output_info=AZURE, queue=1,
    ),
    "realsense": Driver(
        f"{RS}/color/image_raw", f"{RS}/color/camera_info", f"{RS}/depth/image_rect_raw", f"{RS}/depth/camera_info",
        "rgb8", RS_FRAME, RS_DEPTH, (1280, 720), (848, 480), registers=True, queue=1,
    ),
    "realsense_aligned": Driver(
        f"{RS}/color/image_raw", f"{RS}/color/camera_info",
        f"{RS}/aligned_depth_to_color/image_raw", f"{RS}/aligned_depth_to_color/camera_info",
        "rgb8", RS_FRAME, RS_FRAME, (1280, 720), (1280, 720), queue=1,
    ),
    "orbbec": Driver(
        "/camera/color/image_raw", "/camera/color/camera_info", "/camera/depth/image_raw", "/camera/depth/camera_info",
        "rgb8", "camera_color_optical_frame", "camera_depth_optical_frame", (1280, 720), (800, 600), registers=True,
    ),
}  # fmt: skip


def test_every_preset_is_tested() -> None:
    assert set(DRIVERS) == set(PRESETS)


@contextmanager
def started(
    preset: str, given: dict[str, str], domain: int, camera: dict[str, Any], node: dict[str, Any]
) -> Iterator[tuple[Process, Process]]:
    """The simulated camera and the node as the launch file starts them, but for these parameters."""
    first, second = programs(PRESETS[preset], given, sim=True)
    with (
        running(MODULES[first.name], [*first.ros_arguments(), *parameters(camera)], domain) as sent,
        running(MODULES[second.name], [*second.ros_arguments(), *parameters(node)], domain) as worked,
    ):
        yield sent, worked


def parameters(values: dict[str, Any]) -> list[str]:
    """To follow `ros_arguments`."""
    return [part for name, value in values.items() for part in ("-p", f"{name}:={str(value).lower()}")]


class Probe:
    """Hears a camera and what the node makes of it."""

    def __init__(self, peer: Peer, driver: Driver, namespace: str = "", camera: str = "") -> None:
        from sensor_msgs.msg import CameraInfo, Image

        self.peer = peer
        self.diagnostics = peer.diagnostics()
        self.outputs = peer.listen(Image, f"{namespace}/depth/upsampled")
        self.infos = peer.listen(CameraInfo, namespace + driver.output_info)
        self.truth = peer.listen(Image, f"{namespace}/truth/image")
        self.rgb_info = peer.listen(CameraInfo, camera + driver.rgb_info)
        self.depth_info = peer.listen(CameraInfo, camera + driver.depth_info)
        self.rgb = peer.listen(Image, camera + driver.rgb)
        self.depth = peer.listen(Image, camera + driver.depth)

    def hear(self, process: Process) -> None:
        """Wait until some of everything has come."""
        heard = (self.rgb, self.rgb_info, self.depth, self.depth_info, self.truth, self.outputs, self.infos)
        self.peer.until(lambda: all(len(messages) > 1 for messages in heard), "images of camera and node", process)


def about(message: Any) -> tuple[str, int, int, str]:
    return message.encoding, message.width, message.height, message.header.frame_id


def smaller(driver: Driver) -> dict[str, int]:
    """The parameters that make the simulated images so much smaller; of kinds that it brings to colour's size, the
    sensor's own stay in proportion."""
    (width, height), (columns, rows) = driver.size, driver.depth_size
    n = driver.smaller
    values = {"width": width // n, "height": height // n}
    if driver.encoding == "bgr8" and not driver.registers:
        columns, rows = 512, 424
    elif driver.depth_frame == driver.frame and driver.size == (1280, 720):
        columns, rows = (640, 576) if driver.encoding == "bgra8" else (848, 480)
    return values | {"depth_width": columns // n, "depth_height": rows // n}


@needs_rclpy
@pytest.mark.parametrize("name", DRIVERS)
def test_preset(name: str, identity_weights: Path) -> None:
    driver, domain = DRIVERS[name], next_domain()
    width, height = (n // driver.smaller for n in driver.size)
    still = {"frames": 1, "seed": SEED, "rate": 10.0, "truth_every": 1} | smaller(driver)
    warm = {"warm_up_width": width, "warm_up_height": height, "threads": 1}
    given = {"weights": str(identity_weights), "device": "cpu"}
    with started(name, given, domain, still, warm) as (camera, node), peer_in(domain) as peer:
        begin = peer.now_ns()  # the node is lazy: it hears the camera no earlier than the probe hears the node
        probe = Probe(peer, driver)
        node.wait_for_log("ready: ")
        probe.hear(node)
        for topic in (driver.rgb, driver.depth, driver.rgb_info, driver.depth_info):
            offered = [p.qos_profile for p in peer.node.get_publishers_info_by_topic(topic)]
            assert {(q.reliability.name, q.durability.name) for q in offered} == {("RELIABLE", "VOLATILE")}, topic
        assert queue_of(peer) == driver.queue, "which the graph does not tell"
        status = Status(peer.until(lambda: _of_node(probe.diagnostics), "diagnostics of the node", node))
        assert camera.status is None and node.status is None
        end = peer.now_ns()

    low = tuple(n // driver.smaller for n in driver.depth_size)
    rgb, depth, output, info = probe.rgb[-1], probe.depth[-1], probe.outputs[-1], probe.infos[-1]

    # What the driver sends.
    assert about(rgb) == (driver.encoding, width, height, driver.frame)
    assert about(depth) == ("16UC1", *low, driver.depth_frame)
    assert probe.rgb_info[-1].header.frame_id == (driver.info_frame or driver.frame)
    assert (stamp_ns(rgb.header.stamp) > 0) == (stamp_ns(probe.rgb_info[-1].header.stamp) > 0) == driver.stamped
    assert stamp_ns(depth.header.stamp) > 0

    # What the node makes of it.
    assert about(output) == ("32FC1", width, height, driver.info_frame or driver.frame)
    assert (info.width, info.height) == (width, height)
    np.testing.assert_allclose(info.k, probe.rgb_info[-1].k)
    stamps = {stamp_ns(m.header.stamp) for m in probe.outputs}
    assert {stamp_ns(m.header.stamp) for m in probe.infos} & stamps
    if driver.stamped:
        # Of those from while the probe heard the camera; a large image may have been lost on its way to the probe.
        seen = {stamp_ns(m.header.stamp) for m in (*probe.rgb, *probe.rgb_info)}
        within = {stamp for stamp in stamps if min(seen) <= stamp <= max(seen)}
        assert within and within <= seen
    else:
        assert begin < min(stamps) and max(stamps) < end, "not the time of arrival"
    assert ("is registered to colour" in status.values["registration"]) == driver.registers

    # The depth is right: it lies where the colour camera sees it, and does better than what the camera sent.
    truth = pixels_of(probe.truth[-1])
    error, known = errors(pixels_of(output), truth)
    sent, _ = errors(as_it_is(depth, width, height), truth)
    print(f"median error {error:.4f} of the depth on {known:.2f} of the image; as it was sent {sent:.4f}")
    assert known > 0.6
    assert error < 0.02
    if driver.registers:
        assert error < 0.5 * sent


@needs_rclpy
def test_two_cameras_share_nothing(identity_weights: Path) -> None:
    """Of one kind, in one domain: each node gets its own camera's images, and all that is said is told apart."""
    domain, driver = next_domain(), DRIVERS["xtion"]
    sizes = {"front": (160, 120), "rear": (200, 150)}
    with ExitStack() as stack:
        pairs = {}
        for name, (width, height) in sizes.items():
            camera = {"width": width, "height": height, "frames": 1, "rate": 10.0, "frame_id": f"{name}_optical"}
            given = {"namespace": name, "camera": f"/{name}/camera", "weights": str(identity_weights), "device": "cpu"}
            node = {"warm_up_width": 0, "threads": 1}
            pairs[name] = stack.enter_context(started("xtion", given, domain, camera | {"truth_every": 1}, node))
        peer = stack.enter_context(peer_in(domain))
        probes = {name: Probe(peer, driver, f"/{name}", f"/{name}") for name in sizes}
        for name, probe in probes.items():
            probe.hear(pairs[name][1])

        def said() -> set[str]:
            return {s.name for probe in probes.values() for m in probe.diagnostics for s in m.status}

        kinds = ("dkn_node: depth upsampling", "sim_camera: frames")
        names = {f"{name}/{kind}" for name in sizes for kind in kinds}
        peer.until(lambda: said() >= names, "diagnostics of all four")
        nodes = peer.node.get_node_names_and_namespaces()
        topics = {topic for topic, _ in peer.node.get_topic_names_and_types()}
        services = {
            service for service, _ in peer.node.get_service_names_and_types() if not service.startswith("/peer")
        }
        files = [process.written_files() for processes in pairs.values() for process in processes]

    for name, probe in probes.items():
        assert {about(m) for m in probe.outputs} == {("32FC1", *sizes[name], f"{name}_optical")}
        assert {about(m) for m in probe.rgb} == {("rgb8", *sizes[name], f"{name}_optical")}
    assert said() == names
    assert sorted(nodes) == sorted(
        [("peer", "/"), *((node, f"/{name}") for name in sizes for node in ("dkn_node", "sim_camera"))]
    )
    assert {t for t in topics if not t.startswith(("/front/", "/rear/"))} == {
        "/diagnostics", "/parameter_events", "/rosout"
    }  # fmt: skip
    assert all(service.startswith(("/front/", "/rear/")) for service in services)
    assert sum(map(len, files)) == len(set().union(*files)), f"a file that two processes write to: {files}"


def queue_of(peer: Peer) -> int:
    """History depth of the simulated camera's publishers."""
    from rcl_interfaces.srv import GetParameters

    request = GetParameters.Request(names=["queue_depth"])
    return int(peer.call(GetParameters, "/sim_camera/get_parameters", request).values[0].integer_value)


def _of_node(heard: list[Any]) -> Any:
    """The latest diagnostics of a node that has published."""
    found = (m for m in reversed(heard) if "depth upsampling" in m.status[0].name and Status(m).count("published"))
    return next(found, None)


def as_it_is(depth: Any, width: int, height: int) -> NDArray[np.float32]:
    """What lies under each colour pixel if the depth is just made as large."""
    image = np.where(read_depth(depth) > 0, to_metres(read_depth(depth)), np.float32(np.nan))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST))


def errors(depth: NDArray, truth: NDArray) -> tuple[float, float]:
    """Median of the relative error where depth is known, and the share of the image where it is."""
    known = np.isfinite(depth)
    return float(np.median(np.abs(depth - truth)[known] / truth[known])), float(known.mean())
