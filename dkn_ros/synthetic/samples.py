"""What a network is trained on: crops of procedural scenes seen through random cameras."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.config import TrainingConfig
from dkn_ros.preprocess import guidance_image, target_image
from dkn_ros.synthetic.degradation import degrade, random_camera
from dkn_ros.synthetic.scene import Scene

FloatImage = NDArray[np.float32]

FRAME_WIDTH, FRAME_HEIGHT = 640, 480
RATIOS = {1: 0.04, 2: 0.14, 3: 0.04, 4: 0.25, 6: 0.05, 8: 0.40, 12: 0.03, 16: 0.05}
"""How often each ratio of colour to depth size is drawn."""


@dataclass(frozen=True)
class Sample:
    """One crop, on the colour grid and scaled as the network sees it."""

    guidance: FloatImage  # Cxcropxcrop
    target: FloatImage  # cropxcrop, as are those below
    validity: FloatImage
    truth: FloatImage


class SceneStore:
    """Rendered scenes in memory: uint8 colour and float32 depth."""

    def __init__(self, count: int, seed: int, progress: bool = True) -> None:
        self.frames: list[tuple[NDArray[np.uint8], FloatImage]] = []
        for i in tqdm(range(count), desc="scenes", unit="scene", disable=not progress):
            rng = np.random.default_rng((seed, 1, i))
            frame = Scene(int(rng.integers(2**31))).frame(FRAME_WIDTH, FRAME_HEIGHT, time=float(rng.uniform(0, 20)))
            self.frames.append((frame.rgb, frame.depth))

    def draw(self, config: TrainingConfig, rng: np.random.Generator, soft_edges: float = 0.0) -> Sample:
        """A random crop of a random scene through a random camera; `soft_edges` of them have blurred true depth."""
        factor = int(rng.choice(list(RATIOS), p=list(RATIOS.values())))
        camera = random_camera(rng, factor)
        while True:
            rgb, depth = self.frames[int(rng.integers(len(self.frames)))]
            rgb, truth = _crop(rgb, depth, config, rng)
            if soft_edges and rng.random() < soft_edges:
                # Else the network makes every edge a step, also where sensor and truth have a slope.
                truth = np.asarray(cv2.GaussianBlur(truth, (0, 0), float(rng.uniform(0.4, 1.6))), np.float32)
            low = degrade(truth, camera, rng)
            if not np.isnan(low).all():
                break
        if rng.random() < 0.15:  # so that disparities and inverse depth work too
            truth, low, depth = (np.float32(1) / image for image in (truth, low, depth))
        target = target_image(low, config.crop, config.crop)
        span = target.high - target.low
        # A crop shows a part of its frame's depth range; as in a whole frame, it shall fill a part of 0..1.  Sometimes
        # it fills all of it, with the truth: a thin object that the camera missed must not lie far outside.
        widest = max(float(truth.max()), target.high) - min(float(truth.min()), target.low)
        whole = widest if rng.random() < 0.25 else max(widest, float(np.ptp(depth) * rng.uniform(0.7, 1.3)))
        share = span / whole
        start, sign = rng.uniform(0, 1 - share), 1.0
        if rng.random() < 0.15:
            start, sign = 1 - start, -1.0
        image, true = (start + sign * share * part for part in (target.image, (truth - target.low) / span))
        guidance = guidance_image(_colour_variation(rgb, rng), bool(config.options.get("rgb", False)))
        return Sample(guidance, image.astype(np.float32), target.validity, true.astype(np.float32))


def _crop(
    rgb: NDArray[np.uint8], depth: FloatImage, config: TrainingConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], FloatImage]:
    """The same square of both images, the colour sometimes shifted, both sometimes mirrored."""
    size = config.crop
    reach = int(config.misregistration) if rng.random() < 0.2 else 0
    y = int(rng.integers(reach, depth.shape[0] - size - reach + 1))
    x = int(rng.integers(reach, depth.shape[1] - size - reach + 1))
    dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
    colour, crop = rgb[y + dy : y + dy + size, x + dx : x + dx + size], depth[y : y + size, x : x + size]
    if rng.random() < 0.5:
        colour, crop = colour[:, ::-1], crop[:, ::-1]
    if rng.random() < 0.2:
        colour, crop = colour[::-1], crop[::-1]
    return np.ascontiguousarray(colour), np.ascontiguousarray(crop)


def _colour_variation(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another exposure, gamma or sharpness of the same picture."""
    image = rgb.astype(np.float32) / 255
    if rng.random() < 0.5:
        image = np.clip(image * rng.uniform(0.5, 1.5), 0, 1) ** np.float32(rng.uniform(0.7, 1.5))
    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.5))), np.float32)
    if rng.random() < 0.3:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.05))
    return np.asarray(np.clip(image * 255, 0, 255), np.uint8)
