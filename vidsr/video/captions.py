"""Text subtitles from one plain-text codec to another (srt, mov_text, webvtt), without loss of text. No container."""

from __future__ import annotations

from typing import cast

from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

PLAIN_TEXT = frozenset({"subrip", "mov_text", "webvtt", "text"})
# What each muxer takes; the styles of ASS would be lost on the way, so ASS is not converted.
TARGETS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


class Captions:
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
