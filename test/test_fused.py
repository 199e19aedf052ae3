"""The one-pass filter from the heads, against kernels and average one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.buffers import Buffers
from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import Heads, sampling_grid
from dkn_ros.sampling import WINDOW
from dkn_ros.sampling.fused import Finish, average_of_heads

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


@pytest.mark.parametrize("guided", [False, True])
def test_a_weight_that_is_no_number_is_none_in_the_result(make_model: MakeModel, guided: bool) -> None:
    """In its pixel and no other: a network that fails must not look as if it had not."""
    model = make_model(guided=guided)
    image = some_image(32, 24)
    guidance, heads = random_heads(model, 6, 8), random_heads(model, 6, 8, seed=1)
    plain = averaged(model, image, guidance, heads, logits=True)
    heads[0][0, 5, 2, 3] = torch.nan  # the first sample of pixel 5 of a block: its second row, second column
    found = averaged(model, image, guidance, heads, logits=True)
    assert np.isfinite(plain).all() and np.argwhere(np.isnan(found)).tolist() == [[9, 13]]
    known = np.isfinite(found)
    np.testing.assert_array_equal(found[known], plain[known])


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


def averaged(model: FDKN, image: NDArray[np.float32], guidance: Heads, heads: Heads, **settings: Any) -> NDArray:
    """What `average_of_heads` makes of heads of a batch of one; the depth-only form does not see the guidance."""
    base, scale = sampling_grid(model.options)
    guided = (guidance[0][0], guidance[1][0]) if model.options.guided else None
    out = np.empty_like(image)
    average_of_heads(
        image, guided, (heads[0][0], heads[1][0]), model.options.residual, base.numpy(), scale, out, **settings
    )
    return out


def some_image(width: int = 26, height: int = 21) -> NDArray[np.float32]:
    """Of a size that is no multiple of 4; six blocks by seven hold it."""
    return np.random.default_rng(5).uniform(-0.1, 1.1, (height, width)).astype(np.float32)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_may_come_before_the_sigmoid(make_model: MakeModel, options: dict[str, Any], kind: torch.dtype) -> None:
    """In bfloat16 too: the sigmoid of what was rounded, but itself not rounded."""
    model, image = make_model(**options), some_image()
    before, after = [], []
    for seed in range(2):
        weight, offset = random_heads(model, 6, 7, seed=seed)
        logits, offset = (12 * weight - 6).to(kind), offset.to(kind)
        before.append((logits, offset))
        after.append((torch.sigmoid(logits.float()), offset.float()))
    found = averaged(model, image, *before, logits=True)
    np.testing.assert_allclose(found, averaged(model, image, *after), rtol=0, atol=2e-6)
    assert np.abs(found - averaged(model, image, *before)).max() > 0.05


def finishes() -> list[Finish]:
    distance = np.random.default_rng(6).uniform(0, 10, some_image().shape).astype(np.float32)
    distance[:5] = 0
    return [
        Finish(),
        Finish(strength=0.4),
        Finish(low=0.7, high=4.2),
        Finish(clipped=True),
        Finish(strength=1.7, low=-3.0, high=-1.0, clipped=True),
        Finish(distance=distance, reach=4.0),
        Finish(distance=distance, reach=0.0),
        Finish(distance=distance, reach=float(np.finfo(np.float32).max)),
        Finish(0.6, 0.7, 4.2, True, distance, 2.5),
    ]


@pytest.mark.parametrize("finish", finishes(), ids=lambda f: f"{f.strength} {f.low} {f.high} {f.clipped} {f.reach}")
@pytest.mark.parametrize("options", [{}, {"residual": False}, {"guided": False}], ids=str)
def test_finishing_on_the_way_gives_what_finishing_afterwards_gives(
    make_model: MakeModel, options: dict[str, Any], finish: Finish
) -> None:
    model, image = make_model(**options), some_image()
    heads = random_heads(model, 6, 7), random_heads(model, 6, 7, seed=1)
    plain = averaged(model, image, *heads)
    wanted = np.empty_like(plain)
    finish.apply(plain, image, wanted)
    found = averaged(model, image, *heads, finish=finish)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    far = np.zeros(image.shape, bool) if finish.distance is None else finish.distance > finish.reach
    np.testing.assert_array_equal(np.isnan(found), far)
    if finish.clipped:
        assert np.nanmin(found) == np.float32(finish.low) and np.nanmax(found) <= np.float32(finish.high)


def test_a_finish_does_what_it_says() -> None:
    image, total = np.array([[0.0, 0.5, 0.5, 1.0]], np.float32), np.array([[-1.0, 0.0, 1.0, 2.0]], np.float32)
    out, distance = np.empty_like(image), np.array([[0, 2, 3, 0]], np.float32)
    for finish, wanted in (
        (Finish(), [-1, 0, 1, 2]),
        (Finish(strength=0.5), [-0.5, 0.25, 0.75, 1.5]),
        (Finish(strength=0.5, clipped=True), [0, 0.25, 0.75, 1]),
        (Finish(low=1, high=3), [-1, 1, 3, 5]),
        (Finish(low=1, high=3, clipped=True), [1, 1, 3, 3]),
        (Finish(distance=distance, reach=2), [-1, 0, np.nan, 2]),
    ):
        finish.apply(total, image, out)
        np.testing.assert_allclose(out[0], wanted, atol=1e-6)


def test_buffers_serve_heads_of_every_size(make_model: MakeModel) -> None:
    model, buffers = make_model(), Buffers()
    for width, height in ((26, 21), (26, 21), (8, 40), (1, 1), (26, 21)):
        image = some_image(width, height)
        rows, columns = -(-height // 4), -(-width // 4)
        heads = random_heads(model, rows, columns), random_heads(model, rows, columns, seed=1)
        np.testing.assert_array_equal(averaged(model, image, *heads, buffers=buffers), averaged(model, image, *heads))
