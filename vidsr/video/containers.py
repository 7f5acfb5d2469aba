"""What the muxers take and keep: file types, streams, tags. Opens trial outputs in memory, never a file."""

from __future__ import annotations

import io
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container.output import OutputContainer
from av.stream import Stream

from vidsr.errors import OutputError
from vidsr.files import MUXERS
from vidsr.video.errors import plain_text

MATROSKA = ("matroska", "webm")
# Written anew by the muxer, or true only of the old file.
_STALE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id")
_STALE_STATISTICS = ("bps", "number_of_frames", "number_of_bytes", "_statistics_")


def muxer_of(target: Path) -> str:
    """FFmpeg's muxer for a file name. Raises OutputError for a file type that vidsr does not write."""
    muxer = MUXERS.get(target.suffix.lower())
    if muxer is None:
        raise OutputError(
            f"{target}: vidsr writes {', '.join(MUXERS)} files, because others do not keep the time of every frame or "
            f"what comes with the pictures; choose one of these endings"
        )
    return muxer


def open_output(path: Path, time_base: Fraction) -> OutputContainer:
    """A muxer for a file, by its extension; nothing is on the disk until its header is written."""
    muxer = muxer_of(path)
    if muxer in MATROSKA:
        # It would move the whole film to make the time of the first sound packet positive.
        options = {"avoid_negative_ts": "disabled"}
    else:
        # A late start is stored in these units; the default, 1 ms, moved frames.
        options = {"movie_timescale": str(time_base.denominator)}
    return av.open(str(path), "w", format=muxer, container_options=options, metadata_errors="surrogateescape")


def mux_refusal(stream: Stream, container: str) -> str | None:
    """Why a muxer refuses a copy of a stream, in a few words; None if it takes it."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        trial.add_stream_from_template(stream, opaque=True)
        trial.start_encoding()
    except av.FFmpegError as error:
        return plain_text(error)
    except ValueError:
        return "this codec is not part of the format"
    finally:
        with suppress(av.FFmpegError):  # some muxers want packets before the end; this is only a trial
            trial.close()
    return None


def encoder_refusal(codec: str, container: str) -> bool:
    """True if the muxer does not accept the encoder's kind of stream."""
    with av.open(io.BytesIO(), "w", format=container) as trial:
        try:
            trial.add_stream(codec, rate=25)
        except ValueError:
            return True
    return False


def copied_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags that are still true of the output."""
    kept = {}
    for key, value in tags.items():
        low = key.lower()
        if low.partition("-")[0] not in _STALE_TAGS and not low.startswith(_STALE_STATISTICS):
            kept[key] = value
    return kept
