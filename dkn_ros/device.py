"""Which processor to use, and how much of it.  Facts about the machine come in as arguments."""

from __future__ import annotations

import os
import re

import torch


def resolve_device(requested: str, cuda_available: bool) -> torch.device:
    """auto, cpu, cuda or cuda:N -> a device; ValueError if it is not there, never another one instead."""
    if requested == "auto":
        return torch.device("cuda" if cuda_available else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", requested):
        raise ValueError(f"device is {requested!r}; wanted: auto, cpu, cuda or cuda:N")
    if requested != "cpu" and not cuda_available:
        raise ValueError(f"device is {requested!r} but PyTorch finds no CUDA device; wanted: auto or cpu")
    return torch.device(requested)


def resolve_precision(requested: str, device: torch.device, has_amx: bool) -> torch.dtype:
    """auto, float32 or bfloat16 -> the number type of the towers.

    auto takes bfloat16 on CUDA and on CPUs with AMX tiles.  Without those, bfloat16 convolutions were measured to be no
    faster than float32 (AVX-512, 2 cores: 178 against 161 ms for both towers at 640 x 480).
    """
    if requested == "auto":
        return torch.bfloat16 if device.type == "cuda" or has_amx else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[requested]


def has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in tiles."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def resolve_threads(requested: int, cores: int) -> int:
    """0 -> every core, less one for the ROS thread where there are more than two."""
    if requested > 0:
        return requested
    return max(1, cores - 1 if cores > 2 else cores)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
