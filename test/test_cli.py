"""The `dkn` command: help, results in files, and errors that are one line and exit status 1."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from harness import ROOT, next_domain, running, write_frames
from numpy.typing import NDArray

import dkn_ros
from dkn_ros import cli
from dkn_ros import commands as work
from dkn_ros.commands import ENHANCE_FLAGS
from dkn_ros.config import DemoConfig, PipelineConfig
from dkn_ros.models import FDKN, FDKNOptions
from dkn_ros.pipeline import Pipeline
from dkn_ros.settings import settings_of
from dkn_ros.weights import load_model, shipped_cards

CPU = ("--device", "cpu", "--precision", "float32", "--threads", "1")
NO_BASELINES = ("--baselines", "none")  # they need an OpenCV with its contrib modules

Run = Callable[..., str]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames"), count=2)


@pytest.fixture
def pipeline(small_weights: Path) -> Pipeline:
    return Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must work, and returns what it prints."""

    def run_command(*arguments: object) -> str:
        status = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run_command


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must fail with exit status 1 and one line on stderr (besides a bar), which is returned."""

    def run_command(*arguments: object) -> str:
        status = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert status == 1
        assert printed.out == ""
        bar = "frame/s"
        (line,) = (part for part in re.split("[\r\n]+", printed.err) if part.strip() and bar not in part)
        return line.strip()

    return run_command


def commands(parser: argparse.ArgumentParser, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and sub-command."""
    yield name
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, sub in action.choices.items():
                yield from commands(sub, (*name, child))


ALL = list(commands(cli._parser()))


def test_the_commands_are_there() -> None:
    wanted = {"enhance", "demo", "evaluate", "train", "weights"}
    assert wanted <= {name[0] for name in ALL if name}
    assert {("weights", "list"), ("weights", "show"), ("weights", "import"), ("weights", "export")} <= set(ALL)


@pytest.mark.parametrize("name", ALL, ids=lambda name: " ".join(("dkn", *name)))
def test_every_command_has_help(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {' '.join(('dkn', *name))}")
    for other in ALL:
        if other and other[:-1] == name:
            assert other[-1] in printed


@pytest.mark.parametrize(
    ("command", "kind", "names"),
    [("enhance", PipelineConfig, ENHANCE_FLAGS), ("demo", DemoConfig, tuple(settings_of(DemoConfig)))],
)
def test_flags_and_their_defaults_are_those_of_the_settings(command: str, kind: type, names: tuple[str, ...]) -> None:
    files = {"enhance": ["rgb.png", "depth.png", "-o", "out.npy"], "demo": []}[command]
    given = cli._parser().parse_args([command, *files])
    for name in names:
        assert getattr(given, name) == settings_of(kind)[name][1]


def test_the_program_ends_with_the_status(tmp_path: Path) -> None:
    for arguments, status, out, errors in (
        (["--version"], 0, f"dkn_ros {dkn_ros.__version__}\n", 0),
        (["weights", "show", str(tmp_path / "none.safetensors")], 1, "", 1),
    ):
        command = [sys.executable, "-m", "dkn_ros.cli", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (status, out)
        assert len(done.stderr.splitlines()) == errors


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(given: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "weights_list", interrupted)
    assert cli.main(["weights", "list"]) == 130
    assert capsys.readouterr().err == "dkn: interrupted\n"


# enhance


def read_image(path: Path) -> NDArray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.fixture
def pair(frames: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A colour image and a depth image of a quarter of its size, with a hole."""
    depth = tmp_path / "low.png"
    cv2.imwrite(str(depth), read_image(frames / "000_depth.png")[2::4, 2::4])
    return frames / "000_rgb.png", depth


@pytest.mark.parametrize("suffix", [".npy", ".tiff", ".png"])
def test_enhance_writes_what_the_pipeline_gives(
    run: Run, pipeline: Pipeline, pair: tuple[Path, Path], small_weights: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"out{suffix}"
    flags = ("--weights", small_weights, *CPU, "--fill-distance", 5)
    assert f"{output}: 160x120 from 40x30" in run("enhance", *pair, "-o", output, *flags)
    rgb, depth = (read_image(path) for path in pair)
    config = PipelineConfig(weights=str(small_weights), device="cpu", precision="float32", threads=1, fill_distance=5.0)
    expected = Pipeline(config).enhance(np.ascontiguousarray(rgb[..., ::-1]), depth).depth
    assert np.isnan(expected).any()
    written = read_image(output)
    if suffix == ".png":
        assert written.dtype == np.uint16
        np.testing.assert_allclose(written, np.nan_to_num(1000 * expected), atol=0.51)
    else:
        assert written.dtype == np.float32
        np.testing.assert_allclose(written, expected, atol=1e-5)


def test_enhance_takes_the_unit_as_it_is_told(
    run: Run, pair: tuple[Path, Path], small_weights: Path, tmp_path: Path
) -> None:
    rgb, depth = pair
    millimetres = tmp_path / "millimetres.npy"
    np.save(millimetres, read_image(depth).astype(np.float32))
    results = []
    for number, (given, unit) in enumerate(((depth, "auto"), (millimetres, "mm"))):
        output = tmp_path / f"{number}.npy"
        run("enhance", rgb, given, "-o", output, "--depth-unit", unit, "--weights", small_weights, *CPU)
        results.append(read_image(output))
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_enhance_of_an_image_without_units(
    run: Run, frames: Path, pipeline: Pipeline, small_weights: Path, tmp_path: Path
) -> None:
    raw, output = tmp_path / "raw.png", tmp_path / "out.npy"
    grey = np.arange(120 * 160).reshape(120, 160).astype(np.uint16)  # 0 is a value here
    cv2.imwrite(str(raw), grey)
    rgb = frames / "000_rgb.png"
    run("enhance", rgb, raw, "-o", output, "--depth-unit", "raw", "--weights", small_weights, *CPU)
    expected = pipeline.filter_raw(np.ascontiguousarray(read_image(rgb)[..., ::-1]), grey)
    np.testing.assert_allclose(read_image(output), expected, atol=1e-5)


def test_raw_values_that_a_png_cannot_hold_are_refused(
    frames: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb = frames / "000_rgb.png"
    height, width = read_image(rgb).shape[:2]
    np.save(tmp_path / "far.npy", np.linspace(0, 3, height * width, dtype=np.float32).reshape(height, width))
    for name, status in (("out.png", 1), ("out.npy", 0)):
        given = "enhance", rgb, tmp_path / "far.npy", "-o", tmp_path / name, "--depth-unit", "raw"
        assert cli.main([*map(str, given), "--weights", str(small_weights), *CPU]) == status
        assert (tmp_path / name).exists() == (status == 0)
    assert "far.npy holds raw values from 0 to 3, of which a .png can hold 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rgb": "nothing.png"}, "no file nothing.png"),
        ({"depth": "nothing.npy"}, "no file nothing.npy"),
        ({"-o": "out.jpg"}, "output is out.jpg; wanted: a name that ends with one of .npy"),
        ({"-o": "/nowhere/out.npy"}, "no folder /nowhere for the output"),
        ({"--weights": "nothing.safetensors"}, "no weight file nothing.safetensors"),
        ({"--device": "gpu"}, "device is 'gpu'; wanted: auto, cpu, cuda or cuda:N"),
        ({"--threads": "-1"}, "threads is -1; wanted: at least 0"),
        ({"--max-depth": "-2"}, "max_depth is -2.0; wanted: at least 0"),
        ({"--depth-unit": "raw"}, "wanted: the same height and width"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_enhance_says_what_is_wrong(
    fail: Run, pair: tuple[Path, Path], small_weights: Path, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    output = tmp_path / "out.npy"
    given = {"rgb": pair[0], "depth": pair[1], "-o": output, "--weights": small_weights, "--device": "cpu"} | change
    flags = [part for name, value in given.items() if name.startswith("-") for part in (name, value)]
    line = fail("enhance", given["rgb"], given["depth"], *flags)
    assert line.startswith("dkn enhance: ")
    assert said in line
    assert not output.exists()


def test_enhance_of_depth_that_is_all_invalid_says_so(
    pair: tuple[Path, Path], small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, output = tmp_path / "empty.png", tmp_path / "out.npy"
    cv2.imwrite(str(empty), np.zeros((30, 40), np.uint16))
    given = ["enhance", str(pair[0]), str(empty), "-o", str(output), "--weights", str(small_weights), "--device", "cpu"]
    assert cli.main(given) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"dkn enhance: no pixel of {empty} lies between 0 and ") and "--depth-unit" in last
    assert np.isnan(read_image(output)).all()


def test_colour_image_for_depth_is_named(fail: Run, pair: tuple[Path, Path], small_weights: Path) -> None:
    line = fail("enhance", pair[0], pair[0], "-o", "out.npy", "--weights", small_weights)
    assert line == f"dkn enhance: {pair[0]} has shape (120, 160, 3); wanted: one channel, HxW, and a pixel at least"


# evaluate, train, demo


def test_evaluate_prints_and_writes_the_tables(
    run: Run, frames: Path, small_weights: Path, identity_weights: Path, tmp_path: Path
) -> None:
    file, pictures = tmp_path / "table.json", tmp_path / "new" / "pictures"
    wanted = ("--tests", "clean,holes", "--factors", "4,8", "--baselines", "none")
    weights = ("--weights", f"{small_weights},{identity_weights}", *CPU)
    command = ["evaluate", frames, *wanted, *weights, "--json", file, "--pictures", pictures]
    printed = run(*command)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["command"] == " ".join(map(str, ["dkn", *command]))
    assert list(written["methods"]) == ["bicubic", "small", "identity"]
    assert load_model(str(small_weights))[1].sha256 in written["methods"]["small"]
    assert [(row["protocol"], row["factor"]) for row in written["results"]] == [
        ("clean", 4), ("clean", 8), ("holes", 4), ("holes", 8),
    ]  # fmt: skip
    for row in written["results"]:
        assert f"{row['protocol']} {row['factor']}x: " in printed
        for name in ("bicubic", "small", "identity"):
            assert re.search(rf"^  {name} +{100 * row['methods'][name]['mean']['all']:.2f} ", printed, re.MULTILINE)
        worst = row["methods"]["small"]["worst"]["frame"]
        assert (pictures / f"{row['protocol']}_{row['factor']}x_{worst}.png").is_file()
    assert len(list(pictures.iterdir())) == 4


def test_evaluate_takes_every_nth_frame(run: Run, frames: Path, small_weights: Path) -> None:
    wanted = ("--tests", "real", "--factors", "4", "--baselines", "bicubic", "--weights", small_weights, *CPU)
    assert "; 2 frames, " in run("evaluate", frames, *wanted, "--sequence")
    assert "; 1 frame, " in run("evaluate", frames, *wanted, "--every", 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "nothing"), "dkn evaluate: no folder nothing; wanted: a folder with NAME_rgb.png"),
        (("evaluate", "FRAMES", "--tests", "foggy"), "dkn evaluate: unknown protocol foggy; known: clean, "),
        (("evaluate", "FRAMES", "--factors", "0"), "dkn evaluate: factors are '0'; wanted: whole numbers"),
        (("evaluate", "FRAMES", "--every", "0"), "dkn evaluate: every is 0; wanted: at least 1"),
        (
            ("evaluate", "FRAMES", "--json", "/nowhere/x.json"),
            "dkn evaluate: no folder /nowhere for /nowhere/x.json; make",
        ),
        (("evaluate", "FRAMES", "--json", "/"), "dkn evaluate: / is a folder; wanted: the name of a file"),
        (("benchmark", "--json", "/"), "dkn benchmark: / is a folder; wanted: the name of a file"),
        (("evaluate", "FRAMES", "--baselines", "best"), "dkn evaluate: unknown baseline best; known: bicubic, "),
        (("evaluate", "FRAMES", "--weights", "nothing"), "dkn evaluate: weights are 'nothing'; wanted: one of "),
        (("train", "nothing.yaml"), "dkn train: no recipe nothing.yaml"),
        (("demo", "--rate", "0"), "dkn demo: rate is 0.0; wanted: at least 0.1"),
        (("demo", "--seconds", "0.5"), "dkn demo: seconds is 0.5; wanted: at least 1"),
        (("demo", "--weights", "nothing"), "dkn demo: weights are 'nothing'; wanted: one of fdkn"),
        (("demo", "--source", "nothing"), "dkn demo: no folder nothing; wanted: a folder with NAME_rgb.png"),
        (("weights", "prune", "fdkn", "-o", "x.bin"), "dkn weights prune: output is x.bin; wanted: a name that ends"),
        (("weights", "show", "nothing"), "dkn weights show: weights are 'nothing'; wanted: one of "),
        (("weights", "import", "nothing", "--output", "x.safetensors"), "dkn weights import: no checkpoint nothing"),
        (("weights", "export", "fdkn", "-o", "x.pt"), "dkn weights export: output is x.pt; wanted: a name that ends"),
        (("weights", "export", "fdkn", "-o", "/nowhere/x.onnx"), "dkn weights export: no folder /nowhere for x.onnx"),
        (("weights", "export", "fdkn", "-o", "x.onnx", "--size", "64"), "dkn weights export: size is '64'; wanted: W"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_errors_say_what_is_wanted(
    fail: Run, frames: Path, small_weights: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = [str(frames) if part == "FRAMES" else part for part in arguments]
    weights: tuple[object, ...] = ()
    if given[0] == "evaluate":
        weights = ("--weights", small_weights, "--device", "cpu", *(() if "--baselines" in given else NO_BASELINES))
    assert fail(*given, *weights).startswith(said)


def test_demo_without_ros_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('No module named rclpy')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running("dkn_ros.cli", ["demo", "--out", str(tmp_path / "out")], next_domain()) as process:
        assert process.wait() == 1
        (line,) = process.log.splitlines()
        assert line.startswith("dkn demo: the demo needs ROS 2 (")


# weights


def test_weights_list_names_what_is_shipped(run: Run) -> None:
    lines = run("weights", "list").splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_cards())


def test_weights_show_prints_the_card(run: Run, small_weights: Path) -> None:
    shown = yaml.safe_load(run("weights", "show", small_weights))
    model, card = load_model(str(small_weights))
    assert shown["sha256"] == card.sha256
    assert shown["options"] == {"n1": 8, "n2": 8}
    assert shown["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_weights_show_refuses_a_damaged_file(fail: Run, small_weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "small.safetensors"
    damaged.write_bytes(small_weights.read_bytes()[:-1] + b"\x55")
    damaged.with_suffix(".yaml").write_bytes(small_weights.with_suffix(".yaml").read_bytes())
    assert "the file is damaged or not the one the card describes" in fail("weights", "show", damaged)


def test_weights_import(run: Run, fail: Run, tmp_path: Path) -> None:
    """A state dict with the names of the authors' checkpoint becomes a file that loads."""
    network = FDKN(FDKNOptions(n1=8, n2=8, published_grid=True))
    published = {
        name.replace("guidance.", "ImageKernel.").replace("target.", "DepthKernel."): value
        for name, value in network.state_dict().items()
    }
    checkpoint, output = tmp_path / "FDKN_8x", tmp_path / "imported.safetensors"
    torch.save(published, checkpoint)
    printed = run("weights", "import", checkpoint, "--output", output)
    model, card = load_model(str(output))
    assert card.sha256 in printed
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in network.state_dict().items())

    torch.save({"other": torch.zeros(1)}, checkpoint)
    assert "is no FDKN checkpoint" in fail("weights", "import", checkpoint, "--output", output)
    checkpoint.write_bytes(b"no checkpoint at all")
    assert "cannot be read" in fail("weights", "import", checkpoint, "--output", output)
