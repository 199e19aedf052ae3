"""The `dkn` command: offline work, the demo, training, weights.  Flags come from the settings in `config.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from dkn_ros import __version__
from dkn_ros import commands as work
from dkn_ros.config import PRECISIONS, BagConfig, DemoConfig, PipelineConfig
from dkn_ros.settings import Settings, settings_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only if its work was done."""
    given = _parser().parse_args(arguments)
    given.arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        print("dkn: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"dkn {given.command}: {lines[0]}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dkn", description="Guided depth upsampling for RGB-D cameras.")
    parser.add_argument("--version", action="version", version=f"dkn_ros {__version__}")
    precisions = ", ".join(PRECISIONS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    enhance = _command(commands, "enhance", "upsample one depth image", work.enhance)
    enhance.add_argument("rgb", metavar="RGB", help="colour image")
    enhance.add_argument("depth", metavar="DEPTH", help="depth image: 16-bit .png (millimetres), .npy, .tiff or .exr")
    enhance.add_argument("-o", "--output", metavar="OUT", required=True, help=".npy, .tiff, .exr (metres) or .png (mm)")
    enhance.add_argument(
        "--depth-unit",
        choices=("auto", "mm", "m", "raw"),
        default="auto",
        help="of DEPTH; auto: 16-bit integers are mm, floats m; raw: no unit, 0 is a value; integers, and a .png, hold "
        "parts of their type's largest value",
    )
    enhance.add_argument(
        "--explain",
        action="append",
        default=[],
        metavar="X,Y",
        help="draw which depth samples made the pixel of column X, row Y, as OUT_explain_X_Y.png; may be repeated",
    )
    _add_flags(enhance, PipelineConfig, work.ENHANCE_FLAGS)

    demo = _command(
        commands, "demo", "run a simulated camera and the node over ROS 2, and look at the result", work.demo
    )
    demo.add_argument("--out", metavar="DIR", default="demo_output", help="folder for summary.json and the pictures")
    _add_flags(demo, DemoConfig, tuple(settings_of(DemoConfig)))

    bag = _command(commands, "bag", "upsample every pair of a rosbag2 recording into a new one", work.bag)
    bag.add_argument("source", metavar="IN", help="the folder of a recording, or one of its .mcap or .db3 files")
    bag.add_argument("target", metavar="OUT", help="folder of the new one: all of the old, and the upsampled depth")
    bag.add_argument("--overwrite", action="store_true", help="replace the bag OUT, if there is one, when it is done")
    _add_flags(bag, BagConfig, tuple(settings_of(BagConfig)))
    _add_flags(bag, PipelineConfig, work.ENHANCE_FLAGS)

    evaluate = _command(commands, "evaluate", "measure the error on frames of known depth", work.evaluate)
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
    evaluate.add_argument(
        "--precisions",
        default="auto",
        metavar="TYPE,...",
        help=f"number types of the feature towers, of {precisions}; the others are compared with the first (auto)",
    )
    evaluate.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame of the folder (1)")
    evaluate.add_argument(
        "--sequence", action="store_true", help="the frames follow each other: measure flicker from one to the next"
    )
    evaluate.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    evaluate.add_argument("--pictures", metavar="DIR", help="draw the worst frame of every table there")
    _add_flags(evaluate, PipelineConfig, work.EVALUATE_FLAGS)

    benchmark = _command(commands, "benchmark", "measure time and memory of a frame on this machine", work.benchmark)
    sizes = "320x240,640x480,1280x720,1920x1080"
    benchmark.add_argument("--sizes", default=sizes, metavar="WxH,...", help=f"sizes of the colour image ({sizes})")
    benchmark.add_argument(
        "--precisions",
        default="auto",
        metavar="TYPE,...",
        help=f"number types of the feature towers, of {precisions}; auto is what the pipeline takes here (auto)",
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
    benchmark.epilog = (
        "--weights fdkn,fdkn-small times several networks in turns; the first one also the published way."
    )
    benchmark.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    benchmark.add_argument("--plot", metavar="FILE.png", help="draw time against pixels there")
    _add_flags(benchmark, PipelineConfig, work.BENCHMARK_FLAGS)

    train = _command(commands, "train", "train weights by a recipe; goes on where it was interrupted", work.train)
    train.add_argument("recipe", metavar="CONFIG", help="YAML with fields of TrainingConfig, such as weights/fdkn.yaml")
    train.add_argument("--out", metavar="DIR", default="training", help="folder for checkpoint, loss curve and weights")

    _command(commands, "parameters", "print a ROS parameter file with every parameter and its default", work.parameters)

    weights = commands.add_parser("weights", help="list, show, import, prune or export weight files").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    _command(weights, "list", "the weights that come with the package", work.weights_list, "weights list")
    show = _command(weights, "show", "the card of a weight file, after verifying it", work.weights_show, "weights show")
    show.add_argument("weights", metavar="NAME|FILE")
    bring = _command(weights, "import", "convert the authors' checkpoint", work.weights_import, "weights import")
    bring.add_argument("checkpoint", metavar="CHECKPOINT", help="the authors' published FDKN file (a torch state dict)")
    bring.add_argument("--output", metavar="FILE", required=True, help="the .safetensors file, its card goes beside it")
    bring.add_argument(
        "--ratio", type=float, metavar="R", help="the ratio it was trained for; others then work at the size that fits"
    )
    slim = _command(
        weights,
        "prune",
        "leave out channels that never fire: the same result sooner",
        work.weights_prune,
        "weights prune",
    )
    slim.add_argument("weights", metavar="NAME|FILE")
    slim.add_argument("-o", "--output", metavar="FILE", required=True, help="the .safetensors file, its card beside it")
    give = _command(weights, "export", "write a network for another runtime", work.weights_export, "weights export")
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
        flag, text = "--" + name.replace("_", "-"), f"{about.description} ({default})".replace("%", "%%")
        if python_type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            parser.add_argument(flag, type=python_type, default=default, choices=about.choices, help=text)


if __name__ == "__main__":
    sys.exit(main())
