"""Containers: the output's muxer, and which encoders and tags a muxer accepts and keeps."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.container.output import OutputContainer

from vidsr.errors import OutputError
from vidsr.files import MUXERS, PIPE_MUXERS

MATROSKA = ("matroska", "webm")
# Tags that the muxer writes anew, or that describe only the input file.
_STALE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id")
_PLAIN_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_NEVER = "1601-01-01"  # where the clock of Windows begins; other containers would store some other year
_STALE_STATISTICS = ("bps", "number_of_frames", "number_of_bytes", "_statistics_")


def muxer_of(target: Path) -> str:
    """FFmpeg's muxer for a file name. Raises OutputError for a file type that vidsr does not write."""
    muxer = (MUXERS | PIPE_MUXERS).get(target.suffix.lower())
    if muxer is None:
        raise _unknown(target)
    return muxer


def refuse_pipe_format(target: Path) -> None:
    """Raises OutputError for a format that is written into pipes only."""
    if target.suffix.lower() in PIPE_MUXERS:
        raise _unknown(target)


def _unknown(target: Path) -> OutputError:
    return OutputError(
        f"{target}: vidsr writes {', '.join(MUXERS)} files, because others do not keep every timestamp and every "
        f"stream; use one of these extensions"
    )


class Writable(Protocol):
    """A file that can only be written, from its beginning to its end."""

    def write(self, data: bytes, /) -> int:
        """Writes all of the bytes."""


def open_output(
    file: Path | io.BytesIO | Writable, muxer: str, time_base: Fraction, tags: Iterable[str] = ()
) -> OutputContainer:
    """A muxer (FFmpeg's name) for a file, memory or a pipe; nothing is on the disk until its header is written.

    `tags` are the keys of the file's tags that are to be written.
    """
    if muxer in MATROSKA:
        # By default the muxer shifts all streams to make the time of the first audio packet positive.
        options = {"avoid_negative_ts": "disabled"}
    elif muxer == "yuv4mpegpipe":
        options = {"strict": "-1"}  # more than 8 bits, which is no part of the first definition of y4m
    else:
        # The start of a stream is stored in these units; the default, 1 ms, would shift frames.
        options = {"movie_timescale": str(time_base.denominator)}
        keys = list(tags)
        if any("." in key for key in keys) or (muxer != "mov" and "xmp" in keys):
            # Keys such as com.apple.quicktime.model and com.android.version have a place only in this form of the tags;
            # FFmpeg has a place for XMP in MOV, but not in MP4.
            options["movflags"] = "use_metadata_tags"
    name: Any = str(file) if isinstance(file, Path) else file
    return av.open(name, "w", format=muxer, container_options=options, metadata_errors="surrogateescape")


def encoder_refusal(codec: str, container: str) -> bool:
    """True if the muxer does not accept the output of this encoder."""
    with av.open(io.BytesIO(), "w", format=container) as trial:
        try:
            trial.add_stream(codec, rate=25)
        except ValueError:
            return True
    return False


def copied_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags of the input that also hold for the output."""
    kept = {}
    for key, value in tags.items():
        lower = key.lower()
        if lower == "creation_time" and value.startswith(_NEVER):
            continue
        if lower.partition("-")[0] not in _STALE_TAGS and not lower.startswith(_STALE_STATISTICS):
            # ASF gives the time in UTC without saying so, and muxers would take it for local time.
            is_plain_time = lower == "creation_time" and _PLAIN_TIME.fullmatch(value)
            kept[key] = f"{value.replace(' ', 'T')}.000000Z" if is_plain_time else value
    return kept
