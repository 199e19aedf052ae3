"""How many frames are worked on at once, on a CPU.

The threads of a frame meet at the end of every layer and loop, and wait there for the slowest: where other processes
want the cores too, as on a robot, one that was put aside holds all of them.  Frames of their own do not wait for each
other.  A frame that is alone takes all threads, so that it is done soonest; one that begins while others are in work
takes its share of them.

    one at a time   |=== 1 ===|=== 3 ===|=== 5 ===|          each on 2 threads; 2 and 4 are dropped
    two at once     |====== 1 ======|====== 3 ======|        each on 1 thread
                         |====== 2 ======|====== 4 ======|
"""

from __future__ import annotations

from collections.abc import Callable

import numba

from dkn_ros.pipeline import Pipeline

PERIOD_MS = 1000 / 30
"""Of the cameras that this is for."""
SAFE = ("omp", "tbb")
"""numba's threading layers that several threads may enter; another one ends the process."""


def frames_at_once(asked: int, pipeline: Pipeline, frame_ms: Callable[[], float] | None) -> tuple[int, str]:
    """How many frames to work on at once, and what there is to say of it, if anything.

    asked: 0 for two where 30 Hz are held by it, else one, which is done sooner.  frame_ms: works on a frame of the
    usual size and returns its milliseconds; None where no size is known.
    """
    most, why = most_at_once(pipeline)
    if asked > most:
        return most, f"{most} at once, not {asked} (frames_at_once): {why}"
    if asked or most < 2 or frame_ms is None:
        return max(asked, 1), f"{asked} at once" if asked > 1 else ""
    pipeline.company = 2
    shared = frame_ms()
    pipeline.company = 1
    return (2, f"2 at once {shared:.0f} ms") if shared < 2 * PERIOD_MS else (1, "")


def most_at_once(pipeline: Pipeline) -> tuple[int, str]:
    """How many frames at once are possible, and why no more."""
    if pipeline.device.type != "cpu":
        return 1, f"on {pipeline.device} a frame has all of it"
    numba.get_num_threads()  # chooses the layer
    layer = numba.threading_layer()
    if layer not in SAFE:
        return 1, f"numba's threading layer is {layer}; wanted: {' or '.join(SAFE)}"
    return pipeline.threads, f"the network has {pipeline.threads} threads"
