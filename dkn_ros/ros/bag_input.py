"""A rosbag2 recording that is read: whole ones by rosbags, damaged ones as far as they go."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from dkn_ros.ros.bag_salvage import SalvagedFile, SalvagedMcap, SalvagedSqlite

SALVAGERS: dict[str, type[SalvagedFile]] = {".mcap": SalvagedMcap, ".db3": SalvagedSqlite}
STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}


class BagError(ValueError):
    """A bag that cannot be read or written, in one line."""


class DamagedError(BagError):
    """A bag that turned out to be damaged while it was read; opened with `salvage=True` it gives what it can."""


class BagInput:
    """The messages of a recording: its folder, or one of its .mcap or .db3 files.  A context manager.

    Files that rosbags cannot open are read record by record, with `salvage` all of them.
    """

    def __init__(self, path: Path, salvage: bool = False) -> None:
        """Raises BagError where there is no bag or nothing in it can be read, and OSError."""
        if not path.exists():
            raise BagError(f"no bag {path}; wanted: the folder of a rosbag2 recording, or its .mcap or .db3 file")
        if path.is_file() and path.suffix not in STORAGES:
            raise BagError(
                f"{path} is no rosbag2 recording; wanted: a folder, .mcap or .db3 (rosbags-convert makes one)"
            )
        self.path, self.salvage = path, salvage
        self.losses: list[str] = []
        """Sentences about what cannot be read."""
        self._metadata = _metadata(path / "metadata.yaml")
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
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, timestamp and serialised message of these topics (None: all), file by file.

        start, stop: nanoseconds; only messages from `start` to before `stop`.
        Raises DamagedError where rosbags gives up.
        """
        for part in self._parts:
            chosen = [c for c in part.connections if topics is None or c.topic in topics]
            yield from _guarded(part.messages(chosen, start, stop)) if chosen else ()

    def _opened(self) -> list[Any]:
        if not self.salvage:
            with suppress(Exception):  # for a damaged file rosbags and what it uses raise anything
                return [self._reader(self.path)]
        return [self._part(file) for file in self._files()]

    def _part(self, file: Path) -> Any:
        if not self.salvage:
            with suppress(Exception):
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
        named = self._metadata.get("relative_file_paths")
        files = [self.path / Path(str(name)).name for name in named] if isinstance(named, list) else []
        self.losses += [f"{file.name} is missing" for file in files if not file.exists()]
        there = sorted((f for f in self.path.iterdir() if f.suffix in STORAGES), key=_by_number)
        if not there:
            raise BagError(f"{self.path} holds no .mcap or .db3 file; wanted: the folder of a rosbag2 recording")
        return [file for file in files if file in there] or there

    def _merged(self) -> list[Connection]:
        """One connection a topic and type, with all its messages counted."""
        merged: dict[tuple[str, str], Connection] = {}
        for part in self._parts:
            for connection in part.connections:
                key = connection.topic, connection.msgtype
                before = merged[key].msgcount if key in merged else 0
                merged[key] = merged.get(key, connection)._replace(msgcount=before + connection.msgcount)
        return list(merged.values())


def _guarded(messages: Iterator[tuple[Connection, int, bytes]]) -> Iterator[tuple[Connection, int, bytes]]:
    """The same, but for everything that reading a damaged file can raise there is one exception."""
    while True:
        try:
            item = next(messages)
        except StopIteration:
            return
        except Exception as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from error
        yield item


def _metadata(path: Path) -> dict[str, Any]:
    """What metadata.yaml says; empty where it is missing or damaged."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return {}
    return content if isinstance(content, dict) else {}


def _by_number(path: Path) -> list[Any]:
    """Sorts bag_10 after bag_9."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
