"""Which processor: what is asked for is what is used, or an error."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import MakeModel

from dkn_ros.benchmark.published import Published
from dkn_ros.config import PipelineConfig, TrainingConfig
from dkn_ros.device import (
    available_cores,
    bfloat16_gain,
    exact_float32,
    half_gains_of,
    heads_kind,
    memory_in_use,
    process_memory,
    resolve_device,
    resolve_precision,
    resolve_threads,
)
from dkn_ros.engine import PYTORCH, Engine, Way
from dkn_ros.pipeline import Pipeline
from dkn_ros.ranks import Ranks
from dkn_ros.training import Trainer


@pytest.mark.parametrize(
    ("requested", "cuda_available", "device"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
        ("cuda:0", True, "cuda:0"),
        ("cuda:3", True, "cuda:3"),
    ],
)
def test_device(requested: str, cuda_available: bool, device: str) -> None:
    assert resolve_device(requested, cuda_available) == torch.device(device)


@pytest.mark.parametrize("requested", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error_and_not_the_cpu(requested: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{requested}' but PyTorch finds no CUDA device"):
        resolve_device(requested, False)


@pytest.mark.parametrize("requested", ["", "gpu", "CUDA", "cpu:0", "cpu:", "cuda:", "cuda:x", "cuda:-1", "cuda:²"])
@pytest.mark.parametrize("cuda_available", [True, False])
def test_refuses_names_of_no_device(requested: str, cuda_available: bool) -> None:
    with pytest.raises(ValueError, match=f"device is '{requested}'; wanted: auto, cpu, cuda or cuda:N"):
        resolve_device(requested, cuda_available)


@pytest.mark.parametrize(("gain", "wanted"), [(2.5, torch.bfloat16), (1.1, torch.float32), (0.1, torch.float32)])
def test_precision(gain: float, wanted: torch.dtype) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_precision("auto", cpu, lambda: gain) == wanted
    for device in (cpu, cuda):
        assert resolve_precision("float32", device, _unasked) == torch.float32
        assert resolve_precision("bfloat16", device, _unasked) == torch.bfloat16
    assert resolve_precision("int8", cpu, _unasked) == torch.int8
    assert heads_kind(torch.int8, lambda: gain) == wanted
    for kind in (torch.float32, torch.bfloat16):
        assert heads_kind(kind, _unasked) == kind
    with pytest.raises(ValueError, match="precision is int8, which only the CPU serves, and device is cuda; wanted: "):
        resolve_precision("int8", cuda, _unasked)
    assert resolve_precision("float16", cuda, _unasked) == torch.float16
    with pytest.raises(
        ValueError, match="precision is float16, which only the GPU serves, and device is cpu; wanted: "
    ):
        resolve_precision("float16", cpu, _unasked)


@pytest.mark.parametrize(
    ("bfloat16", "float16", "wanted"),
    [
        (6.0, 6.5, torch.bfloat16),  # from Ampere on
        (0.0, 5.0, torch.float16),  # Turing, whose cuDNN may not know bfloat16
        (2.0, 5.0, torch.float16),
        (1.1, 1.2, torch.float32),  # Pascal
        (5.0, 0.0, torch.bfloat16),
    ],
)
def test_a_gpu_takes_the_half_type_that_it_is_fast_in(bfloat16: float, float16: float, wanted: torch.dtype) -> None:
    gains = {torch.bfloat16: bfloat16, torch.float16: float16}
    assert resolve_precision("auto", torch.device("cuda:1"), _unasked, lambda device: gains) == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU; the rule itself is tested above")
def test_the_gains_of_a_gpu_are_measured() -> None:
    gains = half_gains_of(torch.device("cuda"))
    assert set(gains) == {torch.bfloat16, torch.float16} and max(gains.values()) > 0.1


@pytest.fixture
def tf32() -> Iterator[None]:
    """PyTorch as another library may have left it."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def flags() -> set[bool]:
    return {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}


@pytest.mark.usefixtures("tf32")
def test_float32_is_float32_on_a_gpu_and_nobody_elses_settings_change_on_a_cpu() -> None:
    exact_float32(torch.device("cpu"))
    assert flags() == {True}
    exact_float32(torch.device("cuda:0"))
    assert flags() == {False}


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("user", ["engine", "training", "reference of the benchmark"])
def test_whoever_computes_on_a_gpu_turns_tf32_off_before_anything(
    user: str, make_model: MakeModel, small_weights: Path, tmp_path: Path
) -> None:
    """Without a GPU too: what then cannot go on has turned it off by then."""
    gpu = torch.device("cuda")
    with suppress(RuntimeError, AssertionError):
        if user == "engine":
            Engine(make_model(), Way(gpu, PYTORCH), "float32")
        elif user == "training":
            Trainer(TrainingConfig(options={"n1": 8, "n2": 8}, crop=48), tmp_path, Ranks(gpu))
        else:
            pipeline = Pipeline(PipelineConfig(weights=str(small_weights), device="cpu", precision="float32"))
            pipeline._ladder.engine.device = gpu
            Published(pipeline)
    assert flags() == {False}


def _unasked() -> float:
    raise AssertionError("measured where nothing depends on it")


@pytest.mark.parametrize(
    ("requested", "cores", "threads"), [(0, 1, 1), (0, 2, 2), (0, 3, 2), (0, 16, 15), (1, 16, 1), (5, 2, 5)]
)
def test_threads(requested: int, cores: int, threads: int) -> None:
    assert resolve_threads(requested, cores) == threads


def test_facts_of_this_machine_have_their_types() -> None:
    assert available_cores() >= 1
    assert 0.001 < bfloat16_gain() < 1000 and bfloat16_gain() == bfloat16_gain()


def test_memory_of_this_process(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells how much memory a process holds")
    used = memory_in_use(torch.device("cpu"))
    assert used.keys() == {"memory"}
    assert 10_000_000 < used["memory"] < 1 << 40
    # Mapped: the heap may still have as much that earlier tests have freed.
    with mmap.mmap(-1, 100_000_000) as held:
        for page in range(0, len(held), mmap.PAGESIZE):  # which is there when it has been touched
            held[page] = 1
        assert memory_in_use(torch.device("cpu"))["memory"] > used["memory"] + len(held) // 2
    assert process_memory(proc=tmp_path) is None
    (tmp_path / "status").write_text("Name:\tdkn\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    assert process_memory(proc=tmp_path) == 1_024_000
    assert process_memory("VmHWM", tmp_path) == 2_048_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing is allocated on it")
def test_memory_on_the_gpu() -> None:
    device = torch.device("cuda")
    before = memory_in_use(device)["GPU memory"]
    held = torch.ones(100_000_000, dtype=torch.uint8, device=device)
    assert memory_in_use(device)["GPU memory"] >= max(before, held.nbytes)
