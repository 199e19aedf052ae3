"""The lattice of depth that a driver brought to the colour image's size: how far apart its blocks begin, and where.

Blocks or sparse pixels leave marks along each axis, where anything changes or is.  Among them lie those of holes, which
need not follow the blocks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]

LEAST_RATIO = 1.2
"""Nearer to 1 the work of taking depth back is worth nothing."""
LARGEST_RATIO = 16
FEWEST = 12
"""So many blocks or sparse rows must be seen along an axis before they count as regular."""
REGULAR = 0.9
"""Share of an axis that blocks of one size, or of two that differ by a pixel, must cover."""
BESIDE = 0.7
"""Pixels by which a grid may lie beside that of the whole image, or end before or behind it."""


class Margins(NamedTuple):
    """Pixels around an image."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def size(self, given: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of an image with its margins."""
        return given[0] + self.top + self.bottom, given[1] + self.left + self.right

    def inside(self, given: tuple[int, ...]) -> tuple[slice, slice]:
        """Where in it an image of height and width `given` lies."""
        return slice(self.top, self.top + given[0]), slice(self.left, self.left + given[1])


NO_MARGINS = Margins()


def margins_of(width: int, height: int, across: tuple[float, float], down: tuple[float, float]) -> Margins:
    """Margins with which the cells of a lattice cover an image to its borders; across, down: of `lattice`."""
    (left, right), (top, bottom) = _sides(width, *across), _sides(height, *down)
    return Margins(left, top, right, bottom)


def _sides(length: int, pitch: float, place: float) -> tuple[int, int]:
    """Pixels before and behind an axis such that cells of `pitch`, one of which begins at `place`, cover it."""
    missing = -place % pitch
    before = 0 if min(missing, pitch - missing) < BESIDE else round(missing)
    behind = math.ceil((length + before - BESIDE) / pitch) * pitch - before - length
    return before, round(behind) if behind >= BESIDE else 0


def lattice(marked: Flags) -> tuple[float, float]:
    """Mean distance of the marked places where they follow each other regularly, 1 where they do not; one of them."""
    places = np.flatnonzero(marked)
    if len(places) < FEWEST or places[-1] - places[0] < LEAST_RATIO * (len(places) - 1):
        return 1.0, 0.0
    typical = int(np.median(np.diff(places)))
    # Blocks of a ratio that is no whole number differ by a pixel, but no two of them are as long as one is typically:
    # between those lies a mark that is none of the lattice.
    places = np.delete(places, 1 + np.flatnonzero(places[2:] - places[:-2] == typical))
    lengths = np.diff(places)
    # Of which two lengths the blocks are, the median leaves open.
    alike = [(lengths == shortest) | (lengths == shortest + 1) for shortest in (typical, typical - 1)]
    like = max(alike, key=lambda these: lengths[these].sum())
    pitch = float(lengths[like].mean())
    if lengths[like].sum() < REGULAR * lengths.sum() or pitch > LARGEST_RATIO:
        return 1.0, 0.0
    return _line(places[np.append(like, False) | np.insert(like, 0, False)], pitch)


def _line(places: NDArray[np.intp], pitch: float) -> tuple[float, float]:
    """Pitch and a place by a straight line through all of them: single ones lie beside it by the rounding of ratios."""
    gaps = np.diff(places)
    steps = np.where(np.abs(gaps - pitch) < 1, 1, np.rint(gaps / pitch))
    number = np.concatenate([[0], np.cumsum(steps)])
    line = np.polyfit(number, places, 1)
    among = np.abs(np.polyval(line, number) - places) < 1  # but not the border of a block that was cut
    fitted, place = np.polyfit(number[among], places[among], 1) if among.sum() >= FEWEST else line
    return float(fitted), float(place)
