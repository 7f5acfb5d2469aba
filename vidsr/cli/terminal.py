"""Text on its way to a terminal, and writing to stdout.

Names of files, tags and messages of other libraries may contain control characters, with which a file could change the
terminal's title, colors or contents. A terminal gets them as visible escapes; what goes to a file or program is exact.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import typer

from vidsr.errors import OutputError
from vidsr.files import system_reason

# Control characters of Unicode, line and paragraph separators, and those that reverse the direction of text.
_BEYOND_ASCII = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_CONTROLS = re.compile(f"[\x00-\x1f{_BEYOND_ASCII}\ud800-\udfff]")
_NOT_ESCAPED_BY_JSON = re.compile(f"[{_BEYOND_ASCII}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """One line of text with every control character as an escape, such as \\x1b, and bytes that are not UTF-8 too."""
    return _CONTROLS.sub(lambda match: _SHORT.get(match[0]) or _escape(match[0]), text)


def visible_json(text: str) -> str:
    """JSON text with the same value, in which strings contain no control character."""
    return _NOT_ESCAPED_BY_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def print_path(path: Path) -> None:
    """Prints a path to stdout, as its bytes if stdout is no terminal. Raises OutputError or BrokenPipeError."""
    _print(visible(str(path)) if _is_terminal() else os.fsencode(path))


def print_json(text: str) -> None:
    """Prints JSON to stdout. Raises OutputError or BrokenPipeError."""
    # Valid JSON whatever the terminal's encoding; lone surrogates of names that are not UTF-8 become escapes.
    _print(visible_json(text).encode("utf-8", "backslashreplace"))


def print_text(text: str) -> None:
    """Prints lines of text to stdout. Raises OutputError or BrokenPipeError."""
    _print("\n".join(visible(line) for line in text.split("\n")) if _is_terminal() else text)


def print_json_file(file: IO[bytes]) -> None:
    """Prints a UTF-8 JSON file to stdout, line by line. Raises OutputError or BrokenPipeError."""
    for line in file:
        _print(visible_json(line.decode()).encode() if _is_terminal() else line, is_whole_line=False)


def silence(stream: Any) -> None:
    """Sends what is still buffered in a stream, and all that follows, to the null device.

    A stream that cannot be written would fail again when Python exits.
    """
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _print(text: str | bytes, is_whole_line: bool = True) -> None:
    with _writing():
        typer.echo(text, nl=is_whole_line)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        reason = system_reason(error) or error.strerror
        raise OutputError(f"stdout cannot be written: {reason}; files that were written are complete") from error


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _escape(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"
