"""Coloured point clouds: one point a pixel, as depth_image_proc lays them out.

A point is 32 bytes (sensor_msgs' PointCloud2Modifier with "xyz" and "rgb", which depth_image_proc's
point_cloud_xyzrgb.cpp uses): float32 x, y, z at 0, 4 and 8, colour as 0x00RRGGBB at 16, the rest is padding.
Where depth is invalid x, y and z are NaN.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from dkn_ros.compiled import any_image, compiled

FloatImage = NDArray[np.float32]

POINT_STEP = 32
"""Bytes of a point."""
OFFSETS = {"x": 0, "y": 4, "z": 8, "rgb": 16}
"""Field -> byte of a point at which it begins; each is 4 bytes long and said to be a float32."""
_WORDS = POINT_STEP // 4


def write_points(depth: FloatImage, rgb: NDArray[np.uint8], rays: FloatImage, out: NDArray[np.uint8]) -> None:
    """Write the points of a frame into `out`, HxWx32 bytes, C-contiguous; its padding is left as it is.

    depth: HxW metres along the optical axis, NaN invalid.  rgb: HxWx3 (red green blue) or HxW, uint8.
    rays: HxWx2 float32, x / z and y / z of what each pixel sees, NaN where that is not known, see `Calibration.rays`.
    Raises ValueError where the sizes do not fit together.
    """
    size = depth.shape
    if rgb.shape[:2] != size or rays.shape != (*size, 2) or out.shape != (*size, POINT_STEP):
        given = f"depth is {depth.shape}, rgb {rgb.shape}, rays {rays.shape}, out {out.shape}"
        raise ValueError(f"{given}; wanted: HxW, HxWx3 or HxW, HxWx2 and HxWx{POINT_STEP}")
    coloured = rgb if rgb.ndim == 3 else np.broadcast_to(rgb[..., None], (*size, 3))
    _points(depth, coloured, rays, out.view(np.float32), out.view(np.uint32))


@compiled(
    types.void(
        any_image(types.float32, 2), any_image(types.uint8, 3), any_image(types.float32, 3),
        types.float32[:, :, ::1], types.uint32[:, :, ::1],
    ),
    nogil=True, parallel=True, error_model="numpy",
)  # fmt: skip
def _points(depth, rgb, rays, floats, words):  # type: ignore[no-untyped-def]
    """floats, words: the same HxWx8 memory."""
    for v in numba.prange(depth.shape[0]):
        for u in range(depth.shape[1]):
            x, y, z = rays[v, u, 0] * depth[v, u], rays[v, u, 1] * depth[v, u], depth[v, u]
            if x != x or y != y:  # a point is known or not: no pixel without a ray has a depth
                x = y = z = np.float32(np.nan)
            floats[v, u, 0], floats[v, u, 1], floats[v, u, 2] = x, y, z
            colour = (np.uint32(rgb[v, u, 0]) << np.uint32(16)) | (np.uint32(rgb[v, u, 1]) << np.uint32(8))
            words[v, u, 4] = colour | np.uint32(rgb[v, u, 2])
