"""The stage protocol: a processing step from frames to frames, whose state the caller holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from vidsr.types import Frame


class Stage(Protocol):
    """A processing step from frames to frames. Figures for the report are attributes of the stage, not of the state.

    `step` and `flush` consume the state: the one passed in must not be used again.
    """

    @property
    def name(self) -> str:
        """One or two words joined by an underscore; the key in `RunReport.stage_seconds`."""
        ...

    def start(self) -> Any:
        """The initial state."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Processes the next frame; returns the frames that are now ready, in order, and the new state."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Returns all pending frames at the end of the video."""
        ...


class FrameStage(ABC):
    """A stage without state, which turns each frame into one frame at once."""

    name: str

    @abstractmethod
    def process(self, frame: Frame) -> Frame:
        """The frame after this stage."""

    def start(self) -> None:  # noqa: B027 - not abstract: no such stage has a state
        """There is no state."""

    def step(self, frame: Frame, state: None) -> tuple[list[Frame], None]:
        """Processes the next frame and returns it at once."""
        return [self.process(frame)], state

    def flush(self, state: None) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """No frame is ever pending."""
        return []


def through(stage: Stage, frames: Iterable[Frame]) -> Iterator[Frame]:
    """Lazily passes frames through a stage; yields each output before it takes the next input, and keeps none.

    When the iteration ends early, `frames` is closed too, if it has a `close` method.
    """
    iterator = iter(frames)
    try:
        state = stage.start()
        for frame in iterator:
            ready, state = stage.step(frame, state)
            waiting = deque(ready)
            del ready
            while waiting:
                yield waiting.popleft()
        waiting = deque(stage.flush(state))
        while waiting:
            yield waiting.popleft()
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def chain(stages: Sequence[Stage], frames: Iterable[Frame]) -> Iterator[Frame]:
    """Lazily passes frames through several stages."""
    iterator = iter(frames)
    for stage in stages:
        iterator = through(stage, iterator)
    return iterator
