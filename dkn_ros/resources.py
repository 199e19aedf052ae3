"""Where the package's own files lie: weights, presets and launch files, however the package was installed.

A source checkout (also an editable or symlinked install) has them next to the package; `colcon build` and `pip install`
put them under `share/dkn_ros` of the install prefix.  Paths only: neither ROS nor ament is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

KINDS = ("weights", "config", "launch")


def share_path(kind: str, name: str) -> Path:
    """The path of the file `name` of one of `KINDS`; FileNotFoundError lists every place that was searched."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; wanted: one of {', '.join(KINDS)}")
    places = [root / kind / name for root in _roots(Path(__file__).resolve())]
    for place in places:
        if place.exists():
            return place
    searched = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"no {kind} file {name!r} in this installation of dkn_ros; searched: {searched}")


def _roots(module: Path) -> list[Path]:
    """Folders that may hold the kinds, the nearest to `module` first: no installation takes another one's files."""
    checkout = module.parents[1]
    roots = [checkout] if (checkout / "package.xml").is_file() else []
    # The install prefix is an ancestor of the module at a depth that differs: lib/python3.X/site-packages,
    # local/lib/python3.10/dist-packages, or the prefix itself under `pip install --target`.
    shares = [ancestor / "share" / "dkn_ros" for ancestor in module.parents[1:6]]
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shares += [prefix / "share" / "dkn_ros" for prefix in [*prefixes, Path(sys.prefix)]]
    return roots + list(dict.fromkeys(shares))
