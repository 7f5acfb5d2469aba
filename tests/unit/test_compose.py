"""Composed stages: frames stay in order, one at a time, none is kept, and each stage's time is counted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vidsr.pipeline.compose import compose
from vidsr.runtime.profiling import StageClock
from vidsr.stages.base import chain
from vidsr.types import Frame


def frames(count: int) -> Iterator[Frame]:
    for index in range(count):
        yield Frame(torch.full((3, 2, 2), float(index)), index, Fraction(1, 25))


class Delay:
    """Holds back `lag` frames, which are its state; `work` is called at every step and at the end."""

    def __init__(self, name: str, lag: int = 0, work: Callable[[], None] = lambda: None) -> None:
        self.name, self._lag, self._work = name, lag, work

    def start(self) -> tuple[Frame, ...]:
        return ()

    def step(self, frame: Frame, state: tuple[Frame, ...]) -> tuple[list[Frame], tuple[Frame, ...]]:
        self._work()
        held = (*state, frame)
        ready = list(held[: len(held) - self._lag])
        return ready, held[len(ready) :]

    def flush(self, state: tuple[Frame, ...]) -> list[Frame]:
        self._work()
        return list(state)


@pytest.mark.parametrize("lags", [(), (0,), (3,), (1, 0, 4)])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_every_frame_comes_out_once_and_in_order(lags: tuple[int, ...], count: int) -> None:
    stages = [Delay(str(number), lag) for number, lag in enumerate(lags)]
    for result in (chain(stages, frames(count)), compose(frames(count), stages, StageClock({}))):
        assert [frame.pts for frame in result] == list(range(count))


def test_a_frame_leaves_before_the_next_is_taken_and_none_is_kept() -> None:
    images: list[weakref.ref[Tensor]] = []

    def watched() -> Iterator[Frame]:
        for frame in frames(8):
            images.append(weakref.ref(frame.image))
            yield frame

    for number, frame in enumerate(compose(watched(), [Delay("a"), Delay("b")], StageClock({}))):
        assert len(images) == number + 1 and frame.pts == number
        del frame
        # the newest frame is still referenced by the loops that passed it on
        assert sum(image() is not None for image in images) <= 1


def test_each_stage_has_its_own_seconds_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def work(seconds: int) -> None:
        nonlocal now
        now += seconds

    def source() -> Iterator[Frame]:
        for frame in frames(5):
            work(100)
            yield frame

    monkeypatch.setattr("vidsr.runtime.profiling.time", SimpleNamespace(monotonic=lambda: now))
    seconds: dict[str, float] = {}
    clock = StageClock(seconds, ["decode", "slow", "quick", "encode"])
    stages = [Delay("slow", work=lambda: work(10)), Delay("quick"), Delay("late", 1, work=lambda: work(1))]
    for _ in compose(clock.timed("decode", source()), stages, clock):
        work(1000)  # what the consumer takes belongs to nobody here
    assert list(seconds) == ["decode", "slow", "quick", "encode", "late"]
    assert seconds == {"decode": 500, "slow": 60, "quick": 0, "encode": 0, "late": 6}


def test_an_error_of_a_stage_ends_the_source() -> None:
    closed = []

    def source() -> Iterator[Frame]:
        try:
            yield from frames(5)
        finally:
            closed.append(True)

    class Broken(Delay):
        def step(self, frame: Frame, state: tuple[Frame, ...]) -> tuple[list[Frame], tuple[Frame, ...]]:
            raise ValueError("a defect")

    result = compose(source(), [Delay("a"), Broken("b")], StageClock({}))
    with pytest.raises(ValueError, match="a defect"):
        next(result)
    assert closed == [True]


def test_closing_early_ends_the_source() -> None:
    closed = []

    def source() -> Iterator[Frame]:
        try:
            yield from frames(5)
        finally:
            closed.append(True)

    result = compose(source(), [Delay("a", 1), Delay("b")], StageClock({}))
    next(result)
    result.close()  # type: ignore[attr-defined]  # a generator
    assert closed == [True]
