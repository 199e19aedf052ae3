"""Which processor to use, and how much of it.  Facts about the machine come in as arguments."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

WORTHWHILE = 1.3
"""A smaller gain in speed is not worth the digits; and so much no measurement is off."""


class Cuda(NamedTuple):
    """Whether this machine's GPU can be used."""

    available: bool
    complaint: str = ""
    """Why not, where the driver is there and does not serve, as one that is too old; empty where there is none."""


@cache  # PyTorch gives the reason once in a process
def cuda_state() -> Cuda:
    """What PyTorch finds here, asked once."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return Cuda(True)
    lines = [line for warning in said for line in str(warning.message).strip().splitlines()[:1]]
    return Cuda(False, lines[0].removeprefix("CUDA initialization: ") if lines else "")


def resolve_device(requested: str, cuda_available: bool) -> torch.device:
    """auto, cpu, cuda or cuda:N -> a device; ValueError if it is not there, never another one instead."""
    if requested == "auto":
        return torch.device("cuda" if cuda_available else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", requested):
        raise ValueError(f"device is {requested!r}; wanted: auto, cpu, cuda or cuda:N")
    if requested != "cpu" and not cuda_available:
        raise ValueError(f"device is {requested!r} but PyTorch finds no CUDA device; wanted: auto or cpu")
    return torch.device(requested)


def exact_float32(device: torch.device) -> None:
    """Let a GPU compute float32 as float32 in this process.

    PyTorch's convolutions otherwise take TF32, which has 10 bits of it: float32 towers would be no better than float16
    ones, and a comparison with them would measure that.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def resolve_precision(
    requested: str,
    device: torch.device,
    gain: Callable[[], float],
    half_gains: Callable[[torch.device], Mapping[torch.dtype, float]] | None = None,
) -> torch.dtype:
    """auto, float32, bfloat16, float16 or int8 -> the towers' number type; ValueError for one that the device lacks.

    auto takes what is clearly faster than float32: on a CPU bfloat16, on a GPU bfloat16 or, where that is faster still,
    float16.  int8, which is the fastest on a CPU, is farther from float32 and only taken where it is asked for.
    gain: `bfloat16_gain`; half_gains: `half_gains_of` a GPU, if not given; each asked only then.

    Speed decides, not digits.  With the shipped weights on rendered frames (3 scenes, 3 cameras, 320 x 240) depth
    differs from that of float32 by 0.007 to 0.025 % with bfloat16 towers (at worst 0.036 %) and by 0.001 to 0.003 %
    (0.004 %) with float16 ones (relative RMSE), which is 0.6 % and 0.08 % of the error against the truth or less.
    Activations reach 117, where float16 ends at 65504; bfloat16 has the range of float32 with any weights.
    """
    if requested == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if gain() > WORTHWHILE else torch.float32
        gains = (half_gains or half_gains_of)(device)
        wide, fine = gains[torch.bfloat16], gains[torch.float16]
        if max(wide, fine) <= WORTHWHILE:
            return torch.float32
        return torch.float16 if fine > WORTHWHILE * wide else torch.bfloat16
    only = {"int8": "cpu", "float16": "cuda"}.get(requested, device.type)
    if device.type != only:
        served = "CPU" if only == "cpu" else "GPU"
        raise ValueError(f"precision is {requested}, which only the {served} serves, and device is {device}; wanted: "
                         f"device {only}, or auto, float32 or bfloat16")  # fmt: skip
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
    return kinds[requested]


def heads_kind(precision: torch.dtype, gain: Callable[[], float]) -> torch.dtype:
    """What towers in a precision give: their own number type, or where that is int8, the faster of the others."""
    if precision != torch.int8:
        return precision
    return torch.bfloat16 if gain() > WORTHWHILE else torch.float32


@cache
def bfloat16_gain() -> float:
    """How many times faster this CPU convolves in bfloat16 than in float32, measured once in some 50 ms.

    No list of instruction sets tells: of two processors with AVX-512 and its bfloat16 extension one was measured to be
    2.5 times faster, the other not at all; with AMX tiles it is 6 times.
    """
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(1, 64, 120, 160).to(memory_format=torch.channels_last)
    seconds = {}
    with torch.inference_mode():
        for kind in (torch.float32, torch.bfloat16):
            work = partial(layer.to(kind), image.to(kind))
            seconds[kind] = min(_seconds(work) for _ in range(5))
    return seconds[torch.float32] / seconds[torch.bfloat16]


@cache
def half_gains_of(device: torch.device) -> Mapping[torch.dtype, float]:
    """How many times faster a GPU convolves in bfloat16 and in float16 than in float32, measured once; 0: not at all.

    Both have tensor cores from compute capability 8.0 on, float16 alone at 7.0 to 7.5; not run on a GPU yet.
    """
    exact_float32(device)
    layer = torch.nn.Conv2d(128, 128, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(4, 128, 120, 160, device=device).to(memory_format=torch.channels_last)
    seconds = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), math.inf)
    with torch.inference_mode():
        for kind in seconds:
            work = partial(layer.to(kind), image.to(kind))
            try:
                for _ in range(3):  # until cuDNN has chosen
                    work()
                seconds[kind] = min(_device_seconds(work, device) for _ in range(5))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # this GPU or its cuDNN does not know the type
                if kind == torch.float32:
                    raise
    return {kind: seconds[torch.float32] / seconds[kind] for kind in (torch.bfloat16, torch.float16)}


def _device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """By the host's clock, with nothing else on the device: what is measured takes some hundred microseconds."""
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resolve_threads(requested: int, cores: int) -> int:
    """0 -> every core, less one for the ROS thread where there are more than two."""
    if requested > 0:
        return requested
    return max(1, cores - 1 if cores > 2 else cores)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_memory(name: str = "VmRSS", proc: Path = Path("/proc/self")) -> int | None:
    """Bytes of a line such as `VmRSS: 1234 kB` (resident memory) of a process; None where there is no /proc."""
    try:
        lines = (proc / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    value = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if value is None else 1024 * int(value)


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Bytes that this process holds: "memory", where Linux tells, and "GPU memory", all that PyTorch took of it."""
    resident = process_memory()
    used = {} if resident is None else {"memory": resident}
    if device.type == "cuda":
        used["GPU memory"] = torch.cuda.memory_reserved(device)
    return used


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next frame; call once, before it starts threads.

    Feature maps are large enough that the C library returns each to the system when it is freed and gets it back, page
    by page and zeroed, for the next: measured, 11,000 page faults and an eighth of the time of a 640 x 480 frame.  For
    processes of our own only: it holds for all that they do, and their memory shrinks by `return_freed_memory` alone.
    Returns whether this C library (glibc) can be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # From malloc.h; no mapping of its own for a large block, no trimming of the heap, one heap for all threads: those
    # of threads hold 64 MB each, which a feature map of 1920 x 1080 exceeds.
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    return all(mallopt(*option) for option in ((mmap_max, 0), (trim_threshold, 1 << 30), (arena_max, 1)))


def return_freed_memory() -> None:
    """Give the memory that was freed back to the system and to other users of the GPU."""
    gc.collect()
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a GPU that is lost has nothing to give back
            torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc was not told to keep it either
        ctypes.CDLL(None).malloc_trim(0)
