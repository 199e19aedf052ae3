"""The published way through a whole frame, which the benchmark measures the pipeline against, and whether it fits.

Same weights, same input, same preparation and same result within rounding, see `test_benchmark.py`; what differs is how
the network is run: as the authors' code runs it, float32, NCHW, eager, every window cut out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.buffers import Buffers
from dkn_ros.depth import to_metres
from dkn_ros.device import exact_float32
from dkn_ros.models.fdkn import FDKN, pad
from dkn_ros.models.pruning import widened
from dkn_ros.pipeline import Pipeline
from dkn_ros.postprocess import LEAST_SHARE, back_project
from dkn_ros.resampling import resample
from dkn_ros.sampling import WINDOW, published
from dkn_ros.weights import load_model

FloatImage = NDArray[np.float32]


@torch.inference_mode()
def published_filter(
    model: FDKN, guidance: Tensor | None, target: Tensor, validity: Tensor | None = None, traits: Tensor | None = None
) -> Tensor:
    """What the model itself gives, the published way; takes and returns what `FDKN.forward` does."""
    height, width = target.shape[-2:]
    guidance_heads = None
    if model.guidance is not None:
        assert guidance is not None
        guidance_heads = model.guidance(pad(guidance))
    target = pad(target)
    target_heads = model.target_heads(target, None if validity is None else pad(validity), traits)
    weight, offset = model.kernels(guidance_heads, target_heads)
    filtered = published.deformable_average(target, weight, offset, WINDOW)
    return (target + filtered if model.options.residual else filtered)[..., :height, :width]


class Published:
    """Guided depth upsampling the published way, with the weights and on the device of a pipeline.

    The network has its channels as in the paper, with those that were pruned.  Its float32 has all of its digits on a
    GPU too, where PyTorch would convolve with 10 bits of them (TF32).  It fills no holes by a pass of the network and
    marks no pixel invalid: for depth without holes, where the pipeline does neither.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        model, self._card = load_model(pipeline.config.weights)  # its own: the pipeline changes number types
        self._model = widened(model)
        exact_float32(pipeline.device)
        self._model.to(pipeline.device)

    def enhance(self, rgb: NDArray[np.uint8], depth: NDArray) -> FloatImage:
        """HxW metres; rgb and depth as in `Pipeline.enhance`."""
        height, width = rgb.shape[:2]
        measured = to_metres(depth)
        guidance, target = self._pipeline.prepare(rgb, measured, None)
        given = guidance[None], target.image[None, None], target.validity[None, None], target.traits.encoded()[None]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            result = published_filter(self._model, *map(self._tensor, given))
        filtered: FloatImage = result[0, 0].cpu().numpy()
        strength = np.float32(self._card.strength_at(target.ratio, target.traits.antialiased))
        filtered = target.image + strength * (filtered - target.image)
        metres = np.float32(target.low) + np.clip(filtered, 0, 1) * np.float32(target.high - target.low)
        share = self._card.back_projection * target.traits.trust(target.ratio)
        if share >= LEAST_SHARE:
            back_project(metres, measured, share, Buffers())
        return np.clip(resample(metres, width, height), target.low, target.high)

    def _tensor(self, array: FloatImage) -> Tensor:
        return torch.from_numpy(array).to(self._pipeline.device)


def bytes_needed(width: int, height: int, model: FDKN) -> int:
    """About what a frame takes the published way, beyond the loaded model."""
    pixels, count = width * height, model.options.kernel_size**2
    # Weights and offsets, 3 numbers a sample: of two towers, their products, shuffled, less their mean.
    heads = 4 * pixels * 3 * count * 5
    return heads + published.bytes_needed(pixels, count, WINDOW)


def bytes_available(device: torch.device) -> int | None:
    """Memory that is free on the device; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    free = 1024 * int(found["MemAvailable"].split()[0]) if "MemAvailable" in found else None
    limit = _container_limit()
    return min(free, limit) if free is not None and limit is not None else free


def _container_limit() -> int | None:
    """What the control group of a container leaves, if it has a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
    except OSError:
        return None
    return int(most) - int(used) if most.isdecimal() else None
