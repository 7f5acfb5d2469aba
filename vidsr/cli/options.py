"""Options that several commands share, and how their texts become values. Loads nothing heavy."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import FrameType
from typing import TYPE_CHECKING, Literal

import typer

from vidsr.errors import UsageError, VidsrError

if TYPE_CHECKING:
    from vidsr.ui import Screen


def parse_time(text: str | None) -> Fraction | None:
    """Seconds ("12.5") or H:MM:SS.mmm ("1:02:03.250", "02:03") as an exact number; raises UsageError."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise UsageError(f"'{text}' is no time: write seconds (12.5) or H:MM:SS.mmm (1:02:03.250)")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_size(text: str | None) -> tuple[int, int] | None:
    """WxH ("1920x1080") as two numbers; raises UsageError."""
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)):
        raise UsageError(f"'{text}' is no size: write WxH, for example 1920x1080")
    return int(match[1]), int(match[2])


def parse_tile(text: str) -> int | Literal["auto", "off"]:
    """auto, off or a number of pixels; raises UsageError."""
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    if not text.isdecimal():  # a superscript two is a digit, but int does not read it
        raise UsageError(f"'{text}' is no tile: write auto, off or a number of input pixels")
    return int(text)


def parse_encoder_options(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Each "key=value" as a pair; raises UsageError."""
    pairs = []
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageError(f"'{text}' is no encoder option: write key=value")
        pairs.append((key, value))
    return tuple(pairs)


@contextmanager
def reporting(screen: Screen) -> Iterator[None]:
    """Turns the errors of vidsr.errors into one line on stderr and their exit code; SIGTERM acts like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature that signal wants
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except VidsrError as error:
        screen.fail(str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        screen.fail("interrupted; nothing is left under the output's name")
        raise typer.Exit(130) from error
    except BrokenPipeError as error:
        sys.stderr.close()
        raise typer.Exit(141) from error
    finally:
        signal.signal(signal.SIGTERM, before)
