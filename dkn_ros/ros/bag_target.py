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
def ended_in_order() -> Iterator[None]:
    """A signal that ends the process leaves the block as an exception does, so that what it has on the disk vanishes.

    SIGTERM, and SIGHUP of a terminal that closes; not those that somebody chose to ignore, as nohup does.
    """
    there = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in there if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


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
