"""A tower made ready to run: the same numbers as `Tower.layers`, without its batch norms.

What else was measured at 640 x 480 on two cores (AMD EPYC with avx512_bf16, PyTorch 2.13, both towers, medians in ms):

                as trained  folded  + oneDNN's fused ReLU  torch.compile  OpenVINO 2026.4  ONNX Runtime 1.31
    bfloat16            72      69                     66             63               66                  -
    float32            138     136                    129            130              132                163
    AVX2, float32      137     140                    137              -              141                170

The fused ReLU has no public interface, torch.compile wants 11 s and a compiler at the start, OpenVINO 180 MB.  What
8-bit integers take, see `eight_bit`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dkn_ros.models.fdkn import Heads, Tower


def folded(tower: Tower) -> Tower:
    """A copy of a tower whose batch norms have become part of the convolutions before them."""
    copied = copy.deepcopy(tower).eval()
    for name in ("conv1", "conv3", "conv5"):
        convolution, norm = getattr(copied, name), getattr(copied, f"{name}_bn")
        setattr(copied, name, fuse_conv_bn_eval(convolution, norm))
        setattr(copied, f"{name}_bn", nn.Identity())
    return copied


class WideFirst(nn.Module):
    """A convolution in float32 whose result goes on in another number type.

    The depth of a frame has more digits than bfloat16, and of all roundings that of the images changes the result most.
    With `fdkn` on five public data sets (command in `eight_bit`) the 99th percentile of bfloat16's difference to
    float32 fell from 0.8 .. 5.3 to 0.4 .. 4.4 mm; it costs 2 % of both towers' time.
    """

    def __init__(self, layer: nn.Conv2d, kind: torch.dtype) -> None:
        super().__init__()
        self._layer, self._kind = layer, kind

    def forward(self, image: Tensor) -> Tensor:
        """BxCxHxW float32 -> what the layer makes of it, of the other type."""
        result: Tensor = self._layer(image).to(self._kind)
        return result


def prepared(tower: Tower, device: torch.device, precision: torch.dtype) -> Callable[[Tensor], Heads]:
    """The tower's layers for inference on a device and in a number type, channels last; the tower stays as it is.

    What they take is of that type, on a CPU float32.
    """
    ready = folded(tower)
    first = copy.deepcopy(ready.conv1)
    ready.to(device, precision)
    if device.type == "cpu" and precision != torch.float32:
        ready.conv1 = WideFirst(first, precision)  # type: ignore[assignment]
    ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready.layers
