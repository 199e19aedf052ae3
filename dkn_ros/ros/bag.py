"""`dkn bag`: a rosbag2 recording in, the same with upsampled depth out.

Every message is copied as it is, byte for byte; behind the later image of every pair comes the upsampled depth, with
the header of the colour image and the bag timestamp of that later image, and its camera_info.  Pairing and pipeline are
the node's, but the rhythm is known from the first pair on and nothing is dropped for want of time.  Needs rosbags, and
no ROS.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from tqdm import tqdm

from dkn_ros.config import BagConfig, PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.ros.bag_input import BagError, BagInput, DamagedError
from dkn_ros.ros.bag_pairing import synchroniser_of
from dkn_ros.ros.bag_target import check_target, ended_in_order, finished_or_nothing
from dkn_ros.ros.bag_topics import CAMERA_INFO, IMAGE, Topics, as_preset, choose, outputs
from dkn_ros.ros.bag_transforms import lookup_in
from dkn_ros.ros.messages import ImageError, frame_of, read_depth, read_rgb, scaled_camera_info, stamp_ns, write_depth
from dkn_ros.ros.registering import misshapen, registering_of
from dkn_ros.ros.sync import DEPTH, NS_PER_SECOND, RGB, Pair

METADATA_VERSION: Final = 8
"""Of metadata.yaml: the latest that every distribution from Humble on can read."""
CAMERAS = ("colour", "depth")
UNKNOWN_HASH = "RIHS01_" + 64 * "0"
"""Of a message type that neither the bag nor rosbags knows."""


@dataclass
class BagReport:
    """What became of a bag."""

    target: Path
    topics: Topics
    output: str
    messages: int = 0
    """Copied, of all topics."""
    frames: list[int] = field(default_factory=lambda: [0, 0])
    """Colour and depth images that could be read."""
    pairs: int = 0
    written: int = 0
    described: int = 0
    """Written with a camera_info."""
    refused: Counter[str] = field(default_factory=Counter)
    """Reason -> images and pairs that could not be upsampled; keys as those of ImageError, "value", "unreadable"."""
    first_refusal: str = ""
    losses: list[str] = field(default_factory=list)
    """Sentences about what of the bag could not be read."""
    misregistered: str = ""
    """See `Pipeline.misregistered`, in the last frame."""
    misshapen: str = ""
    """Of the last camera_info that was stretched to its image, see `registering.misshapen`."""

    @property
    def complete(self) -> bool:
        """Whether all of the bag was read and every pair upsampled."""
        return not self.losses and not self.refused

    def refuse(self, reason: str, why: str) -> None:
        """Count something that cannot be upsampled."""
        self.refused[reason] += 1
        self.first_refusal = self.first_refusal or why

    def __str__(self) -> str:
        alone = [frames - self.pairs for frames in self.frames]
        dropped = [f"{count} {camera} without partner" for count, camera in zip(alone, CAMERAS, strict=True) if count]
        dropped += [f"{count} for {reason}" for reason, count in sorted(self.refused.items())]
        info = "" if self.described == self.written else f", {self.written - self.described} without camera_info"
        return (
            f"{self.target}: {self.messages} messages copied, {self.frames[RGB]} colour and {self.frames[DEPTH]} depth "
            f"frames, {self.pairs} pairs, {self.written} written to {self.output}{info}; "
            f"dropped: {', '.join(dropped) or 'none'}"
        )


def convert(
    source: Path, target: Path, config: BagConfig, pipeline_config: PipelineConfig, overwrite: bool = False
) -> BagReport:
    """Write the bag `target` (a folder): the bag `source` with upsampled depth.

    `target` appears when it is done: until then, and if anything is raised, there is nothing of that name (or with
    `overwrite` the old one).  Raises BagError where there is nothing to be read or upsampled, or `target` is in the
    way, ValueError for a device and WeightsError for weights that cannot be used, OSError.
    """
    check_target(source, target, overwrite)
    config = as_preset(config)
    with ended_in_order():
        try:
            return _convert(source, target, config, pipeline_config, salvage=False)
        except DamagedError:
            return _convert(source, target, config, pipeline_config, salvage=True)


def _convert(
    source: Path, target: Path, config: BagConfig, pipeline_config: PipelineConfig, salvage: bool
) -> BagReport:
    with BagInput(source, salvage) as bag:
        store = _typestore(bag.distribution)
        topics = choose(bag, store, config)
        written = outputs(bag, config)
        plugin = StoragePlugin[(bag.storage if config.storage == "same" else config.storage).upper()]
        pipeline = Pipeline(pipeline_config)
        with finished_or_nothing(target) as folder:
            with _written(target), Writer(folder, version=METADATA_VERSION, storage_plugin=plugin) as writer:
                work = _Conversion(bag, store, topics, config, pipeline, writer, written)
                for key, value in bag.custom_data.items():
                    writer.set_custom_data(key, value)
                work.run(BagReport(target, topics, written[0], losses=bag.losses))
            if not work.report.written:
                raise BagError(_nothing(work.report))
    return work.report


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Make an OSError of what a writer raises, as where the disk is full."""
    try:
        yield
    except (sqlite3.Error, WriterError) as error:
        raise OSError(f"{target} cannot be written: {error}") from error


class _Conversion:
    """One pass over a bag."""

    def __init__(
        self,
        bag: BagInput,
        store: Any,
        topics: Topics,
        config: BagConfig,
        pipeline: Pipeline,
        writer: Writer,
        written: tuple[str, str],
    ) -> None:
        self._bag, self._store, self._topics, self._config = bag, store, topics, config
        self._pipeline, self._writer = pipeline, writer
        self._output, self._info_topic = written
        self._connections: dict[tuple[str, str], Connection] = {}
        self._pairs: list[Pair] = []
        self._start, self._stop = self._window()
        self._synchroniser = synchroniser_of(bag, store, topics, config, self._start, self._pairs)
        self._registering = registering_of(config, lookup_in(bag, store))
        self._info_topics = {topics.camera_info: "rgb", topics.depth_info: "depth"}
        self._infos = self._first_infos()

    def run(self, report: BagReport) -> None:
        """Read, copy, pair, upsample."""
        self.report = report
        start, stop = self._start, self._stop
        inputs = {self._topics.rgb: RGB, self._topics.depth: DEPTH}
        total = sum(c.msgcount for c in self._bag.connections if c.topic == self._topics.rgb)
        with tqdm(total=total if stop is None else None, unit="frame", desc=self._output) as bar:
            for connection, timestamp, data in self._bag.messages(None, start, stop):
                self._writer.write(self._original(connection), timestamp, data)
                report.messages += 1
                if connection.topic in self._info_topics and connection.msgtype == CAMERA_INFO:
                    info = self._read(connection, data)
                    self._infos |= {self._info_topics[connection.topic]: info} if info is not None else {}
                if connection.topic not in inputs or connection.msgtype != IMAGE:
                    continue
                message = self._read(connection, data)
                if message is not None:
                    report.frames[inputs[connection.topic]] += 1
                    stamp = stamp_ns(message.header.stamp)
                    self._synchroniser.add(inputs[connection.topic], stamp, (message, timestamp), timestamp)
                while self._pairs:
                    self._upsample(self._pairs.pop(0))
                bar.update(connection.topic == self._topics.rgb)
        # Of a part of the bag nothing tells how many messages it should hold, but the files tell how many they hold.
        counted = sum(c.msgcount for c in self._bag.connections)
        expected = max(self._bag.expected or 0, counted)
        found = report.messages if start is stop is None else counted
        if found < expected:
            report.losses.append(f"{expected - found} of {expected} messages are lost")

    def _window(self) -> tuple[int | None, int | None]:
        """From which timestamp to before which, nanoseconds; None: no limit."""
        start = self._bag.start_time + round(self._config.start * NS_PER_SECOND)
        stop = start + round(self._config.duration * NS_PER_SECOND) if self._config.duration else None
        return start if self._config.start else None, stop

    def _first_infos(self) -> dict[str, Any]:
        """For the images that come before them: a camera_info may be recorded a moment after its image, or once."""
        found: dict[str, Any] = {}
        for topic, camera in self._info_topics.items():
            for connection, _, data in self._bag.messages({topic or ""}):
                if connection.msgtype != CAMERA_INFO:
                    continue
                with suppress(Exception):  # bytes from a damaged file; `_read` will count it
                    found[camera] = self._decoded(connection, data)
                    break
        return found

    def _upsample(self, pair: Pair) -> None:
        self.report.pairs += 1
        (rgb_message, rgb_time), (depth_message, depth_time) = pair.rgb, pair.depth
        try:
            rgb = read_rgb(rgb_message)
            images = dataclasses.replace(pair, rgb=rgb_message, depth=depth_message)
            measured = read_depth(depth_message)
            registration = self._registering.registration(measured.shape, rgb.shape[:2], images, self._infos)
            depth = self._pipeline.enhance(rgb, measured, registration=registration).depth
            self.report.misregistered = self._pipeline.misregistered
        except ImageError as error:
            self.report.refuse(error.reason, str(error))
            return
        except ValueError as error:
            self.report.refuse("value", str(error))
            return
        types, header, timestamp = self._store.types, rgb_message.header, max(rgb_time, depth_time)
        stamp, frame = header.stamp, frame_of(header, self._infos.get("rgb"))
        if stamp_ns(stamp) == 0:  # a driver without a clock: as the node does, when the image came
            stamp = types["builtin_interfaces/msg/Time"](*divmod(pair.rgb_stamp_ns, NS_PER_SECOND))
        header = types["std_msgs/msg/Header"](stamp, frame)
        image = types[IMAGE](header, 0, 0, "", 0, 0, np.empty(0, np.uint8))
        write_depth(image, depth, self._config.encoding)
        image.data = np.frombuffer(image.data, np.uint8)
        self._write(self._output, IMAGE, timestamp, image)
        self.report.written += 1
        try:
            if "rgb" in self._infos:
                info = scaled_camera_info(self._infos["rgb"], image.width, image.height)
                self.report.misshapen = misshapen(self._infos["rgb"], image.width, image.height)
                info.header = header
                self._write(self._info_topic, CAMERA_INFO, timestamp, info)
                self.report.described += 1
        except ImageError:
            pass  # one of no use, such as that of a camera that was never calibrated: counted by what is not described

    def _read(self, connection: Connection, data: bytes) -> Any | None:
        """The message; None for one that cannot be read, which is counted."""
        try:
            return self._decoded(connection, data)
        except Exception as error:  # bytes from a damaged file
            self.report.refuse("unreadable", f"a message of {connection.topic} cannot be read: {error}")
            return None

    def _decoded(self, connection: Connection, data: bytes) -> Any:
        return self._store.deserialize_cdr(data, connection.msgtype)

    def _write(self, topic: str, kind: str, timestamp: int, message: Any) -> None:
        key = topic, kind
        if key not in self._connections:
            self._connections[key] = self._writer.add_connection(topic, kind, typestore=self._store)
        self._writer.write(self._connections[key], timestamp, self._store.serialize_cdr(message, kind))

    def _original(self, connection: Connection) -> Connection:
        """The connection of the new bag for one of the old, which is as much the same as can be."""
        key = connection.topic, connection.msgtype
        if key not in self._connections:
            definition, digest = _definition(connection, self._store)
            more: Any = connection.ext
            self._connections[key] = self._writer.add_connection(
                *key,
                msgdef=definition,
                rihs01=digest,
                serialization_format=more.serialization_format,
                offered_qos_profiles=more.offered_qos_profiles,
            )
        return self._connections[key]


def _definition(connection: Connection, store: Any) -> tuple[str, str]:
    """Text and hash of a message type: those of the bag, else those of the distribution; of a type unknown, empty."""
    text, kind, digest = connection.msgdef.data, connection.msgtype, connection.digest
    try:
        if connection.msgdef.format == MessageDefinitionFormat.NONE:
            return store.generate_msgdef(kind, ros_version=2)[0], digest or store.hash_rihs01(kind)
        if not digest:
            own = get_typestore(Stores.EMPTY)
            if connection.msgdef.format == MessageDefinitionFormat.MSG:
                own.register(get_types_from_msg(text, kind))
            else:  # several files, each behind a line with its name
                for file in text.split(f"{80 * '='}\nIDL: ")[1:]:
                    own.register(get_types_from_idl(file.split("\n", 1)[1]))
            digest = own.hash_rihs01(kind)
    except Exception:  # of rosbags' parser, for what it does not know; nothing here depends on it
        pass
    return text, digest or UNKNOWN_HASH


def _typestore(distribution: str) -> Any:
    """The message types of a distribution, of the latest one for names that rosbags does not know."""
    known = {store.value: store for store in Stores}
    return get_typestore(known.get(f"ros2_{distribution}", Stores.LATEST))


def _nothing(report: BagReport) -> str:
    """Why no pair was upsampled."""
    if report.refused:
        return f"nothing could be upsampled: {report.first_refusal}"
    rgb, depth = report.frames
    about = f"{rgb} images on {report.topics.rgb} and {depth} on {report.topics.depth}"
    wanted = "stamps that are closer than the slop (--slop), of images that wait long enough (--queue-size)"
    return f"no pair among {about}; wanted: {wanted}"
