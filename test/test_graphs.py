"""Captured work: the cache, refusals, and the discipline of tensors that stay, on a tape that keeps a graph's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tape import Tape, TapeRecorder
from torch import Tensor

from dkn_ros.engine import TritonError
from dkn_ros.gpu.graphs import Captured, CudaRecorder, GraphCache, Recorder

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["tape", pytest.param("graph", marks=needs_gpu)])
def recorder(request: pytest.FixtureRequest) -> Recorder:
    return TapeRecorder() if request.param == "tape" else CudaRecorder(torch.device("cuda"))


def device_of(recorder: Recorder) -> torch.device:
    return torch.device("cuda" if isinstance(recorder, CudaRecorder) else "cpu")


def no_refusal(text: str) -> None:
    raise AssertionError(text)


# --- what a capture does ---------------------------------------------------------------------------------------------


def chain(image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Views, operations in place, reductions and a convolution."""
    padded = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="replicate")
    smooth = torch.nn.functional.conv2d(padded, torch.full((1, 1, 3, 3), 1 / 9, device=image.device))[0, 0]
    smooth[:, ::2].mul_(number)
    low = smooth.amin()
    return torch.where(smooth > low + 0.5, smooth.new_full((), float("nan")), smooth).contiguous(), low


def test_a_capture_gives_what_the_work_gives_for_every_content(recorder: Recorder) -> None:
    device, rng = device_of(recorder), np.random.default_rng(0)
    with torch.inference_mode():
        image, number = torch.zeros(7, 9, device=device), torch.zeros((), device=device)
        work = Captured(lambda: chain(image, number), recorder, no_refusal)
        places = set()
        for _ in range(5):
            image.copy_(torch.from_numpy(rng.random((7, 9), np.float32)))
            number.fill_(rng.random())
            work()
            for found, wanted in zip(work.result, chain(image, number), strict=True):
                np.testing.assert_array_equal(found.cpu(), wanted.cpu())
            places.add(tuple(tensor.data_ptr() for tensor in work.result))
    assert work.captured and len(places) == 1


def test_numbers_of_python_stay_what_they_were_at_the_capture(recorder: Recorder) -> None:
    """Why settings go to the device in a tensor; and it shows that the tape has a graph's rules."""
    settings = {"strength": 1.0}
    with torch.inference_mode():
        image, strength = (torch.ones(3, device=device_of(recorder)) for _ in range(2))
        wrong = Captured(lambda: image * settings["strength"], recorder, no_refusal)
        right = Captured(lambda: image * strength, recorder, no_refusal)
        for value in (1.0, 2.0):
            settings["strength"] = value
            strength.fill_(value)
            wrong()
            right()
    assert wrong.result.tolist() == [1, 1, 1] and right.result.tolist() == [2, 2, 2]


def test_a_chain_of_captures_reads_what_the_one_before_wrote(recorder: Recorder) -> None:
    with torch.inference_mode():
        image = torch.zeros(3, device=device_of(recorder))
        first = Captured(lambda: image + 1, recorder, no_refusal)
        second = Captured(lambda: first.result * 2, recorder, no_refusal, after=[first])
        for value in (1, 2, 3):
            image.fill_(value)
            first()
            second()
            assert second.result.tolist() == [2 * (value + 1)] * 3


# --- refusal ---------------------------------------------------------------------------------------------------------


def test_a_refused_capture_is_one_note_and_the_work_is_done_all_the_same(recorder: Recorder) -> None:
    said: list[str] = []
    with torch.inference_mode():
        image = torch.zeros(3, device=device_of(recorder))
        # The host asks for a number: not while a graph is captured.
        first = Captured(lambda: image + float(image.sum().item()), recorder, said.append)
        second = Captured(lambda: first.result * 2, recorder, said.append, after=[first])
        for value in (1, 2, 3):
            image.fill_(value)
            first()
            second()
            assert second.result.tolist() == [8 * value] * 3
    assert not first.captured and not second.captured
    assert len(said) == 1 and "captur" in said[0] and "\n" not in said[0]


class Fails:
    """A recorder that refuses; or the work itself is at fault."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def record(self, work: Callable[[], Any]) -> Any:
        raise self.error


def test_the_first_of_several_errors_is_told() -> None:
    said: list[str] = []
    try:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nadvice")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        work = Captured(lambda: 1, Fails(error), said.append)
    work()
    assert said == ["operation not permitted when stream is capturing"] and work.result == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), TritonError("no kernel")], ids=str)
def test_what_fails_without_a_capture_too_is_no_refusal(error: RuntimeError) -> None:
    """It is for the ladder of `fallback`."""

    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        Captured(work, Fails(error), no_refusal)()


def test_memory_that_is_short_is_no_refusal_and_the_next_time_is_captured(recorder: Recorder) -> None:
    """Whatever the end of the capture that failed raises after it."""
    room: list[bool] = []

    class Short:
        def record(self, work: Callable[[], Any]) -> Any:
            if room:
                return recorder.record(work)
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    with torch.inference_mode():
        image = torch.ones(3, device=device_of(recorder))
        work = Captured(lambda: image + 1, Short(), no_refusal)
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            work()
        room.append(True)
        work()
        assert work.captured and work.result.tolist() == [2] * 3


def test_other_errors_are_raised() -> None:
    with pytest.raises(TypeError, match="ours"):
        Captured(lambda: 1, Fails(TypeError("ours")), no_refusal)()


def test_without_a_recorder_the_work_is_done_as_it_is() -> None:
    values = iter((1, 2))
    work = Captured(lambda: next(values), None, no_refusal)
    work()
    work()
    assert work.result == 2 and not work.captured


@needs_gpu
def test_after_a_refusal_the_stream_is_the_one_it_was_and_captures_still_work() -> None:
    device = torch.device("cuda")
    recorder, stream = CudaRecorder(device), torch.cuda.Stream(device)
    with torch.cuda.stream(stream), torch.inference_mode():
        image = torch.ones(3, device=device)
        refused: list[str] = []
        Captured(lambda: image + float(image.sum().item()), recorder, refused.append)()
        assert refused and torch.cuda.current_stream() == stream
        work = Captured(lambda: image * 2, recorder, no_refusal)
        work()
        assert work.result.tolist() == [2, 2, 2]


@needs_gpu
def test_replays_allocate_nothing() -> None:
    device = torch.device("cuda")
    with torch.inference_mode():
        image, number = torch.rand(64, 64, device=device), torch.ones((), device=device)
        work = Captured(lambda: chain(image, number), CudaRecorder(device), no_refusal)
        work()
        before = torch.cuda.memory_stats(device)["allocation.all.allocated"]
        for _ in range(5):
            work()
        assert torch.cuda.memory_stats(device)["allocation.all.allocated"] == before


def test_the_tape_is_a_tape() -> None:
    """A replay runs no Python and no other tensors than the first time."""
    calls: list[int] = []
    with torch.inference_mode():
        image = torch.zeros(3)

        def work() -> Tensor:
            calls.append(1)
            return image + 1

        tape = Tape()
        with tape:
            result = work()
        image.fill_(1)
        tape.replay()
    assert result.tolist() == [2, 2, 2] and len(calls) == 1 and len(tape.operations) == 1


# --- the cache -------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_what_was_used_last() -> None:
    left: list[str] = []
    cache: GraphCache[int, str] = GraphCache(2, left.append)

    def get(key: int, keep: tuple[int, ...] = ()) -> str:
        return cache.get(key, lambda: f"{key}", keep)

    assert [get(1), get(2), get(1), get(3)] == ["1", "2", "1", "3"] and left == ["2"]
    get(2, keep=(1,))
    assert left == ["2", "3"] and len(cache) == 2
    with pytest.raises(ValueError, match="all 2 kinds of frames are in use"):
        get(4, keep=(1, 2))
    assert get(1, keep=(1, 2)) == "1"
    cache.clear()
    assert left == ["2", "3", "2", "1"] and len(cache) == 0


def test_a_value_that_cannot_be_made_takes_no_room() -> None:
    cache: GraphCache[int, str] = GraphCache(2, lambda value: None)

    def fail() -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        cache.get(1, fail)
    assert len(cache) == 0 and cache.get(1, lambda: "1") == "1"
