"""What a network is trained on: crops of procedural scenes seen through random cameras."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dkn_ros.config import TrainingConfig
from dkn_ros.preprocess import Target, guidance_image, target_image
from dkn_ros.synthetic.cameras import antialiasing_believed, distance_believed, random_camera
from dkn_ros.synthetic.degradation import degrade, lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.synthetic.sensor import grained_noise, wobbled
from dkn_ros.traits import Traits

FloatImage = NDArray[np.float32]

FRAME_WIDTH, FRAME_HEIGHT = 640, 480
RATIOS = {1: 0.14, 2: 0.13, 3: 0.06, 4: 0.27, 6: 0.06, 8: 0.30, 12: 0.02, 16: 0.02}
"""How often each ratio of colour to depth size is drawn, where it is not any ratio."""
ANY_RATIO = 0.2
"""Share of the crops whose ratio is any number, another one for each axis."""
TYPICAL_SEED = 800_000_000


_RECORD = np.dtype(
    [("rgb", np.uint8, (FRAME_HEIGHT, FRAME_WIDTH, 3)), ("depth", np.float32, (FRAME_HEIGHT, FRAME_WIDTH))]
)


@dataclass(frozen=True)
class Sample:
    """One crop, on the colour grid and scaled as the network sees it."""

    guidance: FloatImage  # Cxcropxcrop
    target: FloatImage  # cropxcrop, as are those below
    validity: FloatImage
    truth: FloatImage
    traits: FloatImage  # 3, see `Traits.encoded`


class SceneStore:
    """Rendered scenes, uint8 colour and float32 depth: in memory, or in a file that several processes map."""

    def __init__(self, count: int, seed: int, progress: bool = True) -> None:
        self.path: Path | None = None
        self.frames = [_rendered(seed, i) for i in _counted(range(count), progress)]

    @classmethod
    def of_file(cls, path: Path) -> SceneStore:
        """The scenes of a file that `make_file` made and `render_into` filled; in memory as far as they are used."""
        store = cls(0, 0, progress=False)
        store.path = path
        store.frames = [(frame["rgb"], frame["depth"]) for frame in np.asarray(np.memmap(path, _RECORD, "r"))]
        return store

    @staticmethod
    def make_file(path: Path, count: int) -> None:
        """Reserve the file for so many scenes; raises OSError where the disk has no room, not when it is written."""
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, count * _RECORD.itemsize)
            file.truncate(count * _RECORD.itemsize)

    @staticmethod
    def render_into(path: Path, seed: int, share: range, progress: bool = True) -> None:
        """Render a share of the scenes into their places in the file."""
        records = np.memmap(path, _RECORD, "r+")
        for i in _counted(share, progress):
            records[i] = _rendered(seed, i)

    def draw(self, config: TrainingConfig, rng: np.random.Generator) -> Sample:
        """A random crop of a random scene through a random camera."""
        ratios = random_ratios(config.crop, rng)
        while True:
            camera = random_camera(rng, *ratios, noiseless=config.noiseless)  # another one, too, if it saw nothing
            rgb, depth = self.frames[int(rng.integers(len(self.frames)))]
            rgb, truth, beside = _crop(rgb, depth, config, _zoom(config.crop, ratios, rng), rng)
            truth, wander = _recorded(truth, config, rng)
            low = degrade(truth, camera, rng, rgb)
            if not np.isnan(low).all():
                break
        if rng.random() < 0.15:  # so that disparities and inverse depth work too
            truth, low, depth = (np.float32(1) / image for image in (truth, low, depth))
        target = target_image(low, config.crop, config.crop, _guess(low, truth, rng))
        image, true, share = _placed(target, truth, float(np.ptp(depth)), rng)
        traits = Traits(antialiasing_believed(camera, rng), target.traits.noise * share)
        if config.options.get("alignment", False):  # else no number is drawn: as the crops of other recipes were
            distance = distance_believed(float(np.hypot(beside, wander)), rng)
            traits = traits._replace(aligned=float(np.exp(-distance / 2)))
        guidance = guidance_image(_colour_variation(rgb, rng), bool(config.options.get("rgb", False)))
        return Sample(guidance, image, target.validity, true, traits.encoded())


def _rendered(seed: int, number: int) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colour and depth of one scene of a training."""
    rng = np.random.default_rng((seed, 1, number))
    frame = Scene(int(rng.integers(2**31))).frame(FRAME_WIDTH, FRAME_HEIGHT, time=float(rng.uniform(0, 20)))
    return frame.rgb, frame.depth


def _counted(numbers: range, progress: bool) -> Iterable[int]:
    return tqdm(numbers, desc="scenes", unit="scene", disable=not progress)


def typical_crops(colour: bool = False, count: int = 60, scenes: int = 4, alignment: bool = False) -> list[Sample]:
    """A few crops as a training draws them, the same ones at every call.

    colour: guidance of three channels.  alignment: with the third of `Traits`.
    """
    options = {"rgb": colour, "alignment": alignment}
    store, config = SceneStore(scenes, TYPICAL_SEED, progress=False), TrainingConfig(crop=144, options=options)
    return [store.draw(config, np.random.default_rng((TYPICAL_SEED, 2, i))) for i in range(count)]


def random_ratios(crop: int, rng: np.random.Generator) -> tuple[float, float]:
    """Ratios of the widths and heights such that a crop has a whole number of pixels of depth."""
    if rng.random() >= ANY_RATIO:
        ratio = int(rng.choice(list(RATIOS), p=list(RATIOS.values())))
        return ratio, ratio
    x = float(np.exp(rng.uniform(0, np.log(10))))
    y = max(1.0, x * float(rng.uniform(0.55, 1.0)))
    return crop / max(1, round(crop / x)), crop / max(1, round(crop / y))


def _zoom(crop: int, ratios: tuple[float, float], rng: np.random.Generator) -> int:
    """How many pixels of the scene a pixel of the crop covers.

    More than one only where depth is about as fine as colour: such crops stand for small images, which the pipeline
    looks at to fill holes, see `Pipeline`.
    """
    largest = min(3, FRAME_HEIGHT // crop)
    return int(rng.integers(1, largest + 1)) if max(ratios) <= 2.5 and rng.random() < 0.6 else 1


def _crop(
    rgb: NDArray[np.uint8], depth: FloatImage, config: TrainingConfig, zoom: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], FloatImage, float]:
    """The same square of both images, the colour sometimes shifted, both sometimes mirrored or made smaller.

    The last is how far edges are shifted across themselves, root mean square, in pixels of the crop.
    """
    size = config.crop * zoom
    reach = int(config.misregistration) if rng.random() < config.misregistered else 0
    reach = min(reach, (depth.shape[0] - size) // 2)
    # Half of all places show a bare wall, which soon teaches nothing more: most of them are passed over.
    for _ in range(1 if rng.random() < 0.25 else 4):
        y = int(rng.integers(reach, depth.shape[0] - size - reach + 1))
        x = int(rng.integers(reach, depth.shape[1] - size - reach + 1))
        if _has_edges(depth[y : y + size, x : x + size]):
            break
    dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
    colour, crop = rgb[y + dy : y + dy + size, x + dx : x + dx + size], depth[y : y + size, x : x + size]
    if zoom > 1:
        colour = np.asarray(cv2.resize(colour, (config.crop, config.crop), interpolation=cv2.INTER_AREA), np.uint8)
        crop = lower(crop, zoom, "nearest" if rng.random() < 0.6 else "area")
    if rng.random() < 0.5:
        colour, crop = colour[:, ::-1], crop[:, ::-1]
    if rng.random() < 0.2:
        colour, crop = colour[::-1], crop[::-1]
    return np.ascontiguousarray(colour), np.ascontiguousarray(crop), float(np.hypot(dy, dx)) / 2**0.5 / zoom


def _has_edges(depth: FloatImage) -> bool:
    """Whether more than a few pixels of an image lie beside a depth step."""
    coarse = depth[::4, ::4]
    steps = np.abs(np.diff(coarse, axis=1))[1:] + np.abs(np.diff(coarse, axis=0))[:, 1:]
    return bool(np.mean(steps > 0.08 * coarse[1:, 1:]) > 0.015)


def _recorded(truth: FloatImage, config: TrainingConfig, rng: np.random.Generator) -> tuple[FloatImage, float]:
    """True depth as the references of real frames show it, and how far its outlines wander, pixels.

    Sensors record it, so outlines wander and surfaces wave.

    A network that learned on perfect truth alone makes every depth edge a step at the colour edge, also where sensor
    and truth have a slope or another outline.
    """
    wander = 0.0
    if rng.random() < config.rough_truth:
        wander = float(rng.uniform(0.0, 2.0))
        truth = wobbled(truth, wander, float(rng.uniform(2.0, 6.0)), rng)
        relief = grained_noise(truth.shape, float(rng.uniform(4.0, 12.0)), rng)
        truth = truth * (1 + np.float32(0.006 * rng.random()) * relief)
    if config.soft_edges and rng.random() < config.soft_edges:
        truth = np.asarray(cv2.GaussianBlur(truth, (0, 0), float(rng.uniform(0.4, 1.6))), np.float32)
    return truth, wander


def _guess(low: FloatImage, truth: FloatImage, rng: np.random.Generator) -> FloatImage | None:
    """Sometimes a good guess of what lies in the holes, as a coarse pass makes it; else the nearest fill must do."""
    if rng.random() < 0.65 or not np.isnan(low).any():
        return None
    ratios = truth.shape[1] / low.shape[1], truth.shape[0] / low.shape[0]
    guess = truth if max(ratios) == 1 else lower(truth, ratios[0], "area", factor_y=ratios[1])
    guess = wobbled(guess, 1.5 * float(rng.random()), 3.0, rng)
    return np.asarray(cv2.GaussianBlur(guess, (0, 0), float(rng.uniform(0.3, 2.0))), np.float32)


def _placed(
    target: Target, truth: FloatImage, frame_range: float, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage, float]:
    """Target and truth somewhere in 0..1, or upside down in it, and how much of 0..1 the target's range fills.

    A crop shows a part of its frame's depth range; as in a whole frame, it shall fill a part of 0..1.  Sometimes it
    fills all of it, with the truth: a thin object that the camera missed must not lie far outside.
    """
    span = target.high - target.low
    widest = max(float(truth.max()), target.high) - min(float(truth.min()), target.low)
    whole = widest if rng.random() < 0.25 else max(widest, frame_range * float(rng.uniform(0.7, 1.3)))
    share = span / whole
    start, sign = float(rng.uniform(0, 1 - share)), 1.0
    if rng.random() < 0.15:
        start, sign = 1 - start, -1.0
    image, true = (start + sign * share * part for part in (target.image, (truth - target.low) / span))
    return image.astype(np.float32), true.astype(np.float32), share


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
