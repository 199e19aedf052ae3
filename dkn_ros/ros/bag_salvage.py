"""Damaged bag files, read record by record: rosbags opens a file that is whole, or not at all.

mcap     A file that was cut off has no index; a chunk whose checksum is wrong is left out.
sqlite3  A file that was cut off is shorter than it says; rows on pages that are gone are left out.

Each file is read through once when it is opened, to know what is there and what is lost.
"""

from __future__ import annotations

import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from zlib import crc32

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import parse_qos

from dkn_ros.ros.bag_compression import unpacked, unpacked_message

Note = Callable[[str], None]
Record = tuple[int, int, bytes]
"""Id of the connection, timestamp in nanoseconds, serialised message."""

MCAP_MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
ROWS_TRIED = 1000
"""After so many rows in a row that cannot be read, the rest of a table counts as lost."""


class SalvagedFile(ABC):
    """What can be read of one file; `connections` and `messages` are those of rosbags' Reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[str] = []
        """Sentences about what cannot be read."""
        self._found: dict[int, Connection] = {}
        counts: Counter[int] = Counter()
        self.start_time = 2**63 - 1
        for connection, timestamp, _ in self._messages(self.losses.append):
            counts[connection] += 1
            self.start_time = min(self.start_time, timestamp)
        self.connections = [c._replace(msgcount=counts[c.id]) for c in self._found.values()]

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """The messages of these connections from `start` to before `stop` (nanoseconds), as they lie in the file."""
        wanted = {c.id: c for c in connections}
        for connection, timestamp, data in self._messages(lambda _: None):
            if connection in wanted and (start is None or timestamp >= start) and (stop is None or timestamp < stop):
                yield wanted[connection], timestamp, data

    def _messages(self, note: Note) -> Iterator[Record]:
        """The records as they were sent; those that were compressed alone and cannot be read are left out."""
        failed: list[str] = []
        for number, timestamp, data in self._records(note):
            connection = self._found.get(number)
            try:
                plain = data if connection is None else unpacked_message(connection, data)
            except Exception as error:  # bytes from a damaged file
                failed.append(f"{self._found[number].topic}: {error}")
                continue
            yield number, timestamp, plain
        if failed:
            count = f"{len(failed)} message{'s' if len(failed) > 1 else ''}"
            note(f"{self.path.name}: {count} cannot be decompressed, the first of {failed[0]}")

    @abstractmethod
    def _records(self, note: Note) -> Iterator[Record]:
        """All messages that can be read; fills `_found` and hands a sentence about each loss to `note`."""

    def _connect(self, number: int, topic: str, kind: str, definition: Any, digest: str, form: str, qos: str) -> None:
        try:
            profiles = parse_qos(qos) if qos else []
        except Exception:  # text from a damaged file
            profiles = []
        more = ConnectionExtRosbag2(form, profiles)
        self._found[number] = Connection(number, topic, kind, definition, digest, 0, more, self)


class SalvagedMcap(SalvagedFile):
    """An mcap file, from its beginning to where it breaks off."""

    def _records(self, note: Note) -> Iterator[Record]:
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                note(f"{self.path.name} is no mcap file")
                return
            while True:
                position = file.tell()
                kind, length = _head(file)
                if kind in (DATA_END, FOOTER):
                    return  # what follows repeats what was before
                whole = kind is not None and length <= size - file.tell()
                if not whole:
                    note(f"{self.path.name} breaks off at byte {position} of {size}")
                if kind == CHUNK:
                    yield from self._chunk(file.read(min(length, size)), position, note)
                elif kind in (SCHEMA, CHANNEL, MESSAGE) and whole:
                    yield from self._record(kind, file.read(length), note)
                elif whole:
                    file.seek(length, 1)
                if not whole:
                    return

    def _chunk(self, body: bytes, position: int, note: Note) -> Iterator[Record]:
        """The messages of a chunk; of an uncompressed one that breaks off, those before that."""
        try:
            *_, size, checksum, name = struct.unpack_from("<QQQII", body)
            compression = body[32 : 32 + name].decode()
            (length,) = struct.unpack_from("<Q", body, 32 + name)
            packed = body[40 + name : 40 + name + length]
            content = unpacked(packed, compression)
            if len(packed) == length and (len(content) != size or (checksum and crc32(content) != checksum)):
                raise ValueError("its checksum is wrong")
        except Exception as error:  # bytes from a damaged file
            note(f"{self.path.name}: the {len(body)} bytes of the chunk at byte {position} are lost: {error}")
            return
        inner = BytesIO(content)
        while True:
            kind, length = _head(inner)
            data = inner.read(length)
            if kind is None or len(data) < length:
                return
            yield from self._record(kind, data, note)

    def _record(self, kind: int, body: bytes, note: Note) -> Iterator[Record]:
        try:
            if kind == MESSAGE:
                channel, _, timestamp, _ = struct.unpack_from("<HIQQ", body)
                if channel in self._found:
                    yield channel, timestamp, body[22:]
            else:
                self._define(kind, body)
        except (struct.error, ValueError) as error:  # bytes from a damaged file
            note(f"{self.path.name}: a record cannot be read: {error}")

    def _define(self, kind: int, body: bytes) -> None:
        """Take note of a schema or a channel; nothing happens for other kinds of records."""
        if kind == SCHEMA:
            (number,) = struct.unpack_from("<H", body)
            name, encoding, definition = _texts(body[2:], 3)
            form = FORMATS.get(encoding, MessageDefinitionFormat.NONE)
            self._schemas[number] = name, MessageDefinition(form, definition if encoding in FORMATS else "")
        elif kind == CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            topic, encoding = _texts(body[4:], 2)
            rest = body[4 + 8 + len(topic.encode()) + len(encoding.encode()) :]
            more = _texts(rest[4:], None)
            qos = dict(zip(more[::2], more[1::2], strict=False)).get("offered_qos_profiles", "")
            if schema in self._schemas and number not in self._found:
                self._connect(number, topic, *self._schemas[schema], "", encoding, qos)


class SalvagedSqlite(SalvagedFile):
    """An sqlite3 file; rows come in the order in which they were written."""

    def _records(self, note: Note) -> Iterator[Record]:
        database = sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro&immutable=1", uri=True)
        try:
            # Without this SQLite refuses a file that is shorter than its head says.
            database.execute("PRAGMA writable_schema=ON")
            self._topics(database)
            yield from self._rows(database, note)
        except sqlite3.Error as error:
            note(f"{self.path.name}: {error}")
        finally:
            database.close()

    def _topics(self, database: sqlite3.Connection) -> None:
        columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
        optional = [name if name in columns else "''" for name in ("offered_qos_profiles", "type_description_hash")]
        try:
            wanted = "topic_type, encoding, encoded_message_definition"
            definitions = {kind: more for kind, *more in database.execute(f"SELECT {wanted} FROM message_definitions")}
        except sqlite3.Error:  # not there before Iron, or lost: the types that everybody knows remain
            definitions = {}
        names = ", ".join(["id", "name", "type", "serialization_format", *optional])
        for number, topic, kind, form, qos, digest in database.execute(f"SELECT {names} FROM topics"):
            encoding, text = definitions.get(kind, ("", ""))
            definition = MessageDefinition(FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
            self._connect(number, topic, kind, definition, digest, form, qos)

    def _rows(self, database: sqlite3.Connection, note: Note) -> Iterator[Record]:
        query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id {} ?"
        last = -1
        while True:
            try:
                for row, topic, timestamp, data in database.execute(query.format(">") + " ORDER BY id", (last,)):
                    last = row
                    yield topic, timestamp, data
                return
            except sqlite3.Error as error:
                why = error
            # One by one: rows behind a damaged one may be whole, and so may that before it, which Python, reading one
            # row ahead, has lost with it.
            found = None
            for row in range(last + 1, last + 1 + ROWS_TRIED):
                with suppress(sqlite3.Error):
                    found = database.execute(query.format("="), (row,)).fetchone()
                if found:
                    break
            if not found:
                note(f"{self.path.name}: nothing can be read from message {last + 1} on: {why}")
                return
            if row > last + 1:
                which = f"message {row - 1}" if row == last + 2 else f"messages {last + 1} to {row - 1}"
                note(f"{self.path.name}: {which} cannot be read: {why}")
            last = row
            yield found[1:]


def _head(file: BinaryIO) -> tuple[int | None, int]:
    """Kind and length of the next record; None where the file ends or this is no record."""
    head = file.read(9)
    if len(head) < 9 or not head[0]:
        return None, 0
    return head[0], int.from_bytes(head[1:], "little")


def _texts(body: bytes, count: int | None) -> list[str]:
    """So many strings (None: all there are), each behind its length in 4 bytes."""
    found: list[str] = []
    position = 0
    while position < len(body) and (count is None or len(found) < count):
        (length,) = struct.unpack_from("<I", body, position)
        found.append(body[position + 4 : position + 4 + length].decode())
        position += 4 + length
    return found
