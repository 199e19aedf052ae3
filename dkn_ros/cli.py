"""The `dkn` command: offline work, the demo, training, weights.  Flags come from the settings in `config.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dkn_ros import __version__
from dkn_ros.config import DemoConfig, PipelineConfig, Settings, settings_of

ENHANCE_FLAGS = ("weights", "device", "precision", "threads", "min_depth", "max_depth", "fill_distance")
EVALUATE_FLAGS = ("weights", "device", "precision", "threads")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only if its work was done."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        print("dkn: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"dkn {given.command}: {lines[0]}", file=sys.stderr)
        return 1


def _enhance(given: argparse.Namespace) -> int:
    from dkn_ros.images import OUTPUTS, ImageFileError, read_depth, read_rgb, write_depth
    from dkn_ros.pipeline import Pipeline

    output = Path(given.output)
    if output.suffix not in OUTPUTS:  # before the work, not after it
        raise ImageFileError(f"output is {output}; wanted: a name that ends with one of {', '.join(OUTPUTS)}")
    rgb, depth = read_rgb(Path(given.rgb)), read_depth(Path(given.depth), given.depth_unit)
    pipeline = Pipeline(_settings(PipelineConfig, ENHANCE_FLAGS, given))
    if given.depth_unit == "raw":
        write_depth(output, pipeline.filter_raw(rgb, depth), unit="raw")
    else:
        enhanced = pipeline.enhance(rgb, depth)
        write_depth(output, enhanced.depth)
        print(f"{enhanced.valid.mean():.1%} of the pixels valid, {enhanced.timings['whole']:.0f} ms", file=sys.stderr)
    print(f"{output}: {rgb.shape[1]}x{rgb.shape[0]} from {depth.shape[1]}x{depth.shape[0]}")
    return 0


def _demo(given: argparse.Namespace) -> int:
    from dkn_ros.ros import demo

    config = _settings(DemoConfig, tuple(settings_of(DemoConfig)), given)
    output = Path(given.out)
    summary = demo.run(config, output)
    print(demo.table(summary))
    print(f"pictures and numbers: {', '.join(str(p) for p in sorted(output.glob('*.[pj]*')))}")
    wrong = demo.verdict(summary)
    for sentence in wrong:
        print(f"dkn demo: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _evaluate(given: argparse.Namespace) -> int:
    from dkn_ros.evaluation import evaluate, table
    from dkn_ros.pipeline import Pipeline

    factors = [int(factor) for factor in given.factors.split(",") if factor.isdecimal() and int(factor) > 0]
    if len(factors) != len(given.factors.split(",")):
        raise ValueError(f"factors are {given.factors!r}; wanted: whole numbers above 0, such as 2,4,8")
    pipeline = Pipeline(_settings(PipelineConfig, EVALUATE_FLAGS, given))
    rows = evaluate(pipeline, Path(given.folder), given.tests.split(","), factors)
    print(f"{given.folder}, weights {pipeline.card.name} {pipeline.card.sha256[:12]}")
    print(table(rows))
    if given.json:
        results = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
        Path(given.json).write_text(
            json.dumps({"weights": pipeline.card.sha256, "results": results}, indent=2) + "\n", encoding="utf-8"
        )
    return 0


def _train(given: argparse.Namespace) -> int:
    from dkn_ros.training import Trainer, read_recipe

    output = Path(given.out)
    card = Trainer(read_recipe(Path(given.recipe)), output).run()
    print(f"{output / card.file}: sha256 {card.sha256}")
    return 0


def _parameters(given: argparse.Namespace) -> int:
    from dkn_ros.ros.parameters import commented_yaml

    print(commented_yaml())
    return 0


def _weights_list(given: argparse.Namespace) -> int:
    from dkn_ros.weights import shipped_cards

    for name, card in shipped_cards().items():
        print(f"{name:<12}{card.model:<8}{card.licence:<14}{card.description}")
    return 0


def _weights_show(given: argparse.Namespace) -> int:
    import yaml

    from dkn_ros.weights import load_model

    model, card = load_model(given.weights)  # loaded, so that what is shown has been verified
    print(yaml.safe_dump(dataclasses.asdict(card), sort_keys=False), end="")
    print(f"parameters: {sum(p.numel() for p in model.parameters())}")
    return 0


def _weights_import(given: argparse.Namespace) -> int:
    from dkn_ros.weights import import_checkpoint

    card = import_checkpoint(Path(given.checkpoint), Path(given.output))
    print(f"{given.output}: {card.model}, options {card.options}, sha256 {card.sha256}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dkn", description="Guided depth upsampling for RGB-D cameras.")
    parser.add_argument("--version", action="version", version=f"dkn_ros {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    enhance = _command(commands, "enhance", "upsample one depth image", _enhance)
    enhance.add_argument("rgb", metavar="RGB", help="colour image")
    enhance.add_argument("depth", metavar="DEPTH", help="depth image: 16-bit .png (millimetres), .npy, .tiff or .exr")
    enhance.add_argument("-o", "--output", metavar="OUT", required=True, help=".npy, .tiff, .exr (metres) or .png (mm)")
    enhance.add_argument(
        "--depth-unit",
        choices=("auto", "mm", "m", "raw"),
        default="auto",
        help="of DEPTH; auto: 16-bit integers are mm, floats m; raw: no unit, 0 is a value, the output keeps the scale",
    )
    _add_flags(enhance, PipelineConfig, ENHANCE_FLAGS)

    demo = _command(commands, "demo", "run a simulated camera and the node over ROS 2, and look at the result", _demo)
    demo.add_argument("--out", metavar="DIR", default="demo_output", help="folder for summary.json and the pictures")
    _add_flags(demo, DemoConfig, tuple(settings_of(DemoConfig)))

    evaluate = _command(commands, "evaluate", "measure the error on frames of known depth", _evaluate)
    evaluate.add_argument("folder", metavar="DATA_DIR", help="folder with NAME_rgb.png and NAME_depth.png or .npy")
    evaluate.add_argument("--tests", default="clean,nearest", help="of clean, nearest, area, holes, kinect")
    evaluate.add_argument("--factors", default="2,4,8", help="ratios of colour to depth size (2,4,8)")
    evaluate.add_argument("--json", metavar="FILE", help="write the table there too")
    _add_flags(evaluate, PipelineConfig, EVALUATE_FLAGS)

    train = _command(commands, "train", "train weights by a recipe; goes on where it was interrupted", _train)
    train.add_argument("recipe", metavar="CONFIG", help="YAML with fields of TrainingConfig, such as weights/fdkn.yaml")
    train.add_argument("--out", metavar="DIR", default="training", help="folder for checkpoint, loss curve and weights")

    _command(commands, "parameters", "print a ROS parameter file with every parameter and its default", _parameters)

    weights = commands.add_parser("weights", help="list, show or import weight files").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    _command(weights, "list", "the weights that come with the package", _weights_list, "weights list")
    show = _command(weights, "show", "the card of a weight file, after verifying it", _weights_show, "weights show")
    show.add_argument("weights", metavar="NAME|FILE")
    bring = _command(weights, "import", "convert the authors' checkpoint", _weights_import, "weights import")
    bring.add_argument("checkpoint", metavar="CHECKPOINT", help="the authors' published FDKN file (a torch state dict)")
    bring.add_argument("--output", metavar="FILE", required=True, help="the .safetensors file, its card goes beside it")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], int],
    full_name: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    parser.set_defaults(run=run, command=full_name or name)
    return parser


def _add_flags(parser: argparse.ArgumentParser, kind: type[Settings], names: Sequence[str]) -> None:
    known = settings_of(kind)
    for name in names:
        python_type, default, about = known[name]
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=python_type,
            default=default,
            choices=about.choices,
            help=f"{about.description} ({default})".replace("%", "%%"),
        )


def _settings(kind: type, names: Sequence[str], given: argparse.Namespace) -> Any:
    return kind(**{name: getattr(given, name) for name in names})


if __name__ == "__main__":
    sys.exit(main())
