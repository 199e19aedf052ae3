"""The network: size, options, what its kernels can and cannot do, and the order of its channels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MakeModel
from torch import Tensor

from dkn_ros.models import FDKN, FDKNOptions, build_model
from dkn_ros.models.fdkn import STRIDE, pad
from dkn_ros.sampling import WINDOW

RADIUS = WINDOW // 2


def images(height: int, width: int, channels: int = 1, batch: int = 1) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(height + channels))


def heads(model: FDKN, guidance: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels of padded images."""
    with torch.no_grad():
        return model.kernels(model.guidance(guidance) if model.guidance is not None else None, model.target(target))


@pytest.mark.parametrize(("guided", "count"), [(True, 693_856), (False, 346_928)])
def test_has_as_many_parameters_as_the_authors_network(guided: bool, count: int) -> None:
    assert sum(p.numel() for p in FDKN(FDKNOptions(guided=guided)).parameters()) == count


@pytest.mark.parametrize(
    "options",
    [
        *({"kernel_size": k, "residual": r} for k, r in itertools.product((3, 5, 7), (True, False))),
        {"guided": False},
        {"guided": False, "residual": False, "kernel_size": 5},
        {"n1": 4, "n2": 16},
        {"rgb": True},
        {"validity": True},
        {"rgb": True, "validity": True},
        {"traits": True},
        {"guided": False, "validity": True, "traits": True},
        {"published_grid": True},
    ],
    ids=str,
)
def test_every_option_runs_and_filters(make_model: MakeModel, options: dict[str, Any]) -> None:
    model = make_model(**options)
    guidance = images(13, 18, 3 if options.get("rgb") else 1, batch=2) if options.get("guided", True) else None
    target, validity = images(13, 18, batch=2), images(13, 18, batch=2).round() if options.get("validity") else None
    traits = torch.tensor([[0.5, 0.1], [1.0, 0.0]]) if options.get("traits") else None
    with torch.no_grad():
        output = model(guidance, target, validity, traits)
    assert output.shape == target.shape and output.dtype == torch.float32
    assert torch.isfinite(output).all()
    assert (output - target).abs().mean() > 1e-3


def test_output_depends_on_every_input(make_model: MakeModel) -> None:
    model = make_model(validity=True, traits=True)
    guidance, target, validity = images(16, 16), images(16, 16), torch.ones(1, 1, 16, 16)
    traits = torch.tensor([[0.5, 0.2]])
    with torch.no_grad():
        output = model(guidance, target, validity, traits)
        for other in (
            model(guidance.flip(3), target, validity, traits),
            model(guidance, target.flip(3), validity, traits),
            model(guidance, target, validity.tril(), traits),
            model(guidance, target, validity, torch.tensor([[1.0, 0.2]])),
            model(guidance, target, validity, torch.tensor([[0.5, 0.7]])),
        ):
            assert (other - output).abs().max() > 1e-3


def test_traits_are_those_of_their_own_image(make_model: MakeModel) -> None:
    model = make_model(traits=True)
    guidance, target = images(12, 16, batch=2), images(12, 16, batch=2)
    traits = torch.tensor([[0.0, 0.3], [1.0, 0.6]])
    with torch.no_grad():
        together = model(guidance, target, None, traits)
        for i in range(2):
            alone = model(guidance[i : i + 1], target[i : i + 1], None, traits[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
        assert (model(guidance, target, None, traits.flip(0)) - together).abs().max() > 1e-3


def test_what_a_network_is_not_told_does_not_matter(make_model: MakeModel) -> None:
    model, guidance, target = make_model(), images(8, 12), images(8, 12)
    with torch.no_grad():
        told = model(guidance, target, images(8, 12).round(), torch.tensor([[1.0, 0.5]]))
        assert torch.equal(told, model(guidance, target))


def test_validity_is_asked_for(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="wanted: validity Bx1xHxW"):
        make_model(validity=True)(images(8, 8), images(8, 8))


def test_traits_are_asked_for(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="wanted: traits Bx2"):
        make_model(validity=True, traits=True)(images(8, 8), images(8, 8), images(8, 8))
    with pytest.raises(ValueError, match="wanted: traits Bx3"):
        make_model(traits=True, alignment=True)(images(8, 8), images(8, 8))
    with pytest.raises(ValueError, match="alignment is True and traits is False"):
        make_model(alignment=True)


def test_only_what_it_was_trained_with_is_told(make_model: MakeModel) -> None:
    guidance, target, told = images(8, 12), images(8, 12), torch.tensor([[0.5, 0.1, 0.2]])
    other = torch.tensor([[0.5, 0.1, 0.9]])
    for alignment in (False, True):
        model = make_model(traits=True, alignment=alignment, n2=32)  # of fewer channels none may see it
        with torch.no_grad():
            same = torch.equal(model(guidance, target, None, told), model(guidance, target, None, other))
        assert same is not alignment


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "normalised"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_constant_target_stays_constant(make_model: MakeModel, residual: bool, kernel_size: int) -> None:
    """Kernels sum up to 0 (and the target is added) or to 1, so a constant stays, unless samples fall on the zeros
    outside the image or outside the window."""
    model = make_model(residual=residual, kernel_size=kernel_size)
    target = torch.full((1, 1, 32, 36), 0.7)
    weight, offset = heads(model, images(32, 36), target)
    inside = offset.clamp(-(RADIUS - kernel_size // 2), RADIUS - kernel_size // 2)
    output = model.average(target, weight, inside)
    torch.testing.assert_close(output[..., RADIUS:-RADIUS, RADIUS:-RADIUS], target[..., RADIUS:-RADIUS, RADIUS:-RADIUS])
    outside = model.average(target, weight, torch.full_like(offset, 10.0 * WINDOW))
    assert torch.equal(outside, target if residual else torch.zeros_like(target))


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "normalised"])
def test_kernels_sum_up_to_zero_or_one(make_model: MakeModel, residual: bool) -> None:
    weight, _ = heads(make_model(residual=residual), images(16, 20), images(16, 20))
    torch.testing.assert_close(weight.sum(dim=1), torch.full((1, 16, 20), 0.0 if residual else 1.0), atol=1e-6, rtol=0)
    assert (weight < 0).any() if residual else (weight >= 0).all()
    assert weight.std(dim=(2, 3)).min() > 1e-3


def test_outside_of_the_image_counts_as_zero() -> None:
    """A normalised kernel of nine equal weights keeps 4/9 of a constant at a corner, 6/9 at an edge."""
    model = FDKN(FDKNOptions(n1=8, n2=8, residual=False))
    target = torch.full((1, 1, 8, 8), 0.9)
    output = model.average(target, torch.full((1, 9, 8, 8), 1 / 9), torch.zeros(1, 18, 8, 8))[0, 0]
    assert output[0, 0] == pytest.approx(0.4) and output[0, 4] == pytest.approx(0.6)
    assert output[4, 4] == pytest.approx(0.9)


@pytest.mark.parametrize("size", [(13, 18), (15, 16), (16, 17), (1, 1), (3, 22)], ids=str)
def test_other_sizes_are_padded_by_their_border_and_cut(make_model: MakeModel, size: tuple[int, int]) -> None:
    model = make_model(validity=True)
    height, width = size
    guidance, target, validity = images(*size), images(*size), images(*size).round()
    bigger = [
        torch.from_numpy(np.pad(t.numpy(), ((0, 0), (0, 0), (0, -height % 4), (0, -width % 4)), mode="edge"))
        for t in (guidance, target, validity)
    ]
    assert bigger[0].shape[-1] % STRIDE == 0 and bigger[0].shape[-2] % STRIDE == 0
    with torch.no_grad():
        assert torch.equal(model(guidance, target, validity), model(*bigger)[..., :height, :width])


def test_pad_leaves_fitting_images_alone() -> None:
    image = images(8, 12)
    assert pad(image) is image


@pytest.mark.parametrize("tower", ["guidance", "target"])
def test_a_tower_is_the_one_of_the_papers_table(make_model: MakeModel, tower: str) -> None:
    """Batch norm stands between convolution and ReLU, and only in the odd layers."""
    model = make_model()
    state = {name.removeprefix(f"{tower}."): value for name, value in model.state_dict().items()}

    def convolve(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    image = images(16, 20)
    x = F.pixel_unshuffle(image, 4)
    for i in range(1, 7):
        x = convolve(x, f"conv{i}")
        if i in (1, 3, 5):
            parts = ("running_mean", "running_var", "weight", "bias")
            mean, var, scale, shift = (state[f"conv{i}_bn.{part}"].view(1, -1, 1, 1) for part in parts)
            x = (x - mean) / torch.sqrt(var + 1e-5) * scale + shift
        x = x.clamp(min=0)
    with torch.no_grad():
        weight, offset = getattr(model, tower)(image)
    torch.testing.assert_close(weight, torch.sigmoid(convolve(x, "conv_weight")), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(offset, convolve(x, "conv_offset"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tower", ["guidance", "target"])
def test_sub_pixel_i_j_of_the_input_is_channel_4i_plus_j(make_model: MakeModel, tower: str) -> None:
    model = make_model(rgb=True, validity=True, traits=True)
    seen: list[Tensor] = []
    convolution = getattr(model, tower).conv1
    hook = convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    guidance, target, validity = images(8, 12, 3), images(8, 12), images(8, 12).round()
    with torch.no_grad():
        model(guidance, target, validity, torch.tensor([[0.25, 0.75]]))
    hook.remove()
    image = guidance if tower == "guidance" else torch.cat((target, validity), dim=1)
    for channel, i, j in itertools.product(range(image.shape[1]), range(4), range(4)):
        assert torch.equal(seen[0][:, 16 * channel + 4 * i + j], image[:, channel, i::4, j::4])
    rest = seen[0][0, 16 * image.shape[1] :]
    assert [set(channel.unique().tolist()) for channel in rest] == ([{0.25}, {0.75}] if tower == "target" else [])


def test_sub_pixel_i_j_of_kernel_element_n_is_channel_16n_plus_4i_plus_j(make_model: MakeModel) -> None:
    model = make_model(residual=False)
    weight, offset = images(2, 3, 9 * 16), images(2, 3, 18 * 16)
    shuffled, moved = model.kernels(None, (weight, offset))
    for i, j in itertools.product(range(4), range(4)):
        raw = weight[:, 4 * i + j :: 16]
        torch.testing.assert_close(shuffled[..., i::4, j::4], raw / raw.sum(dim=1, keepdim=True))
        assert torch.equal(moved[..., i::4, j::4], offset[:, 4 * i + j :: 16])


def test_heads_of_both_towers_are_multiplied(make_model: MakeModel) -> None:
    model = make_model()
    guidance = images(2, 3, 9 * 16), images(2, 3, 18 * 16)
    target = images(2, 3, 9 * 16) + 1, images(2, 3, 18 * 16) - 2
    product = model.kernels(None, (guidance[0] * target[0], guidance[1] * target[1]))
    for ours, wanted in zip(model.kernels(guidance, target), product, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_published_grid_samples_where_the_authors_code_samples(make_model: MakeModel, kernel_size: int) -> None:
    published, plain = (make_model(kernel_size=kernel_size, published_grid=p) for p in (True, False))
    guidance, target = images(20, 24), images(20, 24)
    weight, offset = heads(plain, guidance, target)
    # Kernel element (a, b) lies at index (a + 7, b + 7), plus its offset, of the patch of 15 x 15; indices are
    # normalised by 15 although align_corners=True puts -1 and 1 on the centres of pixels 0 and 14.
    patches = F.unfold(target, 15, padding=7).view(15, 15, 20 * 24).permute(2, 0, 1)[:, None]
    index = torch.stack(torch.meshgrid(*[torch.arange(kernel_size) + 7] * 2, indexing="ij"), dim=-1)
    moved = index.view(1, -1, 2) + offset[0].view(-1, 2, 20 * 24).permute(2, 0, 1)
    samples = F.grid_sample(patches, (2 * moved / 15 - 1)[:, None], align_corners=True)
    wanted = target + (weight[0].view(-1, 20 * 24).T * samples[:, 0, 0]).sum(dim=1).view_as(target)
    with torch.no_grad():
        output = published(guidance, target)
        torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-5)
        assert (output - plain(guidance, target)).abs().max() > 1e-2


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "depth-only"])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_an_untrained_network_spreads_its_samples_inside_the_window(guided: bool, kernel_size: int) -> None:
    """A sample on the zeros outside the window has no gradient and would never come back."""
    torch.manual_seed(0)
    model = FDKN(FDKNOptions(kernel_size=kernel_size, n1=8, n2=8, guided=guided)).eval()
    _, offset = heads(model, images(16, 16), images(16, 16))
    n = torch.arange(kernel_size**2)
    neighbours = torch.stack((n // kernel_size, n % kernel_size), dim=1).flatten() - kernel_size // 2
    position = offset + neighbours.view(1, -1, 1, 1)
    assert 2 < position.abs().max() < RADIUS + 1
    assert (position.abs() <= RADIUS).float().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"kernel_size": 1}, "kernel_size is 1"),
        ({"kernel_size": "3"}, "kernel_size is '3'"),
        ({"n1": 0}, "n1 is 0"),
        ({"n1": 6}, "n1 is 6"),
        ({"n2": -4}, "n2 is -4"),
        ({"n2": "8"}, "n2 is '8'"),
        ({"n2": 8.0}, "n2 is 8.0"),
        ({"guided": "no"}, "guided is 'no'"),
        ({"colour": True}, "no option colour; known: .*kernel_size"),
    ],
    ids=str,
)
def test_refuses_options_that_make_no_sense(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build_model("fdkn", options)


def test_refuses_a_network_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="model is 'gan'; wanted: one of fdkn"):
        build_model("gan")
