"""The node's registration: when it is wanted, by which calibration, and what is said where there is none."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import Bench, image, needs_rclpy, next_domain, parameters, peer_in, pixels_of, running

from dkn_ros.config import NodeConfig
from dkn_ros.depth import to_metres
from dkn_ros.ros.messages import ImageError
from dkn_ros.ros.registering import Registering, Transform, calibration_of, registering_of, tf_lookup

COLOUR, DEPTH = "colour_optical", "depth_optical"
WIDTH, HEIGHT = 160, 120
BESIDE = Transform(np.eye(3), np.array([0.1, 0.0, 0.0]))


def info(width: int, height: int, focal_length: float, **changes: Any) -> Any:
    k = [focal_length, 0, (width - 1) / 2, 0, focal_length, (height - 1) / 2, 0, 0, 1]
    fields = {"width": width, "height": height, "k": k, "p": [*k[:3], 0, *k[3:6], 0, *k[6:], 0], "d": [0.0] * 5}
    fields |= {"distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0, "roi": Region()}
    fields |= {"header": SimpleNamespace(frame_id="")}
    return SimpleNamespace(**(fields | changes))


class Region:
    """A RegionOfInterest."""

    def __init__(self) -> None:
        self.x_offset = self.y_offset = self.width = self.height = 0


def infos(**changes: Any) -> dict[str, Any]:
    """Of two like cameras, with changes of the depth's."""
    made = {camera: info(WIDTH, HEIGHT, 150.0) for camera in ("rgb", "depth")}
    made["depth"].__dict__.update(changes)
    return made


def pair(colour: str = COLOUR, depth: str = DEPTH) -> Any:
    rgb, other = (SimpleNamespace(header=SimpleNamespace(frame_id=frame)) for frame in (colour, depth))
    return SimpleNamespace(rgb=rgb, depth=other)


def registered(registering: Registering, depth: Any, *given: Any) -> Any:
    """Depth as the pipeline takes it."""
    registration = registering.registration(depth.shape, *given)
    return depth if registration is None else registration.register(to_metres(depth))


def never(*frames: str) -> str:
    raise AssertionError("nobody should ask TF")


def wall() -> Any:
    return np.full((HEIGHT, WIDTH), 2000, np.uint16)


@pytest.mark.parametrize(
    ("mode", "colour", "depth", "wanted"),
    [
        ("auto", COLOUR, DEPTH, True),
        ("auto", COLOUR, COLOUR, False),
        ("auto", "", DEPTH, False),  # a driver that names no frame
        ("auto", COLOUR, "", False),
        ("on", COLOUR, COLOUR, True),
        ("off", COLOUR, DEPTH, False),
    ],
)
def test_when_it_is_wanted(mode: str, colour: str, depth: str, wanted: bool) -> None:
    registering = Registering(mode, BESIDE, never)
    given = wall()
    found = registered(registering, given, (HEIGHT, WIDTH), pair(colour, depth), infos())
    assert (found is not given) == wanted == bool(registering.about)


def test_depth_moves_as_the_extrinsics_say() -> None:
    """A wall at 2 m and a focal length of 150 pixels: 10 cm are 7.5 pixels."""
    found = registered(Registering("auto", BESIDE, never), wall(), (HEIGHT, WIDTH), pair(), infos())
    assert found.shape == (HEIGHT, WIDTH)
    assert np.isnan(found[:, :7]).all()
    np.testing.assert_allclose(found[:, 8:], 2.0, rtol=1e-5)


def test_a_frame_that_only_camera_info_names_counts() -> None:
    """A driver that leaves the header of the colour image empty (kinect_ros2) fills that of its camera_info."""
    given = infos()
    given["rgb"].header.frame_id = COLOUR
    registering = Registering("auto", BESIDE, never)
    assert np.isnan(registered(registering, wall(), (HEIGHT, WIDTH), pair(colour=""), given)[:, :7]).all()
    assert registering.about == f"depth in {DEPTH!r} is registered to colour in {COLOUR!r}"
    given["rgb"].header.frame_id = DEPTH
    same = wall()
    assert registered(registering, same, (HEIGHT, WIDTH), pair(colour=""), given) is same


def test_old_drivers_frames_with_a_slash_are_those_without() -> None:
    asked: list[tuple[str, ...]] = []

    def lookup(*frames: str) -> Transform:
        asked.append(frames)
        return BESIDE

    registering = Registering("auto", None, lookup)
    registered(registering, wall(), (HEIGHT, WIDTH), pair("/" + COLOUR, DEPTH), infos())
    assert asked == [(COLOUR, DEPTH)]
    same = wall()
    assert registered(registering, same, (HEIGHT, WIDTH), pair("/" + DEPTH, DEPTH), infos()) is same


def test_tf_is_asked_for_every_image_and_what_it_once_knew_lasts() -> None:
    """It comes late; a better calibration is sent; TF forgets what is old when the clock goes back."""
    further = Transform(np.eye(3), np.array([0.2, 0.0, 0.0]))
    answers: list[Transform | str] = ["it has not come", BESIDE, BESIDE, further, "it is gone"]
    registering = Registering("auto", None, lambda *frames: answers.pop(0))

    def empty_columns() -> int:
        found = registered(registering, wall(), (HEIGHT, WIDTH), pair(), infos())
        return int(np.isnan(found[HEIGHT // 2]).argmin())

    with pytest.raises(ImageError, match=r"no transform between them: it has not come; turn on") as raised:
        empty_columns()
    assert raised.value.reason == "calibration"
    moved = [empty_columns() for _ in range(4)]
    assert moved[0] == moved[1] and moved[2] == moved[3]
    assert moved[0] == pytest.approx(7.5, abs=1) and moved[2] == pytest.approx(15, abs=1)
    assert answers == []


def test_what_the_diagnostics_read_meanwhile_is_that_of_the_last_frame() -> None:
    """They look at any time, as while a frame waits for TF."""
    seen = []

    def lookup(*frames: str) -> Transform:
        seen.append(registering.about)
        return BESIDE

    registering = Registering("auto", None, lookup)
    for _ in range(2):
        registered(registering, wall(), (HEIGHT, WIDTH), pair(), infos())
    assert seen == ["", f"depth in {DEPTH!r} is registered to colour in {COLOUR!r}"]
    registered(registering, wall(), (HEIGHT, WIDTH), pair(COLOUR, COLOUR), infos())
    assert registering.about == ""


def test_the_same_calibration_is_prepared_once() -> None:
    registering = Registering("auto", None, lambda *frames: Transform(np.eye(3), np.array([0.1, 0.0, 0.0])))
    made = []
    for _ in range(2):
        registered(registering, wall(), (HEIGHT, WIDTH), pair(), infos())
        assert registering._made is not None
        made.append(registering._made[1])
    assert made[0] is made[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "camera_info of colour and depth has not come"),
        ({"rgb": infos()["rgb"]}, "camera_info of depth has not come"),
        (infos(k=[0.0] * 9), "K is all 0, which means not calibrated"),
        (infos(distortion_model="odd"), "distortion model is 'odd'"),
        (infos(d=[1.0, 2.0]), "distortion D of plumb_bob is 1 2"),
        (infos(width=0), "camera info of 0x120"),
        (infos(height=90), "camera_info is of 160x90, the image 160x120, of another shape; load the calibration of"),
    ],
)
def test_without_a_calibration_it_says_what_is_missing(given: dict[str, Any], message: str) -> None:
    registering = Registering("auto", BESIDE, never)
    with pytest.raises(ImageError, match=f"colour is in frame '{COLOUR}', depth in '{DEPTH}'") as raised:
        registered(registering, wall(), (HEIGHT, WIDTH), pair(), given)
    assert raised.value.reason == "calibration" and message in str(raised.value)
    assert registering.about == str(raised.value), "what the diagnostics say of it"


@pytest.mark.parametrize(
    ("given", "lacking", "in_node", "in_bag"),
    [
        (
            {},
            ["rgb", "depth"],
            "camera_info of colour and depth has not come on /cam/in/rgb/camera_info and /cam/in/depth/camera_info; "
            "remap in/rgb/camera_info and in/depth/camera_info (launch arguments rgb_info_topic and depth_info_topic)",
            "camera_info of colour and depth has not come; name its topic with --camera-info and --depth-info",
        ),
        (
            {"rgb": infos()["rgb"]},
            ["depth"],
            "camera_info of depth has not come on /cam/in/depth/camera_info; "
            "remap in/depth/camera_info (launch argument depth_info_topic)",
            "camera_info of depth has not come; name its topic with --depth-info",
        ),
    ],
)
def test_a_camera_info_that_has_not_come_is_named_by_its_topic(
    given: dict[str, Any], lacking: list[str], in_node: str, in_bag: str
) -> None:
    for resolve, text in ((lambda name: f"/cam/{name}", in_node), (None, in_bag)):
        registering = Registering("auto", BESIDE, never, resolve=resolve)
        with pytest.raises(ImageError) as raised:
            registered(registering, wall(), (HEIGHT, WIDTH), pair(), given)
        otherwise = "turn on" if resolve else "record with"
        assert str(raised.value).endswith(f" cannot be registered: {text}, or {otherwise} the driver's registration")
        assert registering.lacking == lacking
        registered(registering, wall(), (HEIGHT, WIDTH), pair(), infos())
        assert not registering.lacking
        with pytest.raises(ImageError):
            registered(registering, wall(), (HEIGHT, WIDTH), pair(), given)
        registered(registering, wall(), (HEIGHT, WIDTH), pair(COLOUR, COLOUR), given)
        assert not registering.lacking, "it is not wanted"


def test_another_calibration_is_taken_at_once() -> None:
    registering = Registering("auto", BESIDE, never)
    first = registered(registering, wall(), (HEIGHT, WIDTH), pair(), infos()).copy()
    moved = infos()
    moved["rgb"].k = [150.0, 0, 99.5, 0, 150.0, 59.5, 0, 0, 1]
    second = registered(registering, wall(), (HEIGHT, WIDTH), pair(), moved)
    assert np.isnan(first[:, :7]).all() and np.isfinite(first[:, 8:20]).all()
    assert np.isnan(second[:, :27]).all() and np.isfinite(second[:, 28:]).all()


def test_the_calibration_is_that_of_the_image_as_it_is_sent() -> None:
    """Binned 2 x 2 by the driver."""
    full = info(640, 480, 500.0, binning_x=2, binning_y=2, d=[0.1, -0.2, 0.0, 0.0, 0.05])
    camera = calibration_of(full, 320, 240)
    assert (camera.width, camera.height, camera.focal_lengths) == (320, 240, (250.0, 250.0))
    assert camera.d == (0.1, -0.2, 0.0, 0.0, 0.05)


def test_a_rectified_image_is_described_by_p_without_distortion() -> None:
    p = [520.0, 0, 330.0, 0, 0, 515.0, 250.0, 0, 0, 0, 1, 0]
    full = info(640, 480, 500.0, p=p, d=[0.1, -0.2, 0.0, 0.0, 0.05])
    camera = calibration_of(full, 640, 480, rectified=True)
    assert (camera.k, camera.d) == ((520.0, 0, 330.0, 0, 515.0, 250.0, 0, 0, 1), ())
    with pytest.raises(ValueError, match=r"matrix P is all 0, which means not calibrated.*set rectified to none if"):
        calibration_of(info(640, 480, 500.0, p=[0.0] * 12), 640, 480, rectified=True)


@pytest.mark.parametrize("rectified", ["none", "rgb", "depth", "both"])
def test_which_images_are_rectified(rectified: str) -> None:
    """A wall at 2 m, seen 10 cm beside: the images' own focal lengths decide how far it moves and how large it is."""
    given = infos()
    for camera in given.values():
        camera.k, camera.p = (
            [100.0, 0, 79.5, 0, 100.0, 59.5, 0, 0, 1],
            [150.0, 0, 79.5, 0, 0, 150.0, 59.5, 0, 0, 0, 1, 0],
        )
    focal = {camera: 150.0 if rectified in (camera, "both") else 100.0 for camera in ("rgb", "depth")}
    registering = Registering("auto", BESIDE, never, rectified)
    found = registered(registering, wall(), (HEIGHT, WIDTH), pair(), given)
    row = np.flatnonzero(np.isfinite(found[found.shape[0] // 2])) * WIDTH / found.shape[1]
    left = max(0.0, 79.5 + focal["rgb"] * (-80 / focal["depth"] + 0.05))
    assert abs(row[0] - left) < 3


def test_numbers_of_a_transform() -> None:
    """A quarter turn about z takes x to y."""
    found = Transform.parsed("0.1, -0.2 0.3  0 0 0.70710678 0.70710678")
    np.testing.assert_allclose(found.translation, (0.1, -0.2, 0.3))
    np.testing.assert_allclose(found.rotation @ (1, 0, 0), (0, 1, 0), atol=1e-7)


@pytest.mark.parametrize("text", ["", "1 2 3", "0 0 0 0 0 0 0", "0 0 0 0 0 0 2", "a b c d e f g", "nan 0 0 0 0 0 1"])
def test_what_is_no_transform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"extrinsics are .*; wanted: "):
        registering_of(NodeConfig(extrinsics=text), never)


def test_without_tf2_ros_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    assert tf_lookup(None)(COLOUR, DEPTH) == "tf2_ros is not installed; set the parameter extrinsics"


class Tf2:
    """Stands in for the module tf2_ros: a buffer that knows what it is told."""

    class TransformException(Exception): ...

    class Buffer:
        def __init__(self) -> None:
            self.known: dict[tuple[str, str], Any] = {}

        def lookup_transform(self, target_frame: str, source_frame: str, time: Any) -> Any:
            assert time.nanoseconds == 0, "not the latest"
            if (target_frame, source_frame) not in self.known:
                raise Tf2.TransformException(f'"{target_frame}" passed to lookupTransform\ndoes not exist. ')
            return SimpleNamespace(transform=self.known[target_frame, source_frame])

    class TransformListener:
        def __init__(self, buffer: Any, node: Any) -> None:
            node.append(buffer)


@needs_rclpy
def test_what_tf_says_in_one_clause_and_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", Tf2)
    node: list[Any] = []  # in which the listener, which is made once, puts down its buffer
    lookup = tf_lookup(node)
    for _ in range(2):
        missing = f'"{COLOUR}" passed to lookupTransform does not exist (or set the parameter extrinsics)'
        assert lookup(COLOUR, DEPTH) == missing
    place, turn = SimpleNamespace(x=0.1, y=0.0, z=0.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    node[0].known[COLOUR, DEPTH] = SimpleNamespace(translation=place, rotation=turn)
    found = lookup(COLOUR, DEPTH)
    assert isinstance(found, Transform) and len(node) == 1
    np.testing.assert_allclose(found.translation, (0.1, 0, 0))


@needs_rclpy
@pytest.mark.skipif(not find_spec("tf2_ros"), reason="tf2_ros comes with a ROS installation")
def test_transforms_of_tf2_come_late_and_change() -> None:
    """As above with tf2_ros itself, over DDS."""
    import tf2_ros
    from geometry_msgs.msg import TransformStamped

    def send(parent: str, child: str, x: float) -> None:
        sent = TransformStamped(child_frame_id=child)
        sent.header.frame_id, sent.transform.translation.x = parent, x
        # Each by a broadcaster of its own: one of Python's sends the first transform of a frame for ever.
        broadcasters.append(tf2_ros.StaticTransformBroadcaster(robot.node))
        broadcasters[-1].sendTransform(sent)

    def lies_at(x: float) -> bool:
        found = lookup(COLOUR, DEPTH)
        return isinstance(found, Transform) and abs(found.translation[0] - x) < 1e-6

    broadcasters: list[Any] = []
    domain = next_domain()
    with peer_in(domain) as peer, peer_in(domain) as robot:
        lookup = tf_lookup(peer.node)
        assert "does not exist (or set the parameter extrinsics)" in str(lookup(COLOUR, DEPTH))
        send("base", COLOUR, 1.0)
        send("base", DEPTH, 1.1)
        peer.until(lambda: lies_at(0.1), "the transform")
        send("base", DEPTH, 1.3)
        peer.until(lambda: lies_at(0.3), "the other transform")


@needs_rclpy
def test_the_log_does_not_complain_of_what_is_just_coming(identity_weights: Path) -> None:
    """camera_info and TF come later than the first image; the diagnostics count it, the log waits some seconds."""
    arguments = parameters(
        weights=str(identity_weights), device="cpu", threads=1, warm_up_width=0, extrinsics="0.1 0 0 0 0 0 1"
    )
    rgb, depth = image("rgb8", np.zeros((HEIGHT, WIDTH, 3), np.uint8)), image("16UC1", wall())
    depth.header.frame_id = DEPTH
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        bench = Bench(peer, process)
        bench.send(rgb, depth)
        while not bench.next_status().count("dropped: calibration"):
            if not bench.next_status().count("pairs"):  # best effort lost it: none has been refused
                bench.send(rgb, depth)
        assert "pair refused" not in process.log

        def complained() -> bool:
            bench.send(rgb, depth)
            peer.spin(lambda: False, 0.2)
            return "pair refused: colour is in frame" in process.log

        bench.repeat(complained, "a complaint")


@needs_rclpy
def test_the_node_registers_or_says_why_not(identity_weights: Path) -> None:
    """Over DDS: no picture but a diagnostic while a camera_info is missing, a picture in the right place then."""
    from sensor_msgs.msg import CameraInfo

    arguments = parameters(
        weights=str(identity_weights), device="cpu", threads=1, warm_up_width=0, extrinsics="0.1 0 0 0 0 0 1",
        fill_distance=0.0,
    )  # fmt: skip
    rgb, depth = image("rgb8", np.zeros((HEIGHT, WIDTH, 3), np.uint8)), image("16UC1", wall())
    depth.header.frame_id = DEPTH
    k = infos()["rgb"].k
    domain = next_domain()
    with running("dkn_ros.ros.node", arguments, domain) as process, peer_in(domain) as peer:
        bench = Bench(peer, process)
        calibration = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
        calibration.k = [float(v) for v in k]
        depth_info = peer.publisher(CameraInfo, "in/depth/camera_info")
        bench.until(lambda: depth_info.get_subscription_count(), "the node to subscribe to the depth's info")

        def refused() -> Any:
            bench.send(rgb, depth)
            status = bench.next_status()
            return status if status.count("dropped: calibration") else None

        status = bench.repeat(refused, "a refusal")
        assert "cannot be registered: camera_info of" in status.message
        assert "; remap in/" in status.message and "registration to off" not in status.message
        assert "depth: pairs are refused" in status.values["camera_info"]
        other = peer.publisher(CameraInfo, "/camera/depth/camera_info")
        peer.node.destroy_publisher(depth_info)
        meant = (
            "/in/depth/camera_info: no publisher; did you mean /camera/depth/camera_info (publisher /peer, reliable)?"
        )

        def suggested() -> Any:
            bench.send(rgb, depth)
            status = bench.next_status()
            return any(value.startswith(meant) for value in status.values.values())

        bench.repeat(suggested, "the camera_info that may be meant")
        process.wait_for_log(f"{meant} then remap in/depth/camera_info (launch argument depth_info_topic)")
        peer.node.destroy_publisher(other)
        depth_info = peer.publisher(CameraInfo, "in/depth/camera_info")
        bench.until(lambda: depth_info.get_subscription_count(), "the node to subscribe to the depth's info again")
        assert not bench.outputs

        def first() -> Any:
            depth_info.publish(calibration)
            return bench._answer(rgb, depth, 0, calibration)

        found = pixels_of(bench.repeat(first, "a picture"))
        assert np.isnan(found[:, :7]).all()
        np.testing.assert_allclose(found[:, 9:], 2.0, atol=1e-3)
        bench.status_when(lambda s: "is registered to colour" in s.values["registration"], "the diagnostics to say so")
