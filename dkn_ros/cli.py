"""The `dkn` command: offline work, the demo, training, weights.  Flags come from the settings in `config.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dkn_ros import __version__
from dkn_ros.config import BagConfig, DemoConfig, PipelineConfig, Settings, settings_of

ENHANCE_FLAGS = ("weights", "device", "precision", "threads", "min_depth", "max_depth", "fill_distance")
EVALUATE_FLAGS = ("device", "precision", "threads", "depth_resolution")
BENCHMARK_FLAGS = ("weights", "device", "threads")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only if its work was done."""
    given = _parser().parse_args(arguments)
    given.arguments = sys.argv[1:] if arguments is None else list(arguments)
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
    from dkn_ros.explain import check_pixel, explain
    from dkn_ros.images import OUTPUTS, ImageFileError, read_depth, read_rgb, write_depth
    from dkn_ros.pipeline import Pipeline

    output = Path(given.output)
    if output.suffix not in OUTPUTS:  # before the work, not after it
        raise ImageFileError(f"output is {output}; wanted: a name that ends with one of {', '.join(OUTPUTS)}")
    pixels = _pixels(given.explain)
    if pixels and given.depth_unit == "raw":
        raise ValueError("explain speaks of metres and the depth unit is raw; wanted: --depth-unit auto, mm or m")
    rgb, depth = read_rgb(Path(given.rgb)), read_depth(Path(given.depth), given.depth_unit)
    for x, y in pixels:
        check_pixel(x, y, rgb.shape[1], rgb.shape[0])
    pipeline = Pipeline(_settings(PipelineConfig, ENHANCE_FLAGS, given, fallback=False))
    if given.depth_unit == "raw":
        write_depth(output, pipeline.filter_raw(rgb, depth), unit="raw")
    else:
        explanations = explain(pipeline, rgb, depth, pixels) if pixels else []
        enhanced = pipeline.enhance(rgb, depth)
        write_depth(output, enhanced.depth)
        print(f"{enhanced.valid.mean():.1%} of the pixels valid, {enhanced.timings['whole']:.0f} ms", file=sys.stderr)
        for explained in explanations:
            from dkn_ros import figures_kernels  # matplotlib takes its time: only for those who want a picture

            picture = output.with_name(f"{output.stem}_explain_{explained.x}_{explained.y}.png")
            figures_kernels.kernel(rgb, explained, picture, float(enhanced.depth[explained.y, explained.x]))
            print(picture)
    print(f"{output}: {rgb.shape[1]}x{rgb.shape[0]} from {depth.shape[1]}x{depth.shape[0]}")
    return 0


def _pixels(given: Sequence[str]) -> list[tuple[int, int]]:
    pixels = []
    for text in given:
        match = re.fullmatch(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*", text)
        if not match:
            raise ValueError(f"pixel to explain is {text!r}; wanted: X,Y, column and row, such as 320,240")
        pixels.append((int(match[1]), int(match[2])))
    return pixels


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


def _bag(given: argparse.Namespace) -> int:
    try:
        from dkn_ros.ros import bag
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rosbags":
            raise
        raise ImportError("bags are read with the package rosbags; install it with: pip install rosbags") from error

    config = _settings(BagConfig, tuple(settings_of(BagConfig)), given)
    pipeline_config = _settings(PipelineConfig, ENHANCE_FLAGS, given, fallback=False)
    report = bag.convert(Path(given.source), Path(given.target), config, pipeline_config, given.overwrite)
    print(report)
    for loss in report.losses:
        print(f"dkn bag: {loss}", file=sys.stderr)
    if report.first_refusal:
        print(f"dkn bag: not upsampled: {report.first_refusal}", file=sys.stderr)
    return 0 if report.complete else 1


def _evaluate(given: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dkn_ros.evaluation import evaluate, select
    from dkn_ros.pipeline import Pipeline
    from dkn_ros.report import LEGEND, document, picture, table

    factors = [int(factor) for factor in given.factors.split(",") if factor.isdecimal() and int(factor) > 0]
    if len(factors) != len(given.factors.split(",")):
        raise ValueError(f"factors are {given.factors!r}; wanted: whole numbers above 0, such as 2,4,8")
    if given.json and not Path(given.json).parent.is_dir():  # before the work, not after it
        raise ValueError(f"no folder {Path(given.json).parent} for the JSON file; make it first")
    sources = ",".join(given.weights or [PipelineConfig().weights]).split(",")
    base = _settings(PipelineConfig, EVALUATE_FLAGS, given, fallback=False)
    pipelines = [Pipeline(dataclasses.replace(base, weights=source)) for source in sources]
    networks, baselines, about = select(pipelines, given.baselines.split(","))
    blocks = evaluate(
        networks, baselines, Path(given.folder), given.tests.split(","), factors, given.every, given.sequence
    )
    pictures = Path(given.pictures) if given.pictures else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)

    done = []
    for block, shot in blocks:
        tqdm.write(table(block) + "\n")
        done.append(block)
        if pictures:
            picture(block, shot, pictures)
    print(LEGEND)
    print("\n".join(f"{name}: {what}" for name, what in about.items()))
    if given.json:
        command = shlex.join(["dkn", *given.arguments])
        run = {"command": command, "folder": given.folder, "every": given.every, "sequence": given.sequence}
        content = document(done, about, **run)
        Path(given.json).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


def _benchmark(given: argparse.Namespace) -> int:
    from dkn_ros.benchmark.report import machine, plot, table
    from dkn_ros.benchmark.run import Plan, read_precisions, read_sizes, run
    from dkn_ros.device import keep_freed_memory

    for file in (given.json, given.plot):  # before the work, not after it
        if file and not Path(file).parent.is_dir():
            raise ValueError(f"no folder {Path(file).parent} for {file}; make it first")
    if given.plot and Path(given.plot).suffix != ".png":
        raise ValueError(f"plot is {given.plot}; wanted: a name that ends with .png")
    keep_freed_memory()  # as the node does
    config = _settings(PipelineConfig, BENCHMARK_FLAGS, given, fallback=False)
    sizes, precisions = read_sizes(given.sizes), read_precisions(given.precisions)
    document = run(Plan(sizes, config, precisions, given.factor, given.frames, given.reference))
    document["command"] = shlex.join(["dkn", *given.arguments])
    document["machine"] = machine(document["device"], document["threads"])
    print(table(document))
    if given.json:
        Path(given.json).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if given.plot:
        plot(document, Path(given.plot))
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

    card = import_checkpoint(Path(given.checkpoint), Path(given.output), given.ratio)
    print(f"{given.output}: {card.model}, options {card.options}, sha256 {card.sha256}")
    return 0


def _weights_export(given: argparse.Namespace) -> int:
    from dkn_ros.export import export_onnx, read_size

    width, height = read_size(given.size)
    inputs = export_onnx(given.weights, width, height, Path(given.output))
    print(f"{given.output}: inputs {', '.join(f'{name} {shape}' for name, shape in inputs.items())}")
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
    enhance.add_argument(
        "--explain",
        action="append",
        default=[],
        metavar="X,Y",
        help="draw which depth samples made the pixel of column X, row Y, as OUT_explain_X_Y.png; may be repeated",
    )
    _add_flags(enhance, PipelineConfig, ENHANCE_FLAGS)

    demo = _command(commands, "demo", "run a simulated camera and the node over ROS 2, and look at the result", _demo)
    demo.add_argument("--out", metavar="DIR", default="demo_output", help="folder for summary.json and the pictures")
    _add_flags(demo, DemoConfig, tuple(settings_of(DemoConfig)))

    bag = _command(commands, "bag", "upsample every pair of a rosbag2 recording into a new one", _bag)
    bag.add_argument("source", metavar="IN", help="the folder of a recording, or one of its .mcap or .db3 files")
    bag.add_argument("target", metavar="OUT", help="folder of the new one: all of the old, and the upsampled depth")
    bag.add_argument("--overwrite", action="store_true", help="replace the bag OUT, if there is one, when it is done")
    _add_flags(bag, BagConfig, tuple(settings_of(BagConfig)))
    _add_flags(bag, PipelineConfig, ENHANCE_FLAGS)

    evaluate = _command(commands, "evaluate", "measure the error on frames of known depth", _evaluate)
    evaluate.add_argument("folder", metavar="DATA_DIR", help="folder with NAME_rgb.png and NAME_depth.png or .npy")
    evaluate.add_argument(
        "--tests",
        default="clean,nearest,holes,kinect",
        help="of clean, nearest, area, holes, kinect, real, replicated, sparse (clean,nearest,holes,kinect)",
    )
    evaluate.add_argument("--factors", default="2,4,8", help="ratios of colour to depth size (2,4,8)")
    evaluate.add_argument(
        "--weights",
        action="append",
        metavar="NAME|FILE",
        help=f"networks to compare, repeated or separated by commas ({PipelineConfig().weights})",
    )
    evaluate.add_argument(
        "--baselines",
        default="bicubic,guided,jbu,fgs",
        help="of bicubic (always there), guided, jbu and fgs, or none (bicubic,guided,jbu,fgs)",
    )
    evaluate.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame of the folder (1)")
    evaluate.add_argument(
        "--sequence", action="store_true", help="the frames follow each other: measure flicker from one to the next"
    )
    evaluate.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    evaluate.add_argument("--pictures", metavar="DIR", help="draw the worst frame of every table there")
    _add_flags(evaluate, PipelineConfig, EVALUATE_FLAGS)

    benchmark = _command(commands, "benchmark", "measure time and memory of a frame on this machine", _benchmark)
    sizes = "320x240,640x480,1280x720,1920x1080"
    benchmark.add_argument("--sizes", default=sizes, metavar="WxH,...", help=f"sizes of the colour image ({sizes})")
    benchmark.add_argument(
        "--precisions",
        default="auto",
        metavar="TYPE,...",
        help="number types of the feature towers: float32, bfloat16, auto; auto is what the pipeline takes here (auto)",
    )
    benchmark.add_argument(
        "--frames", type=int, default=0, metavar="N", help="frames at each size; 0: as many as take some seconds (0)"
    )
    benchmark.add_argument("--factor", type=int, default=4, metavar="N", help="ratio of colour to depth size (4)")
    benchmark.add_argument(
        "--reference",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time the way of the authors' published code, in turns with the pipeline (yes)",
    )
    benchmark.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    benchmark.add_argument("--plot", metavar="FILE.png", help="draw time against pixels there")
    _add_flags(benchmark, PipelineConfig, BENCHMARK_FLAGS)

    train = _command(commands, "train", "train weights by a recipe; goes on where it was interrupted", _train)
    train.add_argument("recipe", metavar="CONFIG", help="YAML with fields of TrainingConfig, such as weights/fdkn.yaml")
    train.add_argument("--out", metavar="DIR", default="training", help="folder for checkpoint, loss curve and weights")

    _command(commands, "parameters", "print a ROS parameter file with every parameter and its default", _parameters)

    weights = commands.add_parser("weights", help="list, show, import or export weight files").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    _command(weights, "list", "the weights that come with the package", _weights_list, "weights list")
    show = _command(weights, "show", "the card of a weight file, after verifying it", _weights_show, "weights show")
    show.add_argument("weights", metavar="NAME|FILE")
    bring = _command(weights, "import", "convert the authors' checkpoint", _weights_import, "weights import")
    bring.add_argument("checkpoint", metavar="CHECKPOINT", help="the authors' published FDKN file (a torch state dict)")
    bring.add_argument("--output", metavar="FILE", required=True, help="the .safetensors file, its card goes beside it")
    bring.add_argument(
        "--ratio", type=float, metavar="R", help="the ratio it was trained for; others then work at the size that fits"
    )
    give = _command(weights, "export", "write a network for another runtime", _weights_export, "weights export")
    give.add_argument("weights", metavar="NAME|FILE")
    give.add_argument("-o", "--output", metavar="FILE.onnx", required=True)
    give.add_argument("--format", choices=("onnx",), default="onnx", help="onnx: for TensorRT, ONNX Runtime and others")
    give.add_argument(
        "--size", metavar="WxH", default="640x480", help="of the images; it is fixed in the file (640x480)"
    )
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


def _settings(kind: type, names: Sequence[str], given: argparse.Namespace, **more: Any) -> Any:
    return kind(**{name: getattr(given, name) for name in names}, **more)


if __name__ == "__main__":
    sys.exit(main())
