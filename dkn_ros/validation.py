"""How good a network in training is on scenes that it does not see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from dkn_ros.models import FDKN
from dkn_ros.preprocess import guidance_image, target_image
from dkn_ros.synthetic.degradation import CameraModel, degrade
from dkn_ros.synthetic.scene import Scene

SCENES = 6
SEED = 900_000_000


def ratios(network: FDKN, device: torch.device) -> dict[str, float]:
    """RMSE over bicubic's RMSE, for each ratio and camera; below 1 is better."""
    return {
        f"x{factor}_{name}": float(np.mean(list(_ratios(network, device, camera))))
        for factor in (2, 4, 8)
        for name, camera in (
            ("clean", CameraModel(factor, "bicubic")),
            ("sensor", CameraModel(factor, "nearest", lateral_noise=0.3, disparity_noise=0.1, shadows=1.0)),
        )
    }


def _ratios(network: FDKN, device: torch.device, camera: CameraModel) -> Iterator[float]:
    for i in range(SCENES):
        frame = Scene(SEED + i).frame(320, 240, time=1.0)
        low = degrade(frame.depth, camera, np.random.default_rng(i))
        height, width = frame.depth.shape
        target = target_image(low, width, height)
        truth = (frame.depth - target.low) / (target.high - target.low)
        with torch.inference_mode():
            tensors = [torch.from_numpy(a)[None, None].to(device) for a in (target.image, target.validity)]
            guidance = torch.from_numpy(guidance_image(frame.rgb, network.options.rgb))[None].to(device)
            traits = torch.from_numpy(target.traits.encoded())[None].to(device)
            output = network(guidance, *tensors, traits)
        known = target.validity[6:-6, 6:-6] > 0
        error = (output[0, 0].cpu().numpy() - truth)[6:-6, 6:-6][known]
        baseline = (target.image - truth)[6:-6, 6:-6][known]
        yield float(np.sqrt(np.mean(error**2) / np.mean(baseline**2)))
