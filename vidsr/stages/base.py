"""What a stage is: one step on the way of a video's frames, its memory of the past in a value that the caller holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from vidsr.types import Frame


class Stage(Protocol):
    """A step between frames and frames. What it has gathered for the report, if anything, it keeps itself.

    `step` and `flush` take the state over: the state that was handed in must not be used again.
    """

    @property
    def name(self) -> str:
        """What it does in one word or two, joined by an underscore; the key in `RunReport.stage_seconds`."""
        ...

    def start(self) -> Any:
        """The state before the first frame."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Takes the next frame; gives those that are now ready, in order, and the new state."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Gives the frames still waiting at the end of the video."""
        ...


def through(stage: Stage, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames that come out of a stage; each is given out before the next is taken; none is kept.

    When the iteration ends early, `frames` is closed too, if it can be.
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
    """The frames that come out of the last of several stages."""
    iterator = iter(frames)
    for stage in stages:
        iterator = through(stage, iterator)
    return iterator
