"""The network as an ONNX file, for runtimes other than PyTorch, such as TensorRT on a Jetson.

ONNX has no deformable average, but GridSample, which reads the whole image and not a window around every pixel.  The
window's edge comes back as a factor: bilinear sampling is separable, and along each axis a sample t pixels beyond the
window's outermost pixel, 0 < t < 1, is that pixel times 1 - t, and 0 from there on.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkn_ros.models.fdkn import FDKN, pad
from dkn_ros.sampling import WINDOW
from dkn_ros.weights import load_model

OPSET = 18
"""What PyTorch's exporter writes by itself; its conversion to 17 fails.  GridSample came with 16."""
LARGEST = 8192
NEEDED = ("onnx", "onnxscript")


class Exportable(nn.Module):
    """An FDKN by operations that ONNX has: the arguments that its options ask for, in the order of `FDKN.forward`.

    Of a batch of one.  Offsets must be finite.
    """

    def __init__(self, model: FDKN) -> None:
        super().__init__()
        self.model = model

    def inputs(self, width: int, height: int) -> dict[str, Tensor]:
        """Name -> an example of every input, see `FDKN.forward`."""
        o = self.model.options
        found = {"guidance": torch.rand(1, 3 if o.rgb else 1, height, width)} if o.guided else {}
        found["target"] = torch.rand(1, 1, height, width)
        if o.validity:
            found["validity"] = torch.rand(1, 1, height, width)
        if o.traits:
            found["traits"] = torch.rand(1, o.told)
        return found

    def forward(self, *images: Tensor) -> Tensor:
        """Returns 1x1xHxW as `FDKN.forward` does."""
        o, given = self.model.options, iter(images)
        guidance = self.model.guidance(pad(next(given))) if self.model.guidance is not None else None
        target = next(given)
        height, width = target.shape[-2:]
        target = pad(target)
        validity = pad(next(given)) if o.validity else None
        heads = self.model.target_heads(target, validity, next(given) if o.traits else None)
        filtered = windowed_average(target, *self.model.kernels(guidance, heads))
        return (target + filtered if o.residual else filtered)[..., :height, :width]


def windowed_average(depth: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """`sampling.deformable_average` of a batch of one by one GridSample."""
    _, _, height, width = depth.shape
    count, radius = weight.shape[1], WINDOW // 2
    size = round(count**0.5)
    n = torch.arange(count)
    neighbours = torch.stack((n // size, n % size), dim=1) - size // 2
    moved = offset.reshape(count, 2, height, width) + neighbours.to(offset).view(count, 2, 1, 1)
    edge = (radius + 1 - moved.abs()).clamp(0, 1)
    moved = moved.clamp(-radius, radius)
    # Pixel centres of an axis of `side` pixels lie at (2 i + 1) / side - 1.
    columns = 2 * torch.arange(width, dtype=torch.float32) + 1 - width
    rows = 2 * torch.arange(height, dtype=torch.float32) + 1 - height
    x = (2 * moved[:, 0] + columns.view(1, 1, width)) / width
    y = (2 * moved[:, 1] + rows.view(1, height, 1)) / height
    grid = torch.stack((x, y), dim=-1).reshape(1, count * height, width, 2)
    samples = F.grid_sample(depth, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.reshape(1, count, height, width) * (edge[:, 0] * edge[:, 1])[None]
    return (weight * samples).sum(dim=1, keepdim=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself and about packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_size(text: str) -> tuple[int, int]:
    """Width and height of "640x480"; ValueError for what is no size."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise ValueError(f"size is {text!r}; wanted: WIDTHxHEIGHT in pixels, such as 640x480, each at most {LARGEST}")
    return width, height


def export_onnx(source: str, width: int, height: int, output: Path) -> dict[str, list[int]]:
    """Write the network of a shipped name or a weight file as ONNX, for images of one size and a batch of one.

    Returns name -> shape of its inputs.  Raises WeightsError for the weights and ValueError for an output that has
    another suffix or no folder, and where the packages that write ONNX are not installed.
    """
    if output.suffix != ".onnx":
        raise ValueError(f"output is {output}; wanted: a name that ends with .onnx")
    if not output.parent.is_dir():
        raise ValueError(f"no folder {output.parent} for {output.name}; make it first")
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"ONNX is written by packages that are missing; install: pip install {' '.join(missing)}")
    model, card = load_model(source)
    network = Exportable(model).eval()
    inputs = network.inputs(width, height)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network, tuple(inputs.values()), input_names=list(inputs), output_names=["filtered"],
            opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    about = {"weights": card.name, "sha256": card.sha256, "licence": card.licence}
    about["strength"] = json.dumps(card.strength)
    program.model.metadata_props.update({f"dkn_ros.{name}": value for name, value in about.items()})
    program.save(output)
    return {name: list(value.shape) for name, value in inputs.items()}
