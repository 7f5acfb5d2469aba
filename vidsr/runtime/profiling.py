"""How long each stage of a run works. No stage lives here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from vidsr.types import Frame


class StageClock:
    """Adds up the seconds that each stage works, by name, in the mapping it is given."""

    def __init__(self, seconds: dict[str, float]) -> None:
        """`seconds` is filled while the stages run; each name is written by one thread only."""
        self._seconds = seconds

    def timed(self, name: str, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; the time until each one comes is counted, the time that the consumer takes is not."""
        self._seconds[name] = 0.0
        iterator = iter(frames)
        try:
            while True:
                started = time.monotonic()
                try:
                    frame = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._seconds[name] += time.monotonic() - started
                yield frame
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def timing(self, name: str, write: Callable[[Frame], None]) -> Callable[[Frame], None]:
        """The same function, its time counted."""
        self._seconds[name] = 0.0

        def timed_write(frame: Frame) -> None:
            started = time.monotonic()
            write(frame)
            self._seconds[name] += time.monotonic() - started

        return timed_write
