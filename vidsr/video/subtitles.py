"""Conversion of text subtitles between plain-text codecs, and stretching of timestamps inside packets."""

from __future__ import annotations

import re
from typing import Any, cast

from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

PLAIN_TEXT = frozenset({"subrip", "mov_text", "webvtt", "text"})
# The text codec of each muxer. ASS is not converted, because its styles would be lost.
TARGETS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


class SubtitleConverter:
    """Converts the packets of one subtitle stream. Create it before the output's header is written.

    Text that is not UTF-8, which the target codecs do not hold, is read as Windows-1252; `recoded` counts such packets.
    """

    def __init__(self, source: SubtitleStream, target: SubtitleStream) -> None:
        self.recoded = 0
        self._decoder = source.codec_context
        self._encoder = target.codec_context
        self._is_text = self._decoder.codec.canonical_name != "mov_text"  # whose packets begin with their length
        self._decoder.open(strict=False)
        self._encoder.subtitle_header = self._decoder.subtitle_header

    def convert(self, packet: Packet[SubtitleStream]) -> Packet[SubtitleStream] | None:
        """The packet in the target's codec, without times; None for a packet that only clears an earlier text.

        Raises av.InvalidDataError for a damaged packet.
        """
        data = bytes(packet)
        if self._is_text and (text := _as_utf8(data)) != data:
            self.recoded += 1
            recoded: Packet[Any] = Packet(text)
            recoded.time_base, recoded.pts, recoded.duration = packet.time_base, packet.pts, packet.duration
            packet = cast("Packet[SubtitleStream]", recoded)
        subtitles = self._decoder.decode2(packet)
        if subtitles is None or not any(isinstance(rect, AssSubtitle) and rect.dialogue.strip() for rect in subtitles):
            return None
        return cast("Packet[SubtitleStream]", self._encoder.encode_subtitle(subtitles))


def _as_utf8(data: bytes) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace").encode()
    return data


def conversion_target(codec: str, container: str) -> str | None:
    """The text codec to convert to for a muxer that refuses `codec`; None if the conversion would lose something."""
    return TARGETS.get(container) if codec in PLAIN_TEXT else None


# Codecs with further times inside their packets, which vidsr does not stretch. The packets' own times always are.
_OPAQUE = ("dvb_subtitle", "dvb_teletext", "ttml", "arib_caption", "eia_608")
_ASS_TIMED = re.compile(rb"\\(?:k|K|t\(|fad|move\()")
_VTT_TIMED = re.compile(rb"<[\d:]+\.\d{3}>")
_MAX_DATE = 0xFFFF


def stretch_inner_timestamps(kind: str, codec: str, data: bytes, factor: int) -> tuple[bytes, bool]:
    """Stretches the times inside a packet by `factor`.

    Returns the packet's data, and whether it holds times that could not be stretched.
    """
    if factor == 1 or kind == "cover":
        return data, False
    if codec == "dvd_subtitle":
        return _stretched_dvd(data, factor), False
    if codec == "ass":
        return data, bool(_ASS_TIMED.search(data))
    if codec == "webvtt":
        return data, bool(_VTT_TIMED.search(data))
    return data, kind == "data" or codec in _OPAQUE


def _stretched_dvd(data: bytes, factor: int) -> bytes:
    """Stretches the dates of a DVD subpicture's control sequences (units of 1024/90000 s after the packet's time)."""
    if len(data) < 4 or data[:2] == b"\0\0":  # HD DVD has 4-byte sizes
        return data
    changed = bytearray(data)
    position = int.from_bytes(data[2:4], "big")
    while position + 4 <= len(data):
        date = int.from_bytes(data[position : position + 2], "big")
        changed[position : position + 2] = min(_MAX_DATE, date * factor).to_bytes(2, "big")
        following = int.from_bytes(data[position + 2 : position + 4], "big")
        if following <= position:
            break
        position = following
    return bytes(changed)
