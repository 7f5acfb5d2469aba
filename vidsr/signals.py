"""Signals that end a run: Ctrl-C (SIGINT), SIGTERM, and SIGHUP when the terminal is closed. Imports nothing heavy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP does not exist on Windows


class Stop:
    """The signal that ended a run; `number` is None as long as there was none."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code by the shell's convention: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.number or signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature that signal requires
        """Raises KeyboardInterrupt for the first signal; later only for Ctrl-C, so that cleaning up is not disturbed.

        A terminal that closes may send SIGHUP twice, and a service manager SIGTERM with SIGHUP.
        """
        if self.number is None or number == signal.SIGINT:
            self.number = self.number or number
            raise KeyboardInterrupt


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turns the signals into KeyboardInterrupt during the block, in the main thread.

    A signal that is ignored stays ignored, as `nohup` wants it for SIGHUP. A foreign library may turn the exception
    into another one, so `Stop.number` is what tells that a run was interrupted.
    """
    stop, before = Stop(), {}
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
