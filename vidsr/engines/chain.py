"""Several engines in sequence, as one engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidsr.engines.base import Engine, EngineInfo, Estimating
from vidsr.engines.slowmo import repeat_before_cut
from vidsr.types import Frame


@dataclass(slots=True)
class ChainState:
    """The state of each engine, and whether the first frame has been received."""

    states: list[Any]
    is_started: bool = False


class ChainEngine:
    """Feeds the outputs of each engine to the next; keeps the contract if all of them do."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """`engines`: at least one, in order."""
        self._engines = tuple(engines)
        first, *others = [engine.info for engine in engines]
        scale, lookahead, interp, cell = first.scale, first.lookahead, first.interp, first.multiple_of
        overlap = max(info.overlap for info in (first, *others))
        for info in others:
            cell = math.lcm(cell, info.multiple_of // math.gcd(info.multiple_of, scale))  # in pixels of the input
            lookahead += -(-info.lookahead // interp)  # in input frames of this engine
            scale, interp = scale * info.scale, interp * info.interp
        self._info = EngineInfo(first.name, scale, lookahead, cell, first.precisions, interp, overlap)

    @property
    def info(self) -> EngineInfo:
        """The name of the first engine; scale and interp are products, look-aheads are summed, cells fit into all."""
        return self._info

    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """The levels of a whole frame that the first engine needs; the others get those that it worked with."""
        first = self._engines[0]
        return first.estimate_levels(image) if isinstance(first, Estimating) else None

    def init_state(self, height: int, width: int) -> ChainState:
        """The state of each engine."""
        states = []
        for engine in self._engines:
            states.append(engine.init_state(height, width))
            height, width = height * engine.info.scale, width * engine.info.scale
        return ChainState(states)

    def step(self, frame: Frame, state: ChainState) -> tuple[list[Frame], ChainState]:
        """Processes the next frame; returns the outputs of the last engine.

        At a cut all engines are flushed and reset. Otherwise a later engine would learn of the cut only when the first
        frame of the new scene reaches it.
        """
        ready = []
        if frame.starts_scene and state.is_started:
            *ready, last = self.flush(state)
            ready += repeat_before_cut(last, frame.pts * self._info.interp, self._info.interp)
            state = self.init_state(*frame.image.shape[-2:])
        frames = [frame]
        for index, engine in enumerate(self._engines):
            frames = self._feed(engine, frames, state.states, index)
        return ready + frames, ChainState(state.states, True)

    def flush(self, state: ChainState) -> list[Frame]:
        """Flushes the engines in order."""
        frames: list[Frame] = []
        for index, engine in enumerate(self._engines):
            frames = self._feed(engine, frames, state.states, index) + engine.flush(state.states[index])
        return frames

    @staticmethod
    def _feed(engine: Engine, frames: list[Frame], states: list[Any], index: int) -> list[Frame]:
        results = []
        for frame in frames:
            ready, states[index] = engine.step(frame, states[index])
            results += ready
        return results
