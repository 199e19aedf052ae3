"""A rosbag2 recording that is read: whole files by rosbags, damaged ones as far as they go.

Its files are opened one by one and not as a folder: rosbags' reader of folders leaves out topics that metadata.yaml
and the files describe in two ways, as after an edit of their QoS, and reads nothing of a folder that misses a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rosbags.interfaces import Connection, ConnectionExtRosbag2, Qos
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import parse_qos

from dkn_ros.ros.bag_compression import SUFFIX, bare, unpack_file, unpacked_message
from dkn_ros.ros.bag_salvage import SalvagedFile, SalvagedMcap, SalvagedSqlite

SALVAGERS: dict[str, type[SalvagedFile]] = {".mcap": SalvagedMcap, ".db3": SalvagedSqlite}
STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}

Item = tuple[Connection, int, bytes]
"""Connection, timestamp in nanoseconds, serialised message."""


class BagError(ValueError):
    """A bag that cannot be read or written, in one line."""


class DamagedError(BagError):
    """A bag that turned out to be damaged while it was read; opened with `salvage=True` it gives what it can."""


class BagInput:
    """The messages of a recording: its folder, or one of its .mcap or .db3 files, compressed or not.  A context
    manager.

    Files that rosbags cannot open are read record by record, with `salvage` all of them.
    """

    def __init__(self, path: Path, salvage: bool = False) -> None:
        """Raises BagError where there is no bag or nothing in it can be read, and OSError."""
        if not path.exists():
            raise BagError(f"no bag {path}; wanted: the folder of a rosbag2 recording, or its .mcap or .db3 file")
        if path.is_file() and _suffix(path) not in STORAGES:
            raise BagError(
                f"{path} is no rosbag2 recording; wanted: a folder, .mcap or .db3 (rosbags-convert makes one)"
            )
        self.path, self.salvage = path, salvage
        self.losses: list[str] = []
        """Sentences about what cannot be read."""
        self._metadata = _metadata(path / "metadata.yaml")
        written = _metadata(path / "metadata.yaml", yaml.BaseLoader).get("custom_data")
        self.custom_data = {k: v for k, v in (written if isinstance(written, dict) else {}).items() if type(v) is str}
        """What the recorder was told to note, as it is written: 1.10 is no number."""
        self._open = ExitStack()
        self._parts: list[Any] = []
        try:
            self._parts = self._opened()
            self.connections = self._merged()
        except BaseException:
            self.close()
            raise
        for part in self._parts:
            self.losses += part.losses if isinstance(part, SalvagedFile) else []
        folder = path if path.is_dir() else path.parent
        for journal in sorted(folder.glob(f"{path.name if path.is_file() else '*.db3'}-wal")):
            if journal.stat().st_size:
                self.losses.append(f"{journal.name} is not read; opening the .db3 once with sqlite3 would bring it in")
        if not self.connections:
            raise BagError(f"nothing in {path} can be read" + "".join(f"; {loss}" for loss in self.losses[:1]))

    def __enter__(self) -> BagInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    @property
    def storage(self) -> str:
        """The format of the files: mcap or sqlite3."""
        names = [self.path.name] if self.path.is_file() else [entry.name for entry in self.path.iterdir()]
        return "mcap" if any(".mcap" in name for name in names) else "sqlite3"

    @property
    def start_time(self) -> int:
        """The earliest timestamp, nanoseconds."""
        return min(int(part.start_time) for part in self._parts)

    @property
    def distribution(self) -> str:
        """The ROS distribution that recorded it; before Jazzy they did not say."""
        return str(self._metadata.get("ros_distro") or "humble")

    @property
    def expected(self) -> int | None:
        """How many messages it should hold; None where nothing tells."""
        count = self._metadata.get("message_count")
        return count if isinstance(count, int) else None

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[Item]:
        """The messages of these topics (None: all), file by file, with one of `connections` each.

        start, stop: nanoseconds; only messages from `start` to before `stop`.
        Raises DamagedError where rosbags gives up.
        """
        known = {(c.topic, c.msgtype): c for c in self.connections}
        for part in self._parts:
            chosen = [c for c in part.connections if topics is None or c.topic in topics]
            if not chosen:
                continue
            with _alone(part) as own:
                for connection, timestamp, data in _guarded(own.messages(chosen, start, stop)):
                    yield known[connection.topic, connection.msgtype], timestamp, data

    def _opened(self) -> list[Any]:
        files = self._files()
        if any(file.suffix == SUFFIX for file in files):
            folder = Path(self._open.enter_context(TemporaryDirectory(prefix="dkn_bag_")))
            try:
                files = [unpack_file(f, folder, self.losses.append) if f.suffix == SUFFIX else f for f in files]
            except OSError as error:
                where = f"{folder} was to take the decompressed files; TMPDIR names another place"
                raise OSError(error.errno, f"{error.strerror}: {where}") from error
        return [self._part(file) for file in files]

    def _part(self, file: Path) -> Any:
        if not self.salvage:
            with suppress(Exception):  # for a damaged file rosbags and what it uses raise anything
                return self._reader(file)
        return SALVAGERS[file.suffix](file)

    def _reader(self, path: Path) -> Reader:
        reader = Reader(path)
        reader.open()
        self._open.callback(reader.close)
        return reader

    def _files(self) -> list[Path]:
        """The storage files in their order, that of their numbers where the metadata does not tell."""
        if self.path.is_file():
            return [self.path]
        # A recorder that was killed while it compressed a file leaves both; the plain one is whole.
        there = {bare(f.name): f for f in sorted(self.path.iterdir(), reverse=True) if _suffix(f) in STORAGES}
        if not there:
            raise BagError(f"{self.path} holds no .mcap or .db3 file; wanted: the folder of a rosbag2 recording")
        named = self._metadata.get("relative_file_paths")
        names = [Path(str(name)).name for name in named] if isinstance(named, list) else []
        for name in (name for name in names if bare(name) not in there):
            strange = (self.path / name).exists()
            self.losses.append(f"{name} is {'not read: it is no .mcap or .db3 file' if strange else 'missing'}")
        listed = [bare(name) for name in names if bare(name) in there] or sorted(there, key=_by_number)
        for name in sorted(there.keys() - set(listed), key=_by_number):
            self.losses.append(f"{there[name].name} is not read: metadata.yaml does not list it")
        return [there[name] for name in listed]

    def _merged(self) -> list[Connection]:
        """One connection a topic and type, with all its messages counted and the QoS with which it is played."""
        described = _described(self._metadata)
        merged: dict[tuple[str, str], Connection] = {}
        for part in self._parts:
            for connection in part.connections:
                key = connection.topic, connection.msgtype
                before = merged.get(key) or _as_played(connection, *described.get(key, ([], "")))
                merged[key] = before._replace(msgcount=before.msgcount + connection.msgcount)
        return list(merged.values())


@contextmanager
def _alone(part: Any) -> Iterator[Any]:
    """The file with a position of its own: rosbags reads an .mcap without chunks through one that all passes share."""
    storage = getattr(part, "storage", None)
    if storage is None or getattr(storage, "chunks", True):
        yield part
        return
    with open(part.path, "rb") as file:
        own = copy(storage)
        own.bio = file
        yield own


def _guarded(messages: Iterator[Item]) -> Iterator[Item]:
    """The same, decompressed, but for everything that reading a damaged file can raise there is one exception."""
    while True:
        try:
            connection, timestamp, data = next(messages)
            item = connection, timestamp, unpacked_message(connection, data)
        except StopIteration:
            return
        except Exception as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from error
        yield item


def _metadata(path: Path, loader: Any = yaml.SafeLoader) -> dict[str, Any]:
    """What metadata.yaml says; empty where it is missing or damaged.  loader: of PyYAML; its BaseLoader gives texts."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), loader)["rosbag2_bagfile_information"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return {}
    return content if isinstance(content, dict) else {}


def _described(metadata: dict[str, Any]) -> dict[tuple[str, str], tuple[list[Qos], str]]:
    """Topic, type -> QoS and hash of the type, as metadata.yaml has them; without those that it does not have."""
    found: dict[tuple[str, str], tuple[list[Qos], str]] = {}
    listed = metadata.get("topics_with_message_count")
    for entry in listed if isinstance(listed, list) else ():
        with suppress(Exception):  # people edit it; the files say it as well
            topic = entry["topic_metadata"]
            qos = parse_qos(topic.get("offered_qos_profiles") or [])
            found[topic["name"], topic["type"]] = qos, str(topic.get("type_description_hash") or "")
    return found


def _as_played(connection: Connection, qos: list[Qos], digest: str) -> Connection:
    """A connection of no message yet, with the QoS of metadata.yaml, by which bags are played, and the type's hash."""
    more: Any = connection.ext
    more = ConnectionExtRosbag2(more.serialization_format, qos or more.offered_qos_profiles)
    return connection._replace(ext=more, digest=connection.digest or digest, msgcount=0)


def _suffix(path: Path) -> str:
    """The suffix before that of the compression."""
    return Path(bare(path.name)).suffix


def _by_number(name: str) -> list[Any]:
    """Sorts bag_10 after bag_9."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
