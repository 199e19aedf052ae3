"""The kernel of one pixel: its samples make what the network makes, and its picture and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import MakeModel
from numpy.typing import NDArray

from dkn_ros import cli, figures_kernels
from dkn_ros.config import PipelineConfig
from dkn_ros.explain import Explanation, check_pixel, explain
from dkn_ros.lattice import Margins
from dkn_ros.pipeline import Pipeline
from dkn_ros.synthetic.degradation import lower
from dkn_ros.synthetic.scene import Scene
from dkn_ros.weights import save_weights

HEIGHT, WIDTH, FACTOR = 45, 62, 3  # of no multiple of the stride
PIXELS = [(31, 22), (0, 0), (WIDTH - 1, HEIGHT - 1), (40, 1), (3, 30)]
CPU = ("--device", "cpu", "--precision", "float32", "--threads", "1")

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def make_pipeline(make_model: MakeModel, tmp_path: Path) -> MakePipeline:
    """Makes pipelines with small random networks."""

    def make(ratios: tuple[float, float] = (1.0, 16.0), fill_distance: float = 32.0, **options: Any) -> Pipeline:
        path = tmp_path / "random.safetensors"
        save_weights(
            make_model(**options), path, model="fdkn", options={"n1": 8, "n2": 8, **options}, ratios=ratios
        )  # fmt: skip
        config = PipelineConfig(
            weights=str(path), device="cpu", precision="float32", threads=1, fill_distance=fill_distance
        )
        return Pipeline(config)

    return make


@pytest.fixture
def rgb(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def depth(rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth metres, so that the network's result stays in the range that the pipeline clips to."""
    y, x = np.indices((HEIGHT // FACTOR, -(-WIDTH // FACTOR)), dtype=np.float32)
    smooth = 2 + 0.4 * np.sin(x / 4) * np.cos(y / 3)
    smooth[0, 5], smooth[-1, 5] = 0.5, 4.0
    return smooth.astype(np.float32)


def bilinear(image: NDArray, centre: tuple[int, int], position: NDArray) -> float:
    """A sample of an image (x, y), zero outside it and outside the 15 x 15 pixels around `centre`."""
    total = 0.0
    left, top = np.floor(position).astype(int)
    for x in (left, left + 1):
        for y in (top, top + 1):
            near = max(abs(x - centre[0]), abs(y - centre[1])) <= 7
            if near and 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
                total += (1 - abs(position[0] - x)) * (1 - abs(position[1] - y)) * image[y, x]
    return total


FORMS: list[dict[str, Any]] = [
    {},
    {"residual": False},
    {"kernel_size": 5},
    {"kernel_size": 7, "residual": False},
    {"guided": False},
    {"rgb": True, "validity": True},
    {"published_grid": True},
    {"validity": True, "traits": True},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_samples_make_the_result(
    make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray, options: dict[str, Any]
) -> None:
    pipeline = make_pipeline(**options)
    result = pipeline.enhance(rgb, depth).depth
    count = options.get("kernel_size", 3) ** 2
    for (x, y), explained in zip(PIXELS, explain(pipeline, rgb, depth, PIXELS), strict=True):
        assert (explained.x, explained.y) == (x, y)
        assert explained.positions.shape == (count, 2)
        assert explained.weights.shape == explained.values.shape == explained.inside.shape == (count,)
        total = float(explained.weights @ explained.values)
        if options.get("residual", True):
            assert explained.weights.sum() == pytest.approx(0, abs=1e-6)
            assert explained.input_depth + total == pytest.approx(explained.output_depth, abs=1e-5)
        else:
            assert explained.weights.sum() == pytest.approx(1, abs=1e-6)
            assert total == pytest.approx(explained.output_depth, abs=1e-5)
        change = explained.contributions.sum()
        assert explained.input_depth + change == pytest.approx(explained.output_depth, abs=1e-5)
        assert abs(change) > 1e-4  # else the test would pass on a network that does nothing
        clipped = np.clip(explained.output_depth, depth.min(), depth.max())
        assert clipped == pytest.approx(result[y, x], abs=1e-5)


def test_values_are_the_depth_at_the_positions(
    make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray
) -> None:
    """By interpolation of our own, over the image as the network sees it: padded to multiples of 4."""
    pipeline = make_pipeline(kernel_size=5)
    low = float(depth.min())
    shares: list[float] = []
    for explained in explain(pipeline, rgb, depth, PIXELS):
        padded = np.pad(explained.depth - low, ((0, -HEIGHT % 4), (0, -WIDTH % 4)), mode="edge")
        centre = explained.x, explained.y
        assert explained.depth.shape == (HEIGHT, WIDTH)
        assert explained.depth[explained.y, explained.x] == pytest.approx(explained.input_depth)
        for position, value, inside in zip(explained.positions, explained.values, explained.inside, strict=True):
            assert low + bilinear(padded, centre, position) == pytest.approx(value, abs=1e-5)
            assert bilinear(np.ones_like(padded), centre, position) == pytest.approx(inside, abs=1e-5)
        shares.extend(explained.inside)
    assert min(shares) == 0 and max(shares) == pytest.approx(1)  # both were tested


def test_in_a_hole_it_explains_what_the_pipeline_gives(
    make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray
) -> None:
    pipeline = make_pipeline(validity=True)
    depth[4:9, 6:12] = np.nan
    result = pipeline.enhance(rgb, depth).depth
    for explained in explain(pipeline, rgb, depth, [(27, 20), (17, 12), (55, 40)]):
        clipped = np.clip(explained.output_depth, np.nanmin(depth), np.nanmax(depth))
        assert clipped == pytest.approx(result[explained.y, explained.x], abs=1e-5)


def test_on_a_grid_of_its_own_positions_stay_those_of_the_colour_image(
    make_pipeline: MakePipeline, rng: np.random.Generator
) -> None:
    """Ratio 4 with weights for 2: the network's pixels are two pixels of the colour image wide."""
    pipeline = make_pipeline(ratios=(2.0, 2.0))
    rgb = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    depth = rng.uniform(1, 3, (12, 16)).astype(np.float32)
    right, left = explain(pipeline, rgb, depth, [(33, 20), (32, 21)])
    assert right.step == (2.0, 2.0)
    assert right.depth.shape == (24, 32)
    assert right.centre == left.centre == (32.5, 20.5)
    np.testing.assert_array_equal(right.positions, left.positions)
    assert right.input_depth == pytest.approx(right.depth[10, 16])
    low = float(depth.min())
    for position, value in zip(right.positions, right.values, strict=True):
        on_grid = (position + 0.5) / 2 - 0.5
        assert low + bilinear(right.depth - low, (16, 10), on_grid) == pytest.approx(value, abs=1e-5)


def test_only_pixels_of_the_image_can_be_explained(
    make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray
) -> None:
    for x, y in ((-1, 0), (0, -1), (WIDTH, 0), (0, HEIGHT)):
        with pytest.raises(ValueError, match=f"is {x},{y}; wanted: column 0 to 61, row 0 to 44 of the colour image"):
            check_pixel(x, y, WIDTH, HEIGHT)
    pipeline = make_pipeline()
    with pytest.raises(ValueError, match="wanted: column 0 to 61"):
        explain(pipeline, rgb, depth, [(1, 1), (WIDTH, 0)])
    with pytest.raises(ValueError, match="depth holds no valid pixel"):
        explain(pipeline, rgb, np.full_like(depth, np.nan), [(1, 1)])


def test_a_pixel_is_refused_exactly_where_the_output_is_invalid(
    make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray
) -> None:
    pipeline = make_pipeline(fill_distance=5.0)
    depth[:, :10] = np.nan
    valid = pipeline.enhance(rgb, depth).valid[20]
    first = int(np.argmax(valid))
    assert 0 < first < WIDTH // 2
    explain(pipeline, rgb, depth, [(first, 20)])
    with pytest.raises(ValueError, match=rf"is {first - 1},20, [\d.]+ pixels from valid depth; wanted: at most 5 "):
        explain(pipeline, rgb, depth, [(first, 20), (first - 1, 20)])


# the picture


def read(path: Path) -> NDArray[np.uint8]:
    image = np.asarray(cv2.imread(str(path)), np.uint8)
    assert 400 <= image.shape[0] < image.shape[1] <= 2000
    assert np.std(image) > 5
    return image


def has_colour(image: NDArray[np.uint8], colour: str) -> bool:
    bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
    return bool((np.abs(image.astype(int) - bgr).max(axis=2) <= 2).sum() > 50)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("written", [None, 2.0, float("nan")])
def test_picture(make_pipeline: MakePipeline, rgb: NDArray[np.uint8], depth: NDArray, written: float | None) -> None:
    pipeline = make_pipeline()
    folder = Path(pipeline.config.weights).parent
    grey = np.full_like(rgb, 128)  # holds none of the colours that are looked for
    for explained in explain(pipeline, rgb, depth, [(31, 22), (0, HEIGHT - 1)]):
        path = folder / "picture.png"
        figures_kernels.kernel(grey, explained, path, written)
        image = read(path)
        assert has_colour(image, figures_kernels.POSITIVE)
        assert has_colour(image, figures_kernels.NEGATIVE)


@pytest.mark.filterwarnings("error")
def test_picture_of_what_is_hard_to_draw(tmp_path: Path) -> None:
    """All of a 7 x 7 kernel on one place, of no weight, over flat depth, in a grey image smaller than the window."""
    count = 49
    explained = Explanation(
        x=1, y=0, positions=np.zeros((count, 2)), weights=np.zeros(count), values=np.ones(count),
        inside=np.zeros(count), input_depth=1.0, output_depth=1.0, centre=(1.0, 0.0), step=(1.0, 1.0),
        depth=np.ones((2, 3), np.float32),
    )  # fmt: skip
    figures_kernels.kernel(np.zeros((2, 3), np.uint8), explained, tmp_path / "hard.png")
    read(tmp_path / "hard.png")


def test_numbers_of_samples_stand_apart(rng: np.random.Generator) -> None:
    for samples in (np.zeros((9, 2)), rng.normal(0, 0.5, (9, 2)), np.zeros((1, 2))):
        for unit in (1.0, 2.0):
            places = figures_kernels._label_places(samples * unit, unit)
            apart = np.linalg.norm(places[:, None] - places[None], axis=2)[~np.eye(len(samples), dtype=bool)]
            assert (apart > 0.8 * unit).all()
            assert (np.linalg.norm(places - samples * unit, axis=1) < 6 * unit).all()


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(0.1234, 3, "+0.123"), (-0.05, 1, "−0.1"), (-0.0004, 3, " 0.000"), (12.0, 1, "+12.0")]
)
def test_signed_numbers(value: float, digits: int, text: str) -> None:
    assert figures_kernels._signed(value, digits) == text


# the command


@pytest.fixture
def files(rgb: NDArray[np.uint8], depth: NDArray, tmp_path: Path) -> tuple[str, str]:
    depth[:, :6] = np.nan
    cv2.imwrite(str(tmp_path / "rgb.png"), rgb)
    np.save(tmp_path / "depth.npy", depth)
    return str(tmp_path / "rgb.png"), str(tmp_path / "depth.npy")


def enhance(files: tuple[str, str], output: Path, weights: Path, *flags: str) -> int:
    return cli.main(["enhance", *files, "-o", str(output), "--weights", str(weights), *CPU, *flags])


def test_command_draws_every_pixel_it_is_given(
    files: tuple[str, str], small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.npy"
    assert enhance(files, output, small_weights, "--explain", "31,22", "--explain", "40, 7") == 0
    printed = capsys.readouterr().out.splitlines()
    plain = tmp_path / "plain.npy"
    assert enhance(files, plain, small_weights) == 0
    np.testing.assert_array_equal(np.load(output), np.load(plain))
    pictures = [tmp_path / "out_explain_31_22.png", tmp_path / "out_explain_40_7.png"]
    assert sorted(tmp_path.glob("*_explain_*")) == pictures
    assert [line for line in printed if "_explain_" in line] == [str(path) for path in pictures]
    assert (read(pictures[0])[:300, :300] != read(pictures[1])[:300, :300]).any()


def test_an_explanation_changes_nothing_where_the_colour_has_to_be_moved(make_model: MakeModel, tmp_path: Path) -> None:
    """Where colour lies on depth is found out with every frame, from what was found before."""
    frame = Scene(3).frame(640, 480)
    cv2.imwrite(str(tmp_path / "rgb.png"), np.roll(frame.rgb, 14, axis=1)[..., ::-1])
    np.save(tmp_path / "depth.npy", lower(frame.depth, 4, "nearest"))
    files = str(tmp_path / "rgb.png"), str(tmp_path / "depth.npy")
    told: dict[str, Any] = {"validity": True, "traits": True, "alignment": True}
    weights = tmp_path / "told.safetensors"
    save_weights(make_model(**told), weights, model="fdkn", options={"n1": 8, "n2": 8, **told})
    plain, explained = tmp_path / "plain.npy", tmp_path / "explained.npy"
    assert enhance(files, plain, weights) == enhance(files, explained, weights, "--explain", "320,240") == 0
    np.testing.assert_array_equal(np.load(explained), np.load(plain))


def test_blocks_that_do_not_begin_at_the_corner_are_explained_as_they_are_filtered(
    make_pipeline: MakePipeline, rng: np.random.Generator
) -> None:
    rgb = rng.integers(0, 256, (93, 126, 3), dtype=np.uint8)
    y, x = np.indices((24, 32), dtype=np.float32)
    low = (2 + 0.4 * np.sin(x / 4) * np.cos(y / 3) + 0.01 * rng.random(x.shape)).astype(np.float32)
    low[0, 5], low[-1, 5] = 0.5, 4.0
    depth = np.ascontiguousarray(low.repeat(4, 0).repeat(4, 1)[3:, 2:])
    pipeline = make_pipeline()
    pixels = [(0, 0), (60, 40), (125, 92)]
    found = explain(pipeline, rgb, depth, pixels)
    assert pipeline.framed(rgb, depth)[2] == Margins(2, 3, 0, 0)
    result = pipeline.enhance(rgb, depth).depth
    for (column, row), explained in zip(pixels, found, strict=True):
        assert (explained.x, explained.y) == explained.centre == (column, row)
        assert explained.depth.shape == result.shape
        assert explained.input_depth == pytest.approx(float(explained.depth[row, column]), abs=1e-6)
        assert explained.output_depth == pytest.approx(float(result[row, column]), abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--explain", "31"], "pixel to explain is '31'; wanted: X,Y, column and row, such as 320,240"),
        (["--explain", "3.5,2"], "pixel to explain is '3.5,2'; wanted: X,Y"),
        (["--explain", "1,2,3"], "pixel to explain is '1,2,3'; wanted: X,Y"),
        (["--explain", "31,22", "--explain", "62,0"], "is 62,0; wanted: column 0 to 61, row 0 to 44"),
        (["--explain=-1,5"], "is -1,5; wanted: column 0 to 61, row 0 to 44"),
        (["--explain", "31,22", "--depth-unit", "raw"], "the depth unit is raw; wanted: --depth-unit auto, mm or m"),
        (["--explain", "1,20", "--fill-distance", "4"], "pixels from valid depth; wanted: at most 4 (fill_distance)"),
        (["--explain", "31,22", "--max-depth", "0.1"], "depth holds no valid pixel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_says_what_is_wrong_and_writes_nothing(
    files: tuple[str, str],
    small_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    output = tmp_path / "out.npy"
    assert enhance(files, output, small_weights, *flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dkn enhance: ")
    assert said in line
    assert not list(tmp_path.glob("out*"))
