"""Units and the invalid rule of depth images, once.

REP 118: canonical depth is float32 in metres with NaN (or an infinity, REP 117) where there is no measurement; the raw
form is uint16 in millimetres with 0 for invalid.  (0x7FF, which PrimeSense devices report for invalid, is a raw
disparity: drivers turn it into 0 before they send millimetres, in which 2047 is a depth like any other.)
Inside the package depth is float32 metres with NaN.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.compiled import any_image, compiled

MILLIMETRES_PER_METRE = 1000.0
LARGEST_MILLIMETRES = 65535
NO_RETURN = 65535
"""In uint16 millimetres, where some sensors write it for what gave no echo: no camera of this kind sees 65 m."""


def check_depth(depth: NDArray) -> None:
    """Raise ValueError unless `depth` is a non-empty hxw image of uint16 millimetres or float32 metres."""
    if depth.ndim != 2 or depth.size == 0 or depth.dtype not in (np.uint16, np.float32):
        raise ValueError(
            f"depth is {depth.dtype} of shape {depth.shape}; wanted: HxW, uint16 millimetres or float32 metres"
        )


def to_metres(
    depth: NDArray, min_depth: float = 0.0, max_depth: float = 0.0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Depth in float32 metres with NaN where invalid.

    depth: hxw uint16 millimetres (0 and 65535 invalid) or float32 metres (NaN, infinities, 0 and below invalid).
    min_depth, max_depth: metres; nearer and farther depth is invalid; max_depth 0 is no limit.
    out: hxw, is written and returned; without it a new array is.
    """
    check_depth(depth)
    metres = np.empty(depth.shape, np.float32) if out is None else out
    # Divided, not multiplied by 0.001: rounds to what the same number of metres is in float32.
    unit = MILLIMETRES_PER_METRE if depth.dtype == np.uint16 else 1.0
    farthest = max_depth if max_depth > 0.0 else np.finfo(np.float32).max
    if depth.dtype == np.uint16:
        farthest = min(farthest, (NO_RETURN - 0.5) / MILLIMETRES_PER_METRE)
    _measured(depth, np.float32(unit), np.float32(min_depth), np.float32(farthest), metres)
    return metres


def to_millimetres(metres: NDArray[np.float32], out: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """Depth in uint16 millimetres, rounded, 0 where `metres` is NaN, negative or beyond 65.535 m.

    out: of the same shape, is written and returned; without it a new array is.
    """
    millimetres = np.empty(metres.shape, np.uint16) if out is None else out
    _rounded(metres, millimetres)
    return millimetres


@compiled(
    *(
        types.void(any_image(kind, 2), *3 * (types.float32,), types.float32[:, ::1])
        for kind in (types.uint16, types.float32)
    ),
    nogil=True,
    error_model="numpy",
)
def _measured(depth, unit, nearest, farthest, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            metres = np.float32(depth[y, x]) / unit
            # NaN compares false with everything and lands on the invalid side, infinity is farther than the farthest.
            known = metres > np.float32(0) and metres >= nearest and metres <= farthest
            out[y, x] = metres if known else np.float32(np.nan)


@compiled(types.void(any_image(types.float32, 2), types.uint16[:, ::1]), nogil=True, error_model="numpy")
def _rounded(metres, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            millimetres = np.rint(metres[y, x] * np.float32(MILLIMETRES_PER_METRE))
            known = millimetres > np.float32(0) and millimetres <= np.float32(LARGEST_MILLIMETRES)
            out[y, x] = np.uint16(millimetres) if known else np.uint16(0)
