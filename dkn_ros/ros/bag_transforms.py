"""How the frames of a recording lie to each other, by the transforms that it holds.

A camera's frames are fixed to each other, so the first transform between two frames is taken for the whole recording:
that of `/tf_static`, which may have been recorded anywhere in the bag, or else of `/tf`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkn_ros.ros.bag_input import BagInput
from dkn_ros.ros.registering import Transform, plain_frame

TF_MESSAGE = "tf2_msgs/msg/TFMessage"


def lookup_in(bag: BagInput, store: Any) -> Any:
    """A `registering.Lookup` that asks the transforms of `bag`, which are read at the first question.

    store: rosbags' types, by which they are read.
    """
    known: list[dict[str, dict[str, NDArray[np.float64]]]] = []

    def lookup(target: str, source: str) -> Transform | str:
        if not known:
            known.append(_transforms(bag, store))
        found = _chain(known[0], target, source)
        if found is None:
            return "the bag holds none; give --extrinsics"
        return Transform(found[:3, :3], found[:3, 3])

    return lookup


def _transforms(bag: BagInput, store: Any) -> dict[str, dict[str, NDArray[np.float64]]]:
    """target -> source -> 4x4, p_target = matrix @ p_source, of all frames that some message puts beside each other."""
    topics = {c.topic for c in bag.connections if c.msgtype == TF_MESSAGE}
    static = {topic for topic in topics if topic.rpartition("/")[2] == "tf_static"}
    known: dict[str, dict[str, NDArray[np.float64]]] = {}
    for group in (static, topics - static):
        for connection, _, data in bag.messages(group) if group else ():
            if connection.msgtype != TF_MESSAGE:
                continue
            try:
                listed = store.deserialize_cdr(data, TF_MESSAGE).transforms
                matrices = [(t.header.frame_id, t.child_frame_id, _matrix(t.transform)) for t in listed]
            except Exception:  # bytes from a damaged file
                continue
            for parent, child, matrix in matrices:
                known.setdefault(plain_frame(parent), {}).setdefault(plain_frame(child), matrix)
                back = np.asarray(np.linalg.inv(matrix), np.float64)
                known.setdefault(plain_frame(child), {}).setdefault(plain_frame(parent), back)
    return known


def _matrix(transform: Any) -> NDArray[np.float64]:
    """4x4 of a geometry_msgs/Transform.  Raises ValueError for one that is none."""
    t, q = transform.translation, transform.rotation
    made = Transform.of_numbers((t.x, t.y, t.z, q.x, q.y, q.z, q.w))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = made.rotation, made.translation
    return matrix


def _chain(known: dict[str, dict[str, NDArray[np.float64]]], target: str, source: str) -> NDArray[np.float64] | None:
    """The transform over the fewest frames between; None if there is no way."""
    target, source = plain_frame(target), plain_frame(source)
    found = {target: np.eye(4)}
    waiting = deque([target])
    while waiting and source not in found:
        frame = waiting.popleft()
        for other, matrix in known.get(frame, {}).items():
            if other not in found:
                found[other] = found[frame] @ matrix
                waiting.append(other)
    return found.get(source)
