"""What a stream of frames of one size costs: no new arrays, no new memory pages, no more threads than asked for."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeModel
from harness import needs_rclpy
from numpy.typing import NDArray

from dkn_ros.config import NodeConfig, PipelineConfig
from dkn_ros.pipeline import Pipeline
from dkn_ros.weights import save_weights

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 640, 480
OBJECTS = 16_000
"""Bytes of Python's own objects that a frame may hold at one time: the size of no image here."""


@pytest.fixture(params=[0.0, 1.0], ids=["plain", "back-projected"])
def pipeline(request: pytest.FixtureRequest, make_model: MakeModel, tmp_path: Path) -> Pipeline:
    """Small, but told all that a network can be told; it works on another grid than the colour's from 8 times on."""
    told = {"validity": True, "traits": True}
    about = {"options": {"n1": 8, "n2": 8, **told}, "ratios": (1.0, 8.0), "back_projection": request.param}
    path = tmp_path / "told.safetensors"
    save_weights(make_model(**told), path, model="fdkn", **about)
    return Pipeline(PipelineConfig(weights=str(path), device="cpu", precision="float32", threads=1))


def frame(ratio: int, holes: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A plane without noise, on which every step is taken that can be."""
    y, x = np.indices((HEIGHT // ratio, WIDTH // ratio))
    depth = np.rint(1000 + ratio * (x + y / 2)).astype(np.uint16)
    if holes:
        depth[3:9, 4:12] = 0
    return np.random.default_rng(ratio).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), depth


def growth(
    pipeline: Pipeline,
    ratio: int,
    holes: bool,
    out: NDArray[np.float32] | None,
    confidence: NDArray[np.float32] | None = None,
) -> int:
    """By how many bytes the arrays and objects of a later frame exceed those that are there between two frames.

    Feature maps do not count: PyTorch keeps its own account.
    """
    rgb, depth = frame(ratio, holes)
    return growth_of(lambda: pipeline.enhance(rgb, depth, out=out, confidence=confidence))


def growth_of(work: Callable[[], object]) -> int:
    """By how many bytes the arrays and objects of later calls exceed those that are there between two calls."""
    for _ in range(3):
        work()
    tracemalloc.start()
    try:
        work()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
@pytest.mark.parametrize("ratio", [1, 2, 4, 16])
def test_a_later_frame_makes_no_array_of_an_images_size(pipeline: Pipeline, ratio: int, holes: bool) -> None:
    """Not even of a byte a pixel: from 4 times on such a mask of the input depth is a quarter of its metres."""
    out = np.empty((HEIGHT, WIDTH), np.float32)
    mask = (HEIGHT // min(ratio, 8)) * (WIDTH // min(ratio, 8))
    assert growth(pipeline, ratio, holes, out) < max(mask, OBJECTS)


@pytest.mark.parametrize("ratio", [1, 4, 16])
def test_neither_do_confidence_and_the_filter_of_flying_pixels(pipeline: Pipeline, ratio: int) -> None:
    pipeline.config = dataclasses.replace(pipeline.config, flying_pixels=0.03)
    out, confidence = (np.empty((HEIGHT, WIDTH), np.float32) for _ in range(2))
    mask = (HEIGHT // min(ratio, 8)) * (WIDTH // min(ratio, 8))
    assert growth(pipeline, ratio, True, out, confidence) < max(mask, OBJECTS)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_neither_does_another_number_type(pipeline: Pipeline, precision: str) -> None:
    pipeline.config = dataclasses.replace(pipeline.config, precision=precision)
    out = np.empty((HEIGHT, WIDTH), np.float32)
    assert growth(pipeline, 4, False, out) < HEIGHT * WIDTH // 16
    assert str(pipeline.precision) == f"torch.{precision}"


@needs_rclpy
@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
@pytest.mark.parametrize("name", ["Validity", "Confidence", "Picture", "Points", "Compressed png", "Compressed rvl"])
def test_neither_do_the_messages_of_the_other_outputs(name: str, encoding: str) -> None:
    from std_msgs.msg import Header

    from dkn_ros.ros import views
    from dkn_ros.ros.messages import camera_info

    class_name, _, form = name.partition(" ")
    view: Any = views.Points(None) if name == "Points" else getattr(views, class_name)()
    depth = np.tile(np.linspace(1, 3, WIDTH, dtype=np.float32), (HEIGHT, 1))
    depth[:40] = np.nan
    sent = depth if encoding == "32FC1" else np.nan_to_num(1000 * depth).astype(np.uint16)
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    result = views.Result(Header(), rgb, depth, camera_info(WIDTH, HEIGHT, 500.0, "camera"))
    config = NodeConfig(compressed_format=form or "png")

    def work() -> None:
        if name == "Confidence":
            view.begin(HEIGHT, WIDTH, True)
        assert view.message(result, sent, config) is not None

    # OpenCV makes a png anew each time, and then that of its file.
    file = len(view.message(result, sent, config).data) if form == "png" else 0
    assert growth_of(work) < OBJECTS + 2 * file


def test_without_out_the_result_is_a_new_array(pipeline: Pipeline) -> None:
    """Shows that what the test above looks at does grow."""
    assert growth(pipeline, 4, True, None) >= 4 * HEIGHT * WIDTH


def test_released_arrays_are_gone_and_come_again(pipeline: Pipeline) -> None:
    rgb, depth = frame(4, True)
    out = np.empty((HEIGHT, WIDTH), np.float32)
    pipeline.enhance(rgb, depth, out=out)  # compiles
    pipeline.release()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        expected = pipeline.enhance(rgb, depth, out=out).depth.copy()
        held = tracemalloc.get_traced_memory()[0] - expected.nbytes - before
        pipeline.release()
        left = tracemalloc.get_traced_memory()[0] - expected.nbytes - before
    finally:
        tracemalloc.stop()
    assert held > 4 * HEIGHT * WIDTH > OBJECTS > left
    np.testing.assert_array_equal(pipeline.enhance(rgb, depth, out=out).depth, expected)


# --- pages and threads, in a process of their own -------------------------------------------------------------------

SCRIPT = """
import json, resource, sys, threading, time
from dkn_ros.device import keep_freed_memory
kept = keep_freed_memory()
import numpy as np
from dkn_ros.config import PipelineConfig
from dkn_ros.pipeline import Pipeline

pipeline = Pipeline(PipelineConfig(device="cpu", precision="float32", threads=1))
rng = np.random.default_rng(0)
rgb = rng.integers(0, 256, (240, 320, 3), np.uint8)
depth = rng.integers(1000, 3000, (60, 80)).astype(np.uint16)
depth[3:9, 4:12] = 0
out = np.empty((240, 320), np.float32)
found = {"kept": kept, "frames": 20}

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def enhance(frames):
    for _ in range(frames):
        pipeline.enhance(rgb, depth, out=out)

def measure():
    enhance(15)
    before = pages(), time.process_time(), time.thread_time()
    enhance(found["frames"])
    after = pages(), time.process_time(), time.thread_time()
    found["pages"], found["all threads"], found["one thread"] = (b - a for a, b in zip(before, after))

if sys.argv[1] == "main thread":
    measure()
else:
    enhance(1)
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["main thread", "worker thread"])
def cost(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What 20 frames, with the shipped weights, cost in a thread of a new process."""
    command = [sys.executable, "-c", SCRIPT, request.param]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    return found


def test_a_later_frame_takes_no_new_pages(cost: dict[str, Any]) -> None:
    if not cost["kept"]:
        pytest.skip("this C library cannot be told to keep freed memory")
    assert cost["pages"] < 150 * cost["frames"]  # without it 5000; 150 is one feature map of the first layers alone


def test_one_thread_is_all_that_works(cost: dict[str, Any]) -> None:
    """Compared with the thread's own time and not with the clock's, in which a busy machine would hide the others."""
    assert cost["one thread"] > 0.1, "too short to tell"
    assert cost["all threads"] < 1.3 * cost["one thread"]
