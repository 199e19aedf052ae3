"""The deformable average: the compiled form against the plain one, and both against the paper's slow patch form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dkn_ros.sampling import WINDOW, cpu, deformable_average, reference

RADIUS = WINDOW // 2
Average = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# batch, height, width, kernel size: odd sizes, strips, one pixel, images smaller than the window.
SHAPES = [(1, 21, 30, 3), (2, 9, 11, 3), (1, 19, 23, 5), (1, 17, 18, 7), (3, 1, 1, 3), (2, 16, 1, 5), (1, 1, 40, 3)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
both_forms = pytest.mark.parametrize(
    "average", [cpu.deformable_average, reference.deformable_average], ids=["cpu", "reference"]
)


def random_inputs(
    batch: int, height: int, width: int, size: int, reach: float = 5.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, weights of both signs and offsets, some of which lead out of the window or out of the image."""
    reach = min(reach, max(height, width))
    generator = torch.Generator().manual_seed(1000 * height + width)
    depth = torch.rand(batch, 1, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(batch, size**2, height, width, generator=generator, dtype=dtype)
    offset = reach * torch.randn(batch, 2 * size**2, height, width, generator=generator, dtype=dtype)
    return depth, weight, offset


def patch_average(depth: Tensor, weight: Tensor, offset: Tensor, window: int = WINDOW) -> Tensor:
    """The paper's form: cut the window out around every pixel, then sample in these patches."""
    batch, _, height, width = depth.shape
    count = weight.shape[1]
    size = round(count**0.5)
    patches = F.unfold(depth, window, padding=window // 2).transpose(1, 2).reshape(-1, 1, window, window)
    n = torch.arange(count)
    neighbours = torch.stack((n // size, n % size), dim=1) - size // 2  # x, y of the regular grid
    moved = offset.view(batch, count, 2, height * width).permute(0, 3, 1, 2) + neighbours
    grid = moved.reshape(-1, count, 1, 2) / (window // 2)  # -1 and 1 are the centres of the window's outermost pixels
    samples = F.grid_sample(patches, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    samples = samples.view(batch, height, width, count).permute(0, 3, 1, 2)
    return (weight * samples).sum(dim=1, keepdim=True)


def gradients(average: Average, depth: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    weight, offset = weight.clone().requires_grad_(), offset.clone().requires_grad_()
    result = average(depth, weight, offset, WINDOW)
    # A different factor for every pixel: a gradient that lands on the wrong pixel shows.
    pixels = torch.arange(result.numel(), dtype=result.dtype).view_as(result)
    (result * torch.cos(pixels)).sum().backward()
    assert weight.grad is not None and offset.grad is not None
    return weight.grad, offset.grad


def one_sample(average: Average, dx: float, dy: float, window: int = WINDOW, size: int = 25) -> float:
    """What the centre of an image of ones gets from a single sample at (dx, dy)."""
    depth = torch.ones(1, 1, size, size)
    weight, offset = torch.ones(1, 1, size, size), torch.empty(1, 2, size, size)
    offset[:, 0], offset[:, 1] = dx, dy
    return float(average(depth, weight, offset, window)[0, 0, size // 2, size // 2])


@shapes
def test_cpu_gives_what_the_reference_gives(shape: tuple[int, int, int, int]) -> None:
    inputs = random_inputs(*shape)
    torch.testing.assert_close(
        cpu.deformable_average(*inputs, WINDOW), reference.deformable_average(*inputs, WINDOW), rtol=1e-5, atol=1e-5
    )


@shapes
def test_cpu_has_the_gradients_of_the_reference(shape: tuple[int, int, int, int]) -> None:
    inputs = random_inputs(*shape)
    for ours, wanted in zip(
        gradients(cpu.deformable_average, *inputs), gradients(reference.deformable_average, *inputs), strict=True
    ):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@shapes
@both_forms
def test_equals_the_patch_form_of_the_paper(average: Average, shape: tuple[int, int, int, int]) -> None:
    inputs = random_inputs(*shape, dtype=torch.float64)
    wanted = patch_average(*inputs).float()
    depth, weight, offset = (t.float() for t in inputs)
    torch.testing.assert_close(average(depth, weight, offset, WINDOW), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3, 7])
@both_forms
def test_other_windows_equal_the_patch_form(average: Average, window: int) -> None:
    depth, weight, offset = random_inputs(1, 9, 10, 3, reach=2.0)
    if window == 1:  # a patch of one pixel has no scale to normalise by: the sample counts by its distance
        dx, dy = (offset[:, i::2] + (torch.arange(9) // d % 3 - 1).view(1, 9, 1, 1) for i, d in ((0, 3), (1, 1)))
        share = (1 - dx.abs()).clamp(min=0) * (1 - dy.abs()).clamp(min=0)
        wanted = (weight * share).sum(1, keepdim=True) * depth
    else:
        wanted = patch_average(depth, weight, offset, window)
    torch.testing.assert_close(average(depth, weight, offset, window), wanted, rtol=1e-4, atol=1e-5)


@both_forms
def test_x_advances_with_a_and_channel_2n_moves_in_x(average: Average) -> None:
    depth = torch.arange(7 * 9, dtype=torch.float32).view(1, 1, 7, 9)
    offset = torch.zeros(1, 18, 7, 9)
    weight = torch.zeros(1, 9, 7, 9)
    weight[:, 3 * 2 + 0] = 1  # a = 2, b = 0: one to the right, one up
    assert average(depth, weight, offset, WINDOW)[0, 0, 3, 4] == depth[0, 0, 2, 5]
    offset[:, 2 * 6] = 2.0
    assert average(depth, weight, offset, WINDOW)[0, 0, 3, 4] == depth[0, 0, 2, 7]
    offset[:, 2 * 6 + 1] = 3.0
    assert average(depth, weight, offset, WINDOW)[0, 0, 3, 4] == depth[0, 0, 5, 7]


@pytest.mark.parametrize(
    ("beyond", "share"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (1.0, 0.0), (1.5, 0.0), (-0.5, 1.0), (-2.0, 1.0)]
)
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1)])
@both_forms
def test_samples_at_the_window_edge(average: Average, direction: tuple[int, int], beyond: float, share: float) -> None:
    for window in (WINDOW, 5):
        dx, dy = (d * (window // 2 + beyond) for d in direction)
        assert one_sample(average, dx, dy, window) == pytest.approx(share, abs=1e-6)


@both_forms
def test_samples_beyond_a_corner_of_the_window_count_a_quarter(average: Average) -> None:
    assert one_sample(average, RADIUS + 0.5, -RADIUS - 0.5) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(("dx", "share"), [(-4.0, 1.0), (-4.25, 0.75), (-5.0, 0.0), (4.75, 0.25), (6.0, 0.0)])
@both_forms
def test_samples_at_the_image_border(average: Average, dx: float, share: float) -> None:
    assert one_sample(average, dx, 0.0, size=9) == pytest.approx(share, abs=1e-6)  # 4 pixels to either side


@pytest.mark.parametrize("wild", [1e9, -1e9, 3e38, 2.0**31, -(2.0**63)])
@both_forms
def test_offsets_far_outside_the_window_give_zero(average: Average, wild: float) -> None:
    depth, weight, offset = random_inputs(1, 12, 13, 3)
    for channels in (slice(None), slice(0, None, 2), slice(1, None, 2)):
        moved = offset.clone()
        moved[:, channels] = wild
        assert torch.equal(average(depth, weight, moved, WINDOW), torch.zeros(1, 1, 12, 13))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@both_forms
def test_an_offset_that_is_no_number_costs_its_own_sample_only(average: Average, value: float) -> None:
    depth, weight, offset = random_inputs(1, 12, 13, 3, reach=1.0)
    without = weight.clone()
    without[0, 4, 5, 6] = 0
    wanted = average(depth, without, offset, WINDOW)
    for channel in (8, 9):  # x and y of sample 4
        broken = offset.clone()
        broken[0, channel, 5, 6] = value
        torch.testing.assert_close(average(depth, weight, broken, WINDOW), wanted, rtol=0, atol=1e-6)


def test_gradients_of_the_cpu_form_survive_offsets_that_are_no_numbers() -> None:
    depth, weight, offset = random_inputs(1, 12, 13, 3, reach=1.0)
    wanted = gradients(cpu.deformable_average, depth, weight, offset)
    broken = offset.clone()
    broken[0, 8, 5, 6], broken[0, 9, 7, 2] = np.nan, np.inf
    for ours, intact in zip(gradients(cpu.deformable_average, depth, weight, broken), wanted, strict=True):
        assert torch.isfinite(ours).all()
        changed = (ours != intact).any(dim=1)
        assert set(map(tuple, changed[0].nonzero().tolist())) <= {(5, 6), (7, 2)}


def test_gradients_of_the_reference_are_right() -> None:
    depth, weight, offset = random_inputs(1, 2, 3, 3, reach=0.7, dtype=torch.float64)
    # Away from the kinks of bilinear interpolation, where no derivative exists.
    offset = offset.floor() + offset.remainder(1).clamp(0.05, 0.95)
    inputs = tuple(t.requires_grad_() for t in (depth, weight, offset))
    assert torch.autograd.gradcheck(lambda *args: deformable_average(*args), inputs)


def test_only_asks_for_the_gradients_that_are_wanted() -> None:
    depth, weight, offset = random_inputs(1, 6, 7, 3)
    assert not cpu.deformable_average(depth, weight, offset, WINDOW).requires_grad
    weight.requires_grad_()
    cpu.deformable_average(depth, weight, offset, WINDOW).sum().backward()
    assert weight.grad is not None and offset.grad is None
    with pytest.raises(ValueError, match="depth requires a gradient"):
        cpu.deformable_average(depth.requires_grad_(), weight, offset, WINDOW)


@pytest.mark.parametrize("view", ["channels_last", "transposed", "every_second"])
def test_layout_in_memory_does_not_matter(view: str) -> None:
    inputs = random_inputs(2, 12, 12, 3)
    wanted = deformable_average(*inputs)
    if view == "channels_last":
        depth, weight, offset = (t.contiguous(memory_format=torch.channels_last) for t in inputs)
    elif view == "transposed":
        depth, weight, offset = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in inputs)
    else:
        depth, weight, offset = (t.repeat_interleave(2, dim=3)[..., ::2] for t in inputs)
    assert torch.equal(deformable_average(depth, weight, offset), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_number_types_take_the_reference(dtype: torch.dtype) -> None:
    depth, weight, offset = random_inputs(1, 9, 10, 3)
    depth, weight, offset = (t.to(dtype) for t in (depth, weight, offset))
    result = deformable_average(depth, weight, offset)
    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.2
    wanted = deformable_average(depth.float(), weight.float(), offset.float())
    torch.testing.assert_close(result.float(), wanted, rtol=0, atol=tolerance)


def test_result_has_the_type_of_the_depth() -> None:
    depth, weight, offset = random_inputs(1, 4, 5, 3)
    assert deformable_average(depth.bfloat16(), weight, offset).dtype == torch.bfloat16


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@both_forms
def test_memory_does_not_grow_with_the_window(average: Average) -> None:
    """No tensor, forward or backward, is larger than the largest input; the patch form needs 225 images."""
    depth, weight, offset = random_inputs(1, 24, 25, 3)
    with LargestTensor() as patches:
        patch_average(depth, weight, offset)
    assert patches.elements >= WINDOW**2 * depth.numel()  # the measure sees what it is there to see
    with LargestTensor() as ours:
        gradients(average, depth, weight, offset)
    assert ours.elements <= offset.numel()


@pytest.mark.parametrize(
    ("depth", "weight", "offset", "window"),
    [
        ((1, 2, 6, 7), (1, 9, 6, 7), (1, 18, 6, 7), 15),
        ((1, 1, 6, 7), (1, 8, 6, 7), (1, 16, 6, 7), 15),
        ((1, 1, 6, 7), (1, 4, 6, 7), (1, 8, 6, 7), 15),
        ((1, 1, 6, 7), (1, 9, 6, 7), (1, 9, 6, 7), 15),
        ((1, 1, 6, 7), (1, 9, 7, 6), (1, 18, 6, 7), 15),
        ((1, 1, 6, 7), (1, 9, 6, 7), (1, 18, 6, 8), 15),
        ((2, 1, 6, 7), (1, 9, 6, 7), (2, 18, 6, 7), 15),
        ((1, 1, 6, 7), (1, 9, 6, 7), (1, 18, 6, 7), 14),
    ],
    ids=["channels", "no square", "even kernel", "offsets", "weight size", "offset size", "batch", "even window"],
)
def test_refuses_shapes_that_do_not_fit(
    depth: tuple[int, ...], weight: tuple[int, ...], offset: tuple[int, ...], window: int
) -> None:
    with pytest.raises(ValueError, match="wanted: ") as raised:
        deformable_average(torch.zeros(depth), torch.zeros(weight), torch.zeros(offset), window)
    assert str(tuple(depth)) in str(raised.value) and str(tuple(weight)) in str(raised.value)
