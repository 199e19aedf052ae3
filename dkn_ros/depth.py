"""Units and the invalid rule of depth images, once.

REP 118: canonical depth is float32 in metres with NaN (or an infinity, REP 117) where there is no measurement; the raw
form is uint16 in millimetres with 0 for invalid.  (0x7FF, which PrimeSense devices report for invalid, is a raw
disparity: drivers turn it into 0 before they send millimetres, in which 2047 is a depth like any other.)
Inside the package depth is float32 metres with NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MILLIMETRES_PER_METRE = 1000.0
LARGEST_MILLIMETRES = 65535


def check_depth(depth: NDArray) -> None:
    """Raise ValueError unless `depth` is a non-empty hxw image of uint16 millimetres or float32 metres."""
    if depth.ndim != 2 or depth.size == 0 or depth.dtype not in (np.uint16, np.float32):
        raise ValueError(
            f"depth is {depth.dtype} of shape {depth.shape}; wanted: HxW, uint16 millimetres or float32 metres"
        )


def to_metres(depth: NDArray, min_depth: float = 0.0, max_depth: float = 0.0) -> NDArray[np.float32]:
    """Depth in float32 metres with NaN where invalid.

    depth: hxw uint16 millimetres (0 invalid) or float32 metres (NaN, infinities, 0 and below invalid).
    min_depth, max_depth: metres; nearer and farther depth is invalid; max_depth 0 is no limit.
    """
    check_depth(depth)
    if depth.dtype == np.uint16:
        metres = depth.astype(np.float32)
        metres /= np.float32(MILLIMETRES_PER_METRE)  # rounds to what the same number of metres is in float32
    else:
        metres = depth.astype(np.float32, copy=True)
    farthest = max_depth if max_depth > 0.0 else np.inf
    # Written so that NaN, which compares false with everything, lands on the invalid side; inf fails `isfinite`.
    known = (metres > 0.0) & (metres >= np.float32(min_depth)) & (metres <= np.float32(farthest)) & np.isfinite(metres)
    metres[~known] = np.nan
    return metres


def to_millimetres(metres: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth in uint16 millimetres, rounded, 0 where `metres` is NaN, negative or beyond 65.535 m."""
    with np.errstate(invalid="ignore"):
        millimetres = np.rint(metres * np.float32(MILLIMETRES_PER_METRE))
        known = (millimetres > 0) & (millimetres <= LARGEST_MILLIMETRES)
    return np.where(known, millimetres, 0).astype(np.uint16)
