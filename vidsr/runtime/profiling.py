"""How long each stage of a run works. No stage lives here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vidsr.types import Frame


class StageClock:
    """Adds up the seconds that each stage works, by name, in the mapping it is given.

    What a stage leaves to a GPU counts where its result is waited for.
    """

    def __init__(self, seconds: dict[str, float], names: Iterable[str] = ()) -> None:
        """`seconds` is filled while the stages run; each name is written by one thread only.

        `names` get their entries at once, in this order.
        """
        self._seconds = seconds
        for name in names:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Gives a stage its entry, behind those that have one."""
        self._seconds.setdefault(name, 0.0)

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Counts the seconds of the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - started

    def timed(self, name: str, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; the time until each one comes is counted, the time that the consumer takes is not."""
        self.begin(name)
        return self._timed(name, iter(frames))

    def timing(self, name: str, write: Callable[[Frame], None]) -> Callable[[Frame], None]:
        """The same function, its time counted."""
        self.begin(name)

        def timed_write(frame: Frame) -> None:
            with self.counting(name):
                write(frame)

        return timed_write

    def _timed(self, name: str, iterator: Iterator[Frame]) -> Iterator[Frame]:
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
