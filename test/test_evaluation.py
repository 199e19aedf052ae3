"""The error tables: the baseline, what is compared, and every protocol on a small folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import write_frames
from numpy.typing import NDArray

from dkn_ros.config import PipelineConfig
from dkn_ros.evaluation import PROTOCOLS, Row, bicubic, compare, evaluate, table
from dkn_ros.images import ImageFileError
from dkn_ros.metrics import BORDER
from dkn_ros.pipeline import Pipeline

FloatImage = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames"), count=2)


@pytest.fixture
def identity(identity_weights: Path) -> Pipeline:
    """Gives bicubic upsampling without its overshoot."""
    return Pipeline(PipelineConfig(weights=str(identity_weights), device="cpu", precision="float32", threads=1))


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


def test_rows_of_every_protocol_and_factor(identity: Pipeline, folder: Path) -> None:
    rows = evaluate(identity, folder, ("clean", "nearest"), (2, 8), progress=False)
    assert [(r.protocol, r.factor, r.frames) for r in rows] == [
        ("clean", 2, 2), ("clean", 8, 2), ("nearest", 2, 2), ("nearest", 8, 2),
    ]  # fmt: skip
    for row in rows:
        assert 0.9 < row.ratio <= row.worst < 1.1
        assert row.ratio == row.output / row.bicubic
    clean, nearest = rows[:2], rows[2:]
    assert clean[0].bicubic < clean[1].bicubic, "less is known at 8x"
    assert clean[1].bicubic < nearest[1].bicubic, "taking every 8th pixel tells less than their mean"


def test_every_protocol_works_and_gives_the_same_again(identity: Pipeline, folder: Path) -> None:
    rows = evaluate(identity, folder, tuple(PROTOCOLS), (4,), progress=False)
    assert [r.protocol for r in rows] == list(PROTOCOLS)
    assert all(np.isfinite((r.bicubic, r.output, r.worst)).all() for r in rows)
    assert evaluate(identity, folder, tuple(PROTOCOLS), (4,), progress=False) == rows


def test_a_network_that_does_something_is_measured(identity: Pipeline, small_weights: Path, folder: Path) -> None:
    other = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1))
    (without,), (with_it,) = (evaluate(p, folder, ("clean",), (4,), progress=False) for p in (identity, other))
    assert with_it.bicubic == without.bicubic
    assert with_it.output != without.output


def test_sizes_that_are_no_multiple_of_the_factor_are_cut(identity: Pipeline, tmp_path: Path) -> None:
    (row,) = evaluate(identity, write_frames(tmp_path, 1, width=101, height=75), ("clean",), (8,), progress=False)
    assert 0 < row.bicubic < 1


def test_unknown_protocol_and_missing_frames(identity: Pipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown protocol foggy, misty; known: clean, "):
        evaluate(identity, folder, ("misty", "clean", "foggy"), (4,))
    with pytest.raises(ImageFileError, match="no folder"):
        evaluate(identity, tmp_path / "nothing", ("clean",), (4,))
    with pytest.raises(ImageFileError, match="holds no pair"):
        evaluate(identity, tmp_path, ("clean",), (4,))


def test_table_in_centimetres() -> None:
    head, *lines = table([Row("clean", 8, 449, 0.1, 0.05, 0.751), Row("kinect", 16, 3, 1.234, 1.5, 2.0)]).splitlines()
    assert head.split() == ["protocol", "factor", "frames", "bicubic", "cm", "output", "cm", "ratio", "worst"]
    assert [line.split() for line in lines] == [
        ["clean", "8", "449", "10.00", "5.00", "0.50", "0.75"],
        ["kinect", "16", "3", "123.40", "150.00", "1.22", "2.00"],
    ]
    assert len({len(line) for line in (head, *lines)}) == 1, "columns stand under their heads"
