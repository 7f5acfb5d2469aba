"""Text subtitles converted between plain-text codecs, and the timestamps inside subtitle and data packets."""

from __future__ import annotations

import re
from typing import cast

from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

PLAIN_TEXT = frozenset({"subrip", "mov_text", "webvtt", "text"})
# What each muxer takes; the styles of ASS would be lost on the way, so ASS is not converted.
TARGETS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


class SubtitleConverter:
    """Converts the packets of one subtitle stream. Must be made before the output's header is written."""

    def __init__(self, source: SubtitleStream, target: SubtitleStream) -> None:
        self._decoder = source.codec_context
        self._encoder = target.codec_context
        self._decoder.open(strict=False)
        self._encoder.subtitle_header = self._decoder.subtitle_header

    def convert(self, packet: Packet[SubtitleStream]) -> Packet[SubtitleStream] | None:
        """The packet in the target's codec, without times; None for a packet that only ends an earlier text."""
        shown = self._decoder.decode2(packet)
        if shown is None or not any(isinstance(rect, AssSubtitle) and rect.dialogue.strip() for rect in shown):
            return None
        return cast("Packet[SubtitleStream]", self._encoder.encode_subtitle(shown))


def can_convert(codec: str, container: str) -> str | None:
    """The codec that a muxer's text subtitles get when it refuses `codec`; None if that would lose something."""
    return TARGETS.get(container) if codec in PLAIN_TEXT else None


# Each packet's own time is stretched whatever it holds; these hold other times as well.
_OPAQUE = ("dvb_subtitle", "dvb_teletext", "ttml", "arib_caption", "eia_608")
_ASS_TIMED = re.compile(rb"\\(?:k|K|t\(|fad|move\()")
_VTT_TIMED = re.compile(rb"<[\d:]+\.\d{3}>")
_LONGEST = 0xFFFF


def stretch_inner_timestamps(kind: str, codec: str, data: bytes, factor: int) -> tuple[bytes, bool]:
    """A packet's data for a film `factor` times as long, and whether times inside it stay as they were."""
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
    """The dates of a DVD subpicture's control sequences (units of 1024/90000 s after its packet's time), stretched."""
    if len(data) < 4 or data[:2] == b"\0\0":  # HD DVD counts in four bytes
        return data
    changed = bytearray(data)
    place = int.from_bytes(data[2:4], "big")
    while place + 4 <= len(data):
        date = int.from_bytes(data[place : place + 2], "big")
        changed[place : place + 2] = min(_LONGEST, date * factor).to_bytes(2, "big")
        following = int.from_bytes(data[place + 2 : place + 4], "big")
        if following <= place:
            break
        place = following
    return bytes(changed)
