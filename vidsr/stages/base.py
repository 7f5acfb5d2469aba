"""The stage protocol: a processing step from frames to frames, whose state the caller holds.

Between two frames a `Border` may travel. Every stage adds its state as it is between the two, so that all states
together are those of one moment of the video, although stages hold frames back and some run ahead in another thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from vidsr.stages.saving import freeze, thaw
from vidsr.types import Frame


@dataclass(slots=True)
class Border:
    """A place between two frames of the input at which a run can later go on; `frames_in` frames lie before it.

    `states` are the saved states of the stages that it has passed, in their order. `warnings` are those of the reader
    up to this place.
    """

    frames_in: int
    warnings: tuple[str, ...] = ()
    states: list[Any] = field(default_factory=list)


# What passes through stages: frames alone, or with borders between them.
Item = TypeVar("Item", Frame, Frame | Border)


class Stage(Protocol):
    """A processing step from frames to frames. Figures for the report are attributes of the stage, not of the state.

    `step` and `flush` consume the state: the one passed in must not be used again. A state is plain data, as `freeze`
    takes it, unless the stage is a `Keeper`.
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


@runtime_checkable
class Keeper(Protocol):
    """A stage that says itself what of its state, and of its figures for the report, is to be saved."""

    def save(self, state: Any) -> Any:
        """State and figures as plain data, for `freeze`; the state stays in use."""
        ...

    def restore(self, saved: Any) -> Any:
        """Sets the figures to those saved, and returns the state."""
        ...


def save_state(stage: Stage, state: Any) -> Any:
    """A stage's state and figures as frozen data that does not change when the stage goes on."""
    return freeze(stage.save(state) if isinstance(stage, Keeper) else state)


def restore_state(stage: Stage, saved: Any) -> Any:
    """The state that `save_state` was given, for a new stage; also sets the stage's figures."""
    plain = thaw(saved)
    return stage.restore(plain) if isinstance(stage, Keeper) else plain


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


def through(stage: Stage, frames: Iterable[Item], saved: Sequence[Any] = ()) -> Iterator[Item]:
    """Lazily passes frames through a stage; yields each output before it takes the next input, and keeps none.

    The stage begins with the only state of `saved`, if there is one. When the iteration ends early, `frames` is closed
    too, if it has a `close` method.
    """
    iterator = iter(frames)
    try:
        state = restore_state(stage, saved[0]) if saved else stage.start()
        for item in iterator:
            if isinstance(item, Border):
                item.states.append(save_state(stage, state))
                yield item
                continue
            ready, state = stage.step(item, state)
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


def chain(stages: Sequence[Stage], frames: Iterable[Item], saved: Sequence[Any] = ()) -> Iterator[Item]:
    """Lazily passes frames through several stages, which begin with the states in `saved`, if any."""
    assert len(saved) in (0, len(stages)), "one saved state for each stage"
    iterator = iter(frames)
    for index, stage in enumerate(stages):
        iterator = through(stage, iterator, saved[index : index + 1])
    return iterator
