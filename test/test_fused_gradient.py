"""The one-pass gradient of the filter, against that of kernels and average one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_fused import OPTIONS, random_heads
from torch import Tensor

from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import Heads, pad, sampling_grid
from dkn_ros.sampling.fused_gradient import differentiable_average_of_heads


def gradients(model: FDKN, target: Tensor, heads: list[Tensor], fused: bool) -> list[Tensor]:
    """The result and the gradient of every head, for a loss that weighs each pixel in its own way."""
    leaves = [head.detach().requires_grad_() for head in heads]
    guidance = (leaves[0], leaves[1]) if model.options.guided else None
    own = leaves[-2], leaves[-1]
    result = model.filter(target, guidance, own) if fused else model.average(target, *model.kernels(guidance, own))
    importance = torch.rand(result.shape, generator=torch.Generator().manual_seed(5)) - 0.4
    (result * importance).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def heads_of(model: FDKN, size: tuple[int, int], reach: float = 3.0) -> list[Tensor]:
    towers: list[Heads] = [random_heads(model, *size, batch=2, reach=reach, seed=i) for i in range(2)]
    return [head for tower in towers[0 if model.options.guided else 1 :] for head in tower]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (9, 4)], ids=str)
def test_one_pass_gives_the_gradient_of_the_steps(
    make_model: MakeModel, options: dict[str, Any], size: tuple[int, int]
) -> None:
    model = make_model(**options)
    target = torch.rand(2, 1, 4 * size[0], 4 * size[1])
    heads = heads_of(model, size)
    ours, wanted = (gradients(model, target, heads, fused) for fused in (True, False))
    assert len(ours) == len(wanted) == 1 + len(heads)
    assert all(gradient.abs().max() > 1e-3 for gradient in wanted[1:])
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("reach", [0.0, 7.0, 40.0, 1e9])
def test_samples_beyond_window_and_image(make_model: MakeModel, reach: float) -> None:
    model = make_model()
    heads = heads_of(model, (6, 8), reach)
    target = torch.rand(2, 1, 24, 32)
    for a, b in zip(*(gradients(model, target, heads, fused) for fused in (True, False)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * max(1.0, float(b.abs().max())))


def test_weights_of_zero_have_the_gradient_of_the_steps(make_model: MakeModel) -> None:
    """A sigmoid in bfloat16 can give 0, where the sum of absolute weights has no slope of its own."""
    model, target = make_model(residual=False), torch.rand(2, 1, 8, 12)
    heads = heads_of(model, (2, 3))
    heads[0][:, :40] = 0
    for a, b in zip(*(gradients(model, target, heads, fused) for fused in (True, False)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_bfloat16_heads_get_bfloat16_gradients(make_model: MakeModel) -> None:
    model = make_model()
    heads = [head.bfloat16() for head in heads_of(model, (5, 6))]
    target = torch.rand(2, 1, 20, 24)
    ours = gradients(model, target, heads, fused=True)
    wanted = gradients(model, target, [head.float() for head in heads], fused=False)
    assert all(gradient.dtype == torch.bfloat16 for gradient in ours[1:])
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2**-7, atol=2e-4)


def test_a_network_learns_the_same_with_odd_sizes(make_model: MakeModel) -> None:
    """The padding that `forward` cuts off again must not leak into the gradient of the parameters."""
    model = make_model().train()
    guidance, target, wanted = torch.rand(2, 1, 13, 18), torch.rand(2, 1, 13, 18), torch.rand(2, 1, 13, 18)

    def step_by_step() -> Tensor:
        assert model.guidance is not None
        heads = model.guidance(pad(guidance)), model.target_heads(pad(target), None, None)
        return model.average(pad(target), *model.kernels(*heads))[..., :13, :18]

    found = []
    for forward in (lambda: model(guidance, target), step_by_step):
        model.zero_grad()
        (forward() - wanted).abs().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(model.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_depth_that_wants_a_gradient_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    heads = heads_of(model, (2, 2))
    base, scale = sampling_grid(model.options)
    target = torch.rand(2, 1, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match=r"sampling\.reference"):
        differentiable_average_of_heads(target, (heads[0], heads[1]), (heads[2], heads[3]), True, base, scale)
