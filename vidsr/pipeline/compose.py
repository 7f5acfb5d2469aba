"""Stages one after the other: the frames of the last one, and the seconds that each of them works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vidsr.runtime.profiling import StageClock
from vidsr.stages.base import Stage, through
from vidsr.types import Frame


def compose(frames: Iterable[Frame], stages: Sequence[Stage], clock: StageClock) -> Iterator[Frame]:
    """The frames after all stages; the clock has an entry for each from now on. Works as frames are taken."""
    iterator = iter(frames)
    for stage in stages:
        clock.begin(stage.name)
        iterator = through(_Timed(stage, clock), iterator)
    return iterator


@dataclass(frozen=True, slots=True)
class _Timed:
    """A stage whose own seconds are counted, not those of the stages before and behind it."""

    stage: Stage
    clock: StageClock

    @property
    def name(self) -> str:
        return self.stage.name

    def start(self) -> Any:
        with self.clock.counting(self.name):
            return self.stage.start()

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        with self.clock.counting(self.name):
            return self.stage.step(frame, state)

    def flush(self, state: Any) -> list[Frame]:
        with self.clock.counting(self.name):
            return self.stage.flush(state)
