"""`dkn bag` takes all that the files of a bag hold: compressed, beside a metadata.yaml that says otherwise, or none."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harness import PATIENCE, ROOT

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

import test_bag
from rosbags.rosbag2 import CompressionMode, Reader
from test_bag import (
    DEPTH,
    DEPTH_OPTICAL,
    FRAMES,
    OTHER,
    OUTPUT,
    RGB,
    T0,
    Recording,
    Run,
    both_storages,
    cut,
    decoded,
    messages,
    moved,
    of_two_cameras,
    originals,
    recorded,
)

from dkn_ros.ros import bag, bag_compression
from dkn_ros.synthetic.source import Shot

# Its fixtures.
fail, flags, recording, run, scenes = (
    test_bag.fail, test_bag.flags, test_bag.recording, test_bag.run, test_bag.scenes
)  # fmt: skip

TF = "/tf_static"
QOS = """
- history: 1
  depth: 3
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
both_modes = pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE], ids=["file", "message"])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def edit(bag: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what metadata.yaml says."""
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    change(content["rosbag2_bagfile_information"])
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))


def edit_topics(bag: Path, topics: set[str], **values: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        for entry in content["topics_with_message_count"]:
            if entry["topic_metadata"]["name"] in topics:
                entry["topic_metadata"] |= values

    edit(bag, change)


def noise(scenes: list[Shot]) -> Recording:
    """Of 100 frames, which do not repeat themselves: what is cut off of the compressed file is cut off of the bag."""
    recording, rng = recorded(scenes, 100), np.random.default_rng(0)
    for topic, _, _, message in recording.items:
        if topic == RGB:
            message.data = rng.integers(0, 256, len(message.data), np.uint8)
    return recording


def storage_file(bag: Path) -> Path:
    (file,) = (p for p in bag.iterdir() if p.suffix != ".yaml")
    return file


# What metadata.yaml says beside the files.


@both_storages
def test_topics_whose_qos_was_edited_are_not_lost(run: Run, tmp_path: Path, scenes: list[Shot], storage: str) -> None:
    """As people do to play a bag with another QoS; it is that of the new bag then."""
    two = of_two_cameras(recorded(scenes), moved(T0, DEPTH_OPTICAL, "cam_optical", -0.03))
    two.items = [(topic, kind, T0 if topic == TF else t, message) for topic, kind, t, message in two.items]
    source = two.write(tmp_path / "in", storage)
    whole = messages(source)
    edit_topics(source, {OTHER, TF, RGB}, offered_qos_profiles=QOS)
    windows: list[tuple[tuple[object, ...], int]] = [((), 2**63), (("--duration", 0.2), T0 + 200_000_000)]
    windows.append((("--start", 1e-9), 2**63))
    for number, (window, stop) in enumerate(windows):
        target = tmp_path / f"out{number}"
        done = run(source, target, *window)
        assert (done.status, done.lines) == (0, [])
        begin = T0 + ("--start" in window)
        assert originals(target) == [m for m in whole if begin <= m[2] < stop]
        assert decoded(target, OUTPUT), "which needs the transform"
        with Reader(target) as new:
            found: dict[str, Any] = {c.topic: c.ext for c in new.connections}
            assert {found[topic].offered_qos_profiles[0].depth for topic in (OTHER, RGB)} == {3}


@both_storages
@pytest.mark.parametrize(
    "said",
    [{"topics_with_message_count": []}, {"relative_file_paths": []}, {"storage_identifier": "x"}, {"version": 99}],
    ids=lambda said: next(iter(said)),
)
def test_what_metadata_gets_wrong_does_not_matter(
    run: Run, tmp_path: Path, recording: Recording, storage: str, said: dict[str, Any]
) -> None:
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    whole = messages(source)
    edit(source, lambda content: content.update(said))
    done = run(source, target)
    assert (done.status, done.lines) == (0, [])
    assert originals(target) == whole


def test_a_hash_that_was_edited_loses_nothing(run: Run, tmp_path: Path, recording: Recording) -> None:
    source, target = recording.write(tmp_path / "in", "sqlite3"), tmp_path / "out"
    whole = messages(source)
    edit_topics(source, {OTHER}, type_description_hash=f"RIHS01_{64 * 'a'}")
    assert run(source, target).status == 0
    assert originals(target) == whole


@pytest.mark.parametrize("window", [(), ("--start", 0.1), ("--duration", 0.2)], ids=["whole", "start", "duration"])
def test_fewer_messages_than_there_should_be_are_told_of_a_part_too(
    run: Run, tmp_path: Path, recording: Recording, window: tuple[object, ...]
) -> None:
    source = recording.write(tmp_path / "in")
    edit(source, lambda content: content.update(message_count=100))
    done = run(source, tmp_path / "out", *window)
    assert (done.status, done.lines) == (1, ["dkn bag: 40 of 100 messages are lost"])


def test_a_file_of_another_kind_is_not_called_missing(run: Run, tmp_path: Path, recording: Recording) -> None:
    source = recording.write(tmp_path / "in")
    (source / "in.dat").write_bytes(b"?")
    edit(source, lambda content: content["relative_file_paths"].append("in.dat"))
    done = run(source, tmp_path / "out")
    assert (done.status, done.lines) == (1, ["dkn bag: in.dat is not read: it is no .mcap or .db3 file"])


def test_notes_of_the_recorder_are_copied_as_they_are_written(run: Run, tmp_path: Path, recording: Recording) -> None:
    """The recorder puts no quotes around what looks like a number."""
    source, target = recording.write(tmp_path / "in"), tmp_path / "out"
    metadata = source / "metadata.yaml"
    notes = "  custom_data:\n    operator: Käthe\n    version: 1.10\n    indoors: yes\n"
    text = metadata.read_text().replace("  custom_data: null\n", notes)
    assert notes in text
    metadata.write_text(text)
    assert run(source, target).status == 0
    found = yaml.load((target / "metadata.yaml").read_text(), yaml.BaseLoader)["rosbag2_bagfile_information"]
    assert found["custom_data"] == {"operator": "Käthe", "version": "1.10", "indoors": "yes"}


# Compression.


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "none"])
@both_modes
@both_storages
def test_compressed_bags_are_read_with_and_without_metadata(
    run: Run, temporary: Path, tmp_path: Path, recording: Recording, storage: str, mode: CompressionMode, metadata: bool
) -> None:
    source, target = recording.write(tmp_path / "in", storage, mode), tmp_path / "out"
    whole = messages(source)
    if not metadata:
        (source / "metadata.yaml").unlink()
    done = run(source, target)
    assert (done.status, done.lines) == (0, [])
    assert originals(target) == whole
    assert len(decoded(target, OUTPUT)) == FRAMES
    assert run(storage_file(source) if not metadata else source, tmp_path / "again").status == 0
    assert originals(tmp_path / "again") == whole
    assert not list(temporary.iterdir())


def test_a_file_beside_its_compressed_form_is_read_once(run: Run, tmp_path: Path, recording: Recording) -> None:
    source = recording.write(tmp_path / "in", mode=CompressionMode.FILE)
    whole = messages(source)
    (source / "metadata.yaml").unlink()
    shutil.copy(recording.write(tmp_path / "plain") / "plain.mcap", source / "in.mcap")
    cut(source / "in.mcap.zstd", 0.5)
    done = run(source, tmp_path / "out")
    assert (done.status, done.lines) == (0, [])
    assert originals(tmp_path / "out") == whole


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "none"])
@both_storages
def test_of_a_compressed_file_that_was_cut_off_the_rest_is_done(
    run: Run, temporary: Path, tmp_path: Path, scenes: list[Shot], storage: str, metadata: bool
) -> None:
    source = noise(scenes).write(tmp_path / "in", storage, CompressionMode.FILE)
    target = tmp_path / "out"
    whole, file = messages(source), storage_file(source)
    cut(file, 0.7)
    if not metadata:
        (source / "metadata.yaml").unlink()
    done = run(source, target)
    assert done.status == 1
    size = file.stat().st_size
    assert done.lines[0] == f"dkn bag: {file.name} breaks off at byte {size}, in the midst of what is compressed"
    copied = originals(target)
    assert set(copied) < set(whole)
    assert len(copied) > 0.5 * len(whole)
    assert (f"dkn bag: {len(whole) - len(copied)} of {len(whole)} messages are lost" in done.lines) == metadata
    assert not list(temporary.iterdir())


def test_of_a_compressed_file_that_is_damaged_what_comes_before_is_done(
    run: Run, temporary: Path, tmp_path: Path, scenes: list[Shot]
) -> None:
    source, target = noise(scenes).write(tmp_path / "in", mode=CompressionMode.FILE), tmp_path / "out"
    whole, file = messages(source), storage_file(source)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300_000] = b"\xff" * 300_000
    file.write_bytes(content)
    done = run(source, target)
    assert done.status == 1
    assert done.lines[0].startswith(f"dkn bag: {file.name} cannot be decompressed from byte ")
    copied = originals(target)
    assert copied == whole[: len(copied)]
    assert 0.3 * len(whole) < len(copied) < 0.6 * len(whole)
    assert not list(temporary.iterdir())


def test_a_compressed_file_that_is_none_is_said_in_one_line(
    fail: Callable[..., str], temporary: Path, tmp_path: Path
) -> None:
    file = tmp_path / "noise.mcap.zstd"
    file.write_bytes(bytes(range(256)))
    line = fail(file, tmp_path / "out")
    assert line.startswith(
        f"dkn bag: nothing in {file} can be read; noise.mcap.zstd cannot be decompressed from byte 0"
    )


@pytest.mark.parametrize("window", [(), ("--start", 0.001)], ids=["whole", "start"])
@both_storages
def test_a_compressed_message_that_is_damaged_costs_only_itself(
    run: Run, tmp_path: Path, recording: Recording, storage: str, window: tuple[object, ...]
) -> None:
    lost = [i for i, item in enumerate(recording.items) if item[0] == DEPTH][5]
    recording.items[lost] = (*recording.items[lost][:3], b"\x28\xb5\x2f\xfd and no more")
    source, target = recording.write(tmp_path / "in", storage), tmp_path / "out"
    whole = messages(source)
    done = run(source, target, *window)
    assert done.status == 1
    first = (
        f"dkn bag: in.{'mcap' if storage == 'mcap' else 'db3'}: 1 message cannot be decompressed, the first of {DEPTH}"
    )
    assert done.lines[0].startswith(first)
    assert done.lines[1:] == ["dkn bag: 1 of 60 messages are lost"]
    begin = whole[0][2] + (1_000_000 if window else 0)
    assert originals(target) == [m for m in whole if m[2] >= begin and not m[3].endswith(b"no more")]


def without_chunks(file: Path) -> None:
    """Make an .mcap one whose messages lie in it as they came, as recorders that shun work write it.

    By the format's specification: 1 is the header, 6 a chunk, and 15, 3, 4, 11 and 2 make the summary.
    """
    data, body, summary, ended = file.read_bytes(), b"", b"", False
    position = 8
    while position < len(data) - 8:
        kind, length = data[position], int.from_bytes(data[position + 1 : position + 9], "little")
        record = data[position : position + 9 + length]
        content = record[9:]
        position += len(record)
        if kind in (1, 15):
            body, ended = body + record, kind == 15
        elif kind == 6:
            assert content[28:32] == bytes(4), "compressed"
            body += content[40:]
        elif ended and kind in (3, 4, 11):
            summary += record
    footer = bytes([2]) + (20).to_bytes(8, "little") + (8 + len(body)).to_bytes(8, "little") + bytes(12)
    file.write_bytes(data[:8] + body + summary + footer + data[:8])


@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_a_file_without_chunks_is_read_by_several_at_once(
    run: Run, tmp_path: Path, recording: Recording, alone: bool
) -> None:
    """Of the transforms too, which are asked for while the images are read."""
    source = of_two_cameras(recording, moved(T0, DEPTH_OPTICAL, "cam_optical", -0.03)).write(tmp_path / "in")
    whole = messages(source)
    without_chunks(source / "in.mcap")
    done = run(source / "in.mcap" if alone else source, tmp_path / "out")
    assert (done.status, done.lines) == (0, [])
    assert originals(tmp_path / "out") == whole
    assert len(decoded(tmp_path / "out", OUTPUT)) == FRAMES


def test_a_file_that_the_metadata_does_not_list_is_named(run: Run, tmp_path: Path, recording: Recording) -> None:
    source = recording.write(tmp_path / "in")
    shutil.copy(source / "in.mcap", source / "in_1.mcap")
    done = run(source, tmp_path / "out")
    assert done.status == 1
    assert done.lines == ["dkn bag: in_1.mcap is not read: metadata.yaml does not list it"]


def test_what_is_packed_very_small_is_decompressed_piece_by_piece(tmp_path: Path) -> None:
    zstd = importlib.import_module(bag_compression.LIBRARIES["zstd"])
    content = bytes(40 << 20) + b"end"
    source = tmp_path / "black.mcap.zstd"
    source.write_bytes(zstd.compress(content) + zstd.compress(b"another frame"))
    assert source.stat().st_size < len(content) // 1000
    notes: list[str] = []
    (tmp_path / "to").mkdir()
    tracemalloc.start()
    made = bag_compression.unpack_file(source, tmp_path / "to", notes.append)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.read_bytes() == content + b"another frame" and notes == []
    assert peak < 8 << 20


@both_storages
def test_a_full_disk_is_one_line(
    fail: Callable[..., str], tmp_path: Path, recording: Recording, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"mcap": OSError(28, "No space left on device"), "sqlite3": sqlite3.OperationalError("disk is full")}[
        storage
    ]

    def full(*_: Any, **__: Any) -> None:
        raise error

    source = recording.write(tmp_path / "in", storage)
    monkeypatch.setattr(bag.Writer, "write", full)
    line = fail(source, tmp_path / "out")
    assert ("No space left on device" if storage == "mcap" else "out cannot be written: disk is full") in line


def test_interrupted_while_it_decompresses_it_leaves_nothing(temporary: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    os.mkfifo(source / "in.mcap.zstd")  # a file whose end does not come
    command = [sys.executable, "-m", "dkn_ros.cli", "bag", str(source), str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)})
    end, pipe = time.monotonic() + PATIENCE, -1
    while not list(temporary.rglob("in.mcap")):
        assert process.poll() is None and time.monotonic() < end, "it decompresses nothing"
        time.sleep(0.01)  # between two looks at a folder
        with suppress(OSError):  # as long as nobody reads it
            pipe = pipe if pipe >= 0 else os.open(source / "in.mcap.zstd", os.O_WRONLY | os.O_NONBLOCK)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    os.close(pipe)
    assert not list(temporary.iterdir())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["in", "tmp"]
