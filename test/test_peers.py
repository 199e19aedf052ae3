"""Who else is on the node's topics: what fits, what is missing, what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from harness import PATIENCE, needs_rclpy, next_domain, peer_in

from dkn_ros.ros.assessment import Level
from dkn_ros.ros.peers import (
    CAMERA_INFO,
    GRACE_SECONDS,
    IMAGE,
    Endpoint,
    Peers,
    Qos,
    Topic,
    absent,
    described,
    endpoint,
    input_faults,
    lookalikes,
    mismatches,
    output_faults,
)

BEST_EFFORT, RELIABLE = Qos("best_effort"), Qos("reliable")
DRIVER = Endpoint("/camera/driver", IMAGE, BEST_EFFORT)
DEPTH = Topic("/camera/depth/image_raw", "in/depth/image", IMAGE, RELIABLE, "input_reliability")
OUTPUT = Topic("/depth/upsampled", "depth/upsampled", IMAGE, BEST_EFFORT, "output_reliability")
OWN = "/dkn_node"


def texts(*arguments: Any, fault: Any = input_faults) -> list[str]:
    return [finding.text for finding in fault(*arguments)]


def on_output(publishers: list[Endpoint], readers: list[Endpoint], topic: Topic = OUTPUT) -> list[str]:
    return texts(topic, OWN, publishers, readers, fault=output_faults)


# Quality of service.


@pytest.mark.parametrize(
    ("offered", "requested", "found"),
    [
        (RELIABLE, BEST_EFFORT, []),
        (BEST_EFFORT, RELIABLE, [("best_effort", "reliable")]),
        (Qos(durability="transient_local"), Qos(), []),
        (Qos(), Qos(durability="transient_local"), [("volatile", "transient_local")]),
        (Qos(deadline=0.1), Qos(deadline=0.2), []),
        (Qos(deadline=0.2), Qos(deadline=0.1), [("a deadline of 0.2 s", "a deadline of 0.1 s")]),
        (Qos(), Qos(deadline=0.1), [("no deadline", "a deadline of 0.1 s")]),
        (Qos(liveliness="manual_by_topic"), Qos(), []),
        (Qos(), Qos(liveliness="manual_by_topic"), [("automatic", "manual_by_topic")]),
        (Qos(lease=1.0), Qos(lease=1.0), []),
        (Qos(), Qos(lease=1.0), [("no liveliness lease", "a liveliness lease of 1 s")]),
        (Qos("unknown"), RELIABLE, []),
        (BEST_EFFORT, Qos("best_available"), []),
    ],
)
def test_an_offer_serves_no_stronger_request(offered: Qos, requested: Qos, found: list[tuple[str, str]]) -> None:
    assert mismatches(offered, requested) == found


def test_the_rule_is_that_of_rclpy() -> None:
    """For all profiles in which everything is set; where nothing is, rclpy errs."""
    qos = pytest.importorskip("rclpy.qos", reason="rclpy is not installed")
    from rclpy.duration import Duration

    profiles = [
        qos.QoSProfile(
            depth=1,
            reliability=reliability,
            durability=durability,
            liveliness=liveliness,
            deadline=Duration(seconds=seconds),
            liveliness_lease_duration=Duration(seconds=3 - seconds),
        )
        for reliability, durability, liveliness, seconds in product(
            (qos.QoSReliabilityPolicy.RELIABLE, qos.QoSReliabilityPolicy.BEST_EFFORT),
            (qos.QoSDurabilityPolicy.VOLATILE, qos.QoSDurabilityPolicy.TRANSIENT_LOCAL),
            (qos.QoSLivelinessPolicy.AUTOMATIC, qos.QoSLivelinessPolicy.MANUAL_BY_TOPIC),
            (1, 2),
        )
    ]
    outcomes = set()
    for offered, requested in product(profiles, profiles):
        theirs, _ = qos.qos_check_compatible(offered, requested)
        fits = not mismatches(Qos.of(offered), Qos.of(requested))
        assert fits == (theirs == qos.QoSCompatibility.OK), (offered, requested)
        outcomes.add(fits)
    assert outcomes == {True, False}


def profile(nanoseconds: int) -> Any:
    """A QoSProfile with these durations."""
    duration = SimpleNamespace(nanoseconds=nanoseconds)
    return SimpleNamespace(
        reliability=SimpleNamespace(name="RELIABLE"),
        durability=SimpleNamespace(name="VOLATILE"),
        liveliness=SimpleNamespace(name="AUTOMATIC"),
        deadline=duration,
        liveliness_lease_duration=duration,
    )


def test_durations_that_are_not_set_are_infinite() -> None:
    assert Qos.of(profile(0)) == Qos.of(profile(2**63 - 1)) == Qos() == Qos(deadline=inf)
    assert Qos.of(profile(5_000_000)) == Qos(deadline=0.005, lease=0.005)


# Inputs.


def test_a_publisher_that_fits_is_no_fault() -> None:
    assert texts(replace(DEPTH, qos=BEST_EFFORT), [DRIVER], {}) == []
    assert texts(DEPTH, [replace(DRIVER, qos=RELIABLE)], {}) == []


def test_a_publisher_that_offers_too_little_is_named_with_what_to_set() -> None:
    other = replace(DRIVER, node="/replay", qos=RELIABLE)
    assert texts(DEPTH, [DRIVER, other], {}) == [
        "/camera/depth/image_raw: publisher /camera/driver offers best_effort, this node asks for reliable; "
        "set input_reliability:=best_effort"
    ]


RGB = Topic("/in/rgb/image", "in/rgb/image", IMAGE, BEST_EFFORT)
DEEP = Topic("/in/depth/image", "in/depth/image", IMAGE, BEST_EFFORT)


def test_a_topic_without_publisher_names_those_that_may_be_meant() -> None:
    remap = "remap in/depth/image (launch argument depth_topic)"
    told = texts([DEEP], {}, False, fault=absent)
    assert told == [f"/in/depth/image: no publisher; start the camera's driver, or {remap}"]
    images = {"/camera/depth/image_raw": [DRIVER]}
    assert texts([DEEP, RGB], images, False, fault=absent) == [
        f"/in/depth/image: no publisher; did you mean /camera/depth/image_raw (publisher /camera/driver, best_effort)? "
        f"then {remap}",
        "/in/rgb/image: no publisher; start the camera's driver, or remap in/rgb/image (launch argument rgb_topic)",
    ]
    assert texts([], images, False, fault=absent) == []


def test_a_driver_that_may_just_be_starting_is_no_fault() -> None:
    """One line for both its topics; what may be a mistake in their names is told as such at once."""
    remedy = (
        "start the camera's driver, or remap in/rgb/image and in/depth/image "
        "(launch arguments rgb_topic and depth_topic)"
    )
    (early,), (late,) = (list(absent([RGB, DEEP], {}, is_early)) for is_early in (True, False))
    assert early.text == f"/in/rgb/image and /in/depth/image: no publisher yet; {remedy}"
    assert late.text == f"/in/rgb/image and /in/depth/image: no publisher; {remedy}"
    assert (early.level, late.level, early.key) == (Level.OK, Level.WARN, late.key)
    meant, other = absent([RGB, DEEP], {"/camera/depth/image_raw": [DRIVER]}, True)
    assert (meant.level, other.level) == (Level.WARN, Level.OK)


def test_a_driver_counts_as_starting_for_some_seconds_and_only_once() -> None:
    now = 100.0
    publishers: list[Any] = []
    node = SimpleNamespace(
        get_fully_qualified_name=lambda: OWN,
        get_topic_names_and_types=list,
        get_publishers_info_by_topic=lambda topic: publishers,
    )
    peers = Peers(node, [RGB, DEEP], [], lambda: now)
    assert peers.look().unheard == []

    def level() -> Level:
        (finding,) = peers.look().unheard
        return finding.level

    now += 1.0
    assert level() == Level.OK
    now += GRACE_SECONDS
    assert level() == Level.WARN

    now, peers = 100.0, Peers(node, [RGB, DEEP], [], lambda: now)
    publishers.append(SimpleNamespace(node_name="driver", node_namespace="/", topic_type=IMAGE, qos_profile=profile(0)))
    assert peers.look().unheard == []
    publishers.clear()
    assert peers.look().unheard == []
    assert level() == Level.WARN, "it was there already"


def test_a_camera_info_may_be_missing_but_must_fit() -> None:
    topic = Topic("/i", "in/rgb/camera_info", CAMERA_INFO, RELIABLE, "input_reliability", needed=False)
    assert texts(topic, [], {}) == []
    assert "offers best_effort" in texts(topic, [replace(DRIVER, kind=CAMERA_INFO)], {})[0]
    assert texts(topic, [DRIVER], {})[0].endswith("(launch argument rgb_info_topic) to the camera_info")


def test_a_camera_info_is_missing_where_it_is_wanted() -> None:
    """As for registration; what is told then is beside the images, which are heard."""
    theirs = "/camera/depth/camera_info"

    def publishers(topic: str) -> list[Any]:
        info = SimpleNamespace(node_name="driver", node_namespace="/camera", qos_profile=profile(0))
        kinds = {RGB.name: IMAGE, DEEP.name: IMAGE, theirs: CAMERA_INFO}
        return [SimpleNamespace(**vars(info), topic_type=kinds[topic])] if topic in kinds else []

    node = SimpleNamespace(
        get_fully_qualified_name=lambda: OWN,
        get_topic_names_and_types=lambda: [(theirs, [CAMERA_INFO]), ("/camera/depth/image", [IMAGE])],
        get_publishers_info_by_topic=publishers,
    )
    given = [f"in/{camera}/camera_info" for camera in ("rgb", "depth")]
    infos = [Topic(f"/{name}", name, CAMERA_INFO, BEST_EFFORT, needed=False) for name in given]
    peers = Peers(node, [RGB, DEEP, *infos], [])
    for _ in range(2):
        view = peers.look()
        assert (view.unheard, view.beside) == ([], [])
    for _ in range(2):
        view = peers.look(given)
    assert view.unheard == []
    assert [(fault.level, fault.text) for fault in view.beside] == [
        (
            Level.WARN,
            f"/in/depth/camera_info: no publisher; did you mean {theirs} (publisher /camera/driver, reliable)? "
            "then remap in/depth/camera_info (launch argument depth_info_topic)",
        ),
        (
            Level.WARN,
            "/in/rgb/camera_info: no publisher; start the camera's driver, "
            "or remap in/rgb/camera_info (launch argument rgb_info_topic)",
        ),
    ]


COMPRESSED = "sensor_msgs/msg/CompressedImage"


@pytest.mark.parametrize(
    ("images", "take"),
    [
        ({"/camera/color/image_raw": [DRIVER]}, "/camera/color/image_raw (publisher /camera/driver, best_effort)"),
        ({"/other/image_raw": [DRIVER]}, "the raw image"),
    ],
)
def test_compressed_images_are_told_from_raw_ones(images: dict[str, list[Endpoint]], take: str) -> None:
    topic = Topic("/camera/color/image_raw/compressed", "in/rgb/image", IMAGE, BEST_EFFORT)
    assert texts(topic, [replace(DRIVER, kind=COMPRESSED)], images) == [
        f"/camera/color/image_raw/compressed: publisher /camera/driver sends {COMPRESSED}, this node reads {IMAGE}; "
        f"remap in/rgb/image (launch argument rgb_topic) to {take}"
    ]
    assert texts(topic, [replace(DRIVER, kind=COMPRESSED), DRIVER], images) == []  # both kinds are there


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("/in/rgb/image", ["/camera/color/image_raw", "/camera/ir/image_raw"]),
        ("/in/depth/image", ["/camera/depth/image_rect_raw"]),
        ("/kinect/image_raw", ["/camera/color/image_raw", "/camera/ir/image_raw"]),
        ("/front/depth/image_rect_raw", ["/camera/depth/image_rect_raw"]),
        ("/nothing/alike", []),
    ],
)
def test_lookalikes_share_words_and_are_of_the_same_kind(topic: str, expected: list[str]) -> None:
    others = ["/map", "/camera/ir/image_raw", "/camera/color/image_raw", "/camera/depth/image_rect_raw"]
    assert lookalikes(topic, others) == expected


def test_publishers_in_words() -> None:
    assert described([]) == "no publisher"
    assert described([DRIVER]) == "publisher /camera/driver, best_effort"
    both = described([DRIVER, replace(DRIVER, node="/replay", qos=RELIABLE)])
    assert both == "publishers /camera/driver, best_effort and /replay, reliable"


# Outputs.


def test_another_publisher_of_an_output_is_named_with_the_parameter_to_change() -> None:
    own = Endpoint(OWN, CAMERA_INFO, RELIABLE)
    info = Topic("/depth/camera_info", "depth/camera_info", CAMERA_INFO, RELIABLE, renamed_by="camera_info_topic")
    azure = replace(own, node="/k4a_ros_driver")
    assert on_output([own], [], info) == []
    assert on_output([own, azure], [], info) == [
        "/depth/camera_info: /k4a_ros_driver publishes it as well; set camera_info_topic to another name"
    ]
    assert on_output([own, own, azure, azure], []) == [
        "/depth/upsampled: /k4a_ros_driver publishes it as well; remap depth/upsampled to another name",
        "/depth/upsampled: another /dkn_node publishes it as well; remap depth/upsampled to another name",
    ]


def test_a_reader_that_asks_for_too_much_is_named() -> None:
    viewer = Endpoint("/viewer", IMAGE, RELIABLE)
    assert on_output([], [viewer], replace(OUTPUT, qos=RELIABLE)) == []
    assert on_output([], [viewer, replace(viewer, qos=Qos("best_effort", "transient_local"))]) == [
        "/depth/upsampled: subscription of /viewer asks for reliable, this node offers best_effort; "
        "set output_reliability:=reliable",
        "/depth/upsampled: subscription of /viewer asks for transient_local, this node offers volatile; "
        "ask for volatile there",
    ]
    assert on_output([], [replace(viewer, kind=COMPRESSED)]) == [
        f"/depth/upsampled: subscription of /viewer reads {COMPRESSED}, this node sends {IMAGE}"
    ]


# The graph.


def test_a_node_that_is_not_known_yet_has_no_name() -> None:
    policies = {"reliability": "BEST_EFFORT", "durability": "VOLATILE", "liveliness": "AUTOMATIC"}
    duration = SimpleNamespace(nanoseconds=0)
    profile = SimpleNamespace(deadline=duration, liveliness_lease_duration=duration)
    vars(profile).update({policy: SimpleNamespace(name=value) for policy, value in policies.items()})
    info = SimpleNamespace(
        node_name="_NODE_NAME_UNKNOWN_",
        node_namespace="_NODE_NAMESPACE_UNKNOWN_",
        topic_type=IMAGE,
        qos_profile=profile,
    )
    assert endpoint(info) == Endpoint("an unknown node", IMAGE, BEST_EFFORT)


@pytest.fixture
def graph() -> Iterator[tuple[Any, Any]]:
    """A node that looks, and another one in a context of its own."""
    import rclpy

    domain = next_domain()
    with peer_in(domain) as peer, peer_in(domain) as other:
        yield peer.node, rclpy.create_node("driver", namespace="/camera", context=other.context)


def discovered(node: Any, topic: str, publishers: int) -> None:
    end = time.monotonic() + PATIENCE
    while len(names := [p.node_name for p in node.get_publishers_info_by_topic(topic)]) != publishers or any(
        "UNKNOWN" in name for name in names
    ):
        assert time.monotonic() < end, f"{topic} has not {publishers} publishers: {names}"
        time.sleep(0.02)  # between two looks at the graph


@needs_rclpy
def test_what_only_one_look_has_seen_is_not_told(graph: tuple[Any, Any]) -> None:
    from sensor_msgs.msg import Image

    from dkn_ros.ros.qos import qos

    node, driver = graph
    peers = Peers(node, [DEPTH], [OUTPUT])
    first = peers.look()
    assert (first.unheard, first.beside, first.publishers) == ([], [], {DEPTH.name: "no publisher"})
    assert [fault.key for fault in peers.look().unheard] == [f"{DEPTH.name}: no publisher"]

    node.create_publisher(Image, OUTPUT.name, 1)
    driver.create_publisher(Image, DEPTH.name, qos("best_effort", 1))
    driver.create_publisher(Image, OUTPUT.name, 1)
    discovered(node, DEPTH.name, 1)
    discovered(node, OUTPUT.name, 2)
    new = peers.look()
    assert new.unheard == new.beside == []
    assert new.publishers == {DEPTH.name: "publisher /camera/driver, best_effort"}
    seen = peers.look()
    assert [fault.key for fault in seen.unheard] == [f"{DEPTH.name}: QoS of /camera/driver, reliable"]
    assert [fault.key for fault in seen.beside] == [f"{OUTPUT.name}: clash with /camera/driver"]


@needs_rclpy
def test_only_images_of_others_are_taken_for_what_was_meant(graph: tuple[Any, Any]) -> None:
    from sensor_msgs.msg import CompressedImage, Image

    node, driver = graph
    node.create_publisher(Image, "/my/depth/image_raw", 1)
    driver.create_publisher(Image, "/their/depth/image_raw", 1)
    driver.create_publisher(CompressedImage, "/other/depth/image_raw", 1)
    discovered(node, "/their/depth/image_raw", 1)
    discovered(node, "/other/depth/image_raw", 1)
    peers = Peers(node, [DEPTH], [])
    peers.look()
    (fault,) = peers.look().unheard
    assert "did you mean /their/depth/image_raw (publisher /camera/driver, reliable)?" in fault.text
