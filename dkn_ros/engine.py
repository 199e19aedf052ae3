"""The network on one device, by one way of running it: towers made ready and the average in one of its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.blocks import guidance_blocks, target_blocks
from dkn_ros.buffers import Buffers
from dkn_ros.device import bfloat16_gain, exact_float32, heads_kind, resolve_precision
from dkn_ros.models.fdkn import FDKN, STRIDE, Heads, pad, sampling_grid
from dkn_ros.models.inference import prepared
from dkn_ros.preprocess import Target, shrink
from dkn_ros.sampling.fused import Finish, average_of_heads

FloatImage = NDArray[np.float32]
TowerLayers = Callable[[Tensor], Heads]

NUMBA, TRITON, PYTORCH = "numba", "Triton", "PyTorch"
CLOSE = 1e-3
"""Largest difference of Triton's result on a trial from that of plain operations; of images in 0..1."""


@dataclass(frozen=True)
class Way:
    """Where the network runs, and the form of the deformable average there."""

    device: torch.device
    average: str
    """NUMBA on a CPU; TRITON or PYTORCH, which is plain operations, on a GPU."""

    def __str__(self) -> str:
        return f"{self.device} with {self.average}"


class TritonError(RuntimeError):
    """Triton cannot serve here: it is missing, does not compile, does not start, or gives wrong numbers."""


def check_precision(requested: str, device: torch.device) -> None:
    """Raise ValueError unless an engine on this device can work in this precision, see `device.resolve_precision`."""
    if resolve_precision(requested, device, bfloat16_gain) == torch.int8:
        from dkn_ros.models.eight_bit import largest_weight

        largest_weight()


class Engine:
    """Towers and average, ready for frames; for one thread at a time.

    precision: float32, bfloat16, float16, int8 or auto, see `device.resolve_precision`.
    Raises RuntimeError, as PyTorch does, for a device that cannot be used, TritonError after a trial of its kernel, and
    ValueError for a precision that the device does not have.
    """

    def __init__(self, model: FDKN, way: Way, precision: str = "auto") -> None:
        self.model, self.way = model, way
        self.device = way.device
        self.precision = resolve_precision(precision, self.device, bfloat16_gain)
        self.kind = torch.float32 if self.device.type == "cpu" else self.precision
        """Number type of the blocks that the towers take; on a CPU see `inference.WideFirst`."""
        exact_float32(self.device)
        self._guidance, self._target = self._towers()
        self._grid, self._offset_scale = sampling_grid(model.options)
        self._grid = self._grid.to(self.device)
        if way.average == TRITON:
            self._try_triton()

    def _towers(self) -> tuple[TowerLayers | None, TowerLayers | None]:
        """The guidance tower's layers, if there are any, and the target tower's."""
        if self.precision == torch.int8:
            # Here, not above: only who uses it waits for the compiled code that renders scenes.
            from dkn_ros.models.eight_bit import eight_bit_towers
            from dkn_ros.synthetic.samples import typical_crops

            kind = heads_kind(self.precision, bfloat16_gain)
            o = self.model.options
            return eight_bit_towers(self.model, kind, typical_crops(o.rgb, alignment=o.alignment))
        guidance, target = (
            tower and prepared(tower, self.device, self.precision) for tower in (self.model.guidance, self.model.target)
        )
        return guidance, target

    @torch.inference_mode()
    def look(self, rgb: NDArray[np.uint8], size: tuple[int, int], buffers: Buffers) -> Heads | None:
        """The guidance tower's heads for a colour image at `size` (height, width); None for a depth-only network."""
        if self._guidance is None:
            return None
        small = shrink(rgb, size[1], size[0], buffers)
        return self._guidance(self._given(guidance_blocks(small, self.model.options, buffers)))

    @torch.inference_mode()
    def target_heads(self, target: Target, buffers: Buffers) -> Heads:
        """The target tower's heads; their weights, as those of `look`, come before the sigmoid."""
        assert self._target is not None
        return self._target(self._given(target_blocks(target, self.model.options, buffers)))

    def _given(self, blocks: Tensor) -> Tensor:
        return blocks.to(self.device).to(self.kind)

    @torch.inference_mode()
    def average(
        self,
        guidance_heads: Heads | None,
        target_heads: Heads,
        image: FloatImage,
        finish: Finish,
        out: FloatImage,
        buffers: Buffers,
    ) -> None:
        """Filter `image` by what `look` and `target_heads` gave, finish it and write it into `out`; both HxW."""
        if self.way.average == PYTORCH:
            padded = pad(torch.from_numpy(image)[None, None].to(self.device))
            filtered = self.model.filter(padded, guidance_heads and activated(guidance_heads), activated(target_heads))
            height, width = out.shape
            finish.apply(filtered[0, 0, :height, :width].float().cpu().numpy(), image, out)
            return
        grid, scale, residual = self._grid, self._offset_scale, self.model.options.residual
        guided = None if guidance_heads is None else (guidance_heads[0][0], guidance_heads[1][0])
        heads = target_heads[0][0], target_heads[1][0]
        if self.way.average == NUMBA:
            average_of_heads(image, guided, heads, residual, grid.numpy(), scale, out, finish, buffers, logits=True)
            return
        depth = torch.from_numpy(image).to(self.device)
        distance = None if finish.distance is None else torch.from_numpy(finish.distance).to(self.device)
        torch.from_numpy(out).copy_(self._by_triton(depth, guided, heads, finish, distance, logits=True))

    @torch.inference_mode()
    def filter(self, target: Tensor, guidance_heads: Heads | None, target_heads: Heads) -> Tensor:
        """As `FDKN.filter`, with tensors of this device and a batch of one."""
        if self.way.average != TRITON:
            return self.model.filter(target, guidance_heads, target_heads)
        guided = None if guidance_heads is None else (guidance_heads[0][0], guidance_heads[1][0])
        heads = target_heads[0][0], target_heads[1][0]
        return self._by_triton(target[0, 0].float(), guided, heads, Finish(), None, logits=False)[None, None]

    @torch.inference_mode()
    def guidance_heads_of(self, blocks: Tensor) -> Heads | None:
        """`look` of blocks that are on the device already; None for a depth-only network."""
        return None if self._guidance is None else self._guidance(blocks)

    @torch.inference_mode()
    def target_heads_of(self, blocks: Tensor) -> Heads:
        """`target_heads` of blocks that are on the device already."""
        assert self._target is not None
        return self._target(blocks)

    @torch.inference_mode()
    def average_of(
        self, guidance_heads: Heads | None, target_heads: Heads, image: Tensor, finish: Tensor,
        distance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`average` on the device, where nothing waits for it.

        image, distance: HxW float32.  finish: 6 float32, `Finish.numbers`; without a distance the last means nothing.
        """
        if self.way.average == TRITON:
            guided = None if guidance_heads is None else (guidance_heads[0][0], guidance_heads[1][0])
            heads = target_heads[0][0], target_heads[1][0]
            return self._by_triton(image.contiguous(), guided, heads, finish, distance, logits=True)
        height, width = image.shape
        guided = guidance_heads and activated(guidance_heads)
        total = self.model.filter(pad(image[None, None]), guided, activated(target_heads))[0, 0, :height, :width]
        strength, low, span, least, most, reach = finish.unbind()
        value = torch.lerp(image, total.float(), strength).clamp(least, most)
        value = torch.addcmul(low, span, value)
        return value if distance is None else torch.where(distance > reach, torch.nan, value)

    def _by_triton(
        self, depth: Tensor, guidance: Heads | None, target: Heads, finish: Finish | Tensor, distance: Tensor | None,
        logits: bool,
    ) -> Tensor:  # fmt: skip
        result, grid, residual = torch.empty_like(depth), self._grid, self.model.options.residual
        given = depth, guidance, target, residual, grid, self._offset_scale, result
        with triton_at_work():
            from dkn_ros.sampling import cuda

            if isinstance(finish, Finish):
                cuda.average_of_heads(*given, finish, distance, logits)
            else:
                with torch.cuda.device_of(depth):  # Triton launches on the current device
                    cuda.launch(*given, finish, distance, logits)
        return result

    @torch.inference_mode()
    def _try_triton(self) -> None:
        """Run the kernel on a small image and compare: compilers of another age and new hardware can surprise."""
        chance, rows, columns = torch.Generator().manual_seed(0), 3, 5
        count = len(self._grid)
        heads = [
            torch.randn(1, channels, rows, columns, generator=chance).to(self.device, self.precision)
            for channels in (16 * count, 32 * count)
        ]
        image = torch.rand(STRIDE * rows, STRIDE * columns, generator=chance).numpy()
        guidance, target = (heads[0], heads[1]) if self.model.options.guided else None, (heads[0], heads[1])
        found = np.empty_like(image)
        self.average(guidance, target, image, Finish(), found, Buffers())
        wide = (heads[0].float(), heads[1].float())
        padded = torch.from_numpy(image)[None, None].to(self.device)
        filtered = self.model.filter(padded, guidance and activated(wide), activated(wide))
        wanted = filtered[0, 0].cpu().numpy()
        difference = float(np.abs(found - wanted).max())
        if not difference < CLOSE:
            raise TritonError(f"its result on a trial is off by {difference:.3g}")


@contextmanager
def triton_at_work() -> Iterator[None]:
    """Make a TritonError of what goes wrong inside, except that memory is short."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # its compiler, the linker that it calls and its driver raise what they like
        raise TritonError(first_line(error)) from error


def activated(heads: Heads) -> Heads:
    """Heads with their weights through the sigmoid, as `FDKN.filter` takes them."""
    return torch.sigmoid(heads[0]), heads[1]


def first_line(error: BaseException) -> str:
    """What an error says, without the advice and stack that PyTorch and Triton add; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
