"""What rosbag2 compresses: whole files, or single messages.

Chunks of mcap are compressed within their file; `unpacked` serves those that are read record by record.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection

SUFFIX = ".zstd"
"""Of a compressed file, behind its own."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LIBRARIES = {"lz4": "lz4.frame", "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"}
"""rosbags brings both."""
PIECE = 1 << 16
"""Bytes that are decompressed at once; where they are damaged, so much is lost before the damage."""
MOST = 1 << 20
"""Bytes that come out at once: black images are packed ten thousand times smaller."""


def bare(name: str) -> str:
    """The name of a file without compression."""
    return name.removesuffix(SUFFIX)


def unpacked(data: bytes, compression: str) -> bytes:
    """`data` as they were before they were compressed.  Raises anything where they are damaged."""
    if not compression:
        return data
    if compression not in LIBRARIES:
        raise ValueError(f"its compression is {compression!r}")
    content: bytes = importlib.import_module(LIBRARIES[compression]).decompress(data)
    return content


def unpacked_message(connection: Connection, data: bytes) -> bytes:
    """A message as it was sent, whether it was compressed alone or not, which only metadata.yaml would say.

    CDR begins with 0, so what begins as zstd does is compressed.  Raises anything where it is damaged.
    """
    more: Any = connection.ext
    compressed = more.serialization_format == "cdr" and data[: len(ZSTD_MAGIC)] == ZSTD_MAGIC
    return unpacked(data, "zstd") if compressed else data


def unpack_file(path: Path, folder: Path, note: Callable[[str], None]) -> Path:
    """Decompress a file into `folder`, as far as it can be read; hands a sentence about a loss to `note`.

    Raises OSError, where there is no space for it above all.
    """
    target, size = folder / bare(path.name), path.stat().st_size
    zstd = importlib.import_module(LIBRARIES["zstd"])
    unpacker = zstd.ZstdDecompressor()
    with open(path, "rb") as packed, open(target, "wb") as file:
        while piece := packed.read(PIECE):
            while piece or not (unpacker.eof or unpacker.needs_input):
                if unpacker.eof:  # one file may hold several frames
                    unpacker = zstd.ZstdDecompressor()
                try:
                    file.write(unpacker.decompress(piece, MOST))
                except zstd.ZstdError as error:
                    note(
                        f"{path.name} cannot be decompressed from byte {packed.tell() - len(piece)} of {size}: {error}"
                    )
                    return target
                piece = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        note(f"{path.name} breaks off at byte {size}, in the midst of what is compressed")
    return target
