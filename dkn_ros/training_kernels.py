"""Triton's kernels for the training of a network: tried on the GPU at hand before they are trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from dkn_ros.engine import TritonError, first_line
from dkn_ros.models.fdkn import FDKN, STRIDE

CLOSE = 1e-3
"""Largest difference of a gradient on a trial from that of plain operations, in parts of its largest number."""


def use_triton(model: FDKN, device: torch.device) -> None:
    """Let Triton's kernels train `model` on `device`, after a trial against plain operations.

    Raises TritonError, in one line, where they cannot, and leaves the model to plain operations.
    """
    chance, rows, columns = torch.Generator().manual_seed(0), 3, 5
    channels = 16 * model.options.kernel_size**2
    shapes = [(2, channels, rows, columns), (2, 2 * channels, rows, columns)] * (2 if model.options.guided else 1)
    given = [torch.rand(shape, generator=chance).to(device) for shape in shapes]
    image = torch.rand(2, 1, STRIDE * rows, STRIDE * columns, generator=chance).to(device)
    importance = torch.rand(image.shape, generator=chance).to(device) - 0.4

    def found() -> list[Tensor]:
        """The result and the gradient of every head, for a loss that weighs each pixel in its own way."""
        heads = [head.clone().requires_grad_() for head in given]
        guidance = (heads[0], heads[1]) if model.options.guided else None
        own = heads[-2], heads[-1]
        result = (
            model.filter(image, guidance, own) if model.triton else model.average(image, *model.kernels(guidance, own))
        )
        return [result.detach(), *torch.autograd.grad((result * importance).sum(), heads)]

    model.triton = False
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        wanted = found()
        model.triton = True
        try:
            differences = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found(), wanted, strict=True)]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # its compiler, the linker that it calls and its driver raise what they like
            model.triton = False
            raise TritonError(first_line(error)) from error
    if not max(differences) < CLOSE:
        model.triton = False
        raise TritonError(f"its gradient on a trial is off by {max(differences):.3g}")
