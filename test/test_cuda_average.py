"""The Triton kernel against kernels and average one after the other: on a GPU, or without one in Triton's interpreter.

The interpreter runs the kernel's own source on the CPU, one program at a time; what it cannot show, that the compiler
takes it, the last test does, which needs no GPU either.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeModel
from numpy.typing import NDArray
from test_fused import OPTIONS, finishes, random_heads, some_image
from torch import Tensor

from dkn_ros.benchmark.average import kernel
from dkn_ros.config import PipelineConfig
from dkn_ros.engine import NUMBA, PYTORCH, TRITON, Engine, TritonError, Way
from dkn_ros.fallback import Ladder
from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import Heads, sampling_grid
from dkn_ros.pipeline import Pipeline
from dkn_ros.sampling import WINDOW
from dkn_ros.weights import save_weights

pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch's CUDA builds for Linux")

MODULE = "dkn_ros.sampling.cuda"
ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module", autouse=True)
def cuda() -> Iterator[Any]:
    """`dkn_ros.sampling.cuda`, made for the interpreter where there is no GPU: that is settled when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, MODULE, raising=False)
        patch.delattr(MODULE, raising=False)
        yield importlib.import_module(MODULE)
        sys.modules.pop(MODULE, None)
        vars(sys.modules["dkn_ros.sampling"]).pop("cuda", None)


def filtered(cuda: Any, model: FDKN, image: Tensor, guidance: Heads | None, heads: Heads, **settings: Any) -> Tensor:
    """What the kernel makes of heads of a batch of one and of an HxW image."""
    base, scale = sampling_grid(model.options)
    given = [None if pair is None else tuple(t[0].to(DEVICE) for t in pair) for pair in (guidance, heads)]
    out = torch.full(image.shape, 7.0, device=DEVICE)
    cuda.average_of_heads(
        image.to(DEVICE), *given, model.options.residual, base.to(DEVICE), scale, out, **settings
    )  # fmt: skip
    return out.cpu()


def steps(model: FDKN, image: Tensor, guidance: Heads | None, heads: Heads) -> Tensor:
    """The same by the definition, of the same numbers in float32; `image` of whole blocks."""
    wide = None if guidance is None else (guidance[0].float(), guidance[1].float())
    with torch.inference_mode():
        return model.average(image[None, None], *model.kernels(wide, (heads[0].float(), heads[1].float())))[0, 0]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 9)], ids=str)
def test_the_kernel_gives_what_the_steps_give(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], size: tuple[int, int], kind: torch.dtype
) -> None:
    model, image = make_model(**options), torch.rand(4 * size[0], 4 * size[1])
    first, second = (tuple(t.to(kind) for t in random_heads(model, *size, seed=i)) for i in range(2))
    guidance: Any = first if model.options.guided else None
    found, wanted = filtered(cuda, model, image, guidance, second), steps(model, image, guidance, second)  # type: ignore[arg-type]
    assert (wanted - image).abs().max() > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"residual": False}, {"guided": False}], ids=str)
def test_weights_may_come_before_the_sigmoid(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], kind: torch.dtype
) -> None:
    model, image = make_model(**options), torch.rand(12, 20)
    before, after = [], []
    for seed in range(2):
        weight, offset = random_heads(model, 3, 5, seed=seed)
        logits = (12 * weight - 6).to(kind)
        logits[0, :5, 0, 0] = torch.tensor([-100.0, 100.0, -float("inf"), float("inf"), 0.0])
        before.append((logits, offset.to(kind)))
        after.append((torch.sigmoid(logits.float()), offset.to(kind).float()))
    if not model.options.guided:
        before[0] = after[0] = None  # type: ignore[call-overload]
    found = filtered(cuda, model, image, *before, logits=True)
    torch.testing.assert_close(found, steps(model, image, *after), rtol=0, atol=1e-5)
    without = filtered(cuda, model, image, *before)
    assert not (found - without).abs().max() < 0.05  # infinity less its mean is NaN


@pytest.mark.parametrize("reach", [0.0, 7.0, 40.0, 1e9])
def test_samples_beyond_window_and_image_count_as_zero(cuda: Any, make_model: MakeModel, reach: float) -> None:
    model, image = make_model(), torch.rand(24, 32)
    heads = random_heads(model, 6, 8, reach=reach)
    guidance = torch.rand_like(heads[0]), torch.ones_like(heads[1])
    found = filtered(cuda, model, image, guidance, heads)
    torch.testing.assert_close(found, steps(model, image, guidance, heads), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edge", [-WINDOW // 2 - 1, -(WINDOW // 2), WINDOW // 2, WINDOW // 2 + 1])
@pytest.mark.parametrize("beside", [-0.25, 0.0, 0.25])
def test_samples_around_the_windows_edge(cuda: Any, make_model: MakeModel, edge: int, beside: float) -> None:
    model, image = make_model(guided=False), torch.rand(24, 32)
    weight, offset = random_heads(model, 6, 8)
    heads = weight, torch.full_like(offset, edge + beside)
    found = filtered(cuda, model, image, None, heads)
    torch.testing.assert_close(found, steps(model, image, None, heads), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_wild_offset_reads_nothing_and_spoils_no_neighbour(
    cuda: Any, make_model: MakeModel, bad: float, kind: torch.dtype
) -> None:
    model, image = make_model(guided=False), torch.rand(12, 20)
    weight, offset = (t.to(kind) for t in random_heads(model, 3, 5))
    wild = offset.clone(memory_format=torch.channels_last)
    wild[0, 32:48, 1, 2] = bad  # one coordinate of one sample of a whole block
    plain, spoiled = (filtered(cuda, model, image, None, (weight, o)) for o in (offset, wild))
    assert torch.isfinite(spoiled).all()
    same = plain == spoiled
    same[4:8, 8:12] = True
    assert same.all() and not torch.equal(plain, spoiled)


def numba(model: FDKN, image: NDArray[np.float32], guidance: Heads, heads: Heads, **settings: Any) -> Tensor:
    from dkn_ros.sampling.fused import average_of_heads

    base, scale = sampling_grid(model.options)
    out = np.empty_like(image)
    first, second = ((pair[0][0], pair[1][0]) for pair in (guidance, heads))
    average_of_heads(image, first, second, model.options.residual, base.numpy(), scale, out, **settings)
    return torch.from_numpy(out)


@pytest.mark.parametrize("finish", finishes(), ids=lambda f: f"{f.strength} {f.low} {f.high} {f.clipped} {f.reach}")
def test_an_odd_size_and_a_finish_are_those_of_the_cpu(cuda: Any, make_model: MakeModel, finish: Any) -> None:
    model, image = make_model(), some_image()
    pairs = random_heads(model, 6, 7), random_heads(model, 6, 7, seed=1)
    distance = None if finish.distance is None else torch.from_numpy(finish.distance).to(DEVICE)
    found = filtered(cuda, model, torch.from_numpy(image), *pairs, finish=finish, distance=distance)
    wanted = numba(model, image, *pairs, finish=finish)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-6, equal_nan=True)


def test_any_layout_is_read(cuda: Any, make_model: MakeModel) -> None:
    model, image = make_model(), torch.rand(12, 20)
    guidance, heads = random_heads(model, 3, 5), random_heads(model, 3, 5, seed=1)
    first = filtered(cuda, model, image, guidance, heads)
    planes = [tuple(t.contiguous() for t in pair) for pair in (guidance, heads)]
    assert not planes[0][0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, filtered(cuda, model, image, *planes))  # type: ignore[arg-type]


# --- in the engine and in the pipeline ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"guided": False}, {"residual": False}], ids=str)
def test_an_engine_tries_the_kernel_before_it_trusts_it(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, way = make_model(**options), Way(DEVICE, TRITON)
    Engine(model, way, "float32")
    honest = cuda.average_of_heads

    def wrong(*given: Any, **settings: Any) -> None:
        honest(*given, **settings)
        given[6].add_(0.01)

    monkeypatch.setattr(cuda, "average_of_heads", wrong)
    with pytest.raises(TritonError, match=r"its result on a trial is off by 0\.01"):
        Engine(model, way, "float32")


@pytest.mark.parametrize("options", [{}, {"guided": False}], ids=str)
def test_what_the_benchmark_times_is_the_kernel_of_the_engine(make_model: MakeModel, options: dict[str, Any]) -> None:
    model = make_model(**options)
    engine = Engine(model, Way(DEVICE, TRITON), "float32")
    image = torch.rand(1, 1, 12, 20).to(DEVICE)
    first, second = (tuple(t.to(DEVICE) for t in random_heads(model, 3, 5, seed=i)) for i in range(2))
    guidance: Any = first if model.options.guided else None
    wanted = engine.filter(image, guidance, second)  # type: ignore[arg-type]
    assert torch.equal(kernel(engine, image, guidance, second)(), wanted)  # type: ignore[arg-type]
    assert (wanted - image).abs().max() > 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pipeline_with_the_kernel_gives_what_the_others_give(
    make_model: MakeModel, tmp_path: Path, precision: str
) -> None:
    """Without holes; in them a device takes other pixels for the nearest than OpenCV, see `gpu.holes`."""
    options = {"n1": 8, "n2": 8, "validity": True}
    save_weights(make_model(validity=True), tmp_path / "w.safetensors", model="fdkn", options=options)
    pipeline = Pipeline(PipelineConfig(weights=str(tmp_path / "w.safetensors"), device="cpu", precision=precision))
    chance = np.random.default_rng(0)
    rgb = chance.integers(0, 256, (30, 45, 3), np.uint8)
    depth = chance.uniform(1, 3, (15, 20)).astype(np.float32)
    holey = depth.copy()
    holey[4:9, 3:8] = np.nan
    cpu, filled = pipeline.enhance(rgb, depth).depth, []
    for average in (TRITON, PYTORCH):
        way = Way(DEVICE, average)
        pipeline._ladder = Ladder(
            [way], lambda way, asked: Engine(pipeline.model, way, asked), pipeline.config.precision
        )
        assert pipeline.path == f"{DEVICE} with {average}" and pipeline.notes == ()
        result = pipeline.enhance(rgb, depth).depth
        # Plain operations take sigmoids and products in bfloat16, which the others widen first.
        exact = precision == "float32" or (average == TRITON and DEVICE.type == "cpu")
        np.testing.assert_allclose(result, cpu, rtol=0, atol=2e-5 if exact else 0.05)
        filled.append(pipeline.enhance(rgb, holey).depth)
    np.testing.assert_allclose(filled[0], filled[1], rtol=0, atol=2e-5 if precision == "float32" else 0.05)
    assert NUMBA not in pipeline.path


# --- the compiler ---------------------------------------------------------------------------------------------------

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dkn_ros.sampling.cuda import BLOCKS, WARPS, _average

capability, size, heads = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fixed = {"COUNT": size * size, "SIZE": size, "GUIDED": True, "LOGITS": True, "RESIDUAL": True, "BOUNDED": True,
         "KEEP": False, "RADIUS": 7, "STRIDE": 4, "BLOCKS": BLOCKS}
numbers = {"height": "i32", "width": "i32", "rows": "i32", "columns": "i32", "scale": "fp32"}
of_heads = dict.fromkeys(("gw", "go", "tw", "to"), heads)
signature = {n: (numbers | of_heads).get(n, "constexpr" if n in fixed else "*fp32") for n in _average.arg_names}
values = {(_average.arg_names.index(n),): value for n, value in fixed.items()}
made = triton.compile(ASTSource(_average, signature, values), GPUTarget("cuda", capability, 32), {"num_warps": WARPS})
print(len(made.asm["cubin"]), "bytes,", made.metadata.shared, "shared")
"""


@pytest.mark.parametrize(
    ("capability", "size", "heads"),
    [(75, 3, "*fp16"), (80, 3, "*bf16"), (87, 3, "*bf16"), (90, 3, "*bf16"), (90, 7, "*fp32"), (120, 5, "*bf16")],
)
def test_the_kernel_compiles_for_gpus_that_are_not_here(capability: int, size: int, heads: str, tmp_path: Path) -> None:
    """From Turing to Blackwell.  No shared memory: values stay with the thread that read them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability), str(size), heads],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] != "0" and done.stdout.strip().endswith(" 0 shared")
