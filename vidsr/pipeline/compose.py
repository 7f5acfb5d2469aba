"""Chains stages and measures how long each of them is busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vidsr.runtime.profiling import StageClock
from vidsr.stages.base import Item, Keeper, Stage, chain
from vidsr.types import Frame


def compose(
    frames: Iterable[Item], stages: Sequence[Stage], clock: StageClock, saved: Sequence[Any] = ()
) -> Iterator[Item]:
    """Lazily passes frames through all stages; adds an entry for each stage to the clock.

    The stages begin with the states in `saved`, if any.
    """
    for stage in stages:
        clock.begin(stage.name)
    return chain([_Timed(stage, clock) for stage in stages], frames, saved)


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

    def save(self, state: Any) -> Any:
        return self.stage.save(state) if isinstance(self.stage, Keeper) else state

    def restore(self, saved: Any) -> Any:
        return self.stage.restore(saved) if isinstance(self.stage, Keeper) else saved
