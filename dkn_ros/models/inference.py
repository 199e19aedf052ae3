"""A tower made ready to run: the same numbers as `Tower.layers`, without its batch norms.

What else was measured at 640 x 480 on two cores (AMD EPYC with avx512_bf16, PyTorch 2.13, both towers, medians in
turns), and is not worth its weight:

    bfloat16   PyTorch 68 ms, with the batch norms folded 66, with oneDNN's fused ReLU (no public interface) 64,
               torch.compile 63 (and 11 s at the start), OpenVINO 2026 66
    float32    PyTorch 138 ms, fused ReLU 131, torch.compile 129, OpenVINO 132, ONNX Runtime 164
    AVX2 only  PyTorch, float32 137 ms, fused ReLU 132; bfloat16 869
    int8       by ten thousandths of the image's range 34 off at the 99th percentile, where bfloat16 is 7 off
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dkn_ros.models.fdkn import Heads, Tower


def prepared(tower: Tower, device: torch.device, precision: torch.dtype) -> Callable[[Tensor], Heads]:
    """The tower's layers for inference on a device and in a number type, channels last; the tower stays as it is."""
    folded = copy.deepcopy(tower).eval()
    for name in ("conv1", "conv3", "conv5"):
        convolution, norm = getattr(folded, name), getattr(folded, f"{name}_bn")
        setattr(folded, name, fuse_conv_bn_eval(convolution, norm))
        setattr(folded, f"{name}_bn", nn.Identity())
    folded.to(device, precision).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded.layers
