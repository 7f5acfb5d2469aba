"""Chains stages and measures how long each of them is busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vidsr.runtime.profiling import StageClock
from vidsr.stages.base import Stage, chain
from vidsr.types import Frame


def compose(frames: Iterable[Frame], stages: Sequence[Stage], clock: StageClock) -> Iterator[Frame]:
    """Lazily passes frames through all stages; adds an entry for each stage to the clock."""
    for stage in stages:
        clock.begin(stage.name)
    return chain([_Timed(stage, clock) for stage in stages], frames)


@dataclass(frozen=True, slots=True)
class _Timed:
    """A stage with its own time counted, without that of the stages before and after it."""

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
