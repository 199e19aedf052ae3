"""Images of a camera whose colour does not lie on its depth, in a way that is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dkn_ros.edges import Alignment

FloatImage = NDArray[np.float32]
WIDTH, HEIGHT = 640, 480
NOTHING = Alignment()
KINECT = Alignment(-0.1, 4.0, 1.5, -16.0)
"""About what the colour camera of a Kinect that nobody registers sees of its depth."""


def boxes(alignment: Alignment, seed: int = 0, grey: bool = False) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colour and depth, 640 x 480, of grey boxes before a wall, the colour lying as `alignment` says."""
    rng = np.random.default_rng(seed)
    depth = np.full((HEIGHT, WIDTH), 4.0, np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for z in np.linspace(3.5, 1.0, 24):
        size, centre = rng.uniform(40, 110, 2), rng.uniform((-280, -200), (280, 200))
        light = int(rng.integers(20, 235))
        corners = np.array([centre - size / 2, centre + size / 2])
        shift = np.array((alignment.right + alignment.parallax / z, alignment.down))
        for where, out, value in (
            (corners, depth, float(z)),
            (corners * (1 + alignment.scale) + shift, image, (light, light, light)),
        ):
            (left, top), (right, bottom) = np.rint(where + np.array((WIDTH / 2, HEIGHT / 2))).astype(int)
            out[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = value
    noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    return (np.ascontiguousarray(noisy[..., 0]) if grey else noisy), depth
