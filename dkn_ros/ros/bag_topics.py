"""Which topics of a bag are the camera's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dkn_ros.config import BagConfig
from dkn_ros.ros.bag_input import BagError, BagInput
from dkn_ros.ros.messages import DEPTH_TYPES
from dkn_ros.ros.presets import PRESETS, node_parameters

IMAGE, CAMERA_INFO, COMPRESSED = (f"sensor_msgs/msg/{name}" for name in ("Image", "CameraInfo", "CompressedImage"))
COLOUR = ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4")
"""Encodings that only colour images have; grey ones are as often those of an infrared camera."""
GREY = ("mono8", "8UC1")
DEPTH = tuple(encoding for encoding in DEPTH_TYPES if encoding != "mono16")
"""Encodings that only depth has; mono16 is an infrared camera's, too."""


@dataclass(frozen=True)
class Topics:
    """The topics that are read; camera_info, of the colour image, and depth_info are None where there are none."""

    rgb: str
    depth: str
    camera_info: str | None
    depth_info: str | None = None


def as_preset(config: BagConfig) -> BagConfig:
    """`config` with what the preset's parameter file says of registration, where the settings are the defaults."""
    if config.preset not in PRESETS:
        return config
    said = node_parameters(PRESETS[config.preset])
    names = [name for name in ("registration", "extrinsics") if getattr(config, name) == getattr(BagConfig, name)]
    return dataclasses.replace(config, **{name: said[name] for name in names if name in said})


def choose(bag: BagInput, store: Any, config: BagConfig) -> Topics:
    """The topics that are named, by the preset or one by one; without a name the only ones that fit.

    store: rosbags' types, by which images are read.
    Raises BagError, with a list of what there is, where a name is not in the bag or several topics fit.
    """
    preset = PRESETS.get(config.preset)
    if config.preset and preset is None:
        raise BagError(f"preset is {config.preset!r}; wanted: one of {', '.join(PRESETS)}")
    rgb = config.rgb or (preset.rgb_topic if preset else "")
    depth = config.depth or (preset.depth_topic if preset else "")
    kinds = _kinds(bag, IMAGE)
    for topic in (rgb, depth):
        if topic and topic not in kinds:
            raise BagError(f"no images on {topic} in the bag; it has {_listed(bag, store)}")
    if not (rgb and depth):
        encodings = {topic: _encoding(bag, store, topic) for topic in kinds}
        rgb = rgb or _only(encodings, depth, (COLOUR, GREY), "colour", "--rgb", bag, store)
        depth = depth or _only(encodings, rgb, (DEPTH, ("mono16",)), "depth", "--depth", bag, store)
    given = preset if preset and not config.rgb else None
    if rgb == depth:
        raise BagError(f"{rgb} is to be both colour and depth; wanted: another topic for one, by --rgb or --depth")
    camera_info = _info(bag, "--camera-info", config.camera_info, given.rgb_info_topic if given else "", rgb)
    given = preset if preset and not config.depth else None
    depth_info = _info(bag, "--depth-info", config.depth_info, given.depth_info_topic if given else "", depth)
    return Topics(rgb, depth, camera_info, depth_info)


def outputs(bag: BagInput, config: BagConfig) -> tuple[str, str]:
    """The topics to write, of the images and of their camera_info; raises BagError where one of them is taken."""
    image = "/" + config.output.removeprefix("/")  # as it is played
    info = image.rpartition("/")[0] + "/camera_info"
    wanted = "another one, such as --output /dkn/upsampled"
    if image == info:
        raise BagError(f"output is {config.output}, the topic that its own camera_info goes to; wanted: {wanted}")
    recorded = {c.topic for c in bag.connections}
    for taken in (image, info):
        if taken in recorded:
            raise BagError(f"the bag has a topic {taken} of its own; wanted: {wanted}")
    return image, info


def _info(bag: BagInput, flag: str, named: str, preset: str, image: str) -> str | None:
    """The camera_info of an image: the one that is named, that of the preset, or the one beside the image."""
    there = _kinds(bag, CAMERA_INFO)
    if named and named not in there:
        raise BagError(f"{flag} is {named}; the bag has camera_info on {', '.join(there) or 'no topic'}")
    beside = image.rpartition("/")[0] + "/camera_info"
    return next((topic for topic in (named, preset, beside) if topic in there), None)


def _only(
    encodings: dict[str, str],
    taken: str,
    preferred: tuple[tuple[str, ...], ...],
    name: str,
    flag: str,
    bag: BagInput,
    store: Any,
) -> str:
    """The one topic of the first of these groups of encodings that the bag has."""
    for wanted in preferred:
        found = [topic for topic, encoding in encodings.items() if encoding in wanted and topic != taken]
        if len(found) == 1:
            return found[0]
        if found:
            break
    number = "several topics" if found else "no topic"
    raise BagError(
        f"{number} of the bag can be the {name} image; name it with {flag}; the bag has {_listed(bag, store)}"
    )


def _kinds(bag: BagInput, kind: str) -> list[str]:
    """The topics of a type that have messages."""
    return sorted({c.topic for c in bag.connections if c.msgtype == kind and c.msgcount})


def _encoding(bag: BagInput, store: Any, topic: str) -> str:
    """The encoding of a topic's first image that can be read."""
    for connection, _, data in bag.messages({topic}):
        if connection.msgtype == IMAGE:
            try:
                return str(store.deserialize_cdr(data, IMAGE).encoding)
            except Exception:  # bytes from a damaged file
                continue
    return "unreadable"


def _listed(bag: BagInput, store: Any) -> str:
    """The bag's images, for a message."""
    found = [f"{topic} ({_encoding(bag, store, topic)})" for topic in _kinds(bag, IMAGE)]
    found += [f"{topic} (compressed: not read)" for topic in _kinds(bag, COMPRESSED)]
    return ", ".join(found) or "no images"
