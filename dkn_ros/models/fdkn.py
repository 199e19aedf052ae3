"""FDKN, the fast deformable kernel network (section 3.3 and Table 2 of arXiv 1910.08373).

Two towers of convolutions, one on the guidance image and one on the target (the depth to be filtered), each work on a
grid of a quarter of the resolution: stride-4 resampling turns every 4 x 4 block of pixels into 16 channels and loses
nothing.  Each predicts for every pixel the k x k weights and offsets of a kernel; their products say where to sample
the target and how to weigh the samples.

    guidance Bx1xHxW ── unshuffle ─ Bx16xH/4xW/4 ── tower ── weights, offsets ─┐
                                                                               ├ product ─ shuffle ─ average
    target   Bx1xHxW ── unshuffle ─ Bx16xH/4xW/4 ── tower ── weights, offsets ─┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkn_ros.sampling import WINDOW, deformable_average

STRIDE = 4
CONVOLUTIONS = tuple(f"conv{i}" for i in range(1, 7))
Heads = tuple[Tensor, Tensor]
"""What a tower predicts, see `Tower.forward`."""


@dataclass(frozen=True)
class FDKNOptions:
    """What can be chosen of an FDKN; a weight file's card stores them."""

    kernel_size: int = 3
    """k: 3, 5 or 7 (Table 6)."""
    residual: bool = True
    """Kernels of zero mean whose result is added to the target (equation 4), else of unit sum (equation 3)."""
    guided: bool = True
    """False: the depth-only form, marked with a dagger in the paper's tables."""
    n1: int = 128
    """Channels of the guidance tower's last layers; the layers before have a half and a quarter (Table 7)."""
    n2: int = 128
    """Channels of the target tower's last layers, likewise."""
    rgb: bool = False
    """Guidance of three colour channels instead of luminance."""
    validity: bool = False
    """The target tower also sees where depth was measured and how densely, see `preprocess.graded_validity`."""
    traits: bool = False
    """The target tower is also told two numbers on the camera, see `traits.Traits`."""
    alignment: bool = False
    """And the third of them, how well colour lies on depth; with `traits` only."""
    guidance_channels: tuple[int, ...] = ()
    """Of each of the guidance tower's six convolutions, where they are others than n1 makes them, see `pruning`."""
    target_channels: tuple[int, ...] = ()
    """Likewise of the target tower's, and n2."""
    published_grid: bool = False
    """Sample where the authors' published code samples, see `sampling_grid`; for their checkpoints."""

    @property
    def told(self) -> int:
        """How many numbers of `traits.Traits.encoded` the target tower is told."""
        return (3 if self.alignment else 2) if self.traits else 0

    def channels(self, tower: str) -> tuple[int, ...]:
        """Of the six convolutions of the tower "guidance" or "target"."""
        last: int = self.n1 if tower == "guidance" else self.n2
        given: tuple[int, ...] = getattr(self, f"{tower}_channels")
        return given or (last // 4, last // 4, last // 2, last // 2, last, last)

    def __post_init__(self) -> None:
        for name in ("guidance_channels", "target_channels"):
            given = getattr(self, name)
            if isinstance(given, list):  # as a card has it
                object.__setattr__(self, name, tuple(given))
            given = getattr(self, name)
            if given and not (len(given) == 6 and all(type(n) is int and n > 0 for n in given)):
                raise ValueError(f"{name} is {given!r}; wanted: six positive numbers")
        for f in fields(self):
            value = getattr(self, f.name)
            if type(value) is not type(f.default):
                raise ValueError(f"{f.name} is {value!r}; wanted: {type(f.default).__name__}")
        if self.alignment and not self.traits:
            raise ValueError("alignment is True and traits is False; wanted: both, or no alignment")
        if self.kernel_size not in (3, 5, 7):
            raise ValueError(f"kernel_size is {self.kernel_size}; wanted: 3, 5 or 7")
        for name, channels in (("n1", self.n1), ("n2", self.n2)):
            if channels < 4 or channels % 4:
                raise ValueError(f"{name} is {channels}; wanted: a positive multiple of 4")


class Tower(nn.Module):
    """Six 3 x 3 convolutions and the two 1 x 1 heads of one sub-network (Table 2)."""

    def __init__(self, in_channels: int, channels: Sequence[int], kernel_size: int, traits: int = 0) -> None:
        super().__init__()
        one, two, three, four, five, six = channels
        subpixels = STRIDE * STRIDE
        self.conv1 = nn.Conv2d(in_channels * subpixels + traits, one, 3, padding=1)
        self.conv1_bn = nn.BatchNorm2d(one)
        self.conv2 = nn.Conv2d(one, two, 3, padding=1)
        self.conv3 = nn.Conv2d(two, three, 3, padding=1)
        self.conv3_bn = nn.BatchNorm2d(three)
        self.conv4 = nn.Conv2d(three, four, 3, padding=1)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1)
        self.conv5_bn = nn.BatchNorm2d(five)
        self.conv6 = nn.Conv2d(five, six, 3, padding=1)
        self.conv_weight = nn.Conv2d(six, kernel_size**2 * subpixels, 1)
        self.conv_offset = nn.Conv2d(six, 2 * kernel_size**2 * subpixels, 1)

    def forward(self, image: Tensor, traits: Tensor | None = None) -> Heads:
        """BxCxHxW, H and W multiples of 4 -> weights Bx16NxH/4xW/4 in 0..1, offsets Bx32NxH/4xW/4 in pixels.

        traits: BxT, numbers that hold for the whole image.
        """
        logits, offsets = self.layers(self.blocks(image, traits))
        return torch.sigmoid(logits), offsets

    @staticmethod
    def blocks(image: Tensor, traits: Tensor | None = None) -> Tensor:
        """Blocks of pixels as channels, and behind them the traits: what the first convolution takes."""
        x = F.pixel_unshuffle(image, STRIDE)
        return x if traits is None else torch.cat((x, traits[:, :, None, None].expand(-1, -1, *x.shape[-2:])), dim=1)

    def activations(self, image: Tensor, traits: Tensor | None = None) -> Iterator[Tensor]:
        """What each convolution gives behind its ReLU; arguments as of `forward`."""
        x = self.blocks(image, traits)
        for name in CONVOLUTIONS:
            x = getattr(self, name)(x)
            norm = getattr(self, f"{name}_bn", None)
            x = F.relu(x if norm is None else norm(x))
            yield x

    def layers(self, x: Tensor) -> Heads:
        """The same, but weights before the sigmoid, of what is unshuffled already, traits included, see `blocks`."""
        x = F.relu(self.conv1_bn(self.conv1(x)))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3_bn(self.conv3(x)))
        x = F.relu(self.conv4(x))
        x = F.relu(self.conv5_bn(self.conv5(x)))
        x = F.relu(self.conv6(x))
        return self.conv_weight(x), self.conv_offset(x)


class FDKN(nn.Module):
    """The whole network; `forward` is `average` of `kernels` of the two towers."""

    def __init__(self, options: FDKNOptions | None = None) -> None:
        super().__init__()
        self.options = options or FDKNOptions()
        o = self.options
        self.guidance = Tower(3 if o.rgb else 1, o.channels("guidance"), o.kernel_size) if o.guided else None
        self.target = Tower(2 if o.validity else 1, o.channels("target"), o.kernel_size, traits=o.told)
        self.triton = False
        """Whether Triton's kernels train it: on a GPU on which `training_kernels.use_triton` has tried them."""
        self._spread_samples()

    def _spread_samples(self) -> None:
        """Start with the samples three pixels apart, or less where the outermost would come near the window's edge.

        Heads that start near zero put all samples on the pixel and its neighbours, where the depth is smooth and every
        kernel gives nearly the same: measured, such a network has learned nothing after 1000 steps.
        """
        if self.guidance is not None:
            nn.init.ones_(_bias(self.guidance.conv_offset))
        size, centre = self.options.kernel_size, self.options.kernel_size // 2
        spread = torch.arange(size, dtype=torch.float32) - centre
        distance = min(3.0, (WINDOW // 2 - 1) / centre)
        offset = (distance - 1) * torch.stack((spread.repeat_interleave(size), spread.repeat(size)), dim=1).flatten()
        with torch.no_grad():
            _bias(self.target.conv_offset).copy_(offset.repeat_interleave(STRIDE * STRIDE))

    def forward(
        self, guidance: Tensor | None, target: Tensor, validity: Tensor | None = None, traits: Tensor | None = None
    ) -> Tensor:
        """Filter `target` under `guidance`.

        guidance: BxCxHxW in 0..1, C = 1 (luminance) or 3 (options.rgb); None for the depth-only form.
        target: Bx1xHxW, scaled to about 0..1, on the guidance's grid, no NaN.
        validity: Bx1xHxW in 0..1 if options.validity, else not looked at.
        traits: BxT, `Traits.encoded`, of which the first options.told count.
        Returns Bx1xHxW.  Sizes that are no multiple of 4 are padded by repeating the border, and cut again.
        """
        height, width = target.shape[-2:]
        guidance_heads = None
        if self.guidance is not None:
            if guidance is None:
                raise ValueError("guidance is None; wanted: an image, or a depth-only network (guided=False)")
            guidance_heads = self.guidance(pad(guidance))
        target = pad(target)
        target_heads = self.target_heads(target, None if validity is None else pad(validity), traits)
        return self.filter(target, guidance_heads, target_heads)[..., :height, :width]

    def filter(self, target: Tensor, guidance_heads: Heads | None, target_heads: Heads) -> Tensor:
        """`average` of `kernels`; on a CPU, and with `triton`, in one compiled pass over the heads, as they are."""
        if self.triton and torch.is_grad_enabled():
            from dkn_ros.sampling import cuda_gradient

            base, scale = sampling_grid(self.options, target.device)
            return cuda_gradient.differentiable_average_of_heads(
                target, guidance_heads, target_heads, self.options.residual, base, scale
            )
        compiled = target.device.type == "cpu" and target_heads[0].dtype in (torch.float32, torch.bfloat16)
        if not compiled:
            return self.average(target, *self.kernels(guidance_heads, target_heads))
        base, scale = sampling_grid(self.options)
        # numba loads LLVM: only for those who use it
        if torch.is_grad_enabled():
            from dkn_ros.sampling.fused_gradient import differentiable_average_of_heads as average_of_heads

            return average_of_heads(target, guidance_heads, target_heads, self.options.residual, base, scale)
        from dkn_ros.sampling import fused

        out = torch.empty_like(target, dtype=torch.float32)
        for b in range(len(target)):
            guidance = None if guidance_heads is None else (guidance_heads[0][b], guidance_heads[1][b])
            image, heads = target[b, 0].float().numpy(), (target_heads[0][b], target_heads[1][b])
            fused.average_of_heads(
                image, guidance, heads, self.options.residual, base.numpy(), scale, out[b, 0].numpy()
            )
        return out

    def target_heads(self, target: Tensor, validity: Tensor | None, traits: Tensor | None) -> Heads:
        """What the target tower, in whatever number type it works, makes of padded images and of what is known."""
        return self.target(*self.target_input(target, validity, traits))

    def target_input(
        self, target: Tensor, validity: Tensor | None, traits: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What of padded images and of what is known the target tower is given."""
        seen = target
        if self.options.validity:
            if validity is None:
                raise ValueError("these weights were trained with a validity image; wanted: validity Bx1xHxW")
            seen = torch.cat((target, validity), dim=1)
        kind = self.target.conv1.weight.dtype if not torch.is_autocast_enabled(target.device.type) else target.dtype
        if not self.options.traits:
            return seen.to(kind), None
        if traits is None:
            wanted = f"traits Bx{self.options.told}"
            raise ValueError(f"these weights were trained with traits of the camera; wanted: {wanted}")
        return seen.to(kind), traits[:, : self.options.told].to(kind)

    def kernels(self, guidance_heads: Heads | None, target_heads: Heads) -> tuple[Tensor, Tensor]:
        """Weights BxNxHxW and offsets Bx2NxHxW, float32, from the heads of both towers (equations 5 to 7)."""
        weight, offset = target_heads
        if guidance_heads is not None:
            weight, offset = weight * guidance_heads[0], offset * guidance_heads[1]
        weight = F.pixel_shuffle(weight, STRIDE).float()
        offset = F.pixel_shuffle(offset, STRIDE).float()
        if self.options.residual:
            weight = weight - weight.mean(dim=1, keepdim=True)
        else:
            weight = F.normalize(weight, p=1.0, dim=1)
        if self.options.published_grid:
            base, scale = sampling_grid(self.options, offset.device)
            regular, _ = sampling_grid(replace(self.options, published_grid=False), offset.device)
            offset = offset * scale + (base - regular).view(1, -1, 1, 1)
        return weight, offset

    def average(self, target: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """The deformable weighted average of `target`, with the residual connection where there is one."""
        filtered = deformable_average(target, weight, offset)
        return target + filtered if self.options.residual else filtered


def pad(image: Tensor) -> Tensor:
    """Repeat the last row and column until both sizes are multiples of the stride."""
    height, width = image.shape[-2:]
    right, bottom = -width % STRIDE, -height % STRIDE
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if right or bottom else image


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # the heads are made with one
    return layer.bias


def sampling_grid(options: FDKNOptions, device: torch.device | None = None) -> tuple[Tensor, float]:
    """Where a kernel's elements lie before their offsets, Nx2 (x, y) in pixels, and what an offset of 1 adds.

    device: of the tensor, on which it is made: a copy to a GPU would make the host wait.

    The authors' published code puts kernel element a at index a + 7 of the 15 pixel wide patch, scales indices by
    2 / 15 to -1..1 and samples with align_corners=True, which maps them back by 14 / 2: the position relative to the
    pixel, at index 7, is (a + 7 + offset) * 14 / 15 - 7, while ours is a - k // 2 + offset.
    """
    size = options.kernel_size
    a = torch.arange(size, dtype=torch.float32, device=device)
    scale = (WINDOW - 1) / WINDOW if options.published_grid else 1.0
    place = (a + WINDOW // 2) * scale - WINDOW // 2 if options.published_grid else a - size // 2
    return torch.stack((place.repeat_interleave(size), place.repeat(size)), dim=1), scale
