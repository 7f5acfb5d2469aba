"""Engines one behind the other as one engine. What each of them computes lives in its own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidsr.engines.base import Engine, EngineInfo
from vidsr.engines.slowmo import repeat_before_cut
from vidsr.types import Frame


@dataclass(slots=True)
class ChainState:
    """The state of each engine, and whether a frame has been given."""

    states: list[Any]
    is_started: bool = False


class ChainEngine:
    """Gives the results of each engine to the next one; keeps every law that all of them keep."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """At least one engine, in order, without padding of their own."""
        self._engines = tuple(engines)
        first, *others = [engine.info for engine in engines]
        scale, lookahead, interp = first.scale, first.lookahead, first.interp
        for info in others:
            lookahead += -(-info.lookahead // interp)  # counted in frames that this engine is given
            scale, interp = scale * info.scale, interp * info.interp
        self._info = EngineInfo(first.name, scale, lookahead, first.multiple_of, first.precisions, interp)

    @property
    def info(self) -> EngineInfo:
        """The first one's name; enlargements and numbers of frames multiplied, look-aheads added up."""
        return self._info

    def init_state(self, height: int, width: int) -> ChainState:
        """The state of each engine."""
        states = []
        for engine in self._engines:
            states.append(engine.init_state(height, width))
            height, width = height * engine.info.scale, width * engine.info.scale
        return ChainState(states)

    def step(self, frame: Frame, state: ChainState) -> tuple[list[Frame], ChainState]:
        """Takes the next frame; gives what comes out of the last engine.

        A cut ends the film for the engines, since a later one would hear of it only when the new scene's first frame
        reaches it.
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
        """The end of the film for the first engine, then for the next one."""
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
