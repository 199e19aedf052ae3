"""Peak memory of one frame, each measured in a fresh process.

In a process that has worked before, the pools of freed memory that allocators keep hide a peak: it grows into what is
there already.  A fresh one first runs a tiny frame, so that libraries and compiled code are loaded and do not count.
"""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dkn_ros.benchmark.published import Published
from dkn_ros.config import PipelineConfig
from dkn_ros.device import process_memory, return_freed_memory
from dkn_ros.gpu.stream import PLACES
from dkn_ros.pipeline import Pipeline

PROC = Path("/proc/self")
SAMPLE_SECONDS = 0.001
SLACK = 1 << 20
"""The kernel counts pages in batches: a high-water mark that was reset can lie so much above what is resident."""


class DoesNotFitError(RuntimeError):
    """The frame needs more memory than there is."""


@dataclass(frozen=True)
class Peak:
    """The most memory that a frame took beyond what was there before it."""

    megabytes: float | None
    """Of 10^6 bytes; None where the system does not tell."""
    method: str


def measure(config: PipelineConfig, rgb: NDArray[np.uint8], depth: NDArray, reference: bool = False) -> Peak:
    """The peak of `Pipeline(config).enhance(rgb, depth)`, or of the published way through that frame.

    Raises DoesNotFitError if that process runs out of memory or is killed.
    """
    with ProcessPoolExecutor(1, mp_context=_fresh()) as pool:
        try:
            return pool.submit(_measure_here, config, rgb, depth, reference).result()
        except BrokenProcessPool as error:
            raise DoesNotFitError("the system ended the process that measured the memory of a frame") from error
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error)):
                raise DoesNotFitError((str(error) or "out of memory").splitlines()[0]) from error
            raise


def _fresh() -> BaseContext:
    """Processes that have done nothing yet but imports: those of this one would inherit its pools, and no CUDA."""
    try:
        context = multiprocessing.get_context("forkserver")
    except ValueError:  # this system cannot fork
        return multiprocessing.get_context("spawn")
    # What takes seconds to import and starts no threads, which would not survive the fork: numba's code starts them.
    context.set_forkserver_preload(["torch", "cv2", "numba"])
    return context


def _measure_here(config: PipelineConfig, rgb: NDArray[np.uint8], depth: NDArray, reference: bool) -> Peak:
    pipeline = Pipeline(config)
    way = Published(pipeline) if reference else pipeline
    way.enhance(np.ascontiguousarray(rgb[:48, :64]), np.ascontiguousarray(depth[:12, :16]))
    pipeline.release()
    return_freed_memory()  # of what the start needed, as the crops that tell the range of 8-bit towers

    def work() -> None:
        way.enhance(rgb, depth)

    return _cuda_peak(work, pipeline.device) if pipeline.device.type == "cuda" else resident_peak(work)


def _cuda_peak(work: Callable[[], None], device: torch.device) -> Peak:
    """With what graphs keep for their next replay, which is reserved but counts as no tensor, in all places."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    for _ in range(PLACES):
        work()
    torch.cuda.synchronize(device)
    return Peak((torch.cuda.max_memory_reserved(device) - before) / 1e6, "what PyTorch reserves of the GPU")


def resident_peak(work: Callable[[], None], proc: Path = PROC) -> Peak:
    """The peak of this process's resident memory during `work` over that before it.

    Linux keeps the mark (VmHWM), and resets it when 5 is written to clear_refs; where it may not be, the resident
    memory is looked at every millisecond, which can miss a short peak.  proc: the process's folder in /proc.
    """
    before = process_memory("VmRSS", proc)
    if before is None:
        work()
        return Peak(None, "unknown: this system has no /proc/self/status")
    if _reset_mark(proc):
        work()
        after = process_memory("VmHWM", proc) or before
        return Peak(
            max(0, after - before) / 1e6, "the kernel's mark of resident memory (VmHWM, reset before the frame)"
        )
    return Peak((_sampled(work, proc, before) - before) / 1e6, "resident memory (VmRSS) looked at every millisecond")


def _reset_mark(proc: Path) -> bool:
    try:
        (proc / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    mark, now = process_memory("VmHWM", proc), process_memory("VmRSS", proc)
    return mark is not None and now is not None and mark <= now + SLACK


def _sampled(work: Callable[[], None], proc: Path, before: int) -> int:
    most, done = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(SAMPLE_SECONDS):
            most = max(most, process_memory("VmRSS", proc) or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most
