"""Measures how long each stage of a run is busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class StageClock:
    """Accumulates the busy time of each stage by name.

    Asynchronous GPU work counts for the stage that waits for its result.
    """

    def __init__(self, seconds: dict[str, float], names: Iterable[str] = ()) -> None:
        """`seconds` is filled while the stages run; each name may be written by one thread only.

        `names` get their entries immediately, in this order.
        """
        self._seconds = seconds
        for name in names:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Adds an entry for a stage after the existing ones."""
        self._seconds.setdefault(name, 0.0)

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Adds the duration of the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - started

    def timed(self, name: str, frames: Iterable[T]) -> Iterator[T]:
        """Passes frames through and counts the time to produce each one, but not the consumer's time."""
        self.begin(name)
        return self._timed(name, iter(frames))

    def timing(self, name: str, write: Callable[[T], None]) -> Callable[[T], None]:
        """Wraps `write` so that its time is counted."""
        self.begin(name)

        def timed_write(frame: T) -> None:
            with self.counting(name):
                write(frame)

        return timed_write

    def _timed(self, name: str, iterator: Iterator[T]) -> Iterator[T]:
        try:
            while True:
                with self.counting(name):
                    frame = next(iterator, None)
                if frame is None:
                    return
                yield frame
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
