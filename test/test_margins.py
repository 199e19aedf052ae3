"""Depth whose blocks or sparse pixels do not begin at the image's corner: found, and worth as much as where they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_resolution import noisy

from dkn_ros import margins, resolution
from dkn_ros.config import PipelineConfig
from dkn_ros.depth import to_metres, to_millimetres
from dkn_ros.frame import Enhanced
from dkn_ros.lattice import NO_MARGINS, Margins
from dkn_ros.pipeline import Pipeline
from dkn_ros.resolution import FULL, Form, form_of, pooled
from dkn_ros.synthetic.degradation import lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.synthetic.sensor import registered

FloatImage = NDArray[np.float32]
WIDTH, HEIGHT = 320, 240
CPU: dict[str, Any] = {
    "weights": "fdkn-small", "precision": "float32", "device": "cpu", "threads": 1, "align_colour": False
}  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> Any:
    return Scene(3).frame(WIDTH, HEIGHT)


def cut(image: NDArray[Any], left: int, top: int, right: int = 0, bottom: int = 0) -> NDArray[Any]:
    return np.ascontiguousarray(image[top : image.shape[0] - bottom, left : image.shape[1] - right])


@pytest.mark.parametrize("form", ["replicate", "sparse"])
@pytest.mark.parametrize("ratio", [2, 4, 5, 8, 2.5])
@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 0), (2, 3), (0, 5), (7, 1)])
def test_margins_make_blocks_that_were_cut_whole(
    frame: Any, form: str, ratio: float, left: int, top: int, rng: np.random.Generator
) -> None:
    low = noisy(lower(frame.depth, ratio, "nearest"), rng)
    whole = registered(low, WIDTH, HEIGHT, form)
    part = cut(whole, left, top, 3, 1)
    found = form_of(part)
    assert found is not None and found.name != FULL
    wide = np.full(found.margins.size(part.shape), np.nan, np.float32)
    wide[found.margins.inside(part.shape)] = part
    again = form_of(wide)
    assert again is not None and again.margins == NO_MARGINS
    assert (again.height, again.width) == tuple(round(n / ratio) for n in wide.shape)
    # Cell for cell what was measured, from the first whole block on.
    if ratio != 2.5:
        x, y = -(-left // int(ratio)), -(-top // int(ratio))
        first_x, first_y = (
            (x * ratio - left + found.margins.left) / ratio,
            (y * ratio - top + found.margins.top) / ratio,
        )
        assert first_x == int(first_x) and first_y == int(first_y)
        measured = pooled(wide, again.width, again.height)[int(first_y) :, int(first_x) :][:-1, :-1]
        np.testing.assert_allclose(measured, low[y:, x:][: measured.shape[0], : measured.shape[1]], rtol=1e-6)


@pytest.mark.parametrize("form", ["replicate", "sparse"])
@pytest.mark.parametrize("size", [(160, 120), (80, 60), (40, 30), (171, 188), (213, 160), (107, 112)])
def test_blocks_that_begin_at_the_corner_need_none(
    frame: Any, form: str, size: tuple[int, int], rng: np.random.Generator
) -> None:
    columns, rows = (np.arange(n) * m // n for n, m in zip(size, (WIDTH, HEIGHT), strict=True))
    low = noisy(frame.depth[np.ix_(rows, columns)], rng)
    found = form_of(registered(low, WIDTH, HEIGHT, form))
    assert found is not None and found.margins == NO_MARGINS


def waves(width: int, height: int) -> FloatImage:
    """Metres of which no two neighbours are equal."""
    y, x = np.indices((height, width))
    noise = np.random.default_rng(0).standard_normal((height, width))
    return (1.5 + 0.3 * np.sin(x / 7) + 0.2 * np.cos(y / 5) + 0.002 * noise).round(4).astype(np.float32)


@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 8, 10])
@pytest.mark.parametrize(
    "holes",
    [[], [(101, 203, 99, 251)], [(101, 203, 99, 251), (301, 353, 401, 455)], [(3, 17, 5, 121)]],
    ids=["none", "a mask", "two masks", "a time stamp"],
)
def test_holes_need_not_follow_the_blocks(ratio: int, holes: list[tuple[int, int, int, int]]) -> None:
    """As those of a filter that knows the robot's own arm do not: their borders lie inside blocks."""
    depth = waves(640 // ratio, 480 // ratio).repeat(ratio, 0).repeat(ratio, 1)  # of whole blocks
    for top, bottom, left, right in holes:
        depth[top:bottom, left:right] = np.nan
    found = form_of(depth)
    assert found is not None and found.name == "replicated"
    assert (found.width, found.height) == (640 // ratio, 480 // ratio)
    assert found.margins == NO_MARGINS


@pytest.mark.parametrize("form", ["replicate", "sparse"])
@pytest.mark.parametrize("ratio", [1.5, 2.25, 2.4, 2.5, 8 / 3, 3.2, 3.3, 3.75, 4, 4.5, 6.4, 8, 12])
def test_with_their_margins_images_need_no_others(form: str, ratio: float) -> None:
    """Else every frame would be done twice: at any ratio, wherever the images were cut."""
    width, height, rng = 320, 240, np.random.default_rng(1)
    for _ in range(12):
        left, top = rng.integers(0, 16, 2)
        low = waves(int((width + 20) / ratio) + 3, int((height + 20) / ratio) + 3)
        low[10:20, 10:20] = np.nan
        if form == "replicate":
            columns, rows = (
                np.floor((np.arange(n) + o) / ratio).astype(int) for n, o in ((width, left), (height, top))
            )
            depth = low[np.ix_(rows, columns)].copy()
        else:
            depth = np.full((height, width), np.nan, np.float32)
            columns, rows = (
                np.floor((np.arange(n) + 0.5) * ratio - o).astype(int)
                for n, o in ((low.shape[1], left), (low.shape[0], top))
            )
            x, y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
            depth[np.ix_(rows[y], columns[x])] = low[np.ix_(y, x)]
        found = form_of(depth)
        assert found is not None
        wide = np.full(found.margins.size(depth.shape), np.nan, np.float32)
        wide[found.margins.inside(depth.shape)] = depth
        again = form_of(wide)
        assert again is not None and again.margins == NO_MARGINS and again.name == found.name


def test_margins_lie_around_an_image() -> None:
    margins, image = Margins(1, 2, 3, 4), np.zeros((10, 20))
    assert margins.size(image.shape) == (16, 24)
    assert np.zeros(margins.size(image.shape))[margins.inside(image.shape)].shape == image.shape
    assert margins.inside(image.shape) == (slice(2, 12), slice(1, 21))


# --- in the pipeline -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """It does not look where colour lies on depth: what it finds out with one frame it knows in the next."""
    return Pipeline(PipelineConfig(**CPU))


def error(found: Enhanced, truth: FloatImage) -> float:
    """Root mean square, of what lies away from the border."""
    inside = (slice(16, -16), slice(16, -16))
    return float(np.sqrt(np.nanmean((found.depth - truth)[inside] ** 2)))


@pytest.mark.parametrize("form", ["replicate", "sparse"])
@pytest.mark.parametrize("lost", [(2, 1), (1, 2), (3, 3)], ids=str)
def test_images_that_were_cut_come_out_as_well_as_whole_ones(
    pipeline: Pipeline, frame: Any, form: str, lost: tuple[int, int]
) -> None:
    depth = to_millimetres(registered(lower(frame.depth, 4, "area"), WIDTH, HEIGHT, form))
    pipeline.forget_camera()
    whole = pipeline.enhance(frame.rgb, depth)
    rgb, truth, sent = (cut(image, *lost) for image in (frame.rgb, frame.depth, depth))
    part = pipeline.enhance(rgb, sent)
    assert part.depth.shape == truth.shape and part.valid.all()
    same = Enhanced(cut(whole.depth, *lost), {})
    assert error(part, truth) < 1.1 * error(same, truth)
    left_as_it_is = Pipeline(PipelineConfig(depth_resolution=FULL, **CPU))
    assert error(part, truth) < 0.85 * error(left_as_it_is.enhance(rgb, sent), truth)


def test_margins_follow_the_camera(pipeline: Pipeline, frame: Any) -> None:
    """Every frame comes out as the first of a camera does, whatever the one before it needed."""
    pipeline.forget_camera()
    depth = to_millimetres(registered(lower(frame.depth, 4, "area"), WIDTH, HEIGHT, "replicate"))
    size, full = (HEIGHT - 8, WIDTH - 8), to_millimetres(frame.depth)
    cameras = [
        (cut(frame.rgb, x, y, 8 - x, 8 - y), cut(given, x, y, 8 - x, 8 - y))
        for given, x, y in ((depth, 0, 0), (depth, 2, 1), (depth, 1, 3), (full, 0, 0), (depth, 3, 0))
    ]
    wanted = []
    for rgb, sent in cameras:
        pipeline.forget_camera()
        wanted.append(pipeline.enhance(rgb, sent).depth)
        assert wanted[-1].shape == size
    pipeline.forget_camera()
    for i in (0, 1, 1, 2, 2, 3, 3, 4, 0, 0, 2, 1):
        for _ in range(2):  # a camera that is another one shows within two frames
            found = pipeline.enhance(*cameras[i]).depth
        np.testing.assert_allclose(found, wanted[i], rtol=0, atol=2e-3, err_msg=str(i))


def test_margins_that_do_not_hold_are_given_up(pipeline: Pipeline, frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every frame would be done twice."""
    sent = to_millimetres(frame.depth)
    passes: list[int] = []
    enhance = pipeline._enhance

    def counted(*given: Any, **more: Any) -> Enhanced:
        passes.append(1)
        return enhance(*given, **more)

    monkeypatch.setattr(pipeline, "_enhance", counted)
    monkeypatch.setattr(resolution, "form_of", lambda depth: Form("replicated", 80, 60, Margins(1, 1, 1, 1)))
    monkeypatch.setattr(margins, "PATIENCE", 3)
    pipeline.forget_camera()
    for wanted in (2, 1, 1, 1, 2, 1):  # tried again after a while: it may have been that frame's fault
        passes.clear()
        pipeline.enhance(frame.rgb, sent)
        assert len(passes) == wanted
    monkeypatch.undo()
    pipeline.forget_camera()


def test_what_was_seen_early_is_used(pipeline: Pipeline, frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = to_millimetres(registered(lower(frame.depth, 4, "area"), WIDTH, HEIGHT, "replicate"))
    rgb, sent = cut(frame.rgb, 2, 1), cut(depth, 2, 1)
    pipeline.forget_camera()
    wanted = pipeline.enhance(rgb, sent).depth
    wanted = pipeline.enhance(rgb, sent).depth
    seen = pipeline.look(rgb, sent.shape)
    looks: list[int] = []
    look = type(pipeline.engine).look

    def noted(*given: Any) -> Any:
        looks.append(1)
        return look(*given)

    monkeypatch.setattr(type(pipeline.engine), "look", noted)
    np.testing.assert_array_equal(pipeline.enhance(rgb, sent, seen).depth, wanted)
    assert looks == []
    other = pipeline.enhance(cut(frame.rgb, 1, 2), sent, seen).depth  # another image: looked at anew
    assert looks == [1] and not np.array_equal(other, wanted)


def test_a_picture_in_the_same_array_is_another_picture(pipeline: Pipeline, frame: Any) -> None:
    depth = to_millimetres(registered(lower(frame.depth, 4, "area"), WIDTH, HEIGHT, "replicate"))
    sent, buffer = cut(depth, 2, 1), cut(frame.rgb, 2, 1)
    pipeline.forget_camera()
    pipeline.enhance(buffer, sent)
    before = pipeline.enhance(buffer, sent).depth.copy()
    buffer[:] = buffer[:, ::-1].copy()
    after = pipeline.enhance(buffer, sent).depth
    np.testing.assert_array_equal(after, pipeline.enhance(buffer.copy(), sent).depth)
    assert np.abs(after - before).max() > 0.05


def test_confidence_and_out_are_those_of_the_images(pipeline: Pipeline, frame: Any) -> None:
    depth = to_millimetres(registered(lower(frame.depth, 4, "area"), WIDTH, HEIGHT, "replicate"))
    depth[40:80, 40:80] = 0
    rgb, sent = cut(frame.rgb, 2, 1), cut(depth, 2, 1)
    pipeline.forget_camera()
    out, sure = (np.full(sent.shape, -1, np.float32) for _ in range(2))
    made = pipeline.enhance(rgb, sent, out=out, confidence=sure)
    assert made.depth is out and (sure >= 0).all() and sure.max() > 0.5
    assert sure[59, 58] < sure[20, 200], "in the middle of the hole less than beside it"
    empty = pipeline.enhance(rgb, np.zeros_like(sent), out=out, confidence=sure)
    assert empty.blind and np.isnan(out).all() and not sure.any()


def test_depth_of_another_size_than_colour_is_left_as_it_is(pipeline: Pipeline, frame: Any) -> None:
    depth = registered(lower(frame.depth, 8, "area"), WIDTH // 2, HEIGHT // 2, "replicate")
    sent = cut(to_millimetres(depth), 2, 1)
    pipeline.forget_camera()
    found = pipeline.enhance(frame.rgb, sent)
    left = Pipeline(PipelineConfig(depth_resolution=FULL, **CPU))
    np.testing.assert_array_equal(found.depth, left.enhance(frame.rgb, sent).depth)
    assert np.isfinite(to_metres(sent)).all()
