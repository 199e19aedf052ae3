"""How colour lies on depth, by their edges: found, followed, and left alone where both are registered."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from misregistered import HEIGHT, KINECT, NOTHING, WIDTH, boxes
from numpy.typing import NDArray

from dkn_ros.alignment import DOUBTS, PAUSE, Aligner, moved
from dkn_ros.buffers import Buffers
from dkn_ros.config import PipelineConfig
from dkn_ros.edges import FEWEST, Alignment, depth_edges
from dkn_ros.metrics import rmse
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.alignment_check import draw, errors, table
from dkn_ros.synthetic.confidence_fit import OTHER_ROOMS
from dkn_ros.synthetic.scene import Scene
from dkn_ros.traits import UNKNOWN

SIZE = HEIGHT, WIDTH, 3


def places(alignment: Alignment) -> NDArray[np.float64]:
    """Where the colour of points all over the image lies: parameters of alignments that fit the same may differ."""
    x, y, z = np.meshgrid(np.linspace(-280, 280, 5), np.linspace(-200, 200, 5), (1.2, 2.0, 3.0))
    x, y = (
        (1 + alignment.scale) * x + alignment.right + alignment.parallax / z,
        (1 + alignment.scale) * y + alignment.down,
    )
    return np.stack((x, y), axis=-1)


def off(found: Alignment | None, true: Alignment) -> float:
    """Mean distance of where both put the colour, pixels."""
    assert found is not None
    return float(np.linalg.norm(places(found) - places(true), axis=-1).mean())


@pytest.mark.parametrize("ratio", [1, 4, 8])
@pytest.mark.parametrize(
    "true", [KINECT, Alignment(0.0, 14.0, -8.0), Alignment(0.06), Alignment(0.0, 0.0, 0.0, 20.0)], ids=str
)
def test_what_is_not_registered_is_found(true: Alignment, ratio: int) -> None:
    rgb, depth = boxes(true)
    aligner = Aligner()
    assert aligner.asks(SIZE)
    seen = aligner.guide(rgb, depth[ratio // 2 :: ratio, ratio // 2 :: ratio], Buffers())
    assert off(aligner.found.alignment, true) < max(2.0, 0.4 * ratio)
    apart = np.linalg.norm(places(true) - places(NOTHING), axis=-1).mean()
    assert aligner.found.pixels == pytest.approx(apart, abs=max(2.0, 0.3 * apart))
    assert seen.shape == rgb.shape and seen is not rgb


def test_grey_large_and_wide_images() -> None:
    rgb, depth = boxes(KINECT, grey=True)
    aligner = Aligner()
    aligner.guide(rgb, depth, Buffers())
    assert off(aligner.found.alignment, KINECT) < 2
    large = cv2.resize(rgb, (1920, 1440), interpolation=cv2.INTER_LINEAR)
    aligner.guide(np.asarray(large, np.uint8), depth, Buffers())
    assert aligner.found.alignment is not None
    assert off(aligner.found.alignment.enlarged(1 / 3), KINECT) < 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [2, 8])
def test_what_is_registered_is_left_as_it_is(seed: int, ratio: int) -> None:
    frame = Scene(seed).frame(WIDTH, HEIGHT, time=1.0)
    aligner = Aligner()
    assert aligner.guide(frame.rgb, frame.depth[ratio // 2 :: ratio, ratio // 2 :: ratio], Buffers()) is frame.rgb
    assert aligner.found.alignment is None and aligner.found.pixels == 0


def test_no_colour_edges_and_no_depth_edges_tell_nothing() -> None:
    rgb, depth = boxes(KINECT)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, rgb.shape, np.uint8)
    for colour, metres in (
        (np.full_like(rgb, 90), depth),
        (np.clip(rng.normal(4, 1.5, rgb.shape), 0, 255).astype(np.uint8), depth),  # in the dark, or behind a lens cap
        (noise, depth),
        (rgb, np.full_like(depth, 2.0)),
        (rgb, np.full_like(depth, np.nan)),
    ):
        aligner = Aligner()
        assert aligner.guide(colour, metres, Buffers()) is colour
        assert aligner.found.alignment is None
        assert aligner.found.aligned == UNKNOWN or colour is noise
        assert not aligner.asks(SIZE)  # nor do the next frames pay for what this one did not tell


def test_a_camera_that_moves_is_followed_and_an_empty_view_forgets_nothing() -> None:
    """Colour and depth that are not taken at once lie elsewhere as the camera moves."""
    aligner, buffers = Aligner(), Buffers()
    for frame in range(12):
        true = KINECT._replace(down=1.5 - 0.4 * frame)
        aligner.guide(*boxes(true, seed=frame), buffers)
    assert off(aligner.found.alignment, true) < 2.5
    rgb, depth = boxes(true)
    for blank in (np.nan, 2.0):
        assert aligner.asks(SIZE)
        aligner.guide(rgb, np.full((HEIGHT, WIDTH), blank, np.float32), buffers)
        assert off(aligner.found.alignment, true) < 2.5
    for _ in range(2 * DOUBTS):
        aligner.guide(np.full_like(rgb, 3), depth, buffers)  # the light goes out
    assert off(aligner.found.alignment, true) < 2.5


def test_it_ends_when_the_driver_registers_after_all() -> None:
    aligner, buffers = Aligner(), Buffers()
    aligner.guide(*boxes(KINECT), buffers)
    assert aligner.found.alignment is not None
    for frame in range(DOUBTS):
        assert aligner.found.alignment is not None
        aligner.guide(*boxes(NOTHING, seed=frame), buffers)
    assert aligner.found.alignment is None and aligner.found.pixels == 0


def test_a_registered_camera_is_looked_at_now_and_then() -> None:
    aligner, buffers = Aligner(), Buffers()
    looks = []
    for frame in range(2 * PAUSE + 3):
        if aligner.asks(SIZE):
            looks.append(frame)
            aligner.guide(*boxes(NOTHING), buffers)
    assert looks == [0, PAUSE, 2 * PAUSE]
    aligner.guide(*boxes(KINECT), buffers)
    assert aligner.found.alignment is not None
    assert aligner.asks(SIZE) and aligner.asks(SIZE)  # every frame from now on
    aligner.forget()
    assert aligner.found.alignment is None and aligner.asks(SIZE)
    rgb, depth = boxes(NOTHING)
    aligner.guide(rgb, depth, buffers)
    assert not aligner.asks(SIZE)
    # Another size is another camera.
    assert aligner.asks((400, WIDTH, 3)) and aligner.asks(SIZE[:2])
    assert not aligner.asks(SIZE)
    assert aligner.guide(*(np.ascontiguousarray(image[:400]) for image in boxes(KINECT)), buffers).shape[0] == 400
    assert aligner.found.alignment is not None


def test_while_one_thread_looks_the_others_use_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = Aligner()
    rgb, depth = boxes(KINECT)
    aligner.guide(rgb, depth, Buffers())
    known = aligner.found
    begun, go_on = threading.Event(), threading.Event()
    look = aligner._look

    def slowly(*given: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        look(*given)

    monkeypatch.setattr(aligner, "_look", slowly)
    thread = threading.Thread(target=aligner.guide, args=(rgb, depth, Buffers()))
    thread.start()
    assert begun.wait(60)
    seen = aligner.guide(rgb, depth, Buffers())  # which would wait for ever if it looked too
    assert known.alignment is not None and aligner.found is known
    np.testing.assert_array_equal(seen, moved(rgb, depth, known.alignment, Buffers()))
    go_on.set()
    thread.join(60)
    assert aligner.found is not known


def test_colour_is_moved_to_its_depth() -> None:
    """Of the nearer side at an edge, and inside holes of the depth as well."""
    rgb, depth = boxes(KINECT, seed=3)
    wanted, _ = boxes(NOTHING, seed=3)
    depth[100:110, 50:300] = np.nan
    seen = moved(rgb, depth, KINECT, Buffers())
    # More than the noise differs by.
    before, after = ((np.abs(image.astype(float) - wanted) > 20)[20:-60, 20:-60].mean() for image in (rgb, seen))
    assert after < 0.2 * before


def test_depth_edges_are_where_depth_steps() -> None:
    depth = np.full((40, 60), 3.0, np.float32)
    depth[10:30, 20:45] = 2.0
    x, y, nearness, along = depth_edges(depth, 120, 80)
    assert len(x) == 2 * 20 + 2 * 25 >= FEWEST and np.all(nearness == 0.5)
    columns, rows = x / 2 + 30, y / 2 + 20
    assert set(columns[along > 0]) == {20, 45} and set(rows[along == 0]) == {10, 30}
    assert rows[along > 0].min() == 10.5 and rows[along > 0].max() == 29.5
    depth[12, 20] = np.nan
    assert len(depth_edges(depth, 120, 80)[0]) < 90


def test_the_check_shows_what_it_is_worth(tmp_path: Path) -> None:
    """Of one room through a raw Kinect, with the shipped weights; bicubic does not look at the colour."""
    pipeline, (room, *_) = Pipeline(PipelineConfig(device="cpu")), OTHER_ROOMS
    found = errors(pipeline, [room])
    for methods in found.values():
        (bicubic,), (beside,), (moved_,) = methods.values()
        assert moved_ < beside and moved_ < bicubic
    assert found[8]["colour moved"][0] < 0.9 * found[8]["colour as it is"][0]
    lines = table(found).splitlines()
    assert len(lines) == 3 and "1.00)" in lines[1]
    draw(pipeline, room, tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


@pytest.mark.parametrize("aligned", [True, False])
def test_the_pipeline_gets_better_depth_by_it_and_says_so(aligned: bool) -> None:
    pipeline = Pipeline(PipelineConfig(device="cpu", align_colour=aligned))
    rgb, truth = boxes(KINECT)
    low = np.ascontiguousarray(truth[4::8, 4::8])
    given, depth = rgb.copy(), low.copy()
    result = pipeline.enhance(rgb, low).depth
    assert np.array_equal(rgb, given) and np.array_equal(low, depth)
    assert bool(pipeline.misregistered) is aligned
    registered = rmse(pipeline.enhance(boxes(NOTHING)[0], low).depth, truth)
    assert (rmse(result, truth) < 1.3 * registered) is aligned
    if aligned:
        assert " pixels apart (scale 0." in pipeline.misregistered
        assert "align" in pipeline.enhance(rgb, low).timings
        pipeline.forget_camera()
        assert not pipeline.misregistered


def test_switched_off_in_the_middle_it_leaves_nothing_behind() -> None:
    rgb, truth = boxes(KINECT)
    low = np.ascontiguousarray(truth[4::8, 4::8])
    changing, never = (Pipeline(PipelineConfig(device="cpu", align_colour=align)) for align in (True, False))
    changing.enhance(rgb, low)
    assert changing.misregistered
    changing.config = never.config
    np.testing.assert_array_equal(changing.enhance(rgb, low).depth, never.enhance(rgb, low).depth)
    assert not changing.misregistered and changing.alignment is None


def test_a_warm_up_is_of_no_camera_and_pipelines_side_by_side_know_the_same() -> None:
    rgb, truth = boxes(KINECT)
    low = np.ascontiguousarray(truth[4::8, 4::8])
    first = Pipeline(PipelineConfig(weights="fdkn-small", device="cpu"))
    second = first.beside()
    first.warm_up(WIDTH, HEIGHT, WIDTH // 8, HEIGHT // 8)
    first.enhance(rgb, low)  # which is the first frame of it, so it is looked at
    assert first.misregistered and second.misregistered == first.misregistered
    first.release()
    second.forget_camera()
    assert not first.misregistered
