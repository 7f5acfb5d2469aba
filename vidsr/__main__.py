"""The command `vidsr` and `python -m vidsr`: starts the command line so that it can be interrupted at any moment."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from vidsr.runtime.heap import keep_freed_memory, own_process, uncollected_imports
from vidsr.signals import stopping


def main() -> None:
    """Loads and runs the command line. Ctrl-C ends it with 130, also before anything is loaded."""
    _open_standard_files()
    with stopping() as stop:
        try:
            keep_freed_memory()
            own_process()
            with uncollected_imports():
                from vidsr.cli import app
            app()
        except BaseException:
            if stop.number is None:
                raise
            with suppress(OSError):
                sys.stderr.write("error: interrupted: nothing was written\n")
            raise SystemExit(stop.exit_code) from None


def _open_standard_files() -> None:
    """Opens closed standard files on the null device.

    Otherwise the next file that is opened, such as the output, takes the number of stderr, and libraries write their
    messages into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:  # closed when Python started
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
