"""The deformable average alone, in its forms, and what the machine's memory allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dkn_ros.benchmark.floors import READ, WORK, Yardsticks, average_bytes, named, on_device
from dkn_ros.benchmark.published import bytes_available, bytes_needed
from dkn_ros.benchmark.timing import Contender, View, race
from dkn_ros.depth import to_metres
from dkn_ros.engine import TRITON, Engine
from dkn_ros.models.fdkn import Heads, sampling_grid
from dkn_ros.pipeline import Pipeline
from dkn_ros.preprocess import shrink
from dkn_ros.sampling import WINDOW, deformable_average, published, reference
from dkn_ros.sampling.fused import Finish


@torch.inference_mode()
def average_alone(
    pipeline: Pipeline, view: View, yardsticks: Yardsticks, as_published: bool, frames: int, bar: tqdm
) -> dict[str, Any]:
    """Milliseconds of the deformable average in its forms, on kernels that the network makes of a frame.

    From kernels to depth as the published code, plain PyTorch and `dkn_ros.sampling` do it; and from what the towers
    predict to depth, in plain PyTorch, as the pipeline does it, and where that is Triton its kernel alone.
    """
    model, device = pipeline.model, pipeline.device
    height, width = view.rgb.shape[:2]
    _, target = pipeline.prepare(view.rgb, to_metres(view.depth), None)
    rows, columns = target.image.shape
    image, guidance_heads, target_heads = pipeline.heads(shrink(view.rgb, columns, rows), target)
    # Contiguous, whatever the towers leave: no form pays for a layout that it did not choose.
    weight, offset = (kernel.contiguous() for kernel in model.kernels(guidance_heads, target_heads))

    def eager() -> Tensor:
        kernels = model.kernels(guidance_heads, target_heads)
        filtered = reference.deformable_average(image, *kernels, WINDOW)
        return image + filtered if model.options.residual else filtered

    forms: dict[str, Callable[[], Tensor]] = {
        "published": lambda: published.deformable_average(image, weight, offset, WINDOW),
        "plain": lambda: reference.deformable_average(image, weight, offset, WINDOW),
        "sampling": lambda: deformable_average(image, weight, offset),
        "plain_from_heads": eager,
        "pipeline_from_heads": lambda: pipeline.engine.filter(image, guidance_heads, target_heads),
    }
    if not as_published or (bytes_available(device) or 1 << 62) < bytes_needed(width, height, model):
        del forms["published"]
    if pipeline.engine.way.average == TRITON:
        forms["kernel_from_heads"] = kernel(pipeline.engine, image, guidance_heads, target_heads)
    contenders = {name: Contender(on_device(form, yardsticks.cover), aside=True) for name, form in forms.items()}
    race([*contenders.values(), *yardsticks.contenders(READ)], [view], device, frames, bar)
    median = {name: float(np.median(contender.stages[WORK])) for name, contender in contenders.items()}
    rate, amount = yardsticks.rates[READ], average_bytes([*(guidance_heads or ()), *target_heads], rows, columns)
    floor, best = 1e3 * amount / rate, median.get("kernel_from_heads", median["pipeline_from_heads"])
    return {
        "width": width, "height": height, "device": str(device), "precision": named(pipeline.precision),
        "threads": pipeline.threads, "ms": median, "speedup": median["plain"] / median["sampling"],
        "speedup_from_heads": median["plain_from_heads"] / median["pipeline_from_heads"],
        "floor": {"ms": floor, "bytes": amount, "bytes_per_s": rate, "ratio": best / floor},
    }  # fmt: skip


def kernel(engine: Engine, image: Tensor, guidance_heads: Heads | None, target_heads: Heads) -> Callable[[], Tensor]:
    """What `Engine.filter` does by Triton, with everything that the kernel reads in place before."""
    from dkn_ros.sampling import cuda  # only where there is Triton

    options = engine.model.options
    grid, scale = sampling_grid(options)
    depth = image[0, 0].float().contiguous()
    out, grid = torch.empty_like(depth), grid.to(depth.device)
    finish = torch.tensor(Finish().numbers(), dtype=torch.float32).to(depth.device)
    guided = None if guidance_heads is None else (guidance_heads[0][0], guidance_heads[1][0])
    heads = target_heads[0][0], target_heads[1][0]

    def run() -> Tensor:
        with torch.cuda.device_of(depth):
            cuda.launch(depth, guided, heads, options.residual, grid, scale, out, finish, None, logits=False)
        return out[None, None]

    return run
