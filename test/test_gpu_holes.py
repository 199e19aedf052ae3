"""Nearest measured pixels on the device: exact, in plain operations and in the Triton kernel's interpreter."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dkn_ros.gpu import holes
from dkn_ros.gpu.holes import Nearest

Flags = NDArray[np.bool_]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNEL = "dkn_ros.gpu.columns_cuda"


@pytest.fixture
def kernel() -> Iterator[None]:
    """The Triton kernel, made for the interpreter where there is no GPU: that is settled when it is imported."""
    pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch's CUDA builds for Linux")
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, KERNEL, raising=False)
        patch.delattr(KERNEL, raising=False)
        made = importlib.import_module(KERNEL)
        if DEVICE.type == "cpu":  # its interpreter takes 20 microseconds for every number
            patch.setattr(made, "BLOCK", 16)
            patch.setattr(made, "STEPS", 3)
        yield
        sys.modules.pop(KERNEL, None)
        vars(sys.modules["dkn_ros.gpu"]).pop("columns_cuda", None)


def masks(height: int, width: int) -> list[Flags]:
    """Where depth is known: strewn, but for large holes, at one pixel, everywhere, on a line."""
    chance = np.random.default_rng(height)
    strewn = chance.random((height, width)) < 0.03
    strewn[height // 2, width // 3] = True
    ellipses = np.ones((height, width), np.uint8)
    for _ in range(6):
        centre = int(chance.integers(width)), int(chance.integers(height))
        axes = int(chance.integers(1, width // 3 + 2)), int(chance.integers(1, height // 3 + 2))
        cv2.ellipse(ellipses, centre, axes, float(chance.uniform(0, 180)), 0, 360, 0, -1)
    ellipses[0, 0] = 1
    one, line = np.zeros((2, height, width), np.bool_)
    one[-1, 0] = line[:, width // 2] = True
    return [strewn, ellipses.astype(np.bool_), one, np.ones((height, width), np.bool_), line]


def assert_nearest(known: Flags, place: torch.Tensor, distance: torch.Tensor) -> None:
    exact = cv2.distanceTransform((~known).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if known.all():
        exact[:] = 0
    np.testing.assert_allclose(distance.cpu().numpy(), exact, rtol=1e-6, atol=1e-5)
    rows, columns = np.divmod(place.cpu().numpy(), known.shape[1])
    assert known[rows, columns].all()
    y, x = np.indices(known.shape)
    np.testing.assert_allclose(np.hypot(rows - y, columns - x), exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (37, 53), (120, 160), (60, 300)], ids=str)
@pytest.mark.parametrize("at_once", [holes.AT_ONCE, 50_000])
def test_distances_and_places_are_exact(size: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns at once, and some at a time."""
    monkeypatch.setattr(holes, "AT_ONCE", at_once)
    nearest = Nearest(size, DEVICE)
    for known in masks(*size):
        assert_nearest(known, *nearest(torch.from_numpy(known).to(DEVICE)))


def test_squares_of_a_large_image_fit() -> None:
    known = np.zeros((2, 4200), np.bool_)
    known[1, 0] = True
    for width in (holes.LARGEST, 4200):
        assert_nearest(known[:, :width], *Nearest((2, width), DEVICE)(torch.from_numpy(known[:, :width]).to(DEVICE)))


def test_without_any_measurement_places_lie_in_the_image() -> None:
    place, distance = Nearest((9, 30), DEVICE)(torch.zeros((9, 30), dtype=torch.bool, device=DEVICE))
    assert place.min() >= 0 and place.max() < 270 and distance.isfinite().all()


def test_the_cpus_distances_are_near() -> None:
    """What the module says of OpenCV's chamfer."""
    for known in masks(120, 160)[:3]:
        chamfer = cv2.distanceTransform((~known).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        _, distance = Nearest(known.shape, DEVICE)(torch.from_numpy(known).to(DEVICE))
        error = chamfer / np.maximum(distance.cpu().numpy(), 1e-6) - 1
        assert error[~known].min() > -0.018 and error[~known].max() < 0.0193


@pytest.mark.parametrize("size", [(1, 1), (3, 37), (6, 20)], ids=str)
@pytest.mark.usefixtures("kernel")
def test_the_kernel_finds_the_same_pixels(size: tuple[int, int]) -> None:
    plain, by_kernel = Nearest(size, DEVICE), Nearest(size, DEVICE, triton=True)
    for known in [*masks(*size), np.zeros(size, np.bool_)]:
        there = torch.from_numpy(known).to(DEVICE)
        for found, wanted in zip(by_kernel(there), plain(there), strict=True):
            assert torch.equal(found, wanted)


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dkn_ros.gpu.columns_cuda import BLOCK, NONE, STEPS, _lowest

types = {"least": "*i32", "out": "*i64", "width": "i32"} | dict.fromkeys(("NONE", "BLOCK", "STEPS"), "constexpr")
values = {(3,): NONE, (4,): BLOCK, (5,): STEPS}
print(len(compile(ASTSource(_lowest, types, values), GPUTarget("cuda", 80, 32)).asm["cubin"]), "bytes")
"""


def test_the_compiler_takes_the_kernel(tmp_path: Path) -> None:
    """For an A100; that needs no GPU."""
    pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch's CUDA builds for Linux")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, timeout=300,
        cwd=Path(__file__).resolve().parents[1], env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 1000
