"""What the network did at one pixel: where it sampled the depth, with which weights, and what came of it.

As in Figure 13 of arXiv 1910.08373.  `figures_kernels.py` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.lattice import Margins
from dkn_ros.pipeline import Pipeline
from dkn_ros.postprocess import reach
from dkn_ros.preprocess import Target, check_rgb, shrink
from dkn_ros.sampling import WINDOW, deformable_average

FloatImage = NDArray[np.float32]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """The kernel of one pixel: output = input + sum of `contributions`."""

    x: int
    """Column of the pixel on the colour grid."""
    y: int
    """Row of the pixel on the colour grid."""
    positions: FloatArray
    """Nx2, x and y of the samples in pixels of the colour grid; whole numbers are pixel centres."""
    weights: FloatArray
    """N; their sum is 0 in a residual network, else 1."""
    values: FloatArray
    """N, the samples in metres.  What counts as 0 for the network is the nearest depth of the frame in metres."""
    inside: FloatArray
    """N, the share of each sample, 0..1, that lies inside the window and the image; the rest counts as 0."""
    input_depth: float
    """Metres at the pixel before the network: upsampled, holes filled."""
    output_depth: float
    """Metres at the pixel after the network, before anything else is done to it."""
    centre: tuple[float, float]
    """x and y of the network's pixel, the middle of its window; the pixel itself unless `step` is not 1."""
    step: tuple[float, float]
    """Width and height of the network's pixels in pixels of the colour grid; 1 unless it works on a grid of its own."""
    depth: FloatImage
    """Metres on the network's grid, the upsampled input that was sampled."""

    @property
    def contributions(self) -> FloatArray:
        """N, metres by which each sample moves the pixel: weight * (value - input).

        For weights whose sum is 0 or 1 the sum is the network's change of the pixel, in both of its forms.
        """
        return self.weights * (self.values - self.input_depth)


@dataclass(frozen=True)
class _Pass:
    """The network's pass at full resolution, up to the average."""

    target: Target
    padded: Tensor
    """1x1xHxW, `target.image` on the network's grid, of multiples of the stride."""
    weight: Tensor
    """1xNxHxW."""
    offset: Tensor
    """1x2NxHxW."""

    def metres(self, value: FloatArray | FloatImage) -> NDArray:
        """From the target's scale."""
        return self.target.low + (self.target.high - self.target.low) * value


def check_pixel(x: int, y: int, width: int, height: int) -> None:
    """Raise ValueError unless column `x` and row `y` lie in a `width` x `height` image."""
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"pixel to explain is {x},{y}; wanted: column 0 to {width - 1}, row 0 to {height - 1} of the colour image"
        )


def explain(
    pipeline: Pipeline, rgb: NDArray[np.uint8], depth: NDArray, pixels: Sequence[tuple[int, int]]
) -> list[Explanation]:
    """What the network did at some pixels (x, y), column and row on the grid of `rgb`; it runs once for all.

    rgb and depth: as in `Pipeline.enhance`.
    Raises ValueError as that does, for a pixel outside the image and for one whose output is invalid, because no valid
    depth lies within `fill_distance`.
    """
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    for x, y in pixels:
        check_pixel(x, y, width, height)
    rgb, depth, margins = pipeline.framed(rgb, depth)
    made = _full_pass(pipeline, rgb, depth)
    height, width = rgb.shape[:2]
    left, top = margins.left, margins.top
    distance, farthest = reach(made.target, width, height), pipeline.config.fill_distance
    for x, y in pixels:
        if distance[y + top, x + left] > farthest:
            raise ValueError(
                f"pixel to explain is {x},{y}, {distance[y + top, x + left]:.1f} pixels from valid depth; "
                f"wanted: at most {farthest:g} (fill_distance), beyond it the output is invalid"
            )
    image = made.metres(made.target.image)
    rows, columns = image.shape
    step = width / columns, height / rows
    found = [_explain_pixel(pipeline, made, image, x + left, y + top, step) for x, y in pixels]
    return [_without(explained, margins, (height, width)) for explained in found]


def _without(explained: Explanation, margins: Margins, wide: tuple[int, int]) -> Explanation:
    """As seen on the images without their margins; wide: height and width with them.

    Where the network's pixels are larger than one, the margins of the depth are cut to whole ones of them.
    """
    (x, y), (across, down) = explained.centre, explained.step
    rows, columns = round((wide[0] - margins.bottom) / down), round((wide[1] - margins.right) / across)
    return replace(
        explained,
        x=explained.x - margins.left,
        y=explained.y - margins.top,
        positions=explained.positions - (margins.left, margins.top),
        centre=(x - margins.left, y - margins.top),
        depth=explained.depth[round(margins.top / down) : rows, round(margins.left / across) : columns],
    )


def _full_pass(pipeline: Pipeline, rgb: NDArray[np.uint8], depth: NDArray) -> _Pass:
    """What `Pipeline.enhance` does up to the kernels."""
    metres = pipeline.metres(depth, (rgb.shape[0], rgb.shape[1]))
    if np.isnan(metres).all():
        raise ValueError("depth holds no valid pixel, so no pixel can be explained; wanted: at least one")
    rgb = pipeline.guide(rgb, metres)
    _, target = pipeline.prepare(rgb, metres, pipeline.guess(rgb, metres))
    height, width = target.image.shape
    padded, guidance_heads, target_heads = pipeline.heads(shrink(rgb, width, height), target)
    with torch.inference_mode():
        return _Pass(target, padded, *pipeline.model.kernels(guidance_heads, target_heads))


@torch.inference_mode()
def _explain_pixel(
    pipeline: Pipeline, made: _Pass, depth: FloatImage, x: int, y: int, step: tuple[float, float]
) -> Explanation:
    # The network's pixel that covers the middle of this one.
    column, row = int((x + 0.5) / step[0]), int((y + 0.5) / step[1])
    centre = np.array(((column + 0.5) * step[0] - 0.5, (row + 0.5) * step[1] - 0.5))
    patch, ones = _window(made.padded, column, row), _window(torch.ones_like(made.padded), column, row)
    weight, offset = made.weight[0, :, row, column], made.offset[0, :, row, column]
    average = pipeline.model.average(patch, _everywhere(weight[None]), _everywhere(offset[None]))
    size = pipeline.model.options.kernel_size
    spread = np.arange(size) - size // 2
    regular = np.stack((spread.repeat(size), np.tile(spread, size)), axis=1)
    return Explanation(
        x=x,
        y=y,
        positions=centre + step * (regular + _numbers(offset).reshape(-1, 2)),
        weights=_numbers(weight),
        values=made.metres(_sample(patch, offset)),
        inside=_sample(ones, offset),
        input_depth=float(made.metres(_centre(patch)).item()),
        output_depth=float(made.metres(_centre(average)).item()),
        centre=(float(centre[0]), float(centre[1])),
        step=step,
        depth=depth,
    )


def _sample(patch: Tensor, offset: Tensor) -> FloatArray:
    """The N samples of the pixel in the middle of a 1x1x15x15 window, for its offsets 2N.

    They come from the network's own operation, by averages that have one weight of 1 and no other.
    """
    count = offset.shape[0] // 2
    alone = torch.eye(count, device=patch.device)
    patches = patch.repeat(count, 1, 1, 1)
    return _centre(deformable_average(patches, _everywhere(alone), _everywhere(offset.repeat(count, 1))))


def _window(image: Tensor, column: int, row: int) -> Tensor:
    """1x1x15x15 around a pixel of 1x1xHxW, zeros where it leaves the image: all that the average can see."""
    return F.pad(image, (WINDOW // 2,) * 4)[..., row : row + WINDOW, column : column + WINDOW].contiguous()


def _everywhere(kernel: Tensor) -> Tensor:
    """BxC -> BxCx15x15, the same at every pixel."""
    return kernel[..., None, None].repeat(1, 1, WINDOW, WINDOW)


def _centre(windows: Tensor) -> FloatArray:
    """Bx1x15x15 -> B."""
    return _numbers(windows[:, 0, WINDOW // 2, WINDOW // 2])


def _numbers(tensor: Tensor) -> FloatArray:
    return tensor.double().cpu().numpy()
