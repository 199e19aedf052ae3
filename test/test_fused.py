"""The one-pass filter from the heads, against kernels and average one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor

from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import Heads
from dkn_ros.sampling import WINDOW

OPTIONS: list[dict[str, Any]] = [
    {},
    {"residual": False},
    {"guided": False},
    {"kernel_size": 5},
    {"published_grid": True},
    {"kernel_size": 7, "residual": False, "published_grid": True},
]


def random_heads(model: FDKN, rows: int, columns: int, batch: int = 1, reach: float = 3.0, seed: int = 0) -> Heads:
    """Heads of a tower for an image of 4 `rows` x 4 `columns`, in the layout that the towers work in."""
    count = 16 * model.options.kernel_size**2
    chance = torch.Generator().manual_seed(seed)
    weight = torch.rand(batch, count, rows, columns, generator=chance)
    offset = reach * torch.randn(batch, 2 * count, rows, columns, generator=chance)
    return tuple(t.contiguous(memory_format=torch.channels_last) for t in (weight, offset))  # type: ignore[return-value]


def both(model: FDKN, target: Tensor, guidance: Heads | None, heads: Heads) -> tuple[Tensor, Tensor]:
    """The one-pass result and the wanted one, which sees the same numbers in float32."""
    wide = None if guidance is None else (guidance[0].float(), guidance[1].float())
    with torch.inference_mode():
        wanted = model.average(target, *model.kernels(wide, (heads[0].float(), heads[1].float())))
        return model.filter(target, guidance, heads), wanted


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (9, 4)], ids=str)
def test_one_pass_gives_what_the_steps_give(
    make_model: MakeModel, options: dict[str, Any], size: tuple[int, int], kind: torch.dtype
) -> None:
    model = make_model(**options)
    target = torch.rand(2, 1, 4 * size[0], 4 * size[1])
    heads = [tuple(t.to(kind) for t in random_heads(model, *size, batch=2, seed=i)) for i in range(2)]
    ours, wanted = both(model, target, heads[0] if model.options.guided else None, heads[1])  # type: ignore[arg-type]
    assert ours.shape == target.shape and ours.dtype == torch.float32
    assert (wanted - target).abs().max() > 0.05
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reach", [0.0, 7.0, 40.0, 1e9])
def test_samples_beyond_window_and_image_count_as_zero(make_model: MakeModel, reach: float) -> None:
    model = make_model()
    target = torch.rand(1, 1, 24, 32)
    heads = random_heads(model, 6, 8, reach=reach)
    guidance = torch.rand_like(heads[0]), torch.ones_like(heads[1])
    ours, wanted = both(model, target, guidance, heads)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edge", [-WINDOW // 2 - 1, -(WINDOW // 2), WINDOW // 2, WINDOW // 2 + 1])
@pytest.mark.parametrize("beside", [-0.25, 0.0, 0.25])
def test_samples_around_the_windows_edge(make_model: MakeModel, edge: int, beside: float) -> None:
    model = make_model(guided=False)
    target = torch.rand(1, 1, 24, 32)
    weight, offset = random_heads(model, 6, 8)
    ours, wanted = both(model, target, None, (weight, torch.full_like(offset, edge + beside)))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_wild_offset_reads_nothing_and_spoils_no_neighbour(make_model: MakeModel, bad: float) -> None:
    model = make_model(guided=False)
    target = torch.rand(1, 1, 24, 32)
    weight, offset = random_heads(model, 6, 8)
    wild = offset.clone(memory_format=torch.channels_last)
    wild[0, 32:48, 2, 3] = bad  # one coordinate of one sample of a whole block
    with torch.inference_mode():
        plain, spoiled = (model.filter(target, None, (weight, o)) for o in (offset, wild))
    assert torch.isfinite(spoiled).all()
    same = plain == spoiled
    same[..., 8:12, 12:16] = True
    assert same.all() and not torch.equal(plain, spoiled)


def test_any_layout_is_read(make_model: MakeModel) -> None:
    model = make_model()
    target = torch.rand(1, 1, 24, 32)
    guidance, heads = random_heads(model, 6, 8), random_heads(model, 6, 8, seed=1)
    with torch.inference_mode():
        first = model.filter(target, guidance, heads)
        second = model.filter(target, tuple(t.contiguous() for t in guidance), tuple(t.contiguous() for t in heads))  # type: ignore[arg-type]
    assert torch.equal(first, second)


def test_with_gradients_the_steps_are_taken(make_model: MakeModel) -> None:
    model = make_model()
    guidance, heads = random_heads(model, 3, 4), random_heads(model, 3, 4, seed=1)
    weight = heads[0].clone().requires_grad_()
    model.filter(torch.rand(1, 1, 12, 16), guidance, (weight, heads[1])).sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
