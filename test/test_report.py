"""What the evaluation says: tables that line up, a document without NaN, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dkn_ros.evaluation import MEASURES, Block, Sample, Shot
from dkn_ros.report import LEGEND, document, picture, table

nan = float("nan")


def block(**figures: list[float]) -> Block:
    """Two frames; bicubic is off by 10 and 20 cm, the network as given, or half of that."""
    reference = {measure: [0.1, 0.2] for measure in MEASURES} | {"flicker": [nan, 0.02], "off": [0.5, 0.25]}
    reference |= {"differs": [nan, nan], "differs_p99": [nan, nan]}
    network = {measure: [figure / 2 for figure in values] for measure, values in reference.items()} | figures
    scores = {"bicubic": reference, "fdkn": network}
    return Block("holes", 8, ["first", "second"], [[0, 1], [1, 1]], [1.0, 0.9], scores)


def test_table_in_centimetres_and_percent() -> None:
    title, head, *lines = table(block(all=[0.05, 0.15], far=[0.3, 0.3], far_without_holes=[0.1, 0.3])).splitlines()
    assert title.startswith("holes 8x: ") and title.endswith("2 frames, 95.0% of the known depth compared")
    names = ["all", "hole", "near", "far", "far/free", "MAE", ">5%", "edge", "flicker", "ratio", "worst"]
    assert head.split() == names
    assert [line.split() for line in lines] == [
        ["bicubic", "15.00", "15.00", "15.00", "15.00", "1.00", "15.00", "37.50", "15.00", "2.00", "1.00"],
        ["fdkn", "10.00", "7.50", "7.50", "30.00", "1.50", "7.50", "18.75", "7.50", "1.00", "0.67", "0.75", "second"],
    ]
    for name, cells in (("all", ("15.00", "10.00")), ("far/free", ("1.00", "1.50")), ("ratio", ("1.00", "0.67"))):
        end = head.index(name) + len(name)
        assert all(line[:end].endswith(cell) for line, cell in zip(lines, cells, strict=True))
    for name in ("hole", "far/free", ">5%", "edge", "flicker", "ratio", "worst"):
        assert name in LEGEND


def test_columns_without_figures_are_left_out() -> None:
    plain = block()
    for scores in plain.scores.values():
        for measure in ("hole", "near", "far_without_holes", "flicker"):
            scores[measure][:] = [nan, nan]
    assert table(plain).splitlines()[1].split() == ["all", "MAE", ">5%", "edge", "ratio", "worst"]


def test_number_types_are_told_by_their_mean_and_by_the_worst_frame() -> None:
    _, head, bicubic, fdkn = table(block(differs=[0.001, 0.002], differs_p99=[0.001, 0.003])).splitlines()
    assert head.split()[-3:] == ["differs", "p99", "worst"]
    assert bicubic.split()[-2:] == ["-", "-"]
    assert fdkn.split()[-8:-2] == ["0.150", "/", "0.200", "2.000", "/", "3.000"]


def test_document_holds_everything_and_no_nan() -> None:
    methods = {"bicubic": "plain", "fdkn": "trained"}
    content = json.loads(json.dumps(document([block()], methods, command="dkn evaluate x"), allow_nan=False))
    assert content["command"] == "dkn evaluate x"
    assert content["methods"] == methods
    assert {"dkn_ros", "torch", "numpy", "opencv"} <= set(content["versions"])
    (result,) = content["results"]
    assert (result["protocol"], result["factor"], result["frames"]) == ("holes", 8, ["first", "second"])
    assert result["camera"]["factor"] == 8 and result["camera"]["blobs"] == 4
    assert result["seeds"] == [[0, 1], [1, 1]]
    assert result["coverage"] == pytest.approx(0.95)
    row = result["methods"]["fdkn"]
    assert row["mean"]["all"] == pytest.approx(0.075)
    assert row["ratio"] == pytest.approx(0.5) == row["flicker_ratio"]
    assert row["worst"] == {"ratio": 0.5, "frame": "first"}
    assert row["far_over_far_without_holes"] == pytest.approx(1)
    assert row["frames"]["all"] == [0.05, 0.1]
    assert row["frames"]["flicker"] == [None, 0.01]


def test_picture_is_named_after_what_it_shows(tmp_path: Path) -> None:
    truth = np.tile(np.linspace(1, 2, 64, dtype=np.float32), (48, 1))
    low = truth[4::8, 4::8].copy()
    one = Sample("second", np.zeros((48, 64, 3), np.uint8), truth, low, np.zeros(low.shape, bool), None, None)
    path = picture(block(), Shot(one, "fdkn", truth + np.float32(0.1), truth), tmp_path)
    assert path == tmp_path / "holes_8x_second.png"
    assert path.stat().st_size > 10_000
