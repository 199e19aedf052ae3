"""Images in the towers' layout, against the network's own steps: pad, unshuffle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dkn_ros.blocks import guidance_blocks, target_blocks
from dkn_ros.buffers import Buffers
from dkn_ros.models.fdkn import STRIDE, FDKNOptions, pad
from dkn_ros.preprocess import Target, guidance_image, target_image

Colour = NDArray[np.uint8]

SIZES = [(24, 16), (1, 1), (4, 4), (5, 3), (23, 17), (22, 18), (3, 40)]
"""Width and height: whole blocks, and one, two and three pixels more or less."""
VIEWS: dict[str, Callable[[Colour], Colour]] = {
    "rgb": lambda image: image,
    "bgr": lambda image: image[..., ::-1],
    "grey": lambda image: image[..., 1],
    "padded rows": lambda image: np.pad(image, [(0, 0), (0, 5), (0, 0)])[:, :-5],
    "padded grey rows": lambda image: np.pad(image[..., 0], [(0, 0), (0, 3)])[:, :-3],
    "of rgba": lambda image: np.pad(image, [(0, 0), (0, 0), (0, 1)])[..., :3],
    "of bgra": lambda image: np.pad(image, [(0, 0), (0, 0), (0, 1)])[..., 2::-1],
    "turned": lambda image: image[::-1, ::-1],
    "high bytes of mono16": lambda image: np.repeat(image[..., 0], 2, axis=1)[:, 1::2],
}


def colour(width: int, height: int) -> Colour:
    return np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)


def steps(images: NDArray[np.float32]) -> Tensor:
    """CxHxW, padded and unshuffled."""
    return F.pixel_unshuffle(pad(torch.from_numpy(images)[None]), STRIDE)


def assert_layout(blocks: Tensor) -> None:
    """What makes the first convolution read them as they are."""
    assert blocks.dtype == torch.float32
    assert blocks.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rgb", [False, True], ids=["luminance", "three channels"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_guidance_is_that_of_the_steps(size: tuple[int, int], view: Callable[[Colour], Colour], rgb: bool) -> None:
    shown = view(colour(*size))
    shown.flags.writeable = False
    options = FDKNOptions(rgb=rgb)
    wanted = steps(guidance_image(shown, rgb))
    blocks = guidance_blocks(shown, options, Buffers())
    assert blocks.shape == wanted.shape == (1, 48 if rgb else 16, -(-size[1] // 4), -(-size[0] // 4))
    assert_layout(blocks)
    torch.testing.assert_close(blocks, wanted, rtol=0, atol=1.2e-7)  # one bit of the last place below 1


def test_black_is_zero_and_white_is_one() -> None:
    for shape in ((8, 8), (8, 8, 3)):
        for value in (0, 255):
            for rgb in (False, True):
                image = np.full(shape, value, np.uint8)
                blocks = guidance_blocks(image, FDKNOptions(rgb=rgb), Buffers())
                torch.testing.assert_close(blocks, torch.full_like(blocks, value / 255), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize(
    "rgb", [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_refuses_what_is_no_colour_image(rgb: NDArray) -> None:
    with pytest.raises(ValueError, match="wanted: HxWx3 or HxW, uint8"):
        guidance_blocks(rgb, FDKNOptions(), Buffers())


def target(width: int, height: int) -> Target:
    """With values of every size and a hole."""
    depth = np.random.default_rng(width * 100 + height).uniform(0.5, 8, (-(-height // 2), -(-width // 2)))
    depth[1:3, 1:4] = np.nan
    return target_image(depth.astype(np.float32), width, height)


@pytest.mark.parametrize("told", [0, 2, 3], ids=["no traits", "traits", "traits and alignment"])
@pytest.mark.parametrize("validity", [False, True], ids=["no validity", "validity"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_target_is_depth_validity_and_traits(size: tuple[int, int], validity: bool, told: int) -> None:
    given = target(*size)
    wanted = steps(np.stack([given.image, given.validity] if validity else [given.image]))
    numbers = torch.from_numpy(given.traits.encoded()[:told])[None, :, None, None]
    wanted = torch.cat((wanted, numbers.expand(-1, -1, *wanted.shape[-2:])), dim=1)
    options = FDKNOptions(validity=validity, traits=told > 0, alignment=told > 2)
    blocks = target_blocks(given, options, Buffers())
    assert_layout(blocks)
    assert torch.equal(blocks, wanted)


def test_the_next_frame_takes_the_same_memory_and_leaves_nothing_of_the_last() -> None:
    buffers, options = Buffers(), FDKNOptions(validity=True, traits=True)
    first = guidance_blocks(colour(22, 18), options, buffers), target_blocks(target(22, 18), options, buffers)
    assert first[0].data_ptr() != first[1].data_ptr()
    again = guidance_blocks(255 - colour(22, 18), options, buffers)
    assert again.data_ptr() == first[0].data_ptr()
    assert torch.equal(again, guidance_blocks(255 - colour(22, 18), options, Buffers()))
    flat = target_image(np.ones((9, 11), np.float32), 22, 18)
    second = target_blocks(flat, options, buffers)
    assert second.data_ptr() == first[1].data_ptr()
    assert torch.equal(second, target_blocks(flat, options, Buffers()))
