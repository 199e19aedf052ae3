"""What this machine allows: the least time of a frame's convolutions and of its deformable average.

Both are an amount of work over the highest rate at which this machine was seen to do such work, in the same run, with
the same threads, between the frames that are timed:

    convolutions  multiply-adds of the layers of both towers     over those a second of a large matrix product or 3 x 3
                                                                 convolution in the same number type, the faster of both
    average       bytes of the heads of both towers, which are   over those a second of a large sum
                  read once, of the depth and of the result
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dkn_ros.benchmark.timing import Contender, Run, View
from dkn_ros.clock import StageClock
from dkn_ros.depth import to_metres
from dkn_ros.models.fdkn import FDKN, STRIDE
from dkn_ros.pipeline import Pipeline

CONVOLUTIONS, AVERAGE = "convolutions", "average"
STAGES = {CONVOLUTIONS: ("guidance", "target"), AVERAGE: ("average",)}
"""The stages of a frame that a floor is held against; they do a little more than it counts."""
READ = "read"
"""The yardstick of the average."""
WORK = "work"
"""The one stage of what `on_device` runs."""


@dataclass(frozen=True)
class Amounts:
    """How large the yardsticks are: far larger than caches, and long enough for a clock."""

    side: int
    """Of the matrices."""
    rows: int
    """Of the image that is convolved, which has 4/3 as many columns and 128 channels."""
    megabytes: int
    """That are read; of 2^20 bytes."""


AMOUNTS = {"cpu": Amounts(1024, 48, 256), "cuda": Amounts(8192, 960, 1024)}


@dataclass(frozen=True)
class Yardstick:
    """Work of a known amount that a machine does as fast as it can."""

    amount: float
    """Multiply-adds or bytes."""
    contender: Contender

    @property
    def rate(self) -> float:
        """The highest seen, of the amount a second."""
        return self.amount / (1e-3 * min(self.contender.stages[WORK]))


class Yardsticks:
    """Those of one device: `READ`, and for each number type those of arithmetic."""

    def __init__(self, device: torch.device, kinds: Iterable[torch.dtype], amounts: Amounts | None = None) -> None:
        amounts = amounts or AMOUNTS[device.type]
        self.cover = Cover(device, amounts.megabytes)
        numbers = self.cover.numbers
        self._by_name = {READ: self._yardstick(4 * len(numbers), numbers.sum)}
        for kind in dict.fromkeys(kinds):
            for name, (amount, work) in _arithmetic(device, kind, amounts).items():
                self._by_name[f"{name}, {named(kind)}"] = self._yardstick(amount, work)

    def _yardstick(self, amount: float, work: Callable[[], object]) -> Yardstick:
        return Yardstick(amount, Contender(on_device(work, self.cover), aside=True))

    def contenders(self, *names: str) -> list[Contender]:
        """To be timed; all of them without names."""
        return [self._by_name[name].contender for name in names or self._by_name]

    @property
    def rates(self) -> dict[str, float]:
        """Name -> multiply-adds or bytes a second, of those that were timed last."""
        return {name: yardstick.rate for name, yardstick in self._by_name.items() if yardstick.contender.milliseconds}


class Cover:
    """Work that keeps a GPU busy while the host queues up what is to be timed; nothing on a CPU.

    Without it the time of a short kernel would be that of its launch.  It also leaves nothing of the past in the GPU's
    caches.
    """

    def __init__(self, device: torch.device, megabytes: int) -> None:
        self.numbers = torch.zeros(megabytes << 18, device=device)

    def __call__(self) -> None:
        """Queue it up."""
        if self.numbers.is_cuda:
            self.numbers.zero_()


def on_device(work: Callable[[], object], cover: Cover) -> Run:
    """Something to be timed as the stage `WORK`, by the device's own clock, under cover."""

    def run(_: View) -> Mapping[str, float]:
        cover()
        clock = StageClock(cover.numbers.device)
        with clock.stage(WORK), torch.inference_mode():
            work()
        return {WORK: clock.timings()[WORK]}

    return run


@torch.inference_mode()
def _arithmetic(
    device: torch.device, kind: torch.dtype, amounts: Amounts
) -> dict[str, tuple[float, Callable[[], object]]]:
    """Name -> multiply-adds and work."""
    side, rows, columns, channels = amounts.side, amounts.rows, 4 * amounts.rows // 3, 128
    layer = nn.Conv2d(channels, channels, 3, padding=1, device=device)
    each = float(side**3), float(layer.weight.numel() * rows * columns)
    image = torch.rand((1, channels, rows, columns), device=device).to(memory_format=torch.channels_last)
    product: Callable[[], object]
    convolution: Callable[[], object]
    if kind == torch.int8:
        from dkn_ros.models.eight_bit import Convolution, largest_weight

        numbers, pixels = torch.ones((side, side), dtype=kind, device=device), (255 * image).to(torch.uint8)
        eight_bit = Convolution(layer, 1.0, largest_weight(), 1.0, torch.uint8)
        product, convolution = partial(torch._int_mm, numbers, numbers), partial(eight_bit, pixels)
    else:
        matrix = torch.randn((side, side), device=device).to(kind)
        layer.to(kind).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        product, convolution = partial(torch.matmul, matrix, matrix), partial(layer, image.to(kind))
    return {"matrix product": (each[0], product), "3 x 3 convolution": (each[1], convolution)}


def multiply_adds(model: FDKN, height: int, width: int) -> int:
    """Of the convolutions of both towers for images of that size: each weight is used once for every 4 x 4 block."""
    blocks = math.ceil(height / STRIDE) * math.ceil(width / STRIDE)
    towers = [tower for tower in (model.guidance, model.target) if tower is not None]
    layers = [layer for tower in towers for layer in tower.modules() if isinstance(layer, nn.Conv2d)]
    return blocks * sum(layer.weight.numel() for layer in layers)


def average_bytes(heads: Sequence[Tensor], height: int, width: int) -> int:
    """What the average must read and write for an image of that size: heads, depth and result, each once.

    heads: of both towers for an image of any size, which tell their number and type.
    """
    blocks = math.ceil(height / STRIDE) * math.ceil(width / STRIDE)
    return blocks * sum(head.shape[1] * head.element_size() for head in heads) + 2 * 4 * height * width


def heads_of(pipeline: Pipeline, view: View) -> list[Tensor]:
    """The heads of both towers, as the pipeline makes them, of a corner of a frame."""
    rgb, depth = view.rgb[:64, :64].copy(), to_metres(view.depth[:16, :16].copy())
    _, target = pipeline.prepare(rgb, depth)
    _, guidance, own = pipeline.heads(rgb, target)
    return [*(guidance or ()), *own]


def floors(
    pipeline: Pipeline, view: View, rates: Mapping[str, float], stages: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """`CONVOLUTIONS` and `AVERAGE` -> milliseconds that they take at least, of how much work at which rate.

    rates: of `Yardsticks`.  stages: milliseconds of a frame's stages, which `ratio` holds against the floor.
    """
    measured = to_metres(view.depth)
    _, target = pipeline.prepare(view.rgb, measured)
    height, width = target.image.shape
    kind = named(pipeline.precision)
    arithmetic = {name: rate for name, rate in rates.items() if name.endswith(f", {kind}")}
    amounts = {
        CONVOLUTIONS: (float(multiply_adds(pipeline.model, height, width)), "multiply-adds", arithmetic),
        AVERAGE: (float(average_bytes(heads_of(pipeline, view), height, width)), "bytes", {READ: rates[READ]}),
    }
    found = {}
    for name, (amount, unit, known) in amounts.items():
        by = max(known, key=lambda one: known[one])
        # A path whose stages are others has a floor all the same.
        taken = sum(stages[stage] for stage in STAGES[name]) if stages.keys() >= set(STAGES[name]) else None
        floor = 1e3 * amount / known[by]
        found[name] = {
            "ms": floor, "amount": amount, "unit": unit, "rate_per_s": known[by], "rate_by": by,
            "measured_ms": taken, "ratio": None if taken is None else taken / floor,
        }  # fmt: skip
    return found


def named(kind: torch.dtype) -> str:
    """torch.bfloat16 -> bfloat16."""
    return str(kind).removeprefix("torch.")
