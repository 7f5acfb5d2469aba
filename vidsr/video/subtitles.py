"""Conversion of text subtitles between plain-text codecs, and stretching of timestamps inside packets."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple, cast

from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

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

    def texts(self, packet: Packet[SubtitleStream]) -> list[bytes]:
        """The dialogue events of a packet, as ASS; empty for a packet that only clears an earlier text.

        Raises av.InvalidDataError for a damaged packet.
        """
        data = bytes(packet)
        if self._is_text and (text := _as_utf8(data)) != data:
            self.recoded += 1
            recoded: Packet[Any] = Packet(text)
            recoded.time_base, recoded.pts, recoded.duration = packet.time_base, packet.pts, packet.duration
            packet = cast("Packet[SubtitleStream]", recoded)
        rects = self._decoder.decode2(packet)
        return [r.ass for r in rects or () if isinstance(r, AssSubtitle) and r.dialogue.strip()]

    def encode(self, texts: list[bytes]) -> Packet[SubtitleStream]:
        """One packet that shows all texts, one below the other, in the target's codec and without times."""
        subtitles = SubtitleSet.create(_joined(texts), 0, 0)
        return cast("Packet[SubtitleStream]", self._encoder.encode_subtitle(subtitles))


def _as_utf8(data: bytes) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace").encode()
    return data


def _joined(events: list[bytes]) -> bytes:
    """One ASS event with the texts of several; the style of a text ends with it."""
    head = events[0].split(b",", 8)[:8]
    texts = [event.split(b",", 8)[8] for event in events]
    return b",".join([*head, b"\\N".join(text + (b"{\\r}" if b"{" in text else b"") for text in texts)])


class Shown(NamedTuple):
    """Texts that are on screen together, and from when to when, in seconds; without an end, until the next text."""

    begin: Fraction
    end: Fraction | None
    texts: list[bytes]


class OneAtATime:
    """Divides texts that overlap into parts that follow each other, for codecs that show one text at a time.

    Each part shows all texts of its time. `overlaps` counts the texts that began while another was shown.
    """

    def __init__(self) -> None:
        self.overlaps = 0
        self._active: list[Shown] = []
        self._since = Fraction(0)

    def add(self, shown: Shown) -> list[Shown]:
        """Adds the next texts in order of their beginning, and returns the parts that end there or before."""
        begin = max(shown.begin, self._since) if self._active else shown.begin
        parts = self._until(begin)
        self.overlaps += bool(self._active)
        self._active.append(shown._replace(begin=begin))
        self._since = begin
        return parts

    def flush(self) -> list[Shown]:
        """The remaining parts."""
        return self._until(None)

    def _until(self, time: Fraction | None) -> list[Shown]:
        parts: list[Shown] = []
        while self._active:
            ends = [shown.end for shown in self._active if shown.end is not None]
            stop = min([*ends, *([] if time is None else [time])], default=None)
            if stop is None or stop > self._since:
                parts.append(Shown(self._since, stop, [text for shown in self._active for text in shown.texts]))
            self._since = self._since if stop is None else stop
            self._active = [shown for shown in self._active if shown.end is not None and shown.end > self._since]
            if stop == time:
                break
        return parts


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
