"""What the commands of `dkn` do; `cli.py` makes them of a command line.

Each takes the parsed line and returns the exit status; what it raises becomes one line.  What a command needs is
imported in it: `dkn --help` need not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkn_ros.config import BagConfig, DemoConfig, PipelineConfig
from dkn_ros.settings import chosen, settings_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENHANCE_FLAGS = ("weights", "device", "precision", "threads", "min_depth", "max_depth", "fill_distance", "align_colour")
EVALUATE_FLAGS = ("device", "threads", "depth_resolution", "align_colour")
BENCHMARK_FLAGS = ("weights", "device", "threads")

MISREGISTERED = "by their edges colour and depth lie {}; the colour was moved for the network, the depth was not"


def enhance(given: argparse.Namespace) -> int:
    """Upsample one depth image, and explain pixels of it."""
    from dkn_ros.explain import check_pixel, explain
    from dkn_ros.images import check_output, read_depth, read_rgb, write_depth
    from dkn_ros.pipeline import Pipeline

    output = Path(given.output)
    check_output(output)  # before the work, not after it
    pixels = _pixels(given.explain)
    if pixels and given.depth_unit == "raw":
        raise ValueError("explain speaks of metres and the depth unit is raw; wanted: --depth-unit auto, mm or m")
    rgb, depth = read_rgb(Path(given.rgb)), read_depth(Path(given.depth), given.depth_unit)
    for x, y in pixels:
        check_pixel(x, y, rgb.shape[1], rgb.shape[0])
    pipeline = Pipeline(_settings(PipelineConfig, ENHANCE_FLAGS, given, fallback=False))
    if given.depth_unit == "raw":
        _check_raw(depth, given.depth, output)
        write_depth(output, pipeline.filter_raw(rgb, depth), unit="raw")
    else:
        explanations = explain(pipeline, rgb, depth, pixels) if pixels else []
        pipeline.forget_camera()  # so that what was explained is found out, and done, in the same way once more
        enhanced = pipeline.enhance(rgb, depth)
        write_depth(output, enhanced.depth)
        print(f"{enhanced.valid.mean():.1%} of the pixels valid, {enhanced.timings['whole']:.0f} ms", file=sys.stderr)
        if pipeline.misregistered:
            print(f"dkn enhance: {MISREGISTERED.format(pipeline.misregistered)}", file=sys.stderr)
        for explained in explanations:
            from dkn_ros import figures_kernels  # matplotlib takes its time: only for those who want a picture

            picture = output.with_name(f"{output.stem}_explain_{explained.x}_{explained.y}.png")
            figures_kernels.kernel(rgb, explained, picture, float(enhanced.depth[explained.y, explained.x]))
            print(picture)
    print(f"{output}: {rgb.shape[1]}x{rgb.shape[0]} from {depth.shape[1]}x{depth.shape[0]}")
    if given.depth_unit != "raw" and enhanced.blind:
        near, far = pipeline.config.min_depth, pipeline.config.max_depth
        what = f"no pixel of {given.depth} lies between {near:g} and {far:g} m, so that no depth came out"
        print(f"dkn enhance: {what}; check --depth-unit, --min-depth and --max-depth", file=sys.stderr)
        return 1
    return 0


def _check_raw(image: NDArray, name: str, output: Path) -> None:
    """A .png holds 0 to 1 of an image without unit: what lies beyond would be cut off."""
    if output.suffix == ".png" and image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"{name} holds raw values from {image.min():g} to {image.max():g}, of which a .png can hold 0 to 1; "
            "wanted: an output that ends with .npy, .tiff or .exr"
        )


def _check_files(*names: str | None) -> None:
    """Raise ValueError unless files of these names can be made, as far as that can be told before the work."""
    for name in filter(None, names):
        if not Path(name).parent.is_dir():
            raise ValueError(f"no folder {Path(name).parent} for {name}; make it first")
        if Path(name).is_dir():
            raise ValueError(f"{name} is a folder; wanted: the name of a file")


def _pixels(given: Sequence[str]) -> list[tuple[int, int]]:
    pixels = []
    for text in given:
        match = re.fullmatch(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*", text)
        if not match:
            raise ValueError(f"pixel to explain is {text!r}; wanted: X,Y, column and row, such as 320,240")
        pixels.append((int(match[1]), int(match[2])))
    return pixels


def demo(given: argparse.Namespace) -> int:
    """Run a simulated camera, the node and a probe."""
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


def bag(given: argparse.Namespace) -> int:
    """Upsample a recording into a new one."""
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
    if report.misregistered:
        print(f"dkn bag: {MISREGISTERED.format(report.misregistered)}", file=sys.stderr)
    if report.misshapen:
        print(f"dkn bag: {report.misshapen}; in the new bag it is stretched to the image", file=sys.stderr)
    if report.first_refusal:
        print(f"dkn bag: not upsampled: {report.first_refusal}", file=sys.stderr)
    return 0 if report.complete else 1


def evaluate(given: argparse.Namespace) -> int:
    """Print tables of errors; JSON and pictures of them."""
    from tqdm import tqdm

    from dkn_ros.evaluation import evaluate
    from dkn_ros.methods import select, twins
    from dkn_ros.pipeline import Pipeline
    from dkn_ros.report import LEGEND, document, picture, table

    factors = [int(factor) for factor in given.factors.split(",") if factor.isdecimal() and int(factor) > 0]
    if len(factors) != len(given.factors.split(",")):
        raise ValueError(f"factors are {given.factors!r}; wanted: whole numbers above 0, such as 2,4,8")
    _check_files(given.json)  # before the work, not after it
    sources = ",".join(given.weights or [PipelineConfig().weights]).split(",")
    base = _settings(PipelineConfig, EVALUATE_FLAGS, given, fallback=False)
    precisions = chosen(PipelineConfig, "precision", given.precisions)
    pipelines = [
        Pipeline(dataclasses.replace(base, weights=source, precision=precision))
        for source in sources
        for precision in precisions
    ]
    networks, baselines, about = select(pipelines, given.baselines.split(","), given.sequence)
    blocks = evaluate(
        networks,
        baselines,
        Path(given.folder),
        given.tests.split(","),
        factors,
        given.every,
        given.sequence,
        like=twins(pipelines, list(networks)),
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


def benchmark(given: argparse.Namespace) -> int:
    """Print tables of times and memory; JSON and a plot of them."""
    from dkn_ros.benchmark.report import machine, plot, table
    from dkn_ros.benchmark.run import Plan, read_sizes, run
    from dkn_ros.device import keep_freed_memory

    _check_files(given.json, given.plot)  # before the work, not after it
    if given.plot and Path(given.plot).suffix != ".png":
        raise ValueError(f"plot is {given.plot}; wanted: a name that ends with .png")
    keep_freed_memory()  # as the node does
    given.weights, *others = given.weights.split(",")
    config = _settings(PipelineConfig, BENCHMARK_FLAGS, given, fallback=False)
    sizes, precisions = read_sizes(given.sizes), chosen(PipelineConfig, "precision", given.precisions)
    document = run(Plan(sizes, config, precisions, given.factor, given.frames, given.reference, tuple(others)))
    document["command"] = shlex.join(["dkn", *given.arguments])
    document["machine"] = machine(document["device"], document["threads"])
    print(table(document))
    if given.json:
        Path(given.json).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if given.plot:
        plot(document, Path(given.plot))
    return 0


def train(given: argparse.Namespace) -> int:
    """Train by a recipe, from the checkpoint if there is one; also as one of several processes of torchrun."""
    import torch

    from dkn_ros.ranks import join, leave, place
    from dkn_ros.recipe import read_recipe
    from dkn_ros.training import Trainer

    output, recipe = Path(given.out), read_recipe(Path(given.recipe))
    ranks = place(recipe.device, os.environ, torch.cuda.device_count())
    join(ranks)
    try:
        trainer = Trainer(recipe, output, ranks)
        card = trainer.run()
    finally:
        leave()
    if ranks.first:
        if trainer.waiting is not None:
            print(f"the steps waited for their batches {trainer.waiting:.0%} of the time; drawn by {trainer.drawers}")
        print(f"{output / card.file}: sha256 {card.sha256}")
    return 0


def parameters(given: argparse.Namespace) -> int:
    """Print `config/dkn.yaml`."""
    from dkn_ros.ros.parameters import commented_yaml

    print(commented_yaml())
    return 0


def weights_list(given: argparse.Namespace) -> int:
    """Print a line for each card of the package."""
    from dkn_ros.weights import shipped_cards

    for name, card in shipped_cards().items():
        print(f"{name:<12}{card.model:<8}{card.licence:<14}{card.description}")
    return 0


def weights_show(given: argparse.Namespace) -> int:
    """Verify a weight file and print its card."""
    import yaml

    from dkn_ros.weights import load_model

    model, card = load_model(given.weights)  # loaded, so that what is shown has been verified
    print(yaml.safe_dump(dataclasses.asdict(card), sort_keys=False), end="")
    print(f"parameters: {sum(p.numel() for p in model.parameters())}")
    return 0


def weights_import(given: argparse.Namespace) -> int:
    """Convert the authors' checkpoint."""
    from dkn_ros.weights import import_checkpoint

    card = import_checkpoint(Path(given.checkpoint), Path(given.output), given.ratio)
    print(f"{given.output}: {card.model}, options {card.options}, sha256 {card.sha256}")
    return 0


def weights_prune(given: argparse.Namespace) -> int:
    """Leave out channels that never fire."""
    from dkn_ros.weights import check_output, load_model, prune

    check_output(Path(given.output))  # before the work, not after it
    before, _ = load_model(given.weights)
    card = prune(given.weights, Path(given.output))
    after, _ = load_model(given.output)
    counts = (sum(p.numel() for p in model.parameters()) for model in (before, after))
    print(f"{given.output}: {' -> '.join(map(str, counts))} parameters, options {card.options}, sha256 {card.sha256}")
    return 0


def weights_export(given: argparse.Namespace) -> int:
    """Write a network as ONNX."""
    from dkn_ros.export import export_onnx, read_size

    width, height = read_size(given.size)
    inputs = export_onnx(given.weights, width, height, Path(given.output))
    print(f"{given.output}: inputs {', '.join(f'{name} {shape}' for name, shape in inputs.items())}")
    return 0


def _settings(kind: type, names: Sequence[str], given: argparse.Namespace, **more: Any) -> Any:
    return kind(**{name: getattr(given, name) for name in names}, **more)
