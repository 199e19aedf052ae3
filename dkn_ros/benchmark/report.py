"""What a benchmark says: tables for the terminal, facts about the machine, a plot of time against pixels."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numba
import torch

from dkn_ros import __version__

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
"""Extensions that decide how fast a network runs, of x86 and of ARM."""
LEGEND = """\
median, p95, p99   milliseconds of a frame, from images to images; Hz: frames a second at the median
early              median from the depth on, where the colour image was looked at before, as the node does
ms/MP, relative    milliseconds a million pixels of the colour image, and over those of the smallest size
published          median milliseconds (and number of frames) the published way: float32, a 15 x 15 window cut out
                   around every pixel; timed in turns with the pipeline, same frames, the first weights
faster             that over the pipeline's median
MB                 peak memory of a frame above the loaded model, measured in a process of its own, by
                   {method}
floor              least time of the towers' convolutions (stages guidance and target) and of the deformable average
                   (its stage), and how many times that their stages take: multiply-adds of all layers at the rate of a
                   large matrix product or convolution in the same number type, and bytes of the heads of both towers,
                   depth and result at the rate of a large sum, both measured between these frames; what fits into
                   caches may be below its floor
differs            99th percentile of the difference between both results, millimetres, and its root mean square in
                   percent of the depth's"""


def machine(device: str, threads: int) -> dict[str, Any]:
    """The facts about this machine and its libraries that a time depends on.  device: such as cpu or cuda:0."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name, instructions = cpu_facts(text)
    return {
        "cpu": name or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instructions": instructions,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "opencv": cv2.__version__,
        "dkn_ros": __version__,
    }


def cpu_facts(cpuinfo: str) -> tuple[str, list[str]]:
    """Model name and those of `INSTRUCTIONS` that a CPU has, from the text of /proc/cpuinfo; ARM states no name."""
    name = re.search(r"^model name\s*: *(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: *(.+)$", cpuinfo, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return name[1].strip() if name else "", [one for one in INSTRUCTIONS if one in present]


def table(document: dict[str, Any]) -> str:
    """The whole benchmark as text.  document: of `run.run`, with `machine`."""
    parts = [_about(document), _frames(document["results"]), *_stages(document["results"])]
    parts.append(document["classical_missing"] or _classical(document["classical"]))
    parts += [_average(document["average"]), _outputs(document["outputs"])]
    parts.append(LEGEND.format(method=document["memory_method"]))
    return "\n\n".join(parts)


def _about(document: dict[str, Any]) -> str:
    facts, path = document["machine"], "; ".join((document["path"], *document["path_notes"]))
    gpu = f"{facts['gpu']}, " if facts["gpu"] else ""
    cpu = f"{facts['cpu']}, {_number_of(facts['threads'], 'thread')} on {_number_of(facts['cores'], 'core')}"
    return (
        f"{gpu}{cpu}, {' '.join(facts['instructions']) or 'no known instruction set'}\n"
        f"torch {facts['torch']}, numba {facts['numba']}, OpenCV {facts['opencv']}, dkn_ros {facts['dkn_ros']}\n"
        f"weights {document['weights']}, depth {document['factor']} times smaller than colour, without holes\n"
        f"run on {path}"
    )


def _frames(results: Sequence[dict[str, Any]]) -> str:
    head = ["size", "network", "frames", "median", "p95", "p99", "Hz", "early", "ms/MP", "relative",
            "published", "faster", "MB", "publ. MB", "differs"]  # fmt: skip
    rows = [head]
    for entry in results:
        whole, known = entry["whole_ms"], entry["reference_ms"]
        rows.append([
            _size(entry), _network(entry), str(entry["frames"]), *(_ms(whole[key]) for key in whole),
            f"{1e3 / whole['median']:.1f}", _ms(entry["early_ms"]["median"]),
            _ms(entry["ms_per_megapixel"]), f"{entry['relative_per_megapixel']:.2f}",
            f"{_ms(known['median'])} ({entry['reference_frames']})" if known else "-",
            f"{entry['speedup']:.1f}x" if known else "-",
            _count(entry["peak_mb"]), _count(entry["reference_peak_mb"]),
            _difference(entry) if entry["difference_mm"] else "-",
        ])  # fmt: skip
    notes = {f"published way at {_size(e)}: {e['reference_note']}": None for e in results if e["reference_note"]}
    return "\n".join([_aligned(rows, left=2), *notes])


def _difference(entry: dict[str, Any]) -> str:
    return f"{entry['difference_mm']['p99']:.2f} / {100 * entry['difference_relative']:.3f}"


def _network(entry: dict[str, Any]) -> str:
    return f"{entry['weights']}, {entry['precision']}"


def _stages(results: Sequence[dict[str, Any]]) -> list[str]:
    """One table for each network: a row a stage, a column a size."""
    tables = []
    for network in dict.fromkeys(map(_network, results)):
        entries = [entry for entry in results if _network(entry) == network]
        names = dict.fromkeys(name for entry in entries for name in entry["stages_ms"])
        rows = [[f"stages, {network}", *(_size(entry) for entry in entries)]]
        for name in names:
            rows.append([name, *(_three(entry["stages_spread_ms"].get(name)) for entry in entries)])
        rows.append(["whole", *(_three(entry["whole_ms"]) for entry in entries)])
        for name in entries[0]["floors"]:
            found = [entry["floors"][name] for entry in entries]
            rows.append([f"floor, {name}", *map(_floor, found)])
            rows.append([f"  {_per_second(found[0]['unit'])}", *(f"{1e-9 * one['rate_per_s']:.1f}" for one in found)])
        tables.append(_aligned(rows, left=1) + "\n  (median / p95 / p99, ms)")
    return tables


def _floor(floor: dict[str, Any], unit: str = "") -> str:
    return f"{_ms(floor['ms'])}{unit} ({floor['ratio']:.1f}x)" if floor["ratio"] else f"{_ms(floor['ms'])}{unit}"


def _per_second(unit: str) -> str:
    return {"bytes": "GB/s", "multiply-adds": "10^9 multiply-adds/s"}[unit]


def _classical(entries: Sequence[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys(_size(entry) for entry in entries))
    rows = [["opencv-contrib", *sizes]]
    for method in dict.fromkeys(entry["method"] for entry in entries):
        found = {_size(entry): entry["whole_ms"] for entry in entries if entry["method"] == method}
        rows.append([method, *(_three(found.get(size)) for size in sizes)])
    return _aligned(rows, left=1) + "\n  (guided filter, fast global smoother; median / p95 / p99, ms)"


def _average(average: dict[str, Any]) -> str:
    ms = {name: f"{_ms(value)} ms" for name, value in average["ms"].items()}
    floor = average["floor"]
    traffic = f"{1e-6 * floor['bytes']:.1f} MB at {1e-9 * floor['bytes_per_s']:.1f} GB/s"
    return "\n".join((
        f"deformable average alone, {_size(average)}, {average['device']}",
        *([f"  as published           {ms['published']}"] if "published" in ms else []),
        f"  plain PyTorch          {ms['plain']}",
        f"  dkn_ros.sampling       {ms['sampling']}, {average['speedup']:.1f} times faster than plain",
        f"  together with the kernels, from the towers' {average['precision']} heads",
        f"  plain PyTorch          {ms['plain_from_heads']}",
        f"  pipeline               {ms['pipeline_from_heads']}, {average['speedup_from_heads']:.1f} times faster",
        *([f"  its kernel alone       {ms['kernel_from_heads']}"] if "kernel_from_heads" in ms else []),
        f"  floor                  {_floor(floor, ' ms')}, {traffic}",
    ))  # fmt: skip


def _outputs(outputs: dict[str, Any]) -> str:
    each = ", ".join(f"{name} {_ms(value)}" for name, value in outputs["ms"].items())
    return f"further outputs, {_size(outputs)}, {_number_of(outputs['threads'], 'thread')}\n  {each} ms"


def _aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns of text, the first `left` of them read from the left, numbers by their last digit."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(cells)))
    return "\n".join(line.rstrip() for line in lines)


def _size(entry: dict[str, Any]) -> str:
    return f"{entry['width']}x{entry['height']}"


def _number_of(count: int, what: str) -> str:
    return f"{count} {what}{'s'[: count != 1]}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _three(spread: dict[str, float] | None) -> str:
    return " / ".join(map(_ms, spread.values())) if spread else "-"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def plot(document: dict[str, Any], path: Path) -> None:
    """Time of a frame against its pixels, both logarithmic, for everything that was timed; writes `path`."""
    import matplotlib  # takes its time: only for those who want a picture

    matplotlib.use("Agg")  # files only: no window, no display needed
    from matplotlib.figure import Figure

    results = document["results"]
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry in results:
        pixels = 1e-6 * entry["width"] * entry["height"]
        lines.setdefault(f"dkn_ros, {_network(entry)}", []).append((pixels, entry["whole_ms"]["median"]))
        if entry["reference_ms"]:
            place = (pixels, entry["reference_ms"]["median"])
            places = lines.setdefault("the published way, float32", [])
            if place not in places:  # every number type of a size states the same
                places.append(place)
    for entry in document["classical"]:
        pixels = 1e-6 * entry["width"] * entry["height"]
        lines.setdefault(f"OpenCV, {entry['method']}", []).append((pixels, entry["whole_ms"]["median"]))

    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axis = figure.subplots()
    for name, places in lines.items():
        style = {"linewidth": 2.5} if name.startswith("dkn_ros") else {"linewidth": 1.2, "linestyle": "--"}
        axis.plot(*zip(*places, strict=True), marker="o", label=name, **style)
    sizes = {_size(entry): 1e-6 * entry["width"] * entry["height"] for entry in results}
    axis.axhline(1000 / 30, color="grey", linewidth=0.8, label="30 frames a second")
    axis.set(xscale="log", yscale="log", xlabel="colour image", ylabel="median time of a frame, ms")
    axis.set_xticks(list(sizes.values()), labels=list(sizes))
    axis.minorticks_off()
    facts = document["machine"]
    axis.set_title(f"{facts['gpu'] or facts['cpu']}, {_number_of(facts['threads'], 'thread')}", fontsize=11)
    axis.grid(True, linewidth=0.3)
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(path, dpi=110)
