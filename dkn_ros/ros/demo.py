"""The demo: a simulated camera, the node and this process, a probe, as three processes over DDS."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from dkn_ros import figures, figures_points
from dkn_ros.config import DemoConfig
from dkn_ros.evaluation import bicubic
from dkn_ros.images import frame_pairs
from dkn_ros.ros.launch_description import CAMERA_OUTPUTS, INPUTS, transport_environment
from dkn_ros.synthetic.source import SYNTHETIC
from dkn_ros.weights import find_weights

START_SECONDS = 180.0
"""Longest wait for the first frame: the first start ever compiles for a while."""
SETTLE_SECONDS = 2.5
"""After the last frame, so that what is under way and the node's last count arrive."""
ENOUGH = 0.95
"""Share of the frames published that must arrive."""


class DemoError(RuntimeError):
    """The demo could not run; the message says why."""


def run(config: DemoConfig, output: Path) -> dict[str, Any]:
    """Run the demo, write summary.json and three pictures to `output`, return the summary.

    Raises DemoError without ROS, if a process ended early, or if nothing arrived; WeightsError for weights and
    ImageFileError for a source that are not there.
    """
    find_weights(config.weights)  # before the processes start, not after it
    if config.source != SYNTHETIC:
        frame_pairs(Path(config.source).expanduser())
    output.mkdir(parents=True, exist_ok=True)
    _environment()
    try:
        import rclpy  # after the environment is set, which Fast DDS reads when it is loaded

        from dkn_ros.ros.probe import Probe
    except ImportError as error:
        raise DemoError(f"the demo needs ROS 2 ({error}); `make demo` brings it") from error

    count = max(1, round(config.rate * config.seconds))
    parameters = {
        "dkn_node": {
            "weights": config.weights,
            "device": config.device,
            "precision": config.precision,
            "warm_up_factor": config.factor,
            "early_guidance": config.early_guidance,
            "frames_at_once": config.frames_at_once,
        },
        "sim_camera": {
            "source": config.source,
            "factor": config.factor,
            "method": config.method,
            "rate": config.rate,
            "depth_delay": config.depth_delay,
            "count": count,
            "wait": True,
        },
    }
    with ExitStack() as stack:
        rclpy.init(args=[])
        stack.callback(rclpy.try_shutdown)
        probe = Probe()
        stack.callback(probe.destroy_node)
        folder = stack.enter_context(TemporaryDirectory(prefix="dkn_demo_"))
        _watch(
            probe, lambda name: stack.enter_context(_child(name, parameters[name], Path(folder), output)), count, output
        )
    summary = _summary(probe, config)
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _pictures(probe, output, config)
    return summary


def verdict(summary: dict[str, Any]) -> list[str]:
    """What is wrong with a run, in sentences; an empty list if it was good."""
    wrong = []
    accepted, received = summary["accepted"], summary["received"]
    if accepted == 0 or received < ENOUGH * accepted:
        wrong.append(f"{received} of {accepted} accepted pairs arrived; wanted: at least {ENOUGH:.0%}")
    before, after = summary["rmse_m"]["bicubic"], summary["rmse_m"]["output"]
    if before is None or after is None:
        wrong.append("no output could be compared with the truth; run longer with --seconds")
    elif not after < before:
        wrong.append(f"the output's RMSE of {after:.4f} m does not beat bicubic's {before:.4f} m")
    return wrong


def table(summary: dict[str, Any]) -> str:
    """The summary for people."""
    latency, errors = summary["latency_ms"], summary["rmse_m"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items() if count) or "none"
    rows = [
        ("frames", f"{summary['sent']} sent, {summary['pairs']} paired, {summary['published']} published, "
                   f"{summary['received']} received"),
        ("dropped", dropped),
        ("rate", f"{summary['rate_hz']:.1f} Hz"),
        ("latency", " / ".join(f"{latency[p]:.0f}" for p in ("p50", "p95", "p99")) + " ms (p50 / p95 / p99)"
                    f"{_head_start(summary)}"),
        ("stages", ", ".join(f"{name} {ms:.1f}" for name, ms in summary["stages_ms"].items()) + " ms (p50)"),
        ("device", f"{summary['device']}, {summary['precision']}, weights {summary['weights']}"),
    ]  # fmt: skip
    if errors["output"] is not None:
        gain = 1 - errors["output"] / errors["bicubic"]
        change = f"{abs(gain):.0%} {'less' if gain > 0 else 'more'}"
        rows.append(("RMSE", f"bicubic {100 * errors['bicubic']:.2f} cm, output {100 * errors['output']:.2f} cm "
                             f"({change}, {summary['compared']} frames)"))  # fmt: skip
    return "\n".join(f"{name:<9}{text}" for name, text in rows)


def _head_start(summary: dict[str, Any]) -> str:
    """What of the latency is the camera's, and how many frames the node made use of it for."""
    if not summary["depth_delay_ms"]:
        return ""
    early, published = summary["early_guidance"], summary["published"]
    return f", {summary['depth_delay_ms']:.0f} of them from colour to depth; {early} of {published} frames begun there"


def _environment() -> None:
    """Stay on this machine, away from other graphs, with a transport that carries large images."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # A domain of its own, unless the user chose one; from the process id, so that two demos do not meet.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.update(transport_environment(os.environ))


@contextmanager
def _child(name: str, parameters: dict[str, Any], folder: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of the package's nodes as a process that logs to `output` and is stopped at the end."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({name: {"ros__parameters": parameters}}), encoding="utf-8")
    command = [sys.executable, "-m", f"dkn_ros.ros.{_MODULES[name]}", "--ros-args", "--params-file", str(file)]
    if name == "dkn_node":  # the camera's relative topics are the probe's; the node's inputs are led there
        for argument, topic in INPUTS.items():
            command += ["-r", f"{topic}:={CAMERA_OUTPUTS[argument]}"]
    with open(output / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            _stop(process)


_MODULES = {"dkn_node": "node", "sim_camera": "sim_camera"}


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue


def _ended(name: str, status: int, output: Path) -> DemoError:
    """What a process said last is most often why it ended."""
    log = output / f"{name}.log"
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return DemoError(f"{name} ended with status {status}: {said[-1] if said else 'it said nothing'}; all of it: {log}")


def _watch(probe: Any, start: Callable[[str], subprocess.Popen[bytes]], count: int, output: Path) -> None:
    """Start both processes; spin the probe until the camera has sent its frames and what is under way has arrived."""
    import rclpy

    node, camera = start("dkn_node"), None
    started = time.monotonic()
    ended: float | None = None
    with tqdm(total=count, unit="frame", desc="starting") as bar:
        while ended is None or time.monotonic() - ended < SETTLE_SECONDS:
            rclpy.spin_once(probe, timeout_sec=0.1)
            bar.n = probe.sent
            if probe.received:
                bar.set_description("upsampling", refresh=False)
                bar.set_postfix_str(f"{len(probe.received)} received, {probe.received[-1][1]:.0f} ms", refresh=False)
            bar.update(0)
            if node.poll() is not None:
                raise _ended("dkn_node", node.returncode, output)
            if camera is None and probe.node_status:  # the node is heard, so nothing that it publishes will be missed
                camera = start("sim_camera")
            if camera and ended is None and (probe.sent >= count or camera.poll() is not None):
                ended = time.monotonic()
            if not probe.received and time.monotonic() - started > START_SECONDS:
                raise DemoError(f"nothing arrived in {START_SECONDS:.0f} s; see dkn_node.log and sim_camera.log")
    if camera and camera.poll() not in (None, 0):
        raise _ended("sim_camera", camera.returncode, output)
    if not probe.received:
        raise DemoError(f"nothing arrived; the node says {probe.node_message or 'nothing'}")


def _summary(probe: Any, config: DemoConfig) -> dict[str, Any]:
    times, latencies = np.array(probe.received).T
    span = float(times[-1] - times[0])
    p50, p95, p99 = (round(float(v), 2) for v in np.percentile(latencies, (50, 95, 99)))
    dropped = probe.dropped()
    pairs = probe.count("pairs")
    before, after = (round(e, 5) if math.isfinite(e) else None for e in probe.errors())
    whole = ("total", "latency", "pair_difference")
    return {
        "source": config.source,
        "factor": config.factor,
        "method": config.method,
        "sent": probe.sent,
        "pairs": pairs,
        "accepted": pairs - sum(n for reason, n in dropped.items() if "without" not in reason),
        "published": probe.count("published"),
        "received": len(probe.received),
        "dropped": dropped,
        "rate_hz": round((len(times) - 1) / span, 2) if span > 0 else 0.0,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "depth_delay_ms": 1e3 * config.depth_delay,
        "early_guidance": len(probe.stages.get("early", ())),
        "stages_ms": {n: round(float(np.median(ms)), 2) for n, ms in probe.stages.items() if n not in whole},
        "rmse_m": {"bicubic": before, "output": after},
        "compared": len(probe.compared),
        "device": probe.node_status.get("device", ""),
        "precision": probe.node_status.get("precision", ""),
        "weights": probe.node_status.get("weights", ""),
    }


def _pictures(probe: Any, output: Path, config: DemoConfig) -> None:
    figures.latency(probe.received, output / "latency.png")
    shown = [c for c in probe.compared if c.rgb is not None] or probe.compared
    if shown:
        c = shown[0]
        height, width = c.truth.shape
        baseline = bicubic(c.low, width, height)
        figures.before_after(c.rgb, c.low, baseline, c.output, c.truth, output / "before_after.png", config.factor)
        if c.rgb is not None and probe.focal_length is not None:
            figures_points.before_after_points(c.rgb, c.low, c.output, probe.focal_length, output / "points.png")
