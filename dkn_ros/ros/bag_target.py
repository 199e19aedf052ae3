"""Where a new bag is written: beside its name until it is done."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dkn_ros.ros.bag_input import BagError


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Raise BagError unless the bag `source` may become the folder `target`, or with `overwrite` replace that bag."""
    if not target.parent.is_dir():
        raise BagError(f"no folder {target.parent} for the new bag; make it first")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise BagError(f"{target} exists; wanted: a new name, or --overwrite")
    if not (target / "metadata.yaml").is_file():
        raise BagError(f"{target} is no bag, which --overwrite would replace; wanted: another name")
    if source.exists() and target.resolve() in (source.resolve(), source.resolve().parent):
        raise BagError(f"{target} is the bag to be read; wanted: another name")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves the block as an exception does, so that what it has on the disk vanishes."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        if before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        yield
    finally:
        if before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def finished_or_nothing(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` if the block ends well and vanishes if not."""
    # rosbags names the files in it by the folder's name, so that is what it has from the start.
    around = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        made, old = around / target.name, around / "old"
        yield made
        try:
            if target.exists():
                target.rename(old)
            made.rename(target)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
    finally:
        shutil.rmtree(around, ignore_errors=True)
