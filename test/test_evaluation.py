"""The evaluation: what is compared on which pixels, that nothing depends on chance, and every protocol once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import write_frames
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.evaluation import (
    MEASURES,
    PROTOCOLS,
    Block,
    bicubic,
    compare,
    evaluate,
    sample,
    seed_of,
)
from dkn_ros.images import ImageFileError, frame_pairs
from dkn_ros.methods import Method, select, twins
from dkn_ros.metrics import BORDER, enlarged
from dkn_ros.pipeline import Pipeline
from dkn_ros.report import table

FloatImage = NDArray[np.float32]
Colour = NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames with a hole of their own at the top right."""
    return write_frames(tmp_path_factory.mktemp("frames"), count=3)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of which everything is known."""
    path = write_frames(tmp_path_factory.mktemp("dense"), count=2)
    for file in path.glob("*_depth.png"):
        depth = np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
        cv2.imwrite(str(file), np.where(depth == 0, 2500, depth).astype(np.uint16))
    return path


def plain(rgb: Colour, low: FloatImage) -> FloatImage:
    return bicubic(low, rgb.shape[1], rgb.shape[0])


def run(
    method: Method, folder: Path, protocols: Sequence[str] = ("clean",), factors: Sequence[int] = (4,), **more: Any
) -> list[Block]:
    return [block for block, _ in evaluate({"net": method}, {}, folder, protocols, factors, progress=False, **more)]


def one(method: Method, folder: Path, protocol: str, factor: int = 4, **more: Any) -> Block:
    (block,) = run(method, folder, (protocol,), (factor,), **more)
    return block


def changed(change: Callable[[FloatImage, FloatImage], Any]) -> Method:
    """Bicubic, then `change`, which gets the output and the input."""

    def method(rgb: Colour, low: FloatImage) -> FloatImage:
        output = plain(rgb, low).copy()
        change(output, low)
        return output

    return method


def ramp(width: int, height: int) -> FloatImage:
    """Metres that rise from 1 at the left border to 2 at the right one."""
    return np.tile(1 + (np.arange(width, dtype=np.float32) + np.float32(0.5)) / width, (height, 1))


def test_bicubic_keeps_a_ramp_and_its_place() -> None:
    upsampled = bicubic(ramp(16, 12), 64, 48)
    inside = slice(8, -8)
    np.testing.assert_allclose(upsampled[:, inside], ramp(64, 48)[:, inside], atol=1e-5)


def test_bicubic_gives_holes_their_nearest_depth() -> None:
    depth = np.full((12, 16), 2.0, np.float32)
    depth[3:7, 5:9] = np.nan
    np.testing.assert_allclose(bicubic(depth, 40, 30), 2.0, rtol=1e-6)
    with pytest.raises(ValueError, match="no valid pixel"):
        bicubic(np.full((12, 16), np.nan, np.float32), 40, 30)


def test_both_errors_are_of_the_same_pixels() -> None:
    low, truth = ramp(16, 12), ramp(64, 48)
    truth[20:, :] += 1  # bicubic is wrong there
    output = truth + np.float32(0.25)
    before, after = compare(output, low, truth)
    assert after == pytest.approx(0.25, rel=1e-5)
    rows = np.arange(48)[BORDER:-BORDER]
    assert before == pytest.approx(np.sqrt((rows >= 20).mean()), rel=1e-3)

    unknown = output.copy()
    unknown[20:, :] = np.nan
    before, after = compare(unknown, low, truth)
    assert before < 0.01, "what the output leaves out counts against neither"
    assert after == pytest.approx(0.25, rel=1e-5)

    truth[20:, :] = np.nan
    assert compare(output, low, truth)[0] < 0.01, "nor what the truth does not know"


# the input


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_frame_gives_the_same_input(folder: Path, protocol: str) -> None:
    frame = frame_pairs(folder)[0]
    first, same, other = (sample(frame, protocol, 4, seed_of(index, protocol)) for index in (0, 0, 1))
    np.testing.assert_array_equal(first.low, same.low)
    random = protocol in ("holes", "kinect")
    assert np.array_equal(first.low, other.low, equal_nan=True) != random


def test_holes_that_were_made_are_told_from_those_of_the_frame(folder: Path) -> None:
    frame = frame_pairs(folder)[0]
    for protocol in PROTOCOLS:
        got = sample(frame, protocol, 4, seed_of(0, protocol))
        assert got.made.any() == (protocol in ("holes", "kinect"))
        assert not got.made[:4, -6:].any(), "the frame itself knows nothing there"
        assert np.isnan(got.low[got.made]).all()
        assert (got.holeless is not None) == (protocol == "holes")
        assert (got.again is not None) == (protocol == "kinect")
        if got.holeless is not None:
            np.testing.assert_array_equal(got.holeless[~got.made], got.low[~got.made])
            assert np.isfinite(got.holeless[got.made]).all()
        if got.again is not None:
            both = np.isfinite(got.low) & np.isfinite(got.again)
            assert np.mean(np.isfinite(got.low) ^ np.isfinite(got.again)) < 0.01, "the holes are the same"
            assert np.mean(got.low[both] != got.again[both]) > 0.5, "the noise is another one"


def test_real_keeps_the_holes_of_the_frame(folder: Path) -> None:
    block = one(plain, folder, "real")
    assert np.isnan(block.mean("net", "hole"))
    assert block.mean("net", "near") > 0
    assert block.scores["net"]["all"] == one(plain, folder, "nearest").scores["net"]["all"]


# what is compared


def test_every_method_is_measured_on_the_pixels_that_all_know(dense: Path) -> None:
    def blind(output: FloatImage, low: FloatImage) -> None:
        output[:, : output.shape[1] // 2] = np.nan

    without, with_it = one(plain, dense, "clean"), one(changed(blind), dense, "clean")
    assert without.coverage == [1.0, 1.0]
    assert with_it.coverage == pytest.approx([0.5, 0.5])
    assert with_it.mean("bicubic") != without.mean("bicubic")
    assert with_it.scores["net"]["all"] == with_it.scores["bicubic"]["all"]

    def nothing(output: FloatImage, low: FloatImage) -> None:
        output[:] = np.nan

    with pytest.raises(ValueError, match="frame 000 at 4x leaves no pixel to compare"):
        one(changed(nothing), dense, "clean")


def test_zones_hold_what_lies_in_them(dense: Path) -> None:
    def wrong_in_holes(output: FloatImage, low: FloatImage) -> None:
        output[enlarged(np.isnan(low), 4)] += 5

    for protocol in ("holes", "kinect"):
        block = one(changed(wrong_in_holes), dense, protocol)
        assert block.mean("net", "hole") > 4
        assert block.mean("net") > 2 * block.mean("bicubic")
        for zone in ("near", "far"):
            assert block.scores["net"][zone] == block.scores["bicubic"][zone]
    clean = one(plain, dense, "clean")
    assert np.isnan(clean.mean("net", "hole")) and np.isnan(clean.mean("net", "near"))
    assert clean.scores["net"]["far"] == clean.scores["net"]["all"]


def test_a_method_whose_holes_spoil_distant_pixels_is_found_out(dense: Path) -> None:
    def leaks(output: FloatImage, low: FloatImage) -> None:
        output += 0.2 * bool(np.isnan(low).any())

    block = one(changed(leaks), dense, "holes")
    assert block.spoiled("bicubic") == pytest.approx(1, abs=0.01)
    assert block.spoiled("net") > 1.5
    assert block.mean("net", "far_without_holes") == block.mean("bicubic", "far_without_holes")
    assert np.isnan(one(plain, dense, "clean").spoiled("net"))


def test_edges_and_shares(dense: Path) -> None:
    def half_a_metre(output: FloatImage, low: FloatImage) -> None:
        output[:60] += 0.5

    block = one(changed(half_a_metre), dense, "clean")
    assert block.mean("bicubic", "edge") > 2 * block.mean("bicubic"), "bicubic is wrong at edges"
    assert block.mean("net", "off") == pytest.approx(0.5, abs=0.05)
    assert block.mean("net", "mae") == pytest.approx(0.25 + block.mean("bicubic", "mae"), abs=0.05)


# flicker


def test_flicker_of_a_still_scene_comes_from_noise_alone(dense: Path) -> None:
    steady = one(changed(lambda output, low: output.fill(2)), dense, "kinect")
    assert steady.scores["net"]["flicker"] == [0, 0]
    assert 0.001 < steady.mean("bicubic", "flicker") < 0.5
    halved = one(changed(lambda output, low: np.multiply(output, 0.5, out=output)), dense, "kinect")
    assert halved.ratio("net", "flicker") == pytest.approx(0.5, rel=1e-4)
    assert np.isnan(one(plain, dense, "holes").mean("net", "flicker")), "no noise, no flicker"


def test_flicker_of_a_sequence_leaves_out_what_moves(dense: Path) -> None:
    """The box moves, the rest stands still; a method that adds a decimetre a frame flickers by one."""
    count = itertools.count()

    def drifts(output: FloatImage, low: FloatImage) -> None:
        output += 0.1 * next(count)

    block = one(changed(drifts), dense, "nearest", sequence=True)
    assert np.isnan(block.scores["net"]["flicker"][0])
    assert block.scores["bicubic"]["flicker"][1] < 0.005, "it would be 0.05 with the box"
    assert block.scores["net"]["flicker"][1] == pytest.approx(0.1, rel=0.05)


# the whole run


def test_rows_do_not_depend_on_what_else_is_asked_for(folder: Path) -> None:
    blocks = run(plain, folder, tuple(PROTOCOLS), (2, 8))
    assert [(b.protocol, b.factor) for b in blocks] == list(itertools.product(PROTOCOLS, (2, 8)))
    for block in blocks:
        assert block.frames == ["000", "001", "002"]
        assert set(block.scores) == {"bicubic", "net"}
        assert set(block.scores["net"]) == set(MEASURES)
        assert all(len(figures) == 3 for figures in block.scores["net"].values())
    chosen = one(plain, folder, "kinect", 8, every=2)
    (whole,) = (b for b in blocks if (b.protocol, b.factor) == ("kinect", 8))
    assert chosen.frames == ["000", "002"]
    assert chosen.seeds == whole.seeds[::2]
    for measure, figures in whole.scores["net"].items():
        np.testing.assert_array_equal(chosen.scores["net"][measure], figures[::2])
    less, more = (next(b for b in blocks if (b.protocol, b.factor) == ("clean", factor)) for factor in (2, 8))
    assert less.mean("bicubic") < more.mean("bicubic"), "less is known at 8x"


@pytest.mark.parametrize(
    ("protocol", "sequence", "calls"),
    [("clean", False, 1), ("holes", False, 2), ("kinect", False, 2), ("kinect", True, 1)],
)
def test_no_input_is_upsampled_for_nothing(dense: Path, protocol: str, sequence: bool, calls: int) -> None:
    seen: list[FloatImage] = []
    one(changed(lambda output, low: seen.append(low)), dense, protocol, sequence=sequence)
    assert len(seen) == calls * 2


def test_ratio_and_the_worst_frame(dense: Path) -> None:
    count = itertools.count()

    def second_is_worse(output: FloatImage, low: FloatImage) -> None:
        output += 0.5 * (next(count) == 1)

    ((block, shot),) = evaluate({"net": changed(second_is_worse)}, {"other": plain}, dense, ("clean",), (4,))
    assert list(block.scores) == ["bicubic", "other", "net"]
    assert block.ratio("net") == block.mean("net") / block.mean("bicubic") > 1
    ratio, frame = block.worst("net")
    assert frame == "001" and ratio > block.ratio("net")
    assert block.ratio("other") == block.worst("other")[0] == 1
    assert (shot.sample.frame, shot.method) == ("001", "net")
    np.testing.assert_allclose(shot.output, shot.bicubic + 0.5, rtol=1e-6)


def test_a_scene_that_nobody_gets_wrong(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}_depth.png"), np.full((48, 64), 2000, np.uint16))
        cv2.imwrite(str(tmp_path / f"{name}_rgb.png"), np.zeros((48, 64, 3), np.uint8))
    block = one(plain, tmp_path, "clean")
    assert np.isfinite((block.ratio("net"), block.worst("net")[0])).all()


def test_sizes_that_are_no_multiple_of_the_factor_are_cut(tmp_path: Path) -> None:
    block = one(plain, write_frames(tmp_path, 1, width=101, height=75), "clean", 8)
    assert 0 < block.mean("net") < 1


def test_unknown_protocol_and_missing_frames(folder: Path, tmp_path: Path) -> None:
    """Said at once, not when the first block is asked for."""
    with pytest.raises(ValueError, match="unknown protocol foggy, misty; known: clean, "):
        evaluate({"net": plain}, {}, folder, ("misty", "clean", "foggy"), (4,))
    with pytest.raises(ValueError, match="every is 0; wanted: at least 1"):
        evaluate({"net": plain}, {}, folder, ("clean",), (4,), every=0)
    with pytest.raises(ValueError, match="a name of its own for every method"):
        evaluate({"bicubic": plain}, {}, folder, ("clean",), (4,))
    with pytest.raises(ImageFileError, match="no folder"):
        evaluate({"net": plain}, {}, tmp_path / "nothing", ("clean",), (4,))
    with pytest.raises(ImageFileError, match="holds no pair"):
        evaluate({"net": plain}, {}, tmp_path, ("clean",), (4,))


def test_a_frame_without_depth_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path, 2)
    cv2.imwrite(str(tmp_path / "001_depth.png"), np.zeros((120, 160), np.uint16))
    with pytest.raises(ValueError, match="frame 001 keeps no depth at nearest 4x"):
        one(plain, tmp_path, "nearest")


# the methods


def pipeline(weights: Path) -> Pipeline:
    return Pipeline(PipelineConfig(weights=str(weights), device="cpu", precision="float32", threads=1))


def test_networks_are_compared_with_each_other(identity_weights: Path, small_weights: Path, folder: Path) -> None:
    networks, baselines, about = select([pipeline(identity_weights), pipeline(small_weights)], ["none"])
    assert list(about) == ["bicubic", "identity", "small"]
    assert baselines == {}
    ((block, _),) = evaluate(networks, baselines, folder, ("clean",), (4,), progress=False)
    assert 0.9 < block.ratio("identity") <= block.worst("identity")[0] < 1.1
    assert abs(block.ratio("small") - block.ratio("identity")) > 1e-4


def test_weights_of_the_same_name_are_told_apart(small_weights: Path, identity_weights: Path, tmp_path: Path) -> None:
    same = tmp_path / "identity.safetensors"
    same.write_bytes(small_weights.read_bytes())
    card = small_weights.with_suffix(".yaml").read_text().replace("small", "identity")
    same.with_suffix(".yaml").write_text(card)
    pipelines = [pipeline(identity_weights), pipeline(same)]
    networks, _, _ = select(pipelines, ["bicubic"])
    assert list(networks) == ["identity", f"identity {pipelines[1].card.sha256[:8]}"]
    with pytest.raises(ValueError, match="weights identity are given twice"):
        select([*pipelines, pipelines[1]], ["none"])


def test_baselines_are_chosen_by_name(small_weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [pipeline(small_weights)]
    with pytest.raises(ValueError, match="unknown baseline best; known: bicubic, guided, jbu, fgs, none"):
        select(given, ["guided", "best"])
    if hasattr(cv2, "ximgproc"):
        networks, baselines, about = select(given, ["fgs", "bicubic", "guided"])
        assert list(about) == ["bicubic", "fgs", "guided", "small"]
        ((block, _),) = evaluate(networks, baselines, folder, ("kinect",), (4,), progress=False)
        assert set(block.scores) == set(about)
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    with pytest.raises(ValueError, match="install opencv-contrib-python-headless"):
        select(given, ["guided"])
    select(given, ["none"])


# number types


def test_number_types_of_the_same_weights_are_held_against_the_first(small_weights: Path, folder: Path) -> None:
    base = PipelineConfig(weights=str(small_weights), device="cpu", threads=1)
    pipelines = [Pipeline(dataclasses.replace(base, precision=kind)) for kind in ("float32", "bfloat16")]
    networks, _, _ = select(pipelines, ["none"])
    assert list(networks) == ["small, float32", "small, bfloat16"]
    like = twins(pipelines, list(networks))
    assert like == {"small, bfloat16": "small, float32"}
    ((block, _),) = evaluate(networks, {}, folder, ("real",), (4,), progress=False, like=like)
    for method in ("bicubic", "small, float32"):
        assert np.isnan(block.scores[method]["differs"]).all() and np.isnan(block.most(method, "differs_p99"))
    assert len(block.scores["small, bfloat16"]["differs"]) == 3
    for index, pair in enumerate(frame_pairs(folder)):
        given = sample(pair, "real", 4, seed_of(index, "real"), twice=False)
        first, second = (p.enhance(given.rgb, given.low).depth.astype(np.float64) for p in pipelines)
        known = ~np.isnan(first) & ~np.isnan(second)
        difference = np.abs(second - first)[known]
        assert difference.max() > 1e-4, "there is nothing to compare"
        relative = np.sqrt((difference**2).mean() / (first[known] ** 2).mean())
        assert block.scores["small, bfloat16"]["differs"][index] == pytest.approx(relative, rel=1e-5)
        percentile = np.percentile(difference, 99)
        assert block.scores["small, bfloat16"]["differs_p99"][index] == pytest.approx(percentile, rel=1e-4)
    text = table(block)
    worst = max(block.scores["small, bfloat16"]["differs_p99"])
    assert f" / {1000 * worst:.3f}" in text and "differs" in text.splitlines()[1]


def test_a_number_type_is_given_once(small_weights: Path) -> None:
    base = PipelineConfig(weights=str(small_weights), device="cpu", threads=1, precision="float32")
    with pytest.raises(ValueError, match="weights small are given twice, both in float32"):
        select([Pipeline(base), Pipeline(base)], ["none"])
