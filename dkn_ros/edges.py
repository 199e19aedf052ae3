"""The edges of a colour image and of a depth image, and the move that brings them together.

The gradients of the colour image are summed up over the depth edges, moved by a scale, a shift and a parallax; trials
around the best move so far, nearer and nearer, find where the sum is largest.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.buffers import Buffers
from dkn_ros.compiled import any_image, compiled
from dkn_ros.traits import FLAT, SMALLEST_STEP

FloatImage = NDArray[np.float32]

WIDTH = 640
"""Colour edges are looked for in an image no wider than this."""
FEWEST, MOST = 60, 600
"""Depth edges that a frame must have, and about how many are looked at."""
STEEPEST = 8.0
"""Grey levels a pixel from which on a gradient counts no more: one white window frame must not outvote all the rest."""
FAINT = 10.0
"""Mean gradient along the depth edges, in 256ths of STEEPEST, below which there is no colour to speak of: a black or
saturated image's noise has 6 to 7, public frames have 77 and more, with an eighth of their light 13."""
GAIN, CERTAIN = 1.35, 7.0
"""A move must raise the sum of the gradients by this factor, and by so many standard deviations of it."""
UNLIKELY = 0.005
"""So much less is the sum worth at a move as large as the search's first reach."""
SEARCHES = 4
"""So often an alignment is searched, with other trials each time: shelves fit onto each other's edges, too."""


class Alignment(NamedTuple):
    """Where the colour of depth lies: of a point x, y from the centre of the image and z metres away it is at
    (1 + scale) x + right + parallax / z and (1 + scale) y + down, all in pixels of the colour image.
    """

    scale: float = 0.0
    right: float = 0.0
    down: float = 0.0
    parallax: float = 0.0
    """Pixels times metres: focal length times baseline."""

    def enlarged(self, factor: float) -> Alignment:
        """The same for an image that is `factor` times as large."""
        return Alignment(self.scale, factor * self.right, factor * self.down, factor * self.parallax)

    def __str__(self) -> str:
        move = f"{self.right:+.1f} right, {self.down:+.1f} down, {self.parallax:+.1f} / z right"
        return f"scale {1 + self.scale:.3f}, pixels {move}"


class Stage(NamedTuple):
    """A part of the search."""

    blur: float
    """Of the gradients, pixels."""
    reach: Alignment
    """How far from the best so far a trial may lie at first; in the end a tenth of it."""
    trials: int


SEARCH = (
    Stage(6.0, Alignment(0.1, 16.0, 10.0, 12.0), 2500),
    Stage(3.0, Alignment(0.04, 6.0, 5.0, 8.0), 1500),
    Stage(1.0, Alignment(0.015, 2.5, 2.0, 4.0), 800),
)
NEAR_BY = (Stage(2.0, Alignment(0.02, 6.0, 6.0, 6.0), 400),)
FAR_AND_WIDE = (Stage(4.0, SEARCH[0].reach, 400),)
TRACK = (Stage(1.5, Alignment(0.01, 2.0, 2.0, 3.0), 400),)
_TRIALS = np.random.default_rng(0).uniform(-1, 1, (SEARCHES, sum(stage.trials for stage in SEARCH), 4))


class Fit(NamedTuple):
    """What a search found."""

    alignment: Alignment
    gain: float
    """Sum of the gradients with it over that without."""
    certainty: float
    """Their difference in its standard deviations."""
    strength: float
    """Mean gradient with it, in 256ths of STEEPEST."""

    @property
    def sure(self) -> bool:
        """Whether it is no accident."""
        return self.gain >= GAIN and self.certainty >= CERTAIN

    @property
    def faint(self) -> bool:
        """Whether the colour has no edges to tell anything by, as behind a covered lens."""
        return self.strength < FAINT


class ColourEdges:
    """The gradients of a colour image (HxWx3 or HxW, uint8), made smaller where it is large."""

    def __init__(self, rgb: NDArray[np.uint8], buffers: Buffers) -> None:
        size = grid_of(rgb)
        self.factor = max(1.0, rgb.shape[1] / WIDTH)
        """How much smaller it was made."""
        self.height, self.width = size
        self._buffers = buffers
        grey, small, soft = rgb, *(buffers.array(name, size, np.uint8) for name in ("small grey", "soft grey"))
        if rgb.ndim == 3:
            grey = buffers.array("grey", rgb.shape[:2], np.uint8)
            cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY, grey)
        if self.factor > 1:
            cv2.resize(grey, (self.width, self.height), small, interpolation=cv2.INTER_AREA)
            grey = small
        cv2.GaussianBlur(grey, (0, 0), 0.8, soft)
        self._gradients = [self._gradient(soft, name, *along) for name, along in (("across", (1, 0)), ("down", (0, 1)))]

    def _gradient(self, grey: NDArray[np.uint8], name: str, x: int, y: int) -> NDArray[np.uint8]:
        """In parts of STEEPEST."""
        steep = self._buffers.array(f"steep {name}", grey.shape, np.int16)
        cv2.Sobel(grey, cv2.CV_16S, x, y, steep)  # 8 times the grey levels a pixel
        gradient = self._buffers.array(f"gradient {name}", grey.shape, np.uint8)
        cv2.convertScaleAbs(steep, gradient, alpha=256 / (8 * STEEPEST))
        return gradient

    def blurred(self, deviation: float) -> list[NDArray[np.uint8]]:
        """Gradients across and down, blurred so far."""
        made = []
        for name, gradient in zip(("blurred across", "blurred down"), self._gradients, strict=True):
            made.append(self._buffers.array(name, gradient.shape, np.uint8))
            cv2.GaussianBlur(gradient, (0, 0), deviation, made[-1])
        return made

    def fit(
        self, points: FloatImage, stages: tuple[Stage, ...], start: Alignment, fineness: float, number: int = 0
    ) -> Fit:
        """The alignment near `start` at which the gradients at the depth edges are largest.

        points: of `depth_edges`.  fineness: the least blur, pixels.  number: which of the SEARCHES.
        """
        before, after = np.empty((2, points.shape[1]), np.float32)
        best, first = np.array(start), 0
        for stage in stages:
            images = self.blurred(max(fineness, stage.blur))
            trials = _TRIALS[number, first : first + stage.trials]
            reach, usual = (np.array(a.enlarged(self.width / WIDTH)) for a in (stage.reach, SEARCH[0].reach))
            _search(*images, points, best, reach, usual, trials, after)
            first += stage.trials
        without, along = (_sum(*images, points, move, to) for move, to in ((np.zeros(4), before), (best, after)))
        gains = after - before
        certainty = float(gains.mean() / max(1e-6, gains.std()) * len(gains) ** 0.5)
        gain, strength = along / max(1e-6, without), along / max(1, len(gains))
        return Fit(Alignment(*best.tolist()), gain, certainty, strength)


def grid_of(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of the image in which the edges of a colour image are looked for."""
    factor = max(1.0, rgb.shape[1] / WIDTH)
    height, width = (max(1, round(side / factor)) for side in rgb.shape[:2])
    return height, width


def depth_edges(depth: FloatImage, width: int, height: int) -> FloatImage:
    """Where the depth (hxw metres, NaN invalid) steps between two flat surfaces: 4xn, some hundreds of places.

    x and y from the centre, in pixels of a colour image of `width` x `height`; 1 / z of the nearer side; and whether it
    steps along a row (1) or a column (0).
    """
    limits = np.float32(SMALLEST_STEP), np.float32(FLAT)
    nowhere = np.empty((4, 0), np.float32)
    found = _edges(depth, *limits, 0, 0, 1, nowhere)
    every = max(1, found // MOST)
    points = np.empty((4, -(-found // every)), np.float32)
    _edges(depth, *limits, width / depth.shape[1], height / depth.shape[0], every, points)
    return points


_POINTS = types.float32[:, ::1]
_GRADIENT = types.uint8[:, ::1]
_PARAMETERS = types.float64[::1]


@compiled(
    types.int64(any_image(types.float32, 2), *4 * (types.float32,), types.int64, _POINTS),
    nogil=True, error_model="numpy",
)  # fmt: skip
def _edges(depth, smallest, flat, across, down, every, out):  # type: ignore[no-untyped-def]
    """How many there are; every `every`-th is written, as far as there is room."""
    height, width = depth.shape
    count = 0
    for along in range(2):
        dx, dy = along, 1 - along
        for y in range(2 * dy, height - 2 * dy):
            for x in range(2 * dx, width - 2 * dx):
                p, a, b = depth[y - 2 * dy, x - 2 * dx], depth[y - dy, x - dx], depth[y, x]
                c, n = depth[y + dy, x + dx], depth[y + 2 * dy, x + 2 * dx]
                # Between this pixel and the next; or within this one, where it is a mean of both sides.
                step, near, place = abs(c - b), min(b, c), np.float32(1)
                clear = abs(b - a) < flat * step and abs(n - c) < flat * step
                if not clear:
                    step, near = abs(c - a), min(a, c)
                    if not (abs(a - p) < flat * step and abs(n - c) < flat * step):  # NaN, too
                        continue
                    share = (b - a) / (c - a)
                    if not (share > 0.15 and share < 0.85):
                        continue
                    place = 1 - share
                if not step > smallest * near:
                    continue
                i = count // every
                if count % every == 0 and i < out.shape[1]:
                    out[0, i] = (x + (place if along else 0.5) - 0.5 * width) * across
                    out[1, i] = (y + (0.5 if along else place) - 0.5 * height) * down
                    out[2, i] = 1 / near
                    out[3, i] = along
                count += 1
    return count


@compiled(
    types.float64(_GRADIENT, _GRADIENT, _POINTS, _PARAMETERS, types.float32[::1]),
    nogil=True, fastmath=True, error_model="numpy",
)  # fmt: skip
def _sum(across, down, points, move, values):  # type: ignore[no-untyped-def]
    """Sum of the gradients across the depth edges, moved; `values`: each of them."""
    height, width = across.shape
    total = 0.0
    for i in range(points.shape[1]):
        x = 0.5 * width + points[0, i] * (1 + move[0]) + move[1] + points[2, i] * move[3]
        y = 0.5 * height + points[1, i] * (1 + move[0]) + move[2]
        column, row = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
        value = across[row, column] if points[3, i] else down[row, column]
        values[i] = value
        total += value
    return total


@compiled(types.float64(_PARAMETERS, _PARAMETERS), nogil=True, error_model="numpy")
def _likelihood(move, usual):  # type: ignore[no-untyped-def]
    """What a move's sum is worth: less, the larger it is against usual ones.

    Else, where all edges are about as far away, a shift and the opposite parallax may grow without end; and all edges
    may shrink onto one bright spot.
    """
    square = 0.0
    for j in range(4):
        square += (move[j] / usual[j]) ** 2
    return max(0.0, 1 - UNLIKELY * square)


@compiled(
    types.void(
        _GRADIENT, _GRADIENT, _POINTS, _PARAMETERS, _PARAMETERS, _PARAMETERS, types.float64[:, ::1], types.float32[::1]
    ),
    nogil=True, error_model="numpy",
)  # fmt: skip
def _search(across, down, points, best, reach, usual, trials, values):  # type: ignore[no-untyped-def]
    """Moves `best` to the best of the trials around it, which draw nearer and nearer."""
    most = _sum(across, down, points, best, values) * _likelihood(best, usual)
    trial = best.copy()
    for i in range(len(trials)):
        share = 1 - 0.9 * i / len(trials)
        for j in range(4):
            trial[j] = best[j] + share * reach[j] * trials[i, j]
        total = _sum(across, down, points, trial, values) * _likelihood(trial, usual)
        if total > most:
            most = total
            best[:] = trial
