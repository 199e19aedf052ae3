"""Arrays that are kept from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from dkn_ros.buffers import Buffers


def test_the_same_array_comes_again_with_what_is_in_it() -> None:
    buffers = Buffers()
    first = buffers.array("depth", (3, 4))
    first[:] = 7
    buffers.array("distance", (5, 6))
    again = buffers.array("depth", (3, 4))
    assert again is first and (again == 7).all()


@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.bool_, "u2"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0,), (2, 3, 4)], ids=str)
def test_arrays_are_of_the_shape_and_type_asked_for(shape: tuple[int, ...], kind: DTypeLike) -> None:
    buffers = Buffers()
    array = buffers.array("a", shape, kind)
    assert array.shape == shape and array.dtype == np.dtype(kind)
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    assert buffers.array("a", shape, kind) is array


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4, 3), np.float32), ((12,), np.float32), ((3, 4, 1), np.float32), ((3, 4), np.float64), ((3, 4), np.int32)],
    ids=str,
)
def test_another_shape_or_type_gives_a_new_array_in_its_place(shape: tuple[int, ...], kind: DTypeLike) -> None:
    buffers = Buffers()
    first = buffers.array("a", (3, 4))
    second = buffers.array("a", shape, kind)
    assert second.shape == shape and second.dtype == kind
    assert not np.shares_memory(first, second)
    assert buffers.array("a", shape, kind) is second
    assert buffers.array("a", (3, 4)) is not first  # the old one is let go


def test_names_and_parts_share_no_memory() -> None:
    buffers = Buffers()
    parts = buffers, buffers.part("coarse"), buffers.part("fine"), buffers.part("coarse").part("coarse")
    arrays = [part.array(name, (3, 4)) for part in parts for name in ("a", "b")]
    for i, array in enumerate(arrays):
        array[:] = i
    assert [set(array.ravel()) for array in arrays] == [{i} for i in range(len(arrays))]


def test_a_part_is_the_same_again_and_keeps_its_arrays() -> None:
    buffers = Buffers()
    part = buffers.part("coarse")
    array = part.array("a", (3, 4))
    buffers.array("a", (30, 40))
    assert buffers.part("coarse") is part
    assert part.array("a", (3, 4)) is array
